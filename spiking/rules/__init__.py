"""Local learning rules: what a synapse remembers of its two neurons, and how its weight changes.

A new rule is one file and one line in :data:`RULES`, over which the tests run.
"""

from __future__ import annotations

from spikeloop.spiking.rules.base import Rule
from spikeloop.spiking.rules.eprop import SignalEprop
from spikeloop.spiking.rules.rstdp import RewardSTDP
from spikeloop.spiking.rules.stdp import STDP
from spikeloop.spiking.rules.winner_take_all import WinnerTakeAllRule

RULES: dict[str, type[Rule]] = {
    "stdp": STDP,
    "reward_stdp": RewardSTDP,
    "eprop": SignalEprop,
    "winner_take_all": WinnerTakeAllRule,
}
