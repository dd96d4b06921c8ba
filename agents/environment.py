"""The environment a policy was trained in, as text that a file carries and from which it is made again."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from spikeloop.agents.known_arguments import arguments_of

# Modules whose wrappers a file may name: a file must not choose which code of the user's machine runs. Of packages with
# scripts, which run when they are imported, only those without.
_TRUSTED = (
    "gymnasium",
    "stable_baselines3",
    "sb3_contrib",
    "rl_zoo3.callbacks",
    "rl_zoo3.wrappers",
    "spikeloop.agents",
    "spikeloop.envs",
)
_WORDS = re.compile(r"[\w\s+-]*")
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

    >>> description = EnvDescription("CartPole-v1", max_episode_steps=50)
    >>> description.to_metadata()["max_episode_steps"]
    '50'
    >>> EnvDescription.from_metadata(description.to_metadata()) == description
    True
    >>> type(description.make()).__name__
    'Monitor'
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
            for kwargs in (found.get("env_kwargs", {}), *(kwargs for _, kwargs in wrappers)):
                if not isinstance(kwargs, (dict, type(None))):
                    raise ValueError(f"arguments must be an object, got {kwargs!r}")
            limit = found.get("max_episode_steps")
            if limit is not None and (type(limit) is not int or limit < 1) and limit != -1:
                raise ValueError(f"max_episode_steps must be a whole number >= 1, or -1 for none, got {limit!r}")
            return EnvDescription(str(metadata["env"]), wrappers=wrappers, gym_packages=packages, **found)
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

    def make(self, trusted: Sequence[str] = (), trust: bool = False, **env_kwargs: Any) -> gym.Env:
        """Make the environment, with all of its wrappers, and a ``Monitor`` if it had none.

        Args:
            trusted: Packages of the user's own whose wrappers may be made.
            trust: Whether texts among the arguments may name files and modules.
            env_kwargs: Further arguments of the environment, such as ``render_mode``.

        Raises:
            ValueError: If it cannot be made again as it was, or not without ``trust``.
        """
        missing = self.missing()
        if missing is not None:
            raise ValueError(missing)
        limit = {} if self.max_episode_steps is None else {"max_episode_steps": self.max_episode_steps}
        wrappers = [_wrapper_class(name, kwargs, trusted) for name, kwargs in self.wrappers]
        if not trust:
            self._check_arguments()
        env = gym.spec(self.env_id).make(**{**(self.env_kwargs or {}), **limit, **env_kwargs})
        for wrapper, (_, kwargs) in zip(wrappers, self.wrappers, strict=True):
            env = wrapper(env, **(kwargs or {}))
        check_statistics(env)
        return env if _MONITOR in dict(self.wrappers) else Monitor(env)

    def _check_arguments(self) -> None:
        """Refuse arguments that a file must not choose: what only `gym.make` takes, and names of files and modules."""
        spec = gym.spec(self.env_id)
        registered = list(spec.kwargs.items())
        chosen = {name: value for name, value in (self.env_kwargs or {}).items() if (name, value) not in registered}
        creator: Any = spec.entry_point
        if chosen and isinstance(creator, str):
            creator = load_env_creator(creator)
        known = arguments_of(creator) | set(spec.kwargs) if chosen else set()
        for name in chosen:
            if name not in known or name == "render_mode":
                raise ValueError(f"{name!r} is no argument of {self.env_id} that a file may choose")
        for what, kwargs in ((self.env_id, chosen), *self.wrappers):
            check_words(what, kwargs)


def check_words(what: str, arguments: Any) -> None:
    """Refuse arguments from a file among whose texts is one that could name a file or a module of this machine.

    Args:
        what: What takes them, for the message.
        arguments: Mappings and sequences of texts, numbers, booleans and None.

    Raises:
        ValueError: Naming the text.
    """
    for text in leaves(arguments):
        if isinstance(text, str) and not _WORDS.fullmatch(text):
            raise ValueError(
                f"{what}: a file may choose numbers and plain words, and {text!r} could name a file or a module: "
                "add --trust if you trust who made it"
            )


def leaves(value: Any) -> list[Any]:
    """Return what a value of mappings and sequences holds, the keys of the mappings included."""
    found, todo, seen = [], [value], set()
    while todo:
        one = todo.pop()
        if not isinstance(one, (Mapping, list, tuple, set)):
            found.append(one)
        elif id(one) not in seen:  # YAML's aliases put one into many places, or into itself
            seen.add(id(one))
            todo += [part for pair in one.items() for part in pair] if isinstance(one, Mapping) else one
    return found


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


def _wrapper_class(name: str, kwargs: Mapping[str, Any] | None, trusted: Sequence[str]) -> type[gym.Wrapper]:
    module, _, class_name = name.partition(":")
    what = f"the policy was trained behind the wrapper {name}, which"
    found = trusted_class(what, module, class_name, gym.Wrapper, trusted)
    if found.__name__ in _ONLOOKERS or (issubclass(found, Monitor) and kwargs):  # these write files
        raise ValueError(f"{what} is no wrapper that a file may make with arguments of its own")
    return found


def trusted_class(what: str, module: str, name: str, base: type, packages: Sequence[str]) -> type:
    """Return a class that a file names, if the file may: of libraries that act only when they are called.

    Args:
        what: Subject of the message, which names it.
        module: Its module.
        name: Its name there.
        base: What it must be a subclass of.
        packages: Modules of the user's own that may be named too.

    Raises:
        ValueError: If the file may not name it, or it is not there.
    """
    if not any(module == one or module.startswith(f"{one}.") for one in (*_TRUSTED, *packages)):
        raise ValueError(
            f"{what} is of none of the packages a file may call: if it is yours, allow it with --gym-packages {module}"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what} is not here ({error})") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{what} is no {base.__name__} of {base.__module__.partition('.')[0]}")
    return found
