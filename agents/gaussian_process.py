"""The next point of a Bayesian optimisation, by optuna's Gaussian process and its logarithm of expected improvement."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np

from spikeloop.spiking.extras import install_hint


def propose(tried: np.ndarray, values: np.ndarray, seed: int) -> np.ndarray:
    """Return where to look next for the largest value in a box, -1 to 1 in each dimension.

    Nothing is kept from call to call: the same arguments give the same point. The values' noise is estimated too.

    Args:
        tried: Points that were tried before, shape (k, d).
        values: Their values, shape (k,).
        seed: Seed of the points at which the search for the acquisition function's maximum starts.

    Returns:
        A point, shape (d,); a random one if none was tried before.

    Raises:
        ImportError: If optuna is not installed.
    """
    try:
        import optuna
        from optuna.samplers import GPSampler
    except ImportError as error:
        raise ImportError(f"method='bayes' needs optuna ({error}): {install_hint('evolution')}") from None
    level = logging.getLogger("optuna").level
    box: dict[str, Any] = {
        f"u{i:03d}": optuna.distributions.FloatDistribution(-1.0, 1.0) for i in range(tried.shape[1])
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            sampler = GPSampler(seed=seed, n_startup_trials=1)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            for point, value in zip(tried.tolist(), values.tolist(), strict=True):
                params = dict(zip(box, point, strict=True))
                study.add_trial(optuna.trial.create_trial(params=params, distributions=box, value=value))
            found = study.ask(box).params
        finally:
            optuna.logging.set_verbosity(level)
    return np.array([found[name] for name in box])
