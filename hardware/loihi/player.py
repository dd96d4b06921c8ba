"""Plays whole episodes of a compiled task by an emulated program: which machines can, and what the kernel takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from spikeloop.hardware.host import Host
from spikeloop.hardware.loihi import player_kernels
from spikeloop.hardware.loihi.layout import layout_of
from spikeloop.hardware.loihi.machine import LoihiMachine
from spikeloop.hardware.loihi.quantize import MAX_BIAS
from spikeloop.spiking.encoders.tile_coding import PlaceCells, Tiles
from spikeloop.spiking.encoders.tile_kernels import Coder
from spikeloop.spiking.observation import Normalizer


def plays_whole(machine: Any, host: Host) -> bool:
    """Return whether a machine can play whole episodes in one kernel.

    It can if it is an emulator of the Loihi family without noise and learning, which holds the readout; if the host
    writes currents of the observation itself, normalised or not, or sends the lines of tiles or place cells; if actions
    are discrete, or the output values within their bounds; and if state is kept from one env step to the next.
    """
    head, readout, steps = host.head, host.readout, host.preprocessing
    if type(machine) is not LoihiMachine or head is None or head.squash or head.rows:
        return False
    if head.kind not in ("discrete", "box") or host.reads_spikes or host.clears:
        return False
    if readout.every_tick and readout.kind != "winner":  # their action is not the largest output on the last tick
        return False
    program = machine.program
    if program.learns or np.any(program.compartments.noise):
        return False
    if host.input == "bias":
        return host.encoder.identity and (not steps or (len(steps) == 1 and isinstance(steps[0], Normalizer)))
    return host.input == "spikes" and not steps and isinstance(host.encoder, (Tiles, PlaceCells))


def play(machine: LoihiMachine, host: Host, episodes: Any) -> tuple[np.ndarray, ...]:
    """Play whole episodes.

    Args:
        machine: One for which :func:`plays_whole` is true.
        host: What stays beside it.
        episodes: What begins (``spikeloop.agents.episode_kernels.Episodes``).

    Returns:
        Returns and lengths, shape (E,), and mean and summed square distance of what was observed, (E, n_obs).
    """
    n, n_obs = len(episodes.states), len(episodes.shown)
    played = np.zeros(n), np.zeros(n, np.int64), np.zeros((n, n_obs)), np.zeros((n, n_obs))
    player_kernels.play(machine.emulator.loaded(), machine.initial_state(1), _beside(machine, host), episodes, *played)
    return played


def _beside(machine: LoihiMachine, host: Host) -> player_kernels.Beside:
    by_bias, readout = host.input == "bias", host.readout
    normalizer, rounds = np.zeros((0, host.n_obs)), False
    for step in host.preprocessing:
        assert isinstance(step, Normalizer)
        normalizer = np.stack([step.mean, step.std, np.broadcast_to(step.clip, step.mean.shape)])
        rounds = step.rounds
    w, b = np.zeros((0, 0)), np.zeros(0)
    if by_bias:
        assert host.w_in is not None and host.bias is not None
        w = np.ascontiguousarray(host.w_in.T, np.float64) * host.input_scale
        b = host.bias.astype(np.float64) * host.input_scale
        coder, n_active = _NO_CODE, 0
    else:
        encoder: Any = host.encoder
        coder = encoder.table
        n_active = len(coder.offsets)
    outputs = layout_of(machine.program).start("v") + machine.program.outputs
    return player_kernels.Beside(
        by_bias=by_bias,
        coder=coder,
        n_active=n_active,
        normalizer=np.ascontiguousarray(normalizer, np.float64),
        rounds=rounds,
        w=w,
        b=b,
        max_bias=float(MAX_BIAS),
        first_target=host.first_target,
        cleared=outputs.astype(np.int64) if readout.clears else np.zeros(0, np.int64),
        output_scale=float(host.output_scale),
        b_out=np.array(readout.b_out, np.float64),
        narrow=readout.b_out.dtype == np.float32 and not readout.spikes,
        n_ticks=host.n_ticks,
    )


_NO_CODE = Coder(
    sources=np.zeros((0, 2), np.int64),
    low=np.zeros(0),
    gain=np.zeros(0),
    extent=np.zeros(0),
    wraps=np.zeros(0, bool),
    sizes=np.zeros(0, np.int64),
    offsets=np.zeros((0, 0)),
    centers=np.zeros((0, 0)),
)
