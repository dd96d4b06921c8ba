"""Populations of spiking neurons as a chip program that learns; :mod:`spikeloop.hardware.loihi.populations` runs it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from spikeloop.hardware.learning.actor_critic import critic_rule
from spikeloop.hardware.learning.reward_stdp import reward_stdp_rule
from spikeloop.hardware.loihi.chip import CHIPS, PROFILES
from spikeloop.hardware.loihi.program import MAX_NOISE_EXPONENT, Compartments, Learning, Program, Projection
from spikeloop.hardware.loihi.resources import check_limits, list_words
from spikeloop.spiking.decay import decay
from spikeloop.spiking.fields import flag, number, set_fields, whole
from spikeloop.spiking.rules.population_parameters import DT, PopulationParameters

CHIP = "loihi1"
ACTOR, CRITIC = range(2)  # projections of the program
LARGEST = 254  # mantissa of a weight with a sign
_DEVIATION = 255 / math.sqrt(12)  # of the chip's uniform integers, -127..127
_GUMBEL = math.pi / math.sqrt(6)  # deviation of a Gumbel variate


@dataclass(frozen=True)
class ChipOptions:
    """How populations become a program.

    Args:
        epoch: Ticks of a learning epoch, in which the engines see the last spike of each neuron; n_ticks must be
            ``epoch * 2^k``.
        residue: Whether each weight has a second synapse with four more bits. No Loihi has.
        r1_scale: r1 for a modulator of 1; beyond 127 it saturates.
        value_unit: Value of one unit of the critic's weights, which go from -254 to 254.

    Raises:
        ValueError: If a number is out of range.
    """

    epoch: int = 4
    residue: bool = False
    r1_scale: float = 256.0
    value_unit: float = 2.0**-12

    def __post_init__(self) -> None:
        """Validate the fields."""
        me = "ChipOptions"
        set_fields(
            self,
            epoch=whole(me, "epoch", self.epoch, 2, 63),
            residue=flag(me, "residue", self.residue),
            r1_scale=number(me, "r1_scale", self.r1_scale, 1e-6, 1e6),
            value_unit=number(me, "value_unit", self.value_unit, 1e-9, 1e6),
        )

    @property
    def n_valuing(self) -> int:
        """Ticks on which the critic may fire: an env step's first epoch, less its last tick, on which r1 is due."""
        return self.epoch - 1


