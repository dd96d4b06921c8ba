"""Settings that must stand before the libraries they concern are imported; worker processes inherit them."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads would fight for the cores with the test workers
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

settings.register_profile("spikeloop", deadline=None)  # the first call of a kernel compiles it
settings.load_profile("spikeloop")
