import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO

from spikeloop.agents import SpikingPPO
from spikeloop.agents.quantization import QuantizeWeights
from spikeloop.scripts.hyperparameters import chip_ready

STEP = 0.25


def on_grid(weight: np.ndarray) -> np.ndarray:
    return (np.round(weight / STEP) * STEP).astype(weight.dtype)


def small_ppo(**kwargs) -> SpikingPPO:
    policy_kwargs = {"n_neurons": [8], "latency": 1, "reset": "zero", "adaptation": "ahp", "n_ticks": 2}
    settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu", **kwargs}
    return SpikingPPO("LsnnPolicy", "CartPole-v1", policy_kwargs=policy_kwargs, **settings)


def test_quantised_training_leaves_every_actor_weight_on_the_grid_and_the_rest_alone():
    model = small_ppo().learn(32, callback=QuantizeWeights(on_grid))
    actor = model.policy.lstm_actor
    for weight in (actor.layers[0].w_in, actor.layers[0].w_rec, model.policy.action_net.weight):
        assert np.array_equal(weight.detach().numpy(), on_grid(weight.detach().numpy()))
    assert not np.allclose(actor.layers[0].bias.detach().numpy() % STEP, 0)


def test_steps_too_small_for_the_grid_add_up_behind_it():
    model = small_ppo(learning_rate=1e-3)
    weight = model.policy.action_net.weight
    callback = QuantizeWeights(on_grid)
    callback.init_callback(model)
    callback.on_training_start({}, {})
    optimizer = model.policy.optimizer
    start = weight.detach().clone()
    for _ in range(400):
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
    callback.on_training_end()
    fine = optimizer.state[weight]["fine"]
    assert th.allclose(fine, start - 0.4, atol=1e-2)  # Adam moves by the learning rate
    assert np.array_equal(weight.detach().numpy(), on_grid(fine.numpy()))


def test_the_fine_weights_are_saved_with_the_optimizer(tmp_path):
    model = small_ppo().learn(32, callback=QuantizeWeights(on_grid))
    model.save(tmp_path / "model.zip")
    loaded = SpikingPPO.load(tmp_path / "model.zip")
    fine = model.policy.optimizer.state[model.policy.action_net.weight]["fine"]
    assert th.equal(loaded.policy.optimizer.state[loaded.policy.action_net.weight]["fine"], fine)


def test_a_policy_that_does_not_spike_is_refused():
    with pytest.raises(ValueError, match="ActorCriticPolicy"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).learn(8, callback=QuantizeWeights(on_grid))
    with pytest.raises(ValueError, match="MlpPolicy"):
        chip_ready({"policy": "MlpPolicy"})


def test_chip_ready_sets_the_semantics_of_a_chip_and_scales_adaptation():
    got = chip_ready({"policy": "LsnnPolicy", "gamma": 0.9, "policy_kwargs": {"n_neurons": [8, 8], "beta": 1.0}})
    kwargs = got["policy_kwargs"]
    assert (kwargs["latency"], kwargs["reset"], kwargs["adaptation"], kwargs["n_ticks"]) == (1, "zero", "ahp", 3)
    assert kwargs["beta"] == pytest.approx(1 - np.exp(-1 / 4))
    assert got["gamma"] == 0.9
    assert chip_ready(got) == got and "hold" not in kwargs
    without_neurons = {"policy": "LsnnPolicy", "policy_kwargs": {"n_neurons": [], "readout": "max"}}
    assert chip_ready(without_neurons) == without_neurons
    silent = chip_ready({"policy": "LsnnPolicy", "policy_kwargs": {"refractory": 2}})["policy_kwargs"]
    assert silent["hold"] is True
    own = chip_ready({"policy": "LifPolicy", "policy_kwargs": {"reset": "subtract", "adaptation": "threshold"}})
    assert own["policy_kwargs"] == {"reset": "subtract", "adaptation": "threshold", "latency": 1, "n_ticks": 2}
