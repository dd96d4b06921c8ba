"""Reports of what ran on the chip hold what they promise, as figures, table and picture."""

import builtins
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from deployable import exact_network, observations

from spikeloop.hardware.compile import compile_network
from spikeloop.hardware.deployed import DeployedPolicy
from spikeloop.hardware.draw import draw_cores
from spikeloop.hardware.energy import COSTS
from spikeloop.hardware.loihi.chip import CHIPS
from spikeloop.hardware.loihi.cost import modelled_cost
from spikeloop.hardware.loihi.figures import core_figures, grid, n_weights
from spikeloop.hardware.loihi.resources import RESOURCES, CoreUse, list_words, use
from spikeloop.hardware.report import MODELLED_OF, NOT_MODELLED, report
from spikeloop.spiking import Normalizer, Simulator
from spikeloop.spiking.metrics import activation_sparsity, connection_sparsity
from spikeloop.spiking.readout import Dense


def ran(chip="loihi1", n_steps=20, **options):
    """Return a policy that has run some steps with one environment."""
    policy, state = DeployedPolicy(compile_network(exact_network(**options), chip, calibration=observations()[0])), None
    for x in observations()[0][:n_steps, :1]:
        _, state = policy.predict(x, state, np.zeros(1, bool))
    return policy


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("encoder", ["direct", "rate"])
@pytest.mark.parametrize("latency", [0, 1])
@pytest.mark.filterwarnings("ignore:lowered")
def test_report_is_what_was_counted_divided_by_the_steps(chip, encoder, latency):
    options = {"encoder": encoder, "latency": latency, "beta": 0.0}
    policy = ran(chip, 7, **options)
    figures, counts, deployment = report(policy), policy.machine.counts, policy.deployment
    program, network = deployment.program, exact_network(**options)
    assert figures.n_steps == 7 and figures.ticks_per_step == 3 and counts.n_ticks == 21
    assert figures.events["spikes"] * 7 == pytest.approx(sum(counts.spikes))
    assert figures.events["input spikes"] * 7 == pytest.approx(sum(counts.input_spikes))
    assert figures.events["synaptic operations"] * 7 == pytest.approx(counts.synaptic_ops)
    assert figures.events["compartment updates"] * 7 == pytest.approx(counts.updates)
    assert figures.events["packets to cores"] * 7 == pytest.approx(counts.packets + counts.input_packets)
    for name, model in COSTS.items():
        cost = modelled_cost(program, counts, model)
        expected = {"dynamic": cost.dynamic / 7, "static": cost.static / 7, "time": cost.time / 7}
        assert figures.modelled[name] == pytest.approx(expected)
    by_bias, graded = encoder == "direct" and chip == "loihi1", encoder == "direct" and chip == "loihi2"
    read = 0.0 if latency else sum(counts.spikes) / 7
    n_channels = 3
    assert figures.host == pytest.approx(
        {
            "observations normalised": 0,
            "channels encoded": 0 if encoder == "direct" else 3 * n_channels,
            "multiply-accumulates": 12 * n_channels * by_bias + 2 * latency,
            "accumulates": 2 * read,
            "biases written": 12 * by_bias,
            "spikes sent to the chip": 0 if by_bias else 3 * n_channels if graded else sum(counts.input_spikes) / 7,
            "values read from the chip": 2 * latency,
            "spikes read from the chip": read,
            "outputs compared": 2,
            "chip set to rest": 0,
        }
    )
    assert figures.events["packets to the host"] == read
    assert figures.metrics["connection_sparsity"] == pytest.approx(connection_sparsity(network))
    synapses = 12 * 3 + 12 * 12 + 2 * 12
    n_executed = 3 * synapses - (2 * 12 * 3 if by_bias else 0)  # a current is projected once per step
    assert figures.metrics["dense"] == n_executed + 2 * latency
    reached = [np.count_nonzero(w, axis=0) for w in (network.layers[0].w_in, network.layers[0].w_rec)]
    per_input = reached[0] @ counts.input_spikes / 7 if program.n_inputs else 0.0
    spikes = counts.spikes[program.compartments.fires > 0] / 7
    read_out = np.count_nonzero(network.readout.w_out, axis=0) @ spikes if latency else 2 * read
    assert figures.metrics["effective_macs"] == pytest.approx(
        per_input * graded + (12 * 3) * by_bias + 2 * latency, rel=1e-6
    )
    assert figures.metrics["effective_acs"] == pytest.approx(
        per_input * (not graded) + reached[1] @ spikes + read_out, rel=1e-6
    )


