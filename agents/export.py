"""A trained policy as a Network, with everything that stands between the environment and the actor's spikes.

An observation passes wrappers of the VecEnv (``VecNormalize``, ``VecFrameStack``, ``VecTransposeImage``), SB3's own
preprocessing (one-hot, images over 255) and the policy's features extractor before it meets the encoder.
:func:`inputs_of` turns each of these into a part of a Network, or refuses it by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)
from torch import nn

from spikeloop.agents.check_finite import CheckFinite
from spikeloop.agents.checks import in_words
from spikeloop.agents.environment import check_statistics, describe
from spikeloop.spiking.network import Network
from spikeloop.spiking.observation import FrameStack, Normalizer, ObservationPart, Preprocessor, Reorder

# Wrappers that leave observations as they are.
_TRANSPARENT = (CheckFinite, VecCheckNan, VecMonitor, VecVideoRecorder)
# Types whose every value float32 holds, which is the type of a network's memory.
_NARROW = (np.float32, np.float16, np.uint8, np.int8, np.uint16, np.int16, np.bool_)


class Inputs(NamedTuple):
    """How an observation of the environment becomes the vector that an encoder takes."""

    observation: tuple[ObservationPart, ...]
    preprocessing: tuple[Preprocessor, ...]


def changing_wrappers(venv: VecEnv | None) -> tuple[str, ...]:
    """Return the names of the wrappers that change what a policy observes, the innermost first."""
    return tuple(type(wrapper).__name__ for wrapper in _wrappers(venv) if _changes(wrapper))


def exact_inputs_of(space: spaces.Space, venv: VecEnv | None, trained_behind: tuple[str, ...]) -> Inputs:
    """Do as :func:`inputs_of` does for a policy that reads numbers as they are observed, in float64 too.

    Raises:
        ValueError: As there, and if past frames would lose digits that the policy tells apart.
    """
    inputs = inputs_of(space, venv, (), trained_behind)
    wide = any(part.dtype == np.float64 for _, part in _items(space))
    if wide and any(isinstance(step, FrameStack) for step in inputs.preprocessing):
        raise ValueError(
            "a Network keeps past frames in float32, this policy tells float64 values apart: make the environment's "
            "space float32"
        )
    return inputs


def inputs_of(
    space: spaces.Space, venv: VecEnv | None, own_steps: tuple[Preprocessor, ...], trained_behind: tuple[str, ...]
) -> Inputs:
    """Return everything between an environment and a policy's encoder.

    Args:
        space: What the policy observes.
        venv: The environments it was trained in, with their wrappers; None if it saw raw observations.
        own_steps: What the policy itself does (:func:`policy_steps`).
        trained_behind: The wrappers that changed what it saw in training (:func:`changing_wrappers`).

    Raises:
        ValueError: If the environments are not those of the training, or something has no place in a Network.
    """
    found = changing_wrappers(venv)
    if found != tuple(trained_behind):
        there = f"these have {', '.join(found) or 'none'}" if venv is not None else "none were given"
        raise ValueError(
            f"to_network() needs the environments that the policy was trained in, whose wrappers change observations "
            f"({', '.join(trained_behind) or 'none'}), {there}: call to_network() of the model, or hand them over"
        )
    if venv is None:
        return Inputs(observation_parts(space), own_steps)
    check_statistics(venv)
    if not _same_space(venv.observation_space, space):
        raise ValueError(
            f"to_network() needs environments that show {in_words(space)}, "
            f"these show {in_words(venv.observation_space)}"
        )
    wrappers = list(_wrappers(venv))
    raw = wrappers[0].venv.observation_space if wrappers else venv.observation_space
    steps: list[Preprocessor] = []
    for wrapper in filter(_changes, wrappers):
        steps += _steps_of(wrapper, any(isinstance(step, Normalizer) for step in steps))
    _check_memory(raw, steps)
    _check_rounding(wrappers)
    return Inputs(observation_parts(raw), (*steps, *own_steps))


def observation_parts(space: spaces.Space) -> tuple[ObservationPart, ...]:
    """Return the parts of an observation.

    Raises:
        ValueError: If the space has no place in a Network.
    """
    return tuple(_part(key, part) for key, part in _items(space))


def policy_steps(policy: Any) -> tuple[Preprocessor, ...]:
    """Return what SB3's preprocessing and features extractor do in a policy beyond laying values in a row.

    Raises:
        ValueError: If the extractor computes something else.
    """
    extractor = policy.pi_features_extractor
    plain = type(extractor) is FlattenExtractor or (
        type(extractor) is CombinedExtractor and all(type(part) is nn.Flatten for part in extractor.extractors.values())
    )
    if not plain:
        raise ValueError(
            f"a Network takes observations that are laid in a row (FlattenExtractor), this policy has a "
            f"{type(extractor).__name__} for {in_words(policy.observation_space)}"
        )
    return scaling_of(policy)


def scaling_of(policy: Any) -> tuple[Preprocessor, ...]:
    """Return what SB3's preprocessing does beyond laying values in a row: images over 255."""
    scale = []
    for _, space in _items(policy.observation_space):
        is_image = policy.normalize_images and isinstance(space, spaces.Box) and is_image_space(space)
        scale.append(np.full(_n_values(space), 255.0 if is_image else 1.0))
    std = np.concatenate(scale)
    return (Normalizer(np.zeros(std.size), std, rounds=True),) if np.any(std != 1.0) else ()


