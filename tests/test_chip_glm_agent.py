"""GLM with a network on the chip: compiled or not the same bits, kept, loaded, and refused in one line."""

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from learners import Noise, make, weights
from rstdp_models import Plain
from shell import start
from stable_baselines3.common.monitor import Monitor

import spikeloop.envs  # noqa: F401  registers the tasks
from spikeloop.agents import GLM
from spikeloop.agents.registry import hyperparams_file
from spikeloop.hardware import ChipGlm
from spikeloop.scripts import train

PRESETS = yaml.safe_load(hyperparams_file("glm_chip").read_text("utf-8"))
WINDY = "spikeloop/WindyGridworld-v0"


def preset_model(name, wrap=lambda env: env, seed=0):
    settings = {key: value for key, value in PRESETS[name].items() if key not in ("n_timesteps", "n_envs")}
    settings["learning_rate"] = float(settings["learning_rate"].removeprefix("lin_"))
    return GLM(env=Monitor(wrap(gym.make(name))), seed=seed, backend=ChipGlm, **settings)


def windy(wrap, seed=0):
    return GLM("ChipGlmPolicy", Monitor(wrap(gym.make(WINDY))), gamma=1.0, seed=seed, backend=ChipGlm)


@pytest.mark.parametrize("name", [*PRESETS, WINDY])
def test_compiled_stretches_and_single_steps_learn_the_same_bits(name):
    build = windy if name == WINDY else lambda wrap: preset_model(name, wrap)
    compiled, stepped = (build(wrap) for wrap in (lambda env: env, Plain))
    with compiled._session() as found, stepped._session() as none:
        assert found is not None and none is None
    for model in (compiled, stepped):
        model.learn(600)
    for key, array in weights(compiled).items():
        np.testing.assert_array_equal(weights(stepped)[key], array, err_msg=key)
    assert compiled.num_timesteps == stepped.num_timesteps == 600
    assert [info["r"] for info in compiled.ep_info_buffer] == [info["r"] for info in stepped.ep_info_buffer]
    assert compiled.policy.network.weights().any()


def test_a_loaded_model_acts_and_learns_on_as_the_one_that_was_saved(tmp_path):
    model = preset_model("CartPole-v1").learn(300)
    model.save(tmp_path / "model")
    loaded = GLM.load(tmp_path / "model", env=model.env)
    obs = np.random.default_rng(0).uniform(-0.1, 0.1, (20, 3, 4)).astype(np.float32)
    state = model.policy.predict(obs[0])[1]
    for deterministic in (True, False):
        states = [state, state]
        for each in (model, loaded):
            each.set_random_seed(1)
        for t, row in enumerate(obs):
            starts = np.array([t == 0, t == 0, t == 7])
            (one, states[0]), (other, states[1]) = (
                one.predict(row, state, starts, deterministic=deterministic)
                for one, state in zip((model, loaded), states, strict=True)
            )
            np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(states[0], states[1])
    for each in (model, loaded):
        each.set_random_seed(3)
        each.learn(200)
    for key, array in weights(model).items():
        np.testing.assert_array_equal(weights(loaded)[key], array, err_msg=key)


def test_predict_plays_as_training_does():
    """With rates of 0 an episode of training is one of ``predict``: their lengths are alike."""
    model = preset_model("CartPole-v1").learn(6_000)
    model.learning_rate = 0.0
    model._setup_lr_schedule()
    env = Monitor(gym.make("CartPole-v1"))
    model.set_env(env)
    model.learn(4_000)
    trained, predicted = env.get_episode_rewards(), []
    env = gym.make("CartPole-v1")
    for episode in range(len(trained)):
        obs, state, done, start, total = env.reset(seed=episode)[0], None, False, True, 0.0
        while not done:
            action, state = model.predict(obs, state, np.array([start]))
            obs, reward, terminated, cut, _ = env.step(int(action))
            done, start, total = terminated or cut, False, total + reward
        predicted.append(total)
    error = np.sqrt((np.var(trained) + np.var(predicted)) / len(trained))
    assert abs(np.mean(trained) - np.mean(predicted)) < 4 * error


def test_an_episode_begins_with_membranes_at_rest():
    model = preset_model("CartPole-v1").learn(300)
    obs, state = np.full((2, 4), 0.1, np.float32), None
    for _ in range(5):
        _, state = model.predict(obs, state)
    width = model.policy.network.state_width
    rested = state[0].copy()
    rested[0, 1, 3:width] = rested[0, 1, 0] = 0  # all but the noise
    found, by_hand, going = (
        model.predict(obs, (packed,), np.array([False, starts]), deterministic=True)[1][0]
        for packed, starts in ((state[0], True), (rested, False), (state[0], False))
    )
    np.testing.assert_array_equal(found, by_hand)
    assert np.array_equal(found[0, 0], going[0, 0]) and np.any(found[0, 1, :width] != going[0, 1, :width])


