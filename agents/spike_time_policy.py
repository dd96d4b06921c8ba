"""A policy of exact spike times: every neuron spikes at most once per decision, and the first output spike acts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule

from spikeloop.agents.actor import head_for
from spikeloop.agents.checks import NOT_NEGATIVE, POSITIVE, Range, check_ranges, in_words
from spikeloop.agents.encoders import encoder_for
from spikeloop.agents.policy_arguments import check_no_weights_before, sizes_of
from spikeloop.agents.spiking_policy import SpikingPolicy
from spikeloop.spiking.spike_time import KERNELS, MAX_WINDOW, SpikeTimeLayer
from spikeloop.spiking.spike_time_module import SpikeTimeCore

_RANGES = {
    **dict.fromkeys(("v_th", "v_th_out", "tau", "window", "t_last", "layer_time", "logit_scale"), POSITIVE),
    **dict.fromkeys(
        ("deadline", "w_deadline", "w_pulse", "w_in_scale", "w_out_scale", "floor", "silent", "time_coef"), NOT_NEGATIVE
    ),
    "n_pulses": Range(0, whole=True),
}


class SpikeTimePolicy(SpikingPolicy):
    """Actor-critic policy of exact spike times (:mod:`spikeloop.spiking.spike_time`), for SpikingPPO and SpikingA2C.

    Every value of an observation becomes two input spikes. There is an output neuron for each choice, and with
    ``logits = -logit_scale t_out`` the most likely action is that of the neuron which spikes first. At that spike the
    decision is known, and the rest of the step need not be run. Times are in units of ``tau``. Every env step starts at
    rest.

    Args:
        observation_space: Observation space.
        action_space: Action space: Discrete or MultiDiscrete.
        lr_schedule: Learning rate schedule.
        n_neurons: Neurons in each hidden layer; a number stands for a single layer.
        encoder_kwargs: ``low`` and ``high`` of the code of first spikes
            (:class:`~spikeloop.spiking.encoders.first_spikes.FirstSpikes`), -3 and 3 if left out.
        kernel: One of :data:`~spikeloop.spiking.spike_time.KERNELS`.
        v_th: Threshold of hidden neurons.
        v_th_out: Threshold of the outputs.
        tau: Unit of time in ms. It rescales all times, and changes nothing else.
        window: Length of an env step; a neuron that does not spike counts as spiking at its end.
        t_last: When the latest input spikes come.
        n_pulses: Pulses to each neuron whose weights are trained; they serve as its bias.
        deadline: When the pulse of fixed weight comes to the first layer.
        layer_time: How much later it comes to each further layer; the other pulses come later by half of that.
        w_deadline: Weight of that pulse; 0 for no pulse, so that a neuron which nothing else drives is silent.
        w_pulse: Initial weight of the last trained pulse to the outputs. An output that spikes soon after this pulse
            has got all hidden spikes, and its time is a smooth function of theirs.
        w_in_scale: Standard deviation of the initial weights times ``sqrt(n_inputs)``.
        w_out_scale: The same for the outputs' weights.
        logit_scale: Logit per unit of time.
        floor: Where a membrane only touches its threshold, the derivative of its spike time has no bound. So it counts
            as rising by at least this share of the synaptic current.
        silent: The weights of a silent neuron that should spike earlier grow by this share of the gradient.
        time_coef: Weight of the outputs' mean time in the loss: the price of slow decisions.
        train_hidden: Train the hidden layers too. Off, they stay as they were drawn, which is a control.
        kwargs: Any option of :class:`~spikeloop.agents.spiking_policy.SpikingPolicy`.

    Raises:
        TypeError: If an option belongs neither to this policy nor to ``SpikingPolicy``.
        ValueError: If a value is out of range, or a space is not supported.

    >>> space = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)
    >>> policy = SpikeTimePolicy(*space, lambda _: 3e-4, n_neurons=16)
    >>> action, state = policy.predict(np.zeros(3, np.float32), episode_start=np.ones(1, bool), deterministic=True)
    >>> policy.lstm_actor.n_neurons, policy.lstm_actor.n_counted
    ((16, 2), 1)
    """

    lstm_actor: SpikeTimeCore

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *,
        n_neurons: int | Sequence[int] = (32,),
        encoder_kwargs: Mapping[str, Any] | None = None,
        kernel: str = "alpha",
        v_th: float = 0.4,
        v_th_out: float = 1.0,
        tau: float = 1.0,
        window: float = 5.0,
        t_last: float = 1.5,
        n_pulses: int = 2,
        deadline: float = 1.6,
        layer_time: float = 1.0,
        w_deadline: float = 5.0,
        w_pulse: float = 5.0,
        w_in_scale: float = 3.0,
        w_out_scale: float = 0.3,
        logit_scale: float = 10.0,
        floor: float = 0.1,
        silent: float = 0.05,
        time_coef: float = 0.0,
        train_hidden: bool = True,
        **kwargs: Any,
    ):
        own: dict[str, Any] = dict(
            n_neurons=sizes_of("n_neurons", n_neurons),
            encoder_kwargs=dict(encoder_kwargs or {}),
            kernel=kernel,
            v_th=v_th,
            v_th_out=v_th_out,
            tau=tau,
            window=window,
            t_last=t_last,
            n_pulses=n_pulses,
            deadline=deadline,
            layer_time=layer_time,
            w_deadline=w_deadline,
            w_pulse=w_pulse,
            w_in_scale=w_in_scale,
            w_out_scale=w_out_scale,
            logit_scale=logit_scale,
            floor=floor,
            silent=silent,
            time_coef=time_coef,
            train_hidden=train_hidden,
        )
        check_ranges(own, _RANGES)
        self._check_arguments(action_space, own, kwargs)
        super().__init__(observation_space, action_space, lr_schedule, own, **kwargs)

    @staticmethod
    def _check_arguments(action_space: spaces.Space, own: Mapping[str, Any], kwargs: Mapping[str, Any]) -> None:
        if not isinstance(action_space, (spaces.Discrete, spaces.MultiDiscrete)):
            raise ValueError(
                f"SpikeTimePolicy chooses by the first spike: Discrete or MultiDiscrete actions, got "
                f"{in_words(action_space)}"
            )
        if (kwargs.get("net_arch") or {}).get("pi"):
            raise ValueError(
                f"SpikeTimePolicy acts by its output neurons: net_arch pi must be [], got {kwargs['net_arch']}"
            )
        if own["kernel"] not in KERNELS:
            raise ValueError(f"kernel must be one of {KERNELS}, got {own['kernel']!r}")
        last = own["deadline"] + own["layer_time"] * len(own["n_neurons"])
        if not last < own["window"] <= MAX_WINDOW:
            raise ValueError(
                f"window must be above the outputs' deadline, {last:g}, and at most {MAX_WINDOW:g}, got {own['window']}"
            )

    def _make_core(self, arguments: dict[str, Any]) -> SpikeTimeCore:
        a, sizes = arguments, head_for(self.action_space).sizes
        encoder = encoder_for(
            "first_spikes", self.features_dim, {**a["encoder_kwargs"], "t_last": a["t_last"] * a["tau"]}
        )
        n, layers = encoder.n_channels, []
        for i, size in enumerate([*a["n_neurons"], sum(sizes)]):
            scale = a["w_in_scale"] if i < len(a["n_neurons"]) else a["w_out_scale"]
            w = th.randn(size, n + a["n_pulses"]).numpy() * np.float32(scale / np.sqrt(n))
            if i == len(a["n_neurons"]) and a["n_pulses"]:
                w[:, -1] = a["w_pulse"]
            pulses = np.linspace(0, a["t_last"], a["n_pulses"]) + 0.5 * a["layer_time"] * i
            times = (pulses * a["tau"]).astype(np.float32)
            deadline = (a["deadline"] + a["layer_time"] * i) * a["tau"]
            v_th = a["v_th"] if i < len(a["n_neurons"]) else a["v_th_out"]
            numbers = a["w_deadline"], deadline, v_th, a["tau"], a["kernel"]
            layers.append(SpikeTimeLayer(w[:, :n], w[:, n:], times, *numbers))
            n = size
        core = SpikeTimeCore(
            encoder, layers, a["window"] * a["tau"], sizes, a["floor"], a["silent"], a["time_coef"] / a["tau"]
        )
        for layer in core.layers[:-1] if not a["train_hidden"] else ():
            layer.requires_grad_(False)
        return core

    @contextmanager
    def _counting_rollout(self) -> Iterator[None]:
        core = self.lstm_actor
        others, core.decided = core.decided, self.rollout_decided
        with super()._counting_rollout():
            yield
        core.decided = others

    def reset_rollout_counts(self) -> None:
        """Begin to count the spikes and decisions of a rollout."""
        super().reset_rollout_counts()
        self.rollout_decided = np.zeros(3)

    def rollout_figures(self) -> dict[str, float]:
        """Return spikes per decision, the mean time of decisions in ms, and the share before the outputs' deadline."""
        counts, n = self.rollout_counts
        n_decided, time, early = self.rollout_decided.tolist()
        spikes, n_decided = sum(int(count.sum()) for count in counts) / max(n, 1), max(n_decided, 1.0)
        return {"spikes": spikes, "decision_time": time / n_decided, "before_deadline": early / n_decided}

    def _build_parts(self, lr_schedule: Schedule) -> None:
        super()._build_parts(lr_schedule)
        check_no_weights_before(self)
        scale = self._core_arguments["logit_scale"] / self._core_arguments["tau"]
        with th.no_grad():  # the earlier, the more likely
            self.action_net.get_parameter("weight").copy_(-scale * th.eye(self.lstm_actor.n_neurons[-1]))
            self.action_net.get_parameter("bias").zero_()
        self.action_net.requires_grad_(False)
