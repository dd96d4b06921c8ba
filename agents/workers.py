"""When a worker process of the environments dies: say which one and why, and close the others."""

from __future__ import annotations

import contextlib
import signal
import time
from multiprocessing import connection

from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from spikeloop.agents.failures import EnvironmentFailed

# What the main process sees of a worker that died.
GONE = (EOFError, ConnectionError)
# Signals by which terminals and schedulers ask a group of processes to end; the main process of a training saves first.
POLITE = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU")
    if hasattr(signal, name)  # not all are known everywhere
)
_PATIENCE = 5.0  # seconds


def blame_worker(venv: VecEnv, name: str = "") -> None:
    """Name the worker that died, where one did; call it where one of :data:`GONE` was raised.

    Args:
        venv: The environments.
        name: What to call them.

    Raises:
        EnvironmentFailed: If the worker of an environment has ended.
    """
    base = venv.unwrapped
    if not isinstance(base, SubprocVecEnv):
        return
    # a dying process closes its pipe a moment before it has an exit code
    connection.wait([process.sentinel for process in base.processes], timeout=1.0)
    for index, process in enumerate(base.processes):
        if process.exitcode is not None:
            raise EnvironmentFailed(
                f"the worker process of {name or 'the environment'} (env {index}) {_end(process.exitcode)}"
            )


def _end(code: int) -> str:
    """Return in words how a process ended."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (", as happens where memory runs out" if name == "SIGKILL" else "")


def close_quietly(venv: VecEnv) -> None:
    """Close environments whatever state they are in; it neither raises nor waits for a worker that does not answer."""
    base = venv.unwrapped
    if isinstance(base, SubprocVecEnv) and not base.closed:
        for remote in base.remotes:
            with contextlib.suppress(OSError):
                remote.send(("close", None))
        _join(base)
        base.closed = True
    with contextlib.suppress(Exception):
        venv.close()  # also closes wrappers, and environments in this process


def _join(base: SubprocVecEnv) -> None:
    """Wait for workers that were told to close, and end those that do not."""
    deadline = time.monotonic() + _PATIENCE
    for remote, process in zip(base.remotes, base.processes, strict=True):
        while process.is_alive() and time.monotonic() < deadline:
            # take the result of an unfinished step: the worker may be waiting for room in the pipe
            if remote in connection.wait([remote, process.sentinel], timeout=0.1):
                with contextlib.suppress(*GONE):
                    remote.recv_bytes()
            process.join(timeout=0.01)
        if process.is_alive():
            process.kill()
            process.join()
        remote.close()
