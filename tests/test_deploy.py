"""`spikeloop deploy` compiles, runs and reports; what it leaves rolls out; wrong requests get one line and status 2."""

import dataclasses
import json
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from deployable import exact_network, observations
from test_deployed import cartpole_network

from spikeloop.hardware import CHIPS, DeployedPolicy, Deployment, Trace, compile_network
from spikeloop.hardware.recording import record
from spikeloop.scripts import deploy, rollout, train, verify
from spikeloop.scripts.players import play, record_deployed_episode
from spikeloop.scripts.run_folder import cores_picture, deployed_file, report_file
from spikeloop.spiking import Simulator


def start(script, *args):
    """Run a script and return its exit status."""
    return script.main([str(arg) for arg in args])


observe = deploy.observations


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The file of a network for CartPole."""
    file = tmp_path_factory.mktemp("saved") / "policy.safetensors"
    dataclasses.replace(cartpole_network(), metadata={"env": "CartPole-v1"}).save(file)
    return file


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_a_network_is_deployed_and_rolls_out_as_it_was_reported(chip, saved, tmp_path, capsys):
    out = tmp_path / "new" / chip
    args = ["--chip", chip, "-n", 3, "--seed", 5, "--out", out, "--check-actions", 60]
    assert start(deploy, saved, *args, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert json.loads((out / f"report-{chip}.json").read_text()) == results
    assert set(results["returns"]) == {"float", "chip", "random"} and results["checked_steps"] == 60
    means = {name: np.mean(values) for name, values in results["returns"].items()}
    kept = (means["chip"] - means["random"]) / (means["float"] - means["random"])
    assert results["kept"] == pytest.approx(kept) and kept > 0.7
    assert results["kept_interval"][0] <= kept <= results["kept_interval"][1]
    assert results["agreement"]["steps"] > 200 and results["agreement"]["chip"] > 0.8
    idle = results["report"]["modelled"]["sanafe"]["idle"]
    assert results["report"]["control_period"] == 0.02 and idle == pytest.approx(3.34 / 32 * 0.02, rel=0.01)
    assert Deployment.load(out / f"deployed-{chip}.safetensors").program.chip == chip
    assert (out / f"cores-{chip}.png").stat().st_size > 1000
    for source in (out, out / f"deployed-{chip}.safetensors"):
        assert start(rollout, source, "--deployed", "-n", 1, "--seed", 5, "--json") == 0
        rolled = json.loads(capsys.readouterr().out)
        assert rolled["returns"] == results["returns"]["chip"][:1] and rolled["firing_rates"][0] > 0


def test_the_table_says_what_was_kept_and_what_is_modelled(saved, tmp_path, capsys):
    assert start(deploy, saved, "-n", 2, "--out", tmp_path) == 0
    text = capsys.readouterr().out
    assert "kept" in text and "modelled" in text and "deployed-loihi1.safetensors" in text
    assert "95% interval" in text and "nJ static energy" in text and "slightly disturbed" in text
    assert "chip     return" in text and "random   return" in text


def test_a_deployed_policy_goes_on_learning(saved, tmp_path, capsys):
    """Its file holds the rule and what it has learned; rolled out, it learns on."""
    status = start(deploy, saved, "-n", 2, "--learn", "rstdp", "--out", tmp_path, "--json")
    results = json.loads(capsys.readouterr().out)
    assert status == 0 and set(results["returns"]) == {"float", "chip", "learning", "random"}
    assert results["report"]["events"]["synapses learned"] > 0
    assert results["learned"]["readout"].keys() == {"weights", "changed", "mean"}
    learned = Deployment.load(tmp_path / "deployed-loihi1.safetensors")
    assert learned.program.learns and learned.reinforcement.value > 0
    assert start(rollout, tmp_path, "--deployed", "-n", 1, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["returns"]) == 1


@pytest.mark.filterwarnings("ignore:values left")
def test_the_body_changes_for_every_player_anew(saved, tmp_path, capsys):
    returns = []
    for body in ([], ["--body", "length=0.02@1"]):
        assert start(deploy, saved, "-n", 2, *body, "--learn", "rstdp", "--out", tmp_path, "--json") == 0
        returns.append(json.loads(capsys.readouterr().out)["returns"])
    before, now = returns
    assert all(now[player][0] == before[player][0] for player in ("float", "chip", "random"))
    assert all(now[player][1] != before[player][1] for player in ("float", "chip"))
    assert start(rollout, tmp_path, "--deployed", "-n", 1, "--body", "action_sign", "--json") == 0
    capsys.readouterr()
    for text, answer in {"colour=2": "part must be one of", "length=2@x": "takes PART=VALUE[@N]"}.items():
        assert start(deploy, saved, "-n", 1, "--body", text, "--out", tmp_path) != 0
        assert answer in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:values left")
def test_a_policy_whose_body_changes_tries_other_weights(saved, tmp_path, capsys):
    learn = ["--learn", "perturbation", "--body", "action_sign@1", "--out", tmp_path, "--json"]
    assert start(deploy, saved, "-n", 6, *learn) == 0
    returns = json.loads(capsys.readouterr().out)["returns"]
    search = Deployment.load(tmp_path / "deployed-loihi1.safetensors").reinforcement
    assert search.n_episodes == 26 and search.mean > 0
    assert returns["learning"][0] == returns["chip"][0]  # on the old body nothing changes
    assert start(rollout, tmp_path, "--deployed", "-n", 1, "--json") == 0
    capsys.readouterr()
    assert start(deploy, saved, *learn, "--learn-tag", "u0*t") != 0
    assert "--learn perturbation has tags and traces of its own" in capsys.readouterr().err


def test_a_rule_can_be_written_out(saved, tmp_path, capsys):
    rule = ["--learn", "2^-7*u0*r1*t", "--learn-tag", "x1*y0 - 2^-3*u0*t", "--learn-trace", "x1=20,4", "r1=1,0"]
    assert start(deploy, saved, "-n", 1, *rule, "--learn-projection", "readout", "--out", tmp_path, "--json") == 0
    (learned,) = [
        p for p in Deployment.load(tmp_path / "deployed-loihi1.safetensors").program.projections if p.learning
    ]
    assert (learned.name, learned.learning.rule.dw) == ("readout", "2^-7*u0*r1*t")
    assert (learned.learning.rule.x1, learned.learning.rule.r1) == (Trace(20, 4), Trace(1, 0))
    capsys.readouterr()


def test_a_run_folder_is_deployed_with_its_normalisation(tmp_path, capsys):
    pytest.importorskip("rl_zoo3")
    env = "spikeloop/CartPoleNoVel-v0"
    sizes = ["n_envs:2", "n_steps:32", "batch_size:64", "n_epochs:1", "policy_kwargs:dict(n_neurons=[8])"]
    budget = ["-n", 64, "--eval-freq", -1, "--verbose", 0, "-f", tmp_path, "--seed", 0]
    assert start(train, "--env", env, *budget, "--hyperparams", *sizes) == 0
    run = tmp_path / "spiking_ppo" / "spikeloop-CartPoleNoVel-v0_1"
    seen = []
    for source in (run, run / "policy.safetensors"):
        capsys.readouterr()
        assert start(deploy, source, "-n", 2, "--json") == 0
        captured = capsys.readouterr()
        seen.append(json.loads(captured.out)["returns"])
        assert "lowered for loihi1: readout on the host" in captured.err
    assert seen[0] == seen[1]
    assert start(rollout, run, "--deployed", "-n", 1) == 0


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["nowhere"], "no file at nowhere"),
        (["."], "is not the folder of one run"),
        (["NETWORK", "--chip", "tpu"], "invalid choice: 'tpu'"),
        (["NETWORK", "--bits", 7], "--bits must be one of (2, 3, 4, 5, 6, 8), sign included"),
        (["NETWORK", "--control-period", 0], "--control-period must be a number > 0"),
        (["NETWORK", "--strict", "--approximate"], "--strict refuses what --approximate asks for"),
        (["NETWORK", "--out", "/proc/x"], "--out /proc/x: no files can be left in /proc/x"),
        (["NETWORK", "--env", "CartPol-v1"], "did you mean 'CartPole-v1'?"),
        (["NETWORK", "--env", "Acrobot-v1"], "observes 4 numbers"),
        (["NETWORK", "-n", 0], "--n-episodes"),
        (["NETWORK", "--check-actions", -1], "--check-actions"),
        (["NETWORK", "--seed", -1], "--seed"),
        (["NETWORK", "--out", "NETWORK"], "--out takes a folder"),
        (["NETWORK", "--learn", "x0*q"], "--learn x0*q: dw, term 'x0*q': unknown variable 'q'"),
        (["NETWORK", "--learn-tag", "x0"], "--learn-tag, --learn-trace and --learn-projection go with --learn"),
        (["NETWORK", "--learn", "rstdp", "--learn-tag", "x0"], "--learn rstdp has tags and traces of its own"),
        (["NETWORK", "--learn", "x0", "--learn-trace", "x9=1,2"], "--learn-trace takes NAME=IMPULSE,TAU"),
        (["model.zip"], "name its run folder"),
        ([".", "--env", "CartPole-v1"], "--env goes with the file of a network"),
        (["THRESHOLD", "--strict"], "moving threshold as current"),
        (["THRESHOLD"], "does not say what it was trained on"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else "",
)
def test_wrong_deploy_request_is_answered_in_one_line(args, answer, saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    threshold = exact_network(adaptation="threshold")
    if "--strict" in args:
        neurons = dataclasses.replace(cartpole_network().layers[0].neurons, adaptation="threshold")
        layer = dataclasses.replace(cartpole_network().layers[0], neurons=neurons)
        threshold = dataclasses.replace(cartpole_network(), layers=(layer,), metadata={"env": "CartPole-v1"})
    threshold.save(tmp_path / "threshold.safetensors")
    calibrated = []
    monkeypatch.setattr(deploy, "observations", lambda *args: calibrated.append(args) or observe(*args))
    known = {"NETWORK": str(saved), "THRESHOLD": str(tmp_path / "threshold.safetensors")}
    assert start(deploy, *[known.get(str(arg), arg) for arg in args]) == 2
    assert_one_line(capsys, answer)
    assert not calibrated or "--strict" in args  # what can be known before the environment is stepped is said before
    assert not list(tmp_path.glob("deployed*"))


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["NETWORK"], "holds a 'spikeloop.network', not a 'spikeloop.deployment'"),
        (["."], "holds no deployed-CHIP.safetensors, make it with: spikeloop deploy ."),
        ([".", "--chip", "loihi2"], "holds no deployed-loihi2.safetensors"),
        (["NETWORK", "--stochastic"], "--deployed runs one compiled network, remove --stochastic"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else "",
)
def test_wrong_rollout_of_a_deployed_policy_is_answered_in_one_line(args, answer, saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert start(rollout, *[str(saved) if arg == "NETWORK" else arg for arg in args], "--deployed") == 2
    assert_one_line(capsys, answer)


def test_a_deployed_policy_has_a_raster(saved, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(deploy, "CALIBRATION_STEPS", 50)
    assert start(deploy, saved, "-n", 1, "--out", tmp_path) == 0
    assert start(rollout, tmp_path, "--deployed", "-n", 1, "--raster", tmp_path / "spikes.png") == 0
    assert (tmp_path / "spikes.png").stat().st_size > 1000


def test_files_of_two_chips_lie_side_by_side_and_each_is_found(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deploy, "CALIBRATION_STEPS", 50)
    for chip in CHIPS:
        assert start(deploy, saved, "--chip", chip, "-n", 1, "--out", tmp_path) == 0
    files = [name(chip) for chip in CHIPS for name in (deployed_file, report_file, cores_picture)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    reported = json.loads((tmp_path / report_file("loihi2")).read_text())
    capsys.readouterr()
    assert start(rollout, tmp_path, "--deployed", "-n", 1) == 2
    assert_one_line(capsys, "deployed-loihi1.safetensors and deployed-loihi2.safetensors: choose one with --chip")
    assert start(rollout, tmp_path, "--deployed", "--chip", "loihi2", "-n", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["returns"] == reported["returns"]["chip"]
    assert start(rollout, saved, "--chip", "loihi2") == 2
    assert_one_line(capsys, "--chip goes with --deployed")


def trained(algo, folder, *hyperparams):
    """Return the run folder of a short training on CartPole."""
    pytest.importorskip("rl_zoo3")
    budget = ["-n", 32, "--eval-freq", -1, "--verbose", 0, "-f", folder, "--seed", 0]
    assert start(train, "--algo", algo, "--env", "CartPole-v1", *budget, "--hyperparams", *hyperparams) == 0
    return folder / algo / "CartPole-v1_1"


def test_a_run_whose_policy_does_not_spike_is_refused(tmp_path, capsys):
    run = trained("ppo", tmp_path, "n_envs:1", "n_steps:32", "batch_size:32", "n_epochs:1")
    capsys.readouterr()
    assert start(deploy, run) == 2
    assert_one_line(capsys, "does not spike")
    assert not list(run.glob("deployed*"))


@pytest.mark.parametrize("chip", CHIPS)
def test_a_run_of_rstdp_deploys_rolls_out_and_shows_its_spikes(chip, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(deploy, "CALIBRATION_STEPS", 50)
    run = trained("rstdp", tmp_path, "n_ticks:2")
    assert start(verify, run / "policy.safetensors") == 0
    assert "4 observed -> tiles -> 2 output units, winner -> discrete actions" in capsys.readouterr().out
    assert start(deploy, run, "--chip", chip, "-n", 1) == 0
    for source in ([run / "policy.safetensors"], [run, "--deployed"]):
        picture = tmp_path / f"{len(source)}.png"
        assert start(rollout, *source, "-n", 1, "--raster", picture) == 0
        assert picture.stat().st_size > 0


@pytest.mark.parametrize(
    "task, expected",
    [
        ({"dt": 0.05, "metadata": {"render_fps": 30}}, 0.05),
        ({"tau": 0.02}, 0.02),
        ({"metadata": {"render_fps": 50}}, 0.02),
        ({"dt": np.float32(0.25)}, 0.25),
        ({"dt": 0}, None),
        ({"dt": "much", "tau": float("inf"), "metadata": {"render_fps": None}}, None),
        ({"metadata": None}, None),
        ({}, None),
    ],
)
def test_the_control_period_is_what_the_environment_tells(task, expected):
    env = SimpleNamespace(get_attr=lambda name: {"unwrapped": [SimpleNamespace(**task)]}[name])
    assert deploy.control_period(env) == (None if expected is None else pytest.approx(expected))


def test_a_control_period_can_be_given(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deploy, "CALIBRATION_STEPS", 50)
    assert start(deploy, saved, "-n", 1, "--out", tmp_path, "--control-period", 0.5, "--json") == 0
    assert json.loads(capsys.readouterr().out)["report"]["control_period"] == 0.5


@pytest.mark.parametrize("chip", CHIPS)
def test_a_recorded_episode_has_the_spikes_that_the_chip_counts(chip):
    from stable_baselines3.common.env_util import make_vec_env

    network = cartpole_network()
    deployment = compile_network(network, chip)
    env = make_vec_env("CartPole-v1")
    monitor = record_deployed_episode(deployment, env, 3)
    policy = DeployedPolicy(deployment)
    returned = play(env, policy.predict, 1, 3)
    assert monitor.total_ticks == 4 * returned[0] == policy.machine.counts.n_ticks
    fires = deployment.program.compartments.fires > 0
    np.testing.assert_array_equal(monitor.spike_counts[0], policy.machine.counts.spikes[fires])
    assert (monitor.n_neurons, monitor.n_ticks, monitor.n_envs) == ((64,), 4, 1)


def test_recorded_spikes_are_those_of_the_simulator_where_numbers_are_exact():
    obs = observations()[0]
    for options in ({}, {"latency": 0, "encoder": "rate"}):
        network = exact_network(**options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            deployment = compile_network(network, calibration=obs)
        expected = Simulator(network).record(obs)[2]
        found = record(deployment, obs)
        np.testing.assert_array_equal(found.layers[0].i, expected.layers[0].i)
        np.testing.assert_array_equal(found.layers[0].t, expected.layers[0].t)
        assert found.n_neurons == expected.n_neurons and found.total_ticks == expected.total_ticks
    with pytest.raises(ValueError, match="obs must have shape"):
        record(deployment, obs[:0])


def test_help_loads_nothing_heavy():
    heavy = "print(*({'torch', 'numba', 'gymnasium', 'rl_zoo3'} & set(sys.modules)))"
    call = "import sys\nfrom spikeloop.scripts import cli\nsys.argv[1:] = ['deploy', '--help']\ntry: cli.main()"
    code = f"{call}\nfinally: {heavy}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("usage: spikeloop") and run.stdout.splitlines()[-1] == ""


def assert_one_line(capsys, answer):
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    assert len(lines) == 1 and captured.err.endswith(lines[0] + "\n") and answer in lines[0]
