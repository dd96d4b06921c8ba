"""What a file may do without ``--trust``: see "What is safe to take from a stranger" in the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnvWrapper

from spikeloop.agents.environment import check_words, trusted_class
from spikeloop.agents.seals import is_sealed
from spikeloop.scripts.cli import UsageError
from spikeloop.scripts.plain_data import parse

_TEXTS = ("normalize", "monitor_kwargs", "policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs")
_CLASSES = {
    "env_wrapper": gym.Wrapper,
    "vec_env_wrapper": VecEnvWrapper,
    "callback": BaseCallback,
    "policy": BasePolicy,
}
_ARGUMENTS = ("env_kwargs", "monitor_kwargs")


def need_own(files: Iterable[Path], trust: bool) -> None:
    """Refuse files that can run code unless the user's own training wrote them, or the user trusts them.

    Args:
        files: The files; those that do not exist are of no concern.
        trust: Whether the user gave ``--trust``.

    Raises:
        UsageError: Naming the first that is refused.
    """
    for file in files:
        if not trust and file.exists() and not (file.is_file() and is_sealed(file)):
            raise UsageError(
                f"{file} can run code, and it is not as a training of yours wrote it on this machine: "
                "add --trust if you trust who made it"
            )


def as_data(settings: Mapping[str, Any], packages: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a preset with its texts as plain data.

    Args:
        settings: From a YAML file, or from a study.
        packages: Modules of the user's own whose classes it may name.

    Raises:
        ValueError: If a text is no plain data, a class is none that a file may name, or an argument no plain word.
    """
    data = dict(settings)
    for name in _TEXTS:
        if isinstance(data.get(name), str):
            try:
                data[name] = parse(data[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}; add --trust if you trust who made it") from None
    for name, base in _CLASSES.items():
        named = data.get(name)
        for one in named if isinstance(named, list) else [named]:
            path, arguments = next(iter(one.items()), ("", {})) if isinstance(one, dict) else (one, {})
            if path is None or (name == "policy" and "." not in str(path)):
                continue
            module, _, attribute = str(path).rpartition(".")
            if module:  # a name without a module is refused later, by check_classes
                trusted_class(f"{name} {path}", module, attribute, base, packages)
            check_words(f"{name} {path}", arguments)
    for name in _ARGUMENTS:
        check_words(name, data.get(name))
    return data
