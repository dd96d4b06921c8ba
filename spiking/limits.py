"""Largest and smallest values of the parts of a network: what kernels and files can hold."""

from __future__ import annotations

MAX_NEURONS = 2**16 - 1  # of a layer: what numbers a spike
MAX_TICKS = 10_000  # of an env step
MAX_BYTES_OF_STEP = 2**28  # of what an env step computes for all its ticks at once, for one environment
MAX_VALUES_OF_STATE = 2**24  # of one environment
MAX_NUMBER = 1e30  # of gains and thresholds: within float32
MAX_TIME = 1e9  # ms
MIN_THRESHOLD = 1e-30  # so that float32 holds 1 / v_th
