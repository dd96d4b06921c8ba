"""Places compartments on cores: in order, each core filled until one of its limits binds."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from spikeloop.hardware.loihi.chip import Chip
from spikeloop.hardware.loihi.program import Program
from spikeloop.hardware.loihi.resources import check_limits, list_words, longest_delay, use


class _Load(NamedTuple):
    """What some compartments take of a core."""

    compartments: int = 0
    input_axons: int = 0
    memory_words: int = 0
    profiles: frozenset[int] = frozenset()
    thresholds: frozenset[int] = frozenset()
    formats: frozenset[tuple] = frozenset()

    def excess(self, chip: Chip) -> str:
        """Return the first limit of a core that this exceeds, with the need; empty if it fits."""
        limits = {
            "compartments": (self.compartments, chip.compartments),
            "input axons": (self.input_axons, chip.input_axons),
            "64-bit words of synaptic memory": (self.memory_words, chip.memory_words),
            "compartment profiles": (len(self.profiles), chip.compartment_profiles),
            "thresholds": (len(self.thresholds), chip.threshold_profiles),
            "synapse formats": (len(self.formats), chip.synapse_formats),
        }
        for name, (need, most) in limits.items():
            if most is not None and need > most:
                return f"a core has {most} {name}, {need} are needed"
        return ""


def _sum(a: _Load, b: _Load) -> _Load:
    """Return what two sets of compartments take together, whose projections differ."""
    return _Load(
        a.compartments + b.compartments,
        a.input_axons + b.input_axons,
        a.memory_words + b.memory_words,
        a.profiles | b.profiles,
        a.thresholds | b.thresholds,
        a.formats | b.formats,
    )


def place(program: Program, limits: bool = True) -> Program:
    """Return the program with its compartments on cores; a compartment stays with its children.

    Args:
        program: The program; the cores it names are ignored.
        limits: Whether to refuse what needs more cores than the chip has. A core's own limits always hold.

    Raises:
        ValueError: If one neuron alone, or the whole network, does not fit; names limit, need and group.
    """
    trees, most = _Trees(program), dict[str, int]()
    while True:
        core = _filled(trees, most)
        placed = replace(program, compartments=replace(program.compartments, core=core))
        if not limits:
            return placed
        if core.max(initial=0) >= program.chip_spec.cores:
            raise ValueError(
                f"{program.chip} has {program.chip_spec.cores} cores, the network needs {core.max() + 1}; "
                f"the first that does not fit is {placed.group_of(int(np.argmax(core >= program.chip_spec.cores)))}"
            )
        fewer = _fewer_on_a_core(placed, most)
        if fewer == most:
            check_limits(placed)
            return placed
        most = fewer


def _filled(trees: _Trees, most: dict[str, int]) -> np.ndarray:
    """Return the core of each compartment, with at most so many trees of a group on one, where ``most`` names it."""
    program = trees.program
    core = np.zeros(program.compartments.n, np.int32)
    current, load = 0, _Load()
    for name, start, stop in program.groups:
        roots = start + np.flatnonzero(program.compartments.parent[start:stop] < 0)
        while roots.size:
            n, empty = trees.how_many_fit(roots[: most.get(name)], load), load == _Load()
            if n == 0 and empty:
                why = trees.load(roots[:1]).excess(program.chip_spec)
                raise ValueError(f"one neuron of {name!r} does not fit {program.chip}: {why}")
            if empty:  # the same share for each of the cores that the rest will take
                n = -(-roots.size // -(-roots.size // n))
            if n:
                core[trees.members(roots[:n])] = current
                load = _sum(load, trees.load(roots[:n]))
                roots = roots[n:]
            if roots.size:
                current, load = current + 1, _Load()
    return core


def _fewer_on_a_core(program: Program, most: dict[str, int]) -> dict[str, int]:
    """Return how many trees of a group a core may hold so that its output axons suffice; ``most`` where they do.

    How many a compartment needs is known when all its targets have their cores: one for each core that it reaches.
    """
    fewer, chip, core = dict(most), program.chip_spec, program.compartments.core
    for one in use(program):
        if chip.output_axons is None or one.output_axons <= chip.output_axons:
            continue
        for name, start, stop in program.groups:
            here = int(np.count_nonzero((core[start:stop] == one.core) & (program.compartments.parent[start:stop] < 0)))
            if here > 1:
                fewer[name] = min(fewer.get(name, here), max(1, here * chip.output_axons // one.output_axons))
    return fewer


class _Trees:
    """The compartments of a program by the root of their tree."""

    def __init__(self, program: Program):
        c = program.compartments
        self.program = program
        self._root = np.arange(c.n)
        for i in range(c.n - 1, -1, -1):  # parents stand after their children
            if c.parent[i] >= 0:
                self._root[i] = self._root[c.parent[i]]
        is_parent = np.isin(np.arange(c.n), c.parent)
        settings = np.stack([c.decay_u, c.decay_v, c.refractory, c.parent >= 0, is_parent, c.fires, c.noise], axis=1)
        self._profile = np.unique(settings, axis=0, return_inverse=True)[1].reshape(-1)
        self._synapses = [p.synapses for p in program.projections]

    def members(self, roots: np.ndarray) -> np.ndarray:
        """Return which compartments belong to the trees of these roots, bool (C,)."""
        return np.isin(self._root, roots)

    def load(self, roots: np.ndarray) -> _Load:
        """Return what the trees of these roots take."""
        here, c = self.members(roots), self.program.compartments
        axons = words = 0
        formats = set()
        for p, synapses in zip(self.program.projections, self._synapses, strict=True):
            rows = here[p.post]
            if rows.any():
                lists = synapses[rows].sum(axis=0)
                delay = longest_delay(self.program, p, rows)
                axons += (1 + p.plastic) * int(np.count_nonzero(lists))
                words += list_words(p, lists, int(rows.sum()), delay)
                formats.add((p.bits, p.sign_mode, p.exponent, delay.bit_length(), p.plastic))
        n = int(here.sum())
        return _Load(
            n,
            axons,
            words + n * self.program.chip_spec.state_words,
            frozenset(self._profile[here].tolist()),
            frozenset(c.v_th[here & (c.fires > 0)].tolist()),
            frozenset(formats),
        )

    def how_many_fit(self, roots: np.ndarray, load: _Load) -> int:
        """Return how many of the roots, from the first on, fit a core that holds a load already."""

        def fits(n: int) -> bool:
            return not _sum(load, self.load(roots[:n])).excess(self.program.chip_spec)

        if fits(roots.size):
            return roots.size
        low, high = 0, roots.size  # low fits, high does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low
