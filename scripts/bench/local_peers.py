"""Other learners on the tasks of ``spikeloop benchmark local``, with the same budgets: one function per peer.

A peer is a function of an environment and a random generator; what it returns plays and learns, one env step at a time.
All see the environment's own observations and rewards, and learn from each step when it is taken, REINFORCE at the end
of the episode. Frozen, those with a softmax take their best action; spiking networks go on spiking at random. Settings
were chosen on seeds 0 and 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import yaml

from spikeloop.agents.line_codes import coder_for
from spikeloop.agents.registry import hyperparams_file
from spikeloop.scripts.bench.fremaux import DRIVE, GRIDS, FremauxActorCritic, PlaceCells
from spikeloop.spiking.rules.rstdp import RewardSTDP, RewardSTDPState, reward_stdp

N_TICKS = 20  # of 1 ms, of the networks that learn by MSTDPET
N_PER_ACTION = 5
MEAN_WEIGHT, INHIBITION = 0.03, 0.3  # of a threshold; what a spike of all neurons of a population takes from the others
DECAY = float(np.exp(-1 / 20))
TAU_E = 100.0
MSTDPET_RATE = 1e-3
FREMAUX_RATES = 300.0, 30.0  # of critic and actor


class Player(Protocol):
    """What plays a task and learns while it does."""

    learning: bool
    """Whether it learns; with frozen weights a softmax takes its best action, and spiking networks stay random."""
    seconds_elsewhere: float
    """CPU seconds that other processes have spent on it."""

    def begin(self, obs: np.ndarray) -> int:
        """Return the first action of an episode."""
        ...

    def step(self, reward: float, obs: np.ndarray, terminated: bool, truncated: bool) -> int:
        """Take what the latest action brought; return the next, which is not used where the episode is over."""
        ...


Peer = Callable[[gym.Env, np.random.Generator], Player]


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


def preset_of(env_id: str) -> dict[str, Any]:
    """Return our preset for an environment."""
    found: dict[str, Any] = yaml.safe_load(hyperparams_file("rstdp").read_text("utf-8"))[env_id]
    return found


def id_of(env: gym.Env) -> str:
    """Return the id of an environment."""
    assert env.spec is not None
    return env.spec.id


class LinearActorCritic:
    """Actor-critic with eligibility traces (Sutton & Barto 2018, section 13.5), without the factor gamma^t of the step.

    Value and preferences are linear, actions are drawn by softmax, and both traces accumulate:

        δ = r + γ V(s') - V(s)
        z_v <- γ λ z_v + x,   z_j <- γ λ z_j + (1[a = j] - π_j) x,   v <- v + α_v δ z_v,   θ <- θ + α δ z

    Args:
        features: What the observation is turned into.
        n_actions: Number of actions.
        rng: Source of the actions.
        rate: α times the sum of squares of the features.
        value_rate: α_v times this sum.
        gamma: Discount.
        trace_lambda: λ.
    """

    def __init__(
        self,
        features: Features,
        n_actions: int,
        rng: np.random.Generator,
        rate: float,
        value_rate: float,
        gamma: float = 0.99,
        trace_lambda: float = 0.8,
    ):
        self.features, self.rng, self.learning, self.seconds_elsewhere = features.of, rng, True, 0.0
        self.rate, self.value_rate = rate / features.power, value_rate / features.power
        self.gamma, self.decay = gamma, gamma * trace_lambda
        self.theta, self.v = np.zeros((n_actions, features.n)), np.zeros(features.n)
        self.z, self.z_v = np.zeros_like(self.theta), np.zeros_like(self.v)

    def begin(self, obs: np.ndarray) -> int:
        """Forget the traces; return the first action."""
        self.z[:], self.z_v[:] = 0.0, 0.0
        return self._act(self.features(obs))

    def step(self, reward: float, obs: np.ndarray, terminated: bool, truncated: bool) -> int:
        """Learn by the TD error; return the next action."""
        x = self.features(obs)
        if self.learning:
            target = reward + (0.0 if terminated else self.gamma * float(self.v @ x))
            delta = target - float(self.v @ self.x)
            self.z_v *= self.decay
            self.z_v += self.x
            self.z *= self.decay
            self.z += np.outer(self.score, self.x)
            self.v += self.value_rate * delta * self.z_v
            self.theta += self.rate * delta * self.z
        return self._act(x)

    def _act(self, x: np.ndarray) -> int:
        self.x = x
        action, self.score = softmax_action(self.theta @ x, self.rng, self.learning)
        return action


class Reinforce:
    """REINFORCE (Williams 1992) of one layer: softmax of a linear map of normalised observations.

    After each episode the discounted returns, less their mean and divided by their deviation, weigh the score of each
    step. Observations are normalised by their mean and deviation so far.

    Args:
        n_obs: Length of the observation.
        n_actions: Number of actions.
        rng: Source of the actions.
        rate: Learning rate.
        gamma: Discount.
    """

    def __init__(self, n_obs: int, n_actions: int, rng: np.random.Generator, rate: float, gamma: float = 0.99):
        self.rng, self.rate, self.gamma = rng, rate, gamma
        self.learning, self.seconds_elsewhere = True, 0.0
        self.theta = np.zeros((n_actions, n_obs + 1))
        self.count, self.mean, self.squares = 0, np.zeros(n_obs), np.zeros(n_obs)
        self.scores: list[np.ndarray] = []
        self.rewards: list[float] = []

    def begin(self, obs: np.ndarray) -> int:
        """Return the first action."""
        self.scores, self.rewards = [], []
        return self._act(obs)

    def step(self, reward: float, obs: np.ndarray, terminated: bool, truncated: bool) -> int:
        """Learn where the episode is over; return the next action."""
        self.rewards.append(reward)
        if self.learning and (terminated or truncated):
            returns = np.zeros(len(self.rewards) + 1)
            for t in reversed(range(len(self.rewards))):
                returns[t] = self.rewards[t] + self.gamma * returns[t + 1]
            weights = (returns[:-1] - returns[:-1].mean()) / (returns[:-1].std() + 1e-8)
            self.theta += self.rate * np.tensordot(weights, np.array(self.scores), 1)
        return self._act(obs)

    def _act(self, obs: np.ndarray) -> int:
        if self.learning:
            self.count += 1
            away = obs - self.mean
            self.mean += away / self.count
            self.squares += away * (obs - self.mean)
        deviation = np.sqrt(self.squares / max(self.count, 1)) + 1e-8
        x = np.append(((obs - self.mean) / deviation).clip(-5, 5), 1.0)
        action, score = softmax_action(self.theta @ x, self.rng, self.learning)
        self.scores.append(np.outer(score, x))
        return action


def softmax_action(preferences: np.ndarray, rng: np.random.Generator, exploring: bool) -> tuple[int, np.ndarray]:
    """Return an action, the preferred one if not exploring, and the score of each preference, 1[a = j] - π_j.

    >>> softmax_action(np.array([0.0, 0.0, 1.0]), np.random.default_rng(0), exploring=False)[0]
    2
    """
    policy = np.exp(preferences - preferences.max())
    policy /= policy.sum()
    if exploring:
        action = min(int(np.searchsorted(policy.cumsum(), rng.random())), len(policy) - 1)
    else:
        action = int(preferences.argmax())
    score = -policy
    score[action] += 1.0
    return action, score


class RewardModulated:
    """Reward-modulated STDP without a critic (Florian 2007, MSTDPET): place cells to populations of LIF neurons.

    The third factor on the ticks of an env step is the reward that the step before has brought, as it is. The action
    is that of the population with the most spikes. A spike inhibits the neurons of the other populations.

    Args:
        cells: The inputs.
        n_actions: Number of actions, each of which has a population of its own.
        rng: Source of the first weights and of the place cells' spikes.
        learning_rate: The rule's.
    """

    def __init__(self, cells: PlaceCells, n_actions: int, rng: np.random.Generator, learning_rate: float):
        self.cells, self.rng, self.learning, self.seconds_elsewhere = cells, rng, True, 0.0
        n = n_actions * N_PER_ACTION
        self.w = rng.uniform(0.0, 2 * MEAN_WEIGHT, (n, cells.n))
        self.rule = RewardSTDP(20.0, 20.0, TAU_E, 1 / TAU_E, 1 / TAU_E, learning_rate, 0.0, 4 * MEAN_WEIGHT)
        self.population = np.arange(n) // N_PER_ACTION
        self.inhibition = INHIBITION / N_PER_ACTION * (self.population[:, None] != self.population)
        self.u = np.zeros(n)
        self.state: RewardSTDPState | None = None

    def begin(self, obs: np.ndarray) -> int:
        """Forget traces and eligibilities; return the first action."""
        self.u[:], self.state = 0.0, None
        return self._run(obs, 0.0)

    def step(self, reward: float, obs: np.ndarray, terminated: bool, truncated: bool) -> int:
        """Let the reward teach; return the next action."""
        return self._run(obs, reward)

    def _run(self, obs: np.ndarray, reward: float) -> int:
        pre = place_cell_spikes(self.cells(obs), self.rng)
        post = np.zeros((N_TICKS, len(self.u)))
        for z, current in zip(post, pre @ self.w.T, strict=True):
            self.u[:] = DECAY * self.u + current
            z[:] = self.u >= 1.0
            self.u[:] = np.where(self.u >= 1.0, 0.0, self.u - self.inhibition @ z)
        if self.learning:
            self.w, self.state = reward_stdp(pre, post, np.full(N_TICKS, reward), self.w, self.rule, self.state)
        return int(np.bincount(self.population, post.sum(axis=0)).argmax())


def place_cell_spikes(activity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the spikes of place cells in an env step, shape (n_ticks, n_cells), 0.0 or 1.0."""
    return (rng.random((N_TICKS, len(activity))) < DRIVE * activity).astype(np.float64)


class BindsNET:
    """The same network and rule in BindsNET, run by an interpreter that has it.

    Args:
        cells: The inputs.
        n_actions: Number of actions.
        rng: Source of the place cells' spikes, and of the seed of the first weights.
        python: The interpreter.

    Raises:
        SystemExit: If it has no BindsNET.
    """

    def __init__(self, cells: PlaceCells, n_actions: int, rng: np.random.Generator, python: str):
        self.cells, self.rng, self.learning, self.seconds_elsewhere = cells, rng, True, 0.0
        sizes = cells.n, n_actions, N_PER_ACTION, N_TICKS, int(rng.integers(2**31))
        numbers = MEAN_WEIGHT, INHIBITION / N_PER_ACTION, TAU_E, MSTDPET_RATE
        command = [python, str(Path(__file__).with_name("bindsnet_player.py")), *map(str, sizes + numbers)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        weakref.finalize(self, self.process.communicate)
        if self._read() != "ready":
            raise SystemExit(f"the learner bindsnet needs a python that has BindsNET (--bindsnet), got {python}")

    def begin(self, obs: np.ndarray) -> int:
        """Forget what is not a weight; return the first action."""
        return self._run(obs, 0.0, True)

    def step(self, reward: float, obs: np.ndarray, terminated: bool, truncated: bool) -> int:
        """Let the reward teach; return the next action."""
        return self._run(obs, reward, False)

    def _run(self, obs: np.ndarray, reward: float, first: bool) -> int:
        spikes = np.argwhere(place_cell_spikes(self.cells(obs), self.rng)).T.tolist()
        assert self.process.stdin is not None
        print(json.dumps([spikes, float(reward), first, self.learning]), file=self.process.stdin, flush=True)
        action, seconds = self._read().split()
        self.seconds_elsewhere = float(seconds)
        return int(action)

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def _fremaux(env: gym.Env, rng: np.random.Generator) -> Player:
    preset = preset_of(id_of(env))
    initial = preset.get("initial_value", 0.0) / preset["reward_scale"]
    return FremauxActorCritic(env, rng, *FREMAUX_RATES, initial_value=initial)


def _linear(env: gym.Env, rng: np.random.Generator, features: Callable[[gym.Env], Features], *rates: float) -> Player:
    return LinearActorCritic(features(env), n_actions_of(env), rng, *rates)


def peers(bindsnet: str = sys.executable) -> dict[str, Peer]:
    """Return the peers by name; ``bindsnet`` is an interpreter that has BindsNET."""
    return {
        "linear-tiles": lambda env, rng: _linear(env, rng, tiles, 0.1, 0.1),
        "linear-places": lambda env, rng: _linear(env, rng, place_cells, 0.1, 0.1),
        "reinforce": lambda env, rng: Reinforce(len(env.reset()[0]), n_actions_of(env), rng, 0.01),
        "fremaux": _fremaux,
        "mstdpet": lambda env, rng: RewardModulated(cells_of(env), n_actions_of(env), rng, MSTDPET_RATE),
        "bindsnet": lambda env, rng: BindsNET(cells_of(env), n_actions_of(env), rng, bindsnet),
    }


PEERS = tuple(peers())


class Run(NamedTuple):
    """What one run gave: returns of frozen episodes, steps and returns of training, CPU seconds of training."""

    frozen: np.ndarray
    steps: np.ndarray
    returns: np.ndarray
    seconds: float


def train(peer: Peer, env_id: str, n_episodes: int, seed: int, n_frozen: int) -> Run:
    """Let a peer learn for so many episodes, and then play so many with its weights frozen."""
    env = gym.make(env_id)
    player, start = peer(env, np.random.default_rng(seed)), time.process_time()
    lengths, returns = play(player, env, n_episodes, seed)
    seconds = time.process_time() - start + player.seconds_elsewhere
    player.learning = False
    _, frozen = play(player, gym.make(env_id), n_frozen, 10_000 + seed)
    return Run(frozen, np.cumsum(lengths), returns, seconds)


def play(player: Player, env: gym.Env, n_episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return length and return of each episode."""
    lengths, returns = np.zeros(n_episodes, np.int64), np.zeros(n_episodes)
    for episode in range(n_episodes):
        obs, _ = env.reset(seed=seed if episode == 0 else None)
        action, done = player.begin(obs), False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(action)
            action, done = player.step(float(reward), obs, terminated, truncated), terminated or truncated
            lengths[episode] += 1
            returns[episode] += float(reward)
    return lengths, returns
