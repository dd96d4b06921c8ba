"""A training run that ends early, whatever the way, goes on from its last checkpoint as if it had not."""

import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.save_util import load_from_zip_file

pytest.importorskip("rl_zoo3")

from spikeloop.agents import SpikingPPO, checkpoints
from spikeloop.agents.checkpoints import read_checkpoint
from spikeloop.agents.episodes import EpisodeLog, read_episodes
from spikeloop.scripts import experiment, train

N_ENVS, N_STEPS, BUDGET = 2, 32, 512
ROLLOUT = N_ENVS * N_STEPS
RUN = Path("logs/spiking_ppo/Faulty-v0_1")


def arguments(fault="", at=0, n_timesteps=BUDGET):
    env = ["--env", "Faulty-v0", "--gym-packages", "faulty_env", "--env-kwargs", f"fault:{fault!r}", f"at:{at}"]
    run = ["-n", str(n_timesteps), "--seed", "3", "--eval-freq", "100", "--checkpoint-freq", "100", "--verbose", "0"]
    policy = "policy_kwargs:dict(n_neurons=[8], encoder='rate', n_ticks=2)"
    sizes = [f"n_envs:{N_ENVS}", f"n_steps:{N_STEPS}", "batch_size:64", "n_epochs:2", "learning_rate:'lin_0.001'"]
    return [*env, *run, "--hyperparams", *sizes, policy]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed at step 300 of its 512, in the middle of a rollout."""
    folder = tmp_path_factory.mktemp("killed")
    path = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, train.__file__, *arguments("SIGKILL", 150)]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    return folder / RUN


@pytest.fixture
def cut(killed, tmp_path, monkeypatch):
    """A copy of it in the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(killed, RUN)
    Path("happened").touch()  # the environments go on where they were, and would do it again
    return RUN


def start(*args):
    """Run the script and return its exit status."""
    try:
        return train.main([str(arg) for arg in args])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code


def parameters(run):
    _, params, _ = load_from_zip_file(run / "Faulty-v0.zip")
    return params


def rows(path):
    with path.open() as file:
        return list(csv.reader(line for line in file if not line.startswith("#")))[1:]


def test_a_checkpoint_is_also_a_model(killed):
    model = SpikingPPO.load(killed / "checkpoint.zip")
    assert model.num_timesteps == read_checkpoint(killed / "checkpoint.zip")["num_timesteps"] == 256


def test_a_killed_run_goes_on_to_its_budget_and_counts_nothing_twice(cut):
    before, _ = read_episodes(cut / "learning_curve.csv")
    assert before[-1] > 256  # the killed run went beyond its checkpoint
    assert start("--resume", cut) == 0
    steps, returns = read_episodes(cut / "learning_curve.csv")
    np.testing.assert_array_equal(steps[steps <= 256], before[before <= 256])
    assert np.all(np.diff(steps) >= 0) and BUDGET - 30 < steps[-1] <= BUDGET
    monitors = [row for i in range(N_ENVS) for row in rows(cut / f"{i}.monitor.csv")]
    assert sorted(float(r) for r, *_ in monitors) == pytest.approx(sorted(returns))
    for i in range(N_ENVS):
        times = [float(t) for *_, t in rows(cut / f"{i}.monitor.csv")]
        assert times == sorted(times)
    assert list(np.load(cut / "evaluations.npz")["timesteps"]) == [100, 200, 300, 400, 500]
    assert load_from_zip_file(cut / "Faulty-v0.zip")[0]["num_timesteps"] == BUDGET
    assert (cut / "policy.safetensors").is_file()


def test_resuming_twice_gives_the_same_bits(cut):
    again = Path("again")
    shutil.copytree(cut, again)
    assert start("--resume", cut) == start("--resume", again) == 0
    first, second = parameters(cut)["policy"], parameters(again)["policy"]
    assert all(th.equal(first[name], second[name]) for name in first)
    for name in ("policy.safetensors", "learning_curve.csv"):
        assert (cut / name).read_bytes() == (again / name).read_bytes()


def test_schedules_and_optimizer_go_on_where_they_were(cut):
    assert start("--resume", cut) == start(*arguments()) == 0
    resumed, whole = (parameters(run)["policy.optimizer"] for run in (cut, RUN.with_name("Faulty-v0_2")))
    assert resumed["param_groups"][0]["lr"] == whole["param_groups"][0]["lr"]
    assert resumed["state"][0]["step"] == whole["state"][0]["step"]


def test_monitors_keep_no_list_that_grows_with_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = []
    on_step = EpisodeLog._on_step

    def look(self):
        kept.append(self.training_env.env_method("get_wrapper_attr", "episode_returns"))
        return on_step(self)

    monkeypatch.setattr(EpisodeLog, "_on_step", look)
    assert start(*arguments()) == 0
    assert all(len(one) > 0 and one.maxlen == 100 for one in kept[-1])


