"""The weights of spiking layers that a constraint is about, as torch trains and saves them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from spikeloop.spiking.constraints import Constraint
from spikeloop.spiking.constraints.base import Synapses, begin

if TYPE_CHECKING:
    from spikeloop.spiking.spiking_layer import SpikingLayer


class ConstrainedWeights(nn.Module):
    """Which synapses layers have and what signs, beside weights that stay the layers' own parameters.

    Synapses, signs, the seed and the number of steps are buffers: what is drawn after a step depends on these alone, so
    that a training that is saved goes on as if it had not been. Latent weights are buffers too, where the constraint
    has any; parameters are always the weights that layers act with.

    Args:
        layers: The layers, whose weights are changed to what they must be at first.
        constraint: What they must be.
        seed: Of all that is drawn.

    Raises:
        ValueError: If the layers have no weights that the constraint is about, or all of their neurons would have the
            same sign.

    >>> from spikeloop.spiking import LSNN, Encoder
    >>> from spikeloop.spiking.constraints import constraint_for
    >>> lsnn = LSNN(Encoder("direct", 3), [20])
    >>> held = ConstrainedWeights(lsnn.layers, constraint_for("deep_r", {"connectivity": 0.1}), seed=0)
    >>> int((lsnn.layers[0].w_rec != 0).sum())  # of 20 * 19
    38
    """

    seed: torch.Tensor
    n_steps: torch.Tensor

    def __init__(self, layers: Iterable[SpikingLayer], constraint: Constraint, seed: int):
        super().__init__()
        self.constraint = constraint
        self.register_buffer("seed", torch.tensor(seed))
        self.register_buffer("n_steps", torch.tensor(0))
        self._held: list[tuple[SpikingLayer, str, str]] = []  # layer, its parameter, and our name for that
        rng, below = np.random.default_rng([seed, 0]), None
        for i, layer in enumerate(layers):
            senders = self._senders(layer.n_neurons, rng)
            if constraint.input_connectivity < 1 or constraint.acting is not None or below is not None:
                self._hold(layer, "w_in", f"{i}_w_in", below, rng)
            if layer.w_rec is not None:
                self._hold(layer, "w_rec", f"{i}_w_rec", senders, rng)
            below = senders
        if not self._held:
            raise ValueError(f"{constraint} has no weights to act on: it needs recurrent layers or input_connectivity")

    def _senders(self, n: int, rng: np.random.Generator) -> np.ndarray | None:
        """Return the sign of each neuron of a layer; None if they have none."""
        share = self.constraint.inhibitory
        if share is None:
            return None
        if not 0 < (n_inhibitory := round(share * n)) < n:
            raise ValueError(f"inhibitory={share} of {n} neurons must leave neurons of both signs, got {n_inhibitory}")
        senders = np.ones(n, np.int8)
        senders[rng.permutation(n)[:n_inhibitory]] = -1
        return senders

    def _hold(
        self, layer: SpikingLayer, name: str, key: str, senders: np.ndarray | None, rng: np.random.Generator
    ) -> None:
        w = getattr(layer, name)
        synapses = begin(self.constraint, w.detach().numpy(), senders, name == "w_rec", rng)
        self.register_buffer(f"sign_{key}", torch.from_numpy(synapses.sign))
        self.register_buffer(f"active_{key}", torch.from_numpy(synapses.active))
        self._held.append((layer, name, key))
        with torch.no_grad():
            if self.constraint.acting is None:
                w.copy_(torch.from_numpy(synapses.w))
            else:
                self.register_buffer(f"latent_{key}", torch.from_numpy(synapses.w))
                self._settle(key, w, synapses, 0.0, rng)  # drawn weights may lie out of range

    @property
    def weights(self) -> list[nn.Parameter]:
        """The parameters it is about."""
        return [getattr(layer, name) for layer, name, _ in self._held]

    @property
    def active(self) -> list[torch.Tensor]:
        """Where there are synapses, bool, one tensor for each of :attr:`weights`, of its shape."""
        return [self.get_buffer(f"active_{key}") for *_, key in self._held]

    def learnt(self, w: torch.Tensor) -> torch.Tensor:
        """Return what is learnt of a parameter: its latent weights, or itself. :meth:`act` after changing it."""
        keys = [key for (*_, key), mine in zip(self._held, self.weights, strict=True) if mine is w]
        return self.get_buffer(f"latent_{keys[0]}") if keys and self.constraint.acting is not None else w

    @torch.no_grad()
    def act(self) -> None:
        """Have layers act with latent weights that were changed; there is nothing to do where there are none."""
        if self.constraint.acting is not None:
            for (*_, key), w in zip(self._held, self.weights, strict=True):
                self._settle(key, w, self._synapses(key, self.get_buffer(f"latent_{key}")), 0.0, self._rng())

    def reseed(self, seed: int) -> None:
        """Draw by another seed from now on."""
        self.seed.fill_(seed)

    def mask_gradients(self) -> None:
        """Leave no gradient where no synapse is; this comes before gradients are clipped."""
        for w, active in zip(self.weights, self.active, strict=True):
            if w.grad is not None:
                w.grad *= active

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring the parameters back to what they must be after a step of their optimizer."""
        weights = self.weights
        moments = [
            [m for m in optimizer.state[w].values() if isinstance(m, torch.Tensor) and m.shape == w.shape]
            for w in weights
        ]
        self.hold(weights, moments, optimizer.param_groups[0]["lr"])

    @torch.no_grad()
    def hold(self, weights: Sequence[torch.Tensor], moments: Sequence[Sequence[torch.Tensor]], rate: float) -> None:
        """Bring weights back to what they must be after a step.

        Args:
            weights: Those of :attr:`weights`, or copies that stand for them; changed.
            moments: The optimizer's moments of each; set to 0 where a synapse is not the one it was.
            rate: Learning rate of the step.
        """
        self.n_steps += 1
        rng = self._rng()
        for (*_, key), w, m in zip(self._held, weights, moments, strict=True):
            moved = self._synapses(key, w)
            if self.constraint.acting is not None:  # the step began at the weights that act
                latent = self._synapses(key, self.get_buffer(f"latent_{key}"))
                moved = latent._replace(w=latent.w + (moved.w - self.constraint.acting(latent)))
            kept = self._settle(key, w, moved, rate, rng)
            cleared = torch.from_numpy(~kept).to(w.device)
            for moment in m:
                moment.masked_fill_(cleared, 0.0)

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([int(self.seed), int(self.n_steps)])

    def _synapses(self, key: str, w: torch.Tensor) -> Synapses:
        sign, active = self.get_buffer(f"sign_{key}"), self.get_buffer(f"active_{key}")
        return Synapses(*(tensor.detach().cpu().numpy() for tensor in (w, sign, active)))

    def _settle(self, key: str, w: torch.Tensor, moved: Synapses, rate: float, rng: np.random.Generator) -> np.ndarray:
        """Bring weights that were moved back to what they must be; return which synapses are still the same."""
        after, kept = self.constraint.after_step(moved, rate, rng)
        self.get_buffer(f"active_{key}").copy_(torch.from_numpy(after.active))
        if self.constraint.acting is not None:
            latent = self.get_buffer(f"latent_{key}")
            latent.copy_(torch.from_numpy(after.w))
            after = after._replace(w=self.constraint.acting(self._synapses(key, latent)))
        w.copy_(torch.from_numpy(after.w))
        return kept
