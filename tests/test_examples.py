"""The examples in docstrings give what they say."""

import doctest
import importlib

import pytest

MODULES = [
    "agents.check_finite",
    "agents.checkpoints",
    "agents.compiled_episodes",
    "agents.encoders",
    "agents.environment",
    "agents.episodes",
    "agents.eprop",
    "agents.eprop_policy",
    "agents.faithful_pickle",
    "agents.guarded_env",
    "agents.modulators",
    "agents.quantization",
    "agents.registry",
    "agents.rstdp",
    "envs.compiled",
    "hardware.calibration",
    "hardware.compile",
    "hardware.deployed",
    "hardware.deployment",
    "hardware.energy",
    "hardware.figures",
    "hardware.host",
    "hardware.loihi.chip",
    "hardware.loihi.emulator",
    "hardware.loihi.lowered",
    "hardware.loihi.lowering",
    "hardware.loihi.machine",
    "hardware.loihi.plan",
    "hardware.loihi.program",
    "hardware.loihi.projection",
    "hardware.loihi.quantize",
    "hardware.loihi.target",
    "hardware.quantization",
    "hardware.recording",
    "hardware.report",
    "hardware.target",
    "scripts.bench.tables",
    "scripts.bench.timing",
    "scripts.cli",
    "scripts.compared",
    "scripts.hyperparameters",
    "scripts.load_policy",
    "scripts.plain_data",
    "scripts.players",
    "spiking.checks",
    "spiking.encoders.base",
    "spiking.encoders.spikes",
    "spiking.encoders.tile_coding",
    "spiking.encoders.values",
    "spiking.fields",
    "spiking.gradients",
    "spiking.gradients.equations",
    "spiking.gradients.surrogate",
    "spiking.metrics",
    "spiking.monitor",
    "spiking.neurons.fitzhugh_nagumo",
    "spiking.neurons.izhikevich",
    "spiking.observation",
    "spiking.readout",
    "spiking.readout_kinds",
    "spiking.rules.base",
    "spiking.rules.eprop",
    "spiking.rules.reward_eprop",
    "spiking.rules.rstdp",
    "spiking.rules.stdp",
    "spiking.rules.winner_take_all",
    "spiking.simulator",
    "spiking.storage",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(name):
    module = importlib.import_module(f"spikeloop.{name}")
    done = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted and not done.failed
