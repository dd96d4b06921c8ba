"""The learning engine in plain Python, one value at a time: the definition that the compiled kernels must equal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spikeloop.hardware.learning.kernels import EXTRA_STREAM, SYNAPSE_STREAM, TRACE_STREAM, WIDE_STREAM
from spikeloop.hardware.learning.rule import ARITHMETICS, TRACES, LearningRule, decay_per_epoch, grids
from spikeloop.hardware.learning.rule_text import Factor, Product

if TYPE_CHECKING:
    from spikeloop.hardware.learning.engine import Draws
    from spikeloop.hardware.loihi.projection import LearningState

SHARED_DRAWS = ("x_decay", "x_impulse", "y_decay", "y_impulse", "y_impulse_mid", "synapse")  # Lava's
_MASK = 0xFFFFFFFF


class ReferenceLearner:
    """What :class:`~spikeloop.hardware.learning.engine.Learner` computes, with the same arguments and ``tick``.

    Arrays ``w, t, d, residue`` have shape (n_post, n_pre); ``traces`` holds lists by name. Every synapse is visited in
    every epoch.
    """

    def __init__(
        self,
        rule: LearningRule,
        weights: npt.ArrayLike,
        tags: npt.ArrayLike | None = None,
        delays: npt.ArrayLike | None = None,
        sign_mode: str = "mixed",
        bits: int = 8,
        seed: int = 0,
        draws: Draws | None = None,
    ) -> None:
        self.rule, self.seed, self.draws, self.grids = rule, seed, draws, grids(rule, sign_mode, bits)
        self.w = np.array(weights, np.int64)
        self.n_post, self.n_pre = self.w.shape
        self.t, self.d = (np.zeros_like(self.w) if v is None else np.array(v, np.int64) for v in (tags, delays))
        self.residue = np.zeros_like(self.w)
        self.traces = {name: [0] * (self.n_pre if name[0] == "x" else self.n_post) for name in TRACES}
        self.times: dict[str, list[int]] = {"x": [0] * self.n_pre, "y": [0] * self.n_post}
        self.r1 = self.reward = self.ticks = 0

    def tick(
        self, pre: Iterable[int], post: Iterable[int], reward: int = 0, post_traces: np.ndarray | None = None
    ) -> None:
        """Run one tick; see :meth:`Learner.tick`."""
        rule = self.rule
        self.ticks += 1
        e = (self.ticks - 1) % rule.epoch + 1
        post = list(post)
        for i in pre:
            self.spike("x", i, e)
        if rule.profile != "brian":
            for j in post:
                self.spike("y", j, e)
        if post_traces is not None:
            for name, values in zip(("y1", "y2", "y3"), post_traces, strict=True):
                self.traces[name] = [int(v) for v in values]
        self.reward += reward
        if e == rule.epoch:
            self.learn(held=post_traces is not None)
            self.times = {"x": [0] * self.n_pre, "y": [0] * self.n_post}
        if rule.profile == "brian":
            for j in post:
                self.times["y"][j] = 1  # acts on the next tick

    def resume(self, state: LearningState) -> None:
        """Go on from where another engine stood."""
        self.residue = np.array(state.residue, np.int64)
        values = {"x1": state.x[:, 0], "x2": state.x[:, 1], **dict(zip(("y1", "y2", "y3"), state.y[:3], strict=True))}
        self.traces = {name: trace.tolist() for name, trace in values.items()}
        self.times = {"x": state.x[:, 2].tolist(), "y": state.y[3].tolist()}
        self.ticks, self.r1, self.reward = state.ticks, state.r1, state.reward

    def spike(self, side: str, n: int, e: int) -> None:
        """Note a spike; in Lava an earlier one of the same epoch now gets its impulse."""
        if self.rule.profile == "lava" and self.times[side][n]:
            draw = self.shared_draw("y_impulse_mid") if side == "y" else 0.0
            for name in [name for name in TRACES if name[0] == side]:
                impulse = getattr(self.rule, name).impulse
                whole = math.ceil(impulse) if side == "x" else int(impulse) + (draw < lava_fraction(impulse))
                self.traces[name][n] = min(127, self.traces[name][n] + whole)
        self.times[side][n] = e

    def shared_draw(self, name: str) -> float:
        """Return the draw that Lava uses for all neurons or synapses."""
        if self.draws is not None:
            return float(np.asarray(self.draws(name, ())))
        return uniform(self.key(EXTRA_STREAM if name == "y_impulse_mid" else TRACE_STREAM), SHARED_DRAWS.index(name))

    def trace_draws(self, name: str, impulse: float) -> list[float]:
        """Return one draw per neuron for the decay of a trace."""
        n = len(self.traces[name])
        if self.draws is not None:
            return np.asarray(self.draws(name, (n,))).tolist() if impulse else [0.0] * n
        return [uniform(self.key(TRACE_STREAM), (TRACES.index(name) << 24) + neuron) for neuron in range(n)]

    def key(self, stream: int) -> int:
        """Return the key of this tick's random stream."""
        low = mix(self.seed & _MASK ^ stream)
        return mix(self.ticks & _MASK ^ mix(self.seed >> 32 & _MASK ^ low))

    # --- learning phase

    def learn(self, held: bool) -> None:
        """End an epoch: traces, rewards, then all synapses from the values before."""
        history = {name: self.histories(name, held and name[0] == "y") for name in TRACES}
        if self.rule.profile != "brian":
            self.update_reward()
        if self.draws is not None and self.rule.profile != "lava":
            self.given = {z: self.draws(z, (self.n_pre, self.n_post)) for z in self.rule.changed_at(self.ticks)}
        new = {z: getattr(self, z).copy() for z in "wtd"}
        residue = self.residue.copy()
        for j in range(self.n_post):
            for i in range(self.n_pre):
                for z in self.rule.changed_at(self.ticks):
                    new[z][j, i], extra = self.stored(z, self.accumulated(z, i, j, history), i, j)
                    if z == "w":
                        residue[j, i] = extra
        self.w, self.t, self.d, self.residue = new["w"], new["t"], new["d"], residue

    def histories(self, name: str, held: bool) -> list[list[int]]:
        """Advance a trace by an epoch; return its values at ticks 0 (before) to T of the epoch, per neuron."""
        rule, values, out = self.rule, self.traces[name], []
        impulse, decay = getattr(rule, name).impulse, decay_per_epoch(getattr(rule, name), rule)
        if rule.profile == "lava":
            draws = [self.shared_draw(f"{name[0]}_decay"), self.shared_draw(f"{name[0]}_impulse")]
            if held:
                impulse, decay = 0.0, math.exp(-1 / 65535)
        else:
            draws = self.trace_draws(name, impulse)
        for n, value in enumerate(values):
            time = self.times[name[0]][n]
            if rule.profile == "lava":
                trail = lava_trace(value, impulse, decay, time, rule.epoch, draws)
            elif held:
                trail = [value] * (rule.epoch + 1)
            elif rule.profile == "nengo":
                draw = draws[n]
                without = round_magnitude(decay * value, draw)
                after = min(127, round_magnitude(decay * value + impulse, draw)) if time else without
                trail = [value, *(after if 0 < time <= e else without for e in range(1, rule.epoch + 1))]
            else:
                seen = min(127, value + int(impulse)) if time else value
                chance = value * decay - math.floor(value * decay)
                kept = math.floor(seen * float(f"{decay:.15g}")) + (draws[n] < chance)
                trail = [value, seen, kept]
            out.append(trail)
            if not held:
                values[n] = trail[-1]
        return out

    def update_reward(self) -> None:
        """Decay r1 by an epoch and add the rewards of the epoch."""
        trace, key = self.rule.r1, self.key(TRACE_STREAM)
        decay = decay_per_epoch(trace, self.rule) ** (self.rule.epoch if self.rule.profile == "lava" else 1)
        r1 = round_magnitude(decay * self.r1, uniform(key, 0x5000000))
        r1 += round_magnitude(trace.impulse * self.reward, uniform(key, 0x5000001))
        self.r1, self.reward = max(-128, min(127, r1)), 0

    def accumulated(self, z: str, i: int, j: int, history: dict[str, list[list[int]]]) -> int:
        """Return the accumulator of one synaptic variable after all its products."""
        rule, grid = self.rule, self.grids[z]
        fraction = rule.fraction
        acc = 0 if rule.profile == "brian" else int(getattr(self, z)[j, i]) << fraction
        if z == "w" and rule.residue_bits:
            acc += int(self.residue[j, i]) * grid.step << fraction >> rule.residue_bits
        for target, product in rule.products():
            if target == z:
                acc = add(rule, acc, self.product(product, i, j, history), product)
        return acc

    def product(self, product: Product, i: int, j: int, history: dict[str, list[list[int]]]) -> int:
        """Return mantissa times gate times factors."""
        times = {
            "x0": self.times["x"][i],
            "y0": self.times["y"][j],
            "u": self.rule.epoch * self.rule.evaluates_u(self.ticks),
        }
        time = times[product.gate]
        if not time:
            return 0
        result = product.mantissa
        for factor in product.factors:
            variable = factor.variable
            if variable in ("x0", "y0"):
                value = int(times[variable] > 0)
            elif variable == "r1":
                value = self.r1
            elif variable in "wtd":
                value = int(getattr(self, variable)[j, i])
            else:
                value = history[variable][i if variable[0] == "x" else j][time]
            result *= factor_value(self.rule, factor, value)
        return result

    def stored(self, z: str, acc: int, i: int, j: int) -> tuple[int, int]:
        """Return the stored value, and the residue, that an accumulator rounds to."""
        rule, grid = self.rule, self.grids[z]
        if rule.profile == "brian":  # away from zero to an integer, then towards zero to the grid
            size = -(-abs(acc) // 128) // grid.step * grid.step
            return min(grid.high, max(grid.low, int(self.w[j, i]) + (size if acc >= 0 else -size))), 0
        extra = rule.residue_bits if z == "w" else 0
        bits = rule.fraction + grid.step.bit_length() - 1 - extra
        draw = self.draw(z, i, j, max(bits, 16))
        if rule.profile == "lava":
            value = (acc >> bits) + rounds_up(acc % 2**bits, bits, draw)
        else:
            size = (abs(acc) >> bits) + rounds_up(abs(acc) % 2**bits, bits, draw)
            value = size if acc >= 0 else -size
        low, high = (limit // grid.step << extra for limit in (grid.low, grid.high))
        value = max(low, min(high, value))
        return (value >> extra) * grid.step, value % 2**extra

    def draw(self, z: str, i: int, j: int, n_bits: int) -> int:
        """Return the draw of one variable of one synapse, of 16 bits or more."""
        if self.rule.rounding == "nearest":
            return 2 ** (n_bits - 1) - 1
        if self.rule.profile == "lava":
            return int(65536 * self.shared_draw("synapse"))
        if self.draws is not None:
            return int(2**n_bits * np.asarray(self.given[z])[i, j])
        bits = mix((i * self.n_post + j) * 0x9E3779B1 & _MASK ^ self.key(SYNAPSE_STREAM))
        draw = {"w": bits & 0xFFFF, "t": bits >> 16, "d": mix(bits ^ EXTRA_STREAM) >> 16}[z]
        return draw << n_bits - 16 | mix(bits ^ WIDE_STREAM) >> 48 - n_bits


def add(rule: LearningRule, acc: int, product: int, terms: Product) -> int:
    """Add a product to an accumulator as the profile does: scaled down, shifted, clipped."""
    fraction, overflow = rule.fraction, rule.overflow(terms)
    if rule.wide_shift or rule.profile == "brian":
        return acc + (product << terms.exponent + fraction)
    if rule.profile == "lava":
        product = (product >> overflow) << terms.exponent + fraction
        return clip(acc + clip(product, -32769, 32767), -32769, 32767)
    shift = terms.exponent + fraction - overflow
    return clip(acc + (product << shift if shift >= 0 else product >> -shift), -32768, 32767)


def factor_value(rule: LearningRule, factor: Factor, value: int) -> int:
    """Return (V + C), clipped to the variable's width, or its sign."""
    if factor.sign:
        value += factor.constant or 0
        return (value > 0) - (value < 0)
    if factor.constant is None:
        return value
    wide = ARITHMETICS[rule.profile].synapse_bits if factor.variable in "wtd" else 7
    width = 1 if factor.variable in ("x0", "y0") else wide
    return clip(value + factor.constant, -(2**width), 2**width - 1)


def lava_trace(value: int, impulse: float, decay: float, time: int, epoch: int, draws: list[float]) -> list[int]:
    """Return a trace at ticks 0 to ``epoch``: per tick a decay, then the impulse of the epoch's last spike."""
    trail = [value]
    for e in range(1, epoch + 1):
        decayed = decay * trail[-1]
        value = math.floor(decayed) + (draws[0] < decayed - math.floor(decayed))
        if e == time:
            value = clip(value + int(impulse) + (draws[1] < lava_fraction(impulse)), 0, 127)
        trail.append(value)
    return trail


def lava_fraction(impulse: float) -> float:
    """Return the fraction of an impulse in 1/256, as Lava compares it with draws of 1/128."""
    return round(256 * (impulse - int(impulse))) / 128


def round_magnitude(value: float, draw: float) -> int:
    """Round away from zero if the fraction exceeds the draw, else towards zero."""
    whole = math.floor(abs(value))
    return int(math.copysign(whole + (draw < abs(value) - whole), value))


def rounds_up(part: int, bits: int, draw: int) -> bool:
    """Return whether a fraction ``part / 2^bits`` exceeds a draw of 16 bits, or of ``bits`` where those are more."""
    return draw >> max(16 - bits, 0) < part


def clip(value: int, low: int, high: int) -> int:
    """Return ``value`` limited to ``low..high``."""
    return max(low, min(high, value))


def mix(x: int) -> int:
    """Return 32 well-mixed bits of 32."""
    x = (x ^ x >> 16) * 0x7FEB352D & _MASK
    x = (x ^ x >> 15) * 0x846CA68B & _MASK
    return x ^ x >> 16


def uniform(key: int, index: int) -> float:
    """Return draw number ``index`` of a stream, in [0, 1)."""
    return mix(index * 0x9E3779B1 & _MASK ^ key) * 2.0**-32
