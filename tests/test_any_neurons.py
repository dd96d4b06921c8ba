"""Neurons of any model behind the seam: trained, stepped, saved and refused as LSNN neurons are."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from learners import make, weights

from spikeloop.spiking.decay import decay
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.module import LSNN
from spikeloop.spiking.neurons import NEURONS
from spikeloop.spiking.reference import tick

ENCODERS = [Encoder("direct", 3), Encoder("delta", 3, threshold=0.2)]


class IntegratorConstants(NamedTuple):
    alpha: np.ndarray
    v_th: np.ndarray
    leaky: bool


@dataclass(frozen=True, eq=False)
class Integrator:
    """Spikes at a threshold and starts again from zero."""

    rows: ClassVar[tuple[str, ...]] = ("v", "z")
    graded: ClassVar[bool] = False

    tau: np.ndarray
    v_th: np.ndarray = 1.0
    leaky: bool = True

    @property
    def n_neurons(self):
        return len(self.tau)

    def constants(self, dt, dtype):
        return IntegratorConstants(decay(self.tau, dt).astype(dtype), self.v_th.astype(dtype), self.leaky)

    @staticmethod
    def tick(i, z, state, c, spike):
        (v,) = state
        v = (c.alpha * v if c.leaky else v) * (1.0 - z) + i
        return spike(v - c.v_th), (v,)

    def largest_state(self, current, n_ticks):
        return n_ticks * current


class Filter(Integrator):
    """Gives its membrane instead of spikes."""

    graded: ClassVar[bool] = True

    @staticmethod
    def tick(i, z, state, c, spike):
        (v,) = state
        v = c.alpha * v + i
        return v / (1.0 + v * v), (v,)


@pytest.fixture(params=[Integrator, Filter])
def kind(request, monkeypatch):
    monkeypatch.setitem(NEURONS, "mine", request.param)
    return request.param


def lsnn_of(encoder, sizes=(6, 5), **options):
    kwargs = {"tau": (2.0, 20.0), **options.pop("neuron_kwargs", {})}
    generator = torch.Generator().manual_seed(0)
    options = {"n_ticks": 3, **options}
    return LSNN(encoder, sizes, neurons="mine", neuron_kwargs=kwargs, generator=generator, **options)


@pytest.mark.parametrize("latency", [0, 1])
@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda e: e.kind)
def test_steps_follow_the_sequence_and_both_the_equations(kind, encoder, latency):
    lsnn = lsnn_of(encoder, latency=latency, tau_out=2.0)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 7, 3)).astype(np.float32)
    start = (rng.random((4, 7)) < 0.3).astype(np.float32)
    state = lsnn.initial_state(7)
    y, end = lsnn(torch.from_numpy(features), torch.from_numpy(state), torch.from_numpy(start))
    for x, cleared, expected in zip(features, start, y.detach().numpy(), strict=True):
        row, state = lsnn.step(x, state, cleared)
        np.testing.assert_allclose(row, expected, atol=1e-6)
    np.testing.assert_allclose(state, end.numpy(), atol=1e-5)
    assert lsnn.n_counted == 2 * 4 * 7 * 3
    assert kind.graded or sum(count.sum() for count in lsnn.spike_counts) > 0


def test_one_tick_of_one_layer_is_the_models_own(kind):
    lsnn = lsnn_of(ENCODERS[0], [5], recurrent=False, n_ticks=1)
    layer, features = lsnn.network_layers()[0], np.ones((1, 3), np.float32)
    _, state = lsnn.step(features, lsnn.initial_state(1), np.zeros(1))
    rest = tuple(np.zeros((1, 5), np.float32) for _ in kind.rows)
    constants = layer.neurons.constants(1.0, np.float32)
    expected = tick(kind, features @ layer.w_in.T, rest, None, constants, lambda u: (u > 0).astype(u.dtype))
    np.testing.assert_allclose(state[:2], np.stack(expected), rtol=1e-6)


def test_gradients_reach_every_weight(kind):
    lsnn = lsnn_of(ENCODERS[0])
    features = 2 * torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1))
    state = torch.from_numpy(lsnn.initial_state(4))
    y, _ = lsnn(features, state, torch.zeros(5, 4))
    y.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in lsnn.parameters())


def test_parameters_hold_for_all_or_are_drawn_for_each(kind):
    layer = lsnn_of(ENCODERS[0], [200], neuron_kwargs={"tau": (5.0, 50.0), "v_th": (-1.0, 3.0), "leaky": False}).layers[
        0
    ]
    assert layer.tau.min() >= 5 and layer.tau.max() <= 50 and layer.tau.unique().numel() > 190
    assert abs(layer.tau.log().mean() - np.log(5 * 50) / 2) < 0.2 and abs(layer.v_th.mean() - 1) < 0.3
    assert layer.neurons.leaky is False and isinstance(layer.neurons, kind)
    np.testing.assert_array_equal(lsnn_of(ENCODERS[0]).layers[0].v_th, np.ones(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neurons": "none"}, "neurons must be one of"),
        ({"neuron_kwargs": {"rate": 1.0}}, "no parameter 'rate'"),
        ({"neuron_kwargs": {}}, "needs a value for 'tau'"),
        ({"neuron_kwargs": {"tau": "long"}}, "tau must be a number, or bounds"),
        ({"neuron_kwargs": {"tau": (3.0, 2.0)}}, "tau is drawn between two bounds"),
        ({"tau_m": 5.0}, "tau_m is an option of LSNN neurons"),
        ({"neurons": "lsnn", "neuron_kwargs": {"tau_m": 5.0}}, "give LSNN"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        LSNN(ENCODERS[0], [4], **{"neurons": "mine", "neuron_kwargs": {"tau": 4.0}, **options})


def test_a_rate_penalty_is_refused_where_nothing_spikes(kind):
    if kind.graded:
        with pytest.raises(ValueError, match="rate_coef must be 0 for graded neurons"):
            lsnn_of(ENCODERS[0], rate_coef=0.1)
    else:
        assert lsnn_of(ENCODERS[0], rate_coef=0.1).rate_coef == 0.1


@pytest.mark.parametrize("learner", ["spiking_ppo", "spiking_a2c"])
def test_a_policy_of_them_learns_and_logs_what_it_has(kind, learner, tmp_path):
    options = {"neurons": "mine", "neuron_kwargs": {"tau": 5.0}, "n_ticks": 2}
    model = make(learner, policy_kwargs=options)
    before = weights(model)
    model.learn(64)
    after = weights(model)
    names = ("layers.0.w_in", "layers.0.w_rec", "layers.0.bias") if learner == "spiking_ppo" else ("layers.0.w_in",)
    assert all(np.any(before[f"lstm_actor.{name}"] != after[f"lstm_actor.{name}"]) for name in names)
    model._log_spikes()
    logged = [name for name in model.logger.name_to_value if name.startswith("spiking/")]
    assert bool(logged) != kind.graded
    model.save(tmp_path / "model")
    again = type(model).load(tmp_path / "model", device="cpu")
    assert isinstance(again.policy.lstm_actor.layers[0].neurons, kind)
    observation = np.ones((2, 3), np.float32)
    for model_now in (model, again):
        _, (state,) = model_now.predict(observation, episode_start=np.ones(2, bool), deterministic=True)
        assert np.isfinite(state).all()
    assert isinstance(model.to_network().layers[0].neurons, kind)
