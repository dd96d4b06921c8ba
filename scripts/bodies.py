"""The option --body: a part of the body that changes while a policy plays."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spikeloop.scripts.cli import UsageError

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


def add_body_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--body``."""
    parser.add_argument(
        "--body",
        default=[],
        nargs="+",
        metavar="PART=VALUE[@N]",
        help="change the body after N episodes (default: 0): length=2@20 doubles a length, sensor_offset=0,0,0.1,0 "
        "adds to what is observed, action_sign turns actions round; parts stand in spikeloop.envs.bodies",
    )


def bodies_of(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the arguments of :class:`~spikeloop.envs.bodies.ChangeBody` for each text.

    Raises:
        UsageError: If a text is none.

    >>> bodies_of(["length=2@20", "sensor_offset=0,0.1", "action_sign"])  # doctest: +NORMALIZE_WHITESPACE
    [{'part': 'length', 'after_episodes': 20, 'factor': 2.0},
     {'part': 'sensor_offset', 'after_episodes': 0, 'amount': [0.0, 0.1]},
     {'part': 'action_sign', 'after_episodes': 0}]
    """
    from spikeloop.envs.bodies import ADDED  # which loads Gymnasium: --help answers without

    found = []
    for text in texts:
        change, at, episodes = text.partition("@")
        part, equals, value = change.partition("=")
        try:
            arguments: dict[str, Any] = {"part": part, "after_episodes": int(episodes) if at else 0}
            if part in ADDED:
                numbers = [float(number) for number in value.split(",")]
                arguments["amount"] = numbers if len(numbers) > 1 else numbers[0]
            elif equals:
                arguments["factor"] = float(value)
        except ValueError:
            raise UsageError(f"--body takes PART=VALUE[@N], such as length=2@20, got {text}") from None
        found.append(arguments)
    return found


def change_bodies(env: VecEnv, texts: Sequence[str]) -> None:
    """Put environments of this process behind wrappers that change their bodies, as the texts say.

    Raises:
        UsageError: If the task has no such part, or a number is out of range.
    """
    from spikeloop.envs.bodies import ChangeBody

    envs = env.unwrapped.envs  # type: ignore[attr-defined]
    for arguments in bodies_of(texts):
        try:
            envs[:] = [ChangeBody(one, **arguments) for one in envs]
        except ValueError as error:
            raise UsageError(f"--body {arguments['part']}: {error}") from None
