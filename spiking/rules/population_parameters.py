"""The numbers of populations of LIF neurons and of their rule, which ``spiking/rules/populations.py`` runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spikeloop.spiking.decay import decay
from spikeloop.spiking.fields import check_choice, flag, number, set_fields, whole
from spikeloop.spiking.limits import MAX_NEURONS, MAX_TICKS, MAX_TIME
from spikeloop.spiking.neurons.lsnn import LsnnNeurons
from spikeloop.spiking.rules import populations_kernels
from spikeloop.spiking.rules.rstdp import RewardSTDP

DT = 1.0  # ms
TRAINS = ("poisson", "regular")
CRITICS = ("graded", "spiking")
READOUTS = ("rate", "count")
_LARGEST = 1e6

# name: (least, most), both allowed
_NUMBERS = {
    "learning_rate": (0.0, _LARGEST),
    "value_learning_rate": (0.0, _LARGEST),
    "noise": (0.0, _LARGEST),
    "value_offset": (-_LARGEST, _LARGEST),
    "tau_plus": (1e-6, MAX_TIME),
    "tau_minus": (1e-6, MAX_TIME),
    "a_plus": (0.0, _LARGEST),
    "a_minus": (0.0, _LARGEST),
    "w_max": (1e-9, _LARGEST),
    "w_start": (-_LARGEST, _LARGEST),
    "input_rate": (0.0, 1000.0 / DT),
    "tau_m": (0.0, MAX_TIME),
    "v_th_spread": (0.0, 0.99),
    "tau_out": (0.0, MAX_TIME),
    "tau_a": (0.0, MAX_TIME),
    "beta": (0.0, _LARGEST),
    "inhibition": (0.0, _LARGEST),
    "value_w_start": (-_LARGEST, _LARGEST),
    "value_gain": (0.0, _LARGEST),
    "value_rate": (0.0, 1000.0 / DT),
    "trace_floor": (0.0, 1.0),
}


@dataclass(frozen=True)
class PopulationParameters:
    """The numbers of populations and of their rule; a tick is 1 ms, the mean threshold 1.

    Args:
        learning_rate: Step of the actor's weights.
        value_learning_rate: Step of the critic's weights.
        eligibility_decay: Decay of the eligibilities per env step, gamma lambda: above 0, at most 1.
        noise: Width of the escape noise, in units of the threshold.
        value_offset: V0, the value where nothing was learnt; the best attainable one makes the critic optimistic.
        n_ticks: Ticks per env step.
        n_neurons: Neurons of each action's population.
        tau_plus: Window of potentiation in ms.
        tau_minus: Window of depression in ms.
        a_plus: Change of an eligibility by a pair pre before post.
        a_minus: Change by a pair post before pre.
        w_max: Upper bound of the weights.
        w_min: Their lower bound; None for ``-w_max``.
        w_start: Weights at the beginning, of the action neurons.
        centred: Whether eligibilities compete: less their mean over the action neurons, line by line.
        normalized: Whether every change is followed by subtractive normalization (Miller & MacKay 1994): all weights of
            an action neuron are shifted alike, back to the sum they began with. This takes time for all ``n_inputs``.
        input_rate: Rate of an active line in Hz.
        trains: ``poisson``, or ``regular`` with a random phase in each env step.
        tau_m: Membrane time constant in ms.
        v_th_spread: The thresholds of a population go in equal steps from 1 less this to 1 and this. Neurons that are
            all alike, under the same drive, spike as one where there is no noise, and tell strengths apart by the few
            numbers of spikes that an env step has room for.
        refractory: Ticks a neuron is silent after a spike.
        beta: Strength of adaptation; 0 for LIF neurons.
        tau_a: Time constant of adaptation in ms.
        inhibition: Taken off the membranes of all other populations by a spike.
        readout: ``rate``: the action is the population with the highest filtered rate at the end of the env step;
            ``count``: with the most spikes in it.
        tau_out: Time constant in ms of the filtered rates.
        critic: ``graded``, linear in the presynaptic traces, or ``spiking``. Poisson trains are common to all neurons
            of a spiking critic, so that no number of these averages their noise out of the value: it wants
            ``trains="regular"``.
        n_critic: Neurons of a spiking critic.
        value_w_start: Their weights at the beginning.
        value_gain: The value per rate of one spike per tick. The least value is that of silence, ``value_offset -
            value_gain value_rate / 1000``, and neurons that are silent have no pairs to learn from.
        value_rate: Their mean rate in Hz where the value is ``value_offset``: that which ``value_w_start`` leads to.
        trace_floor: Lines whose trace over env steps decays below it are forgotten. The time of an env step grows with
            the number of the others. Below the trace that a spike leaves after an env step, or 0 for none.

    Raises:
        ValueError: If a number is out of range.

    >>> round(PopulationParameters(n_ticks=20, eligibility_decay=0.8).rule.tau_e, 3)  # -20 / log(0.8)
    89.628
    >>> PopulationParameters(tau_m=-1)
    Traceback (most recent call last):
    ValueError: PopulationParameters.tau_m must be a finite number within [0, 1e+09], got -1
    """

    learning_rate: float = 0.0018
    value_learning_rate: float = 0.0007
    eligibility_decay: float = 0.8
    noise: float = 0.05
    value_offset: float = 0.0
    n_ticks: int = 20
    n_neurons: int = 5
    tau_plus: float = 10.0
    tau_minus: float = 20.0
    a_plus: float = 1.0
    a_minus: float = 0.0
    w_max: float = 0.125
    w_min: float | None = None
    w_start: float = 0.03
    centred: bool = True
    normalized: bool = False
    input_rate: float = 150.0
    trains: str = "poisson"
    tau_m: float = 10.0
    v_th_spread: float = 0.4
    refractory: int = 0
    beta: float = 0.0
    tau_a: float = 100.0
    inhibition: float = 0.3
    readout: str = "rate"
    tau_out: float = 20.0
    critic: str = "graded"
    n_critic: int = 50
    value_w_start: float = 0.06
    value_gain: float = 2.0
    value_rate: float = 250.0
    trace_floor: float = 1e-2

    def __post_init__(self) -> None:
        """Validate the fields."""
        me = type(self).__name__
        checked = {name: number(me, name, getattr(self, name), *ends) for name, ends in _NUMBERS.items()}
        set_fields(
            self,
            **checked,
            n_ticks=whole(me, "n_ticks", self.n_ticks, 1, MAX_TICKS),
            n_neurons=whole(me, "n_neurons", self.n_neurons, 1, MAX_NEURONS),
            n_critic=whole(me, "n_critic", self.n_critic, 1, MAX_NEURONS),
            refractory=whole(me, "refractory", self.refractory, 0, MAX_TICKS),
            centred=flag(me, "centred", self.centred),
            normalized=flag(me, "normalized", self.normalized),
        )
        if self.w_min is not None:
            set_fields(self, w_min=number(me, "w_min", self.w_min, -_LARGEST, self.w_max))
        if not 0 < self.eligibility_decay <= 1:
            got = f"got {self.eligibility_decay!r}"
            raise ValueError(f"{me}.eligibility_decay, gamma * trace_lambda must be > 0 and <= 1, {got}")
        low, high = self.bounds
        for name in ("w_start", "value_w_start")[: 1 + (self.critic == "spiking")]:
            if not low <= (start := getattr(self, name)) <= high:
                raise ValueError(f"{me}.{name} must lie within {low} and {high}, got {start}")
        fresh = math.exp(-self.n_ticks * DT / self.tau_plus)
        if self.trace_floor > 0 and self.trace_floor >= fresh:
            raise ValueError(
                f"{me}.trace_floor must be below what a spike's trace is an env step later, "
                f"exp(-n_ticks / tau_plus) = {fresh:.3g}, got {self.trace_floor}"
            )
        check_choice(me, "trains", self.trains, TRAINS)
        check_choice(me, "critic", self.critic, CRITICS)
        check_choice(me, "readout", self.readout, READOUTS)
        if (self.readout, self.critic) == ("count", "spiking"):
            raise ValueError(
                f"{me}.critic must be graded where readout is 'count': a spiking one is read out as a rate"
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the weights."""
        return (-self.w_max if self.w_min is None else self.w_min), self.w_max

    @property
    def rule(self) -> RewardSTDP:
        """The rule of the synapses."""
        return RewardSTDP(
            tau_plus=self.tau_plus,
            tau_minus=self.tau_minus,
            tau_e=-self.n_ticks * DT / math.log(self.eligibility_decay) if self.eligibility_decay < 1 else math.inf,
            a_plus=self.a_plus,
            a_minus=self.a_minus,
            learning_rate=self.learning_rate,
            w_min=self.bounds[0],
            w_max=self.bounds[1],
        )

    def neurons(self, n: int) -> LsnnNeurons:
        """Return so many neurons: those of the actions, population by population, and what remains, a critic's."""
        tau_m, tau_a, beta = (np.full(n, value) for value in (self.tau_m, self.tau_a, self.beta))
        places = np.linspace(-1.0, 1.0, self.n_neurons) if self.n_neurons > 1 else np.zeros(1)
        v_th = np.resize(1.0 + self.v_th_spread * places, n)
        return LsnnNeurons(tau_m, v_th, tau_a, beta, refractory=np.full(n, self.refractory))

    def constants(self, n_inputs: int, n_actions: int) -> populations_kernels.Constants:
        """Return the constants of the kernels."""
        n = self.n_acting(n_actions) + self.n_valuing
        counts, kappa = self.readout == "count", float(decay(self.tau_out, DT))
        return populations_kernels.Constants(
            neurons=self.neurons(n).constants(DT, np.float64),
            rule=self.rule.constants(DT, np.float64),
            noise=self.noise,
            inhibition=self.inhibition,
            kappa=1.0 if counts else kappa,
            per_spike=1.0 if counts else 1.0 - kappa,
            clears=counts,
            p_spike=self.input_rate * DT / 1000.0,
            regular=self.trains == "regular",
            n_actions=n_actions,
            n_per_action=self.n_neurons,
            centred=self.centred,
            w_sum=n_inputs * self.w_start if self.normalized else math.nan,
            value_learning_rate=self.value_learning_rate,
            value_offset=self.value_offset,
            value_gain=self.value_gain,
            value_rate=self.resting_rate,
            floor=self.trace_floor,
        )

    def n_acting(self, n_actions: int) -> int:
        """Return the number of action neurons."""
        return n_actions * self.n_neurons

    @property
    def resting_rate(self) -> float:
        """``value_rate`` in spikes per tick."""
        return self.value_rate * DT / 1000.0

    @property
    def n_valuing(self) -> int:
        """Number of the critic's neurons; 0 of one that is graded."""
        return self.n_critic if self.critic == "spiking" else 0