def population_program(
    n_inputs: int, n_actions: int, p: PopulationParameters, options: ChipOptions, seeds: tuple[int, int]
) -> Program:
    """Return populations as a program that learns.

    Args:
        n_inputs: Number of input lines, which are input lines of the program twice: the actor's, then the critic's.
            Behind them are ``options.n_valuing`` more, one for each tick of the critic.
        n_actions: Number of actions.
        p: The numbers of the populations.
        options: The chip's.
        seeds: Of the rounding of the actor's and of the critic's learning engine.

    Raises:
        ValueError: If the chip has no such neurons or rule, or cannot hold the lines.
    """
    _check(p, options)
    k = (p.n_ticks // options.epoch).bit_length() - 1
    n, m = p.n_acting(n_actions), p.n_critic
    unit = LARGEST / p.w_max  # stored weight of a weight of 1
    residue_bits, loss = 4 if options.residue else 0, 1.0 - p.eligibility_decay
    actor = reward_stdp_rule(
        p.learning_rate * unit, options.r1_scale, loss, k=k, epoch=options.epoch, tau_plus=p.tau_plus,
        tau_minus=p.tau_minus, a_plus=p.a_plus, a_minus=p.a_minus, residue_bits=residue_bits,
    )  # fmt: skip
    critic = critic_rule(
        p.value_learning_rate or 1.0, options.r1_scale, loss, options.value_unit, k=k, epoch=options.epoch
    )
    critic = replace(critic, residue_bits=residue_bits) if p.value_learning_rate else replace(critic, dw="")
    start = 2 * round(p.w_start * unit / 2)
    exponent = max(0, math.ceil(math.log2(max(p.inhibition * unit / LARGEST, 1.0))))
    inhibition = 2 * round(p.inhibition * unit / 2**exponent / 2)
    population, action = np.repeat(np.arange(n_actions), p.n_neurons), np.arange(n_actions)
    lines, neurons, valuing = np.arange(n_inputs), np.arange(n), n + n_actions + np.arange(m)
    ticks = 2 * n_inputs + np.arange(options.n_valuing)
    coarse, fine, shift = _in_two_parts(-_levels(p, options))
    onto_critic = (
        Projection(
            "critic", True, n_inputs + lines, valuing, np.zeros((m, n_inputs), int), plastic=True,
            learning=Learning(critic, seeds[1]),
        ),
        Projection("levels", True, ticks, valuing, coarse, shift),
        Projection("rest of the levels", True, ticks, valuing, fine),
    )  # fmt: skip
    projections = (
        Projection(
            "actor", True, lines, neurons, np.full((n, n_inputs), start), plastic=True,
            learning=Learning(actor, seeds[0]),
        ),
        *onto_critic,
        Projection(
            "inhibition", False, neurons, neurons, -inhibition * (population[:, None] != population), exponent,
        ),
        Projection("readout", False, neurons, n + action, LARGEST * (action[:, None] == population)),
    )  # fmt: skip
    parts = n, n_actions, m  # action neurons, their readout, the critic
    v_th = np.round(p.neurons(n).v_th * unit).astype(int)
    compartments = Compartments.build(
        sum(parts),
        decay_v=np.repeat([_register(p.tau_m), _register(p.tau_out), 4096], parts),
        v_th=64 * np.concatenate([v_th, np.ones(n_actions + m, int)]),
        refractory=np.repeat([p.refractory + 1, 1, 1], parts),
        fires=np.repeat([1, 0, 1], parts),
        noise=np.repeat([int(p.noise > 0), 0, 0], parts),
        core=np.concatenate([np.repeat([0, 1], parts[:2]), 2 + _cores(onto_critic)]),
    )
    program = Program(
        chip=CHIP,
        profile=CHIPS[CHIP].profile,
        n_inputs=2 * n_inputs + options.n_valuing,
        compartments=compartments,
        projections=projections,
        outputs=n + action,
        spike_outputs=valuing,
        groups=(("actor", 0, n), ("readout", n, n + n_actions), ("critic", n + n_actions, sum(parts))),
        noise_at="membrane",
        noise_exponent=chip_noise(p)[0],
        input_latency=0,
    )
    check_limits(program)
    return program


def _check(p: PopulationParameters, options: ChipOptions) -> None:
    """Refuse what the chip's populations do not have."""
    me = "on the chip"
    for name, value, wanted in (
        ("centred", p.centred, False),  # a synapse knows nothing of the others of its axon
        ("normalized", p.normalized, False),
        ("beta", p.beta, 0.0),
        ("readout", p.readout, "rate"),
        ("critic", p.critic, "spiking"),
        ("w_min", p.bounds[0], -p.w_max),
    ):
        if value != wanted:
            raise ValueError(f"{name} must be {wanted} {me}, got {value}")
    n_epochs = p.n_ticks / options.epoch
    if n_epochs not in (2.0**k for k in range(7)):
        raise ValueError(
            f"n_ticks must be epoch = {options.epoch} times a power of 2 from 1 to 64 {me}, got {p.n_ticks}"
        )


def most_lines(n_actions: int, p: PopulationParameters, options: ChipOptions) -> int:
    """Return how many lines may be active, so that no sum of a tick's weights leaves the range of an input."""
    room = 2 ** (PROFILES[CHIPS[CHIP].profile].input_bits - 6)  # in units of a weight
    inhibition = p.inhibition * LARGEST / p.w_max * (n_actions - 1) * p.n_neurons
    return int((room - max(inhibition, np.abs(_levels(p, options)).max())) // LARGEST)


def _levels(p: PopulationParameters, options: ChipOptions) -> np.ndarray:
    """Return the sum of weights above which each neuron of the critic fires on each of its ticks, shape (m, n_valuing).

    All levels together go in equal steps through the sums that rates of 0 to 1 spike per tick stand for.
    """
    n = p.n_critic * options.n_valuing
    rates = (np.arange(n).reshape(options.n_valuing, p.n_critic).T + 0.5) / n
    return p.value_gain * (rates - p.resting_rate) / options.value_unit


def _in_two_parts(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return mantissas that reach all weights by an exponent, mantissas for what is left of them, and the exponent."""
    exponent = max(0, math.ceil(math.log2(max(np.max(np.abs(weights)) / LARGEST, 1.0))))
    coarse = 2 * np.round(weights / 2**exponent / 2).astype(int)
    return coarse, 2 * np.round((weights - coarse * 2**exponent) / 2).astype(int), exponent


def _cores(onto_critic: tuple[Projection, ...]) -> np.ndarray:
    """Return which core each neuron of the critic is on, from 0: in equal parts, on as few as hold its synapses."""
    chip, m = CHIPS[CHIP], onto_critic[0].post.size

    def fit(most: int) -> bool:
        words = sum(list_words(p, np.full(p.pre.size, most), most, 0) for p in onto_critic)
        return most <= chip.compartments and words + most * chip.state_words <= chip.memory_words

    parts = (-(-m // n_cores) for n_cores in range(1, m + 1))
    return np.arange(m) // next(filter(fit, parts), 1)


def _register(tau: float) -> int:
    """Return the decay register of a time constant in ms."""
    return round(4096 * (1.0 - float(decay(tau, DT))))


def chip_noise(p: PopulationParameters) -> tuple[int, float]:
    """Return the exponent of the chip's noise, and the ``noise`` that this is, the nearest in steps of a factor of 2.

    Noise on the membrane adds up over its time constant, and then deviates as the noise of the escape does.

    Raises:
        ValueError: If the chip has none as small or as large.

    >>> [round(chip_noise(PopulationParameters(noise=noise))[1], 3) for noise in (0.05, 0.09, 0.1, 0.0)]
    [0.066, 0.066, 0.133, 0.0]
    """
    if p.noise == 0:
        return 1, 0.0
    lasting = 1.0 - float(decay(p.tau_m, DT)) ** 2
    least = _DEVIATION / (64.0 * LARGEST / p.w_max * _GUMBEL * math.sqrt(lasting)) / 2**7  # at exponent 0
    exponent = round(math.log2(p.noise / least))
    if not 1 <= exponent <= MAX_NOISE_EXPONENT:
        low, high = least * 2**0.5, least * 2 ** (MAX_NOISE_EXPONENT + 0.5)
        raise ValueError(f"noise must be 0, or between {low:.2g} and {high:.2g} on the chip, got {p.noise}")
    return exponent, least * 2**exponent
