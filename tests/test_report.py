"""Counted events become the energies that SANA-FE computed, and reports hold what they promise."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
from deployable import exact_network, observations

from spikeloop.hardware.chip import CHIPS, COSTS
from spikeloop.hardware.compiler import compile_network
from spikeloop.hardware.core import Emulator
from spikeloop.hardware.deployed import DeployedPolicy
from spikeloop.hardware.energy import modelled_cost
from spikeloop.hardware.program import Compartments, Program, Projection
from spikeloop.hardware.report import draw_cores, report
from spikeloop.spiking import Simulator
from spikeloop.spiking.metrics import activation_sparsity

SANAFE = json.loads((Path(__file__).parent / "golden" / "sanafe_loihi_energy.json").read_text())["cases"]


def ran(chip="loihi1", n_steps=20, **options):
    """Return a policy that has run some steps with one environment."""
    policy, state = DeployedPolicy(compile_network(exact_network(**options), chip, calibration=observations()[0])), None
    for x in observations()[0][:n_steps, :1]:
        _, state = policy.predict(x, state, np.zeros(1, bool))
    return policy


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


def test_davies_constants_add_up():
    policy = ran()
    counts, program = policy.engine.counts, policy.deployment.program
    cost = modelled_cost(program, counts, COSTS["davies2018"])
    visits = program.compartments.n * counts.n_ticks
    expected = 81 * counts.updates + 52 * (visits - counts.updates) + 23.6 * counts.synaptic_ops + 1.7 * counts.packets
    assert cost.dynamic == pytest.approx(expected * 1e-12, rel=1e-12)
    assert cost.static == pytest.approx(3.34 / 32 * cost.time)
    assert cost.time > counts.n_ticks * 113e-9


@pytest.mark.parametrize("chip", CHIPS)
def test_report_counts_what_ran(chip):
    policy = ran(chip)
    figures, network = report(policy), exact_network()
    simulator = Simulator(network)
    simulator.run(observations()[0][:20, :1])
    spikes = simulator.spike_counts[0].sum()
    assert figures.events["spikes"] == pytest.approx(spikes / 20)
    sparsity = activation_sparsity(simulator.spike_counts, simulator.n_counted)
    assert figures.metrics["activation_sparsity"] == pytest.approx(sparsity)
    by_bias = chip == "loihi1"
    assert figures.host["biases written"] == (12 if by_bias else 0)
    assert figures.host["multiply-accumulates"] == (12 * 3 if by_bias else 0) + 2
    assert figures.host["spikes sent to the chip"] > 0 or by_bias
    assert figures.metrics["effective_acs"] + figures.metrics["effective_macs"] <= figures.metrics["dense"]
    assert set(figures.modelled) == set(COSTS)
    assert all(value > 0 for cost in figures.modelled.values() for value in cost.values())


def test_the_host_is_charged_for_a_readout_it_computes():
    with pytest.warns(UserWarning, match="readout on the host"):
        policy = ran(latency=0)
    figures = report(policy)
    assert figures.host["spikes read from the chip"] == pytest.approx(figures.events["spikes"])
    assert figures.host["accumulates"] == pytest.approx(2 * figures.events["spikes"])
    assert figures.host["values read from the chip"] == 0


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
    for word in ("modelled", "cores", "input axons", "synaptic memory", "dynamic energy", "static energy", "latency"):
        assert word in text
    values = json.loads(json.dumps(figures.to_dict()))
    assert (
        "modelled" in values["what"] and values["limits"]["cores"] == 128 and values["cores"][0]["compartments"] == 20
    )


def test_cores_are_drawn_with_their_use(tmp_path):
    pytest.importorskip("matplotlib")
    from spikeloop.spiking.plotting import new_axes

    ax = draw_cores(new_axes()[0], report(ran()))
    assert "modelled" in ax.get_title() and "1 of 128 cores" in ax.get_title()
    assert [text.get_text() for text in ax.texts] == ["2%"]
    ax.figure.savefig(tmp_path / "cores.png")


def test_overflow_is_reported_not_silent():
    policy = ran()
    with pytest.warns(UserWarning, match="values left their range"):
        policy.predict(np.full((1, 3), 1e4), policy.initial_state(), np.zeros(1, bool))
    state = policy.engine.write(policy.initial_state().chip, "v", [0], -(2**23) + 1)
    policy.engine.run(state, 1, None, np.full((1, 20), -4095 * 128))  # beyond the least v
    figures = report(policy)
    for kind in ("bias written by the host", "v below"):
        assert figures.overflows[kind] > 0 and kind in figures.table()


def test_nothing_is_reported_of_a_policy_that_has_not_run():
    deployment = compile_network(exact_network())
    for policy in (DeployedPolicy(deployment), DeployedPolicy(deployment, interpreted=True)):
        with pytest.raises(ValueError, match="at least one step"):
            report(policy)
