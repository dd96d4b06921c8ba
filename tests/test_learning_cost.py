"""What the learning engine did is counted and costs what was published; impulses lie on the registers' grid."""

import numpy as np
import pytest

from spikeloop.hardware.energy import COSTS, learning_cost
from spikeloop.hardware.learning.actor_critic import actor_rule
from spikeloop.hardware.learning.engine import Learner
from spikeloop.hardware.learning.rule import LearningRule, Trace
from spikeloop.hardware.learning.winner_take_all import ChipWinnerTakeAll
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
