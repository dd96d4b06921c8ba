"""Small programs that learn, and what they are given while they run."""

from dataclasses import replace

import numpy as np

from spikeloop.hardware import Compartments, Learning, LearningRule, Program, Projection, Trace
from spikeloop.hardware.loihi.program import LEARNING_PROFILES

N = 6  # compartments, and input lines


def signals(rng, program, n_ticks):
    """Return random arguments of ``run``: inputs, rewards, and sometimes what the host sends of the neurons."""
    x = (rng.random((n_ticks, 1, N)) < 0.4).astype(np.int32)
    if program.chip_spec.graded_spikes:
        x *= rng.integers(-3, 4, x.shape, dtype=np.int32)
    given = {"inputs": x, "rewards": rng.integers(-50, 50, n_ticks)}
    if rng.random() < 0.5:
        given["post_spikes"] = rng.random((n_ticks, N)) < 0.2
    if rng.random() < 0.3 and program.profile != "brian":
        given["post_traces"] = rng.integers(-128, 128, (n_ticks, 3, N))
    return given


def learning_program(profile="nengo", delays=None, n=N, **rule):
    """Input lines to neurons, and neurons to neurons, both learning; the second has delays that learn, if asked to."""
    chip = "loihi2" if profile == "slayer" else "loihi1"
    texts = {"dw": "2^-2*x1*y0 - 2^-2*y1*x0", **rule}
    traces = {"x1": Trace(30, 10), "y1": Trace(30, 10)}
    one = LearningRule(**texts, **traces, profile=LEARNING_PROFILES[profile])
    other = one if profile == "brian" else replace(one, dt="x1*y0 - 2^-2*u0*t", dw="2^-3*u0*r1*t", epoch=2)
    rng = np.random.default_rng(1)
    weights = rng.integers(-40, 50, (n, n)) * 2
    parts = (
        Projection("in", True, np.arange(n), np.arange(n), weights, delays=delays, learning=Learning(one, 5)),
        Projection("rec", False, np.arange(n), rng.permutation(n), weights[::-1], -1, learning=Learning(other, 6)),
        Projection("stays", False, np.arange(n), np.arange(n), weights // 4 * 2),
    )
    compartments = Compartments.build(n, decay_v=1000, decay_u=3000, v_th=64 * 200)
    return Program(chip, profile, n, compartments, parts, np.arange(n))


def synapses(rule=None, seed=0, tags=None, **fields):
    """Return two input lines to one compartment, which learn."""
    rule = LearningRule(dw="x0") if rule is None else rule
    base = {"name": "w", "from_input": True, "pre": [0, 1], "post": [0], "weights": [[2, -4]]}
    return Projection(**{**base, **fields}, learning=Learning(rule, seed, tags))
