"""What the learners of the table of peers see: our tiles, or place cells on a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import yaml

from spikeloop.agents.line_codes import coder_for
from spikeloop.agents.registry import hyperparams_file
from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.encoders.dimensions import Dimensions

DRIVE = 2.5  # spikes of all place cells per ms: 400 Hz at the centre of a cell of a flat grid, as in the water maze


class Grid(NamedTuple):
    """Where place cells stand: the space, cells along each dimension, and a squashing of velocities, or none."""

    dimensions: Dimensions
    n: tuple[int, ...]
    squashed: tuple[int, ...] = ()  # dimensions of which arctan(x / 4) is taken


TURN = (-np.pi, np.pi)
FAST = np.arctan(np.pi), np.arctan(9 * np.pi / 4)  # of the largest velocities of the acrobot
GRIDS = {
    "CartPole-v1": Grid(Dimensions([-2.4, -2.5, -0.2095, -2.5], [2.4, 2.5, 0.2095, 2.5]), (5, 5, 7, 7)),
    "MountainCar-v0": Grid(Dimensions([-1.2, -0.07], [0.6, 0.07]), (11, 11)),
    "Acrobot-v1": Grid(
        Dimensions([TURN[0], TURN[0], -FAST[0], -FAST[1]], [TURN[1], TURN[1], *FAST], [(0, 1), (2, 3), 4, 5]),
        (6, 6, 7, 7),
        squashed=(2, 3),
    ),
}


@dataclass(frozen=True, eq=False)
class PlaceCells:
    """Gaussian place cells on a grid, as wide as they are apart; their activities have sum 1.

    >>> cells = PlaceCells(GRIDS["MountainCar-v0"])
    >>> activity = cells(np.array([-0.3, 0.0]))  # the middle of the space
    >>> activity.shape, int(activity.argmax())
    ((121,), 60)
    """

    grid: Grid

    @property
    def n(self) -> int:
        """Number of cells."""
        return int(np.prod(self.grid.n))

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Return the activity of each cell for an observation (n_obs,), shape (n_cells,), float64."""
        space, x = self.grid.dimensions, np.zeros(len(self.grid.n))
        for i, part in enumerate(space.components or range(len(x))):
            x[i] = obs[part] if isinstance(part, int) else np.arctan2(obs[part[1]], obs[part[0]])
        for i in self.grid.squashed:
            x[i] = np.arctan(x[i] / 4)
        wraps = np.array([i in space.wraps for i in range(len(x))])
        return activities(x, np.asarray(space.low, float), np.asarray(space.high, float), np.array(self.grid.n), wraps)


@kernel
def activities(x: np.ndarray, low: np.ndarray, high: np.ndarray, n: np.ndarray, wraps: np.ndarray) -> np.ndarray:
    """Return the product of a row of Gaussians per dimension, each of sum 1, the last dimension fastest."""
    found = np.ones(1)
    for i in range(len(n)):
        width = (high[i] - low[i]) / (n[i] if wraps[i] else n[i] - 1)
        away = (min(max(x[i], low[i]), high[i]) - low[i]) / width - np.arange(n[i])
        if wraps[i]:
            away = (away + n[i] / 2) % n[i] - n[i] / 2
        bump = np.exp(-0.5 * away**2)
        bump /= bump.sum()
        found = (found.reshape(-1, 1) * bump).ravel()
    return found


class Features(NamedTuple):
    """A map of observations to vectors, the length of these, and their sum of squares for a step size."""

    of: Callable[[np.ndarray], np.ndarray]
    n: int
    power: float


def tiles(env: gym.Env) -> Features:
    """Return the tiles of our preset as binary features."""
    preset = preset_of(id_of(env))["policy_kwargs"]
    assert isinstance(env.observation_space, gym.spaces.Box)
    coder = coder_for(preset.get("encoder", "tiles"), preset["encoder_kwargs"], env.observation_space)

    def of(obs: np.ndarray) -> np.ndarray:
        x = np.zeros(coder.n_inputs)
        x[coder.lines(obs)] = 1.0
        return x

    return Features(of, coder.n_inputs, coder.n_active)


def place_cells(env: gym.Env) -> Features:
    """Return the activities of place cells as continuous features."""
    cells = cells_of(env)
    # Gaussians as wide as they are apart: the sum of squares is 1 / (2 √π) in each dimension
    return Features(cells, cells.n, (4 * np.pi) ** (-len(cells.grid.n) / 2))


def cells_of(env: gym.Env) -> PlaceCells:
    """Return the place cells of an environment."""
    return PlaceCells(GRIDS[id_of(env)])


def n_actions_of(env: gym.Env) -> int:
    """Return the number of actions of an environment."""
    return int(env.action_space.n)  # type: ignore[attr-defined]


def gamma_of(env: gym.Env) -> float:
    """Return the discount of our preset."""
    return float(preset_of(id_of(env))["gamma"])


def initial_value_of(env: gym.Env) -> float:
    """Return the value with which our preset begins, in units of reward."""
    preset = preset_of(id_of(env))
    return float(preset.get("initial_value", 0.0) / preset["reward_scale"])


def preset_of(env_id: str) -> dict[str, Any]:
    """Return our preset for an environment."""
    found: dict[str, Any] = yaml.safe_load(hyperparams_file("rstdp").read_text("utf-8"))[env_id]
    return found


def id_of(env: gym.Env) -> str:
    """Return the id of an environment."""
    assert env.spec is not None
    return env.spec.id
