"""A policy of recurrent neurons that spike several times per decision at exact times, trained by EventProp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule

from spikeloop.agents.checks import NOT_NEGATIVE, POSITIVE, Range, check_ranges
from spikeloop.agents.encoders import encoder_for
from spikeloop.agents.policy_arguments import check_no_weights_before, sizes_of
from spikeloop.agents.spiking_policy import SpikingPolicy
from spikeloop.spiking.event_prop import MAX_SPIKES, EventPropLayer
from spikeloop.spiking.event_prop_module import EventPropCore, EventPropNeurons
from spikeloop.spiking.spike_time import KERNELS, MAX_WINDOW

_RANGES = {
    **dict.fromkeys(("v_th", "tau", "t_last"), POSITIVE),
    **dict.fromkeys(("w_in_scale", "w_rec_scale", "floor", "silent"), NOT_NEGATIVE),
    "window": Range(0, MAX_WINDOW, above=True),
    "max_spikes": Range(1, MAX_SPIKES, whole=True),
    "n_pulses": Range(0, whole=True),
}


class EventPropPolicy(SpikingPolicy):
    """Actor-critic policy of a recurrent layer trained by EventProp (:mod:`spikeloop.spiking.event_prop`).

    For SpikingPPO and SpikingA2C. Every value of an observation becomes two input spikes, as for ``SpikeTimePolicy``.
    The neurons' traces at the end of the step go to a trained linear readout, so that all action spaces are possible.
    Times are in units of ``tau``. Every env step starts at rest.

    Args:
        observation_space: Observation space.
        action_space: Action space.
        lr_schedule: Learning rate schedule.
        n_neurons: Neurons of the layer.
        encoder_kwargs: ``low`` and ``high`` of the code of first spikes
            (:class:`~spikeloop.spiking.encoders.first_spikes.FirstSpikes`), -3 and 3 if left out.
        kernel: One of :data:`~spikeloop.spiking.spike_time.KERNELS`.
        v_th: Threshold.
        tau: Unit of time in ms. It rescales all times, and changes nothing else.
        window: Length of an env step.
        t_last: When the latest input spikes come.
        max_spikes: Spikes of a neuron in an env step at most; it is silent afterwards.
        n_pulses: Pulses to each neuron, from 0 to ``t_last``, whose weights are trained; they serve as its bias.
        w_in_scale: Standard deviation of the initial weights of inputs and pulses times ``sqrt(n_inputs)``.
        w_rec_scale: The same of the weights between neurons, times ``sqrt(n_neurons)``.
        floor: Where a membrane only touches its threshold, the derivative of its spike time has no bound. So it counts
            as rising by at least this share of the synaptic current.
        silent: The weights of a silent neuron whose trace should be larger grow by this share of the gradient.
        recurrent: Off, the weights between neurons are 0 and stay so, which is a control.
        train_hidden: Train the layer too. Off, it stays as it was drawn, which is a control.
        kwargs: Any option of :class:`~spikeloop.agents.spiking_policy.SpikingPolicy`.

    Raises:
        TypeError: If an option belongs neither to this policy nor to ``SpikingPolicy``.
        ValueError: If a value is out of range, or a space is not supported.

    >>> space = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)
    >>> policy = EventPropPolicy(*space, lambda _: 3e-4, n_neurons=16)
    >>> action, state = policy.predict(np.zeros(3, np.float32), episode_start=np.ones(1, bool), deterministic=True)
    >>> policy.lstm_actor.n_neurons, policy.lstm_actor.n_counted
    ((16,), 8)
    """

    lstm_actor: EventPropCore

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *,
        n_neurons: int | Sequence[int] = (32,),
        encoder_kwargs: Mapping[str, Any] | None = None,
        kernel: str = "double",
        v_th: float = 0.4,
        tau: float = 1.0,
        window: float = 5.0,
        t_last: float = 1.5,
        max_spikes: int = 8,
        n_pulses: int = 2,
        w_in_scale: float = 3.0,
        w_rec_scale: float = 0.3,
        floor: float = 0.1,
        silent: float = 0.05,
        recurrent: bool = True,
        train_hidden: bool = True,
        **kwargs: Any,
    ):
        own: dict[str, Any] = dict(
            n_neurons=sizes_of("n_neurons", n_neurons),
            encoder_kwargs=dict(encoder_kwargs or {}),
            kernel=kernel,
            v_th=v_th,
            tau=tau,
            window=window,
            t_last=t_last,
            max_spikes=max_spikes,
            n_pulses=n_pulses,
            w_in_scale=w_in_scale,
            w_rec_scale=w_rec_scale,
            floor=floor,
            silent=silent,
            recurrent=recurrent,
            train_hidden=train_hidden,
        )
        check_ranges(own, _RANGES)
        if len(own["n_neurons"]) != 1:
            raise ValueError(f"EventPropPolicy has one recurrent layer, got n_neurons={list(own['n_neurons'])}")
        if kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {KERNELS}, got {kernel!r}")
        super().__init__(observation_space, action_space, lr_schedule, own, **kwargs)

    def _make_core(self, arguments: dict[str, Any]) -> EventPropCore:
        a, (size,) = arguments, arguments["n_neurons"]
        encoder = encoder_for(
            "first_spikes", self.features_dim, {**a["encoder_kwargs"], "t_last": a["t_last"] * a["tau"]}
        )
        n = encoder.n_channels
        w = th.randn(size, n + a["n_pulses"]).numpy() * np.float32(a["w_in_scale"] / np.sqrt(n))
        w_rec = th.randn(size, size).numpy() * np.float32(a["recurrent"] * a["w_rec_scale"] / np.sqrt(size))
        pulses = (np.linspace(0, a["t_last"], a["n_pulses"]) * a["tau"]).astype(np.float32)
        layer = EventPropLayer(w[:, :n], w[:, n:], w_rec, pulses, a["v_th"], a["tau"], a["kernel"], a["max_spikes"])
        neurons = EventPropNeurons(layer, a["floor"], a["silent"])
        neurons.requires_grad_(a["train_hidden"])
        if not a["recurrent"]:
            neurons.get_parameter("w_rec").requires_grad_(False)
        return EventPropCore(encoder, neurons, a["window"] * a["tau"])

    @contextmanager
    def _counting_rollout(self) -> Iterator[None]:
        core = self.lstm_actor
        others, core.n_exhausted = core.n_exhausted, self.rollout_exhausted
        with super()._counting_rollout():
            yield
        core.n_exhausted = others

    def reset_rollout_counts(self) -> None:
        """Begin to count the spikes and exhausted neurons of a rollout."""
        super().reset_rollout_counts()
        self.rollout_exhausted = np.zeros(1, np.int64)

    def rollout_figures(self) -> dict[str, float]:
        """Return spikes per decision, and the share of neurons that used up their ``max_spikes``."""
        ((count,), n), core = self.rollout_counts, self.lstm_actor
        n_steps = max(n // core.n_ticks, 1)
        return {"spikes": int(count.sum()) / n_steps, "exhausted": self.rollout_exhausted[0] / (n_steps * count.size)}

    def _build_parts(self, lr_schedule: Schedule) -> None:
        super()._build_parts(lr_schedule)
        check_no_weights_before(self)
