"""The policy of a Stable-Baselines3 model as ReLU layers: what :mod:`spikeloop.spiking.conversion` converts.

PPO, A2C, DQN, SAC and sb3-contrib's QRDQN choose by a feed-forward network: a features extractor, hidden layers, a
linear map. :func:`layers_of` writes it as :class:`~spikeloop.spiking.readout.Dense` layers: a convolution as its
matrix, batch norm folded into the map before it, a max-pool as differences. The mean over QRDQN's quantiles is linear
and becomes part of the last map. The layers' outputs are then compared with the policy's, so that a module which does
not simply apply its layers in their order is refused and not converted wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from spikeloop.agents.actor import head_for
from spikeloop.agents.checks import in_words
from spikeloop.agents.export import observation_parts, scaling_of
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.conversion import check_layers, forward
from spikeloop.spiking.dense_forms import check_size, convolution, fold_batch_norm, maxima, pooled
from spikeloop.spiking.observation import Preprocessor, flatten, preprocess
from spikeloop.spiking.readout import Dense

CONVERTS = "the policies of PPO, A2C, DQN, SAC and QRDQN"
MODULES = "Linear, Conv2d, BatchNorm1d, BatchNorm2d, MaxPool2d, Flatten, Dropout, Identity and ReLU"
_NOTHING = (nn.Flatten, nn.Identity, nn.Dropout)  # rows are flat, and nothing is dropped when a policy plays
_CHECKED, _TOLERANCE = 64, 1e-3  # observations that are compared, and the difference that rounding may make


class Ann(NamedTuple):
    """A policy as layers.

    Args:
        layers: Hidden layers, whose activation is ``"relu"`` or, to be distilled, ``"tanh"``, and a linear map.
        head: Makes an action of the output values.
        steps: What SB3 does to an observation before the first layer.
        soft: Whether the outputs are logits, so that actions are drawn from their soft-max.
    """

    layers: tuple[Dense, ...]
    head: ActionHead
    steps: tuple[Preprocessor, ...]
    soft: bool

    @property
    def convertible(self) -> bool:
        """Whether all hidden layers are ReLU layers."""
        return all(layer.activation == "relu" for layer in self.layers[:-1])


class _Parts(NamedTuple):
    """Where a policy keeps what chooses its actions."""

    extractor: nn.Module
    hidden: nn.Module
    last: nn.Module
    squash: bool
    n_quantiles: int = 1


def layers_of(model: BaseAlgorithm) -> Ann:
    """Return the policy of a model as layers.

    Raises:
        ValueError: If the policy is of no such kind, or has a module that does not become a layer; in one line.

    >>> from stable_baselines3 import DQN
    >>> ann = layers_of(DQN("MlpPolicy", "CartPole-v1", seed=0))
    >>> [layer.w.shape for layer in ann.layers], [layer.activation for layer in ann.layers]
    ([(64, 4), (64, 64), (2, 64)], ['relu', 'relu', 'identity'])
    """
    policy: Any = model.policy
    parts = _parts_of(policy)
    space = model.observation_space
    if isinstance(space, spaces.Dict):
        raise ValueError(f"conversion takes observations of one part, the policy has {in_words(space)} (MultiInput)")
    if np.any(getattr(model.action_space, "start", 0)):  # SB3's policies count from 0 all the same
        raise ValueError(f"conversion takes actions that count from 0, the policy has {in_words(model.action_space)}")
    policy.set_training_mode(False)
    (part,) = observation_parts(space)
    shape = space.shape if isinstance(space, spaces.Box) and len(space.shape) == 3 else (part.n_values,)
    layers = _dense([*_flat(parts.extractor), *_flat(parts.hidden), *_flat(parts.last)], shape)
    if parts.n_quantiles > 1:
        w, b = layers[-1].w, layers[-1].b  # outputs are quantile by quantile, each for all actions
        rows = parts.n_quantiles, len(b) // parts.n_quantiles
        layers[-1] = Dense(w.reshape(*rows, -1).mean(axis=0), b.reshape(rows).mean(axis=0), "identity")
    if len(layers) == 1:
        raise ValueError("conversion takes one or more ReLU layers and a linear map, the policy is a linear map alone")
    head = head_for(model.action_space, parts.squash)
    soft = isinstance(policy, ActorCriticPolicy) and head.kind != "box"
    ann = Ann(tuple(layers), head, scaling_of(policy), soft)
    if ann.convertible:
        check_layers(ann.layers)
    space.seed(0)
    check_outputs(model, ann, np.stack([space.sample() for _ in range(_CHECKED)]))
    return ann


def inputs(ann: Ann, space: spaces.Space, observations: np.ndarray) -> np.ndarray:
    """Return what the first layer is shown, shape (n, n_inputs), of observations as the policy sees them."""
    rows = flatten(observation_parts(space), observations)[0]
    none = np.zeros((0, len(rows), rows.shape[1]))
    return preprocess(ann.steps, rows[None], none, None)[0][0].astype(np.float32)


def check_outputs(model: BaseAlgorithm, ann: Ann, observations: np.ndarray) -> None:
    """Raise ``ValueError`` where the layers give other outputs than the policy, for observations as it sees them."""
    found = forward(ann.layers, inputs(ann, model.observation_space, observations))[-1]
    expected = _outputs(model.policy, observations)
    worst = float(abs(found - expected).max() / max(abs(expected).max(), 1e-6))
    if not worst <= _TOLERANCE:
        raise ValueError(
            f"the policy must compute what its layers compute one after the other, its outputs are off by {worst:.1%}: "
            f"{_names(model.policy)} does something else"
        )


def _outputs(policy: Any, observations: np.ndarray) -> np.ndarray:
    """Return what the policy's own functions compute: logits, means or values, shape (n, n_outputs)."""
    with th.no_grad():
        obs = policy.obs_to_tensor(observations)[0]
        if isinstance(policy, DQNPolicy):
            y = policy.q_net(obs)
        elif isinstance(policy, QRDQNPolicy):
            y = policy.quantile_net(obs).mean(dim=1)
        elif isinstance(policy, SACPolicy):
            y = policy.actor.get_action_dist_params(obs)[0]
        else:
            features = policy.extract_features(obs, policy.pi_features_extractor)
            y = policy.action_net(policy.mlp_extractor.forward_actor(features))
    return y.cpu().numpy().astype(np.float64)


