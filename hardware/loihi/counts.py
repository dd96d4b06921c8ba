"""What an emulator tells of a run: variables tick by tick, and how often what has happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Recording(NamedTuple):
    """Variables after each tick, each int32 of shape (n_ticks, B, C); ``z`` is 1 where a compartment spiked."""

    u: np.ndarray
    v: np.ndarray
    a: np.ndarray
    r: np.ndarray
    z: np.ndarray


@dataclass(frozen=True, eq=False)
class Counts:
    """What happened since the counts were reset, summed over ticks and copies of the chip.

    Args:
        n_ticks: Ticks, of all copies.
        spikes: Per compartment, shape (C,).
        input_spikes: Per input line, shape (n_inputs,).
        synaptic_ops: Weights added, those of input spikes included.
        updates: Compartment updates with something to do: v, bias or input not zero.
        packets: Packets that compartments sent: one for each spike and each list of synapses that it reaches.
        input_packets: The same of input lines.
        hops_x: Tiles crossed east or west by packets from compartments.
        hops_y: North or south.
        overflows: How often each kind of value left its range: ``input``, ``u``, ``v input`` (wrapped), ``v above``,
            ``v below`` and ``adaptation`` (saturated).
        learned: Synapses of each projection that learning computed: those for which a product of the rule could be
            other than zero. Empty where no projection has a rule.
    """

    n_ticks: int
    spikes: np.ndarray
    input_spikes: np.ndarray
    synaptic_ops: int
    updates: int
    packets: int
    input_packets: int
    hops_x: int
    hops_y: int
    overflows: Mapping[str, int]
    learned: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


class Work(NamedTuple):
    """Scratch arrays of one run at a time, and the sums of all runs that used them."""

    scratch: np.ndarray  # (3 + T, C) for learning epochs of at most T ticks
    sources: np.ndarray  # (1 + T, 2, n_inputs + C + 2), for each round of sending: sources, number; payloads
    counters: np.ndarray  # (N_COUNTERS,)
    spikes: np.ndarray  # (n_inputs + C,)