def check_unchanged(policy: Any, base: type, methods: tuple[str, ...]) -> None:
    """Raise ValueError if a subclass has methods of its own where a Network repeats those of ``base``."""
    for name in methods:
        if getattr(type(policy), name) is not getattr(base, name):
            raise ValueError(f"a Network does what {base.__name__}.{name} does, {type(policy).__name__} has its own")


def note_wrappers(model: Any, learns: bool = False) -> None:
    """Note in a model and its policy behind which wrappers the policy is trained.

    A trained model may be given other environments to play in, or none. That changes the note only when it learns
    there (``learns``).
    """
    if model.env is not None and (learns or not model.num_timesteps or not hasattr(model, "trained_behind")):
        model.policy.trained_behind = model.trained_behind = changing_wrappers(model.env)
    else:
        model.policy.trained_behind = getattr(model, "trained_behind", ())


def model_to_network(model: Any, metadata: Mapping[str, str] | None) -> Network:
    """Return the network of a model's policy with everything that stands between it and its environments.

    The metadata says which environment that is (:class:`~spikeloop.agents.environment.EnvDescription`).
    """
    _check_learnt_statistics(model)
    known = dict(metadata or {})
    if model.env is not None and "env" not in known:
        description = describe(model.env)
        known = {**({} if description is None else description.to_metadata()), **known}
    return model.policy.to_network(model.env, known)


def _check_learnt_statistics(model: Any) -> None:
    """Refuse a fresh VecNormalize around a trained model: the statistics of the training were not loaded."""
    for wrapper in _wrappers(model.env):
        if type(wrapper) is VecNormalize and wrapper.norm_obs and wrapper.training and model.num_timesteps:
            rms = wrapper.obs_rms
            if any(one.count < 1 for one in (rms.values() if isinstance(rms, dict) else [rms])):
                raise ValueError("VecNormalize has seen no observation yet: load what it had learnt, VecNormalize.load")


def why_no_network(model: Any) -> str | None:
    """Return why ``model.to_network()`` would be refused, in one line; None if it would not be.

    What is refused depends on spaces, wrappers and architecture alone, so it is known before any training.
    """
    try:
        model.to_network()
    except ValueError as error:
        return str(error)
    return None


def _wrappers(venv: VecEnv | None) -> Iterator[VecEnvWrapper]:
    """Yield the wrappers of a VecEnv, the innermost first."""
    found = []
    while isinstance(venv, VecEnvWrapper):
        found.append(venv)
        venv = venv.venv
    yield from reversed(found)


def _changes(wrapper: VecEnvWrapper) -> bool:
    if type(wrapper) is VecNormalize:
        return wrapper.norm_obs
    return type(wrapper) not in _TRANSPARENT


def _steps_of(wrapper: VecEnvWrapper, normalised: bool) -> list[Preprocessor]:
    """Return the steps that do what a wrapper does to rows of numbers."""
    before = wrapper.venv.observation_space
    if type(wrapper) is VecNormalize:
        return [_normalizer(wrapper, before)]
    if type(wrapper) is VecTransposeImage:
        return _reordered([_transposed(space, index) for space, index in _indices(before)])
    if type(wrapper) is VecFrameStack:
        for key, space in _items(before):
            if normalised and space.dtype not in (np.float32, np.float64):
                raise ValueError(
                    f"VecFrameStack cuts normalised values of {key or 'the observation'} to {space.dtype}, "
                    "which a Network does not: make the environment's space float32"
                )
        return _stacking(wrapper, before)
    raise ValueError(f"a Network has no place for what the wrapper {type(wrapper).__name__} does to observations")


