"""Plays episodes with the members of a population: one kernel call each where the task is compiled, else by steps.

Each member plays as the Network that would be exported, and sees what the environment itself shows: wrappers that
normalise or stack observations are parts of the network here. Every member plays the same episodes, each begun by a
reset with a seed of its own. So a member's returns depend on its network and these seeds alone, not on the number of
environments, processes or threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize

from spikeloop.agents.check_finite import CheckFinite, check_first, check_step
from spikeloop.agents.compiled_tasks import NO_LIMIT, WrappedTask
from spikeloop.agents.episode_kernels import Circuits, Episodes, Played, play, play_circuits
from spikeloop.agents.failures import NonFiniteError
from spikeloop.agents.guarded_env import raise_handed_over
from spikeloop.envs.compiled import compiled_of, shown_components
from spikeloop.envs.compiled_continuous import continuous_of
from spikeloop.envs.compiled_drawn import drawn_of
from spikeloop.spiking.encoders.recruited_cells import RecruitedCells
from spikeloop.spiking.encoders.tile_coding import PlaceCells, Tiles
from spikeloop.spiking.network import Network
from spikeloop.spiking.simulator import Simulator
from spikeloop.spiking.threads import kernel_threads


class Player(Protocol):
    """A network that can act: a simulator, or one compiled for a chip. One of each member is made, and dropped."""

    def predict(
        self, observation: Any, state: Any, episode_start: np.ndarray, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """Choose actions for raw observations, as SB3's ``predict`` does."""
        ...

    @property
    def whole(self) -> bool:
        """Whether it can :meth:`play`."""
        ...

    def play(self, episodes: Episodes) -> tuple[Any, ...]:
        """Play whole episodes of a compiled task in one call; return the parts of a :class:`Played`."""
        ...


class FloatPlayer:
    """A network in the simulator.

    Args:
        network: The network.

    >>> from spikeloop.agents.evolution_policy import EvolutionPolicy
    >>> policy = EvolutionPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
    >>> action, state = FloatPlayer(policy.network).predict(np.zeros((1, 4)), None, np.ones(1, bool))
    >>> action.shape
    (1,)
    """

    def __init__(self, network: Network):
        self.simulator = Simulator(network, np.random.default_rng(0), n_threads=1)
        self.predict = self.simulator.predict
        self.circuits = _circuits_of(network)

    @property
    def whole(self) -> bool:
        """Whether it can :meth:`play`, for Discrete or Box actions.

        It can with LSNN layers that keep their state, behind a ``direct`` encoder; and without layers where lines of
        tiles or place cells reach a ``winner`` readout, as in networks of R-STDP's ``WtaPolicy``.
        """
        if self.circuits is not None:
            return True
        head = self.simulator.network.head
        plain = head is not None and not head.squash and not head.rows and head.kind in ("discrete", "box")
        return plain and self.simulator.table is not None and not self.simulator.network.clears

    def play(self, episodes: Episodes) -> Played:
        """Play whole episodes of a compiled task in one kernel."""
        played = nothing_played(episodes)
        if self.circuits is not None:
            play_circuits(self.circuits, episodes, played)
            return played
        outputs = np.empty((1, self.simulator.network.readout.n_outputs), self.simulator.dtype)
        if not play(self.simulator.table, self.simulator.initial_state(1), outputs, episodes, played):
            raise NonFiniteError("a member's state is no longer finite: a lower sigma may help")
        return played


def _circuits_of(network: Network) -> Circuits | None:
    """Return a network without layers as the kernel takes it; None if it is another one."""
    head, readout, encoder = network.head, network.readout, network.encoder
    if network.layers or readout.kind != "winner" or network.preprocessing or head is None:
        return None
    if not isinstance(encoder, (Tiles, PlaceCells, RecruitedCells)) or not (head.kind == "discrete" or head.rows):
        return None
    w, bias = np.array(readout.w_out.T, order="C"), np.array(readout.b_out)
    first = np.cumsum((0, *head.sizes))
    values = np.array(head.values) if head.rows else np.zeros(0)
    return Circuits(encoder.table, w, bias, first, values, head.n_rows if head.rows else 1)


def nothing_played(episodes: Episodes) -> Played:
    """Return empty results, one for each episode, for a kernel to fill in."""
    n, n_obs = len(episodes.states), len(episodes.shown)
    return Played(np.zeros(n), np.zeros(n, np.int64), np.zeros((n, n_obs)), np.zeros((n, n_obs)))


class Episode(NamedTuple):
    """An episode that a member has played."""

    member: int
    number: int  # of the episode among those that every member plays
    total: float  # its return
    length: int
    mean: np.ndarray  # of what was observed before each step, (n_obs,)
    square: np.ndarray  # sum of squared distances from it


