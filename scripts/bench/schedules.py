"""Hyperparameters of presets that fall over a training, for benchmarks that train without RL Zoo."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial


def schedule_of(rate: float | str) -> float | Callable[[float], float]:
    """Return a hyperparameter as algorithms take it: ``lin_X`` falls linearly from X to 0, as RL Zoo has it.

    >>> schedule_of("lin_0.2")(0.5), schedule_of(0.2)
    (0.1, 0.2)
    """
    text = str(rate)
    return partial(float.__mul__, float(text.removeprefix("lin_"))) if text.startswith("lin_") else float(rate)
