"""Actions lie in the space they are for: in training, in predict, in the exported network and after its file."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from learners import BY_GRADIENT, LEARNERS, OBSERVATION, Noise, make, weights
from stable_baselines3 import PPO

from spikeloop.spiking import ActionHead, Network, Simulator

SHIFTED = [
    spaces.Discrete(3, start=5),
    spaces.Discrete(3, start=-7),
    spaces.Discrete(4, start=2**40),
    spaces.MultiDiscrete([3, 4], start=[1, 5]),
    spaces.MultiDiscrete([2, 2, 2], start=[-3, 0, 9]),
]


def takes(name, space):
    return name in BY_GRADIENT or isinstance(space, spaces.Discrete)


@pytest.mark.parametrize(("name", "space"), [(n, s) for n in LEARNERS for s in SHIFTED if takes(n, s)], ids=str)
def test_choices_count_from_the_start_of_the_space(name, space):
    env = Noise(action_space=space)
    model = make(name, env).learn(80)
    assert len(env.seen) >= 80 and all(space.contains(action) for action in env.seen)
    assert len({action.tobytes() for action in env.seen}) > 1
    obs = np.random.default_rng(0).uniform(-1, 1, (40, 3)).astype(np.float32)
    for deterministic in (True, False):
        actions, _ = model.predict(obs, episode_start=np.ones(40), deterministic=deterministic)
        assert all(space.contains(action) for action in actions)
        assert space.contains(model.predict(obs[0], episode_start=np.ones(1), deterministic=deterministic)[0])


@pytest.mark.parametrize(("name", "space"), [(n, s) for n in LEARNERS for s in SHIFTED if takes(n, s)], ids=str)
def test_where_choices_count_from_changes_nothing_that_is_learnt(name, space):
    from_zero = spaces.Discrete(space.n) if isinstance(space, spaces.Discrete) else spaces.MultiDiscrete(space.nvec)
    shifted, plain = (make(name, Noise(action_space=one)).learn(80) for one in (space, from_zero))
    for key, value in weights(plain).items():
        np.testing.assert_array_equal(weights(shifted)[key], value)


@pytest.mark.parametrize(
    ("name", "space"), [(n, s) for n in LEARNERS[:3] for s in SHIFTED if takes(n, s)], ids=lambda value: str(value)
)
def test_an_exported_network_counts_from_the_start_too(name, space, tmp_path):
    model = make(name, Noise(action_space=space))
    model.policy.to_network().save(tmp_path / "policy.safetensors")
    simulator = Simulator(Network.load(tmp_path / "policy.safetensors"))
    obs = np.random.default_rng(0).uniform(-1, 1, (6, 3)).astype(np.float32)
    want, _ = model.predict(obs, episode_start=np.ones(6), deterministic=True)
    np.testing.assert_array_equal(simulator.predict(obs, episode_start=np.ones(6))[0], want)
    single = simulator.predict(obs[0], episode_start=np.ones(1))[0]
    assert space.contains(single) and np.array_equal(single, want[0])


def test_a_start_that_does_not_fit_the_head_is_refused():
    with pytest.raises(ValueError, match=r"ActionHead\.start must be 2 whole numbers"):
        ActionHead("multi_discrete", (2, 3), (2,), start=(1,))
    with pytest.raises(ValueError, match=r"ActionHead\.start"):
        ActionHead("multi_binary", (2, 2), (2,), start=(0, 1))


FLOAT64 = [
    spaces.Box(-0.1, 0.1, (2,), np.float64),
    spaces.Box(np.array([0.1, -1 / 3]), np.array([0.3, 1e-9]), dtype=np.float64),
    spaces.Box(-0.7, 0.7, (2, 2), np.float64),
    spaces.Box(-0.1, 0.1, (2,), np.float32),
]


@pytest.mark.parametrize("name", BY_GRADIENT)
@pytest.mark.parametrize("space", FLOAT64, ids=str)
@pytest.mark.parametrize("beyond", [5.0, -5.0])
def test_clipped_actions_lie_in_the_space_and_have_the_type_of_sb3s(name, space, beyond):
    model, theirs = (
        make(name, Noise(action_space=space)),
        PPO("MlpPolicy", Noise(action_space=space), n_steps=8, batch_size=8),
    )
    obs, start = np.zeros(3, np.float32), np.ones(1)
    with th.no_grad():
        for policy in (model.policy, theirs.policy):
            policy.action_net.bias[:] = beyond
    want = theirs.predict(obs, deterministic=True)[0]
    simulator = Simulator(model.policy.to_network())
    for got in (
        model.predict(obs, episode_start=start, deterministic=True)[0],
        model.predict(obs, episode_start=start)[0],
        simulator.predict(obs, episode_start=start)[0],
    ):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype and space.contains(got)
    model.learn(16)
    assert all(space.contains(action) for action in model.env.envs[0].unwrapped.seen)


def test_bounds_in_another_order_of_memory_are_the_same_bounds(tmp_path):
    low, high = -np.arange(1, 7, dtype=np.float32).reshape(3, 2).T, np.arange(1, 7, dtype=np.float32).reshape(3, 2).T
    model = make("spiking_ppo", Noise(action_space=spaces.Box(low, high)))
    with th.no_grad():
        model.policy.action_net.bias[:] = 50.0
    network = model.policy.to_network()
    assert network.head.high.flags.c_contiguous
    network.save(tmp_path / "policy.safetensors")
    for one in (network, Network.load(tmp_path / "policy.safetensors")):
        np.testing.assert_array_equal(Simulator(one).predict(np.zeros(3, np.float32))[0], high)


@pytest.mark.parametrize("low", [-1.0, 0.1, -2.0])
def test_squashed_actions_lie_in_the_space_and_only_those_from_minus_one_to_one_are_learnt(low):
    space = spaces.Box(low, 1.0, (2,), np.float32)
    kwargs = {"use_sde": True, "policy_kwargs": {"squash_output": True}}
    if low != -1:
        with pytest.raises(ValueError, match="squash_output needs actions between -1 and 1"):
            make("spiking_ppo", Noise(action_space=space), **kwargs)
    head = ActionHead("box", (1, 1), (2,), space.low, space.high, squash=True)
    assert space.contains(head(np.full((1, 2), 90.0, np.float32))[0])
    if low == -1:
        model = make("spiking_ppo", Noise(action_space=space), **kwargs).learn(16)
        assert space.contains(model.predict(OBSERVATION.sample(), episode_start=np.ones(1))[0])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 255, (2,), np.uint8), "float32 or float64"),
        (spaces.Box(-1, 1, (2,), np.float16), "float32 or float64"),
        (spaces.Box(-1, 1, (0,), np.float32), "must hold at least one number"),
    ],
    ids=str,
)
def test_actions_that_no_policy_can_choose_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        make("spiking_ppo", Noise(action_space=space))
