"""A plain re-implementation of the spiking actor-critic of Frémaux, Sprekeler & Gerstner (2013), to compare with.

Place cells excite a critic and an actor of SRM0 neurons with escape noise. For a neuron i with its latest spike at t̂_i,
spike trains Y_i, place cells' spike trains X_j, and convolution *:

    u_i = Σ_j w_ij (X_j since t̂_i * ε) + lateral input + η_0 exp(-(t - t̂_i) / τm)
    rate of spikes = ρ_0 exp((u_i - θ) / Δu)
    V = ν / N_critic Σ_critic (Y_i * κ) + V_0
    δ = dV/dt - V / τr + r
    dw_ij/dt = rate δ ([Y_i (X_j since t̂_i * ε)] * κ) / τr            TD-LTP, of the critic and of the actor

with ε(s) = ε_0 (exp(-s / τm) - exp(-s / τs)) / (τm - τs) and κ(s) = (exp(-s / τκ) - exp(-s / υκ)) / (τκ - υκ). Actor
neurons stand on a ring; each excites its neighbours and inhibits the others, w_kk' = w_- / N + w_+ f(k, k') with f
falling off exponentially and of sum 1, so that a bump of neurons wins. The ring is cut into one piece per action, and
the piece with the most filtered spikes (γ, of the form of κ) acts: Gymnasium's tasks take no force between.

The full text could not be looked into when this was written, so no equation numbers are cited. τm, τs, η_0, θ, Δu, ρ_0,
τκ, υκ, τγ, υγ, weights from 0 to 3 that begin at 0.5 ± 0.1, the numbers of critic and actor neurons and the acrobot's
place cells are those of public re-implementations. Guesses are: ε_0, ν, V_0, τr, learning rates, lateral strengths, the
place cells' ranges elsewhere and their normalised rates, and the end of an episode: a terminal state is worth 0, to
which V falls at once. τr is 100 env steps, a discount of 0.99, and V begins at the value with which ours begins.

An env step takes 100 ms of the network's time. At CartPole's own 20 ms it learned nothing in 1,500 episodes, on two
seeds with both rates at 100: κ looks 100 to 300 ms into the past, and untrained episodes last 400. An actor that learns
as fast as the critic falls silent, because eligibilities are never negative. The learning rates are searched for, see
local_learners.py; nothing else of the network is.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from spikeloop.scripts.bench import fremaux_kernels as kernels
from spikeloop.scripts.bench.peer_features import DRIVE, cells_of, initial_value_of, n_actions_of

N_CRITIC, N_ACTOR = 50, 60
N_TICKS, DT = 50, 2.0  # an env step is 100 ms, see above
W_MINUS, W_PLUS, ZETA = -120.0, 60.0, 10.0
CAPACITY = 2048  # place-cell spikes that are remembered


def lateral_weights(n: int) -> np.ndarray:
    """Return w_kk' of a ring of n actor neurons, shape (n, n)."""
    away = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    f = np.exp(-np.minimum(away, n - away) / ZETA) * (1 - np.eye(n))
    return W_MINUS / n + W_PLUS * f / f.sum(axis=1, keepdims=True)


def constants(**changes: float) -> kernels.Constants:
    """Return the numbers of the model, with changes."""
    numbers = {
        **{"tau_m": 20.0, "tau_s": 5.0, "epsilon_0": 20.0, "eta_0": -5.0},
        **{"rho_0": 0.1, "theta": 16.0, "delta_u": 2.0},
        **{"tau_kappa": 200.0, "upsilon_kappa": 50.0, "tau_gamma": 50.0, "upsilon_gamma": 20.0},
        **{"tau_r": 100 * N_TICKS * DT, "nu": 2000.0, "v_0": 0.0, "n_critic": N_CRITIC, "w_min": 0.0, "w_max": 3.0},
        **{"drive": DRIVE, "dt": DT},
    }
    return kernels.Constants(**{**numbers, **changes})  # type: ignore[arg-type]


def new_net(n_actor: int, c: kernels.Constants, rates: tuple[float, float], w: np.ndarray) -> kernels.Net:
    """Return a network at rest with weights (n_places, N) and learning rates of the critic and the actor."""
    n = c.n_critic + n_actor
    synapses = np.zeros((len(w), n, 5))
    synapses[:, :, kernels.W] = w
    factor = np.repeat(rates, (c.n_critic, n_actor)) / ((c.tau_kappa - c.upsilon_kappa) * c.tau_r)
    ring = np.zeros(CAPACITY, np.int64), np.zeros(CAPACITY, np.int64), np.zeros(1, np.int64)
    neurons = np.zeros((n, 2)), np.zeros(n), np.zeros(n, np.int64), np.zeros((n_actor, 2))
    return kernels.Net(synapses, factor, lateral_weights(n_actor), *neurons, *ring, np.zeros(6))


class FremauxActorCritic:
    """The network as a player of the table of peers; V begins at the value with which our preset begins.

    Args:
        env: A task that has place cells.
        rng: Source of the first weights and of all spikes.
        critic_rate: Learning rate of the critic.
        actor_rate: Learning rate of the actor.
    """

    def __init__(self, env: gym.Env, rng: np.random.Generator, critic_rate: float, actor_rate: float):
        self.cells, self.rng, self.n_actions = cells_of(env), rng, n_actions_of(env)
        self.learning, self.seconds_elsewhere = True, 0.0
        n_places, n = self.cells.n, N_CRITIC + N_ACTOR
        w = rng.normal(0.5, 0.1, (n_places, n)).clip(0.0)
        self.c = constants()
        self.net = new_net(N_ACTOR, self.c, (critic_rate, actor_rate), w)
        self.c = self.c._replace(v_0=initial_value_of(env) - self._value_at_rest(np.full(n_places, 1 / n_places)))

    def _value_at_rest(self, activity: np.ndarray) -> float:
        """Return the mean of V over a second of even input, with the weights as they are."""
        found = []
        for _ in range(100):
            kernels.advance(self.net, self.c, activity.cumsum(), 0.0, N_TICKS, False, self.rng)
            found.append(kernels.value(self.net, self.c))
        kernels.rest(self.net, self.c)
        return float(np.mean(found[50:]))

    def begin(self, obs: np.ndarray) -> int:
        """Return the first action of an episode."""
        kernels.rest(self.net, self.c)
        return self._run(obs, 0.0)

    def step(self, reward: float, obs: np.ndarray, terminated: bool, truncated: bool) -> int:
        """Learn by what the latest action brought; return the next."""
        if terminated:
            if self.learning:
                kernels.impulse(self.net, self.c, reward - kernels.value(self.net, self.c))
            return 0
        return self._run(obs, reward)

    def _run(self, obs: np.ndarray, reward: float) -> int:
        rate = reward / (N_TICKS * self.c.dt)
        kernels.advance(self.net, self.c, self.cells(obs).cumsum(), rate, N_TICKS, self.learning, self.rng)
        filtered = self.net.rate[:, 0] - self.net.rate[:, 1]
        return int(np.argmax([piece.sum() for piece in np.array_split(filtered, self.n_actions)]))
