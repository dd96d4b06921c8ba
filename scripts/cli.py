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

from spikeloop.agents.failures import EnvironmentFailed, NonFiniteError
from spikeloop.spiking.extras import install_hint

COMMANDS = {
    "train": "train a spiking policy, with RL Zoo's options, and resume or extend a training",
    "calibrate": "play an environment at random, print what it shows, and propose an input code for R-STDP",
    "rollout": "run a trained policy, print its return, record a video or a raster of its spikes",
    "convert": "turn a policy of Stable-Baselines3 into a spiking network, without training it anew",
    "deploy": "compile a trained policy for an emulated neuromorphic chip and run it there",
    "verify": "say whether files of networks, deployments and runs are whole",
    "benchmark": "measure the library beside what else one could use",
}
ALIASES = {"enjoy": ["rollout", "--human"]}  # RL Zoo's name for watching a policy
TRUST = "also take what can run code, from people you trust: see the README, what is safe to take from a stranger"
# library: the extra of ours that installs it
EXTRA_OF = {"box2d": "box2d", "mujoco": "mujoco", "pygame": "render", "moviepy": "render"}


class UsageError(Exception):
    """What the user asked for cannot be done; the message is one line and says why."""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise the message."""
        raise UsageError(message)


def did_you_mean(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known one.

    >>> did_you_mean("algorithm", "spikin_ppo", ["spiking_ppo", "eprop"])
    "unknown algorithm 'spikin_ppo'; did you mean 'spiking_ppo'?"
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"unknown {what} {name!r}; " + (f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}")


@contextlib.contextmanager
def before_any_work() -> Iterator[Callable[[], None]]:
    """Answer an exception with one line if it is raised while a request is still being checked.

    The ``with`` statement yields a function, to be called when the checks are over and the work begins. An exception
    before that call means that the request was wrong: it is raised as a :class:`UsageError`, whose message is one line.
    An exception after it is a fault of the program, and keeps its traceback, as all do under `python -X dev`.

    >>> with before_any_work() as begin:
    ...     raise ValueError("n_steps must be a multiple of seq_len, got 30")
    Traceback (most recent call last):
    spikeloop.scripts.cli.UsageError: n_steps must be a multiple of seq_len, got 30
    """
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True

    try:
        yield begin
    except (UsageError, EnvironmentFailed, NonFiniteError):
        raise
    except Exception as error:
        if begun or sys.flags.dev_mode:
            raise
        raise UsageError(_in_one_line(error)) from None


def _in_one_line(error: Exception) -> str:
    if type(error).__name__ == "DependencyNotInstalled":  # its message names an extra of Gymnasium
        for library, extra in EXTRA_OF.items():
            if library in str(error).lower():
                return f"this environment needs {library}: {install_hint(extra)}"
    if isinstance(error, (ValueError, OSError, ImportError, AssertionError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _is_missing_library(error: Exception) -> bool:
    """Return whether a library that the request needs is not installed, which is no fault of the program."""
    of_ours = isinstance(error, ImportError) and str(error.name).startswith("spikeloop")
    return type(error).__name__ == "DependencyNotInstalled" or (isinstance(error, ImportError) and not of_ours)


def import_environment(env_id: str) -> tuple[list[str], str]:
    """Import the module of an environment id of the form ``module:id``, which registers it.

    Returns:
        The modules imported, none or one, and the id without its module.

    Raises:
        UsageError: If there is no such module.
    """
    module, _, name = env_id.rpartition(":")
    if not module:
        return [], env_id
    import_modules("--env", [module])
    return [module], name


def import_modules(option: str, modules: Iterable[str]) -> None:
    """Import modules that register environments.

    Args:
        option: The option that named them, for the message.
        modules: Their names.

    Raises:
        UsageError: If there is no such module, or a module that it needs is missing.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, ValueError) as error:  # ValueError: an empty name
            raise UsageError(f"{option} {module}: expected a Python module that can be imported ({error})") from None


def run(command: str, script: Callable[[list[str]], int], argv: list[str] | None) -> int:
    """Run a script and return its exit status.

    The status is 2 after a wrong request or where a library is missing, 1 after an environment failed, 130 after
    Ctrl-C; each prints one line. Under `python -X dev` a missing library and an environment's failure keep their
    traceback.
    """
    if "" not in sys.path:
        # The working folder, as `python -m` has it: a user's own environments, wrappers and settings are modules there.
        # A console script starts without it. It comes last, so that no file of the user's hides an installed module.
        sys.path.append("")
    try:
        return script(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        return _refused(command, str(error))
    except (EnvironmentFailed, NonFiniteError) as error:
        if sys.flags.dev_mode:
            raise
        print(f"spikeloop {command}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"spikeloop {command}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if sys.flags.dev_mode or not _is_missing_library(error):
            raise
        return _refused(command, _in_one_line(error))


def _refused(command: str, message: str) -> int:
    # what a file says is part of some messages, and must not steer the terminal
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(message.split()))
    print(f"spikeloop {command}: error: {line}", file=sys.stderr)
    return 2


def main() -> int:
    """Run the command named by the first argument."""
    command, *argv = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print("usage: spikeloop COMMAND ...\n\ncommands:")
        print(*(f"  {name:<9} {text}" for name, text in COMMANDS.items()), sep="\n")
        print(*(f"  {name:<9} the same as {' '.join(words)}" for name, words in ALIASES.items()), sep="\n")
        print("\n`spikeloop COMMAND --help` explains a command, `spikeloop --version` prints the version.")
        return 0
    if command == "--version":
        print(importlib.metadata.version("spikeloop"))
        return 0
    command, *given = ALIASES.get(command, [command])
    if command not in COMMANDS:
        print(f"spikeloop: error: {did_you_mean('command', command, COMMANDS)}", file=sys.stderr)
        return 2
    return importlib.import_module(f"spikeloop.scripts.{command}").main([*given, *argv])


if __name__ == "__main__":
    sys.exit(main())
