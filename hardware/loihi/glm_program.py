"""The chip program of neurons that draw their spikes with the chip's noise: parameters, compartments and synapses.

Each action has a small tree of compartments. The *membrane* holds the filtered input spikes, has no noise and never
fires. The *drawing* compartment adds new noise to the membrane's value on each tick, fires above its threshold, and
keeps nothing from tick to tick. Further compartments of noise join it, so that the noise is a sum of ``n_noise``
uniform variates::

    v <- kappa v + 64 sum_i w_i x_i                     membrane
    z  = 1 where v + 2^(e - 7) (U_1 + ... + U_n) > v_th     drawing, U from -127..127, new on each tick

So the probability of a spike is a known function of v: a sigmoid in steps of one unit of the noise, exactly 0 or 1
beyond the ends of the noise. If the standard deviation of the noise is taken as that of a logistic variate, ``pi /
sqrt(3)`` logits, then v and weights have a scale in logits too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spikeloop.hardware.learning.score import score_rule
from spikeloop.hardware.loihi.chip import MAX_V_TH, PROFILES
from spikeloop.hardware.loihi.placement import place
from spikeloop.hardware.loihi.program import Compartments, Learning, Program, Projection
from spikeloop.spiking.decay import decay
from spikeloop.spiking.fields import flag, number, set_fields, whole

LARGEST = 254  # largest mantissa of a weight with a sign
LARGEST_NOISE = 127  # largest noise of one compartment, in units of 2^(e - 7)
_LOGISTIC = math.pi / math.sqrt(3)  # standard deviation of a logistic variate
_UNIFORM = math.sqrt((255**2 - 1) / 12)  # standard deviation of the chip's uniform integers


@dataclass(frozen=True)
class ChipGlmParameters:
    """Parameters of the network.

    Args:
        n_ticks: Largest number K of ticks of an env step; one more follows, in which the last score is learnt from.
        tau_s: Time constant of membranes and traces in ticks.
        bias: Bias of the outputs in logits, below 0: minus the threshold of the drawing compartments.
        noise_exponent: e, 8 to 16. Steps and range of a weight, in logits, go with 2^-e: larger noise, finer weights.
        n_noise: Number n of uniform variates in the noise of a neuron, 1 to 16: with more, the noise has longer tails.
            Beyond the ends of the noise a neuron surely spikes, or surely does not, and learns nothing.
        score_max: Score that y3 holds as 127. Larger scores, those of very unlikely spikes, are cut.
        n_copies: Number of synapses whose sum is a weight. All learn by the same rule, and round independently.
        residue: Whether each weight has a second synapse that holds four more bits; no Loihi has this.

    Raises:
        ValueError: If a number is out of range.

    >>> round(ChipGlmParameters(noise_exponent=14).w_max, 2), round(ChipGlmParameters(noise_exponent=15).w_max, 2)
    (2.81, 1.41)
    """

    n_ticks: int = 8
    tau_s: float = 2.0
    bias: float = -1.5
    noise_exponent: int = 14
    n_noise: int = 8
    score_max: float = 2.0
    n_copies: int = 1
    residue: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        me = "ChipGlmParameters"
        set_fields(
            self,
            n_ticks=whole(me, "n_ticks", self.n_ticks, 1, 1024),
            tau_s=number(me, "tau_s", self.tau_s, 0.25, 100.0),
            bias=number(me, "bias", self.bias, -30.0, -0.01),
            noise_exponent=whole(me, "noise_exponent", self.noise_exponent, 8, 16),
            n_noise=whole(me, "n_noise", self.n_noise, 1, 16),
            score_max=number(me, "score_max", self.score_max, 0.25, 16.0),
            n_copies=whole(me, "n_copies", self.n_copies, 1, 16),
            residue=flag(me, "residue", self.residue),
        )
        end = self.most * self.unit * self.logits
        if self.bias <= -end:
            raise ValueError(
                f"bias must be above {-end:.3g}, where the noise of n_noise={self.n_noise} variates ends and no neuron "
                f"at rest ever spikes, got {self.bias:.3g}"
            )
        if not 64 <= self.v_th <= MAX_V_TH:
            raise ValueError(
                f"bias must be a threshold that the chip has, within {-MAX_V_TH * self.logits:.3g} and "
                f"{-64 * self.logits:.3g} logits at noise_exponent {self.noise_exponent}, got {self.bias:.3g}"
            )

    @property
    def unit(self) -> int:
        """One unit of noise in v, ``2^(e - 7)``."""
        return 2 ** (self.noise_exponent - 7)

    @property
    def most(self) -> int:
        """Largest value of the noise, in units."""
        return LARGEST_NOISE * self.n_noise

    @property
    def logits(self) -> float:
        """Logits of one unit of v."""
        return _LOGISTIC / (_UNIFORM * math.sqrt(self.n_noise) * self.unit)

    @property
    def kappa(self) -> float:
        """Share of a membrane that is left after a tick."""
        return float(decay(np.float64(self.tau_s), 1.0))

    @property
    def w_max(self) -> float:
        """Largest weight in logits: what a source that spikes on every tick adds to a membrane."""
        return 64 * LARGEST * self.n_copies * self.logits / (1 - self.kappa)

    @property
    def v_th(self) -> int:
        """Threshold of the drawing compartments, in units of v."""
        return 64 * round(-self.bias / self.logits / 64)


def noise_chances(p: ChipGlmParameters) -> np.ndarray:
    """Return the probability of each value of the noise, from ``-most`` to ``most`` units, shape (2 most + 1,).

    >>> chances = noise_chances(ChipGlmParameters(n_noise=2))
    >>> len(chances), round(float(chances.sum()), 12), round(float(chances[254] * 255), 12)
    (509, 1.0, 1.0)
    """
    one = np.full(2 * LARGEST_NOISE + 1, 1 / (2 * LARGEST_NOISE + 1))
    chances = one
    for _ in range(p.n_noise - 1):
        chances = np.convolve(chances, one)
    return chances


def spike_chances(p: ChipGlmParameters) -> tuple[np.ndarray, np.ndarray]:
    """Return tables of a neuron's spike probability and scores, by the membrane's distance to the threshold.

    Entry i is for membranes with ``floor((v_th - v) / unit) = i - most - 1``: the noise must exceed that many units.

    Returns:
        Spike probabilities, shape (2 most + 2,), from 1 to 0; and the scores of silence and of a spike, shape
        (2, 2 most + 2). A score is the derivative, by the membrane in logits, of the logarithm of the probability of
        what happened, cut to ``-score_max`` and ``score_max``. Where the spike probability is 0 or 1, scores are 0.

    >>> p = ChipGlmParameters()
    >>> chances, scores = spike_chances(p)
    >>> middle = p.most + 1
    >>> [round(float(x), 2) for x in (chances[middle], *scores[:, middle])]  # nearly 1/2, -1/2 and 1/2
    [0.5, -0.43, 0.43]
    """
    noise = noise_chances(p)
    chances = np.append(np.cumsum(noise[::-1])[::-1], 0.0)  # entry i: the noise is i - most units or more
    chances[0] = 1.0
    slope = np.gradient(-chances) / (p.unit * p.logits)
    inside = (chances > 0) & (chances < 1)
    scores = np.zeros((2, len(chances)))
    scores[0, inside] = -slope[inside] / (1 - chances[inside])
    scores[1, inside] = slope[inside] / chances[inside]
    return chances, np.clip(scores, -p.score_max, p.score_max)


def glm_program(n_inputs: int, n_outputs: int, p: ChipGlmParameters, learns: bool, seeds: list[int]) -> Program:
    """Return the chip program. All weights begin at 0.

    Args:
        n_inputs: Number of input lines.
        n_outputs: Number of actions.
        p: Parameters of the network.
        learns: Whether weights change.
        seeds: Seeds of the learning engines' rounding, one for each copy of the synapses.

    Raises:
        ValueError: If a sum of inputs could overflow its register, or the chip cannot hold the synapses.
    """
    most = (2 ** (PROFILES["nengo"].input_bits - 6) - 1) // (LARGEST * p.n_copies)
    if n_inputs > most:
        raise ValueError(
            f"at most {most} lines may reach a neuron by {p.n_copies} synapses each, or sums wrap; got {n_inputs}"
        )
    n, n_kinds = n_outputs, p.n_noise + 1
    membranes = np.arange(n)
    drawing = p.n_noise * n + membranes
    noise = np.arange(n, p.n_noise * n).reshape(p.n_noise - 1, n)  # a chain; its last one joins the drawing compartment
    parent = np.concatenate((drawing, *[*noise[1:], drawing][: len(noise)], np.full(n, -1)))
    fires = np.repeat([0, 1], [p.n_noise * n, n])
    compartments = Compartments.build(
        n_kinds * n,
        decay_v=np.repeat([round(4096 * (1 - p.kappa)), 4096], [n, p.n_noise * n]),
        v_th=np.where(fires, p.v_th, 64),
        fires=fires,
        noise=np.repeat([0, 1], [n, p.n_noise * n]),
        parent=parent,
    )
    rule, zeros = score_rule(p.tau_s, learns, p.residue), np.zeros((n, n_inputs), int)
    projections = tuple(
        Projection(
            "input" if p.n_copies == 1 else f"input {i}", True, np.arange(n_inputs), membranes, zeros, plastic=True,
            learning=Learning(rule, seeds[i]),
        )
        for i in range(p.n_copies)
    )  # fmt: skip
    groups = [("membranes", 0, n), ("drawing", p.n_noise * n, n_kinds * n)]
    if p.n_noise > 1:
        groups.insert(1, ("noise", n, p.n_noise * n))
    return place(
        Program(
            "loihi1",
            "nengo",
            n_inputs,
            compartments,
            projections,
            membranes,
            tuple(groups),
            noise_at="membrane",
            noise_exponent=p.noise_exponent,
            input_latency=0,
            spike_outputs=drawing,
        )
    )
