"""A training that signals and failures end in order: a checkpoint is kept, and the last line says how to go on."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from stable_baselines3.common.base_class import BaseAlgorithm

from spikeloop.agents.checkpoints import Checkpoints, TrainingStopped
from spikeloop.agents.failures import EnvironmentFailed, NonFiniteError


class StoppableTraining:
    """Trains until the end, a signal or a failure.

    Args:
        folder: The run folder.
        checkpoints: The callback that saves checkpoints; None if the algorithm has none.

    Attributes:
        signals: Numbers of the signals that have asked the training to end, in order.
        saved: Whether the last step is in a checkpoint, where there are checkpoints.
    """

    def __init__(self, folder: Path, checkpoints: Checkpoints | None):
        self.folder, self.checkpoints = folder, checkpoints
        self.signals: list[int] = []
        self.saved = True

    def on_signal(self, number: int, frame: Any) -> None:
        """End the training after its update; at once for a second signal, or if there is no checkpoint to save."""
        self.signals.append(number)
        if self.checkpoints is None or len(self.signals) > 1:
            raise KeyboardInterrupt
        self.checkpoints.request_stop()
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        print(f"{name}: finishing this update, then saving; a second signal stops at once", file=sys.stderr)

    def run(self, learn: Callable[[], None], model: BaseAlgorithm, at_the_end: Callable[[], None]) -> None:
        """Train.

        Args:
            learn: What trains ``model``.
            model: What is trained.
            at_the_end: Called when the training has ended, whichever way.

        Raises:
            SystemExit: 128 + n after signal n, 1 after a failure.
        """
        stopped = False
        try:
            learn()
            stopped = len(self.signals) > (self.checkpoints is not None)  # RL Zoo takes KeyboardInterrupt for an end
            self.saved = self.checkpoints is None or self.checkpoints.saved_at == model.num_timesteps
        except TrainingStopped:
            stopped = True
        except NonFiniteError as error:
            self.fail(f"{error} at step {model.num_timesteps + model.n_envs}")
        except EnvironmentFailed as error:
            if sys.flags.dev_mode:
                raise
            self.fail(str(error))
        except (OSError, MemoryError, RuntimeError) as error:
            is_fault = isinstance(error, RuntimeError) and "allocate memory" not in str(error)  # torch's words
            if is_fault or sys.flags.dev_mode:
                raise
            self.fail(f"training stopped: {str(error) or 'no memory is left'}")
        finally:
            at_the_end()
        if stopped and self.checkpoints is not None:
            name = signal.Signals(self.signals[0]).name
            print(f"{name} at step {model.num_timesteps}; {self._kept()}", file=sys.stderr)
            raise SystemExit(128 + self.signals[0])

    def fail(self, message: str) -> NoReturn:
        """End the command with status 1 and one line: the message, and what is kept."""
        raise SystemExit(f"{message}; {self._kept()}")

    def exit_if_incomplete(self) -> None:
        """End the command with its status, 128 + n or 1, if signal n came or the last checkpoint is not of the end."""
        if self.signals or not self.saved:
            raise SystemExit(128 + self.signals[0] if self.signals else 1)

    def _kept(self) -> str:
        if self.checkpoints is None or self.checkpoints.saved_at is None:
            return "there is no checkpoint"
        step = self.checkpoints.saved_at
        return f"{self.checkpoints.path} holds step {step}, go on with: spikeloop train --resume {self.folder}"


@contextlib.contextmanager
def answering(numbers: Sequence[int], handler: Any) -> Iterator[None]:
    """Answer signals with a handler for a while; those that are ignored, as `nohup` has it, stay so."""
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
