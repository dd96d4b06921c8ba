"""Triplet STDP (Pfister & Gerstner 2006), their minimal model of the visual cortex: what a new rule costs, one file."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from spikeloop.spiking.rules.base import typed


class TripletTraces(NamedTuple):
    r1: np.ndarray  # presynaptic, (n_pre,)
    o1: np.ndarray  # postsynaptic, fast, (n_post,)
    o2: np.ndarray  # postsynaptic, slow, (n_post,)
    dw: np.ndarray  # change that this tick's spikes bring, (n_post, n_pre)


class TripletConstants(NamedTuple):
    decay_plus: float
    decay_minus: float
    decay_y: float
    a_plus: float
    a_minus: float


@dataclass(frozen=True)
class TripletSTDP:
    n_factors: ClassVar[int] = 2

    tau_plus: float = 16.8
    tau_minus: float = 33.7
    tau_y: float = 114.0
    a_plus: float = 0.0065
    a_minus: float = 0.0071

    def constants(self, dt, dtype, neurons=None):
        taus = {"decay_plus": self.tau_plus, "decay_minus": self.tau_minus, "decay_y": self.tau_y}
        return typed(TripletConstants, {**vars(self), **{n: math.exp(-dt / tau) for n, tau in taus.items()}}, dtype)

    def begin(self, n_post, n_pre, dtype):
        return TripletTraces(*(np.zeros(shape, dtype) for shape in (n_pre, n_post, n_post, (n_post, n_pre))))

    @staticmethod
    def tick(pre, post, traces, c):
        r1, o1, o2 = c.decay_plus * traces.r1, c.decay_minus * traces.o1, c.decay_y * traces.o2
        dw = c.a_plus * (post.z * o2)[:, None] * r1 - c.a_minus * o1[:, None] * pre
        return TripletTraces(r1 + pre, o1 + post.z, o2 + post.z, dw)

    @staticmethod
    def change(w, traces, signal, c):
        return w + traces.dw