def _parts_of(policy: Any) -> _Parts:
    """Return the parts of a policy that choose its actions.

    Raises:
        ValueError: If it is of another kind.
    """
    if hasattr(policy, "lstm_actor"):
        raise ValueError(f"conversion takes feed-forward policies, {type(policy).__name__} is recurrent")
    if isinstance(policy, ActorCriticPolicy):
        squash = bool(policy.squash_output)
        return _Parts(policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net, squash)
    if isinstance(policy, DQNPolicy):
        return _Parts(policy.q_net.features_extractor, policy.q_net.q_net, nn.Identity(), False)
    if isinstance(policy, QRDQNPolicy):
        net = policy.quantile_net
        return _Parts(net.features_extractor, net.quantile_net, nn.Identity(), False, net.n_quantiles)
    if isinstance(policy, SACPolicy):
        actor = policy.actor
        return _Parts(actor.features_extractor, actor.latent_pi, actor.mu, True)
    raise ValueError(f"conversion takes {CONVERTS}, this one is a {type(policy).__name__}")


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules without parts, in the order in which they were defined."""
    children = list(module.children())
    if not children and (isinstance(module, nn.Sequential) or not type(module).__module__.startswith("torch.")):
        return  # an extractor that only lays values in a row; if it does more, the comparison of outputs shows it
    if not children:
        yield module
    for child in children:
        yield from _flat(child)


def _dense(modules: Iterable[nn.Module], shape: tuple[int, ...]) -> list[Dense]:
    """Return modules as layers, the last without an activation.

    Args:
        modules: In their order.
        shape: Shape of the first module's input, (n,) or (channels, height, width).

    Raises:
        ValueError: If one of the modules cannot become a layer.
    """
    layers: list[Dense] = []
    n = int(np.prod(shape))
    todo = _relu_before_pool(list(modules))
    w: np.ndarray | None = None  # the map since the last activation; None is nothing yet
    b = np.zeros(n)
    for module in todo:
        if isinstance(module, _NOTHING):
            continue
        if isinstance(module, (nn.ReLU, nn.Tanh)):
            if w is None:
                raise ValueError(f"conversion takes an activation behind weights, {in_words(module)} has none")
            layers.append(_layer(w, b, "relu" if isinstance(module, nn.ReLU) else "tanh"))
            w, b = None, np.zeros(len(b))
        elif isinstance(module, nn.MaxPool2d):
            if w is not None or not layers or layers[-1].activation != "relu":
                raise ValueError("conversion takes a max-pool next to a ReLU, whose outputs are never negative")
            groups, shape = _pooled(module, shape)
            made, w = maxima(groups, len(b))
            layers += made
            b = np.zeros(len(w))
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            if w is None:
                check_size(len(b), len(b))
                w = np.eye(len(b))
            w, b = _normalized(module, w, b)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            w_next, b_next, shape = _map(module, shape)
            if w_next.shape[1] != len(b):
                raise ValueError(f"{in_words(module)} takes {w_next.shape[1]} values, the layer before gives {len(b)}")
            w, b = (w_next, b_next + w_next @ b) if w is None else (w_next @ w, w_next @ b + b_next)
        else:
            raise ValueError(f"conversion knows {MODULES}, the policy has {in_words(module)}")
    if w is None:
        raise ValueError("conversion takes ReLU layers and a linear map, the policy ends without the map")
    return [*layers, _layer(w, b, "identity")]


def _layer(w: np.ndarray, b: np.ndarray, activation: str) -> Dense:
    check_size(*w.shape)
    return Dense(np.asarray(w, np.float32), np.asarray(b, np.float32), activation)


def _relu_before_pool(modules: list[nn.Module]) -> list[nn.Module]:
    """Move each ReLU behind a max-pool before it: the result is the same, and what is pooled is never negative."""
    for i in range(len(modules) - 1):
        if isinstance(modules[i], nn.MaxPool2d) and isinstance(modules[i + 1], nn.ReLU):
            modules[i], modules[i + 1] = modules[i + 1], modules[i]
    return modules


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)


def _map(module: nn.Linear | nn.Conv2d, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Return a linear module as weights and biases, and the shape of what it gives."""
    bias = np.zeros(len(module.weight)) if module.bias is None else _array(module.bias)
    if isinstance(module, nn.Linear):
        return _array(module.weight), bias, (module.out_features,)
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    if not plain or isinstance(module.padding, str) or len(shape) != 3:
        raise ValueError(f"conversion takes plain convolutions of images, the policy has {in_words(module)}")
    return convolution(_array(module.weight), bias, shape, module.stride, module.padding)


