"""Policies of SpikingPPO and SpikingA2C: those with LSNN neurons, and the registry of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule

from spikeloop.agents.encoders import encoder_for
from spikeloop.agents.equilibrium_policy import EquilibriumPolicy
from spikeloop.agents.event_prop_policy import EventPropPolicy
from spikeloop.agents.known_arguments import arguments_of
from spikeloop.agents.policy_arguments import (
    FORMER,
    LSNN_OPTIONS,
    OF_INPUT,
    check_no_layers,
    check_options,
    former_surrogate,
    sizes_of,
)
from spikeloop.agents.spike_time_policy import SpikeTimePolicy
from spikeloop.agents.spiking_policy import SpikingPolicy
from spikeloop.spiking.constrained_weights import ConstrainedWeights
from spikeloop.spiking.constraints import constraint_for
from spikeloop.spiking.core import Core
from spikeloop.spiking.gradients import gradient_for
from spikeloop.spiking.input_core import InputCore
from spikeloop.spiking.module import LSNN


class LsnnPolicy(SpikingPolicy):
    """Actor-critic policy with a recurrent spiking actor, for SpikingPPO and SpikingA2C.

    Args:
        observation_space: Observation space.
        action_space: Action space: Box, Discrete, MultiDiscrete or MultiBinary.
        lr_schedule: Learning rate schedule.
        n_neurons: Neurons in each spiking layer; a number stands for a single layer. With ``[]`` the encoder's spikes
            reach output units that take every tick: with ``readout="max"`` that is a tempotron.
        encoder: ``direct``, ``population``, ``rate``, ``latency`` or ``delta``
            (see :func:`~spikeloop.agents.encoders.encoder_for`).
        encoder_kwargs: Options of the encoder.
        gradient: How gradients reach the weights, one of :data:`~spikeloop.spiking.gradients.GRADIENTS`.
        gradient_kwargs: Its arguments; of ``"surrogate"`` these are ``shape``, ``damping`` and ``width``.
        constraint: What weights of the spiking layers must be, one of
            :data:`~spikeloop.spiking.constraints.CONSTRAINTS`; None for nothing.
        constraint_kwargs: Its arguments; of ``"deep_r"`` these are ``connectivity``, ``input_connectivity``,
            ``inhibitory``, ``l1`` and ``temperature``.
        calibrate_init: Scale the input weights of layers that are silent in the first rollout until they fire on 15 %
            of ticks; a number brings all layers to that rate, False none. Loaded weights are never touched.
        kwargs: Any option of :class:`~spikeloop.spiking.module.LSNN` (``tau_m``, ``beta``, ``n_ticks``, ...) or of
            :class:`~spikeloop.agents.spiking_policy.SpikingPolicy` (``obs_scale``, ``critic_frames``, ``net_arch``,
            SB3's ``log_std_init``, ...).

    Raises:
        TypeError: If an option belongs to neither.
        ValueError: If a value is out of range.

    >>> import numpy as np
    >>> space = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)
    >>> policy = LsnnPolicy(*space, lambda _: 3e-4, n_neurons=16, gradient_kwargs={"shape": "triangle"})
    >>> action, state = policy.predict(np.zeros(3, np.float32), episode_start=np.ones(1, bool), deterministic=True)
    >>> state[0].shape  # rows v, a, z, refractory and y of one environment
    (5, 1, 16)
    """

    recurrent_default = True
    of_kwargs = {*LSNN_OPTIONS, *FORMER} | arguments_of(SpikingPolicy)
    lstm_actor: LSNN  # an InputCore with n_neurons=[]

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *,
        n_neurons: int | Sequence[int] = (64,),
        encoder: str = "direct",
        encoder_kwargs: Mapping[str, Any] | None = None,
        gradient: str = "surrogate",
        gradient_kwargs: Mapping[str, Any] | None = None,
        constraint: str | None = None,
        constraint_kwargs: Mapping[str, Any] | None = None,
        calibrate_init: bool | float = True,
        **kwargs: Any,
    ):
        own = dict(
            n_neurons=()
            if isinstance(n_neurons, (list, tuple)) and not n_neurons
            else sizes_of("n_neurons", n_neurons),
            encoder=encoder,
            encoder_kwargs=dict(encoder_kwargs or {}),
            gradient=gradient,
            gradient_kwargs={**former_surrogate(gradient, kwargs), **(gradient_kwargs or {})},
            constraint=constraint,
            constraint_kwargs=dict(constraint_kwargs or {}),
            calibrate_init=calibrate_init,
            **{name: kwargs.pop(name) for name in LSNN_OPTIONS if name in kwargs},
        )
        if own["n_neurons"]:
            own.setdefault("recurrent", self.recurrent_default)
        else:
            check_no_layers(own)
        check_options(own)
        self.calibrate_init = calibrate_init
        super().__init__(observation_space, action_space, lr_schedule, own, **kwargs)

    def _make_core(self, arguments: dict[str, Any]) -> Core:
        del arguments["calibrate_init"]  # what the algorithm does after the first rollout
        constraint, options = arguments.pop("constraint"), arguments.pop("constraint_kwargs")
        encoder = encoder_for(arguments.pop("encoder"), self.features_dim, arguments.pop("encoder_kwargs"))
        if not arguments["n_neurons"]:
            return InputCore(encoder, **{name: arguments[name] for name in OF_INPUT if name in arguments})
        gradient = gradient_for(arguments.pop("gradient"), arguments.pop("gradient_kwargs"))
        core = LSNN(encoder, gradient=gradient, **arguments)
        if constraint is not None:
            seed = int(th.randint(2**31, ()))
            self.constraint = ConstrainedWeights(core.layers, constraint_for(constraint, options), seed)
        return core


class LifPolicy(LsnnPolicy):
    """The same policy without recurrence: feed-forward layers of spiking neurons, state still carried."""

    recurrent_default = False


# A new core adds a file with its policy, and a line here.
POLICIES: dict[str, type[BasePolicy]] = {
    "LsnnPolicy": LsnnPolicy,
    "LifPolicy": LifPolicy,
    "SpikeTimePolicy": SpikeTimePolicy,
    "EventPropPolicy": EventPropPolicy,
    "EquilibriumPolicy": EquilibriumPolicy,
}
