"""Settings that must stand before the libraries they concern are imported; worker processes inherit them."""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads would fight for the cores with the test workers
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

# The same inputs on every machine and in every run, so that a failure is of the change at hand: `make fuzz` draws
# others.
# No deadline: the first call of a kernel compiles it.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("SPIKELOOP_INPUTS", "same"))


@pytest.fixture(scope="session", autouse=True)
def key_of_the_tests(tmp_path_factory):
    """Seal the files that trainings leave here with a key that ends with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKELOOP_KEY", str(tmp_path_factory.mktemp("key") / "key"))
        yield


@pytest.fixture(scope="session", autouse=True)
def logs_of_sb3(tmp_path_factory):
    """Let SB3 make the folders of its loggers where pytest clears up: otherwise each model leaves one in /tmp."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("sb3")))
        yield


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Small files of all kinds by kind and name, as bytes."""
    from small_files import write_files

    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="session")
def own(tmp_path_factory):
    """The run folder of a short training of this user's, deployed, which tests must copy before they change it."""
    pytest.importorskip("rl_zoo3")
    from strangers import train_own

    return train_own(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The run folder of a short training, which tests must leave as it is."""
    pytest.importorskip("rl_zoo3")
    from shell import ENV, SMALL, start

    from spikeloop.scripts import train

    logs = tmp_path_factory.mktemp("trained") / "logs"
    budget = ["-n", 256, "--eval-freq", 128, "--verbose", 0, "-f", logs]
    assert start(train, "--env", ENV, "--seed", 3, *budget, "--hyperparams", *SMALL) == 0
    return logs / "spiking_ppo" / "spikeloop-CartPoleNoVel-v0_1"
