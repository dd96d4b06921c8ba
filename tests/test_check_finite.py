"""NaN and infinity end with an error that says where they came from, before anything is learnt from them."""

import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from learners import LEARNERS, OBSERVATION, Noise, make, weights
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents import EProp
from spikeloop.agents.check_finite import CheckFinite, NonFiniteError, check_learnt

BAD = [np.nan, np.inf, -np.inf]
WRAPPED = {
    "plain": lambda env: env,
    "normalized": lambda env: VecNormalize(DummyVecEnv([lambda: env])),
    "normalized once": lambda env: VecNormalize(DummyVecEnv([lambda: env]), training=False),
    "checked": lambda env: CheckFinite(DummyVecEnv([lambda: env]), "Noise"),
}


def faulty(what, value, at):
    env = Noise()
    env.faults[at] = {what: value if what == "reward" else np.float32([0.1, value, 0.2])}
    return env


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(("what", "at"), [("reward", 5), ("reward", 20), ("observation", 5), ("observation", 20)])
@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, where infinity is normalised
def test_what_an_environment_must_not_return_is_named(learner, what, at, value, wrapped):
    if (what, at) == ("observation", 20) and wrapped.startswith("normalized") and np.isinf(value):
        pytest.skip("VecNormalize shows the last observation of an episode clipped")
    model = make(learner, WRAPPED[wrapped](faulty(what, value, at)))
    with pytest.raises(NonFiniteError, match=f"{what}.* from env 0( of Noise)? is"):
        model.learn(100)
    assert all(np.isfinite(array).all() for array in weights(model).values())
    assert model.num_timesteps <= 21


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_first_observation_that_is_not_finite_is_named(learner):
    class Bad(Noise):
        def reset(self, **kwargs):
            return np.full(3, np.nan, np.float32), super().reset(**kwargs)[1]

    with pytest.raises(NonFiniteError, match="observation from env 0 is nan"):
        make(learner, Bad()).learn(20)


def test_a_part_of_an_observation_is_looked_at_too():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (1,))})
    env = Noise(space)
    env.faults[7] = {"observation": {"a": np.zeros(2, np.float32), "b": np.float32([np.inf])}}
    with pytest.raises(NonFiniteError, match="observation from env 0 is inf"):
        make("spiking_ppo", env).learn(20)


@pytest.mark.parametrize("what", ["observations", "rewards"])
def test_drawn_episodes_are_looked_at_before_they_are_learnt_from(what):
    model = EProp("EpropPolicy", "spikeloop/TMaze-v0", seed=0)
    task = model.env.envs[0].unwrapped
    draw = task.draw_episodes

    def bad(*args):
        observations, paid = draw(*args)
        (observations if what == "observations" else paid)[0, 2] = np.nan
        return observations, paid

    task.draw_episodes = bad
    before = weights(model)
    with pytest.raises(NonFiniteError, match=what):
        model.learn(100)
    for name, array in weights(model).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("learner", LEARNERS)
def test_predict_refuses_an_observation_that_is_not_finite(learner, value, deterministic):
    model = make(learner)
    with pytest.raises(ValueError, match=f"finite observation, got one with {value}"):
        model.predict(np.float32([0, value, 0]), deterministic=deterministic)
    with pytest.raises(ValueError, match=f"finite observation, got one with {value}"):
        model.predict(np.float32([[0, 0, 0], [0, value, 0]]), deterministic=deterministic)


@pytest.mark.parametrize("learner", LEARNERS)
def test_an_update_that_leads_to_nan_is_not_gone_on_from(learner):
    model = make(learner)
    if learner == "rstdp":
        model.policy.network.arrays.v[:] = np.nan
    elif learner == "rstdp_populations":
        model.policy.network.synapses.v[:] = np.nan
    elif learner == "eprop_chip":
        model.policy.network._host.critic.w[:] = np.nan
    elif learner == "glm_chip":
        model.policy.network._host.v[:] = np.nan
    else:
        with th.no_grad():
            parameters = dict(model.policy.named_parameters())
            name = {"eprop": "w", "glm": "w_out"}.get(learner, "value_net.weight")
            parameters[name][0, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"a lower .*learning_rate may help"):
        model.learn(100)


@pytest.mark.parametrize("shape", [(), (2,), (4,), (1, 4), (0, 3), (2, 2, 3), (1, 3, 1)])
@pytest.mark.parametrize("learner", LEARNERS)
def test_predict_refuses_observations_of_another_shape(learner, shape):
    with pytest.raises(ValueError, match="shape"):
        make(learner).predict(np.zeros(shape, np.float32), deterministic=True)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("learner", LEARNERS[:3])
def test_predict_refuses_states_and_flags_of_another_shape(learner, deterministic):
    model, obs = make(learner), np.stack([OBSERVATION.sample() for _ in range(3)])
    _, (state,) = model.predict(obs, episode_start=np.ones(3), deterministic=deterministic)
    for bad in (state[:, :2], state[:-1], state[..., :-1], state[0], np.zeros(0, np.float32)):
        with pytest.raises(ValueError, match="needs a state of shape"):
            model.predict(obs, (bad,), deterministic=deterministic)
    for bad in (np.zeros(2), np.zeros((3, 2)), np.zeros(0)):
        with pytest.raises(ValueError, match="needs 3 values of episode_start"):
            model.predict(obs, (state,), bad, deterministic=deterministic)


def test_observations_of_whole_numbers_need_no_look():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make("eprop", Noise(spaces.MultiBinary(4))).learn(40)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
def test_parameters_that_left_the_range_are_named(bad):
    good = {"whole": th.arange(3), "empty": th.zeros(0), "real": th.ones(4)}
    check_learnt([], "learning")
    check_learnt(list(good.items())[:2], "learning")
    check_learnt(good.items(), "learning")
    with pytest.raises(NonFiniteError, match=r"learning led to .* in there"):
        check_learnt([*good.items(), ("there", th.tensor([0.0, bad]))], "learning")