class CompiledTask:
    """An environment whose episodes a kernel plays.

    Args:
        venv: The environments; the first one is played in.
        task: That environment, under its wrappers.
        form: The task's compiled form.
    """

    def __init__(self, venv: DummyVecEnv, task: WrappedTask, form: Any):
        self.venv, self.task, self.form, space = venv, task, form, venv.action_space
        self.limit = task.left() + 1
        box = isinstance(space, spaces.Box)
        n = int(np.prod(space.shape or ())) if box else 0
        self.action: Any = np.zeros((1, n)) if box else np.zeros(1, np.int64)
        self.bounds = np.stack([space.low.ravel(), space.high.ravel()]).astype(np.float64) if box else np.zeros((2, 0))  # type: ignore[attr-defined]

    @staticmethod
    def of(venv: VecEnv) -> CompiledTask | None:
        """Return the compiled task of environments; None if there is none, or something about them is unknown.

        >>> from stable_baselines3.common.env_util import make_vec_env
        >>> CompiledTask.of(make_vec_env("CartPole-v1")).limit
        500
        """
        base = venv.unwrapped
        if type(base) is not DummyVecEnv:
            return None
        task = WrappedTask(base.envs[0])
        space: Any = base.action_space
        form: Any = None
        if task.skippable and isinstance(space, spaces.Discrete):
            form = (compiled_of(task.task) or drawn_of(task.task)) if space.start == 0 else None
        elif task.skippable and isinstance(space, spaces.Box):
            form = continuous_of(task.task)
        task.outermost.reset()
        if (
            form is None
            or form.state(task.task) is None
            or (task.left() >= NO_LIMIT - 1 and drawn_of(task.task) is None)
        ):
            return None
        others = [WrappedTask(env) for env in base.envs[1:]]
        if not all(_alike(task, other, form) for other in others):
            return None
        return CompiledTask(base, task, form)

    def log(self, episode: Episode) -> dict[str, Any]:
        """Return the info of the last step of an episode that no environment has seen; its monitor is told of it."""
        known = {"r": round(episode.total, 6), "l": episode.length}
        for monitor in (one for one, _ in self.task.wrappers if isinstance(one, Monitor)):
            known["t"] = round(time.time() - monitor.t_start, 6)
            monitor.episode_returns.append(episode.total)
            monitor.episode_lengths.append(episode.length)
            monitor.episode_times.append(known["t"])
            monitor.total_steps += episode.length
            if monitor.results_writer is not None:
                monitor.results_writer.write_row(known)
        return {"episode": known}

    def begin(self, seeds: Sequence[int]) -> Episodes:
        """Return the episodes of these seeds, about to begin."""
        env, form, found = self.task.outermost, self.form, []
        shown = shown_components(env, form.n_obs)
        for seed in seeds:
            obs, info = env.reset(seed=int(seed))
            raise_handed_over([info])
            check_first(self.venv, obs)
            whole = np.zeros(form.n_obs)
            whole[shown] = obs
            found.append((form.state(self.task.task), form.body(self.task.task), whole))
        states, bodies, wholes = (np.array(part, np.float64) for part in zip(*found, strict=True))
        return Episodes(form.step, states, bodies, wholes, shown, self.limit, self.action, self.bounds)


def play_compiled(players: Sequence[Player], episodes: Episodes) -> Iterator[Episode]:
    """Play every member's episodes, the members on several threads; yield them member by member."""
    n_threads = min(kernel_threads(), len(players))
    if n_threads == 1:
        results = [player.play(episodes) for player in players]
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            results = list(pool.map(lambda player: player.play(episodes), players))
    for member, (returns, lengths, means, squares) in enumerate(results):
        for number in range(len(returns)):
            yield Episode(member, number, float(returns[number]), int(lengths[number]), means[number], squares[number])


