"""Writes and compiles the learning kernel of one rule: Python source with the rule's products in the inner loop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from spikeloop.hardware.learning import kernels
from spikeloop.hardware.learning.kernels import WIDE_STREAM
from spikeloop.hardware.learning.rule import SYNAPSE_VARIABLES, Grid, LearningRule, Rounding, grids, rounding
from spikeloop.hardware.learning.rule_text import Factor, Product
from spikeloop.spiking.compiling import kernel


def source_of(rule: LearningRule, sign_mode: str, bits: int, given: bool) -> str:
    """Return the source of a rule's kernel, which time constants and impulses do not enter.

    Args:
        rule: The rule.
        sign_mode: Sign mode of the weights.
        bits: Weight bits.
        given: Whether random draws are handed in rather than drawn inside.
    """
    source = _Writer(rule, grids(rule, sign_mode, bits), given).source()
    name = f"learn_{hashlib.sha256(source.encode()).hexdigest()[:16]}"  # numba's cache knows functions by their names
    return source.replace("def learn(", f"def {name}(")


@lru_cache(maxsize=256)
def compiled(source: str) -> Callable:
    """Return the kernel of a source that :func:`source_of` wrote; the first call compiles or loads it."""
    name = source[len("def ") : source.index("(")]
    names: dict[str, Any] = {
        "np": np,
        "int32": np.int32,
        "int64": np.int64,
        "uint32": np.uint32,
        "__name__": kernels.__name__,
    }
    names |= {key: getattr(kernels, key) for key in dir(kernels) if not key.startswith("_")}
    exec(compile(source, kernels.__file__, "exec"), names)
    return kernel(names[name], allocates=False)


class _Writer:
    """Collects the lines of one rule's kernel."""

    def __init__(self, rule: LearningRule, ranges: dict[str, Grid], given: bool) -> None:
        self.rule, self.ranges, self.given = rule, ranges, given
        self.products = rule.products()
        self.changed = [z for z in SYNAPSE_VARIABLES if any(target == z for target, _ in self.products)]
        self.integer = "int64" if rule.wide_shift or rule.profile == "brian" else "int32"
        self.lines: list[str] = []

    def add(self, depth: int, *lines: str) -> None:
        self.lines += ["    " * depth + line for line in lines]

    def source(self) -> str:
        """Return the source of ``learn``: any number of ticks, spikes as lists with the end of each tick's part."""
        self.add(
            0,
            "def learn(synapses, x, y, hy, rows, scalars, traces, pre, pre_end, post, post_end, rewards, written,",
            "          trace_draws, synapse_draws):",
        )
        self.add(
            1,
            f"n_pre, n_post, T = x.shape[0], y.shape[1], {self.rule.epoch}",
            "first, first_post = 0, 0",
            "rows[2 * n_pre] = 0",  # how many rows the latest tick computed
            "if not (within(pre, n_pre) and within(post, n_post)):",
            "    return False",
            "for tick in range(pre_end.size):",
        )
        self._tick()
        self.add(1, "return True")
        return "\n".join(self.lines) + "\n"

    def _tick(self) -> None:
        lava, brian = self.rule.profile == "lava", self.rule.profile == "brian"
        self.add(
            2,
            "scalars[TICK] += 1",
            "e = (scalars[TICK] - 1) % T + 1",
            "spikes, post_spikes = pre[first : pre_end[tick]], post[first_post : post_end[tick]]",
            "first, first_post = pre_end[tick], post_end[tick]",
        )
        if lava:
            self.add(2, "lava_early_pre(x, traces, spikes)")
            draw = "trace_draws[0, Y_IMPULSE_MID]"
            if not self.given:
                draw = "uniform(phase_key(scalars[SEED], scalars[TICK], EXTRA_STREAM), Y_IMPULSE_MID)"
            self.add(2, f"lava_early_post(y, traces, post_spikes, {draw})")
        self.add(2, "record_pre(x, rows, scalars, spikes, e)")
        if not brian:  # there, spikes of this tick are learned from in the next
            self.add(2, "record_post(y, post_spikes, e)")
        self.add(2, "write_traces(y, written)", "scalars[REWARD] += rewards[tick]")
        if self.rule.epoch > 1:
            self.add(2, "if e < T:", "    continue")
        self._phase()
        self.add(2, "forget_rows(x, rows, scalars)", "y[3, :] = 0")
        if brian:
            self.add(2, "record_post(y, post_spikes, e)")

    def _phase(self) -> None:
        profile = self.rule.profile
        self.add(
            2,
            "key = phase_key(scalars[SEED], scalars[TICK], TRACE_STREAM)",
            "seed = phase_key(scalars[SEED], scalars[TICK], SYNAPSE_STREAM)",
        )
        if profile == "lava":
            draws = "trace_draws"
            if not self.given:
                self.add(2, "for a in range(6):", "    trace_draws[0, a] = uniform(key, a)")
            self.add(2, f"lava_pre(x, rows, scalars, traces, {draws})")
            self.add(2, f"lava_post(y, hy, written.size > 0, traces, {draws})")
            self.add(2, "shared = int32(65536 * trace_draws[0, SYNAPSE])")
        else:
            self.add(2, f"{profile}_pre(x, rows, scalars, traces, key, trace_draws)")
            held = "" if profile == "brian" else "written.size > 0, "
            self.add(2, f"{profile}_post(y, hy, {held}traces, key, trace_draws)")
        if profile != "brian":
            self.add(2, "reward_trace(scalars, traces, key)")
        self.add(2, "r1 = int32(scalars[REWARD_TRACE])")
        now = "(scalars[TICK] - 1)" if profile == "brian" else "scalars[TICK] // T"
        self.add(2, f"u = int32({now} % {1 << self.rule.k} == 0)")
        self._conditions()
        self.add(2, "n_changed = n_pre")
        self.add(2, "for a in range(scalars[N_ROWS]):")
        self.add(3, "i = rows[a]")
        self._row()
        self.add(2, "rows[2 * n_pre] = n_changed - n_pre")

    # --- which rows can change at all

    def _conditions(self) -> None:
        """Write the conditions of a phase under which each product can be other than zero."""
        used = [k for k in range(3) if f"y{k + 1}" in self.rule.variables()]
        self.add(2, "any_y0 = False", *(f"any_y{k + 1} = False" for k in used))
        self.add(2, "for j in range(n_post):")
        if used and self.rule.epoch > 1:
            # nothing reads the traces before the epoch: their place takes those at the spike
            self.add(3, *(f"any_y{k + 1} |= hy[0, {k}, j] != 0" for k in used))
            self.add(3, "if y[3, j] > 0:")
            self.add(4, *(f"hy[0, {k}, j] = hy[y[3, j], {k}, j]" for k in used))
        self.add(3, "any_y0 |= y[3, j] > 0")
        for k in used:
            self.add(3, f"any_y{k + 1} |= hy[T, {k}, j] != 0 or y[3, j] > 0")
        everywhere = [" and ".join(self._phase_needs(p)) for _, p in self.products if not self._row_needs(p)]
        if everywhere:
            self.add(2, f"if {' or '.join(f'({c})' for c in everywhere)}:", "    list_all(x, rows, scalars)")

    def _phase_needs(self, product: Product) -> list[str]:
        needs = {"x0": [], "y0": ["any_y0"], "u": ["u != 0"]}[product.gate]
        for factor in product.factors:
            if factor.constant is None:
                if factor.variable == "r1":
                    needs.append("r1 != 0")
                elif factor.variable[0] == "y":
                    needs.append(f"any_{factor.variable}")
        return needs or ["True"]

    def _row_needs(self, product: Product) -> list[str]:
        needs = ["x[i, TIME] > 0"] if product.gate == "x0" else []
        for factor in product.factors:
            if factor.constant is None:
                if factor.variable == "x0":
                    needs.append("x[i, TIME] > 0")
                elif factor.variable in ("x1", "x2"):
                    k = int(factor.variable[1]) - 1
                    spiked_or_held = f"(x[i, TIME] > 0 or x[i, HISTORY + {k}] != 0)"
                    needs.append(f"{_x(k, '1')} != 0" if self.rule.epoch == 1 else spiked_or_held)
                elif factor.variable == "t":
                    needs.append("x[i, TAGGED] != 0")
        return needs

    # --- one row of synapses

    def _row(self) -> None:
        needs = [(z, " and ".join(self._phase_needs(p) + self._row_needs(p))) for z, p in self.products]
        self.add(3, f"if not ({' or '.join(f'({c})' for _, c in needs)}):", "    continue")
        self.add(3, "scalars[UPDATES] += n_post")
        if stored := [f"({c})" for z, c in needs if z != "t"]:
            self.add(3, f"if {' or '.join(stored)}:", "    rows[n_changed] = i", "    n_changed += 1")
        self.add(3, "tx = x[i, TIME]")
        if "x0" in self.rule.variables():
            self.add(3, "x0 = int32(tx > 0)")
        self._row_traces()
        if "t" in self.changed:
            self.add(3, "tags = int32(0)")
        self.add(3, "base = uint32(i * n_post)")
        self.add(3, "for j in range(n_post):")
        if "y0" in self.rule.variables():
            self.add(4, "y0 = int32(y[3, j] > 0)")
        self._draws()
        for z in self.changed:
            self._accumulate(z)
        for z in self.changed:
            self._store(z)
        if "t" in self.changed:
            self.add(4, "tags = int32(tags | new_t)")  # |= would make it 64 bits, and halve the lanes of the whole loop
            self.add(3, "x[i, TAGGED] = tags != 0")

    def _row_traces(self) -> None:
        """Load the presynaptic traces that are the same for the whole row."""
        used = {(p.gate, f.variable) for _, p in self.products for f in p.factors if f.variable in ("x1", "x2")}
        for gate, variable in sorted(used):
            k = int(variable[1]) - 1
            if gate == "y0" and self._has_two_values:
                self.add(3, f"{variable}_first, {variable}_last = {_x(k, '1')}, {_x(k, 'T')}")
            elif gate != "y0" or self.rule.epoch == 1:
                at = "tx" if gate == "x0" and not self._has_two_values else "T"
                self.add(3, f"{variable}_{gate} = {_x(k, at)}")

    @property
    def _has_two_values(self) -> bool:
        """Whether a trace changes at most once in an epoch, at the spike: choosing by its tick reads no other memory.

        The compiler would not vectorise a loop that reads at an index which it also reads.
        """
        return self.rule.profile == "nengo" and self.rule.epoch > 1

    def _rounding(self, z: str) -> Rounding:
        return rounding(self.rule, z, self.ranges[z])

    def _draws(self) -> None:
        """Write the draw of the random bits that round each changed variable."""
        if self.rule.profile == "brian":
            return
        if self.rule.rounding == "nearest":
            self.add(4, *(f"draw_{z} = int32({(1 << self._rounding(z).draw_bits - 1) - 1})" for z in self.changed))
        elif self.rule.profile == "lava":
            self.add(4, *(f"draw_{z} = shared" for z in self.changed))
        elif self.given:
            self.add(4, *(f"draw_{z} = synapse_draws[{'wtd'.index(z)}, i, j]" for z in self.changed))
        else:
            self.add(4, "bits = mix(uint32(uint32(base + uint32(j)) * uint32(0x9E3779B1)) ^ seed)")
            if "w" in self.changed:
                self.add(4, "draw_w = int32(bits & uint32(0xFFFF))")
                if (more := self._rounding("w").draw_bits - 16) > 0:
                    self.add(4, f"more = int32(mix(bits ^ uint32({WIDE_STREAM})) >> uint32({32 - more}))")
                    self.add(4, f"draw_w = int32(draw_w << int32({more})) | more")
            if "t" in self.changed:
                self.add(4, "draw_t = int32(bits >> uint32(16))")
            if "d" in self.changed:
                self.add(4, "draw_d = int32(mix(bits ^ uint32(EXTRA_STREAM)) >> uint32(16))")

    def _accumulate(self, z: str) -> None:
        kind, keep = self.integer, self._rounding(z)
        fraction = self.rule.fraction
        if self.rule.profile == "brian":
            self.add(4, "acc_w = int64(0)")
        else:
            self.add(4, f"acc_{z} = {kind}({kind}({_synapse(z)}) << {kind}({fraction}))")
            if keep.residue:
                shift = keep.fraction - keep.residue
                self.add(4, f"acc_{z} = {kind}(acc_{z} + {kind}({kind}(synapses[i, 3, j]) << {kind}({shift})))")
        for target, product in self.products:
            if target == z:
                self._product(z, product)

    def _product(self, z: str, product: Product) -> None:
        rule, kind = self.rule, self.integer
        self.add(4, f"# d{z}: {' '.join(product.text.split())}")  # a line of a rule's text must not become one here
        self.add(4, f"p = {kind}({product.mantissa}) * {kind}({product.gate})")
        for factor in product.factors:
            self._factor(product, factor)
        overflow = rule.overflow(product)
        if rule.profile == "lava" and not rule.wide_shift:
            if overflow:
                self.add(4, f"p = {kind}({kind}(p) >> {kind}({overflow}))")
            self._shift(product.exponent + rule.fraction)
            self._clip("p", -32769, 32767)
        else:
            self._shift(product.exponent + rule.fraction - overflow)
        self.add(4, f"acc_{z} = {kind}(acc_{z} + p)")
        if rule.profile != "brian" and not rule.wide_shift:
            low = -32769 if rule.profile == "lava" else -32768
            self._clip(f"acc_{z}", low, 32767)

    def _shift(self, by: int) -> None:
        kind = self.integer
        if by:
            self.add(4, f"p = {kind}({kind}(p) {'<<' if by > 0 else '>>'} {kind}({abs(by)}))")

    def _clip(self, name: str, low: int, high: int) -> None:
        kind = self.integer
        self.add(4, f"{name} = {kind}({low}) if {name} < {kind}({low}) else {name}")
        self.add(4, f"{name} = {kind}({high}) if {name} > {kind}({high}) else {name}")

    def _factor(self, product: Product, factor: Factor) -> None:
        kind = self.integer
        value = self._value(product, factor.variable)
        if factor.constant is not None or factor.sign:
            self.add(4, f"v = {kind}({kind}({value}) + {kind}({factor.constant or 0}))")
            if factor.sign:
                self.add(4, f"v = {kind}(v > {kind}(0)) - {kind}(v < {kind}(0))")
            else:
                limit = 1 << self.rule.width(Product("", "x0", 0, 1, 0, (factor,)))
                self._clip("v", -limit, limit - 1)
            value = "v"
        self.add(4, f"p = {kind}({kind}(p) * {kind}({value}))")

    def _value(self, product: Product, variable: str) -> str:
        if variable in ("x1", "x2"):
            if product.gate == "y0" and self._has_two_values:
                return f"({variable}_last if y[3, j] >= tx else {variable}_first)"
            if product.gate == "y0" and self.rule.epoch > 1:
                return _x(int(variable[1]) - 1, "y[3, j]")
            return f"{variable}_{product.gate}"
        if variable in ("y1", "y2", "y3"):
            time = {"x0": "tx", "y0": "0", "u": "T"}[product.gate]
            return f"hy[{'T' if self.rule.epoch == 1 else time}, {int(variable[1]) - 1}, j]"
        if variable in SYNAPSE_VARIABLES:
            return f"{_synapse(variable)}"
        return variable

    def _store(self, z: str) -> None:
        grid, kind = self.ranges[z], self.integer
        fraction, residue = self._rounding(z)
        scale = grid.step.bit_length() - 1
        if self.rule.profile == "brian":
            self._store_brian(grid)
            return
        bits = fraction - residue
        mask = (1 << bits) - 1
        if bits <= 16:
            up = f"{kind}(draw_{z} >> int32({16 - bits})) < {kind}({{part}} & {kind}({mask}))"
        else:
            up = f"{kind}(draw_{z}) < {kind}({{part}} & {kind}({mask}))"
        if self.rule.profile == "lava":
            rounded = f"{kind}({kind}(acc_{z} >> {kind}({bits})) + {kind}({up.format(part=f'acc_{z}')}))"
            self.add(4, f"value = {rounded}")
        else:  # nengo rounds magnitudes
            self.add(4, f"size = acc_{z} if acc_{z} >= {kind}(0) else {kind}(-acc_{z})")
            self.add(4, f"size = {kind}({kind}(size >> {kind}({bits})) + {kind}({up.format(part='size')}))")
            self.add(4, f"value = size if acc_{z} >= {kind}(0) else {kind}(-size)")
        self._clip("value", (grid.low >> scale) << residue, (grid.high >> scale) << residue)
        if residue:
            self.add(4, f"synapses[i, 3, j] = int32(value & {kind}({(1 << residue) - 1}))")
            self.add(4, f"value = {kind}(value >> {kind}({residue}))")
        self.add(4, f"new_{z} = int32({kind}(value << {kind}({scale})))" if scale else f"new_{z} = int32(value)")
        self.add(4, f"{_synapse(z)} = new_{z}")

    def _store_brian(self, grid: Grid) -> None:
        """Round away from zero to an integer, then towards zero to the grid.

        Brian2Loihi means to round at random there; under Brian2 2.9.0 its draw is folded into a constant, never.
        """
        scale = grid.step.bit_length() - 1
        self.add(4, "size = acc_w if acc_w >= 0 else -acc_w")
        self.add(4, f"size = ((size + 127) >> 7) >> {scale} << {scale}")
        self.add(4, "value = synapses[i, 0, j] + size if acc_w >= 0 else synapses[i, 0, j] - size")
        self._clip("value", grid.low, grid.high)
        self.add(4, "synapses[i, 0, j] = int32(value)")


def _x(k: int, time: str) -> str:
    """Return the source of presynaptic trace ``k`` at a tick of the epoch."""
    return f"x[i, HISTORY + 2 * {time} + {k}]"


def _synapse(z: str) -> str:
    """Return the source of a synaptic variable."""
    return f"synapses[i, {'wtd'.index(z)}, j]"
