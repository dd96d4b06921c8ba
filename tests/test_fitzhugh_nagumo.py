"""FitzHugh-Nagumo neurons against an integrator of scipy, and against the theory of their threshold."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from spikeloop.spiking.neurons.fitzhugh_nagumo import FitzHughNagumo


def trajectory(current, dt, n_ticks, **options):
    """Return v and w of the model after each tick, from rest."""
    neurons = FitzHughNagumo(gain=np.ones(1), **options)
    constants, (v_rest, w_rest) = neurons.constants(dt, np.float64), neurons.rest
    z, state, found = np.zeros(1), (np.zeros(1), np.zeros(1)), []
    for _ in range(n_ticks):
        z, state = neurons.tick(np.full(1, current), z, state, constants, None)
        found.append((state[0][0] + v_rest[0], state[1][0] + w_rest[0], z[0]))
    return np.array(found).T


@pytest.mark.parametrize("current", [0.2, 0.5, 1.0, -0.5])
def test_euler_steps_converge_to_the_solution_of_the_equations(current):
    def model(t, x):
        v, w = x
        return v - v**3 / 3 - w + current, 0.08 * (v + 0.7 - 0.8 * w)

    start = [float(x[0]) for x in FitzHughNagumo(gain=np.ones(1)).rest]
    exact = solve_ivp(model, (0, 20), start, "LSODA", rtol=1e-10, atol=1e-12, t_eval=np.arange(1, 21)).y
    errors = []
    for dt in (0.02, 0.01, 0.005):
        stride = round(1 / dt)
        found = trajectory(current, dt, 20 * stride)[:2, stride - 1 :: stride]
        errors.append(np.abs(found - exact).max())
    assert errors[-1] < 0.02
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 2, rtol=0.2)  # of the first order


def growth(background, dt=0.01):
    """Return what a small distance from rest has become after 1000 units of time, as a factor."""
    neurons = FitzHughNagumo(background=np.array([background]))
    constants = neurons.constants(dt, np.float64)
    z, state, furthest = np.zeros(1), (np.full(1, 1e-6), np.zeros(1)), []
    for _ in range(round(1000 / dt)):
        z, state = neurons.tick(np.zeros(1), z, state, constants, None)
        furthest.append(abs(state[0][0]))
    period = round(60 / dt)
    return max(furthest[-period:]) / max(furthest[:period])


def test_rest_loses_its_stability_where_the_theory_has_it():
    # trace of the Jacobian: 1 - V^2 - 0.064 = 0 at V = -0.96747, which is the rest of I = 0.33128
    v = -np.sqrt(1 - 0.08 * 0.8)
    assert v - v**3 / 3 - (v + 0.7) / 0.8 == pytest.approx(-0.33128, abs=1e-5)
    assert growth(0.325) < 1 < growth(0.337)


def test_a_steady_current_above_the_threshold_fires_again_and_again_below_it_once_at_most():
    def spikes(current):
        z = trajectory(current, 0.05, 8000)[2]
        return np.sum((z[1:] > 0.5) & (z[:-1] <= 0.5))

    assert spikes(0.5) >= 8 and spikes(0.3) <= 1 and spikes(0.0) == 0


def test_rest_is_where_both_equations_stand_still():
    neurons = FitzHughNagumo(background=np.linspace(-10, 10, 41))
    v, w = neurons.rest
    np.testing.assert_allclose(v - v**3 / 3 - w + neurons.background, 0, atol=1e-9)
    np.testing.assert_allclose(v + 0.7 - 0.8 * w, 0, atol=1e-12)


def test_the_output_is_nearly_the_logistic_function():
    neurons = FitzHughNagumo(gain=np.ones(1))
    constants = neurons.constants(1e-9, np.float64)  # v stands still
    v = np.linspace(-3, 3, 601)
    z, _ = neurons.tick(np.zeros(1), np.zeros(1), (v - neurons.rest[0], np.zeros(1)), constants, None)
    np.testing.assert_allclose(z, 1 / (1 + np.exp(-v / 0.2)), atol=0.012)
    assert (np.diff(z) >= 0).all() and z[0] == pytest.approx(0, abs=1e-9) and z[-1] == pytest.approx(1, abs=1e-9)


def test_wrong_parameters_are_refused_by_name():
    with pytest.raises(ValueError, match=r"FitzHughNagumo.width must be within \[0.01, 100\], found 0"):
        FitzHughNagumo(width=np.zeros(2))
    with pytest.raises(ValueError, match=r"FitzHughNagumo neurons take ticks dt of at most 1, got 1.5"):
        FitzHughNagumo(width=np.ones(2)).constants(1.5, np.float32)
