"""PPO of rejax on environments of gymnax, in PureJaxRL's style: rollouts and updates are one jitted JAX function."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from spikeloop.scripts.cli import UsageError

N_EPISODES = 100  # whose returns are kept, as Stable-Baselines3 keeps them


def settings(preset: dict[str, Any], normalize: dict[str, Any] | None, n_envs: int) -> dict[str, Any]:
    """Return a preset as arguments of rejax's PPO, with the network and the constants of SB3's ``MlpPolicy``.

    Args:
        preset: Arguments of an SB3 PPO.
        normalize: Arguments of ``VecNormalize``; None for none.
        n_envs: Number of environments.

    Raises:
        UsageError: If minibatches do not divide a rollout. SB3's last one would be smaller, rejax's are of one size.

    >>> preset = {"n_steps": 32, "batch_size": 64, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8}
    >>> settings({**preset, "learning_rate": 1e-3}, None, n_envs=8)["num_minibatches"]
    4
    """
    n_minibatches, rest = divmod(n_envs * preset["n_steps"], preset["batch_size"])
    if rest:
        raise UsageError(
            f"rejax's PPO needs a batch_size that divides n_envs * n_steps = {n_envs * preset['n_steps']}, "
            f"got {preset['batch_size']}"
        )
    normalize = normalize or {"norm_obs": False, "norm_reward": False}
    return {
        "num_envs": n_envs,
        "num_steps": preset["n_steps"],
        "num_minibatches": n_minibatches,
        "num_epochs": preset["n_epochs"],
        "gamma": preset["gamma"],
        "gae_lambda": preset["gae_lambda"],
        "ent_coef": preset.get("ent_coef", 0.0),
        "learning_rate": preset["learning_rate"],
        "clip_eps": 0.2,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
        "normalize_observations": normalize["norm_obs"],
        "normalize_rewards": normalize["norm_reward"],
        "reward_normalization_discount": preset["gamma"],
        "agent_kwargs": {"hidden_layer_sizes": (64, 64), "activation": "tanh"},
    }


class Recorded(NamedTuple):
    """State of an environment, and the returns of its last episodes."""

    state: Any
    time: Any  # env steps so far
    total: Any  # rewards of the episode so far
    n_ended: Any  # episodes that have ended
    returns: Any  # (N_EPISODES,), a ring: episode n is at n % N_EPISODES
    ended: Any  # (N_EPISODES,) env step that each ended with; 0 where none has


class Recording:
    """An environment of gymnax that records returns, with the steps that rejax 0.1 expects: one ``done`` for two.

    gymnax tells ends from time limits since its version 1. rejax does not: it takes a time limit for an end.
    """

    def __init__(self, env: Any):
        self.env = env
        self.default_params = env.default_params
        self.action_space, self.observation_space = env.action_space, env.observation_space

    def reset(self, key: Any, params: Any) -> tuple[Any, Recorded]:
        """Return an observation and a state without episodes."""
        import jax.numpy as jnp

        obs, state = self.env.reset(key, params)
        none = jnp.zeros(N_EPISODES)
        return obs, Recorded(state, jnp.int32(0), jnp.float32(0), jnp.int32(0), none, none.astype(jnp.int32))

    def step(self, key: Any, at: Recorded, action: Any, params: Any) -> tuple[Any, Recorded, Any, Any, dict[str, Any]]:
        """Return observation, state, reward, whether the episode ended, and nothing else to tell."""
        import jax.numpy as jnp

        obs, state, reward, terminated, truncated, _ = self.env.step(key, at.state, action, params)
        done = terminated | truncated
        now, total, place = at.time + 1, at.total + reward, at.n_ended % N_EPISODES
        returns = at.returns.at[place].set(jnp.where(done, total, at.returns[place]))
        ended = at.ended.at[place].set(jnp.where(done, now, at.ended[place]))
        return obs, Recorded(state, now, total * ~done, at.n_ended + done, returns, ended), reward, done, {}


class RejaxPPO:
    """What the benchmark asks of an SB3 algorithm, of rejax's PPO. It is compiled as it is made, for the CPU.

    Args:
        env_id: Name of an environment of gymnax.
        seed: Seed of everything.
        arguments: Of rejax's PPO.

    Raises:
        ImportError: If gymnax is older than version 1.

    Attributes:
        compile_seconds: Time that XLA took.
    """

    def __init__(self, env_id: str, seed: int, **arguments: Any):
        import gymnax
        import jax
        import jax.numpy as jnp
        from rejax import PPO

        if int(version("gymnax").split(".")[0]) < 1:
            raise ImportError(f"the benchmark of rejax's PPO needs gymnax >= 1, got {version('gymnax')}")
        env, _ = gymnax.make(env_id)
        ppo = PPO.create(env=Recording(env), **arguments)
        self._rollout_size = arguments["num_envs"] * arguments["num_steps"]

        def train(state: Any, n_rollouts: int) -> Any:
            return jax.lax.fori_loop(0, n_rollouts, lambda _, state: ppo.train_iteration(state), state)

        with jax.default_device(jax.devices("cpu")[0]):
            begin = time.perf_counter()
            state = ppo.init_state(jax.random.PRNGKey(seed))
            # some numbers of rejax begin as integers and go on as floats: what is compiled takes what it returns
            after = jax.eval_shape(train, state, 1)
            self._initial = jax.tree.map(lambda x, later: jnp.asarray(x, later.dtype), state, after)
            self._train = jax.jit(train).lower(self._initial, 1).compile()
        self._state = self._initial
        self.compile_seconds = time.perf_counter() - begin

    @property
    def num_timesteps(self) -> int:
        """Env steps so far."""
        return int(self._state.global_step)

    def learn(self, total_timesteps: int, reset_num_timesteps: bool = True) -> None:
        """Train for at least so many env steps, in whole rollouts."""
        import jax

        begin = self._initial if reset_num_timesteps else self._state
        self._state = jax.block_until_ready(self._train(begin, -(-total_timesteps // self._rollout_size)))

    @property
    def ep_info_buffer(self) -> list[dict[str, float]]:
        """Returns of the last episodes of all environments, oldest first."""
        kept = self._state.env_state
        returns, ended = np.ravel(kept.returns), np.ravel(kept.ended)
        order = np.argsort(ended, kind="stable")
        return [{"r": float(returns[i])} for i in order if ended[i]][-N_EPISODES:]
