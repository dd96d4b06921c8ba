"""A chip family in one file: cores that compute one layer of any neurons in floats, while the host reads it out."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from spikeloop.hardware.energy import Cost
from spikeloop.hardware.figures import ChipFigures, CoreFigures
from spikeloop.hardware.host import Compiled, Host
from spikeloop.spiking.fields import check_part
from spikeloop.spiking.network import Layer
from spikeloop.spiking.neurons import NEURONS
from spikeloop.spiking.reference import heaviside, tick


@dataclass(frozen=True, eq=False)
class FloatProgram:
    """One layer, and the length of a tick in ms."""

    layer: Layer
    dt: float
    chip: str = "float"

    def __post_init__(self):
        check_part("FloatProgram", "layer", self.layer, Layer)


class FloatMachine:
    def __init__(self, program, host):
        self.layer, self.host = program.layer, host
        self.constants = self.layer.neurons.constants(program.dt, self.layer.w_in.dtype)
        self.at = self.layer.neurons.rows.index("z")
        self.overflowed, self.n_ticks, self.spikes = "", 0, np.zeros(self.layer.n_neurons)

    def initial_state(self, n_envs=1):
        return np.zeros((n_envs, len(self.layer.neurons.rows) * self.layer.n_neurons), self.layer.w_in.dtype)

    def run(self, state, x, spikes=None):
        rows = tuple(np.split(state, len(self.layer.neurons.rows), axis=1))
        sent = []
        for t in range(self.host.n_ticks):
            current = (x[t] if x.ndim == 3 else x) @ self.layer.w_in.T + self.layer.bias
            rows = tick(type(self.layer.neurons), current, rows, self.layer.w_rec, self.constants, heaviside)
            sent.append(rows[self.at])
        self.n_ticks += len(state) * self.host.n_ticks
        self.spikes += np.sum(sent, axis=(0, 1))
        if spikes is not None:
            spikes.append((np.stack(sent),))
        return np.stack(sent), np.concatenate(rows, axis=1)

    def firing_rates(self):
        return [float(self.spikes.mean()) / max(self.n_ticks, 1)]

    def figures(self):
        n, total = self.layer.n_neurons, float(self.spikes.sum())
        weights = [self.layer.w_in, *([] if self.layer.w_rec is None else [self.layer.w_rec])]
        return ChipFigures(
            profile="float32",
            cores=(CoreFigures(SimpleCore(0, n), {"neurons": (n, 256)}, (0, 0)),),
            limits={"cores": 1, "neurons": 256},
            grid=(1, 1),
            events={"spikes": total},
            overflows={},
            modelled={"guessed": Cost(0.0, 0.0, 1e-12 * total, 0.0, 1e-6 * self.n_ticks)},
            spikes_sent=0.0,
            spikes_read=total,
            n_weights=sum(w.size for w in weights),
            n_nonzero=sum(int(np.count_nonzero(w)) for w in weights),
            effective_macs=0.0,
            effective_acs=0.0,
            activation_sparsity=1.0 - self.firing_rates()[0],
            memory_bytes=sum(w.nbytes for w in weights),
        )


@dataclass(frozen=True)
class SimpleCore:
    core: int
    neurons: int


def unchanged(weights):
    return weights


@dataclass(frozen=True)
class FloatTarget:
    name: str = "float"
    program: ClassVar = FloatProgram
    parts: ClassVar = (FloatProgram, Layer, *NEURONS.values())
    costs: ClassVar = {"guessed": SimpleNamespace(static_power=0.1)}
    costs_note: ClassVar = " (made up)"
    approximations: ClassVar = {}
    options: ClassVar = {}

    def compile(self, network, calibration, *, bits, strict, approximate):
        if len(network.layers) != 1 or network.latency:
            raise ValueError("float holds one layer, of latency 0")
        host = Host(
            observation=network.parts,
            encoder=network.encoder,
            readout=network.readout,
            n_ticks=network.n_ticks,
            dt=network.dt,
            input="spikes" if network.encoder.spikes else "graded",
            input_scale=1.0,
            output_scale=1.0,
            preprocessing=network.preprocessing,
            head=network.head,
        )
        return Compiled(FloatProgram(network.layers[0], network.dt), host)

    def check(self, program, host):
        if host.readout.n_neurons != program.layer.n_neurons:
            raise ValueError("Deployment.host.readout must read the program's neurons")

    def load(self, program, host, interpreted=False):
        return FloatMachine(program, host)

    def quantizer(self, bits=8):
        return unchanged
