"""Errors that are the world's and not the program's: a command answers them in one line and exits with status 1."""

from __future__ import annotations

# The square of a larger number is infinite in float32, in which networks learn.
LARGEST = 1.8e19


class EnvironmentFailed(Exception):
    """An environment raised an error, returned what no policy can take, or its worker process died."""


class NonFiniteError(ValueError):
    """An environment or a caller handed over NaN, infinity or a number beyond all use, or an update led to one."""
