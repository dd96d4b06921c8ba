"""Models that were saved when an LSNN held all its layers' weights under numbered names still load whole."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.save_util import load_from_zip_file

from spikeloop.agents import SpikingPPO
from spikeloop.spiking import Surrogate

# SpikingPPO on CartPole-v1 for 64 steps: two layers, a learnt population code, "triangle", an MLP, obs_scale
SAVED = Path(__file__).parent / "saved" / "spiking_ppo_flat_layers.zip"


def current(name):
    stem, _, number = name.rpartition("_")
    numbered = name.startswith("lstm_actor.") and number.isdigit()
    return f"lstm_actor.layers.{number}.{stem.removeprefix('lstm_actor.')}" if numbered else name


def test_every_weight_and_what_the_optimizer_knows_of_it_is_found():
    model = SpikingPPO.load(SAVED, device="cpu")
    _, saved, _ = load_from_zip_file(SAVED)
    loaded = model.policy.state_dict()
    assert {current(name) for name in saved["policy"]} == set(loaded) and "lstm_actor.w_in_1" in saved["policy"]
    for name, value in saved["policy"].items():
        np.testing.assert_array_equal(loaded[current(name)], value, err_msg=name)
    assert model.policy.lstm_actor.gradient == Surrogate("triangle", 0.5, 0.8)
    state = model.policy.optimizer.state_dict()["state"]
    assert len(state) == len(list(model.policy.parameters()))
    for parameter, (i, known) in zip(model.policy.parameters(), sorted(state.items()), strict=True):
        assert known["exp_avg"].shape == parameter.shape
        np.testing.assert_array_equal(known["exp_avg"], saved["policy.optimizer"]["state"][i]["exp_avg"])


def test_a_layers_numbers_are_found_under_their_former_names():
    lsnn = SpikingPPO.load(SAVED, device="cpu").policy.lstm_actor
    assert lsnn.w_in_1 is lsnn.layers[1].w_in and lsnn.tau_a_0 is lsnn.layers[0].tau_a
    with pytest.raises(AttributeError, match="'w_in_2'"):
        lsnn.w_in_2  # noqa: B018


def test_it_computes_what_it_did():
    model, state = SpikingPPO.load(SAVED, device="cpu"), None
    for t, obs in enumerate(np.random.default_rng(0).normal(0, 2, (40, 1, 4)).astype(np.float32)):
        _, state = model.predict(obs, state, np.array([t % 15 == 0]), deterministic=True)
    assert np.abs(state[0]).sum() == pytest.approx(11.642829, rel=1e-5)


def test_it_goes_on_learning():
    model = SpikingPPO.load(SAVED, env=gym.make("CartPole-v1"), device="cpu")
    model.learn(32, reset_num_timesteps=False)
    assert model.num_timesteps == 96
