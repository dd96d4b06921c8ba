"""Which policies the compiled path can train, and the parts of them that it reads."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from spikeloop.agents import ppo_kernels
from spikeloop.agents.policies import LsnnPolicy
from spikeloop.agents.spiking_policy import SpikingPolicy
from spikeloop.spiking.gradients import Surrogate
from spikeloop.spiking.module import LSNN
from spikeloop.spiking.row_linear import RowLinear

ACTIVATIONS: dict[type, int] = {nn.Tanh: ppo_kernels.TANH, nn.ReLU: ppo_kernels.RELU}
_METHODS = (
    "forward", "evaluate_actions", "predict_values", "_features", "_act", "_value", "extract_features",
    "_get_action_dist_from_latent", "_build_mlp_extractor",
)  # fmt: skip
_ADAM = {"weight_decay": 0, "amsgrad": False, "maximize": False, "differentiable": False, "capturable": False}


def torch_reason(policy: SpikingPolicy) -> str | None:
    """Say why only torch can train a policy; None if the compiled path can, too.

    >>> from gymnasium import spaces
    >>> space = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)
    >>> torch_reason(LsnnPolicy(*space, lambda _: 3e-4)) is None
    True
    >>> torch_reason(LsnnPolicy(*space, lambda _: 3e-4, net_arch={"pi": [8]}))
    'layers follow the spiking actor (net_arch pi)'
    """
    if not isinstance(policy, LsnnPolicy) or not isinstance(policy.lstm_actor, LSNN):
        return f"its core is {type(policy.lstm_actor).__name__}"
    lsnn = policy.lstm_actor
    if lsnn.every_tick:
        return f"its readout {lsnn.readout!r} takes every tick"
    if lsnn.clears:
        return "its state is cleared at every env step"
    changed = [
        name
        for name in _METHODS
        if getattr(type(policy), name) is not getattr(LsnnPolicy, name) or name in vars(policy)
    ]
    if changed:
        return f"{type(policy).__name__} has a method {changed[0]} of its own"
    if policy.use_sde:
        return "use_sde is on"
    if _parameters_of(_modules_of(policy.features_extractor)):
        return f"{type(policy.features_extractor).__name__} has weights"
    if not lsnn.layers.on_engine:
        return "its neurons are not LSNN neurons"
    if type(lsnn.gradient) is not Surrogate:
        return f"its gradient is {type(lsnn.gradient).__name__}"
    if lsnn.centers is not None:
        return "learn_encoder is on"
    if len(policy.mlp_extractor.policy_net):
        return "layers follow the spiking actor (net_arch pi)"
    if type(policy.action_net) is not RowLinear:
        return f"its action_net is {type(policy.action_net).__name__}"
    extractor = policy.mlp_extractor
    if type(extractor) is not MlpExtractor or "forward_critic" in vars(extractor):
        return f"its mlp_extractor is {type(extractor).__name__} with methods of its own"
    if critic_layers(policy) is None:
        return "its critic has other layers than linear ones with tanh or ReLU"
    return _training_reason(policy)


def _training_reason(policy: LsnnPolicy) -> str | None:
    optimizer, modules = policy.optimizer, _modules_of(policy)
    parameters = _parameters_of(modules)
    if type(optimizer) is not th.optim.Adam:
        return f"its optimizer is {type(optimizer).__name__}"
    if len(optimizer.param_groups) != 1:
        return "its optimizer has several parameter groups"
    for name, usual in _ADAM.items():
        if optimizer.param_groups[0].get(name, usual) != usual:
            return f"its optimizer has {name}={optimizer.param_groups[0][name]!r}"
    if hooked := _hooked(policy, modules, parameters):
        return f"{hooked} has hooks, which only torch calls"
    if any(p.device.type != "cpu" for p in parameters):
        return f"it is on {parameters[0].device}"
    if any(p.dtype != th.float32 for p in parameters):
        return "its parameters are not all float32"
    if not all(p.requires_grad for p in parameters):
        return "some of its parameters are frozen"
    if len(parameters) != len(known_parameters(policy)):
        return "it has parameters of its own"
    if {id(p) for p in optimizer.param_groups[0]["params"]} != {id(p) for p in parameters}:
        return "its optimizer moves other parameters than the policy's"
    if len({float(optimizer.state[p]["step"]) if p in optimizer.state else 0.0 for p in parameters}) > 1:
        return "some of its parameters have had more steps of Adam than others"
    return None


def _modules_of(module: nn.Module) -> list[nn.Module]:
    """Return a module and all in it: this is asked in every rollout, and torch's walk takes ten times as long."""
    found, left = {id(module): module}, [module]
    while left:
        for one in left.pop()._modules.values():
            if one is not None and id(one) not in found:
                found[id(one)] = one
                left.append(one)
    return list(found.values())


def _parameters_of(modules: list[nn.Module]) -> list[nn.Parameter]:
    return list({id(p): p for one in modules for p in one._parameters.values() if p is not None}.values())


def _hooked(policy: LsnnPolicy, modules: list[nn.Module], parameters: list[nn.Parameter]) -> str | None:
    """Name what has hooks that a training in torch would call, as quantisation-aware training has; None if nothing."""
    optimizer = policy.optimizer
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "its optimizer"
    for one in modules:
        if one._forward_hooks or one._forward_pre_hooks or one._backward_hooks or one._backward_pre_hooks:
            return next(name for name, module in policy.named_modules() if module is one) or type(policy).__name__
    for p in parameters:
        if p._backward_hooks or p._post_accumulate_grad_hooks:
            return next(name for name, q in policy.named_parameters() if q is p)
    return None


def critic_layers(policy: LsnnPolicy) -> list[nn.Linear] | None:
    """Return the linear layers before the critic's output; None if it has others than the kernels compute."""
    modules = list(policy.mlp_extractor.value_net)
    linear, activations = modules[::2], modules[1::2]
    kinds = {type(activation) for activation in activations}
    fits = len(linear) == len(activations) and len(kinds) <= 1 and kinds <= set(ACTIVATIONS)
    fits = fits and all(type(one) is nn.Linear and one.bias is not None for one in linear)
    return linear if fits and type(policy.value_net) is nn.Linear else None  # type: ignore[return-value]


def known_parameters(policy: LsnnPolicy) -> list[th.Tensor]:
    """Return the parameters in the order of their places in the vector: actor first, then critic."""
    known: list[Any] = []
    for layer in policy.lstm_actor.layers:
        known += [layer.w_in, layer.bias] + ([] if layer.w_rec is None else [layer.w_rec])
    known += [policy.action_net.weight, policy.action_net.bias]
    if hasattr(policy, "log_std"):
        known.append(policy.log_std)
    for linear in [*(critic_layers(policy) or []), policy.value_net]:
        known += [linear.weight, linear.bias]
    return known
