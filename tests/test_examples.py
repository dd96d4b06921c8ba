"""The examples in docstrings give what they say."""

import doctest
import importlib

import pytest

MODULES = [
    "agents.environment",
    "agents.faithful_pickle",
    "agents.guarded_env",
    "agents.registry",
    "scripts.bench.tables",
    "scripts.bench.timing",
    "scripts.cli",
    "spiking.checks",
    "spiking.fields",
    "spiking.metrics",
    "spiking.monitor",
    "spiking.observation",
    "spiking.storage",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(name):
    module = importlib.import_module(f"spikeloop.{name}")
    done = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted and not done.failed
