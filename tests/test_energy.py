"""Counted events become the energies and times that SANA-FE computed, and those computed by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spikeloop.hardware.energy import COSTS, Cost, CostModel, EventCost, idle_energy, learning_cost
from spikeloop.hardware.loihi.cost import modelled_cost
from spikeloop.hardware.loihi.emulator import Counts, Emulator
from spikeloop.hardware.loihi.program import Compartments, Program, Projection
from spikeloop.hardware.loihi.resources import routes, use

SANAFE = json.loads((Path(__file__).parent / "golden" / "sanafe_loihi_energy.json").read_text())["cases"]


@pytest.mark.parametrize("case", SANAFE, ids=lambda case: str(case["case"]))
def test_events_and_energies_are_those_of_sanafe(case):
    n_a, n_b, result = case["na"], case["nb"], case["result"]
    compartments = Compartments.build(
        n_a + n_b,
        bias=np.array(case["bias"] + [0] * n_b) * 64,
        v_th=case["threshold"] * 64,
        core=[case["core_a"]] * n_a + [case["core_b"]] * n_b,
    )
    synapses = Projection(
        "a to b", False, np.arange(n_a), n_a + np.arange(n_b), np.array(case["w"]).T, sign_mode="excitatory"
    )
    program = Program("loihi1", "nengo", 0, compartments, (synapses,), np.arange(0))
    emulator = Emulator(program)
    emulator.run(emulator.initial_state(), case["timesteps"])
    counts = emulator.counts
    assert counts.updates == result["neurons_updated"] and counts.spikes.sum() == result["neurons_fired"]
    assert counts.synaptic_ops == result["spikes"] and counts.packets == result["packets_sent"]
    cost, energy = modelled_cost(program, counts, COSTS["sanafe"]), result["energy"]
    assert cost.dynamic == pytest.approx(energy["total"], rel=1e-9)
    assert cost.neurons == pytest.approx(energy["soma"], rel=1e-9)
    assert cost.synapses == pytest.approx(energy["synapse"], rel=1e-9)
    assert cost.network == pytest.approx(energy["network"], rel=1e-9)
    assert cost.time == pytest.approx(result["sim_time"], rel=0.03)  # its queues are simulated, ours are not


# --- by hand: three compartments on cores 0, 0 and 17, which are one tile apart from east to west

SPIKES, INPUT_SPIKES = np.array([3, 5, 70]), np.array([11, 13])


def small_program(chip="loihi1"):
    return Program(
        chip,
        "nengo",
        2,
        Compartments.build(3, core=[0, 0, 17]),
        (
            Projection("in", True, [0, 1], [0, 1, 2], [[2, 2], [0, 2], [2, 0]]),
            Projection("a", False, [0, 1], [2], [[2, 2]]),
            Projection("b", False, [0], [2, 1], [[2], [2]]),
        ),
        [],
        spike_outputs=[2],
    )


def cost_model(**times):
    """Return a model whose energies are all different, and whose times are those given; the others are tiny."""
    names = ("mapped", "idle_update", "update", "spike", "synapse", "learn", "packet", "arrival", "hop_x", "hop_y")
    energies = (2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0, 23.0, 29.0)
    events = {
        name: EventCost(energy, times.get(name, energy / 64)) for name, energy in zip(names, energies, strict=True)
    }
    return CostModel("primes", "by hand", **events, barrier=((1, 1.0), (3, 2.0)), static_power=0.5)


def counted(**fields):
    values = {"synaptic_ops": 101, "packets": 103, "input_packets": 107, "hops_x": 109, "hops_y": 127, "updates": 17}
    return Counts(
        **{"n_ticks": 10, "spikes": SPIKES, "input_spikes": INPUT_SPIKES, "overflows": {}, **values, **fields}
    )


def test_energies_are_sums_over_events():
    cost = modelled_cost(small_program(), counted(), cost_model())
    visits, fired, to_host = 3 * 10, 3 + 5 + 70, 70
    assert cost.neurons == visits * 2 + 17 * 5 + (visits - 17) * 3 + fired * 7
    assert cost.synapses == 101 * 11
    assert cost.network == (103 + 107 + to_host) * 17 + (103 + 107) * 19 + 109 * 23 + 127 * 29
    assert cost.dynamic == cost.neurons + cost.synapses + cost.network
    assert cost.static == 0.5 * cost.time


@pytest.mark.parametrize("times", [{"packet": 1.0}, {"synapse": 9.0}, {"arrival": 9.0}])
def test_time_is_that_of_the_busiest_core_and_the_barriers(times):
    model, n_ticks = cost_model(**times), 10
    t = {name: getattr(model, name).time for name in ("mapped", "idle_update", "update", "spike", "synapse", "packet")}
    visit = t["mapped"] + 17 / 30 * t["update"] + 13 / 30 * t["idle_update"]
    # lists on core 0: of "in" with 1 and 2 synapses, of "b" with 1; on core 17: one of "in", two of "a", one of "b"
    first = (
        2 * n_ticks * visit
        + (3 + 5) * t["spike"]
        + (1 * 11 + 2 * 13 + 3) * t["synapse"]
        + (11 + 13 + 3) * model.arrival.time
        + (3 + 5 + 2 * 3) * t["packet"]
    )
    second = (
        1 * n_ticks * visit
        + 70 * t["spike"]
        + (11 + 3 + 5 + 3) * t["synapse"]
        + (11 + 3 + 5 + 3) * model.arrival.time
        + 70 * t["packet"]  # to the host
    )
    cost = modelled_cost(small_program(), counted(), model)
    barrier = 1.5  # two tiles, half way between 1 and 3
    assert cost.time == pytest.approx(n_ticks * barrier + max(first, second), rel=1e-12)
    assert (second > first) == ("packet" in times)  # either core is once the busiest


def test_the_barrier_is_that_of_the_tiles_in_use():
    for core, barrier in (([0, 3], 1.0), ([0, 4], 1.5), ([0, 4, 8], 2.0), ([0, 1, 5], 1.5)):
        n = len(core)
        program = Program("loihi1", "nengo", 0, Compartments.build(n, core=core), (), [])
        nothing = Counts(10, np.zeros(n, int), np.zeros(0, int), 0, 0, 0, 0, 0, 0, {})
        cost = modelled_cost(program, nothing, cost_model(mapped=0.0, idle_update=0.0))
        assert cost.time == pytest.approx(10 * barrier)


def test_an_emulator_that_has_not_run_costs_nothing():
    nothing = {
        "n_ticks": 0,
        "updates": 0,
        "synaptic_ops": 0,
        "packets": 0,
        "input_packets": 0,
        "hops_x": 0,
        "hops_y": 0,
    }
    cost = modelled_cost(
        small_program(), counted(**nothing, spikes=SPIKES * 0, input_spikes=INPUT_SPIKES * 0), cost_model()
    )
    assert cost == Cost(0.0, 0.0, 0.0, 0.0, 0.0)


def test_every_list_that_a_spike_reaches_is_one_packet():
    found = routes(small_program())
    assert found.synapses.tolist() == [2, 2, 3, 1, 0]  # of the two lines, then of the three compartments
    assert found.packets.tolist() == [2, 1, 3, 1, 0]
    assert (found.hops_x.tolist(), found.hops_y.tolist()) == ([2, 1, 0], [0, 0, 0])
    apart = Program(
        "loihi1",
        "nengo",
        0,
        Compartments.build(2, core=[9, 18]),  # tiles (0, 2) and (1, 0)
        (Projection("there", False, [0], [1], [[2]]), Projection("back", False, [1], [0, 1], [[2], [2]])),
        [],
    )
    assert routes(apart).hops_y.tolist() == [2, 2]
    assert routes(apart).hops_x.tolist() == [1, 1]


@pytest.mark.parametrize("n_lists", [1, 2, 4])
@pytest.mark.parametrize("model", COSTS.values(), ids=COSTS)
def test_energy_and_time_and_axons_count_the_same_packets(n_lists, model):
    compartments = Compartments.build(
        1 + n_lists, decay_v=4096, v_th=64, bias=[128] + [0] * n_lists, core=[0] + [4] * n_lists
    )
    synapses = tuple(Projection(f"p{i}", False, [0], [1 + i], [[2]]) for i in range(n_lists))
    program = Program("loihi1", "nengo", 0, compartments, synapses, [])
    emulator = Emulator(program)
    emulator.run(emulator.initial_state(), 50)
    counts = emulator.counts
    assert counts.spikes[0] == 50 and counts.packets == counts.hops_y == 50 * n_lists
    assert use(program)[0].output_axons == use(program)[1].input_axons == n_lists
    cost = modelled_cost(program, counts, model)
    assert cost.network == pytest.approx(
        50 * n_lists * (model.packet.energy + model.arrival.energy + model.hop_y.energy)
    )
    slower = [modelled_cost(program, counts, replace(model, packet=EventCost(0, t))).time for t in (0.0, 1.0)]
    assert slower[1] - slower[0] == pytest.approx(50 * n_lists, rel=1e-3)


def test_idle_static_energy_is_what_the_period_leaves():
    model = cost_model()
    assert idle_energy(3.0, 1.0, model) == 0.5 * 2.0
    assert idle_energy(1.0, 3.0, model) == 0.0


def test_learning_costs_energy_per_synapse_and_the_time_of_the_busiest_core():
    cost = learning_cost([10, 30, 20], COSTS["davies2018"])
    assert cost.energy == pytest.approx(60 * 120e-12) and cost.time == pytest.approx(30 * 6.1e-9)
