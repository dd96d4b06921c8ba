"""`spikeloop COMMAND ...`: runs the scripts of this folder by name."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

COMMANDS = {
    "train": "train a spiking policy, with RL Zoo's options, and resume a training that was cut short",
    "rollout": "run a trained policy, print its return, record a video or a raster of its spikes",
    "deploy": "compile a trained policy for an emulated neuromorphic chip and run it there",
    "benchmark": "measure the library beside what else one could use",
}


class UsageError(Exception):
    """What the user asked for cannot be done; the message is one line and says why."""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise the message."""
        raise UsageError(message)


def did_you_mean(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known one."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"unknown {what} {name!r}; " + (f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}")


@contextlib.contextmanager
def before_any_work() -> Iterator[Callable[[], None]]:
    """Answer what is found wrong with one line, until the function it gives is called: from then on it is a failure.

    `python -X dev` shows where it was found instead.
    """
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True

    try:
        yield begin
    except UsageError:
        raise
    except Exception as error:
        if begun or sys.flags.dev_mode:
            raise
        message = str(error)
        if isinstance(error, (NameError, SyntaxError)):  # RL Zoo evaluates what stands behind the colon
            message += "; NAME:VALUE takes a Python value, text in quotes as in \"learning_rate:'lin_0.001'\""
        elif not isinstance(error, (ValueError, OSError, ImportError)):
            message = f"{type(error).__name__}: {message}"
        raise UsageError(message) from None


def run(command: str, script: Callable[[list[str]], int], argv: list[str] | None) -> int:
    """Run a script and return its exit status: 2 with one line for a wrong request, 130 for Ctrl-C."""
    try:
        return script(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        print(f"spikeloop {command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"spikeloop {command}: interrupted", file=sys.stderr)
        return 130


def main() -> int:
    """Run the command named by the first argument."""
    command, *argv = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print("usage: spikeloop COMMAND ...\n\ncommands:")
        print(*(f"  {name:<9} {text}" for name, text in COMMANDS.items()), sep="\n")
        print("\n`spikeloop COMMAND --help` explains a command, `spikeloop --version` prints the version.")
        return 0
    if command == "--version":
        print(importlib.metadata.version("spikeloop"))
        return 0
    if command not in COMMANDS:
        print(f"spikeloop: error: {did_you_mean('command', command, COMMANDS)}", file=sys.stderr)
        return 2
    return importlib.import_module(f"spikeloop.scripts.{command}").main(argv)


if __name__ == "__main__":
    sys.exit(main())
