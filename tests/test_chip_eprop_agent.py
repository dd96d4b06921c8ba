"""EProp with a network on the chip: compiled or not the same bits, kept, loaded, and refused in one line."""

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from learners import Noise, make, weights
from rstdp_models import Plain
from stable_baselines3.common.monitor import Monitor

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents import EProp
from spikeloop.agents.registry import hyperparams_file
from spikeloop.hardware import ChipLsnn

PRESETS = yaml.safe_load(hyperparams_file("eprop_chip").read_text("utf-8"))


def preset_model(name, wrap=lambda env: env, seed=0, schedule=None):
    settings = {key: value for key, value in PRESETS[name].items() if key not in ("n_timesteps", "n_envs")}
    settings["learning_rate"] = schedule or float(settings["learning_rate"].removeprefix("lin_"))
    return EProp(env=Monitor(wrap(gym.make(name))), seed=seed, backend=ChipLsnn, **settings)


@pytest.mark.parametrize("name", PRESETS)
def test_compiled_stretches_and_single_steps_learn_the_same_bits(name):
    compiled, stepped = (preset_model(name, wrap).learn(400) for wrap in (lambda env: env, Plain))
    for key, array in weights(compiled).items():
        np.testing.assert_array_equal(weights(stepped)[key], array, err_msg=key)
    assert compiled.num_timesteps == stepped.num_timesteps == 400
    assert [info["r"] for info in compiled.ep_info_buffer] == [info["r"] for info in stepped.ep_info_buffer]


def test_a_loaded_model_acts_and_learns_on_as_the_one_that_was_saved(tmp_path):
    model = preset_model("CartPole-v1").learn(300)
    model.save(tmp_path / "model")
    loaded = EProp.load(tmp_path / "model", env=model.env)
    obs = np.random.default_rng(0).uniform(-0.1, 0.1, (20, 3, 4)).astype(np.float32)
    states = [None, None]
    for t, row in enumerate(obs):
        starts = np.array([t == 0, t == 0, t == 7])
        (one, states[0]), (other, states[1]) = (
            one.predict(row, state, starts, deterministic=True)
            for one, state in zip((model, loaded), states, strict=True)
        )
        np.testing.assert_array_equal(one, other)
    for each in (model, loaded):
        each.set_random_seed(3)
        each.learn(200)
    for key, array in weights(model).items():
        if not key.endswith("rate"):  # of whole episodes, one of which the saving has cut
            np.testing.assert_array_equal(weights(loaded)[key], array, err_msg=key)


def test_the_rate_follows_its_schedule_whose_highest_scales_what_the_host_writes():
    model = preset_model("CartPole-v1", schedule=lambda left: 0.4 * (0.3 < left < 0.9))  # warms up, and stops
    assert model.policy.network.rule.learning_rate == 0.4
    arrays = [weights(model)]
    for n_steps, rate in ((300, model.lr_schedule), (100, lambda left: 0.0)):
        model.lr_schedule = rate
        model.learn(n_steps, reset_num_timesteps=False)
        arrays.append(weights(model))
    for i in range(3):  # input, recurrent, readout
        before, learned, after = (kept[f"network.{i}.synapses"][:, 0] for kept in arrays)
        assert np.any(before != learned)
        np.testing.assert_array_equal(learned, after)


def test_the_firing_rate_is_that_of_the_chip_s_neurons():
    model = preset_model("CartPole-v1")
    model.n_episodes = 5
    model.learn(100_000, callback=lambda now, _: now["self"]._episode_num < 3)
    counts, ticks = model.policy.network.spike_counts, (model.num_timesteps + 3) * 4
    kept = (1 - 1e-4) ** ticks  # of the target rate, where the running mean begins
    assert counts.sum() > 0
    found = model.policy.rate.numpy().astype(float) - 0.05 * kept
    np.testing.assert_allclose(found, (1 - kept) * counts / ticks, rtol=0.03, atol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"env": Noise(action_space=spaces.Box(-1, 1, (2,)))}, r"needs discrete actions, got Box"),
        ({"env": Noise(spaces.Discrete(4))}, r"needs a vector observation \(Box\), got Discrete"),
        ({"policy_kwargs": {"critic": "trace"}}, "critic must be one of .*, got 'trace'"),
        ({"policy_kwargs": {"n_ticks": 3}}, "n_ticks must be one of .*, got 3"),
        ({"policy_kwargs": {"n_neurons": 2.5}}, "n_neurons must be a whole number within 1 and 256, got 2.5"),
        ({"policy_kwargs": {"tau_m": "a"}}, "tau_m must be a number > 0, got 'a'"),
        ({"backend": "float"}, "backend must build a network for ChipEpropPolicy, got 'float'"),
        ({"backend": "chip"}, "backend must be one of float or build a network, got 'chip'"),
        ({"backend_kwargs": {"n_neurons": 3}}, "backend_kwargs must not hold n_neurons"),
        ({"backend_kwargs": {"wmax": 3}}, "backend_kwargs: .* 'wmax'"),
        ({"value_coef": 0.5}, "value_coef must be 0.0 on the chip, got 0.5"),
        ({"optimizer": "adam"}, "optimizer must be sgd on the chip, got 'adam'"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        make("eprop_chip", **kwargs)
    assert "\n" not in str(caught.value)


def test_policies_of_the_float_simulator_have_no_backend():
    with pytest.raises(ValueError, match="backend must be float for EpropPolicy, got"):
        make("eprop", backend=ChipLsnn)
    with pytest.raises(ValueError, match="backend_kwargs are of a backend that builds a network, not of float"):
        make("eprop", backend_kwargs={"n_copies": 2})
    with pytest.raises(ValueError, match="a policy of ChipLsnn is a program of its chip"):
        make("eprop_chip").to_network()
