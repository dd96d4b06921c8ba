"""What the learning engine did is counted and costs what was published; impulses lie on the registers' grid."""

import dataclasses

import numpy as np
import pytest

from spikeloop.hardware import Compartments, Emulator, Learning, Program, Projection
from spikeloop.hardware.energy import COSTS, learning_cost
from spikeloop.hardware.learning.actor_critic import actor_rule
from spikeloop.hardware.learning.engine import Learner
from spikeloop.hardware.learning.rule import LearningRule, Trace
from spikeloop.hardware.loihi.cost import learned_per_core, modelled_cost
from spikeloop.hardware.loihi.winner_take_all import ChipWinnerTakeAll
from spikeloop.spiking.rules.winner_take_all import WinnerTakeAllParameters

EVERY, NONE = np.arange(3, dtype=np.int32), np.zeros(0, np.int32)


def interpreted(rule, weights):
    """A learner whose kernel is not compiled: the same source, without the seconds that compiling each rule takes."""
    learner = Learner(rule, weights, draws=lambda _, shape: np.zeros(shape))
    learner.kernel = getattr(learner.kernel, "py_func", learner.kernel)
    return learner


def test_updates_are_the_synapses_that_an_epoch_can_change():
    learner = interpreted(LearningRule(dw="x1*y0", x1=Trace(16, 1e6), epoch=2), np.zeros((3, 5), int))
    learner.tick(np.array([1, 4], np.int32), NONE)
    assert learner.updates == 0  # the epoch has not ended
    learner.tick(NONE, EVERY)
    assert learner.updates == 2 * 3  # the lists of two inputs that hold a trace, of three synapses each
    learner.tick(NONE, NONE)
    learner.tick(NONE, NONE)
    assert learner.updates == 2 * 3  # no neuron fired: no product can be other than zero
    learner.clear()
    assert learner.updates == 2 * 3


def test_learning_of_the_actor_critic_is_counted_and_costs_what_was_published():
    network = ChipWinnerTakeAll(5000, 3, WinnerTakeAllParameters(), np.random.default_rng(0), n_ticks=2)
    network.run(np.array([7, 4000]), 2)
    network.reinforce(1.0)
    assert len(network.program.projections) == len(network.updates_per_core) == 6  # three parts of 2048 lines
    actor, critic = network.actor.updates, network.critic.updates
    assert (actor, critic) == (2 * 3, 2)  # two lines with three synapses, and with one, once per epoch
    np.testing.assert_allclose(network.updates_per_core, [2, 2, 2, 2 / 3, 2 / 3, 2 / 3])
    for model in COSTS.values():
        cost = learning_cost(network.updates_per_core, model)
        assert cost.energy == pytest.approx(8 * 120e-12) and cost.time == pytest.approx(2 * 6.1e-9)


@pytest.mark.parametrize("profile, impulse", [("nengo", 64 + 38 / 128), ("brian", 64 + 38 / 128), ("lava", 64.3)])
def test_impulses_are_what_the_registers_hold(profile, impulse):
    rule = LearningRule(dw="x1*y0", x1=Trace(64.3, 10), y1=Trace(127, 2), profile=profile)
    assert rule.x1 == Trace(impulse, 10) and rule.y1 == Trace(127, 2)


def test_impulses_of_shipped_rules_lie_on_the_grid():
    rule = actor_rule(0.1, 256.0, 0.1, tau_y=2.0, k=2, extended=False)
    for name in ("x1", "x2", "y1", "y2", "y3", "r1"):
        assert (getattr(rule, name).impulse * 128).is_integer()


def test_learning_of_a_program_is_counted_reset_and_paid_for():
    """Two lines spike, with two targets each on core 0 and one on core 1: it computes 4 synapses there, and 2 here."""
    rule = LearningRule(dw="x0")
    synapse = Projection("in", True, range(5), range(3), np.full((3, 5), 2), learning=Learning(rule))
    program = Program("loihi1", "nengo", 5, Compartments.build(3, core=[0, 0, 1], v_th=64000), (synapse,), [])
    emulator = Emulator(program)
    state = emulator.initial_state()
    emulator.run(state, 1, [[[1, 0, 0, 1, 0]]])
    counts = emulator.counts
    assert counts.learned.tolist() == [6] and learned_per_core(program, counts).tolist() == [4, 2]
    plain = dataclasses.replace(counts, learned=np.zeros(1, int))
    for model in COSTS.values():
        cost, without = modelled_cost(program, counts, model), modelled_cost(program, plain, model)
        assert cost.learning == pytest.approx(6 * 120e-12) and without.learning == 0
        assert cost.dynamic - without.dynamic == pytest.approx(6 * 120e-12)
        assert without.time < cost.time <= without.time + 4 * 6.1e-9 + 1e-15
    emulator.reset_counts()
    assert emulator.counts.learned.tolist() == [0]
    assert Emulator(dataclasses.replace(program, projections=())).counts.learned.size == 0
