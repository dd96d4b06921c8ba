"""e-prop refuses what does not fit, in one line that names it, and goes on from what it returned."""

import numpy as np
import pytest
from eprop_layers import parameters, small_layer, some_weights

from spikeloop.spiking.network import Layer
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.rules.eprop import eprop, eprop_neurons, rest
from spikeloop.spiking.rules.eprop_kernels import EpropNeurons, EpropState, EpropWeights
from spikeloop.spiking.rules.reward_eprop import (
    FEEDBACK,
    RewardEprop,
    initial_weights,
    reward_eprop,
)


def two_taus():
    arrays = {"v_th": np.ones(2), "tau_a": np.ones(2), "beta": np.ones(2), "refractory": np.zeros(2)}
    return LsnnNeurons(tau_m=np.array([3.0, 4.0]), **arrays)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RewardEprop(gamma=1.1), "RewardEprop.gamma must be a number within"),
        (lambda: RewardEprop(actor_rate=-1), "RewardEprop.actor_rate"),
        (lambda: RewardEprop(optimizer="rms"), "RewardEprop.optimizer must be one of .*'rms'"),
        (lambda: RewardEprop(trace_max=0), "RewardEprop.trace_max must be a number > 0 or None, got 0"),
        (lambda: RewardEprop(initial_value=np.nan), "RewardEprop.initial_value must be a number within"),
        (lambda: initial_weights(np.random.default_rng(0), 1, 1, 1, feedback="none"), "feedback must be one of"),
        (lambda: eprop_neurons(two_taus(), 0.0, float), "one tau_m"),
        (lambda: eprop_neurons(parameters(2, reset="zero"), 0.0, float), "reset 'subtract'"),
        (lambda: eprop_neurons(parameters(2), 0.0, float, damping=0), "damping must be a number > 0, got 0"),
        (lambda: eprop_neurons(parameters(2), -1.0, float), "tau_out must be a number >= 0, got -1.0"),
        (lambda: eprop_neurons(parameters(2), 0.0, float, dt=np.nan), "dt must be a number > 0, got nan"),
        (lambda: reward_eprop(**reward_arguments(), n_ticks=0), "n_ticks must be a whole number"),
        (lambda: reward_eprop(**reward_arguments() | {"uniform": np.full((2, 5), 1.5)}), "uniform must lie within"),
        (lambda: eprop(np.zeros((3, 9)), small_layer(np.random.default_rng(0)), np.zeros((3, 5))), "x must have shape"),
        (lambda: eprop(np.zeros((3, 4)), small_layer(np.random.default_rng(0)), np.zeros((2, 5))), "signal must have"),
        (lambda: eprop([[0.0]], Layer([[1.0]], [0.0], parameters(1)), [[0.0]]), "recurrent weights"),
        (
            lambda: reward_eprop(
                np.zeros((1, 2, 4)),
                np.zeros((1, 2, 2)),
                np.zeros((1, 2)),
                some_weights(np.random.default_rng(0)),
                eprop_neurons(parameters(5), 0.0, float),
            ),
            "rewards must have shape",
        ),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


EPROP_LAYER = Layer(np.ones((4, 2)), np.zeros(4), parameters(4), np.zeros((4, 4)))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x", "signal", *EpropState._fields])
def test_numbers_of_eprop_that_are_not_finite_are_refused(name, wrong):
    arrays = {"x": np.zeros((3, 2)), "signal": np.zeros((3, 4))} | rest(4, 6, float)._asdict()
    arrays[name].flat[-1] = wrong
    with pytest.raises(ValueError, match=rf"{name} must be finite, found {wrong}"):
        eprop(arrays.pop("x"), EPROP_LAYER, arrays.pop("signal"), state=EpropState(**arrays))


