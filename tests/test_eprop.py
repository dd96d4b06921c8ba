"""e-prop: kernels equal the equations, eligibilities are gradients, episodes equal single steps, rewards teach."""

import math

import numpy as np
import pytest
import torch
from eprop_layers import parameters, small_layer, some_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloop.spiking import reference as lsnn
from spikeloop.spiking.decay import decay
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.network import Network
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.rules import eprop_kernels
from spikeloop.spiking.rules.base import Post, run
from spikeloop.spiking.rules.eprop import SignalEprop, eprop, eprop_neurons
from spikeloop.spiking.rules.eprop_kernels import LINE_FLOOR, EpropState, EpropWeights
from spikeloop.spiking.rules.reward_eprop import (
    FEEDBACK,
    OPTIMIZERS,
    TAU_RATE,
    RewardEprop,
    initial_weights,
    new_learner,
    reward_eprop,
)


class Running:
    """LSNN neurons that run by their own equations, and note what synapses see of them."""

    def __init__(self, neurons, tau_out=0.0):
        self.c, self.kappa = neurons.constants(1.0, np.float64), float(decay(tau_out))
        self.z, self.y = np.zeros(neurons.n_neurons), np.zeros(neurons.n_neurons)
        self.state = tuple(np.zeros((3, neurons.n_neurons)))  # v, a, refractory

    def tick(self, x, w):
        """Advance by one tick; return what arrived at the synapses, and the neurons behind them."""
        seen, free = [], self.state[2] == 0

        def spike(u):
            seen.append(u)
            return (u > 0) * 1.0

        arrived = np.concatenate((x, self.z))
        self.z, self.state = LsnnNeurons.tick(w @ arrived, self.z, self.state, self.c, spike)
        self.y = self.kappa * self.y + (1 - self.kappa) * self.z
        return arrived, Post(self.z, seen[0], free)


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 40), st.sampled_from([0.0, 6.0]), st.integers(0, 2))
def test_eprop_is_its_equations(seed, n_t, tau_out, refractory):
    rng = np.random.default_rng(seed)
    layer = small_layer(rng, refractory=refractory)
    x, signal = (rng.random((n_t, 4)) < 0.4) * 1.0, rng.normal(size=(n_t, 5))
    result = eprop(x, layer, signal, tau_out)
    running, w = Running(layer.neurons, tau_out), np.concatenate((layer.w_in, layer.w_rec), axis=1)
    ticks = [running.tick(now, w) for now in x]
    pre = np.reshape([arrived for arrived, _ in ticks], (n_t, 9))
    post = Post(*(np.reshape([getattr(p, name) for _, p in ticks], (n_t, 5)) for name in Post._fields))
    np.testing.assert_array_equal(result.spikes, post.z)
    rule = SignalEprop(learning_rate=1.0, tau_out=tau_out)
    dw, traces = run(rule, pre, post, signal, np.zeros_like(w), neurons=layer.neurons)
    np.testing.assert_allclose(result.dw_in, dw[:, :4], atol=1e-12)
    np.fill_diagonal(dw[:, 4:], 0)
    np.testing.assert_allclose(result.dw_rec, dw[:, 4:], atol=1e-12)
    v, a, left = running.state
    expected = EpropState(v, a, running.z, left, running.y, *traces)
    for one, other in zip(result.state, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_sequence_can_be_cut_anywhere():
    rng = np.random.default_rng(0)
    layer = small_layer(rng, refractory=1)
    x, signal = (rng.random((50, 4)) < 0.4) * 1.0, rng.normal(size=(50, 5))
    whole, first = eprop(x, layer, signal, 6.0), eprop(x[:17], layer, signal[:17], 6.0)
    second = eprop(x[17:], layer, signal[17:], 6.0, first.state)
    np.testing.assert_allclose(first.dw_rec + second.dw_rec, whole.dw_rec, atol=1e-12)
    np.testing.assert_array_equal(np.concatenate((first.spikes, second.spikes)), whole.spikes)


class Triangle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * 0.3 * torch.clamp(1 - ctx.saved_tensors[0].abs(), min=0)


@pytest.mark.parametrize("refractory", [0, 2])
def test_eprop_is_the_gradient_through_the_neuron_itself(refractory):
    """Autograd through the same LSNN with spikes cut where they leave for other neurons, and at the reset."""
    rng = np.random.default_rng(3)
    layer, tau_out, n_t = small_layer(rng, n=6, refractory=refractory), 5.0, 60
    x, signal = torch.from_numpy((rng.random((n_t, 4)) < 0.4) * 1.0), torch.from_numpy(rng.normal(size=(n_t, 6)))
    network = Network(Encoder("direct", 4), (layer,), Readout(np.zeros((1, 6)), np.zeros(1)))
    alpha, rho, v_th, beta, held = (torch.from_numpy(array) for array in lsnn.constants(network, 0)[:5])
    w_in = torch.tensor(layer.w_in, requires_grad=True)
    w_rec = torch.tensor(layer.w_rec, requires_grad=True)
    v = a = z = y = left = torch.zeros(6, dtype=torch.float64)
    kappa, error = float(decay(tau_out)), torch.zeros((), dtype=torch.float64)
    for t in range(n_t):
        a = rho * a + z
        v = alpha * v + w_in @ x[t] + w_rec @ z.detach() - v_th * z.detach()
        free = left == 0
        z = Triangle.apply((v - v_th - beta * a) / v_th) * free
        left = torch.where(z > 0, held, torch.clamp(left - 1, min=0))
        y = kappa * y + (1 - kappa) * z
        error = error + (signal[t] * y).sum()
    error.backward()
    result = eprop(x.numpy(), layer, signal.numpy(), tau_out)
    assert result.spikes.mean() > 0.1
    np.testing.assert_allclose(result.dw_in, w_in.grad, atol=1e-12)
    off_diagonal = w_rec.grad.numpy()
    np.fill_diagonal(off_diagonal, 0)
    np.testing.assert_allclose(result.dw_rec, off_diagonal, atol=1e-12)


def probabilities(preferences):
    exponentials = np.exp(preferences - preferences.max())
    return exponentials / exponentials.sum()


class Reference:
    """Actor-critic e-prop in plain numpy, one env step at a time, by the rule's equations."""

    def __init__(self, weights, neurons, rule, n_ticks, values=None):
        self.weights, self.rule, self.n_ticks = weights._replace(rate=weights.rate.copy()), rule, n_ticks
        self.neurons, self.moments = neurons, new_learner(weights, eprop_neurons(neurons, 6.0, float), rule).moments
        self.c = SignalEprop(tau_out=6.0).constants(1.0, np.float64, neurons)
        self.values = values  # of a critic on lines
        self.begin()

    def begin(self):
        n, m = self.weights.w.shape
        self.biased = self.weights.w_out.shape[1] > n
        self.running, self.last, self.lines = Running(self.neurons, 6.0), None, None
        self.traces = SignalEprop().begin(n, m, np.float64)
        self.memory = new_learner(self.weights, eprop_neurons(self.neurons, 6.0, float), self.rule).memory
        self.line_traces = None if self.values is None else np.zeros_like(self.values)

    def forward(self, x, lines):
        for tick in range(self.n_ticks):
            arrived, post = self.running.tick(x[min(tick, len(x) - 1)], self.weights.w)
            self.traces = SignalEprop.tick(arrived, post, self.traces, self.c)
            self.weights.rate[:] += (post.z - self.weights.rate) / TAU_RATE
        self.y = np.append(self.running.y, [1.0] * self.biased)
        outputs = self.weights.w_out @ self.y
        value = outputs[-1] if self.values is None else self.values[lines].sum()
        return outputs[:-1], value + self.rule.initial_value

    def learn(self, delta):
        self.weights, self.moments = self.rule.change(delta, self.traces.e_bar, self.weights, self.memory, self.moments)
        if self.values is not None:  # the readout's row for the value is not looked at
            self.weights.w_out[-1] = 0
            self.values = self.values + self.rule.value_rate * delta * self.line_traces

    def step(self, x, lines, reward, errors_of):
        outputs, value = self.forward(x, lines)
        if self.last is not None:
            self.learn(self.rule.reward_scale * reward + self.rule.gamma * value - self.last)
        result, errors = errors_of(outputs)
        self.memory = self.rule.remember(errors, self.y, self.traces.e_bar, self.weights, self.memory)
        if self.values is not None:
            self.line_traces = self.line_traces * self.rule.gamma * self.rule.trace_lambda
            self.line_traces[self.line_traces < LINE_FLOOR / len(lines)] = 0
            self.line_traces[lines] = 1 / len(lines)
        self.last = value
        return result

    def end(self, x, lines, reward, truncated):
        delta = self.rule.reward_scale * reward - self.last
        if truncated:
            delta += self.rule.gamma * self.forward(x, lines)[1]
        self.learn(delta)
        self.begin()


def draw_discrete(uniform):
    def errors_of(preferences):
        pi = probabilities(preferences)
        action = min(np.searchsorted(np.cumsum(pi), uniform, side="right"), len(pi) - 1)
        return action, (np.arange(len(pi)) == action) - pi

    return errors_of


def log_tail(z):
    return math.log(0.5 * math.erfc(z / math.sqrt(2)))


def draw_gaussian(noise, std, low, high):
    """Errors by finite differences of the log-probability of what is done."""

    def log_probability(mean, k, action):
        if action >= high:
            return log_tail((high - mean) / std[k])
        if action <= low:
            return log_tail((mean - low) / std[k])
        return -0.5 * ((action - mean) / std[k]) ** 2

    def errors_of(mean):
        action = np.clip(mean + std * noise, low, high)
        differences = [
            log_probability(m + 1e-5, k, a) - log_probability(m - 1e-5, k, a)
            for k, (m, a) in enumerate(zip(mean, action, strict=True))
        ]
        return action, np.array(differences) / 2e-5

    return errors_of


@st.composite
def rules(draw):
    return RewardEprop(
        trace_lambda=draw(st.sampled_from([0.0, 0.7])),
        learning_rate=draw(st.sampled_from([0.0, 0.1])),
        rate_coef=0.5,
        reward_scale=draw(st.sampled_from([1.0, -0.3])),
        initial_value=draw(st.sampled_from([0.0, 0.8])),
        trace_max=draw(st.sampled_from([None, 0.02])),
        optimizer=draw(st.sampled_from(OPTIMIZERS)),
    )


def same_weights(new, right, atol=1e-9):
    np.testing.assert_allclose(new.w, right.w, atol=atol)
    np.testing.assert_allclose(new.w_out, right.w_out, atol=atol)
    np.testing.assert_allclose(new.rate, right.rate, atol=1e-12)


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.booleans(), st.booleans(), rules(), st.integers(1, 3))
def test_reward_eprop_is_its_equations(seed, symmetric, biased, rule, n_ticks):
    rng = np.random.default_rng(seed)
    weights, neurons = some_weights(rng, symmetric=symmetric, biased=biased), parameters(5, refractory=1)
    x, rewards, uniform = (rng.random((3, 6, 4)) < 0.4) * 1.0, rng.normal(size=(3, 6, 3)), rng.random((3, 6))
    new, returns = reward_eprop(x, rewards, uniform, weights, eprop_neurons(neurons, 6.0, np.float64), rule, n_ticks)
    reference, expected = Reference(weights, neurons, rule, n_ticks), np.zeros(3)
    for episode in range(3):
        reward = 0.0
        for t in range(6):
            action = reference.step(x[episode, t : t + 1], None, reward, draw_discrete(uniform[episode, t]))
            reward = rewards[episode, t, action]
            expected[episode] += reward
        reference.end(None, None, reward, truncated=False)
    same_weights(new, reference.weights)
    np.testing.assert_allclose(returns, expected, atol=1e-12)
    assert (new.feedback is new.w_out) == symmetric
    assert rule.learning_rate > 0 or np.array_equal(new.w, weights.w)


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.booleans(), st.booleans(), st.booleans(), rules(), st.integers(1, 3))
def test_single_steps_are_the_equations(seed, is_box, by_lines, spikes, rule, n_ticks):
    """Discrete and Gaussian actions, critics on lines and on the trace, input held or new on every tick, both ends."""
    rng = np.random.default_rng(seed)
    weights, neurons = some_weights(rng, symmetric=False, biased=True), parameters(5)
    values = rng.normal(size=12) if by_lines else None
    reference = Reference(weights, neurons, rule, n_ticks, values)
    learner = new_learner(
        EpropWeights(*(array.copy() for array in weights)),
        eprop_neurons(neurons, 6.0, np.float64),
        rule,
        values=None if values is None else values.copy(),
    )
    outputs, std = np.empty(4), np.array([0.5, 1.0, 2.0])
    if by_lines:
        learner.weights.w_out[-1] = reference.weights.w_out[-1] = 0

    def see():
        x = (rng.random((n_ticks if spikes else 1, 4)) < 0.5) * 1.0
        x[:, 3] = 1  # of biases
        return x, np.sort(rng.choice(12, 3, replace=False)) if by_lines else np.empty(0, np.int64)

    for truncated in (False, True):
        for _ in range(8):
            (x, lines), reward, noise, uniform = see(), rng.normal(), rng.normal(size=3), rng.random()
            if is_box:
                expected = reference.step(x, lines, reward, draw_gaussian(noise, std, -0.8, 0.9))
                gaussian = np.array((std, np.full(3, -0.8), np.full(3, 0.9)))
                eprop_kernels.reward_eprop_act_box(x, lines, reward, noise, gaussian, n_ticks, learner, outputs)
                np.testing.assert_allclose(outputs[:-1], expected, atol=1e-6)
            else:
                expected = reference.step(x, lines, reward, draw_discrete(uniform))
                action = eprop_kernels.reward_eprop_act(x, lines, reward, uniform, n_ticks, learner, outputs)
                assert action == expected
        (x, lines), reward = see(), rng.normal()
        reference.end(x, lines, reward, truncated)
        eprop_kernels.reward_eprop_end(x, lines, reward, truncated, n_ticks, learner, outputs)
    same_weights(learner.weights, reference.weights, atol=1e-6 if is_box else 1e-9)
    if by_lines:
        np.testing.assert_allclose(learner.critic.w, reference.values, atol=1e-9)
    assert not learner.memory.trace.any() and not learner.critic.trace.any() and learner.critic.n_live[0] == 0
    np.testing.assert_array_equal(learner.state.y, [0, 0, 0, 0, 0, 1])


