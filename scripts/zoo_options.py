"""RL Zoo's own options, with checks of those values that it would ignore or answer with a traceback."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import torch as th
from rl_zoo3.utils import StoreDict

from spikeloop.scripts.cli import Parser, UsageError
from spikeloop.spiking.extras import install_hint

LEAST = {"eval_episodes": 1, "n_eval_envs": 1, "n_trials": 1, "n_jobs": 1}
LEAST_BUT_MINUS_ONE = {"n_timesteps": 1, "num_threads": 1, "seed": 0}  # -1 leaves the choice to RL Zoo


class ZooParser(Parser):
    """Parses RL Zoo's options and checks them."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the options.

        Raises:
            UsageError: If the value of one is out of range.
        """
        options = super().parse_args(args, namespace)
        _check(options)
        return options


class StorePairs(StoreDict):
    """Stores ``NAME:VALUE`` pairs whose values are Python; an option given twice adds to its first pairs."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Evaluate the values and store the pairs."""
        stored = dict(getattr(namespace, self.dest) or {})
        for pair in values:
            try:
                super().__call__(parser, namespace, [pair], option)
            except Exception as error:
                raise UsageError(
                    f"{option} {pair}: expected NAME:VALUE with a Python value, text in quotes as in "
                    f"\"learning_rate:'lin_0.001'\" ({type(error).__name__}: {error})"
                ) from None
            stored |= getattr(namespace, self.dest)
        setattr(namespace, self.dest, stored)


def _check(options: argparse.Namespace) -> None:
    for name, value in vars(options).items():
        least = LEAST.get(name, LEAST_BUT_MINUS_ONE.get(name))
        if least is not None and value < least and not (value == -1 and name in LEAST_BUT_MINUS_ONE):
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    if options.log_interval == 0:
        raise UsageError("--log-interval must not be 0: N logs every N updates, -2 none")
    if options.trained_agent and not (options.trained_agent.endswith(".zip") and Path(options.trained_agent).is_file()):
        raise UsageError(f"--trained-agent takes the .zip file of a model, there is none at {options.trained_agent}")
    if options.tensorboard_log and not importlib.util.find_spec("tensorboard"):
        raise UsageError(f"--tensorboard-log needs tensorboard: {install_hint('zoo')}")
    _check_device(options.device)


def _check_device(device: str) -> None:
    if device == "auto":
        return
    try:
        th.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {device}: expected auto, cpu, or another device that is here ({reason})") from None
