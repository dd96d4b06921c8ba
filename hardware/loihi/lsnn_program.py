"""The program of an LSNN that learns on the chip: its numbers, compartments and synapses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spikeloop.hardware.learning.three_factor_lsnn import hidden_rule, readout_rule
from spikeloop.hardware.loihi.chip import PROFILES
from spikeloop.hardware.loihi.placement import place
from spikeloop.hardware.loihi.program import Compartments, Learning, Program, Projection
from spikeloop.spiking.decay import decay
from spikeloop.spiking.rules.reward_eprop import RewardEprop, is_number

LARGEST, _STEP = 254, 2  # of weights of 8 bits with a sign
PSEUDO_DERIVATIVES = ("spikes", "membrane")
_COARSEST = 8  # least threshold, in units of the stored weight


@dataclass(frozen=True)
class ChipLsnnParameters:
    """Numbers of the network.

    Args:
        n_neurons: LSNN neurons N; with their lines 128 at most, or their share where a weight is several synapses.
        n_ticks: Ticks per env step, a power of 2 from 4 to 64; the host reads the outputs before the last.
        tau_m: Membrane time constant in ticks.
        tau_a: Time constant of adaptation and of the slow trace x2 in ticks.
        beta: What a spike adds to the adaptation, in units of the threshold; 0: no neuron adapts.
        tau_out: Time constant of the outputs and of the fast traces x1 and y1 in ticks.
        w_max: Largest input weight, stored as 254 in each of its synapses, in units of the threshold.
        w_out_max: Largest readout weight; a weight is the logit of a neuron that spikes on every tick.
        w_in_scale: Standard deviation of a number's weights at first, times sqrt(n_obs), in units of the threshold.
        bias_scale: Neurons' weights from the line that spikes on every tick are at first uniform from 0 to this.
        slow: Whether the slow trace is part of the hidden rule.
        pseudo_derivative: What stands for e-prop's pseudo-derivative: ``spikes``, each neuron's own trace y1; or
            ``membrane``, a function of its v, which the host reads when it reads the outputs.
        n_copies: Synapses that each weight is the sum of, which learn alike: rounding at random, which they do apart,
            makes them noisy, and the noise of their mean is the less the more they are.
        residue: Whether each weight has a second synapse with four more bits; no Loihi has.

    Raises:
        ValueError: If a number is out of range.

    >>> ChipLsnnParameters(n_ticks=3)
    Traceback (most recent call last):
    ...
    ValueError: n_ticks must be one of (4, 8, 16, 32, 64), got 3
    """

    n_neurons: int = 16
    n_ticks: int = 4
    tau_m: float = 2.0
    tau_a: float = 20.0
    beta: float = 0.4
    tau_out: float = 2.0
    w_max: float = 2.0
    w_out_max: float = 6.0
    w_in_scale: float = 2.0
    bias_scale: float = 0.5
    slow: bool = True
    pseudo_derivative: str = "spikes"
    n_copies: int = 1
    residue: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.n_ticks not in (4, 8, 16, 32, 64):
            raise ValueError(f"n_ticks must be one of (4, 8, 16, 32, 64), got {self.n_ticks!r}")
        for name, least, most in (("n_neurons", 1, 256), ("n_copies", 1, 16)):
            value = getattr(self, name)
            if not (isinstance(value, int) and least <= value <= most):
                raise ValueError(f"{name} must be a whole number within {least} and {most}, got {value!r}")
        for name in ("tau_m", "tau_a", "tau_out", "w_max", "w_out_max"):
            if not is_number(getattr(self, name)) or not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be a number > 0, got {getattr(self, name)!r}")
        for name in ("beta", "w_in_scale", "bias_scale"):
            if not is_number(getattr(self, name)) or not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be a number >= 0, got {getattr(self, name)!r}")
        if self.pseudo_derivative not in PSEUDO_DERIVATIVES:
            raise ValueError(f"pseudo_derivative must be one of {PSEUDO_DERIVATIVES}, got {self.pseudo_derivative!r}")
        for name in ("slow", "residue"):
            if getattr(self, name) not in (True, False):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")

    @property
    def reads_membranes(self) -> bool:
        """Whether the host reads v of the neurons."""
        return self.pseudo_derivative == "membrane"


def lsnn_program(
    p: ChipLsnnParameters,
    rule: RewardEprop,
    w_in: np.ndarray,
    w_rec: np.ndarray,
    w_out: np.ndarray,
    seeds: list[int],
) -> Program:
    """Return the chip program: compartments of adaptation, neurons and outputs, and what joins them.

    Args:
        p: Its numbers.
        rule: Learning rates, of which one of 0 leaves synapses as they are, and the decay of tags.
        w_in: Input weights at first, in thresholds, shape (N, n_lines).
        w_rec: Recurrent weights at first, shape (N, N).
        w_out: Readout weights at first, shape (n_outputs, N).
        seeds: Of the learning engines' rounding, one for each projection that learns.

    Raises:
        ValueError: If weights are too coarse for the threshold, or sums of synapses could wrap.
    """
    n_outputs, n = w_out.shape
    k, unit = p.n_ticks.bit_length() - 1, LARGEST * p.n_copies / p.w_max
    trace_decay = rule.gamma * rule.trace_lambda
    hidden = hidden_rule(k, p.tau_out, p.tau_a if p.slow else None, p.residue, trace_decay, p.reads_membranes)
    readout = readout_rule(k, p.tau_out, p.residue, trace_decay)
    if not rule.learning_rate:
        hidden = replace(hidden, dw="", residue_bits=0)
    if not rule.actor_rate:
        readout = replace(readout, dw="", residue_bits=0)
    if unit < _COARSEST:
        raise ValueError(f"w_max must be at most {unit * p.w_max / _COARSEST:g} thresholds, got {p.w_max}")
    most = (2 ** (PROFILES["nengo"].input_bits - 6) - 1) // (LARGEST * p.n_copies)
    if (reaching := w_in.shape[1] + n) > most:
        raise ValueError(
            f"at most {most} neurons and lines may reach a neuron by {p.n_copies} synapses each, or sums wrap; "
            f"got {reaching}"
        )
    slow, neurons, outputs = np.arange(n), n + np.arange(n), 2 * n + np.arange(n_outputs)
    sizes = n, n, n_outputs
    kept = np.repeat([float(decay(np.float64(tau), 1.0)) for tau in (p.tau_a, p.tau_m, p.tau_out)], sizes)
    compartments = Compartments.build(
        2 * n + n_outputs,
        decay_v=np.rint(4096 * (1 - kept)).astype(int),
        v_th=np.repeat([64, 64 * round(unit), 64], sizes),
        fires=np.repeat([0, 1, 0], sizes),
        parent=np.concatenate((neurons, np.full(n + n_outputs, -1))),
    )
    kinds = (
        ("input", True, np.arange(w_in.shape[1]), neurons, w_in * LARGEST / p.w_max, hidden),
        ("recurrent", False, neurons, neurons, w_rec * LARGEST / p.w_max, hidden),
        ("readout", False, neurons, outputs, w_out * LARGEST / p.w_out_max, readout),
    )
    projections, seed = [], iter(seeds)
    for name, from_input, pre, post, weights, learned in kinds:
        for index in range(p.n_copies):
            called = name if p.n_copies == 1 else f"{name} {index}"
            learning = Learning(learned, next(seed))
            projections.append(Projection(called, from_input, pre, post, _mantissas(weights), learning=learning))
    if p.beta:
        exponent = max(0, int(np.ceil(np.log2(p.beta * unit / LARGEST))))
        jump = _mantissas(np.diag(np.full(n, -p.beta * unit / 2**exponent)))
        projections.append(Projection("adaptation", False, neurons, slow, jump, exponent))
    read = np.concatenate((outputs, neurons)) if p.reads_membranes else outputs
    groups = (("adaptation", 0, n), ("neurons", n, 2 * n), ("outputs", 2 * n, 2 * n + n_outputs))
    program = Program("loihi1", "nengo", w_in.shape[1], compartments, tuple(projections), read, groups, input_latency=0)
    return place(program)


def _mantissas(weights: np.ndarray) -> np.ndarray:
    """Return weights as mantissas of 8 bits with a sign."""
    return np.clip(_STEP * np.rint(weights / _STEP), -LARGEST, LARGEST).astype(np.int64)