def test_a_time_limit_is_bootstrapped():
    """Cut off, the last step learns from the value of where it was cut off; ended, from the reward alone."""
    rng, rule, none = np.random.default_rng(5), RewardEprop(gamma=0.9), np.empty(0, np.int64)
    x, after = np.ones((1, 4)), np.array([[1.0, 0, 0, 1]])
    changed = []
    for truncated in (False, True):
        weights, outputs = some_weights(np.random.default_rng(1)), np.empty(4)
        learner = new_learner(weights, eprop_neurons(parameters(5), 6.0, np.float64), rule)
        eprop_kernels.reward_eprop_act(x, none, 0.0, rng.random(), 3, learner, outputs)
        before, y, value = weights.w_out[-1].copy(), learner.state.y.copy(), outputs[-1]
        eprop_kernels.reward_eprop_end(after, none, 1.0, truncated, 3, learner, outputs)
        bootstrap = 0.9 * outputs[-1] if truncated else 0.0
        np.testing.assert_allclose(weights.w_out[-1] - before, 0.05 * (1.0 + bootstrap - value) * y, atol=1e-12)
        assert all(not array.any() for array in (*learner.state, *learner.memory))
        changed.append(weights.w_out[-1])
    assert not np.allclose(*changed)


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_feedback_begins_as_it_is_named(feedback):
    weights = initial_weights(np.random.default_rng(0), 3, 4, 2, feedback=feedback, bias_scale=0.5)
    assert weights.w.shape == (4, 3 + 1 + 4) and weights.w_out.shape == weights.feedback.shape == (3, 5)
    assert (weights.w[:, 3] > 0).all() and (weights.w[:, 3] < 0.5).all() and not weights.w_out[:, 4].any()
    assert (weights.feedback is weights.w_out) == (feedback == "symmetric")
    assert np.array_equal(weights.feedback, weights.w_out) == (feedback != "random")


def test_it_learns_which_of_two_channels_was_on():
    """A cue of two steps, three steps of silence, then the choice, with no environment at all."""
    rng = np.random.default_rng(3)
    n_episodes, n = 3000, 20
    side, x = rng.integers(2, size=n_episodes), np.zeros((n_episodes, 6, 15))
    for episode, where in enumerate(side):
        x[episode, :2, 5 * where : 5 * where + 5] = 1
    x[:, 5, 10:] = 1
    rewards = np.zeros((n_episodes, 6, 2))
    rewards[np.arange(n_episodes), 5, side] = 1
    weights = initial_weights(rng, 15, n, 2, w_in_scale=2.0, dtype=np.float64)
    neurons = eprop_neurons(LsnnNeurons(*(np.full(n, value) for value in (4.5, 1.0, 100.0, 0.3, 0))), 6.0, np.float64)
    _, returns = reward_eprop(x, rewards, rng.random((n_episodes, 6)), weights, neurons, n_ticks=4)
    assert returns[:100].mean() < 0.75
    assert returns[-200:].mean() > 0.85  # of drawn actions
