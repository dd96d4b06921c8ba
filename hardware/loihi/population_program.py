"""Populations of spiking neurons as a chip program that learns; :mod:`spikeloop.hardware.loihi.populations` runs it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from spikeloop.hardware.learning.actor_critic import critic_rule
from spikeloop.hardware.learning.reward_stdp import reward_stdp_rule
from spikeloop.hardware.loihi.chip import CHIPS
from spikeloop.hardware.loihi.program import Compartments, Learning, Program, Projection
from spikeloop.hardware.loihi.resources import check_limits
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
        n_critic: Compartments of the critic.

    Raises:
        ValueError: If a number is out of range.
    """

    epoch: int = 4
    residue: bool = False
    r1_scale: float = 256.0
    value_unit: float = 2.0**-12
    n_critic: int = 24

    def __post_init__(self) -> None:
        """Validate the fields."""
        me = "ChipOptions"
        set_fields(
            self,
            epoch=whole(me, "epoch", self.epoch, 2, 63),
            residue=flag(me, "residue", self.residue),
            r1_scale=number(me, "r1_scale", self.r1_scale, 1e-6, 1e6),
            value_unit=number(me, "value_unit", self.value_unit, 1e-9, 1e6),
            n_critic=whole(me, "n_critic", self.n_critic, 1, 1024),
        )


def population_program(
    n_inputs: int, n_actions: int, p: PopulationParameters, options: ChipOptions, seeds: tuple[int, int]
) -> Program:
    """Return populations as a program that learns.

    Args:
        n_inputs: Number of input lines, which are input lines of the program twice: the actor's, then the critic's.
        n_actions: Number of actions.
        p: The numbers of the populations.
        options: The chip's.
        seeds: Of the rounding of the actor's and of the critic's learning engine.

    Raises:
        ValueError: If the chip has no such neurons or rule, or cannot hold the lines.
    """
    _check(p, options)
    k = (p.n_ticks // options.epoch).bit_length() - 1
    n, m = p.n_acting(n_actions), options.n_critic
    unit = LARGEST / p.w_max  # stored weight of a weight of 1
    population, action = np.repeat(np.arange(n_actions), p.n_neurons), np.arange(n_actions)
    fires = np.repeat([1, 0], [n, n_actions + m])
    compartments = Compartments.build(
        n + n_actions + m,
        decay_v=np.repeat([_register(p.tau_m), _register(p.tau_out), 4096], [n, n_actions, m]),
        v_th=np.concatenate([np.round(p.neurons(n).v_th * unit).astype(int), np.ones(n_actions + m, int)]) * 64,
        refractory=np.where(fires, p.refractory + 1, 1),
        fires=fires,
        noise=fires if p.noise > 0 else 0,
        core=np.repeat([0, 1, 2], [n, n_actions, m]),
    )
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
    lines = np.arange(n_inputs)
    projections = (
        Projection(
            "actor", True, lines, np.arange(n), np.full((n, n_inputs), start), plastic=True,
            learning=Learning(actor, seeds[0]),
        ),
        Projection(
            "critic", True, n_inputs + lines, n + n_actions + np.arange(m), np.zeros((m, n_inputs), int), plastic=True,
            learning=Learning(critic, seeds[1]),
        ),
        Projection(
            "inhibition", False, np.arange(n), np.arange(n),
            -inhibition * (population[:, None] != population), exponent,
        ),
        Projection("readout", False, np.arange(n), n + action, LARGEST * (action[:, None] == population)),
    )  # fmt: skip
    program = Program(
        chip=CHIP,
        profile=CHIPS[CHIP].profile,
        n_inputs=2 * n_inputs,
        compartments=compartments,
        projections=projections,
        outputs=n + np.arange(n_actions + m),
        groups=(("actor", 0, n), ("readout", n, n + n_actions), ("critic", n + n_actions, n + n_actions + m)),
        noise_at="membrane",
        noise_exponent=_noise_exponent(p, unit),
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
        ("critic", p.critic, "graded"),
        ("w_min", p.bounds[0], -p.w_max),
    ):
        if value != wanted:
            raise ValueError(f"{name} must be {wanted} {me}, got {value}")
    n_epochs = p.n_ticks / options.epoch
    if n_epochs not in (2.0**k for k in range(7)):
        raise ValueError(
            f"n_ticks must be epoch = {options.epoch} times a power of 2 from 1 to 64 {me}, got {p.n_ticks}"
        )


def _register(tau: float) -> int:
    """Return the decay register of a time constant in ms."""
    return round(4096 * (1.0 - float(decay(tau, DT))))


def _noise_exponent(p: PopulationParameters, unit: float) -> int:
    """Return the exponent whose noise on the membrane deviates as much as the noise of the escape, to a power of 2.

    That on the membrane adds up over its time constant.
    """
    lasting = 1.0 - float(decay(p.tau_m, DT)) ** 2
    deviation = 64.0 * unit * p.noise * _GUMBEL * math.sqrt(lasting)
    return max(1, round(7 + math.log2(deviation / _DEVIATION))) if deviation > 0 else 1