@pytest.mark.parametrize("latency", [0, 1])
@pytest.mark.filterwarnings("ignore:lowered")
def test_dense_layers_count_as_the_hosts(latency):
    network = exact_network(latency=latency)
    first = replace(network.readout, w_out=np.ones((5, 12), "f4"), b_out=np.zeros(5, "f4"))
    plain = replace(network, readout=first, head=None, latency=0)
    dense = (Dense(np.ones((5, 12), "f4"), np.ones(5, "f4")), Dense(np.ones((3, 5), "f4"), np.ones(3, "f4")))
    deep = replace(network, readout=replace(network.readout, w_out=np.ones((2, 3), "f4"), dense=dense))
    found = []
    for one in (plain, deep):
        policy = DeployedPolicy(compile_network(one, calibration=observations()[0]))
        policy.step(observations()[0][0])
        found.append(report(policy))
    once = 5 * 3 + 3 * 2  # dense layers behind the first weights meet values, once per env step
    for name in ("dense", "effective_macs"):
        assert found[1].metrics[name] == found[0].metrics[name] + once
    spikes = found[1].host["spikes read from the chip"]
    assert found[1].host["accumulates"] == 5 * spikes
    assert found[1].metrics["footprint"] == found[0].metrics["footprint"] + 4 * (once + 3 + 2)


@pytest.mark.parametrize("chip", CHIPS)
def test_spikes_of_the_chip_are_those_of_the_simulator(chip):
    figures, network = report(ran(chip)), exact_network()
    simulator = Simulator(network)
    simulator.run(observations()[0][:20, :1])
    assert figures.events["spikes"] == pytest.approx(simulator.spike_counts[0].sum() / 20)
    sparsity = activation_sparsity(simulator.spike_counts, simulator.n_counted)
    assert figures.metrics["activation_sparsity"] == pytest.approx(sparsity)
    assert figures.metrics["effective_acs"] + figures.metrics["effective_macs"] <= figures.metrics["dense"]


@pytest.mark.parametrize(
    "weights, size",
    [
        (np.diag([2, 2, 2]), 3),  # each neuron has its own synapse
        (np.array([[2, 2, 2], [0, 0, 0], [0, 0, 0]]), 3),
        (np.array([[2, 2, 2], [2, 0, 0], [0, 0, 0]]), 9),
        (np.array([[2, 0, 2, 2]]), 3),
        (np.zeros((2, 3), int), 0),
    ],
)
def test_a_matrix_of_one_synapse_per_neuron_counts_those_alone(weights, size):
    assert n_weights(weights) == size


@pytest.mark.filterwarnings("ignore:lowered")
def test_the_footprint_is_synaptic_memory_state_and_the_hosts_arrays():
    policy = ran(latency=0, beta=0.0)
    words = list_words(policy.deployment.program.projections[0], np.full(12, 11), 12, 0)
    assert report(policy).metrics["footprint"] == 8 * (words + 12) + 4 * (12 * 3 + 12 + 2 * 12 + 2)


def test_the_host_normalises_encodes_and_is_charged_for_it():
    network = exact_network(encoder="rate")
    normalizer = Normalizer(np.zeros(3), np.ones(3))
    policy = DeployedPolicy(
        compile_network(replace(network, preprocessing=(normalizer,)), calibration=observations()[0])
    )
    policy.predict(observations()[0][0], episode_start=np.ones(3, bool))
    host = report(policy).host
    assert (host["observations normalised"], host["channels encoded"]) == (3, 9)
    assert host["outputs compared"] == 2
    deployment = compile_network(replace(exact_network(encoder="population"), head=None))
    policy = DeployedPolicy(deployment)
    policy.step(observations()[0][0])
    host = report(policy).host
    assert host["channels encoded"] == 9  # three per number, once per step
    assert host["outputs compared"] == 0  # it is no policy: nothing is chosen