def test_a_finished_run_has_nothing_to_go_on_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert start(*arguments()) == 0
    before = (RUN / "policy.safetensors").read_bytes()
    (RUN / "policy.safetensors").unlink()
    assert start("--resume", RUN) == 0
    assert (RUN / "policy.safetensors").read_bytes() == before


def test_a_larger_budget_extends_a_finished_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert start(*arguments()) == 0
    before = parameters(RUN)
    assert start("--resume", RUN, "-n", BUDGET) == 2
    assert f"-n {BUDGET}: {RUN} has done {BUDGET} env steps, N must be more" in capsys.readouterr().err
    assert start("--resume", RUN, "-n", BUDGET + 2 * ROLLOUT) == 0
    data, params, _ = load_from_zip_file(RUN / "Faulty-v0.zip")
    assert data["num_timesteps"] == BUDGET + 2 * ROLLOUT
    assert params["policy.optimizer"]["state"][0]["step"] == 2 * (BUDGET // ROLLOUT + 2)
    # the learning rate had come to 0, and falls over the larger budget now
    assert params["policy.optimizer"]["param_groups"][0]["lr"] == 0
    assert not th.equal(params["policy"]["action_net.weight"], before["policy"]["action_net.weight"])
    steps, _ = read_episodes(RUN / "learning_curve.csv")
    assert np.all(np.diff(steps) >= 0) and steps[-1] > BUDGET
    capsys.readouterr()
    assert start("--resume", RUN) == 0
    assert f"to extend the run: spikeloop train --resume {RUN} -n N" in capsys.readouterr().out


def test_a_half_written_checkpoint_is_never_taken_for_a_whole_one(cut, capsys):
    whole = (cut / "checkpoint.zip").read_bytes()
    half = cut / ".checkpoint.zip.0123abcd"
    half.write_bytes(whole[:1000])  # what a kill within the write leaves
    assert read_checkpoint(cut / "checkpoint.zip")["num_timesteps"] == 256
    assert start("--resume", cut) == 0 and not half.exists()
    capsys.readouterr()
    for name in ("checkpoint.zip", "checkpoint.previous.zip"):
        (cut / name).write_bytes(whole[: len(whole) // 2])
    assert start("--resume", cut) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_damaged_checkpoint_gives_way_to_the_one_before(cut, capsys):
    data = bytearray((cut / "checkpoint.zip").read_bytes())
    data[len(data) // 2] ^= 1
    (cut / "checkpoint.zip").write_bytes(data)
    assert start("--resume", cut) == 0
    out, err = capsys.readouterr()
    assert "Going on from step 128" in out and "going on from the checkpoint before it" in err
    assert load_from_zip_file(cut / "Faulty-v0.zip")[0]["num_timesteps"] == BUDGET


def test_the_checkpoint_alone_is_enough_to_go_on(cut, capsys):
    settings = [cut / "Faulty-v0" / name for name in ("config.yml", "args.yml")]
    whole = [path.read_bytes() for path in settings]
    settings[0].unlink()
    settings[1].write_bytes(bytes(100))
    (cut / "0.monitor.csv").write_bytes(b"")
    (cut / "1.monitor.csv").unlink()
    curve = (cut / "learning_curve.csv").read_bytes()
    (cut / "learning_curve.csv").write_bytes(curve[: len(curve) // 2])
    assert start("--resume", cut) == 0
    assert [path.read_bytes() for path in settings] == whole
    assert capsys.readouterr().err.count("had lost rows") == 3
    assert len(rows(cut / "0.monitor.csv")) > 5 and len(rows(cut / "1.monitor.csv")) > 5
    steps, _ = read_episodes(cut / "learning_curve.csv")
    assert np.all(np.diff(steps) >= 0) and steps[-1] > BUDGET - 30


@pytest.mark.parametrize(
    ("found", "left", "told"),
    [
        (b"head\n1\n2\n3\n", b"head\n1\n2\n", False),  # what came after the checkpoint happens again
        (b"head\n1\n2\n3", b"head\n1\n2\n", False),
        (b"head\n1\n", b"head\n1\n", True),
        (b"head\n1\n2", b"head\n1\n", True),
        (b"head\n1\n\0\0", b"head\n1\n", True),
        (bytes(9), b"head\n", True),
        (b"he", b"head\n", True),
        (b"", b"head\n", True),
        (None, b"head\n", True),
    ],
)
def test_a_log_is_put_where_the_checkpoint_was(found, left, told, tmp_path, capsys):
    log = tmp_path / "log.csv"
    log.write_bytes(b"head\n1\n2\n")
    state = {"log.csv": checkpoints.log_state(log)}
    log.unlink() if found is None else log.write_bytes(found)
    checkpoints.clean_up(tmp_path, state)
    assert log.read_bytes() == left
    assert ("had lost rows" in capsys.readouterr().err) == told


def test_ctrl_c_saves_says_where_and_exits_130(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert start(*arguments("SIGINT", 75)) == 130
    assert f"spikeloop train --resume {RUN}" in capsys.readouterr().err
    assert read_checkpoint(RUN / "checkpoint.zip")["num_timesteps"] == 3 * ROLLOUT  # the rollout of step 150 is done
    assert (RUN / "learning_curve.png").is_file()
    assert start("--resume", RUN) == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_that_asks_to_end_saves_first(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert start(*arguments(name, 75)) == 128 + getattr(signal, name)
    err = capsys.readouterr().err
    assert f"{name} at step 192" in err and f"spikeloop train --resume {RUN}" in err
    assert read_checkpoint(RUN / "checkpoint.zip")["num_timesteps"] == 3 * ROLLOUT
    assert not (RUN / "running.pid").exists()


def test_a_signal_amid_a_slow_rollout_saves_its_beginning(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "WITHIN", 0.0)
    assert start(*arguments("SIGTERM", 75)) == 128 + signal.SIGTERM
    assert "holds step 128" in capsys.readouterr().err
    assert start("--resume", RUN) == 0


def test_a_signal_during_the_last_save_lets_it_finish(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_bytes = experiment.model_bytes

    def interrupted(model):
        os.kill(os.getpid(), signal.SIGTERM)
        return model_bytes(model)

    monkeypatch.setattr(experiment, "model_bytes", interrupted)
    assert start(*arguments()) == 128 + signal.SIGTERM
    assert {"Faulty-v0.zip", "policy.safetensors", "checkpoint.zip"} <= {path.name for path in RUN.iterdir()}
    assert not list(RUN.rglob(".*"))


def test_a_second_ctrl_c_stops_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert start(*arguments("SIGINT+SIGINT", 75)) == 130
    assert "holds step 128" in capsys.readouterr().err
    assert read_checkpoint(RUN / "checkpoint.zip")["num_timesteps"] == 128
    assert not (RUN / "Faulty-v0.zip").exists()


def test_a_full_disk_keeps_the_last_checkpoint_and_training_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write, calls = checkpoints.write_atomically, []

    def full_from_the_third(path, data, *previous):
        calls.extend([path] * (path.name == "checkpoint.zip"))
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data, *previous)

    monkeypatch.setattr(checkpoints, "write_atomically", full_from_the_third)
    assert start(*arguments()) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "checkpoint.zip not written" in line]
    assert len(lines) == len(calls) - 2
    assert all("No space left" in line and "step 128 is kept" in line for line in lines)
    assert (RUN / "Faulty-v0.zip").is_file()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert start("--resume", RUN) == 0


def test_a_checkpoint_that_is_not_finite_is_not_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    on_start, kept = checkpoints.Checkpoints._on_rollout_start, []

    def poisoned(self):
        if self.model.num_timesteps >= 3 * ROLLOUT:
            kept.append((RUN / "checkpoint.zip").read_bytes())
            next(self.model.policy.parameters()).data[0] = np.nan
            self.saved_at = 0  # so that one is due
        on_start(self)

    monkeypatch.setattr(checkpoints.Checkpoints, "_on_rollout_start", poisoned)
    assert start(*arguments()) == 1
    assert "led to nan" in capsys.readouterr().err
    assert (RUN / "checkpoint.zip").read_bytes() == kept[0]


def test_checkpoints_are_due_by_time_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write, steps = checkpoints.Checkpoints._write, []
    monkeypatch.setattr(
        checkpoints.Checkpoints, "_write", lambda self, step, data: steps.append(step) or write(self, step, data)
    )
    assert start(*arguments(), "--checkpoint-freq", 10**6, "--checkpoint-minutes", 1e-9) == 0
    assert steps == [*range(0, BUDGET + 1, ROLLOUT)]
    for wrong in ("0", "nan", "soon"):
        assert start(*arguments(), "--checkpoint-minutes", wrong) == 2
        assert "is not a positive number of minutes" in capsys.readouterr().err


@pytest.mark.parametrize(("fault", "what"), [("nan", "observation"), ("inf", "reward")])
def test_a_value_that_is_not_finite_stops_the_run(fault, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert start(*arguments(fault, 75)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{what} from env 0 of Faulty-v0 is {fault} at step 150" in line and "holds step 128" in line


def test_tensorboard_goes_on_in_its_folder(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    assert start(*arguments("SIGINT", 75), "-tb", "tb") == 130
    assert start("--resume", RUN) == 0
    (folder,) = Path("tb/Faulty-v0").iterdir()
    events = accumulator.EventAccumulator(str(folder)).Reload()
    steps = [event.step for event in events.Scalars("spiking/firing_rate_0")]
    assert steps == list(range(ROLLOUT, BUDGET + 1, ROLLOUT))