def test_the_most_likely_action_does_not_depend_on_the_noise():
    model = preset_model("CartPole-v1").learn(300)
    obs = np.full((200, 4), 0.05, np.float32)
    (state,) = model.predict(obs)[1]
    same = np.repeat(state[:, :1], 200, axis=1)
    same[0, :, 1:3] = state[0, :, 1:3]  # the noise
    drawn, likely = (model.predict(obs, (same,), deterministic=likely)[0] for likely in (False, True))
    assert len(np.unique(drawn)) == 2 and len(np.unique(likely)) == 1


def test_actions_count_from_the_start_of_their_space():
    model = make("glm_chip", env=Noise(action_space=spaces.Discrete(3, start=-1)))
    actions, _ = model.predict(np.zeros((50, *model.observation_space.shape), np.float32))
    assert set(actions.tolist()) == {-1, 0, 1}


def test_the_log_has_the_share_of_td_errors_that_r1_cut():
    model = make("glm_chip", reward_scale=1e4)
    with pytest.warns(UserWarning, match="of TD errors are beyond the range of the chip's r1"):
        model.learn(100, log_interval=None)
    assert 0.8 < dict(model._own_logs())["train/td_errors_cut"] <= 1.0
    assert dict(make("glm_chip").learn(100, log_interval=None)._own_logs())["train/td_errors_cut"] == 0.0
    assert "train/td_errors_cut" not in dict(make("glm").learn(100, log_interval=None)._own_logs())


def test_the_rate_follows_its_schedule():
    model = make("glm_chip", learning_rate=lambda left: 0.4 * (0.3 < left < 0.9))  # warms up, and stops
    assert model.policy.network.rule.learning_rate == 0.4
    model.learn(300)
    learned = model.policy.network.weights()
    model.lr_schedule = lambda left: 0.0
    model.learn(100, reset_num_timesteps=False)
    assert learned.any() and np.array_equal(model.policy.network.weights(), learned)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"env": Noise(action_space=spaces.Box(-1, 1, (2,)))}, r"needs a Discrete action space, got Box"),
        (
            {"env": Noise(spaces.Box(0, 255, (8, 8, 1), np.uint8))},
            r"ChipGlmPolicy needs a vector observation .* got Box",
        ),
        ({"policy_kwargs": {"critic": "trace"}}, "need critic 'tiles' or 'places', got 'trace'"),
        ({"policy_kwargs": {"n_ticks": 2.5}}, "n_ticks must be a whole number >= 1, got 2.5"),
        ({"policy_kwargs": {"tau_s": "a"}}, "tau_s must be a finite number within"),
        ({"policy_kwargs": {"bias": 1.0}}, "bias must be"),
        ({"policy_kwargs": {"encoder": "direct"}}, "encoder must be one whose input is spikes, got 'direct'"),
        ({"backend": "float"}, "backend must build a network for ChipGlmPolicy, got 'float'"),
        ({"backend": "chip"}, "backend must be one of float or build a network, got 'chip'"),
        (
            {"policy_kwargs": {"bias": -4.0}, "backend_kwargs": {"n_noise": 1}},
            r"bias must be above -3.13, where the noise of n_noise=1 variates ends .* got -4",
        ),
        ({"backend_kwargs": {"tau_s": 3}}, "backend_kwargs must not hold tau_s"),
        ({"backend_kwargs": {"wmax": 3}}, "backend_kwargs: .* 'wmax'"),
        ({"bias_scale": 0.5}, "bias_scale must be 0.0 on the chip, whose thresholds do not learn, got 0.5"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        make("glm_chip", **kwargs)
    assert "\n" not in str(caught.value)


def test_policies_of_the_float_simulator_have_no_backend_and_those_of_a_chip_are_no_network():
    with pytest.raises(ValueError, match="backend must be float for GlmPolicy, got"):
        make("glm", backend=ChipGlm)
    with pytest.raises(ValueError, match="backend_kwargs are of a backend that builds a network, not of float"):
        make("glm", backend_kwargs={"n_noise": 1})
    with pytest.raises(ValueError, match="a policy of ChipGlm is a program of its chip"):
        make("glm_chip").to_network()


def test_the_command_line_trains_it(tmp_path):
    command = ["--algo", "glm", "--backend", "chip", "--env", "CartPole-v1", "-n", 300, "-f", tmp_path, "--verbose", 0]
    assert start(train, *command) == 0
    assert list(tmp_path.rglob("CartPole-v1.zip"))