def test_spikes_that_the_host_reads_leave_the_chip_in_packets_and_by_axons():
    with pytest.warns(UserWarning, match="readout on the host"):
        policy = ran(latency=0, beta=0.0, recurrent=False)
    figures, program, counts = report(policy), policy.deployment.program, policy.machine.counts
    spikes = counts.spikes.sum()
    assert spikes > 0 and counts.packets == counts.input_packets == 0
    assert figures.events["packets to the host"] == pytest.approx(spikes / 20)
    assert modelled_cost(program, counts, COSTS["sanafe"]).network == pytest.approx(spikes * 111e-12)
    assert use(program)[0].output_axons == 12
    with pytest.raises(ValueError, match="if an older spikeloop wrote the file, compile the network again"):
        replace(policy.deployment, program=replace(program, spike_outputs=[]))


# --- how it is shown


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("has_rich", [True, False])
def test_report_is_a_table_json_and_says_modelled(chip, has_rich, monkeypatch, capsys):
    if has_rich:
        pytest.importorskip("rich")
        monkeypatch.setenv("COLUMNS", "100")
    else:
        imported = builtins.__import__

        def without_rich(name, *args, **kwargs):
            if name.startswith("rich"):
                raise ImportError(name)
            return imported(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without_rich)
    figures = report(ran(chip))
    figures.print()
    text = capsys.readouterr().out
    for word in ("modelled", "cores", "dynamic energy", "static energy, whole chip", "time", *RESOURCES):
        assert word in text
    for words in (*MODELLED_OF, *NOT_MODELLED):
        assert words.split(":")[0] in " ".join(text.split())
    values = json.loads(json.dumps(figures.to_dict()))
    assert (
        "modelled" in values["what"] and values["limits"]["cores"] == 128 and values["cores"][0]["compartments"] == 20
    )


def test_the_table_shows_each_resource_on_the_fullest_core_and_its_limit():
    cores = (used(compartments=3, delay_slots=8, memory_words=1000), used(core=1, compartments=2, delay_slots=16))
    text = " ".join(replace(report(ran()), cores=core_figures(cores, CHIPS["loihi1"])).table().split())
    for row in (
        "cores 2 of 128",
        "compartments 3 of 1,024 on the fullest core, 5 in all",
        "64-bit words of synaptic memory 1,000 of 16,384 on the fullest core, 1,000 in all",
        "compartments x delay slots 32 of 8,192 on the fullest core, 56 in all",
    ):
        assert row in text
    for chip, limits in (("loihi1", "of 32"), ("loihi2", "no limit")):
        policy = ran(chip)
        profiles = use(policy.deployment.program)[0].compartment_profiles
        assert f"compartment profiles {profiles} {limits} thresholds" in " ".join(report(policy).table().split())


def used(**fields):
    """Return the use of a core whose every resource is at its smallest, but for those given."""
    names = ("core", "compartments", "input_axons", "output_axons", "memory_words", "delay_slots")
    least = dict.fromkeys((*names, "compartment_profiles", "threshold_profiles", "synapse_formats"), 0)
    return CoreUse(**{**least, **fields})


def with_cores(figures, cores):
    chip = CHIPS["loihi1"]
    return replace(figures, cores=core_figures(cores, chip), grid=grid(cores, chip))


@pytest.mark.parametrize(
    "fields, label",
    [
        ({"compartments": 512}, "compartments"),
        ({"input_axons": 2048}, "input axons"),
        ({"output_axons": 2048}, "output axons"),
        ({"memory_words": 8192}, "64-bit words of synaptic memory"),
        ({"compartments": 64, "delay_slots": 64}, "compartments x delay slots"),
        ({"compartment_profiles": 16}, "compartment profiles"),
        ({"threshold_profiles": 4}, "thresholds"),
        ({"synapse_formats": 4}, "synapse formats"),
    ],
)
def test_a_core_is_as_full_as_its_scarcest_resource(fields, label):
    (core,) = core_figures([used(**fields)], CHIPS["loihi1"])
    used_up, most = core.needs[label]
    assert core.share == used_up / most == 0.5


def test_what_has_no_limit_is_never_scarce():
    most = {"delay_slots": 64, "compartment_profiles": 99, "threshold_profiles": 99, "synapse_formats": 99}
    (core,) = core_figures([used(compartments=4096, **most)], CHIPS["loihi2"])
    assert core.share == core.needs["compartments"][0] / 8192 == 0.5


