"""The chip in plain Python integers, one compartment and one synapse at a time: what the emulator is tested against."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spikeloop.hardware.learning.reference import ReferenceLearner
from spikeloop.hardware.loihi.chip import EMULATOR_BITS, EMULATOR_MAX, Profile
from spikeloop.hardware.loihi.fixed_point import synaptic_input
from spikeloop.hardware.loihi.layout import VARIABLES, Layout, check_state, layout_of
from spikeloop.hardware.loihi.program import MODELS, Program
from spikeloop.hardware.loihi.signals import signals_of

OVERFLOWS = ("input", "u", "v input", "v above", "v below", "adaptation")
_MASK = 2**64 - 1


def decay(x: int, e: int) -> int:
    """Return ``x * (4096 - e) / 4096`` rounded towards zero."""
    product = x * (4096 - e)
    return product >> 12 if product >= 0 else -(-product >> 12)


def wrap(x: int, bits: int) -> int:
    """Return ``x`` in two's complement of ``bits`` bits and a sign."""
    return ((x + (1 << bits)) % (1 << (bits + 1))) - (1 << bits)


def wrap_u(x: int, profile: Profile) -> int:
    """Return u as the profile holds it."""
    if profile.u_wrap == "once":
        x = x - 2**24 if x > 2**23 else x + 2**24 if x <= -(2**23) else x
        return wrap(x, EMULATOR_BITS)
    return wrap(x, profile.u_bits)


