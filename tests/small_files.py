"""Small files of every kind that spikeloop reads without pickle, with all parts in them."""

import warnings

import numpy as np
from deployable import exact_network

from spikeloop.hardware import compile_network
from spikeloop.spiking import ActionHead, Encoder, Layer, LsnnNeurons, Network, Readout
from spikeloop.spiking.observation import FrameStack, Normalizer, ObservationPart, Reorder
from spikeloop.spiking.readout import Dense

ENCODERS = ("direct", "population", "rate", "latency", "delta")
OTHER_STEPS = (Normalizer(np.zeros(2), np.ones(2), 5.0), FrameStack(2, 2), Reorder([3, 1, 0, 2]))


def write_files(folder):
    """Return {(kind, name): bytes} of small files with all parts in them, each of which was written to a folder."""
    made = {}

    def keep(kind, name, value):
        value.save(folder / "file")
        made[kind, name] = (folder / "file").read_bytes()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for encoder in ENCODERS:
            keep("network", encoder, exact_network(sizes=(4, 3), encoder=encoder, n_ticks=4))
        keep("network", "first spike", exact_network(sizes=(4,), first_spike=True))
        keep("network", "all parts", all_parts())
        for chip, encoder in (("loihi1", "direct"), ("loihi1", "rate"), ("loihi2", "population"), ("loihi2", "delta")):
            deployment = compile_network(exact_network(sizes=(4,), encoder=encoder), chip)
            keep("deployment", f"{encoder} on {chip}", deployment)
            keep("program", f"{encoder} on {chip}", deployment.program)
    return made


def all_parts():
    """Return a network with an observation of two parts, every preprocessing step, dense layers and a box."""
    ones = np.ones(3, "f4")
    layer = Layer(np.ones((3, 4), "f4"), np.zeros(3), LsnnNeurons(ones, ones, ones, ones, ones), None)
    parts = ObservationPart((), "a"), ObservationPart((1, 1), "b")
    readout = Readout(np.ones((2, 3)), np.zeros(2), dense=(Dense(np.eye(3), np.zeros(3)),))
    head = ActionHead("box", (1, 1), (2, 1), [[-1], [-1]], [[1], [1]])
    wide = Readout(
        *(np.float32(x) for x in (readout.w_out, readout.b_out)), dense=(Dense(np.eye(3, dtype="f4"), ones),)
    )
    return Network(Encoder("direct", 4), (layer,), wide, head, OTHER_STEPS, 2, 1.0, 1, parts, {"env": "CartPole-v1"})
