"""Largest and smallest values of the parts of a network: what kernels and files can hold."""

from __future__ import annotations

MAX_NEURONS = 2**16 - 1  # of a layer: what numbers a spike
MAX_TICKS = 10_000  # of an env step
MAX_BYTES_OF_STEP = 2**28  # of what an env step computes for all its ticks at once, for one environment
MAX_VALUES_OF_STATE = 2**24  # of one environment
MAX_NUMBER = 1e30  # of gains and thresholds: within float32
MAX_TIME = 1e9  # ms
MIN_THRESHOLD = 1e-30  # so that float32 holds 1 / v_th


def check_size(owner: str, n_ticks: int, bytes_of_tick: int, state_shape: tuple[int, int]) -> None:
    """Refuse what would take more memory than any use needs, for a few bytes of a file can ask for all there is.

    Args:
        owner: Class of what is described.
        n_ticks: Ticks per env step.
        bytes_of_tick: What each of them takes while all are computed, for one environment.
        state_shape: Rows and width of the state of one environment.

    Raises:
        ValueError: If an env step or the state takes more than ``MAX_BYTES_OF_STEP`` or ``MAX_VALUES_OF_STATE``.
    """
    if n_ticks * bytes_of_tick > MAX_BYTES_OF_STEP:
        most = MAX_BYTES_OF_STEP // bytes_of_tick
        raise ValueError(
            f"{owner}.n_ticks must be at most {most} with so many inputs, neurons and outputs, got {n_ticks}"
        )
    rows, width = state_shape
    if rows * width > MAX_VALUES_OF_STATE:
        raise ValueError(
            f"{owner} must have a state of at most {MAX_VALUES_OF_STATE} values per environment, "
            f"got {rows} rows of {width}"
        )