def draw(stream: int) -> tuple[int, int]:
    """Advance a 64-bit stream (splitmix64, Steele et al. 2014); return it and a uniform integer from -127..127."""
    stream = (stream + 0x9E3779B97F4A7C15) & _MASK
    x = ((stream ^ (stream >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    x ^= x >> 31
    return stream, ((x >> 32) * 255 >> 32) - 127


class Interpreter:
    """Runs a program by its definition; slow, and bit for bit what the emulator computes.

    One tick, in code order, D(x, e) = x (4096 - e) / 4096 rounded towards zero:

        inputs arrive                              if the profile's input latency is 0
        q = the input that is due now, noise added where enabled at the current, wrapped
        for each compartment, in order:
            u <- wrap(D(u, decay_u) + q)
            x = u + bias + v of its children, noise added where enabled at the membrane; wrapped if the profile says so
            cuba:         v <- clip(D(v, decay_v) + x);  0 while refractory
                          z = v > v_th;  v <- 0 where z   (profile with late reset: on the next tick, before D)
            lsnn:         a <- D(a, decay_a) + step_a z                           z: of the previous tick
                          v <- clip(D(v, decay_v) (1 - z) + x)                    subtract: D(v, decay_v) - v_th z + x
                          z = v > v_th + a, and not refractory
            slayer_alif:  v <- clip(D(v, decay_v) + x);  r <- D(r, decay_r);  a <- D(a, decay_a)
                          z = v >= v_th + a + r;  r <- r + 2 (v_th + a), a <- a + step_a where z
        spikes are sent, and due 1 + delay ticks later; inputs too if their latency is 1
        each learning engine sees this tick: which of its input lines carried anything, which of its compartments
            fired or got a spike from the host, the reward; weights, tags and delays change where its epoch ends

    So the spikes of a tick carry the weights from before its end, those of the next tick what was learnt from it; an
    input that arrives on its own tick (latency 0) is one of that tick. A synapse's delay is the learning engine's, if
    its rule changes delays, but none that is longer than the profile's longest. What a learning engine computes is
    defined by :class:`~spikeloop.hardware.learning.reference.ReferenceLearner`.

    Args:
        program: What to run.
        rng: Seeds the noise of each environment, if the program uses noise.

    Attributes:
        learners: Projection to its learning engine, where it has a rule.
    """

    def __init__(self, program: Program, rng: np.random.Generator | None = None) -> None:
        self.program, self.layout = program, layout_of(program)
        self._rng = rng
        self.overflows = dict.fromkeys(OVERFLOWS, 0)
        self.updates = 0
        c = program.compartments
        self._c = {name: getattr(c, name).tolist() for name in c.__dataclass_fields__}
        self._c["v_max"] = program.highest_v.tolist()
        self._children: list[list[int]] = [[] for _ in range(c.n)]
        for i, parent in enumerate(self._c["parent"]):
            if parent >= 0:
                self._children[parent].append(i)
        # Of each source, by projection: delay, target and weight of its synapses.
        self._synapses: dict[tuple[bool, int], dict[int, list[tuple[int, int, int]]]] = {}
        self.learners: dict[int, ReferenceLearner] = {}
        for i, p in enumerate(program.projections):
            if p.learning is not None:
                rule = p.learning.rule
                delays = p.delays if "d" in rule.variables() else None
                self.learners[i] = ReferenceLearner(
                    rule, p.weights, p.learning.tags, delays, p.sign_mode, p.bits, p.learning.seed
                )
                if p.learning.state is not None:
                    self.learners[i].resume(p.learning.state)
            self._list_synapses(i, p.weights, p.delays)

    def _list_synapses(self, i: int, weights: np.ndarray, delays: np.ndarray | None) -> None:
        """List the synapses that a projection has now."""
        p = self.program.projections[i]
        actual = synaptic_input(weights, p.exponent, p.bits, p.sign_mode, self.program.arithmetic)
        for k, pre in enumerate(p.pre.tolist()):
            self._synapses.setdefault((p.from_input, pre), {})[i] = [
                (0 if delays is None else int(delays[j, k]), post, int(actual[j, k]))
                for j, post in enumerate(p.post.tolist())
                if weights[j, k]
            ]

    @property
    def overflowed(self) -> bool:
        """Whether a value has left its range."""
        return any(self.overflows.values())

    def initial_state(self, n_envs: int = 1) -> np.ndarray:
        """Return the resting state of ``n_envs`` chips, shape (n_envs, W)."""
        return resting_state(self.program, n_envs, self._rng)

    def run(
        self,
        state: np.ndarray,
        n_ticks: int,
        inputs: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        *,
        rewards: npt.ArrayLike | None = None,
        post_spikes: npt.ArrayLike | None = None,
        post_traces: npt.ArrayLike | None = None,
        learning: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run for some ticks; arguments and results are those of ``Emulator.run``."""
        inputs, bias = check_run(self.program, self.layout, state, n_ticks, inputs, bias)
        signals = signals_of(self.program, len(state), n_ticks, rewards, post_spikes, post_traces, learning)
        state = state.copy()
        outputs = np.zeros((n_ticks, len(state), self.program.outputs.size), np.int32)
        for b, row in enumerate(state):
            s = self._unpack(row.tolist())
            for t in range(n_ticks):
                payloads = [] if inputs is None else inputs[t, b].tolist()
                self._tick(s, payloads, self._c["bias"] if bias is None else bias[b].tolist())
                outputs[t, b] = [s["v"][i] for i in self.program.outputs.tolist()]
                if signals is not None:
                    self._learn(s, payloads, *(signal[t % len(signal)] for signal in signals))
            state[b] = self._pack(s)
        return outputs, state

    def _learn(
        self, s: dict[str, Any], payloads: list[int], reward: int, from_host: np.ndarray, traces: np.ndarray
    ) -> None:
        """Let the learning engines see a tick; list the synapses anew that they have changed."""
        for i, learner in self.learners.items():
            p = self.program.projections[i]
            sent = payloads if p.from_input else s["z"]
            pre = [k for k, source in enumerate(p.pre.tolist()) if sent and sent[source]]
            post = [j for j, c in enumerate(p.post.tolist()) if s["z"][c] or (from_host.size and from_host[c])]
            learner.tick(pre, post, int(reward), traces[:, p.post] if traces.size else None)
            longest = self.program.longest_delay(p)
            self._list_synapses(i, learner.w, np.minimum(learner.d, longest) if p.learns_delays else p.delays)

    def _unpack(self, row: list[int]) -> dict[str, Any]:
        where, n = self.layout, self.layout.n
        s: dict[str, Any] = {name: row[where.start(name) : where.start(name) + n] for name in VARIABLES}
        s["slot"], s["stream"] = row[0], (row[1] % 2**32) | (row[2] % 2**32) << 32
        s["pending"] = [row[where.pending + k * n : where.pending + (k + 1) * n] for k in range(where.slots)]
        return s

    def _pack(self, s: dict[str, Any]) -> list[int]:
        low, high = wrap(s["stream"], 31), wrap(s["stream"] >> 32, 31)
        row = [s["slot"], low, high, *(x for name in VARIABLES for x in s[name]), *(x for k in s["pending"] for x in k)]
        return row + [0] * (self.layout.width - len(row))

    def _count(self, kind: str, before: int, after: int) -> int:
        self.overflows[kind] += before != after
        return after

    def _clip(self, kind: str, x: int, low: int, high: int) -> int:
        return self._count(kind, x, min(max(x, low), high))

    def _add(self, s: dict[str, Any], target: tuple[int, int], x: int) -> None:
        """Add ``x``, in units of 64, to the input of a target ``(ticks from now, compartment)``."""
        slot = s["pending"][(s["slot"] + target[0]) % self.layout.slots]
        x += slot[target[1]]
        slot[target[1]] = self._count("input", x, wrap(x, 31))

    def _send(self, s: dict[str, Any], spikes: list[tuple[bool, int, int]], latency: int) -> None:
        """Send the spikes of one tick, each ``(from an input line, source, payload)``."""
        sums: dict[tuple[int, int, int], int] = {}
        for from_input, source, payload in spikes:
            for projection, synapses in self._synapses.get((from_input, source), {}).items():
                for delay, post, weight in synapses:
                    if (projection, delay) in self.layout.staged:
                        key = projection, delay, post
                        sums[key] = sums.get(key, 0) + payload * weight
                    else:
                        self._add(s, (latency + delay, post), payload * weight)
        for (projection, delay, post), x in sums.items():
            x = self._count("input", x, wrap(x, 31))
            self._add(s, (latency + delay, post), x >> -self.program.projections[projection].exponent)

    def _noise(self, s: dict[str, Any], i: int, at: str) -> int:
        if not self._c["noise"][i] or self.program.noise_at != at:
            return 0
        s["stream"], x = draw(s["stream"])
        x = (x + 64 * self.program.noise_mantissa) << self.program.noise_exponent
        return x >> 7 if x >= 0 else -(-x >> 7)

    def _tick(self, s: dict[str, Any], payloads: list[int], bias: list[int]) -> None:
        profile, c = self.program.arithmetic, self._c
        arriving = [(True, i, payload) for i, payload in enumerate(payloads) if payload]
        if profile.input_latency == 0:
            self._send(s, arriving, 0)
            arriving = []
        due = s["pending"][s["slot"]]
        s["pending"][s["slot"]] = [0] * len(due)
        for i in range(self.layout.n):
            q = (due[i] << 6) + self._noise(s, i, "current")
            q = self._count("input", q, wrap(q, profile.input_bits))
            x = decay(s["u"][i], c["decay_u"][i]) + q
            s["u"][i] = self._count("u", x, wrap_u(x, profile))
            self.updates += any((s["u"][i], s["v"][i], q, bias[i]))
            x = s["u"][i] + bias[i] + sum(s["v"][k] for k in self._children[i]) + self._noise(s, i, "membrane")
            if profile.wrap_v_input:
                x = self._count("v input", x, wrap(x, 23))
            getattr(self, "_" + MODELS[c["model"][i]])(s, i, x)
        self._send(s, [(False, i, 1) for i in range(self.layout.n) if s["z"][i]] + arriving, 1)
        s["slot"] = (s["slot"] + 1) % self.layout.slots

    def _integrate(self, s: dict[str, Any], i: int, x: int) -> None:
        low, high = self._c["v_min"][i], self._c["v_max"][i]
        s["v"][i] = self._clip("v above" if x > 0 else "v below", x, low, high)

    def _cuba(self, s: dict[str, Any], i: int, x: int) -> None:
        v, late = s["v"][i], self.program.arithmetic.late_reset
        if late and s["z"][i]:
            v = 0
        self._integrate(s, i, decay(v, self._c["decay_v"][i]) + x)
        if s["r"][i]:
            s["v"][i] = 0
            s["r"][i] -= 1
        s["z"][i] = int(self._c["fires"][i] and s["v"][i] > self._c["v_th"][i])
        if s["z"][i]:
            s["r"][i] = self._c["refractory"][i] - 1
            if not late:
                s["v"][i] = 0

    def _lsnn(self, s: dict[str, Any], i: int, x: int) -> None:
        c, z, v = self._c, s["z"][i], decay(s["v"][i], self._c["decay_v"][i])
        a = decay(s["a"][i], c["decay_a"][i]) + c["step_a"][i] * z
        s["a"][i] = self._clip("adaptation", a, -EMULATOR_MAX, EMULATOR_MAX)
        self._integrate(s, i, (v - c["v_th"][i] * z if c["subtract"][i] else v * (1 - z)) + x)
        silent = s["r"][i] > 0
        s["r"][i] -= silent
        s["z"][i] = int(c["fires"][i] and not silent and s["v"][i] > c["v_th"][i] + s["a"][i])
        if s["z"][i]:
            s["r"][i] = c["refractory"][i] - 1

    def _slayer_alif(self, s: dict[str, Any], i: int, x: int) -> None:
        c = self._c
        self._integrate(s, i, decay(s["v"][i], c["decay_v"][i]) + x)
        s["r"][i] = decay(s["r"][i], c["decay_r"][i])
        s["a"][i] = decay(s["a"][i], c["decay_a"][i])
        th = c["v_th"][i] + s["a"][i]
        s["z"][i] = int(c["fires"][i] and s["v"][i] >= th + s["r"][i])
        if s["z"][i]:
            s["r"][i] = self._clip("adaptation", s["r"][i] + 2 * th, -EMULATOR_MAX, EMULATOR_MAX)
            s["a"][i] = self._clip("adaptation", s["a"][i] + c["step_a"][i], -EMULATOR_MAX, EMULATOR_MAX)


def check_run(
    program: Program,
    layout: Layout,
    state: np.ndarray,
    n_ticks: int,
    inputs: npt.ArrayLike | None,
    bias: npt.ArrayLike | None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return inputs and biases as writeable int32 arrays in C order, if a program in this state can run so with them.

    Raises:
        ValueError: If not, naming the argument.
    """
    check_state(layout, state)
    if isinstance(n_ticks, bool) or not isinstance(n_ticks, (int, np.integer)) or n_ticks < 0:
        raise ValueError(f"n_ticks must be an integer >= 0, got {n_ticks!r}")
    if inputs is not None:
        inputs = _int32("inputs", inputs, (n_ticks, len(state), program.n_inputs))
    if bias is not None:
        bias = _int32("bias", bias, (len(state), program.compartments.n))
    return inputs, bias


def _int32(name: str, values: npt.ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    array = whole_numbers(name, values)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if array.dtype != np.int32 and array.size and max(-int(array.min()) - 1, int(array.max())) >= 2**31:
        raise ValueError(f"{name} must hold integers of 32 bits, found {array.min()} to {array.max()}")
    return np.require(array, np.int32, ["C", "W"])


def whole_numbers(name: str, values: npt.ArrayLike) -> np.ndarray:
    """Return values as an array of integers, or raise ``ValueError`` naming them."""
    array = np.asarray(values)
    if array.dtype.kind not in "iub":
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    return array


def resting_state(program: Program, n_envs: int, rng: np.random.Generator | None) -> np.ndarray:
    """Return the resting state of ``n_envs`` chips, shape (n_envs, W); noise takes its seeds from ``rng``.

    Raises:
        ValueError: If the program uses noise and no generator is given, or ``n_envs`` is no number of chips.
    """
    if isinstance(n_envs, bool) or not isinstance(n_envs, (int, np.integer)) or n_envs < 0:
        raise ValueError(f"n_envs must be an integer >= 0, got {n_envs!r}")
    state = np.zeros((n_envs, layout_of(program).width), np.int32)
    if np.any(program.compartments.noise):
        if rng is None:
            raise ValueError("the program has noise: give a numpy Generator as rng")
        state[:, 1:3] = rng.integers(-(2**31), 2**31, (n_envs, 2))
    return state
