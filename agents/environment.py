"""The environment a policy was trained in, as text that a file carries and from which it is made again."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

# Packages whose wrappers a file may name: a file must not choose which code of the user's machine runs.
_TRUSTED = ("gymnasium", "stable_baselines3", "sb3_contrib", "rl_zoo3", "spikeloop")
# Wrappers that only look on.
_ONLOOKERS = ("RecordVideo", "RecordEpisodeStatistics", "HumanRendering")
_MONITOR = f"{Monitor.__module__}:{Monitor.__qualname__}"


@dataclass(frozen=True)
class EnvDescription:
    """What is needed to make one environment again.

    Args:
        env_id: Its id.
        env_kwargs: Its arguments; None if they cannot be written as text.
        wrappers: Its wrappers, the innermost first: ``"module:Class"`` with their arguments, None if not known.
        max_episode_steps: Its time limit; None for that of its registration, -1 for none.
        gym_packages: Modules that register it.
    """

    env_id: str
    env_kwargs: Mapping[str, Any] | None = field(default_factory=dict)
    wrappers: tuple[tuple[str, Mapping[str, Any] | None], ...] = ()
    max_episode_steps: int | None = None
    gym_packages: tuple[str, ...] = ()

    def to_metadata(self) -> dict[str, str]:
        """Return the description as text pairs, for the metadata of a Network."""
        return {
            "env": self.env_id,
            "env_kwargs": json.dumps(self.env_kwargs),
            "env_wrappers": json.dumps(self.wrappers),
            "max_episode_steps": json.dumps(self.max_episode_steps),
            "gym_packages": json.dumps(self.gym_packages),
        }

    @staticmethod
    def from_metadata(metadata: Mapping[str, str]) -> EnvDescription | None:
        """Return the description in a Network's metadata; None if there is none.

        Raises:
            ValueError: If it is damaged.
        """
        if "env" not in metadata:
            return None
        try:
            found = {
                name: json.loads(metadata[name])
                for name in ("env_kwargs", "env_wrappers", "max_episode_steps", "gym_packages")
                if name in metadata
            }
            wrappers = tuple((str(name), kwargs) for name, kwargs in found.pop("env_wrappers", []))
            packages = tuple(map(str, found.pop("gym_packages", [])))
            return EnvDescription(metadata["env"], wrappers=wrappers, gym_packages=packages, **found)
        except (ValueError, TypeError) as error:
            raise ValueError(f"the metadata does not describe an environment: {error}") from None

    def missing(self) -> str | None:
        """Return which arguments text could not hold, without which it cannot be made again; None if all are here."""
        if self.env_kwargs is None:
            return f"{self.env_id} was made with arguments that could not be written down"
        for name, kwargs in self.wrappers:
            if kwargs is None:
                return f"the policy was trained behind the wrapper {name}, whose arguments could not be written down"
        return None

    def make(self, trusted: Sequence[str] = (), **env_kwargs: Any) -> gym.Env:
        """Make the environment, with all of its wrappers, and a ``Monitor`` if it had none.

        Args:
            trusted: Packages of the user's own whose wrappers may be made.
            env_kwargs: Further arguments of the environment, such as ``render_mode``.

        Raises:
            ValueError: If it cannot be made again as it was.
        """
        missing = self.missing()
        if missing is not None:
            raise ValueError(missing)
        limit = {} if self.max_episode_steps is None else {"max_episode_steps": self.max_episode_steps}
        wrappers = [_wrapper_class(name, trusted) for name, _ in self.wrappers]
        env = gym.spec(self.env_id).make(**{**(self.env_kwargs or {}), **limit, **env_kwargs})
        for wrapper, (_, kwargs) in zip(wrappers, self.wrappers, strict=True):
            env = wrapper(env, **(kwargs or {}))
        check_statistics(env)
        return env if _MONITOR in dict(self.wrappers) else Monitor(env)


def check_statistics(env: gym.Env | VecEnv) -> None:
    """Refuse environments that normalise by statistics of their own, which are lost when they are made again.

    Args:
        env: An environment, or several. Statistics of observations are known by their name, ``obs_rms``.

    Raises:
        ValueError: If they do.
    """
    has = env.has_wrapper_attr if isinstance(env, gym.Env) else env.unwrapped.has_attr
    try:
        found = has("obs_rms")
    except OSError:  # workers that have been closed; who closed them could have asked before
        return
    if found:
        raise ValueError(
            "the environment keeps running statistics of what it shows (obs_rms, as NormalizeObservation does), which "
            "neither a model nor a file carries: use VecNormalize instead, which is normalize: true for RL Zoo"
        )


def describe(venv: VecEnv) -> EnvDescription | None:
    """Return the description of the environments in a VecEnv; None if they are not registered with Gymnasium."""
    spec = venv.get_attr("spec", indices=0)[0]
    if spec is None:
        return None
    kwargs = {name: value for name, value in spec.kwargs.items() if name != "render_mode"}
    wrappers: list[tuple[str, Mapping[str, Any] | None]] = []
    for one in spec.additional_wrappers[_n_built_in(spec) :]:
        if one.entry_point == _MONITOR:
            wrappers.append((_MONITOR, {}))
        elif one.name not in _ONLOOKERS:
            wrappers.append((one.entry_point, _plain(one.kwargs)))
    try:
        registered = gym.spec(spec.id).max_episode_steps
    except gym.error.Error:
        registered = None
    limit = spec.max_episode_steps or -1  # as gym.make takes it
    if spec.max_episode_steps == registered:
        limit = None
    return EnvDescription(spec.id, _plain(kwargs), tuple(wrappers), limit)


def _n_built_in(spec: Any) -> int:
    """Return how many of the wrappers come with the environment itself, from what its registration names."""
    if all(one.entry_point == _MONITOR for one in spec.additional_wrappers):
        return 0
    env = gym.spec(spec.id).make(**{**spec.kwargs, "render_mode": None})
    made = env.spec
    env.close()
    return 0 if made is None else len(made.additional_wrappers)


def with_zoo_settings(
    description: EnvDescription, hyperparams: Mapping[str, Any], gym_packages: Sequence[str]
) -> EnvDescription:
    """Return the description with what RL Zoo's settings know better: arguments of its ``env_wrapper``, and modules.

    Args:
        description: From the environments that RL Zoo made.
        hyperparams: The run's hyperparameters.
        gym_packages: Its ``--gym-packages``.
    """
    named = hyperparams.get("env_wrapper") or []
    wrappers = {}
    for one in named if isinstance(named, list) else [named]:
        name, kwargs = next(iter(one.items())) if isinstance(one, dict) else (one, {})
        module, _, class_name = str(name).rpartition(".")
        wrappers[f"{module}:{class_name}"] = wrappers[class_name] = _plain(kwargs or {})
    known = tuple(
        (name, wrappers.get(name, wrappers.get(name.rpartition(":")[2], kwargs)) if kwargs is None else kwargs)
        for name, kwargs in description.wrappers
    )
    return replace(description, wrappers=known, gym_packages=tuple(gym_packages))


def _plain(kwargs: Any) -> dict[str, Any] | None:
    """Return arguments as JSON gives them back; None if it does not give the same."""
    try:
        again = json.loads(json.dumps(kwargs))
        return again if again == kwargs else None
    except (TypeError, ValueError):
        return None


def _wrapper_class(name: str, trusted: Sequence[str]) -> type[gym.Wrapper]:
    module, _, class_name = name.partition(":")
    if not any(module == one or module.startswith(f"{one}.") for one in (*_TRUSTED, *trusted)):
        raise ValueError(
            f"the policy was trained behind the wrapper {name}, which is of none of the packages a file may call: "
            f"allow it with --gym-packages {module}"
        )
    try:
        found = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the policy was trained behind the wrapper {name}, which is not here ({error})") from None
    if not (isinstance(found, type) and issubclass(found, gym.Wrapper)) or class_name in _ONLOOKERS:
        raise ValueError(f"the policy was trained behind {name}, which is no Gymnasium wrapper that a file may name")
    return found