def _normalized(module: Any, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a map with the batch norm behind it folded in; the norm has one number per channel."""
    if module.running_mean is None:
        raise ValueError(f"conversion takes batch norm with running statistics, the policy has {in_words(module)}")
    n, ones = len(b) // module.num_features, np.ones(module.num_features)
    gamma, beta = (ones, 0 * ones) if module.weight is None else (_array(module.weight), _array(module.bias))
    mean, var = _array(module.running_mean), _array(module.running_var)
    gamma, beta, mean, var = (np.repeat(of_channels, n) for of_channels in (gamma, beta, mean, var))
    return fold_batch_norm(w, b, gamma, beta, mean, var, module.eps)


def _pooled(module: nn.MaxPool2d, shape: tuple[int, ...]) -> tuple[list[list[int]], tuple[int, ...]]:
    kernel, stride, padding, dilation = (
        value if isinstance(value, tuple) else (value, value)
        for value in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    if padding != (0, 0) or dilation != (1, 1) or module.ceil_mode or len(shape) != 3:
        raise ValueError(f"conversion takes plain max-pools of images, the policy has {in_words(module)}")
    return pooled(shape, kernel, stride)


def _names(policy: Any) -> str:
    extractor = _parts_of(policy).extractor
    return f"{type(policy).__name__} or its {type(extractor).__name__}"