def play_steps(
    venv: VecEnv, players: Sequence[Player], seeds: Sequence[int], told: Callable[..., bool]
) -> Iterator[Episode]:
    """Play every member's episodes step by step, as many at a time as there are environments; yield each as it ends.

    SB3 steps all environments together, so one that has nothing left to play repeats its last action, and its results
    are ignored.

    Args:
        venv: The environments, and what is around them.
        players: The members.
        seeds: Of the episodes that each of them plays.
        told: Called after each step with the number of environments that were played in, and ``new_obs``, ``rewards``,
            ``dones`` and ``infos`` of all; returns whether the playing goes on.
    """
    inner = _raw(venv)
    jobs = iter([(member, number) for member in range(len(players)) for number in range(len(seeds))])
    n = inner.num_envs
    at = [_begin(inner, i, next(jobs, None), seeds) for i in range(n)]
    actions = np.array([inner.action_space.sample() for _ in range(n)])
    while any(at):
        for i, place in enumerate(at):
            if place is not None:
                actions[i], place.state = _acted(players[place.member], place)
        obs, rewards, dones, infos = inner.step(actions)
        raise_handed_over(infos)
        check_step(inner, obs, rewards, dones, infos)
        busy = [i for i in range(n) if at[i] is not None]
        ended = []
        for i in busy:
            place = at[i]
            assert place is not None
            place.step(_row(obs, i), float(rewards[i]), bool(dones[i]))
            if dones[i]:
                ended.append(place.episode())
                at[i] = _begin(inner, i, next(jobs, None), seeds)
        playing = np.zeros(n, bool)
        playing[busy] = True
        infos = [info if played else {} for info, played in zip(infos, playing, strict=True)]
        goes_on = told(len(busy), new_obs=obs, rewards=rewards, dones=dones & playing, infos=infos)
        yield from ended
        if not goes_on:
            return


class _Place:
    """Where an environment is in an episode."""

    def __init__(self, member: int, number: int, obs: Any):
        self.member, self.number, self.obs = member, number, obs
        self.state: Any = None
        self.total, self.length = 0.0, 0
        self.mean = self.square = np.zeros(0)
        self._observe()

    def _observe(self) -> None:
        row = np.concatenate([np.ravel(part) for part in _parts(self.obs)]).astype(np.float64)
        if self.length == 0:
            self.mean, self.square = np.zeros(row.size), np.zeros(row.size)
        distance = row - self.mean
        self.mean = self.mean + distance / (self.length + 1)
        self.square = self.square + distance * (row - self.mean)

    def step(self, obs: Any, reward: float, done: bool) -> None:
        self.total, self.length, self.obs = self.total + reward, self.length + 1, obs
        if not done:
            self._observe()

    def episode(self) -> Episode:
        return Episode(self.member, self.number, self.total, self.length, self.mean, self.square)


def _begin(venv: VecEnv, i: int, job: tuple[int, int] | None, seeds: Sequence[int]) -> _Place | None:
    if job is None:
        return None
    ((obs, info),) = venv.env_method("reset", seed=int(seeds[job[1]]), indices=[i])
    raise_handed_over([info])
    check_first(venv, obs)
    return _Place(
        *job,
        {key: np.asarray(part)[None] for key, part in obs.items()} if isinstance(obs, dict) else np.asarray(obs)[None],
    )


def _acted(player: Player, place: _Place) -> tuple[np.ndarray, Any]:
    """Return the member's action for the only observation, and its state after it."""
    action, state = player.predict(place.obs, place.state, np.array([place.length == 0]))
    return action[0], state


def _row(obs: Any, i: int) -> Any:
    return {key: part[i : i + 1] for key, part in obs.items()} if isinstance(obs, dict) else obs[i : i + 1]


def _parts(obs: Any) -> list[Any]:
    return list(obs.values()) if isinstance(obs, dict) else [obs]


def _alike(task: WrappedTask, other: WrappedTask, form: Any) -> bool:
    """Return whether an environment is the same as the first, whose episodes a kernel plays in place of all."""
    if not other.skippable or type(other.task) is not type(task.task):
        return False
    for env in (task.outermost, other.outermost):
        env.reset(seed=0)  # what a task draws is part of its body
    return other.left() == task.left() and np.array_equal(form.body(other.task), form.body(task.task))


def _raw(venv: VecEnv) -> VecEnv:
    """Return the environments under wrappers that change what is observed or paid, checked ones if there are any."""
    found = venv
    while isinstance(venv, VecEnvWrapper):
        found = venv if type(venv) is CheckFinite else venv.venv
        venv = venv.venv
    return found


def learn_statistics(normalization: VecNormalize | None, episodes: Sequence[Episode]) -> None:
    """Let a VecNormalize know what was observed in a generation; within one, its statistics stand still.

    Args:
        normalization: The wrapper; None for none.
        episodes: All episodes of the generation.
    """
    if normalization is None or not normalization.training or not normalization.norm_obs:
        return
    space, statistics = normalization.venv.observation_space, normalization.obs_rms
    parts: Any = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    first = 0
    for key, part in parts.items():
        size = int(np.prod(part.shape or ()))  # of raw values, choices are not one-hot yet
        rms: Any = statistics.get(key) if isinstance(statistics, dict) else statistics
        for episode in sorted(episodes, key=lambda one: (one.member, one.number)) if rms is not None else ():
            mean, square = (found[first : first + size].reshape(part.shape) for found in (episode.mean, episode.square))
            rms.update_from_moments(mean, square / episode.length, episode.length)
        first += size
