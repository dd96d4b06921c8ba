"""What else one could run: plain PyTorch, nn.LSTM, JAX, and the spiking libraries, where they are installed.

Each function returns callables by name that do one unit of work. The equations of "eager PyTorch" and of JAX are ours;
nn.LSTM is not spiking, snnTorch's and SpikingJelly's neurons do not adapt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from spikeloop.scripts.bench.timing import Contenders
from spikeloop.spiking import LSNN, LsnnNeurons, Network, Readout, reference


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad / (1 + 2 * ctx.saved_tensors[0].abs()) ** 2


Z = LsnnNeurons.rows.index("z")


class EagerLSNN:
    """One layer written as one would write it in plain PyTorch, with the weights and constants of an LSNN."""

    def __init__(self, lsnn: LSNN):
        (layer,) = lsnn.network_layers()
        weights = layer.w_in, layer.bias, layer.w_rec
        self.w_in, self.bias, self.w_rec = (torch.tensor(array, requires_grad=True) for array in weights)
        n = len(self.bias)
        readout = Readout(np.zeros((1, n), np.float32), np.zeros(1, np.float32))
        constants = reference.constants(Network(lsnn.encoder, lsnn.network_layers(), readout), 0)
        self.constants = constants._replace(
            **{n: torch.from_numpy(getattr(constants, n)) for n in constants._fields[:5]}
        )
        self.kappa = float(np.exp(-lsnn.dt / lsnn.tau_out)) if lsnn.tau_out else 0.0

    def rest(self, n_batch: int) -> tuple[reference.State, torch.Tensor]:
        """Return state and readout trace at rest."""
        zeros = torch.zeros(n_batch, len(self.bias))
        return (zeros, zeros, zeros, zeros), zeros

    def tick(self, x: torch.Tensor, state: reference.State, y: torch.Tensor) -> tuple[reference.State, torch.Tensor]:
        """Advance by one tick of input (B, n_inputs)."""
        current = nn.functional.linear(x, self.w_in, self.bias)
        state = reference.tick(LsnnNeurons, current, state, self.w_rec, self.constants, _Spike.apply)
        return state, self.kappa * y + (1 - self.kappa) * state[Z]


def training(lsnn: LSNN, x: torch.Tensor, grad: torch.Tensor) -> Contenders:
    """Return forward and backward passes over a sequence x (T, B, n_inputs) with a gradient (T, B, N) of the output."""
    n_t, n_batch, n_inputs = x.shape
    n = grad.shape[2]
    eager, lstm = EagerLSNN(lsnn), nn.LSTM(n_inputs, n)

    def run_eager() -> None:
        state, y = eager.rest(n_batch)
        ys = []
        for t in range(n_t):
            state, y = eager.tick(x[t], state, y)
            ys.append(y)
        torch.stack(ys).backward(grad)

    found: Contenders = {"eager PyTorch LSNN": run_eager, "nn.LSTM": lambda: lstm(x)[0].backward(grad)}
    with contextlib.suppress(ImportError):
        import norse.torch as norse

        norse_lsnn = norse.LSNNRecurrent(n_inputs, n)
        found["Norse LSNNRecurrent"] = lambda: norse_lsnn(x)[0].backward(grad)
    with contextlib.suppress(ImportError):
        import snntorch

        linear, leaky = nn.Linear(n_inputs, n), snntorch.RLeaky(beta=0.95, linear_features=n)

        def run_snntorch() -> None:
            spikes, membrane = leaky.init_rleaky()
            out, current = [], linear(x)
            for t in range(n_t):
                spikes, membrane = leaky(current[t], spikes, membrane)
                out.append(spikes)
            torch.stack(out).backward(grad)

        found["snnTorch RLeaky"] = run_snntorch
    with contextlib.suppress(ImportError):
        from spikingjelly.activation_based import functional, neuron

        jelly_in, jelly_rec, lif = nn.Linear(n_inputs, n), nn.Linear(n, n), neuron.LIFNode(tau=20.0)

        def run_spikingjelly() -> None:
            functional.reset_net(lif)
            spikes, out, current = torch.zeros(n_batch, n), [], jelly_in(x)
            for t in range(n_t):
                spikes = lif(current[t] + jelly_rec(spikes))
                out.append(spikes)
            torch.stack(out).backward(grad)

        found["SpikingJelly LIFNode"] = run_spikingjelly
    with contextlib.suppress(ImportError):
        found["JAX lax.scan, jit"] = _jax_training(eager, x.numpy(), grad.numpy())
    return found


def _jax_scan(eager: EagerLSNN) -> tuple[Callable, list[Any]]:
    """Return ``scan(weights, x, carry) -> carry, ys`` of the LSNN in JAX, and its weights."""
    import jax
    import jax.numpy as jnp

    @jax.custom_jvp
    def spike(u: Any) -> Any:
        return (u > 0).astype(u.dtype)

    spike.defjvp(lambda primals, tangents: (spike(*primals), tangents[0] / (1 + 2 * jnp.abs(primals[0])) ** 2))
    arrays = (jnp.asarray(np.asarray(c)) for c in eager.constants[:4])
    alpha, rho, v_th, beta = arrays

    def scan(weights: Any, x: Any, carry: Any) -> Any:
        w_in, bias, w_rec = weights

        def tick(carry: Any, current: Any) -> Any:
            v, a, z, y = carry
            a = rho * a + z
            v = alpha * v + current + z @ w_rec.T - v_th * z
            z = spike((v - v_th - beta * a) / v_th)
            y = eager.kappa * y + (1 - eager.kappa) * z
            return (v, a, z, y), y

        return jax.lax.scan(tick, carry, x @ w_in.T + bias)

    return scan, [jnp.asarray(w.detach().numpy()) for w in (eager.w_in, eager.bias, eager.w_rec)]


def _jax_training(eager: EagerLSNN, x: np.ndarray, grad: np.ndarray) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    scan, weights = _jax_scan(eager)
    rest = (jnp.zeros(grad.shape[1:], jnp.float32),) * 4

    @jax.jit
    def gradient(weights: Any, x: Any, grad: Any) -> Any:
        return jax.value_and_grad(lambda w: (scan(w, x, rest)[1] * grad).sum())(weights)

    return lambda: jax.block_until_ready(gradient(weights, jnp.asarray(x), jnp.asarray(grad)))


def stepping(lsnn: LSNN, w_out: np.ndarray, obs: np.ndarray) -> Contenders:
    """Return policy steps for one observation (1, n_obs), numpy in and an action out, each carrying its state along."""
    n, n_ticks = lsnn.n_neurons[0], lsnn.n_ticks
    eager, out = EagerLSNN(lsnn), torch.from_numpy(w_out)
    carried: dict[str, Any] = {"eager": eager.rest(1)}

    @torch.no_grad()
    def step_eager() -> int:
        state, y = carried["eager"]
        x = torch.from_numpy(obs)
        for _ in range(n_ticks):
            state, y = eager.tick(x, state, y)
        carried["eager"] = state, y
        return int((y @ out.T).argmax())

    found: Contenders = {"eager PyTorch LSNN": step_eager}
    with contextlib.suppress(ImportError):
        import norse.torch as norse

        cell = norse.LSNNRecurrentCell(obs.shape[1], n)

        @torch.no_grad()
        def step_norse() -> int:
            x = torch.from_numpy(obs)
            for _ in range(n_ticks):
                spikes, carried["norse"] = cell(x, carried.get("norse"))
            return int((spikes @ out.T).argmax())

        found["Norse LSNNRecurrentCell"] = step_norse
    with contextlib.suppress(ImportError):
        import snntorch

        linear, leaky = nn.Linear(obs.shape[1], n), snntorch.RLeaky(beta=0.95, linear_features=n)
        carried["snntorch"] = leaky.init_rleaky()

        @torch.no_grad()
        def step_snntorch() -> int:
            current, (spikes, membrane) = linear(torch.from_numpy(obs)), carried["snntorch"]
            for _ in range(n_ticks):
                spikes, membrane = leaky(current, spikes, membrane)
            carried["snntorch"] = spikes, membrane
            return int((spikes @ out.T).argmax())

        found["snnTorch RLeaky"] = step_snntorch
    with contextlib.suppress(ImportError):
        from spikingjelly.activation_based import neuron

        jelly_in, jelly_rec, lif = nn.Linear(obs.shape[1], n), nn.Linear(n, n), neuron.LIFNode(tau=20.0)
        carried["jelly"] = torch.zeros(1, n)

        @torch.no_grad()
        def step_spikingjelly() -> int:
            current, spikes = jelly_in(torch.from_numpy(obs)), carried["jelly"]
            for _ in range(n_ticks):
                spikes = lif(current + jelly_rec(spikes))
            carried["jelly"] = spikes
            return int((spikes @ out.T).argmax())

        found["SpikingJelly LIFNode"] = step_spikingjelly
    with contextlib.suppress(ImportError):
        found["JAX lax.scan, jit"] = _jax_stepping(eager, w_out, obs, n_ticks)
    return found


def _jax_stepping(eager: EagerLSNN, w_out: np.ndarray, obs: np.ndarray, n_ticks: int) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    scan, weights = _jax_scan(eager)
    carried = [(jnp.zeros((1, w_out.shape[1]), jnp.float32),) * 4]

    @jax.jit
    def step(carry: Any, x: Any) -> Any:
        carry, ys = scan(weights, jnp.broadcast_to(x, (n_ticks, *x.shape)), carry)
        return carry, (ys[-1] @ w_out.T).argmax()

    def call() -> int:
        carried[0], action = step(carried[0], obs)
        return int(action)

    return call
