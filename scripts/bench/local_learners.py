"""The learners of the table of peers, the settings that were tried of each, and those that were chosen."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from spikeloop.scripts.bench import peer_play
from spikeloop.scripts.bench.fremaux import FremauxActorCritic
from spikeloop.scripts.bench.linear_peers import LinearActorCritic, Reinforce
from spikeloop.scripts.bench.mstdpet import BindsNET, RewardModulated
from spikeloop.scripts.bench.peer_features import place_cells, preset_of, tiles

CARTPOLE, MOUNTAIN_CAR, ACROBOT = "CartPole-v1", "MountainCar-v0", "Acrobot-v1"


class Budget(NamedTuple):
    """Episodes of training, episodes with frozen weights, and how many of the seeds are run."""

    n_episodes: int
    n_frozen: int
    n_seeds: int


class Peer(NamedTuple):
    """A learner, what it sees, the code that its runs depend on, and its settings."""

    make: peer_play.Make
    features: str
    code: tuple[str, ...]
    settings: tuple[dict[str, Any], ...]
    """The settings of the search; keyword arguments of ``make``."""
    chosen: Mapping[str, int]
    """The best of them for each task."""
    n_seeds: int = 10
    budgets: Mapping[str, Budget] = {}
    """What is run instead of all of it, by task, where a run takes too long."""


def _settings(**values: tuple[Any, ...]) -> tuple[dict[str, Any], ...]:
    """Return all combinations."""
    return tuple(dict(zip(values, each, strict=True)) for each in product(*values.values()))


_HERE = "scripts/bench/"
_FEATURES = (_HERE + "peer_features.py", "agents/line_codes.py", "spiking/encoders")
_LINEAR = (_HERE + "linear_peers.py", *_FEATURES)
_MSTDPET = (_HERE + "mstdpet.py", *_FEATURES)
_RULE = ("spiking/rules/rstdp.py", "spiking/rules/stdp_kernels.py")
_RATES = _settings(rate=(0.1, 0.03, 0.3, 1.0), value_rate=(0.1, 0.3))
_MODULATED = _settings(rate=(1e-3, 1e-4, 1e-2, 1e-1), modulator=("reward", "error"))
_MSTDPET_CHOSEN = {CARTPOLE: 5, MOUNTAIN_CAR: 0, ACROBOT: 0}
# a ninth because the lowest of eight was the best on MountainCar
_FREMAUX = (300, 30), (100, 10), (100, 30), (300, 100), (1000, 30), (1000, 100), (1000, 300), (3000, 100), (30, 3)


def peers(bindsnet: str = sys.executable) -> dict[str, Peer]:
    """Return the peers by name; ``bindsnet`` is an interpreter that has BindsNET."""
    return {
        "linear-places": Peer(
            partial(LinearActorCritic, features=place_cells),
            "place cells",
            _LINEAR,
            _RATES,
            {CARTPOLE: 2, MOUNTAIN_CAR: 1, ACROBOT: 1},
        ),
        "linear-tiles": Peer(
            partial(LinearActorCritic, features=tiles),
            "our tiles",
            _LINEAR,
            _RATES,
            {CARTPOLE: 3, MOUNTAIN_CAR: 1, ACROBOT: 1},
        ),
        "reinforce": Peer(
            Reinforce,
            "raw numbers",
            _LINEAR,
            _settings(rate=(0.01, 0.003, 0.03, 0.1), baseline=("episode", "past")),
            {CARTPOLE: 0, MOUNTAIN_CAR: 6, ACROBOT: 4},
        ),
        "fremaux": Peer(
            FremauxActorCritic,
            "place cells",
            (_HERE + "fremaux.py", _HERE + "fremaux_kernels.py", *_FEATURES),
            tuple({"critic_rate": float(critic), "actor_rate": float(actor)} for critic, actor in _FREMAUX),
            {CARTPOLE: 5, MOUNTAIN_CAR: 1, ACROBOT: 6},
            n_seeds=5,
        ),
        "mstdpet": Peer(
            RewardModulated,
            "place cells",
            (*_MSTDPET, *_RULE),
            _MODULATED,
            _MSTDPET_CHOSEN,
            n_seeds=5,
        ),
        "bindsnet": Peer(
            partial(BindsNET, python=bindsnet),
            "place cells",
            (*_MSTDPET, _HERE + "bindsnet_player.py"),
            _MODULATED,
            _MSTDPET_CHOSEN,
            budgets={CARTPOLE: Budget(200, 20, 3), MOUNTAIN_CAR: Budget(10, 3, 1), ACROBOT: Budget(4, 2, 1)},
        ),
    }


def run(
    name: str, peer: Peer, env_id: str, settings: Mapping[str, Any], budget: Budget, seed: int, folder: Path
) -> peer_play.Run:
    """Return a run of a peer, made if the folder does not have it."""
    n_episodes, n_frozen, _ = budget
    return peer_play.kept(
        folder,
        f"{name}-{env_id}-seed{seed}",
        [name, env_id, preset_of(env_id), settings, n_episodes, seed, n_frozen],
        peer.code,
        lambda: peer_play.train(peer.make, env_id, settings, n_episodes, seed, n_frozen),
    )
