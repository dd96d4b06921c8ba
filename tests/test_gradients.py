"""Gradients are a family: each runs the same network, and a new one is a class and a line."""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
import torch
from learners import make, weights
from lsnn_sequences import make_lsnn, make_sequence

from spikeloop.agents import SpikingPPO
from spikeloop.spiking import LSNN, Surrogate
from spikeloop.spiking.gradients import GRADIENTS, gradient_for
from spikeloop.spiking.gradients.equations import Spike, run_equations


@dataclass(frozen=True)
class ExponentialPdf:
    """The derivative of a spike is the density that the membrane, with noise, is at the threshold (SLAYER, eq. 15)."""

    scale: float = 1.0

    def spike(self, u):
        return Spike.apply(u, lambda u: torch.exp(-abs(u) / self.scale) / self.scale)

    def run(self, layers, x, state, start, timing):
        return run_equations(layers, x, state, start, timing, self.spike)


@pytest.fixture
def new_gradient(monkeypatch):
    monkeypatch.setitem(GRADIENTS, "exponential_pdf", ExponentialPdf)


def test_a_new_gradient_trains_a_policy(new_gradient):
    options = {"gradient": "exponential_pdf", "gradient_kwargs": {"scale": 0.5}, "n_neurons": [16]}
    env = gym.make("CartPole-v1")
    model = SpikingPPO("LsnnPolicy", env, n_steps=64, batch_size=64, n_epochs=1, seed=0, policy_kwargs=options)
    assert model.policy.lstm_actor.gradient == ExponentialPdf(0.5)
    before = weights(model)
    model.learn(64)
    after = weights(model)
    assert np.any(before["lstm_actor.layers.0.w_in"] != after["lstm_actor.layers.0.w_in"])
    assert all(np.isfinite(value).all() for value in after.values())


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_outputs_are_the_networks_whatever_the_gradient(name):
    gradient = gradient_for(name, {})
    lsnn = make_lsnn((20, 9), n_ticks=2, tau_out=2.0, gradient=gradient)
    features, state, start = make_sequence(lsnn)
    run = lsnn.run(features, state, start)
    run.y.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in lsnn.parameters())
    assert [rate.shape for rate in run.rates()] == [(20,), (9,)] and not run.state.requires_grad
    arrays = state.numpy()
    for x, cleared, y in zip(features, start, run.y.detach().numpy(), strict=True):
        row, arrays = lsnn.step(x.numpy(), arrays, cleared.numpy())
        np.testing.assert_allclose(row, y, atol=1e-6)
    counts = [2 * count / lsnn.n_counted for count in lsnn.spike_counts]  # of the run and of the steps
    for rate, count in zip(run.rates(), counts, strict=True):
        np.testing.assert_allclose(rate.detach(), count / 2, atol=1e-6)


def test_rates_are_as_differentiable_by_the_engine_as_by_the_equations():
    lsnn = make_lsnn((20, 9), dtype=torch.float64)
    sequence = make_sequence(lsnn)
    found = []
    for on_engine in (True, False):
        lsnn.layers.on_engine = on_engine
        rates = lsnn.run(*sequence).rates()
        loss = sum((rate.square() * torch.arange(len(rate))).sum() for rate in rates)
        found.append(torch.autograd.grad(loss, list(lsnn.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_rates_that_are_asked_for_twice_count_twice_in_a_loss():
    lsnn = make_lsnn((20,), dtype=torch.float64)
    sequence = make_sequence(lsnn)
    found = []
    for ask in (lambda run: 2 * run.rates()[0], lambda run: run.rates()[0] + run.rates()[0]):
        found.append(torch.autograd.grad(ask(lsnn.run(*sequence)).square().sum(), list(lsnn.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "former",
    [
        {"surrogate": "triangle", "surrogate_kwargs": {"damping": 0.3, "width": 1.0}},
        {"surrogate": "triangle", "gradient_kwargs": {"damping": 0.3, "width": 1.0}},
        {"surrogate_kwargs": {"damping": 0.3, "width": 1.0}, "gradient_kwargs": {"shape": "triangle"}},
    ],
)
def test_the_former_words_for_a_surrogate_still_say_it(former, tmp_path):
    model = make("spiking_ppo", policy_kwargs=former)
    assert model.policy.lstm_actor.gradient == Surrogate("triangle", 0.3, 1.0)
    model.policy.save(tmp_path / "policy")
    assert type(model.policy).load(tmp_path / "policy").lstm_actor.gradient == Surrogate("triangle", 0.3, 1.0)
    model.save(tmp_path / "model")
    assert type(model).load(tmp_path / "model").policy.lstm_actor.gradient == Surrogate("triangle", 0.3, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "none"}, "gradient must be one of"),
        ({"gradient_kwargs": {"height": 1.0}}, "gradient_kwargs do not fit gradient 'surrogate'.*height"),
        ({"gradient_kwargs": {"damping": -1.0}}, "surrogate damping"),
        ({"gradient": "exponential_pdf", "surrogate": "triangle"}, "surrogate goes with gradient='surrogate'"),
    ],
)
def test_a_gradient_that_is_none_is_refused(new_gradient, options, message):
    with pytest.raises(ValueError, match=message):
        make("spiking_ppo", policy_kwargs=options)


def test_an_lsnn_takes_a_gradient_as_a_value(new_gradient):
    assert LSNN(make_lsnn().encoder, [4], gradient=ExponentialPdf()).gradient == ExponentialPdf()
