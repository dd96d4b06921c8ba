"""Reward-modulated STDP without a critic (MSTDPET, Florian 2007), by our rule and in BindsNET, for the table of peers.

Place cells excite populations of LIF neurons, one population per action. A spike arrives one tick later, as in
BindsNET, and inhibits the neurons of the other populations:

    u <- exp(-1 / 20) u + Σ_j w_ij s_j(t - 1) - inhibition Σ_k z_k(t - 1), k of other populations
    spike at u >= 1, and then u = 0

The action is that of the population with the most spikes in the 20 ticks of an env step. On these ticks the third
factor is what the step before has earned: the reward itself, or the reward less the mean reward of a step, an average
over about ten episodes (what BindsNET calls MovingAvgRPE).
"""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from pathlib import Path

import gymnasium as gym
import numpy as np

from spikeloop.scripts.bench.peer_features import DRIVE, cells_of, n_actions_of
from spikeloop.spiking.compiling import kernel
from spikeloop.spiking.rules.rstdp import RewardSTDP, RewardSTDPState, reward_stdp

N_TICKS = 20  # of 1 ms
N_PER_ACTION = 5
MEAN_WEIGHT, INHIBITION = 0.03, 0.3  # of a threshold; what a spike of all neurons of a population takes from the others
DECAY = float(np.exp(-1 / 20))
TAU_E = 100.0


class ThirdFactor:
    """What modulates the rule: ``reward``, or ``error``, the reward less the mean reward of a step."""

    def __init__(self, modulator: str):
        self.error, self.mean, self.earned = modulator == "error", 0.0, [0.0]

    def begin(self) -> None:
        """Count the episode that is over in."""
        if self.error and len(self.earned) > 1:
            self.mean += 0.1 * (float(np.mean(self.earned[1:])) - self.mean)
        self.earned = [0.0]

    def of(self, reward: float) -> float:
        """Return the third factor for a reward."""
        self.earned.append(reward)
        return reward - self.mean


class RewardModulated:
    """The network with our rule, whose weights are held within bounds at the end of each env step.

    Args:
        env: A task that has place cells.
        rng: Source of the first weights and of the place cells' spikes.
        rate: The rule's learning rate.
        modulator: ``reward`` or ``error``.
    """

    def __init__(self, env: gym.Env, rng: np.random.Generator, rate: float, modulator: str):
        self.cells, self.rng, self.third = cells_of(env), rng, ThirdFactor(modulator)
        self.learning, self.seconds_elsewhere = True, 0.0
        n = n_actions_of(env) * N_PER_ACTION
        self.w = rng.uniform(0.0, 2 * MEAN_WEIGHT, (n, self.cells.n))
        self.rule = RewardSTDP(20.0, 20.0, TAU_E, 1 / TAU_E, 1 / TAU_E, rate)
        self.u, self.pre, self.post = np.zeros(n), np.zeros((1, self.cells.n)), np.zeros((1, n))
        self.state: RewardSTDPState | None = None

    def begin(self, obs: np.ndarray) -> int:
        """Forget all but the weights; return the first action."""
        self.third.begin()
        self.u[:], self.state = 0.0, None
        self.pre, self.post = np.zeros_like(self.pre), np.zeros_like(self.post)
        return self._run(obs, 0.0)

    def step(self, reward: float, obs: np.ndarray, terminated: bool, truncated: bool) -> int:
        """Let the reward teach; return the next action."""
        return self._run(obs, self.third.of(reward))

    def _run(self, obs: np.ndarray, third: float) -> int:
        pre = place_cell_spikes(self.cells(obs), self.rng)
        post = run_actor(pre, self.pre[-1], self.post[-1], self.w, self.u, INHIBITION / N_PER_ACTION)
        self.pre, self.post = pre, post
        if self.learning:
            self.w, self.state = reward_stdp(pre, post, np.full(N_TICKS, third), self.w, self.rule, self.state)
            self.w.clip(0.0, 4 * MEAN_WEIGHT, out=self.w)
        return int(post.sum(axis=0).reshape(-1, N_PER_ACTION).sum(axis=1).argmax())


@kernel
def run_actor(
    pre: np.ndarray, late: np.ndarray, z: np.ndarray, w: np.ndarray, u: np.ndarray, inhibition: float
) -> np.ndarray:
    """Run the LIF neurons for the ticks of ``pre`` (n_ticks, n_cells); return their spikes (n_ticks, n).

    ``late`` and ``z`` are the spikes of the tick before, of cells and neurons; ``u``, the potentials, changes.
    """
    post, n = np.zeros((len(pre), len(u))), len(u)
    for t in range(len(pre)):
        fired = z.sum()
        for i in range(n):
            first = i - i % N_PER_ACTION
            u[i] = DECAY * u[i] - inhibition * (fired - z[first : first + N_PER_ACTION].sum())
        for j in np.flatnonzero(late):
            for i in range(n):
                u[i] += w[i, j]
        for i in range(n):
            if u[i] >= 1.0:
                post[t, i], u[i] = 1.0, 0.0
        late, z = pre[t], post[t]
    return post


def place_cell_spikes(activity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the spikes of place cells in an env step, shape (n_ticks, n_cells), 0.0 or 1.0."""
    return (rng.random((N_TICKS, len(activity))) < DRIVE * activity).astype(np.float64)


class BindsNET:
    """The same network and rule in BindsNET, run by an interpreter that has it.

    Args:
        env: A task that has place cells.
        rng: Source of the place cells' spikes, and of the seed of the first weights.
        rate: The rule's learning rate.
        modulator: ``reward`` or ``error``.
        python: The interpreter.

    Raises:
        SystemExit: If it has no BindsNET.
    """

    def __init__(
        self, env: gym.Env, rng: np.random.Generator, rate: float, modulator: str, python: str = sys.executable
    ):
        self.cells, self.rng, self.third = cells_of(env), rng, ThirdFactor(modulator)
        self.learning, self.seconds_elsewhere = True, 0.0
        sizes = self.cells.n, n_actions_of(env), N_PER_ACTION, N_TICKS, int(rng.integers(2**31))
        numbers = MEAN_WEIGHT, INHIBITION / N_PER_ACTION, TAU_E, rate
        command = [python, str(Path(__file__).with_name("bindsnet_player.py")), *map(str, sizes + numbers)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        weakref.finalize(self, self.process.communicate)
        if self._read() != "ready":
            raise SystemExit(f"the learner bindsnet needs a python that has BindsNET (--bindsnet), got {python}")

    def begin(self, obs: np.ndarray) -> int:
        """Forget what is not a weight; return the first action."""
        self.third.begin()
        return self._run(obs, 0.0, True)

    def step(self, reward: float, obs: np.ndarray, terminated: bool, truncated: bool) -> int:
        """Let the reward teach; return the next action."""
        return self._run(obs, self.third.of(reward), False)

    def _run(self, obs: np.ndarray, third: float, first: bool) -> int:
        spikes = np.argwhere(place_cell_spikes(self.cells(obs), self.rng)).T.tolist()
        assert self.process.stdin is not None
        print(json.dumps([spikes, third, first, self.learning]), file=self.process.stdin, flush=True)
        action, seconds = self._read().split()
        self.seconds_elsewhere = float(seconds)
        return int(action)

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()
