"""The chip's learning engine: microseconds per learning epoch, with a reward-modulated rule and tags.

Dense: 256 -> 256 synapses, 5 % of the neurons spike on a tick. Event-driven: 6000 inputs of which 8 spike -> 3 neurons,
the actor of a tile-coded task; "tiles" keeps most inputs from one tick to the next as a task does, "random" none. Every
tick ends an epoch and every epoch evaluates the whole rule. "tick" is one call per tick from Python, "run" one call for
all, its spikes given as a dense array; "every input" is "tick" of the same rule with a product that none escapes.

In the emulator's loop: a program whose 256 -> 256 synapses learn by the dense rule, the spikes of its targets sent by
the host; what the same program takes frozen, and what the same learning epochs take outside of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from spikeloop.hardware import Learner, LearningRule, Trace
from spikeloop.scripts.bench.tables import print_times
from spikeloop.scripts.bench.timing import Case, Contenders, alternate, ratio

N_TICKS = 500
DENSE = LearningRule(
    dw="2^-6*u0*r1*t",
    dt="2^-2*x1*y0 - 2^-2*y1*x0 - 2^-3*u0*t",
    x1=Trace(64, 10),
    y1=Trace(64, 10),
)
ACTOR = LearningRule(
    dw="2^-6*u0*r1*t",
    dt="-7*2^-6*u0*t - 2^-4*u0*x1*y1 + 2^-4*u0*x1*y2",
    x1=Trace(127, 0),
    y1=Trace(50, 2),
    y2=Trace(127, 0),
)
TOGETHER, ALONE, FROZEN = "program that learns", "learning epochs alone", "the same program, frozen"
EVERY_INPUT = " + 0*u0*w"  # asks for no trace and no tag, so that no input can be left out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark learning``."""
    parser.add_argument("--blocks", type=int, default=15, help="blocks per contender (default 15)")
    parser.add_argument("--seconds", type=float, default=0.1, help="per contender and block (default 0.1)")


def run(args: argparse.Namespace) -> None:
    """Print a table for each kind of activity."""
    for title, rule, pre, post in _activities():
        learner, contenders = _ours(rule, pre, post)
        times = alternate(contenders, args.blocks, args.seconds)
        print(f"\n{title}: {learner.active_rows} of {pre.shape[1]} inputs hold a trace or a tag at the end")
        print_times({name: values / N_TICKS for name, values in times.items()}, "tick", 1e-6, "us/epoch")
        print(f"{N_TICKS / np.median(times['tick']):.0f} epochs/s, best block {N_TICKS / times['tick'].min():.0f}")
    for delayed in (False, True):
        times = alternate(_in_a_program(delayed), args.blocks, args.seconds)
        print(f"\n256 -> 256 in the emulator's loop, 5 % spikes, {'delays 0 to 3' if delayed else 'no delays'}")
        print_times({name: values / N_TICKS for name, values in times.items()}, TOGETHER, 1e-6, "us/tick")
        apart = times[ALONE] + times[FROZEN]
        print(
            f"run and learning epoch together: {ratio(times[TOGETHER], to=apart):.2f} x the time that both take apart"
        )


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Yield what is compared with another source tree."""
    for title, rule, pre, post in _activities():
        yield Case(title, _ours(rule, pre, post)[1], args.seconds, "us/epoch", N_TICKS * 1e-6)


def _activities() -> Iterator[tuple[str, LearningRule, np.ndarray, np.ndarray]]:
    """Yield the title, rule and spikes (N_TICKS, n) before and after the synapses, of each table."""
    rng = np.random.default_rng(0)
    dense = rng.random((N_TICKS, 256)) < 0.05, rng.random((N_TICKS, 256)) < 0.05
    yield "256 -> 256, 5 % spikes", DENSE, *dense
    winners = np.eye(3, dtype=bool)[rng.integers(0, 3, N_TICKS)]
    for name, stay in (("tiles", 0.8), ("random", 0.0)):
        yield f"6000 -> 3, 8 spikes, {name}", ACTOR, _tiles(rng, 6000, 8, stay), winners


def _tiles(rng: np.random.Generator, n: int, n_active: int, stay: float) -> np.ndarray:
    """Return spikes (N_TICKS, n): of each of ``n_active`` groups one input, which stays with a probability."""
    size, spikes = n // n_active, np.zeros((N_TICKS, n), bool)
    active = rng.integers(0, size, n_active)
    for t in range(N_TICKS):
        active = np.where(rng.random(n_active) < stay, active, rng.integers(0, size, n_active))
        spikes[t, np.arange(n_active) * size + active] = True
    return spikes


def _ours(rule: LearningRule, pre: np.ndarray, post: np.ndarray) -> tuple[Learner, Contenders]:
    """Return the learner that is called tick by tick, and the contenders."""
    rewards = np.random.default_rng(1).integers(-20, 21, N_TICKS)
    every = LearningRule(dw=rule.dw + EVERY_INPUT, dt=rule.dt, x1=rule.x1, y1=rule.y1, y2=rule.y2)
    zeros = np.zeros((post.shape[1], pre.shape[1]), int)
    learner, of_every, by_run = Learner(rule, zeros), Learner(every, zeros), Learner(rule, zeros)
    events = [[np.flatnonzero(spikes).astype(np.int32) for spikes in train] for train in (pre, post)]
    arguments = list(zip(*events, rewards.tolist(), strict=True))

    def ticks(of: Learner) -> None:
        for each in arguments:
            of.tick(*each)

    return learner, {
        "tick": lambda: ticks(learner),
        "run": lambda: by_run.run(pre, post, rewards),
        "tick, every input": lambda: ticks(of_every),
    }


def _in_a_program(delayed: bool) -> Contenders:
    """Return a program that learns on each tick, the same without learning, and its learning epochs without it."""
    from spikeloop.hardware import Compartments, Emulator, Learning, Program, Projection  # older trees have no Learning

    rng, n = np.random.default_rng(0), 256
    pre, post = rng.random((N_TICKS, n)) < 0.05, rng.random((N_TICKS, n)) < 0.05
    rewards = rng.integers(-20, 21, N_TICKS)
    delays = rng.integers(0, 4, (n, n)) if delayed else None
    synapses = Projection("w", True, range(n), range(n), np.zeros((n, n)), delays=delays, learning=Learning(DENSE))
    targets = Compartments.build(n, decay_v=4096, fires=0)
    emulator = Emulator(Program("loihi1", "nengo", n, targets, (synapses,), []))
    learner, state, lines = Learner(DENSE, np.zeros((n, n), int)), emulator.initial_state(), pre[:, None].astype(int)
    return {
        TOGETHER: lambda: emulator.run(state, N_TICKS, lines, rewards=rewards, post_spikes=post),
        FROZEN: lambda: emulator.run(state, N_TICKS, lines, learning=False),
        ALONE: lambda: learner.run(pre, post, rewards),
    }
