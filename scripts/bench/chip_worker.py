"""Worker of `spikeloop benchmark chip`: one other simulator in its own interpreter, without spikeloop.

Called as ``PYTHON chip_worker.py SIMULATOR PROBLEM.npz``. Builds the network of the file, runs it once over the
input and prints ``ready`` and a checksum of the second layer's voltages; then, for every line on stdin, runs it over
the input again and prints the seconds of it per tick.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

# Three functions: run the network over its input once (and return the seconds, unless all of the call counts), read the
# voltages of the second layer, end the simulator.
Simulator = tuple[Callable[[], Any], Callable[[], np.ndarray], Callable[[], None]]


def lava(problem: dict[str, Any]) -> Simulator:
    """Return functions that run lava-nc's fixed-point processes, read the voltages, and end the simulator."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi1SimCfg
    from lava.proc.dense.process import Dense
    from lava.proc.io.source import RingBuffer
    from lava.proc.lif.process import LIF

    n, n_ticks = problem["w1"].shape[0], len(problem["x"])
    source = RingBuffer(data=problem["x"].T.astype(int))
    settings = {"shape": (n,), "du": int(problem["decay_u"]) - 1, "dv": int(problem["decay_v"])}
    layers = [LIF(**settings, vth=int(problem["v_th"])) for _ in range(2)]
    synapses = [Dense(weights=problem[name].astype(int), num_weight_bits=8, weight_exp=0) for name in ("w1", "w2")]
    source.s_out.connect(synapses[0].s_in)
    synapses[0].a_out.connect(layers[0].a_in)
    layers[0].s_out.connect(synapses[1].s_in)
    synapses[1].a_out.connect(layers[1].a_in)
    config = Loihi1SimCfg(select_tag="fixed_pt")

    def run() -> None:
        layers[1].run(condition=RunSteps(num_steps=n_ticks), run_cfg=config)

    return run, lambda: layers[1].v.get(), layers[1].stop


def brian(problem: dict[str, Any], target: str) -> Simulator:
    """Return the same for brian2-loihi, with one of brian2's ways to make code."""
    import brian2
    from brian2_loihi import LoihiNetwork, LoihiNeuronGroup, LoihiSpikeGeneratorGroup, LoihiSynapses, synapse_sign_mode

    brian2.prefs.codegen.target = target
    n, n_ticks = problem["w1"].shape[0], len(problem["x"])
    times, lines = np.nonzero(problem["x"])
    source = LoihiSpikeGeneratorGroup(n, lines, times, period=n_ticks)
    settings = {"refractory": 1, "threshold_v_mant": int(problem["v_th"])}
    settings.update(decay_v=int(problem["decay_v"]), decay_I=int(problem["decay_u"]))
    layers = [LoihiNeuronGroup(n, **settings) for _ in range(2)]
    synapses = []
    for name, before, after in (("w1", source, layers[0]), ("w2", layers[0], layers[1])):
        synapse = LoihiSynapses(before, after, delay=int(name == "w1"), sign_mode=synapse_sign_mode.MIXED, w_exp=0)
        synapse.connect()
        synapse.w = problem[name].T.reshape(-1).astype(int)  # brian2 lists synapses by source
        synapses.append(synapse)
    network = LoihiNetwork(source, *layers, *synapses)
    return lambda: network.run(n_ticks), lambda: np.asarray(layers[1].v), lambda: None


def nengo(problem: dict[str, Any]) -> Simulator:
    """Return the same for nengo-loihi's emulator."""
    from nengo_loihi.block import Axon, LoihiBlock, Synapse
    from nengo_loihi.builder import Model
    from nengo_loihi.builder.discretize import discretize_model
    from nengo_loihi.emulator import EmulatorInterface
    from nengo_loihi.inputs import SpikeInput

    n, n_ticks = problem["w1"].shape[0], len(problem["x"])
    model = Model()
    blocks: list[Any] = []
    source = SpikeInput(n)
    for i in range(2):
        block = LoihiBlock(n)
        block.compartment.configure_lif(vth=1.0)
        block.compartment.configure_filter(0.005)
        synapse = Synapse(n)
        synapse.set_weights(np.full((n, n), 0.01))
        block.add_synapse(synapse)
        axon = Axon(n)
        axon.target = synapse
        axon.set_compartment_axon_map(np.arange(n))
        (blocks[0] if i else source).add_axon(axon)
        blocks.append(block)
        model.add_block(block)
    model.add_input(source)
    discretize_model(model)
    for block, name in zip(blocks, ("w1", "w2"), strict=True):
        compartment = block.compartment
        compartment.decay_u[:], compartment.decay_v[:] = problem["decay_u"] - 1, problem["decay_v"]
        compartment.vth[:], compartment.bias[:] = problem["v_th"] * 64, 0
        compartment.refract_delay[:], compartment.vmin, compartment.vmax = 1, -(2**23) + 1, 2**23 - 1
        synapse = block.synapses[0]
        for k in range(n):
            synapse.weights[k][:] = 64 * problem[name][:, k]
    started = {"at": 0}
    emulator = EmulatorInterface(model)

    def run() -> float:
        for t, spikes in enumerate(problem["x"]):
            source.add_spikes(started["at"] + t + 1, np.flatnonzero(spikes))
        started["at"] += n_ticks
        begin = time.perf_counter()
        emulator.run_steps(n_ticks)
        return time.perf_counter() - begin  # handing over the input is not counted

    return run, lambda: emulator.compartment.voltage[n:], lambda: None


def main(simulator: str, path: str) -> None:
    """Serve one simulator until stdin ends."""
    with np.load(path) as file:
        problem = {key: file[key] for key in file.files}
    makers = {
        "lava": lava,
        "brian-numpy": lambda p: brian(p, "numpy"),
        "brian-cython": lambda p: brian(p, "cython"),
        "nengo": nengo,
    }
    run, voltages, stop = makers[simulator](problem)
    run()
    print("ready", zlib.crc32(np.asarray(voltages(), dtype=np.int64).tobytes()), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        counted = run()
        seconds = time.perf_counter() - begin if counted is None else counted
        print(seconds / len(problem["x"]), flush=True)
    stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