@pytest.mark.parametrize("name", EpropState._fields)
@pytest.mark.parametrize(
    "change", [lambda a: a[:-1], lambda a: a[None], lambda a: np.tile(a, 2), lambda a: a.astype(str)]
)
def test_a_state_of_eprop_of_another_size_or_dtype_is_refused(name, change):
    state = rest(4, 6, float)
    state = state._replace(**{name: change(getattr(state, name))})
    with pytest.raises(ValueError, match=rf"state.{name} must"):
        eprop(np.zeros((3, 2)), EPROP_LAYER, np.zeros((3, 4)), state=state)


@pytest.mark.parametrize(("name", "wrong"), [("z", 0.5), ("z", -1.0), ("refractory", 0.5), ("refractory", -1.0)])
def test_a_state_of_eprop_that_no_run_can_have_is_refused(name, wrong):
    state = rest(4, 6, float)
    getattr(state, name)[1] = wrong
    with pytest.raises(ValueError, match=rf"state.{name} must"):
        eprop(np.zeros((3, 2)), EPROP_LAYER, np.zeros((3, 4)), state=state)


def test_eprop_goes_on_from_what_it_returned_in_any_dtype_and_layout():
    rng = np.random.default_rng(0)
    x, signal = (rng.random((40, 2)) < 0.5).astype(float), rng.normal(size=(40, 4))
    whole = eprop(x, EPROP_LAYER, signal, 5.0)
    first = eprop(x[:20], EPROP_LAYER, signal[:20], 5.0)
    state = EpropState(*(np.asfortranarray(a).astype(">f8") for a in first.state))
    second = eprop(np.asfortranarray(x[20:]).astype(bool), EPROP_LAYER, signal[::-1][::-1][20:], 5.0, tuple(state))
    np.testing.assert_allclose(first.dw_in + second.dw_in, whole.dw_in, rtol=1e-12)
    np.testing.assert_array_equal(np.concatenate((first.spikes, second.spikes)), whole.spikes)


def reward_arguments():
    weights = initial_weights(np.random.default_rng(0), 2, 4, 3, feedback="random")
    return {
        "x": np.zeros((2, 5, 2)),
        "rewards": np.zeros((2, 5, 3)),
        "uniform": np.full((2, 5), 0.5),
        "weights": weights,
        "neurons": eprop_neurons(parameters(4), 0.0, np.float32),
    }


@pytest.mark.parametrize("name", ["x", "rewards", "uniform"])
@pytest.mark.parametrize("change", [lambda a: a[:, :-1], lambda a: a[..., :-1], lambda a: a[0], lambda a: a * np.nan])
def test_reward_eprop_refuses_arrays_that_do_not_fit(name, change):
    arguments = reward_arguments()
    arguments[name] = change(arguments[name])
    with pytest.raises(ValueError, match=r"(x|rewards|uniform) must"):
        reward_eprop(**arguments)


@pytest.mark.parametrize(
    ("part", "name"), [("weights", n) for n in EpropWeights._fields] + [("neurons", n) for n in EpropNeurons._fields]
)
@pytest.mark.parametrize(
    "change", [lambda a: np.atleast_1d(a)[:-1], lambda a: a[None], lambda a: a * np.inf, lambda a: a.astype(complex)]
)
def test_reward_eprop_refuses_weights_and_neurons_that_do_not_fit(part, name, change):
    arguments = reward_arguments()
    with np.errstate(invalid="ignore"):
        arguments[part] = arguments[part]._replace(**{name: change(getattr(arguments[part], name))})
    with pytest.raises(ValueError, match=rf"({part}.*|rewards|x) must"):
        reward_eprop(**arguments)


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_reward_eprop_takes_back_the_weights_it_returned(feedback):
    arguments, symmetric = reward_arguments(), feedback == "symmetric"
    arguments["weights"] = initial_weights(np.random.default_rng(0), 2, 4, 3, feedback=feedback)
    for _ in range(2):
        arguments["weights"], returns = reward_eprop(**arguments)
        assert (arguments["weights"].feedback is arguments["weights"].w_out) == symmetric and returns.shape == (2,)
