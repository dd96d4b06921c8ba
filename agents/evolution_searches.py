"""How evolution searches: members to try, and what their returns say about where to go on.

What is searched are displacements (:class:`~spikeloop.agents.evolved.Evolved`): a search starts at zeros, ``sigma`` is
in units of the weights' root mean squares, and returns are maximised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import torch as th

from spikeloop.agents.gaussian_process import propose
from spikeloop.spiking.extras import install_hint

_LEFT_OUT = {"_rng", "_funhist_values"}  # of cmaes: seeded each generation; only for its stopping test
MOST_OF_FULL_CMA = 1000  # parameters; beyond, a covariance matrix of all pairs is too much to keep and to decompose


class Search(Protocol):
    """A search; what it remembers is in its ``state_dict``.

    Attributes:
        point: What the policy is now, shape (n,).
    """

    point: np.ndarray

    def ask(self, rng: np.random.Generator) -> np.ndarray:
        """Return the members of the next generation, shape (n_members, n)."""
        ...

    def tell(self, members: np.ndarray, returns: np.ndarray, rate: float) -> None:
        """Learn from the mean returns of these members, shape (n_members,), at a learning rate."""
        ...

    def state_dict(self) -> dict[str, th.Tensor]:
        """Return what is remembered."""
        ...

    def load_state_dict(self, state: Mapping[str, th.Tensor], strict: bool = True) -> None:
        """Remember what :meth:`state_dict` returned."""
        ...


def ranked(returns: np.ndarray) -> np.ndarray:
    """Return the ranks of returns, from -1/2 to 1/2; equal returns share the mean of their ranks.

    So nothing is learnt from members that all return the same, whatever the order in which they stand.

    >>> ranked(np.array([7.0, 500.0, 500.0]))
    array([-0.5 ,  0.25,  0.25])
    """
    _, place, counts = np.unique(returns, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    return (last - (counts - 1) / 2)[place] / max(len(returns) - 1, 1) - 0.5


def rarity(returns: np.ndarray) -> np.ndarray:
    """Return how rare it is to return as much, ``-log`` of the share of draws that return as much or more.

    So the few best tower above the others, whatever the units of returns, and draws that all return little are nearly
    alike. Equal returns share the mean of their ranks, of which the share is taken.

    >>> rarity(np.array([9.0, 10.0, 500.0, 8.0])).round(2)
    array([0.29, 0.69, 1.39, 0.  ])
    """
    n = len(returns)
    share = 0.5 - ranked(returns) * (1 - 1 / n) + 0.5 / n  # from 1 of the worst to 1 / n of the best
    return 0.0 - np.log(share)


def estimated_gradient(values: np.ndarray, noise: np.ndarray, sigma: float) -> np.ndarray:
    """Return ``mean_k values_k noise_k / sigma``, shape (n,), for noise of shape (n_members, n) (Salimans et al. 2017).

    With noise and its opposite it is the gradient of a quadratic in expectation.
    """
    return values @ noise / (len(values) * sigma)


class _Remembering:
    """What is remembered, of the attributes that a class names."""

    remembered: ClassVar[tuple[str, ...]] = ("point",)

    def state_dict(self) -> dict[str, th.Tensor]:
        return {name: th.from_numpy(np.array(getattr(self, name))) for name in self.remembered}

    def load_state_dict(self, state: Mapping[str, th.Tensor], strict: bool = True) -> None:
        for name in self.remembered:
            setattr(self, name, state[name].numpy().copy())


class EvolutionStrategy(_Remembering):
    """OpenAI's evolution strategy (Salimans et al. 2017): Adam on ranks times noise, noise in opposite pairs.

    Args:
        n: Parameters.
        sigma: Standard deviation of the noise.
        n_members: Members of a generation, even.
        weight_decay: Each generation pulls the point back to the start by this share times the learning rate.

    >>> search, rng = EvolutionStrategy(2, 0.1, 8, 0.0), np.random.default_rng(0)
    >>> for _ in range(60):  # towards (1, -1)
    ...     members = search.ask(rng)
    ...     search.tell(members, -((members - [1.0, -1.0]) ** 2).sum(axis=1), 0.05)
    >>> bool(np.abs(search.point - [1.0, -1.0]).max() < 0.2)
    True
    """

    remembered: ClassVar[tuple[str, ...]] = ("point", "mean", "square", "n_updates")

    def __init__(self, n: int, sigma: float, n_members: int, weight_decay: float):
        self.sigma, self.n_members, self.weight_decay = sigma, n_members, weight_decay
        self.point, self.mean, self.square = np.zeros(n), np.zeros(n), np.zeros(n)
        self.n_updates = np.zeros((), np.int64)

    def ask(self, rng: np.random.Generator) -> np.ndarray:
        noise = rng.normal(size=(self.n_members // 2, self.point.size))
        return self.point + self.sigma * np.concatenate([noise, -noise])

    def tell(self, members: np.ndarray, returns: np.ndarray, rate: float) -> None:
        gradient = estimated_gradient(ranked(returns), (members - self.point) / self.sigma, self.sigma)
        self.n_updates = self.n_updates + 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        step = self.mean / (1 - 0.9**self.n_updates) / (np.sqrt(self.square / (1 - 0.999**self.n_updates)) + 1e-8)
        self.point = self.point * (1 - rate * self.weight_decay) + rate * step


class CovarianceMatrixAdaptation:
    """CMA-ES (Hansen 2016) of the library cmaes; beyond :data:`MOST_OF_FULL_CMA` parameters with a diagonal matrix.

    Args:
        n: Parameters, 2 or more.
        sigma: Standard deviation at first.
        n_members: Members of a generation.

    Raises:
        ImportError: If cmaes is not installed.
    """

    def __init__(self, n: int, sigma: float, n_members: int):
        try:
            import cmaes
        except ImportError as error:
            raise ImportError(f"method='cma' needs cmaes ({error}): {install_hint('evolution')}") from None
        if n < 2:
            raise ValueError(f"method='cma' needs 2 parameters or more, got {n}")
        kind: Callable[..., Any] = cmaes.CMA if n <= MOST_OF_FULL_CMA else cmaes.SepCMA
        self.cma = kind(mean=np.zeros(n), sigma=float(sigma), population_size=n_members, seed=0)

    @property
    def point(self) -> np.ndarray:
        """The mean of the distribution."""
        return np.array(self.cma.mean)

    def ask(self, rng: np.random.Generator) -> np.ndarray:
        self.cma.reseed_rng(int(rng.integers(2**31)))
        return np.array([self.cma.ask() for _ in range(self.cma.population_size)])

    def tell(self, members: np.ndarray, returns: np.ndarray, rate: float) -> None:
        self.cma.tell([(member, -value) for member, value in zip(members, returns.tolist(), strict=True)])

    def state_dict(self) -> dict[str, th.Tensor]:
        # its own pickle keeps half of the matrix, which is not symmetric to the last bit
        kept = {name: value for name, value in vars(self.cma).items() if name not in _LEFT_OUT and value is not None}
        return {name: th.from_numpy(np.array(value)) for name, value in kept.items()}

    def load_state_dict(self, state: Mapping[str, th.Tensor], strict: bool = True) -> None:
        for name in vars(self.cma).keys() - _LEFT_OUT:
            value = state[name].numpy() if name in state else None
            setattr(self.cma, name, value if value is None else value.copy() if value.ndim else value.item())


class Perturbation(_Remembering):
    """Weight perturbation: a random step is kept unless it returns less (a (1+1) evolution strategy, Rechenberg 1973).

    Args:
        n: Parameters.
        sigma: Standard deviation of a step.
        reevaluate: Whether the point that is kept plays the same episodes beside each step. If not, its score stays the
            one for which it was kept, less a thousandth with each step that fails, so that a lucky score fades.
    """

    remembered: ClassVar[tuple[str, ...]] = ("point", "score")

    def __init__(self, n: int, sigma: float, reevaluate: bool):
        self.sigma, self.reevaluate = sigma, reevaluate
        self.point, self.score = np.zeros(n), np.array(np.finfo(np.float64).min)

    def ask(self, rng: np.random.Generator) -> np.ndarray:
        step = self.point + self.sigma * rng.normal(size=self.point.size)
        return np.stack([self.point, step]) if self.reevaluate else step[None]

    def tell(self, members: np.ndarray, returns: np.ndarray, rate: float) -> None:
        if self.reevaluate:
            self.score = returns[0]
        if returns[-1] >= self.score:
            self.point, self.score = members[-1].copy(), np.array(returns[-1])
        else:
            self.score = self.score - 0.001 * abs(self.score)


class RandomSearch(_Remembering):
    """Draws around the start, of which the best is kept: the control that a search has to beat.

    The draw with the best mean return is played :attr:`n_confirmed` times, in new episodes each time, before another is
    drawn, since the best of many single returns is often only the luckiest.

    Args:
        n: Parameters.
        sigma: Standard deviation of the draws.
    """

    remembered: ClassVar[tuple[str, ...]] = ("point", "tried", "sums", "counts", "latest")
    n_confirmed = 5

    def __init__(self, n: int, sigma: float):
        self._begin(n, n)
        self.sigma = sigma

    def _begin(self, n: int, n_tried: int) -> None:
        self.point, self.tried = np.zeros(n), np.zeros((0, n_tried))
        self.sums, self.counts, self.latest = np.zeros(0), np.zeros(0), np.zeros((), np.int64)

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        return self.sigma * rng.normal(size=self.tried.shape[1])

    def _placed(self, one: np.ndarray) -> np.ndarray:
        return one

    def _best(self) -> int:
        return int(np.argmax(self.sums / self.counts))

    def ask(self, rng: np.random.Generator) -> np.ndarray:
        if len(self.tried) and self.counts[best := self._best()] < self.n_confirmed:
            self.latest = np.array(best)
        else:
            self.latest = np.array(len(self.tried))
            self.tried = np.concatenate([self.tried, self._draw(rng)[None]])
            self.sums, self.counts = np.append(self.sums, 0.0), np.append(self.counts, 0.0)
        return self._placed(self.tried[self.latest])[None]

    def tell(self, members: np.ndarray, returns: np.ndarray, rate: float) -> None:
        self.sums[self.latest] += returns[0]
        self.counts[self.latest] += 1
        self.point = self._placed(self.tried[self._best()])


class BayesianOptimisation(RandomSearch):
    """Bayesian optimisation in a random subspace (REMBO, Wang et al. 2016), with optuna's Gaussian process.

    ``z = P u``, where u is in a box, -1 to 1 in each of few dimensions, and P is a matrix of independent normal
    numbers. The process is given the :func:`rarity` of returns: most returns are alike and low, and a few tower above
    them, which a smooth function cannot follow. Plain ranks would be mostly about which of the low ones is least low.

    Args:
        n: Parameters.
        sigma: Standard deviation of a displacement where u is uniform in the box.
        n_dims: Dimensions of the box.
        n_random: Draws before the process is asked.
        rng: Source of P.

    Raises:
        ImportError: If optuna is not installed.
    """

    remembered: ClassVar[tuple[str, ...]] = (*RandomSearch.remembered, "embedding")

    def __init__(self, n: int, sigma: float, n_dims: int, n_random: int, rng: np.random.Generator):
        self._begin(n, n_dims)
        self.n_random = n_random
        self.embedding = sigma * np.sqrt(3 / n_dims) * rng.normal(size=(n, n_dims))
        propose(np.zeros((0, n_dims)), np.zeros(0), 0)  # so that a missing library is reported before any work

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        if len(self.tried) < self.n_random:
            return rng.uniform(-1, 1, self.tried.shape[1])
        return propose(self.tried, rarity(self.sums / self.counts), int(rng.integers(2**31)))

    def _placed(self, one: np.ndarray) -> np.ndarray:
        return self.embedding @ one


# The arguments of each method, and what they are if they are not given.
DEFAULTS: dict[str, dict[str, Any]] = {
    "es": {"sigma": 0.3, "n_episodes": 2, "learning_rate": 0.2, "n_members": 32, "weight_decay": 0.02},
    "cma": {"sigma": 0.3, "n_episodes": 2, "n_members": 32},
    "perturbation": {"sigma": 0.3, "n_episodes": 4, "reevaluate": True},
    "bayes": {"sigma": 1.5, "n_episodes": 3, "n_dims": 8, "n_random": 12},
    "random": {"sigma": 1.0, "n_episodes": 3},
}


def search_for(method: str, n: int, rng: np.random.Generator, **settings: Any) -> Search:
    """Return a search over ``n`` parameters.

    Args:
        method: A name in :data:`DEFAULTS`.
        n: Parameters.
        rng: Draws what is drawn once.
        settings: The method's arguments, less ``n_episodes`` and ``learning_rate``.

    >>> rng = np.random.default_rng(0)
    >>> search_for("perturbation", 3, rng, sigma=0.1, reevaluate=True).ask(rng).shape
    (2, 3)
    """
    if method == "bayes":
        return BayesianOptimisation(n, rng=rng, **settings)
    kinds: dict[str, Any] = {
        "es": EvolutionStrategy,
        "cma": CovarianceMatrixAdaptation,
        "perturbation": Perturbation,
        "random": RandomSearch,
    }
    return kinds[method](n, **settings)
