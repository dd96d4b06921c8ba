"""Deployed policies that go on learning: what the host hands to the chip, what changes there, and what a file keeps."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from deployable import exact_network, observations

from spikeloop.hardware import DeployedPolicy, Deployment, Learning, LearningRule, Trace, compile_network
from spikeloop.hardware.learning.rstdp import reward_modulated_rule
from spikeloop.hardware.reinforcement import Reinforcement

CHIPS = ("loihi1", "loihi2")


def deployment(chip="loihi1", **options):
    return compile_network(exact_network(beta=0.0, **options), chip)


def play(policy, n_steps=30, seed=7):
    """Step a policy through episodes of 10 steps, whose rewards favour action 0; return its actions."""
    obs, state, actions = observations(seed, n_steps, 1)[0], policy.initial_state(), []
    for t, x in enumerate(obs):
        action, state = policy.predict(x[0], state, np.array([t % 10 == 0]))
        actions.append(int(action))
        if policy.learning:
            policy.reinforce(1.0 - action, terminated=t % 10 == 9)
    return actions


def readout_weights(policy):
    names = [p.name for p in policy.deployment.program.projections]
    return policy.machine.emulator.weights(names.index("readout"))


@pytest.mark.filterwarnings("ignore:lowered")
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("encoder", ["direct", "rate"])
def test_frozen_a_taught_policy_is_the_one_without_a_rule(chip, encoder):
    plain = deployment(chip, encoder=encoder)
    policies = [DeployedPolicy(d, np.random.default_rng(0)) for d in (plain, plain.taught())]
    assert play(policies[0]) == play(policies[1])
    one, other = (policy.machine.emulator.counts for policy in policies)
    np.testing.assert_array_equal(one.spikes, other.spikes)
    np.testing.assert_array_equal(other.learned, 0)


@pytest.mark.filterwarnings("ignore:lowered", "ignore:values left")
@pytest.mark.parametrize("chip", CHIPS)
def test_the_readout_learns_on_the_chip(chip):
    policy = DeployedPolicy(deployment(chip).taught(), learning=True)
    before, start = policy.machine.emulator.weights(0).copy(), readout_weights(policy).copy()
    play(policy)
    assert np.any(readout_weights(policy) != start)
    np.testing.assert_array_equal(policy.machine.emulator.weights(0), before)
    assert policy.machine.emulator.counts.learned.sum() > 0
    before, now = (d.program.projections[-1].weights.astype(int) for d in (policy.deployment, policy.learned()))
    (change,) = policy.changes().values()
    assert change == {"weights": now.size, "changed": (now != before).sum(), "mean": abs(now - before).mean()}
    assert policy.reinforcement.value != 0


def test_another_projection_learns_by_a_rule_of_its_own():
    rule = {"rule": "2^-3*u0*r1*t", "dt": "x1*y0 - 2^-3*u0*t", "x1": Trace(40, 5)}
    taught = deployment().taught(**rule, projection="layer 0 recurrent", reinforcement=Reinforcement(0.0, 0.0, 20.0))
    policy = DeployedPolicy(taught, learning=True)
    start = policy.machine.emulator.weights(0).copy()
    assert taught.program.projections[0].name == "layer 0 recurrent"
    play(policy)
    assert np.any(policy.machine.emulator.weights(0) != start)


def test_the_winner_gains_where_its_reward_is_more_than_expected():
    taught = deployment().taught(reinforcement=Reinforcement(gamma=0.0, value_rate=0.0, scale=100.0, value=0.0))
    policy = DeployedPolicy(taught, learning=True)
    start, state = readout_weights(policy).astype(int).copy(), None
    for x in observations(7, 8, 1)[0]:
        policy.predict(x[0], state, np.array([state is None]))
        policy._winner = 1
        _, state = policy.predict(x[0], state, np.array([state is None]))
        policy._winner = 1
        policy.reinforce(1.0)
    change = readout_weights(policy) - start
    assert change[1].sum() > 0 and not change[0].any()


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copy_learns_on_alike_and_shares_nothing(how):
    policy = DeployedPolicy(deployment().taught(), learning=True)
    play(policy)
    twin, kept = how(policy), readout_weights(policy).copy()
    actions = play(twin, seed=8)
    np.testing.assert_array_equal(readout_weights(policy), kept)
    assert play(policy, seed=8) == actions
    np.testing.assert_array_equal(readout_weights(policy), readout_weights(twin))


def test_a_file_holds_what_has_been_learned(tmp_path):
    policy = DeployedPolicy(deployment().taught(), learning=True)
    play(policy)
    policy.save(tmp_path / "learned.safetensors")
    loaded = Deployment.load(tmp_path / "learned.safetensors")
    again = DeployedPolicy(loaded, learning=True)
    np.testing.assert_array_equal(readout_weights(again), readout_weights(policy))
    assert again.reinforcement == policy.reinforcement
    assert loaded.program.projections[-1].learning.state.ticks > 0  # no draw is used twice
    frozen = DeployedPolicy(loaded)
    assert frozen.learned() is loaded
    policy.machine.learning = False
    policy.learning = False
    assert play(frozen) == play(policy)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_an_episodes_end_forgets_tags_and_traces(end):
    policy, state = DeployedPolicy(deployment().taught(), learning=True), None
    (index,) = (i for i, p in enumerate(policy.deployment.program.projections) if p.learning)
    for x in observations(7, 6, 1)[0]:
        _, state = policy.predict(x[0], state, np.array([state is None]))
        policy.reinforce(1.0)
    learner = policy.machine.emulator.learner(index)
    assert learner.t.any() and learner.trace("x1").any()
    policy.reinforce(1.0, **{end: True})
    assert not learner.t.any() and not learner.trace("x1").any()


def test_rewards_that_are_all_alike_change_nothing():
    r1, value = Reinforcement(gamma=0.75).after(1.0, terminal=False)
    assert (r1, value) == (0.0, 4.0)
    policy = DeployedPolicy(deployment().taught(), learning=True)
    state, start = policy.initial_state(), readout_weights(policy).copy()
    for x in observations(7, 20, 1)[0]:
        _, state = policy.predict(x[0], state)
        policy.reinforce(1.0)
    np.testing.assert_array_equal(readout_weights(policy), start)


@pytest.mark.filterwarnings("ignore:lowered")
def test_what_cannot_learn_is_refused_in_one_line():
    plain = deployment()
    with pytest.raises(ValueError, match="needs a deployment with a learning rule"):
        DeployedPolicy(plain, learning=True)
    with pytest.raises(ValueError, match="needs the emulator"):
        DeployedPolicy(plain.taught(), interpreted=True, learning=True)
    with pytest.raises(ValueError, match="a policy learns if it is made with learning=True"):
        DeployedPolicy(plain.taught()).reinforce(1.0)
    with pytest.raises(ValueError, match=r"must be one of \['layer 0 recurrent', 'readout'\], got 'layer 7'"):
        plain.taught(projection="layer 7")
    with pytest.raises(ValueError, match="train with latency=1 for a readout on the chip"):
        deployment(latency=0).taught()
    with pytest.raises(ValueError, match="unknown variable 'q'"):
        plain.taught("x0*q")
    with pytest.raises(ValueError, match="profile 'nengo' in a program of profile 'nengo', got one of 'lava'"):
        plain.taught(LearningRule(dw="x0", profile="lava"))
    with pytest.raises(ValueError, match="n_ticks must be at least 2"):
        deployment(n_ticks=1).taught()
    with pytest.raises(ValueError, match="gamma must be a finite number"):
        Reinforcement(gamma=1.0)
    with pytest.raises(ValueError, match="profile must be 'nengo' or 'lava'"):
        reward_modulated_rule("brian", 4)
    policy = DeployedPolicy(plain.taught(), learning=True)
    with pytest.raises(ValueError, match="reward must be a finite number, got nan"):
        policy.reinforce(np.nan)
    with pytest.raises(ValueError, match="must be of one copy of the chip"):
        policy.predict(observations(n_envs=2)[0][0])
    two_rules = tuple(replace(p, learning=Learning(LearningRule(dw="x0"))) for p in plain.program.projections)
    assert replace(plain, program=replace(plain.program, projections=two_rules)).program.learns
