"""A policy that steps a compiled network, and what stays beside it, as SB3's policies are stepped."""

from __future__ import annotations

import copy
import os
import threading
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from spikeloop.hardware.deployment import Deployment
from spikeloop.hardware.experience import Experience
from spikeloop.hardware.host import Host, refuse_nan
from spikeloop.hardware.reinforcement import Reinforcement
from spikeloop.hardware.sensors import corrected
from spikeloop.hardware.state import State
from spikeloop.hardware.target import Machine
from spikeloop.hardware.weight_search import Verdict, WeightSearch
from spikeloop.spiking.encoders import encode
from spikeloop.spiking.observation import flatten, n_frames, preprocess
from spikeloop.spiking.reference import read as output_of
from spikeloop.spiking.reference import readout_tick
from spikeloop.spiking.stateless import StatelessWarning


class DeployedPolicy:
    """Steps a deployment as SB3's policies are stepped. State is a value: it is handed in and returned, never kept.

    Several threads may step one policy at once. A copy or pickle is a policy of its own, which starts with the same
    counts. Values that leave their range, on the chip or on the way to it, are counted, and the first is warned of.

    Args:
        deployment: The compiled network.
        rng: Source of the start keys of a ``rate`` encoder; seeded with 0 if None.
        interpreted: Run the plain-Python interpreter instead of the emulator; slow.
        learning: Whether the program's learning rules run. Such a policy steps one environment, keeps what it learns,
            and is told after each env step what it was worth, by :meth:`reinforce`. If not, what a program with rules
            does is bit for bit what it does without.

    Attributes:
        machine: What runs the program, a :class:`~spikeloop.hardware.target.Machine`.
        n_steps: Pairs of environment and env step so far.

    Example:
        A network whose four neurons watch one number each, and vote for an action each, on a chip:

        >>> import numpy as np
        >>> from spikeloop.spiking import ActionHead, Encoder, Layer, Network, LsnnNeurons, Readout
        >>> ones = np.ones(4)
        >>> layer = Layer(np.eye(4), 0 * ones, LsnnNeurons(4 * ones, ones, ones, 0 * ones, 0 * ones))
        >>> readout, head = Readout(np.eye(4), 0 * ones), ActionHead("discrete", (4,))
        >>> network = Network(Encoder("direct", 4), (layer,), readout, head, n_ticks=4, latency=1)
        >>> from spikeloop.hardware import compile_network
        >>> policy = DeployedPolicy(compile_network(network, "loihi1"))
        >>> action, state = policy.predict(np.array([0.1, 0.9, 0.3, 0.2]), policy.initial_state())
        >>> int(action), policy.n_steps, policy.firing_rates()
        (1, 1, [0.125])
    """

    def __init__(
        self,
        deployment: Deployment,
        rng: np.random.Generator | None = None,
        interpreted: bool = False,
        learning: bool = False,
    ):
        self.deployment = deployment
        self.rng = rng if rng is not None else np.random.default_rng(0)
        host = deployment.host
        self.machine: Machine = deployment.target.load(deployment.program, host, interpreted)
        self.reinforcement = deployment.reinforcement
        self._winner: int | None = None
        self._return, self._experience = 0.0, Experience(host)  # for a search
        if learning:
            if interpreted:
                raise ValueError("learning=True needs the emulator, this policy is interpreted")
            if self.reinforcement is None:
                raise ValueError("learning=True needs a deployment with a learning rule, as Deployment.taught returns")
            # a search changes weights between episodes only, when no step runs
            self.machine.learning = isinstance(self.reinforcement, Reinforcement)  # type: ignore[attr-defined]
        self.learning = learning
        self.n_steps = 0
        self._lock, self._told = threading.Lock(), False
        self._n_frames, self._preprocessing = n_frames(host.preprocessing), host.preprocessing
        self._shift = self._kept_shift = np.zeros(2 * host.n_obs)  # of sensors, now and kept; for a search
        self._n_obs, self._memory_shape = host.n_obs, host.memory_shape
        self._n_read = host.readout.n_neurons  # whose spikes the host receives
        self._b_out = host.readout.b_out.astype(np.float64)
        self._rest = self.machine.initial_state(1)
        self._remembers = not host.clears or host.memory_shape[0] > 0
        self._note_state = StatelessWarning("policy")

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: all but the lock."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a policy of the same deployment, random stream and counts."""
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __copy__(self) -> DeployedPolicy:
        """Return a policy of its own, as ``copy.deepcopy`` does."""
        return copy.deepcopy(self)

    def initial_state(self, n_envs: int = 1) -> State:
        """Return the resting state of ``n_envs`` chips and encoders."""
        host, chip = self.deployment.host, self.machine.initial_state(n_envs)
        n_rows, width = self._memory_shape
        memory = np.zeros((n_rows, n_envs, width), np.float32)
        if n_rows > self._n_frames:
            memory[self._n_frames :, :, : host.encoder.n_obs] = host.encoder.initial_memory(n_envs, self.rng)
        return State(chip, memory, np.zeros((n_envs, self._n_read)))

    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, State]:
        """Choose actions, as SB3's ``predict`` does.

        Args:
            observation: Observations as the environment shows them, one or a batch: shape (B, ...) or (...) of each
                part, a mapping of parts where there are several; or flat, (B, n_obs) or (n_obs,).
            state: What the previous call returned; None starts from rest.
            episode_start: True where the state is cleared first, shape (B,).
            deterministic: Take the most likely action. False draws one, where the readout's units draw their spikes
                (kind ``bernoulli``), which the host does; a chip holds no other distribution.

        Returns:
            The actions, shape (B, ...) or that of one action, and the new state.

        Raises:
            ValueError: If the network has no action head, the action is to be sampled, or as :meth:`step` says.
        """
        head = self.deployment.host.head
        if head is None or not (deterministic or self.deployment.host.readout.draws):
            what = "has no action head" if head is None else "holds no distribution: predict with deterministic=True"
            raise ValueError(f"the deployed network {what}")
        self._note_state(self._remembers and state is None and episode_start is None)
        rows, single = flatten(self.deployment.host.observation, observation)
        values, new = self.step(rows, state, episode_start)
        if not deterministic:  # logarithms of probabilities: the largest sum is drawn by these
            values = values + self.rng.gumbel(size=values.shape)
        actions = head(values.astype(self.deployment.host.readout.b_out.dtype))
        if self.learning and head.kind == "discrete":
            self._winner = int(actions[0]) - (head.start[0] if head.start else 0)
            self._experience.saw(rows[0], self._winner)
        return (actions[0] if single else actions), new

    def step(
        self, obs: np.ndarray, state: State | None = None, episode_start: np.ndarray | None = None
    ) -> tuple[np.ndarray, State]:
        """Run one env step.

        Args:
            obs: Raw observations as rows, shape (B, n_obs).
            state: As in :meth:`predict`.
            episode_start: As in :meth:`predict`.

        Returns:
            The output values, shape (B, n_outputs), float64, and the new state.

        Raises:
            ValueError: If a shape is wrong, an observation is no number, or the state is not of this policy; or if
                an observation is infinite, unless a normaliser clips it or the encoder is ``direct``: it then counts
                as the largest input that the chip takes.
        """
        obs = np.asarray(obs)
        if obs.ndim != 2 or obs.shape[1] != self._n_obs or not len(obs):
            raise ValueError(f"observations must have {self._n_obs} values, got shape {obs.shape}")
        if obs.dtype.kind not in "fiub":
            raise ValueError(f"observations must be numbers, got {obs.dtype}")
        n_batch = len(obs)
        state = self.initial_state(n_batch) if state is None else self._checked(state, n_batch)
        chip, memory, trace = state
        if self.deployment.host.clears:
            chip, trace = np.repeat(self._rest, n_batch, axis=0), np.zeros_like(trace)
        starts = None
        if episode_start is not None:
            starts = np.asarray(episode_start)
            if starts.size != n_batch or starts.dtype.kind not in "biuf":
                raise ValueError(f"episode_start must have shape ({n_batch},), got {starts.dtype} {starts.shape}")
            starts = starts.reshape(n_batch) != 0
            if starts.any():
                chip = np.where(starts[:, None], self._rest, chip)
                trace = np.where(starts[:, None], 0.0, trace)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                x, memory = self._encode(obs, memory, starts)
                read, chip = self.machine.run(chip, x)
        except ValueError:
            refuse_nan(obs)
            raise
        values, trace = self._values(read, trace)
        with self._lock:
            self.n_steps += n_batch
        if not self._told and (where := self.machine.overflowed):
            self._tell(where)
        return values, State(chip, memory, trace)

    def _checked(self, state: State, n_batch: int) -> State:
        """Return the state if its parts have the shapes of this policy and batch; the machine checks its own part."""
        n_rows, width = self._memory_shape
        shapes = (n_batch, self._rest.shape[1]), (n_rows, n_batch, width), (n_batch, self._n_read)
        try:
            chip, memory, trace = state
            found = chip.shape, memory.shape, trace.shape
        except (AttributeError, TypeError, ValueError):
            found = type(state).__name__  # type: ignore[assignment]
        if found != shapes:
            raise ValueError(
                f"state must be that of {n_batch} environments, with parts of shapes {shapes}, got {found}"
            )
        return state

    def _encode(self, obs: np.ndarray, memory: np.ndarray, starts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the encoder's output, (B, n_channels) or (n_ticks, B, n_channels), and its memory."""
        host = self.deployment.host
        by_step = None if starts is None else starts[None]
        seen, frames = preprocess(self._preprocessing, obs[None], memory[: self._n_frames], by_step)
        if host.encoder.identity:  # what is infinite may saturate on the way to the chip
            return seen[0].astype(np.float32), frames
        refuse_nan(obs)
        x, level = encode(host.encoder, seen, memory[self._n_frames :], by_step, host.n_ticks, host.dt)
        return x[0], np.concatenate([frames, level]) if self._n_frames else level

    def _tell(self, where: str) -> None:
        """Warn, the first time, that values have left their range."""
        with self._lock:
            first, self._told = not self._told, True
        if first:
            warnings.warn(
                f"values left their range {where}, so the chip may do otherwise than the network; they are "
                "counted in report(policy).overflows. Calibrate with observations as large as those of the task",
                stacklevel=4,
            )

    def _values(self, read: np.ndarray, trace: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the output values, (B, O), of what the machine's host read on each tick, and the readout's trace."""
        host = self.deployment.host
        readout = host.readout
        if not self._n_read:
            if not readout.every_tick:
                return read[-1] * host.output_scale + self._b_out, trace
            return self._decide(read)[0], trace
        n_ticks, dt = host.n_ticks, host.dt
        for t in range(n_ticks):
            trace = readout_tick(trace, read[t], readout, n_ticks, t == 0, dt)
        if readout.every_tick:
            return self._decide(read)[0], trace
        return output_of(trace, readout), trace

    def _decide(self, read: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        head = self.deployment.host.head
        return self.deployment.host.readout.decide(self.membranes(read), None if head is None else head.sizes)

    def membranes(self, read: np.ndarray) -> np.ndarray:
        """Return the membranes of units that are looked at on every tick, (n_ticks, B, O), of what the host read."""
        host, readout = self.deployment.host, self.deployment.host.readout
        if self._n_read:
            return readout.membranes(read @ readout.w_out.T + readout.b_out, host.dt)
        of_bias = readout.membranes(np.broadcast_to(self._b_out, read.shape), host.dt)  # they are linear
        return read * host.output_scale + of_bias

    def reinforce(self, reward: float, terminated: bool = False, truncated: bool = False) -> None:
        """Tell a policy that learns what its latest action was worth.

        The third factor (:class:`~spikeloop.hardware.reinforcement.Reinforcement`) reaches the learning engines on the
        last tick of the next env step, the spike of the output that won on its first. At an episode's end as many ticks
        run without spikes, and traces and tags are forgotten. Where a
        :class:`~spikeloop.hardware.weight_search.WeightSearch` judges, weights and the correction of sensors change
        between two episodes only; where it looks for a correction in a model of the body, the call that ends an episode
        takes seconds, or minutes for hundreds of neurons.

        Args:
            reward: The reward of the env step.
            terminated: Whether the step ended in a terminal state, after which nothing can be expected.
            truncated: Whether the episode was cut off.

        Raises:
            ValueError: If the policy does not learn, or the reward is no number.
        """
        if not self.learning or self.reinforcement is None:
            raise ValueError("a policy learns if it is made with learning=True, of a deployment with a learning rule")
        if not abs(reward) < np.inf:
            raise ValueError(f"reward must be a finite number, got {reward}")
        machine: Any = self.machine
        if isinstance(self.reinforcement, WeightSearch):
            self._return += float(reward)
            self._experience.rewarded(float(reward))
            if terminated or truncated:
                self._end_episode(self.reinforcement)
            return
        r1, value = self.reinforcement.after(float(reward), terminated)
        self.reinforcement = replace(self.reinforcement, value=value)
        machine.reinforce(int(np.floor(r1 + self.rng.random())), self._winner)
        if terminated or truncated:
            machine.end_episode()
            self._winner = None

    def _end_episode(self, search: WeightSearch) -> None:
        """Let a search judge an episode, and do with weights and sensors what it wants."""
        machine: Any = self.machine
        self._experience.ended()
        self.reinforcement, verdict = search.after(self._return, self._experience.modelled)
        machine.change_weights(verdict)
        self._change_sensors(verdict)
        if self.reinforcement.calm:
            self._experience.calm(anew=search.opened)
        self._return = 0.0

    def _change_sensors(self, verdict: Verdict) -> None:
        """Do with the correction of the sensors what a search wants."""
        machine: Any = self.machine
        search: Any = self.reinforcement
        none = np.zeros_like(self._shift)
        if verdict.keep:
            self._kept_shift = self._shift
        if verdict.restore:
            self._kept_shift = none
        if verdict.first or verdict.restore or verdict.back:
            self._shift = none if verdict.first else self._kept_shift
        found = None
        if verdict.modelled:
            steps = [self._imagined(turned).step for turned in (False, True)]
            found = self._experience.best_correction(steps, self._kept_shift, (search.seed, search.n_episodes))
        if found is not None:
            turned, self._shift = found
            machine.change_weights(Verdict(turn=bool(turned)))
        elif verdict.shift:
            self._shift = self._shift + np.array(verdict.shift)
        self._preprocessing = self._host(self._shift).preprocessing

    def _imagined(self, turned: bool) -> DeployedPolicy:
        """Return the kept policy for a model of the body, sensors not corrected, weights turned if they are to be."""
        kept = DeployedPolicy(replace(self.deployment, program=self.machine.kept_program()))  # type: ignore[attr-defined]
        kept.machine.change_weights(Verdict(turn=turned))  # type: ignore[attr-defined]
        kept._told = True  # candidates that see badly may leave the range of values, which is no news
        return kept

    def _host(self, shift: np.ndarray) -> Host:
        host = self.deployment.host
        return corrected(host, shift) if shift.any() else host

    def learned(self) -> Deployment:
        """Return the deployment with what the policy has learned, from which it learns on as it would have here.

        Called between two episodes: what the last step of an unfinished one was worth is not among it.

        A search that is within a trial gives it up: its file holds the weights and sensors that it keeps, which are
        then those deployed. What it has seen of the body is not in the file, and is seen anew.
        """
        if not self.learning:
            return self.deployment
        machine: Any = self.machine
        if isinstance(self.reinforcement, WeightSearch):
            return replace(
                self.deployment,
                program=machine.kept_program(),
                host=self._host(self._kept_shift),
                reinforcement=self.reinforcement.of_kept(),
            )
        return replace(self.deployment, program=machine.program_now(), reinforcement=self.reinforcement)

    def changes(self) -> dict[str, dict[str, float]]:
        """Return what learning did so far, by projection: weights, how many changed, the mean size of the changes.

        Where sensors have been corrected, their offsets and logarithms of gains stand beside them, as ``sensors``.
        """
        machine: Any = self.machine
        changes = machine.changes() if self.learning else {}
        if self._kept_shift.any():
            size = abs(self._kept_shift)
            changes["sensors"] = {"weights": size.size, "changed": int((size > 0).sum()), "mean": float(size.mean())}
        return changes

    def firing_rates(self) -> list[float]:
        """Return the spikes per neuron and tick of each layer so far."""
        return self.machine.firing_rates()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the deployment, with what has been learned, to one safetensors file."""
        self.learned().save(path)

    @staticmethod
    def load(path: str | os.PathLike[str], rng: np.random.Generator | None = None) -> DeployedPolicy:
        """Read a deployment and return the policy that steps it; errors as in :meth:`Deployment.load`."""
        return DeployedPolicy(Deployment.load(path), rng)
