"""The winner-take-all actor-critic as rule text: the numbers it stands for, and that it learns."""

import numpy as np
import pytest

from spikeloop.hardware.learning.actor_critic import TAG_ONE, actor_rule, critic_rule
from spikeloop.hardware.learning.engine import Learner

NOTHING = np.zeros(0, np.int32)
DECAY = 1 - 0.99 * 0.9


def env_step(learner, pre, winners, reward=0):
    """Run the ticks of one env step: the same inputs on each, one winner each, the reward on the last."""
    for tick, winner in enumerate(winners):
        post = NOTHING if winner is None else np.array([winner], np.int32)
        learner.tick(pre, post, reward if tick == len(winners) - 1 else 0)


@pytest.mark.parametrize("extended", [False, True])
def test_tags_take_the_last_winner_less_the_mean_one(extended):
    learner = Learner(actor_rule(0.25, 256, DECAY, extended=extended), np.zeros((2, 400), int))
    env_step(learner, np.arange(400, dtype=np.int32), [0, 1, 1, 0])
    keep = np.exp(-1)
    y = (1 - keep) * np.array([1 + keep**3, keep + keep**2])
    np.testing.assert_allclose(learner.t.mean(axis=1) / TAG_ONE, np.array([1, 0]) - y, atol=0.012)
    for _ in range(100):  # the same winner on every tick teaches nothing: z = y
        env_step(learner, np.arange(400, dtype=np.int32), [0, 0, 0, 0])
    assert np.abs(learner.t.mean(axis=1)).max() < 0.03 * TAG_ONE


@pytest.mark.parametrize("extended", [False, True])
def test_tags_saturate_and_decay(extended):
    learner = Learner(critic_rule(0.3 / 8, 256, DECAY, 2.0**-10, extended=extended), np.zeros((1, 500), int))
    for _ in range(3):
        env_step(learner, np.arange(500, dtype=np.int32), [None] * 4)
    assert learner.t.min() >= 254
    for n in range(1, 6):
        env_step(learner, NOTHING, [None] * 4)
        np.testing.assert_allclose(learner.t.mean() / 255, (1 - DECAY) ** n, atol=0.01)


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("learning_rate, reward_scale", [(0.25, 256), (0.25, 512), (0.2, 256), (0.05, 512)])
def test_weights_change_by_rate_times_delta_times_eligibility(learning_rate, reward_scale, extended):
    rule = actor_rule(learning_rate, reward_scale, DECAY, extended=extended)
    learner = Learner(rule, np.zeros((2, 2000), int))
    learner.write("t", 200)
    delta = 100 / reward_scale
    env_step(learner, NOTHING, [None] * 4, reward=100)
    found = (learner.w + learner.residue / 8).mean()  # a residue of 16 is one step of 2
    assert found == pytest.approx(learning_rate * delta * 200, rel=0.1, abs=0.05)


def test_the_legal_form_uses_no_extension():
    for rule in (actor_rule(0.25, 256, DECAY), critic_rule(0.04, 256, DECAY, 2.0**-10)):
        assert (rule.residue_bits, rule.wide_shift, rule.profile) == (0, False, "nengo")
    assert actor_rule(0.25, 256, DECAY).dt == "-7*2^-6*u2*t - 2^-4*u2*x1*y1 + 2^-4*u2*x1*y2"
    assert actor_rule(0.25, 256, 13 / 128).dt.startswith("-6*2^-6*u2*t -1*2^-7*u2*t ")
    assert actor_rule(0.25, 512, DECAY).dw == "2^-7*(y3+64)*u2*r1*t"


@pytest.mark.parametrize("extended", [False, True])
def test_a_bandit_with_contexts_is_learned(extended):
    rng = np.random.default_rng(0)
    right = np.array([0, 1, 1, 0])
    actor = Learner(actor_rule(0.25, 128, DECAY, extended=extended), np.zeros((2, 4), int), seed=1)
    critic = Learner(critic_rule(0.2, 128, DECAY, 2.0**-7, extended=extended), np.zeros((1, 4), int), seed=2)
    for context in rng.integers(0, 4, 500):
        inputs = np.array([context], np.int32)
        winners = np.argmax(actor.w[:, context] + 0.3 * 254 * rng.normal(size=(4, 2)), axis=1)
        env_step(actor, inputs, winners)
        env_step(critic, inputs, [None] * 4)
        delta = float(winners[-1] == right[context]) - critic.w[0, context] * 2.0**-7
        for learner in (actor, critic):
            env_step(learner, NOTHING, [None] * 4, reward=round(np.clip(128 * delta, -127, 127)))
            learner.clear()
    np.testing.assert_array_equal(np.argmax(actor.w, axis=0), right)
    assert np.abs(actor.w[0] - actor.w[1]).min() > 0.3 * 254
    assert critic.w.min() * 2.0**-7 > 0.6


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ((0, 256, 0.1), "learning_rate must be > 0"),
        ((0.2, -1, 0.1), "reward_scale"),
        ((0.2, 256, 1), "eligibility_decay must be between 0 and 1"),
        ((1e-9, 256, 0.1), "out of the chip's reach"),
    ],
)
def test_what_the_chip_cannot_hold_is_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        actor_rule(*arguments)


def test_other_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"k must be 1..6"):
        actor_rule(0.2, 256, 0.1, k=0)
    with pytest.raises(ValueError, match="tau_y"):
        actor_rule(0.2, 256, 0.1, tau_y=0)
    with pytest.raises(ValueError, match="value_unit"):
        critic_rule(0.2, 256, 0.1, 0)
    with pytest.raises(ValueError, match="out of reach"):
        actor_rule(1e-9, 256, 0.1, extended=True)
