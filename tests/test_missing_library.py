"""A command whose environment or bench needs a library that is not installed says so in one line."""

import pytest
from gymnasium.error import DependencyNotInstalled

from spikeloop.scripts.cli import run
from spikeloop.spiking.extras import install_hint


def failing(error):
    def script(_):
        raise error

    return script


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DependencyNotInstalled("Box2D is not installed"), f"this environment needs box2d: {install_hint('box2d')}"),
        (ImportError("CMA-ES needs cmaes: pip install cmaes"), "CMA-ES needs cmaes: pip install cmaes"),
        (ModuleNotFoundError("No module named 'jax'", name="jax"), "No module named 'jax'"),
    ],
)
def test_a_missing_library_is_reported_in_one_line(error, message, capsys):
    assert run("benchmark", failing(error), []) == 2
    assert capsys.readouterr().err == f"spikeloop benchmark: error: {message}\n"


def test_a_name_that_the_program_itself_lacks_keeps_its_traceback():
    error = ImportError("cannot import name 'lost'", name="spikeloop.spiking")
    with pytest.raises(ImportError, match="lost"):
        run("benchmark", failing(error), [])
