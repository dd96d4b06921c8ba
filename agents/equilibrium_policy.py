"""A policy whose actor and critic settle to an equilibrium, and learn by how a nudge shifts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from spikeloop.agents.actor import head_for
from spikeloop.agents.checks import NOT_NEGATIVE, POSITIVE, WHOLE, Range, check_ranges
from spikeloop.agents.encoders import encoder_for
from spikeloop.agents.policy_arguments import check_no_weights_before, sizes_of
from spikeloop.agents.spiking_policy import SpikingPolicy
from spikeloop.spiking.equilibrium import CODES, EquilibriumLayer
from spikeloop.spiking.equilibrium_module import EquilibriumCore, EquilibriumUnits

# What depends on the code, unless it is given: steps of both phases, their size, what is read, the nudge, the readout.
OF_CODE: dict[str, dict[str, Any]] = {
    "rate": dict(n_ticks=20, n_nudged=10, step=0.5, step_decay=0.0, n_average=1, beta=0.1, logit_scale=2.0),
    "sigma_delta": dict(
        n_ticks=40, n_nudged=25, step=0.843, step_decay=0.0923, n_average=10, beta=0.2, logit_scale=10.0
    ),
}
REST = {"rate": 0.0, "sigma_delta": 0.5}  # the value of outputs that stands for 0
CRITIC_W_OUT = 0.03  # the largest w_out_scale of the critic
CRITICS = ("equilibrium", "mlp")
FEEDBACKS = ("symmetric", "random")
_BELOW_1 = Range(0, 0.999999, above=True)
_RANGES = {
    **dict.fromkeys(("n_ticks", "n_nudged", "n_average", "critic_neurons"), WHOLE),
    **dict.fromkeys(("beta", "logit_scale", "value_scale"), POSITIVE),
    **dict.fromkeys(("step", "lam"), Range(0, 1, above=True)),
    **dict.fromkeys(("step_decay", "lam_decay"), Range(0, 1)),
    **dict.fromkeys(("w_in_scale", "w_out_scale"), NOT_NEGATIVE),
    "max_coupling": _BELOW_1,
}


class EquilibriumCritic(nn.Module):
    """What stands in place of the critic's MLP: units that settle, of which the output is returned.

    Args:
        units: Units with one output.
    """

    def __init__(self, units: EquilibriumUnits):
        super().__init__()
        self.units = units

    def forward(self, features: th.Tensor) -> th.Tensor:
        """Return where the output settles, shape (B, 1), for what the critic sees, (B, n)."""
        counts = np.zeros(self.units.layer.n_neurons, np.int64)  # of its spikes, which nobody asks for
        return self.units(features.detach(), counts)[:, -1:]


class EquilibriumPolicy(SpikingPolicy):
    """Actor-critic policy trained by equilibrium propagation, for SpikingPPO and SpikingA2C.

    Hidden units and outputs settle to the minimum of an energy in every env step
    (:mod:`spikeloop.spiking.equilibrium` has the equations). PPO's loss gives a gradient at the outputs, as for any
    network, and what backpropagation would do from there is done by letting the same units settle once more, nudged
    by that gradient. The critic is of the same kind; its units send numbers whatever the actor's do, as nobody deploys
    it.

    Args:
        observation_space: Observation space.
        action_space: Action space: Box, Discrete, MultiDiscrete or MultiBinary.
        lr_schedule: Learning rate schedule.
        n_neurons: Hidden units; there is one hidden layer.
        encoder: An encoder that holds its values over an env step and remembers nothing, such as ``direct``,
            ``population`` or ``tiles``.
        encoder_kwargs: Its options (:func:`~spikeloop.agents.encoders.encoder_for`).
        code: What the actor's units send: ``rate``, numbers, or ``sigma_delta``, spikes. What is None below depends on
            it; beside spikes the critic has what is None for numbers.
        n_ticks: Steps of the free phase: 20, or 40 with spikes.
        n_nudged: Steps of the nudged phases: 10, or 25 with spikes.
        step: How far units move towards their input in the first step, at most 1: 0.5, or 0.843 with spikes.
        step_decay: Exponent of its decay: 0, or 0.0923 with spikes.
        lam: With spikes, share of new bits in what a unit has received, in the first step.
        lam_decay: Exponent of its decay.
        n_average: How many of the last steps are read: 1, or 10 with spikes.
        beta: Length of the nudge: 0.1, or 0.2 with spikes.
        max_coupling: Bound, below 1, on the square of the largest singular value of the weights between hidden units
            and outputs. They are brought back within it after every step of the optimizer, so that there is one place
            to settle.
        logit_scale: What outputs are multiplied by to be logits, or means of continuous actions: 2, or 10 with spikes,
            where 1/2 is subtracted first.
        critic: ``equilibrium``, or ``mlp`` for SB3's.
        critic_neurons: Hidden units of such a critic.
        value_scale: What its output is multiplied by. The default is for returns of tens or hundreds; where rewards are
            normalised, 0.5 is better, as the optimizer's steps change values in proportion.
        w_in_scale: Standard deviation of the initial input weights times ``sqrt(n_inputs)``.
        w_out_scale: The same of the weights between hidden units and outputs, times the square root of the former. In
            the critic it is 0.03 at most, so that values begin near 0: large ones teach the actor noise before it has
            seen a reward.
        train_hidden: Train what hidden units get from the input. Off, it stays as it was drawn: a control.
        feedback: ``symmetric``, or ``random``: a control, in which the nudge reaches hidden units through weights that
            have nothing to do with those that they reach the outputs by.
        kwargs: Any option of :class:`~spikeloop.agents.spiking_policy.SpikingPolicy`.

    Raises:
        TypeError: If an option belongs neither to this policy nor to ``SpikingPolicy``.
        ValueError: If a value is out of range, or a space is not supported.

    >>> space = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)
    >>> policy = EquilibriumPolicy(*space, lambda _: 3e-4, n_neurons=16)
    >>> action, state = policy.predict(np.zeros(3, np.float32), episode_start=np.ones(1, bool), deterministic=True)
    >>> policy.lstm_actor.n_neurons, policy.lstm_actor.n_counted  # units, and steps of settling
    ((18,), 20)
    """

    lstm_actor: EquilibriumCore

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *,
        n_neurons: int | Sequence[int] = (64,),
        encoder: str = "direct",
        encoder_kwargs: Mapping[str, Any] | None = None,
        code: str = "rate",
        n_ticks: int | None = None,
        n_nudged: int | None = None,
        step: float | None = None,
        step_decay: float | None = None,
        lam: float = 0.832,
        lam_decay: float = 0.584,
        n_average: int | None = None,
        beta: float | None = None,
        max_coupling: float = 0.9,
        logit_scale: float | None = None,
        critic: str = "equilibrium",
        critic_neurons: int = 64,
        value_scale: float = 20.0,
        w_in_scale: float = 1.0,
        w_out_scale: float = 0.4,
        train_hidden: bool = True,
        feedback: str = "symmetric",
        **kwargs: Any,
    ):
        own: dict[str, Any] = dict(
            n_neurons=sizes_of("n_neurons", n_neurons),
            encoder=encoder,
            encoder_kwargs=dict(encoder_kwargs or {}),
            code=code,
            n_ticks=n_ticks,
            n_nudged=n_nudged,
            step=step,
            step_decay=step_decay,
            lam=lam,
            lam_decay=lam_decay,
            n_average=n_average,
            beta=beta,
            max_coupling=max_coupling,
            logit_scale=logit_scale,
            critic=critic,
            critic_neurons=critic_neurons,
            value_scale=value_scale,
            w_in_scale=w_in_scale,
            w_out_scale=w_out_scale,
            train_hidden=train_hidden,
            feedback=feedback,
        )
        for name, choices in (("code", CODES), ("critic", CRITICS), ("feedback", FEEDBACKS)):
            if own[name] not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {own[name]!r}")
        for name, value in OF_CODE[code].items():
            own[name] = value if own[name] is None else own[name]
        check_ranges(own, _RANGES)
        self._check_arguments(own, kwargs)
        super().__init__(observation_space, action_space, lr_schedule, own, **kwargs)

    @staticmethod
    def _check_arguments(own: Mapping[str, Any], kwargs: Mapping[str, Any]) -> None:
        net_arch = kwargs.get("net_arch") or {}
        if len(own["n_neurons"]) != 1:
            raise ValueError(f"EquilibriumPolicy has one hidden layer, got n_neurons={list(own['n_neurons'])}")
        if kwargs.get("use_sde"):
            raise ValueError("EquilibriumPolicy acts by its outputs, whose readout is fixed: use_sde must be False")
        if net_arch.get("pi"):
            raise ValueError(f"EquilibriumPolicy acts by its outputs: net_arch pi must be [], got {net_arch}")
        if "vf" in net_arch and own["critic"] != "mlp":
            raise ValueError(f"net_arch vf is for critic='mlp', critic_neurons is for this one, got {net_arch}")
        unused = {"lam": 0.832, "lam_decay": 0.584} if own["code"] == "rate" else {}
        if own["critic"] == "mlp":
            unused |= {"critic_neurons": 64, "value_scale": 20.0}
        for name, default in unused.items():
            if own[name] != default:
                wanted = "code='sigma_delta'" if name in ("lam", "lam_decay") else "critic='equilibrium'"
                raise ValueError(f"{name} is for {wanted}, got {own[name]} without it")
        if own["n_average"] > min(own["n_ticks"], own["n_nudged"]):
            shortest = f"n_ticks, {own['n_ticks']}, and n_nudged, {own['n_nudged']}"
            raise ValueError(f"n_average must be at most {shortest}, got {own['n_average']}")

    def _units(self, n_inputs: int, n_hidden: int, n_out: int, a: Mapping[str, Any]) -> EquilibriumUnits:
        """Return units with initial weights and these arguments."""
        w_in = th.randn(n_hidden, n_inputs) * (a["w_in_scale"] / np.sqrt(n_inputs))
        bias = th.rand(n_hidden)
        w_out = th.randn(n_out, n_hidden) * (a["w_out_scale"] / np.sqrt(n_hidden))
        w_back = th.randn(n_out, n_hidden) / np.sqrt(n_hidden) if a["feedback"] == "random" else None
        numbers = {name: a[name] for name in ("n_ticks", "step", "step_decay", "lam", "lam_decay", "n_average")}
        layer = EquilibriumLayer(
            w_in.numpy(), bias.numpy(), w_out.numpy(), np.full(n_out, REST[a["code"]], np.float32), a["code"], **numbers
        )
        back = None if w_back is None else w_back.numpy()
        units = EquilibriumUnits(layer, a["beta"], a["n_nudged"], a["max_coupling"], back)
        if not a["train_hidden"]:
            for name in ("w_in", "bias"):
                units.get_parameter(name).requires_grad_(False)
        return units

    def _make_core(self, arguments: dict[str, Any]) -> EquilibriumCore:
        a = arguments
        encoder = encoder_for(a["encoder"], self.features_dim, a["encoder_kwargs"])
        units = self._units(encoder.n_channels, a["n_neurons"][0], head_for(self.action_space).n_outputs, a)
        return EquilibriumCore(encoder, units)

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        if self._core_arguments["critic"] == "equilibrium":
            a = self._core_arguments
            numbers = a if a["code"] == "rate" else {**a, **OF_CODE["rate"], "code": "rate"}
            numbers = {**numbers, "w_out_scale": min(a["w_out_scale"], CRITIC_W_OUT)}
            units = self._units(self._critic_dim, a["critic_neurons"], 1, numbers)
            self.mlp_extractor.value_net = nn.Sequential(EquilibriumCritic(units))
            self.mlp_extractor.latent_dim_vf = 1

    def _critic_weights(self) -> nn.Parameter:
        if self._core_arguments["critic"] == "mlp":
            return super()._critic_weights()
        return self.mlp_extractor.value_net[0].units.w_in  # type: ignore[union-attr, return-value]

    def _build_parts(self, lr_schedule: Schedule) -> None:
        super()._build_parts(lr_schedule)
        check_no_weights_before(self)
        n_outputs, a = head_for(self.action_space).n_outputs, self._core_arguments
        with th.no_grad():
            weight = self.action_net.get_parameter("weight")
            weight.zero_()
            weight[:, -n_outputs:] = a["logit_scale"] * th.eye(n_outputs)
        self.action_net.get_parameter("bias").data.fill_(-a["logit_scale"] * REST[a["code"]])
        self.action_net.requires_grad_(False)
        if a["critic"] == "equilibrium":
            self.value_net.weight.data.fill_(a["value_scale"])
            self.value_net.bias.data.fill_(0.0)
            self.value_net.requires_grad_(False)
        self._keep_coupling()

    def _keep_coupling(self) -> None:
        self.optimizer.register_step_post_hook(self._project)

    def _project(self, *_: Any) -> None:
        """Bring the weights between hidden units and outputs back within their bound, after a step of the optimizer."""
        for module in self.modules():
            if isinstance(module, EquilibriumUnits):
                module.project()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._keep_coupling()  # an optimizer's hooks are not copied