def _normalizer(wrapper: VecNormalize, space: spaces.Space) -> Normalizer:
    columns = []  # mean, std, clip of each part
    for key, part in _items(space):
        n = _n_values(part)
        if key and key not in (wrapper.norm_obs_keys or ()):
            columns.append((np.zeros(n), np.ones(n), np.full(n, np.inf)))
        else:
            rms = wrapper.obs_rms[key] if isinstance(wrapper.obs_rms, dict) else wrapper.obs_rms
            std = np.sqrt(rms.var + wrapper.epsilon)
            columns.append((rms.mean.ravel(), std.ravel(), np.full(n, float(wrapper.clip_obs))))
    mean, std, clip = (np.concatenate(arrays) for arrays in zip(*columns, strict=True))
    return Normalizer(mean, std, clip)


def _stacking(wrapper: VecFrameStack, space: spaces.Space) -> list[Preprocessor]:
    n_stack, n = wrapper.stacked_obs.n_stack, sum(_n_values(part) for _, part in _items(space))
    if n_stack == 1:
        return []
    stacks = getattr(wrapper.stacked_obs, "sub_stacked_observations", {"": wrapper.stacked_obs})
    order = []
    for (key, _), (part, index) in zip(_items(space), _indices(space), strict=True):
        frames = [(frame * n + index).reshape(part.shape) for frame in range(n_stack)]
        order.append(np.concatenate(frames, axis=stacks[key].repeat_axis).ravel())
    return [FrameStack(n_stack, n), *_reordered(order)]


def _reordered(order: list[np.ndarray]) -> list[Preprocessor]:
    whole = np.concatenate(order)
    return [] if np.array_equal(whole, np.arange(whole.size)) else [Reorder(whole)]


def _transposed(space: spaces.Space, index: np.ndarray) -> np.ndarray:
    """Return the order that moves an image's channels from the last axis to the first; no change for anything else."""
    if not (isinstance(space, spaces.Box) and is_image_space(space)):
        return index
    return index.reshape(space.shape).transpose(2, 0, 1).ravel()


def _check_memory(raw: spaces.Space, steps: list[Preprocessor]) -> None:
    """Refuse to stack frames that float32 cannot hold exactly, if they are normalised after stacking."""
    kinds = [type(step) for step in steps]
    if FrameStack not in kinds or Normalizer not in kinds[kinds.index(FrameStack) :]:
        return
    for key, space in _items(raw):
        if space.dtype not in _NARROW:
            raise ValueError(
                f"a Network keeps past frames in float32, {key or 'the observation'} is {space.dtype} and normalised "
                "after stacking: put VecNormalize inside VecFrameStack, as RL Zoo does"
            )


def _check_rounding(wrappers: list[VecEnvWrapper]) -> None:
    """Refuse values that only an outer VecNormalize normalises, if float32 would round them before it does."""
    normalizers = [wrapper for wrapper in wrappers if type(wrapper) is VecNormalize and wrapper.norm_obs]
    for wrapper in normalizers[:-1]:
        for key, space in _items(wrapper.venv.observation_space):
            if key and key not in (wrapper.norm_obs_keys or ()) and space.dtype not in _NARROW:
                raise ValueError(
                    f"a Network rounds {key!r}, {space.dtype}, to float32 between one VecNormalize and the next: "
                    "normalise all keys in one"
                )


def _items(space: spaces.Space) -> list[tuple[str, spaces.Space]]:
    return list(space.spaces.items()) if isinstance(space, spaces.Dict) else [("", space)]


def _indices(space: spaces.Space) -> list[tuple[spaces.Space, np.ndarray]]:
    """Return each part of a space with the places of its values in the row."""
    found, first = [], 0
    for _, part in _items(space):
        n = _n_values(part)
        found.append((part, first + np.arange(n)))
        first += n
    return found


def _n_values(space: spaces.Space) -> int:
    return _part("", space).n_values


def _part(key: str, space: spaces.Space) -> ObservationPart:
    if isinstance(space, spaces.Discrete):
        return ObservationPart((), key, (int(space.n),), (int(space.start),))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return ObservationPart(space.shape, key, tuple(space.nvec), tuple(space.start))
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return ObservationPart(space.shape, key)
    raise ValueError(
        f"a Network takes Box, Discrete, MultiDiscrete, MultiBinary and Dict of these, not {in_words(space)}"
    )


def _same_space(one: spaces.Space, other: spaces.Space) -> bool:
    """Return whether two spaces have the same parts of the same sizes; bounds do not matter to a Network."""

    def parts(space: spaces.Space) -> list[tuple[str, type, Any, Any]]:
        return [(key, type(part), part.dtype, part.shape) for key, part in _items(space)]

    return parts(one) == parts(other)
