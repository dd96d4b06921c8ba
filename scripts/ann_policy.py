"""A policy of Stable-Baselines3 that is to be converted: how it is loaded, what it saw, and how it plays."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from spikeloop.agents.environment import EnvDescription
from spikeloop.agents.export import changing_wrappers, inputs_of
from spikeloop.agents.guarded_env import GuardedEnv
from spikeloop.agents.registry import ALGOS
from spikeloop.agents.relu_layers import Ann, check_outputs, layers_of
from spikeloop.scripts.cli import UsageError
from spikeloop.scripts.load_policy import Place, load_run, made
from spikeloop.scripts.players import Act
from spikeloop.scripts.run_folder import open_run
from spikeloop.scripts.trust import need_own
from spikeloop.spiking.conversion import forward
from spikeloop.spiking.observation import Normalizer, ObservationPart, Preprocessor, flatten, n_frames, preprocess
from spikeloop.spiking.readout import Dense

CONVERTIBLE = ("ppo", "a2c", "dqn", "sac", "qrdqn")
# Which algorithm a policy belongs to, by the module of its class, which a model's zip names without being unpickled.
_OF_MODULE = {
    "stable_baselines3.dqn.policies": "dqn",
    "stable_baselines3.sac.policies": "sac",
    "sb3_contrib.qrdqn.policies": "qrdqn",
}
_ACTOR_CRITIC = "stable_baselines3.common.policies"
_LIBRARIES = ("stable_baselines3.", "sb3_contrib.", "spikeloop.")


class Visited(NamedTuple):
    """States that a player met, in order: raw observations as rows (L, n_obs), and where episodes began (L,)."""

    rows: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class AnnPolicy:
    """A policy, its layers, and an environment that shows it raw observations.

    Args:
        model: The model.
        algo: Name of its algorithm.
        ann: Its policy as layers.
        env: One environment, as it would be made for a network file.
        description: What that environment can be made from again.
        parts: Parts of a raw observation.
        wrapper_steps: What the wrappers of the training do to an observation, ``VecNormalize`` among them.
    """

    model: BaseAlgorithm
    algo: str
    ann: Ann
    env: VecEnv
    description: EnvDescription
    parts: tuple[ObservationPart, ...]
    wrapper_steps: tuple[Preprocessor, ...]

    @property
    def steps(self) -> tuple[Preprocessor, ...]:
        """All preprocessing between a raw observation and the first layer."""
        return (*self.wrapper_steps, *self.ann.steps)

    def player(self, deterministic: bool = True) -> Act:
        """Return the policy as a player that is shown raw observations."""

        def act(obs: Any, frames: Any, starts: np.ndarray) -> tuple[np.ndarray, Any]:
            if self.wrapper_steps:
                seen, frames = self._through(self.wrapper_steps, obs, frames, starts)
                obs = self._as_seen(seen)
            return self.model.predict(obs, deterministic=deterministic)[0], frames

        return act

    def player_of(self, layers: tuple[Dense, ...]) -> Act:
        """Return layers as such a player, with the policy's preprocessing before them and its head behind."""

        def act(obs: Any, frames: Any, starts: np.ndarray) -> tuple[np.ndarray, Any]:
            x, frames = self._through(self.steps, obs, frames, starts)
            return self.ann.head(forward(layers, x.astype(np.float32))[-1].astype(np.float32)), frames

        return act

    def _through(
        self, steps: tuple[Preprocessor, ...], obs: Any, frames: Any, starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return one step's observations after preprocessing, as rows, and the past frames."""
        rows = flatten(self.parts, obs)[0]
        seen, frames = preprocess(steps, rows[None], self._frames() if frames is None else frames, starts[None])
        return seen[0], frames

    def _as_seen(self, rows: np.ndarray) -> np.ndarray:
        """Return rows behind the wrappers as the observations that the model takes."""
        space = self.model.observation_space
        normalised = any(isinstance(step, Normalizer) for step in self.wrapper_steps)  # not whole numbers any more
        return rows.reshape(-1, *space.shape).astype(np.float32 if normalised else space.dtype)  # type: ignore[misc]

    def _frames(self) -> np.ndarray:
        n = sum(part.n_values for part in self.parts)
        return np.zeros((n_frames(self.steps), 1, n), np.float32)

    def visited(self, n_steps: int, seed: int, *players: Act) -> Visited:
        """Return states that players meet, who take turns episode by episode.

        Args:
            n_steps: How many.
            seed: Seed of the first episode.
            players: The players; if none is given, the policy without chance and the policy as it explores.
        """
        acts = players or (self.player(), self.player(deterministic=False))
        rows, starts = np.empty((n_steps, sum(part.n_values for part in self.parts))), np.zeros(n_steps, bool)
        episode, done, obs, state = 0, True, None, None
        for step in range(n_steps):
            if done:
                self.env.seed(seed + episode)
                obs, state, act = self.env.reset(), None, acts[episode % len(acts)]
                episode += 1
            rows[step], starts[step] = flatten(self.parts, obs)[0], done
            actions, state = act(obs, state, np.array([done]))
            obs, _, dones, _ = self.env.step(actions)
            done = bool(dones[0])
        return Visited(rows, starts)

    def check(self, visited: Visited) -> None:
        """Raise ``ValueError`` where the layers give other outputs than the policy in visited states.

        Observations with choices, which have become one-hot, are skipped: they were checked when the model was loaded.
        """
        if not any(part.sizes for part in self.parts):
            seen, _ = preprocess(self.wrapper_steps, visited.rows[:, None], self._frames(), visited.starts[:, None])
            check_outputs(self.model, self.ann, self._as_seen(seen[:, 0]))

    def first_inputs(self, visited: Visited) -> np.ndarray:
        """Return what the first layer is shown in these states, shape (L, n_inputs)."""
        seen, _ = preprocess(self.steps, visited.rows[:, None], self._frames(), visited.starts[:, None])
        return seen[:, 0].astype(np.float32)


def load(path: Path, place: Place, algo: str | None, statistics: Path | None, best: bool) -> AnnPolicy:
    """Load a policy and its layers.

    Args:
        path: A model that SB3 saved, or a run folder.
        place: Where it plays; ``env_id`` is needed for a model.
        algo: Name of the algorithm; None if the file shows it.
        statistics: File of the ``VecNormalize`` that the model was trained behind, if any.
        best: Of a run folder, take the model that did best in evaluation.

    Raises:
        UsageError: If a file is not to be trusted, or the algorithm's policies do not convert.
        ValueError: If the policy does not convert.
    """
    if path.is_dir():
        run = open_run(path, best, place.trust)
        _check_algorithm(run.algo, f"{path}")
        loaded = load_run(path, best, place.seed, None, trust=place.trust)
        description = EnvDescription.from_metadata(loaded.metadata)
        assert description is not None  # a run's model has one
        place = place._replace(packages=[*run.gym_packages, *place.packages], trust=True)
        model, name = loaded.predictor, run.algo
    else:
        need_own([path, *([statistics] if statistics else [])], place.trust)
        name = algorithm_of(path) if algo is None else algo
        _check_algorithm(name, f"{path}")
        assert place.env_id is not None
        description = EnvDescription(place.env_id, gym_packages=tuple(place.packages))
        model = _load_model(path, name, description, place, statistics)
    ann, venv = layers_of(model), model.get_env()
    inputs = inputs_of(model.observation_space, venv, ann.steps, changing_wrappers(venv))
    wrapper_steps = inputs.preprocessing[: len(inputs.preprocessing) - len(ann.steps)]
    env = made(description, place)
    return AnnPolicy(model, name, ann, env, description, inputs.observation, wrapper_steps)


def algorithm_of(path: Path) -> str:
    """Return the name of the algorithm of a model's zip, as its JSON says: nothing is unpickled.

    Raises:
        UsageError: If it is no model of SB3, or does not show its algorithm.
    """
    try:
        with zipfile.ZipFile(path) as file:
            data = json.loads(file.read("data"))
        module = data["policy_class"]["__module__"]
    except FileNotFoundError:
        raise UsageError(f"there is no model {path}") from None
    except (OSError, LookupError, TypeError, ValueError, zipfile.BadZipFile):
        raise UsageError(f"{path} is no model that Stable-Baselines3 saved") from None
    if module == _ACTOR_CRITIC:
        return "ppo" if "clip_range" in data else "a2c"
    if module in _OF_MODULE:
        return _OF_MODULE[module]
    if str(module).startswith(_LIBRARIES):
        raise UsageError(f"{path} has a policy of {module}; those that convert are of {', '.join(CONVERTIBLE)}")
    raise UsageError(f"{path} has a policy of your own, of {module}: say with --algo whose model it is")


def _check_algorithm(name: str, what: str) -> None:
    if name in ALGOS:
        raise UsageError(f"{what} is a model of {name}, which spikes already: rollout and deploy take it as it is")
    if name not in CONVERTIBLE:
        raise UsageError(f"{what} is a model of {name}; policies that convert are of {', '.join(CONVERTIBLE)}")


def _load_model(
    path: Path, algo: str, description: EnvDescription, place: Place, statistics: Path | None
) -> BaseAlgorithm:
    import sb3_contrib
    import stable_baselines3

    def make() -> GuardedEnv:
        return GuardedEnv(description.make(place.packages, place.trust))

    made(description, place).close()  # raises if the environment is not registered
    venv: VecEnv = DummyVecEnv([make])
    normalized = _was_normalized(path)
    if statistics is not None:
        venv = VecNormalize.load(str(statistics), venv)
        venv.training = venv.norm_reward = False
        if normalized is False and venv.norm_obs:
            raise UsageError(f"{path} was not trained behind VecNormalize: leave out --vec-normalize {statistics}")
    elif normalized:
        raise UsageError(f"{path} was trained behind VecNormalize: give its statistics with --vec-normalize FILE")
    cls = getattr(sb3_contrib if algo == "qrdqn" else stable_baselines3, algo.upper())
    few = {} if algo in ("ppo", "a2c") else {"buffer_size": 1}  # a replay buffer would be as large as in training
    try:
        return cls.load(path, env=venv, device="cpu", **few)
    except Exception as error:
        raise UsageError(f"{path} cannot be loaded as a model of {algo} ({type(error).__name__}: {error})") from None


def _was_normalized(path: Path) -> bool | None:
    """Return whether a model was trained behind ``VecNormalize``; None if its file does not show it.

    SB3 saves the first observation before its normalisation. For on-policy algorithms it does so only if there was one;
    for the others always, so that their files do not tell.
    """
    from stable_baselines3.common.save_util import load_from_zip_file

    data = load_from_zip_file(path, device="cpu")[0] or {}
    if not data.get("num_timesteps") or "gae_lambda" not in data:
        return None
    return data.get("_last_original_obs") is not None