def test_cores_are_drawn_where_they_are_with_the_share_of_what_is_scarcest():
    pytest.importorskip("matplotlib")
    from spikeloop.spiking.plotting import new_axes

    cores = (used(threshold_profiles=4), used(core=6, synapse_formats=2), used(core=127))
    figures = with_cores(report(ran()), cores)
    ax = draw_cores(new_axes()[0], figures)
    assert [(text.get_position(), text.get_text()) for text in ax.texts] == [
        ((0, 0), "50%"),
        ((0, 3), "25%"),  # tile (0, 1), its third core
        ((15, 7), "0%"),
    ]
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert shown.shape == (8, 16) and np.count_nonzero(~np.isnan(shown)) == 3
    assert (shown[0, 0], shown[3, 0], shown[7, 15]) == (0.5, 0.25, 0.0) and ax.images[0].get_clim() == (0.0, 1.0)
    far = draw_cores(new_axes()[0], with_cores(figures, (used(core=128),)))  # limits off: beyond the chip
    assert far.images[0].get_array().shape == (8, 18)


def test_the_picture_says_dynamic_and_static_energy():
    pytest.importorskip("matplotlib")
    from spikeloop.spiking.plotting import new_axes

    costs = {"sanafe": {"dynamic": 31.25e-9, "static": 440e-9, "time": 4.25e-6}}
    figures = replace(report(ran()), modelled=costs)
    expected = "31.2 nJ dynamic and 440.0 nJ static energy, 4.2 µs per env step"
    assert figures.energy() == expected
    assert draw_cores(new_axes()[0], figures).get_title() == f"loihi1: 1 of 128 cores; modelled {expected}"


def test_figures_of_a_table_are_in_the_units_it_says():
    costs = {"sanafe": {"dynamic": 31e-9, "static": 440e-9, "time": 4.2e-6, "idle": 2e-3}}
    text = " ".join(replace(report(ran()), modelled=costs, control_period=0.02).table().split())
    for figure in (
        "dynamic energy 31.00 nJ",
        "static energy, whole chip 440.00 nJ",
        "static energy until the next step 2,000.00 µJ, with one step per 20 ms",
        "time 4.20 µs",
    ):
        assert figure in text


def test_with_a_control_period_the_energy_of_waiting_has_its_own_line():
    policy = ran()
    without, figures = report(policy), report(policy, 0.02)
    for name, cost in figures.modelled.items():
        assert cost["idle"] == pytest.approx(3.34 / 32 * (0.02 - cost["time"]), rel=1e-9)
        assert {key: cost[key] for key in without.modelled[name]} == without.modelled[name]
    assert "until the next step" in figures.table() and "until the next step" not in without.table()
    assert (figures.to_dict()["control_period"], without.to_dict()["control_period"]) == (0.02, None)
    for wrong in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"control_period must be a number > 0 in s, got"):
            report(policy, wrong)


def test_overflow_is_reported_not_silent():
    policy = ran()
    with pytest.warns(UserWarning, match="values left their range"):
        policy.predict(np.full((1, 3), 1e4), policy.initial_state(), np.zeros(1, bool))
    state = policy.machine.emulator.write(policy.initial_state().chip, "v", [0], -(2**23) + 1)
    policy.machine.emulator.run(state, 1, None, np.full((1, 20), -4095 * 128))  # beyond the least v
    figures = report(policy)
    for kind in ("bias written by the host", "v below"):
        assert figures.overflows[kind] > 0 and kind in figures.table()


def test_nothing_is_reported_of_a_policy_that_has_not_run():
    deployment = compile_network(exact_network())
    for policy in (DeployedPolicy(deployment), DeployedPolicy(deployment, interpreted=True)):
        with pytest.raises(ValueError, match="at least one step"):
            report(policy)


def test_weights_that_quantisation_does_not_change_leave_plain_json():
    policy = ran()  # of numbers that the chip holds exactly
    assert any(cost.signal_to_noise_db == math.inf for cost in report(policy).quantization)
    figures = json.loads(json.dumps(report(policy).to_dict(), allow_nan=False))
    assert any(cost["signal_to_noise_db"] is None for cost in figures["quantization"])
