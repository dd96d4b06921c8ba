"""Env steps of the emulated chip allocate nothing: its kernels count no references, so no array would be freed."""

import os
import subprocess
import sys

COUNT = """
import numpy as np
from numba.core.runtime import rtsys
from spikeloop.hardware import ChipPopulations
from spikeloop.hardware.loihi import populations_kernels as kernels
from spikeloop.spiking.rules.population_parameters import PopulationParameters

p = PopulationParameters(n_ticks=16, centred=False, w_start=0.06, critic="spiking", input_rate=400.0)
chip, lines = ChipPopulations(10, 2, p, np.random.default_rng(0)), np.arange(8)
spikes = np.ones((8, 16), np.uint8)


def allocated(learning, n_steps):
    before = rtsys.get_allocation_stats().alloc
    for _ in range(n_steps):
        chip.learning = learning
        arguments = *chip._chip(), chip._row(), lines
        kernels.evaluate(*arguments, spikes, learning)
        kernels.act(*arguments, learning)
    return rtsys.get_allocation_stats().alloc - before


for learning in (True, False):
    allocated(learning, 2)  # compiles
    print(allocated(learning, 20))
"""


def test_env_steps_of_a_chip_allocate_nothing_whether_it_learns_or_not():
    env = {**os.environ, "NUMBA_NRT_STATS": "1"}  # numba then counts allocations of its own, not those of arguments
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == ["0", "0"]
