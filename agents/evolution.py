"""Evolution: searches the parameters of a spiking network by nothing but the returns of whole episodes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecVideoRecorder, is_vecenv_wrapped

from spikeloop.agents.check_finite import check_learnt
from spikeloop.agents.checks import COMMON, NOT_NEGATIVE, POSITIVE, WHOLE, Range, check_ranges
from spikeloop.agents.evolution_policy import EvolutionPolicy
from spikeloop.agents.evolution_searches import DEFAULTS, Search, search_for
from spikeloop.agents.evolved import WEIGHTS
from spikeloop.agents.export import changing_wrappers, note_wrappers
from spikeloop.agents.failures import NonFiniteError
from spikeloop.agents.local_learning import LocalLearning
from spikeloop.agents.playing import (
    CompiledTask,
    Episode,
    FloatPlayer,
    Player,
    learn_statistics,
    play_compiled,
    play_steps,
)
from spikeloop.agents.registry import ALGOS, load_algorithm
from spikeloop.agents.silence import warn_of_silence

_RANGES = {
    **COMMON,
    "learning_rate": COMMON["learning_rate"]._replace(optional=True),
    "sigma": POSITIVE._replace(optional=True),
    "n_members": Range(2, whole=True, optional=True),
    **dict.fromkeys(("n_episodes", "n_dims", "n_random", "max_generations"), WHOLE._replace(optional=True)),
    "weight_decay": NOT_NEGATIVE._replace(optional=True),
}
_SETTINGS = tuple(dict.fromkeys(name for defaults in DEFAULTS.values() for name in defaults))
BACKENDS = ("float",)


class Evolution(LocalLearning):
    """Evolution strategies, weight perturbation and Bayesian optimisation of a spiking network.

    In each generation every member plays the same ``n_episodes`` episodes, from resets with seeds of their own, and its
    mean return is all that the search learns from: no gradients, no critic, no values. Env steps are counted over all
    members. A generation that the budget of env steps cuts is not learnt from.

    Where a task's step is compiled (:data:`~spikeloop.envs.compiled.COMPILED` and the like), and the policy is LSNN
    layers behind a ``direct`` encoder or a winner-take-all that tiles or place cells reach directly (``WtaPolicy``), a
    member's episodes are one call of a kernel, on several threads for several members; callbacks see the steps after
    that, and the whole return at an episode's end. Any other environment or policy is stepped as usual, as many
    episodes at a time as there are environments. Both give the same bits.

    With ``backend=spikeloop.hardware.ChipPlayer`` the returns are those of the network *compiled for a chip*, so that
    the search takes the chip's weights of 8 bits, its delays and its saturation into account.

    Args:
        policy: ``"EvolutionPolicy"``.
        env: The environment or environments, or an id. Their number and processes make no difference to what is learnt.
        method: ``"es"`` (OpenAI's evolution strategy, Salimans et al. 2017), ``"cma"`` (CMA-ES, of the library cmaes),
            ``"perturbation"`` (a step is kept if it is not worse), ``"bayes"`` (REMBO, Wang et al. 2016: Bayesian
            optimisation in a random subspace, by optuna's Gaussian process), or ``"random"`` (draws around the start:
            the control for the others). The arguments down to ``n_random`` have defaults for each method
            (:data:`~spikeloop.agents.evolution_searches.DEFAULTS`); those that a method does not have are refused.
        sigma: Size of the displacements, in units of each weight matrix's root mean square; of time constants and the
            like, in natural logarithms.
        n_episodes: Episodes that each member plays; with one, luck counts for more than the member.
        learning_rate: ``es``: Adam's, or its schedule.
        n_members: ``es`` and ``cma``: members of a generation, for ``es`` in pairs.
        weight_decay: ``es``: each generation pulls the network back to the start by this share times the learning rate.
        reevaluate: ``perturbation``: whether the network that is kept plays again beside every step. If not, a lucky
            return counts until it has faded, by a thousandth with each step that fails.
        n_dims: ``bayes``: dimensions of the subspace.
        n_random: ``bayes``: draws before the Gaussian process is asked.
        evolved: What evolves, one or more of :data:`~spikeloop.agents.evolved.PARAMETERS`.
        max_generations: Learning also stops after so many generations; None for no such limit. Of ``perturbation``,
            ``bayes`` and ``random`` a generation is one evaluation of one new member.
        backend: Where members play: ``float``, or what makes a player of a network, such as
            :class:`spikeloop.hardware.ChipPlayer`.
        backend_kwargs: Its further arguments, by name.
        policy_kwargs: Arguments of :class:`~spikeloop.agents.evolution_policy.EvolutionPolicy`; ``network`` starts from
            one that is there.
        stats_window_size: Episodes that logged means are taken over.
        tensorboard_log: Folder of the TensorBoard log; None for none.
        verbose: 0 silent, 1 progress, 2 debugging.
        seed: Seed of the first network, of the search and of the episodes.
        device: Only the CPU.

    Raises:
        ValueError: If an argument is out of range, the policy has no place in a Network, or ``sigma`` is below the step
            between two weights of the chip.
        ImportError: If a method's library is not installed.

    >>> model = Evolution("EvolutionPolicy", "CartPole-v1", n_members=8, seed=0).learn(1_000)
    >>> model.num_timesteps
    1000
    >>> action, state = model.predict(np.zeros(4, np.float32))
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"EvolutionPolicy": EvolutionPolicy}
    of_episodes: ClassVar[str] = "of all members"  # what `spikeloop train` says of training episodes
    policy: EvolutionPolicy
    search: Search

    def __init__(
        self,
        policy: str | type[EvolutionPolicy],
        env: GymEnv | str | None,
        method: str = "es",
        sigma: float | None = None,
        n_episodes: int | None = None,
        learning_rate: float | Schedule | None = None,
        n_members: int | None = None,
        weight_decay: float | None = None,
        reevaluate: bool | None = None,
        n_dims: int | None = None,
        n_random: int | None = None,
        evolved: str | Sequence[str] = (WEIGHTS,),
        max_generations: int | None = None,
        backend: str | Callable[..., Player] = "float",
        backend_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            0.0 if learning_rate is None else learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
        )
        self.method, self.sigma, self.n_episodes = method, sigma, n_episodes
        self.learning_rate, self.n_members = learning_rate, n_members  # type: ignore[assignment]
        self.weight_decay, self.reevaluate, self.n_dims, self.n_random = weight_decay, reevaluate, n_dims, n_random
        self.evolved, self.max_generations = evolved, max_generations
        self.backend, self.backend_kwargs = backend, backend_kwargs
        self.mean_return = self.best_return = float("nan")  # of the members of the latest generation
        self.n_calls = 0  # of the callbacks: where environments idle, they say less than the env steps
        self._looked = False  # whether the first generation was checked for a network that is silent
        if _init_setup_model:
            self._setup_model()

    def _check_env(self, env: VecEnv | None) -> None:
        """Take any number of environments, but no wrapper around all of them that whole episodes would bypass."""
        for wrapper, instead in ((VecMonitor, "Monitor"), (VecVideoRecorder, "RecordVideo")):
            if env is not None and is_vecenv_wrapped(env, wrapper):
                raise ValueError(
                    f"{wrapper.__name__} would see nothing of members that play: wrap each environment in {instead}"
                )

    def _setup_model(self) -> None:
        check_ranges(vars(self), _RANGES)
        self.settings = self._own_settings()
        if isinstance(self.backend, str) and self.backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)} or make a player, got {self.backend!r}")
        if self.backend == "float" and self.backend_kwargs:
            raise ValueError(f"backend_kwargs must be left out with backend 'float', got {self.backend_kwargs!r}")
        self.lr_schedule = FloatSchedule(self.settings.get("learning_rate", 0.0))
        self.set_random_seed(self.seed)
        on_grid = getattr(self.backend, "on_grid", None)
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            evolved=self.evolved,
            grid=partial(on_grid, **(self.backend_kwargs or {})) if on_grid is not None else None,
            **self.policy_kwargs,
        )
        note_wrappers(self)
        if self.env is not None:
            self._check_player()
        search = {name: value for name, value in self.settings.items() if name not in ("learning_rate", "n_episodes")}
        self.search = search_for(self.method, self.policy.evolved.n, rng=self.policy.rng, **search)

    def _own_settings(self) -> dict[str, Any]:
        """Return the arguments of the method, with its defaults where they were not given."""
        if self.method not in DEFAULTS:
            raise ValueError(f"method must be one of {', '.join(DEFAULTS)}, got {self.method!r}")
        defaults, given = DEFAULTS[self.method], {name: getattr(self, name) for name in _SETTINGS}
        for name, value in given.items():
            if value is not None and name not in defaults:
                raise ValueError(f"{name} must be left out with method={self.method!r}, got {value!r}")
        settings = {name: default if given[name] is None else given[name] for name, default in defaults.items()}
        if not isinstance(settings.get("reevaluate", True), (bool, np.bool_)):
            raise ValueError(f"reevaluate must be true or false, got {self.reevaluate!r}")
        if self.method == "es" and settings["n_members"] % 2:
            raise ValueError(f"n_members must be even with method='es', whose noise is in pairs, got {self.n_members}")
        if self.method == "cma" and settings["n_members"] < 4:
            raise ValueError(f"n_members must be at least 4 with method='cma', got {self.n_members}")
        return settings

    def _check_player(self) -> None:
        """Refuse a network that cannot play, and a sigma below the step between two of its weights on the chip."""
        network = self._exported(self.policy.z)
        if callable(self.backend):
            kwargs = self.backend_kwargs or {}
            if hasattr(self.backend, "check"):
                self.backend.check(network, **kwargs)
            if hasattr(self.backend, "coarseness") and WEIGHTS in self.policy.names:
                least = self.backend.coarseness(network, **kwargs)
                if self.settings["sigma"] < least:
                    raise ValueError(
                        f"sigma must be at least the step between two weights on the chip, {least:.3g} of their root "
                        f"mean square, or members play alike; got {self.settings['sigma']:g}"
                    )

    def _exported(self, z: np.ndarray) -> Any:
        """Return the network at displacements ``z``, with what stands between it and the environments."""
        return self.policy.exported(self.policy.network_at(z), self.env)

    def _player(self, z: np.ndarray) -> Player:
        try:
            network = self._exported(z)
        except ValueError as error:  # beyond what any network may hold
            raise NonFiniteError(f"generation {self._n_updates + 1} led to {error}: a lower sigma may help") from None
        return self.backend(network, **(self.backend_kwargs or {})) if callable(self.backend) else FloatPlayer(network)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "search"], []

    @classmethod
    def load(cls, path: Any, env: GymEnv | None = None, device: th.device | str = "auto", **kwargs: Any) -> Evolution:
        """Load a model, or start a new search from the network of a saved model of any algorithm of this library.

        A model of this class continues where it was saved. A new search starts from the saved network if the model is
        of another algorithm, or if arguments of the search are given, as RL Zoo does for ``--trained-agent``.

        Args:
            path: The file.
            env: Environments; those of the training, or others with the same wrappers.
            device: Only the CPU.
            kwargs: SB3's further arguments, and arguments of the class.

        Raises:
            ValueError: If the model is of no algorithm of this library, has no Network, or was trained behind other
                wrappers that change observations.
        """
        sb3s = {name: kwargs[name] for name in ("custom_objects", "print_system_info") if name in kwargs}
        data = load_from_zip_file(path, device="cpu", load_data=True, **sb3s)[0] or {}
        policy_class = data.get("policy_class")
        own = isinstance(policy_class, type) and issubclass(policy_class, EvolutionPolicy)
        if own and not set(kwargs) & {"method", "evolved", "backend", *_SETTINGS}:
            return super().load(path, env=env, device=device, **kwargs)
        network, trained_behind = _network_in(path, policy_class)
        for name in (*sb3s, "force_reset"):
            kwargs.pop(name, None)
        arguments = {"policy": "EvolutionPolicy", "policy_kwargs": {"network": network}, **kwargs}
        model = cls(env=env, device=device, **arguments)
        if model.env is not None and changing_wrappers(model.env) != trained_behind:
            raise ValueError(
                f"the environments must have the wrappers {', '.join(trained_behind) or 'none'} around them, as in the "
                f"training of {path}, they have {', '.join(changing_wrappers(model.env)) or 'none'}"
            )
        return model

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        normalization = self.get_vec_normalize_env()
        learns = normalization is not None and normalization.training
        if normalization is not None:
            normalization.training = False  # SB3's reset shows nothing that a member sees
        try:
            result = super()._setup_learn(*args, **kwargs)
        finally:
            if normalization is not None:
                normalization.training = learns
        if self.num_timesteps == 0:
            self.n_calls = 0
        return result

    @contextmanager
    def _session(self) -> Iterator[CompiledTask | None]:
        assert self.env is not None
        yield CompiledTask.of(self.env) if self._player(self.policy.z).whole else None

    @property
    def _n_rollouts(self) -> int:
        return self._n_updates

    def _own_logs(self) -> Iterator[tuple[str, Any]]:
        yield "time/generations", self._n_updates
        yield "rollout/members_mean", self.mean_return
        yield "rollout/members_best", self.best_return

    def budget_is_spent(self) -> bool:
        """Return whether all of ``max_generations`` are done."""
        return self.max_generations is not None and self._n_updates >= self.max_generations

    def _progress(self, total_timesteps: int) -> tuple[int, int]:
        steps = super()._progress(total_timesteps)
        generations = (0, 1) if self.max_generations is None else (self._n_updates, self.max_generations)
        return max(steps, generations, key=lambda done: done[0] / done[1])

    def _rollout(self, callback: BaseCallback, total_timesteps: int, compiled: CompiledTask | None) -> bool:
        """Play a generation and learn from it; return False if a callback wants to stop."""
        assert self.env is not None
        rng, n_episodes = self.policy.rng, self.settings["n_episodes"]
        rate = self.lr_schedule(self._current_progress_remaining)
        members, seeds = self.search.ask(rng), rng.integers(2**31, size=n_episodes).tolist()
        players = [self._player(z) for z in members]
        self._goes_on, self._last_obs = True, None  # whoever steps the environment next starts an episode
        told = partial(self._tell_step, callback, total_timesteps)
        if compiled is None:
            episodes = list(play_steps(self.env, players, seeds, told))
        else:
            episodes = list(self._tell_compiled(compiled, play_compiled(players, compiled.begin(seeds)), told))
        if not self._goes_on or len(episodes) < len(members) * n_episodes:
            return self._goes_on
        returns = np.zeros((len(members), n_episodes))
        for episode in episodes:
            returns[episode.member, episode.number] = episode.total
        self._learn(members, returns.mean(axis=1), rate)
        learn_statistics(self.get_vec_normalize_env(), episodes)
        if not self._looked:
            self._looked = True
            _warn_of_silence(players[0], sum(episode.length for episode in episodes if episode.member == 0))
        return True

    def _learn(self, members: np.ndarray, returns: np.ndarray, rate: float) -> None:
        self.search.tell(members, returns, float(rate))
        self._n_updates += 1
        check_learnt([("the network", th.from_numpy(self.search.point))], f"generation {self._n_updates}")
        self.policy.move_to(self.search.point)
        self.mean_return, self.best_return = float(returns.mean()), float(returns.max())

    def _tell_step(self, callback: BaseCallback, total_timesteps: int, n_steps: int, **outcome: Any) -> bool:
        """Tell the callbacks of a step of so many environments; return whether the generation goes on."""
        self.num_timesteps += n_steps
        self.n_calls += 1
        callback.update_locals(outcome)
        if np.any(outcome["dones"]):
            self._episode_num += int(np.sum(outcome["dones"]))
            self._update_info_buffer(outcome["infos"], outcome["dones"])
        self._goes_on = bool(callback.on_step())
        return self._goes_on and self.num_timesteps < total_timesteps

    def _tell_compiled(
        self, task: CompiledTask, episodes: Iterator[Episode], told: Callable[..., bool]
    ) -> Iterator[Episode]:
        """Walk through the steps of episodes that were played; yield each where it ends."""
        going = {"dones": np.zeros(1, bool), "rewards": np.zeros(1, np.float32), "infos": [{}]}
        for episode in episodes:
            for _ in range(episode.length - 1):
                if not told(1, **going):
                    return
            infos, rewards = [task.log(episode)], np.array([episode.total], np.float32)
            goes_on = told(1, dones=np.ones(1, bool), rewards=rewards, infos=infos)
            yield episode
            if not goes_on:
                return


def _warn_of_silence(player: Player, n_steps: int) -> None:
    if not isinstance(player, FloatPlayer) or not player.simulator.spike_counts:
        return
    steps = player.simulator.steps
    if steps is None or not steps.layers[0].graded:
        warn_of_silence(player.simulator.spike_counts, n_steps * player.simulator.network.n_ticks)


def _network_in(path: Any, policy_class: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the network of a saved model, without what wrappers do, and the wrappers that it was trained behind."""
    for name in ALGOS:
        algorithm: Any = load_algorithm(name)
        if policy_class in algorithm.policy_aliases.values():
            break
    else:
        found = getattr(policy_class, "__name__", policy_class)
        raise ValueError(f"{path} must hold a model of {', '.join(ALGOS)}, it has a policy {found}")
    load = super(Evolution, Evolution).load if algorithm is Evolution else algorithm.load
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load(path, device="cpu")
    trained_behind = tuple(model.policy.trained_behind)
    model.policy.trained_behind = ()
    return model.policy.to_network(), trained_behind
