"""Files of a run folder: all of a save or nothing, one writer at a time, a folder of one's own."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import pytest
from stable_baselines3.common.vec_env import SubprocVecEnv

pytest.importorskip("rl_zoo3")

from spikeloop.agents import SpikingPPO, machine
from spikeloop.agents.guarded_env import guarded
from spikeloop.agents.workers import POLITE
from spikeloop.scripts import train
from spikeloop.scripts.cli import UsageError
from spikeloop.scripts.load_policy import load_run
from spikeloop.scripts.run_folder import RUNNING, open_run, sole_writer
from spikeloop.scripts.saving import finish_saving, sweep, write_together
from spikeloop.scripts.stoppable import answering

OLD = {"model.zip": b"old", "env/statistics.pkl": b"old too"}
NEW = {"model.zip": b"new", "env/statistics.pkl": b"new too", "network": b"more"}
SMALL = ["--env", "CartPole-v1", "-n", "64", "--eval-freq", "-1", "--verbose", "0", "--hyperparams", "n_steps:64"]
SMALL += ["batch_size:64", "n_epochs:1", "n_envs:1", "policy_kwargs:dict(n_neurons=[4])"]


def contents(folder):
    return {name: (folder / name).read_bytes() for name in NEW if (folder / name).exists()}


def die_at(folder, event):
    """In a child: save NEW, and die without another word at the n-th change of a file."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seen = 0

    def hook(name, args):
        nonlocal seen
        writes = name == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if name in ("os.rename", "os.remove") or writes:
            seen += 1
            if seen == event:
                os._exit(9)

    sys.addaudithook(hook)
    write_together(folder, NEW)
    os._exit(0)


def test_a_save_that_is_killed_is_there_as_a_whole_or_not_at_all(tmp_path):
    endings = set()
    for event in range(1, 40):
        folder = tmp_path / str(event)
        write_together(folder, OLD)
        code = die_at(folder, event)
        finish_saving(folder)
        found = contents(folder)
        assert found in (OLD, NEW)
        endings.add(tuple(found.values()))
        sweep(folder)
        assert not list(folder.rglob(".*"))
        if code == 0:
            break
    assert code == 0 and len(endings) == 2


def test_a_save_that_fails_changes_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    write_together(tmp_path, OLD)
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_together(tmp_path, NEW)
    assert contents(tmp_path) == OLD and not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    "record",
    [
        {".model.zip.0123abcd": "../model.zip"},
        {"../.model.zip.0123abcd": "../model.zip"},
        {"/.model.zip.0123abcd": "/model.zip"},
        {"innocent": "model.zip"},
        ["model.zip"],
        "no JSON",
    ],
)
def test_a_record_from_elsewhere_moves_nothing(record, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".model.zip.0123abcd", "innocent"):
        (folder / name).touch()
    (folder / ".saving").write_text(record if record == "no JSON" else json.dumps(record))
    with pytest.raises(ValueError, match="was not written by a training"):
        finish_saving(folder)
    assert len(list(folder.iterdir())) == 3 and [path.name for path in tmp_path.iterdir()] == ["run"]


def test_other_hidden_files_are_not_swept(tmp_path):
    (tmp_path / ".gitignore").touch()
    (tmp_path / ".model.zip.0123abcd").touch()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]


def test_a_second_writer_is_told_the_process_of_the_first(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom spikeloop.scripts.run_folder import sole_writer\n"
        "with sole_writer(Path(sys.argv[1])):\n    print('here', flush=True)\n    time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        with pytest.raises(UsageError, match=f"being trained by process {other.pid}"), sole_writer(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    with sole_writer(tmp_path):  # the lock of a process that was killed is free
        assert (tmp_path / RUNNING).read_text() == str(os.getpid())
    assert not (tmp_path / RUNNING).exists()


def test_a_run_takes_a_folder_that_nobody_has_and_a_wrong_one_removes_only_its_own(tmp_path, monkeypatch, capsys):
    from rl_zoo3 import exp_manager

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exp_manager, "get_latest_run_id", lambda *_: 0)  # as if the other had begun just now
    other = Path("logs/spiking_ppo/CartPole-v1_1")
    other.mkdir(parents=True)
    assert train.main([*SMALL[:-1], "policy_kwargs:dict(n_neurons=[4], encoder='morse')"]) == 2
    assert [path.name for path in other.parent.iterdir()] == [other.name]
    assert train.main(SMALL) == 0
    assert (other.parent / "CartPole-v1_2" / "CartPole-v1.zip").is_file() and not any(other.iterdir())


def test_who_opens_a_run_finishes_a_save_that_was_cut_short(tmp_path):
    run = tmp_path / "CartPole-v1_1"
    assert die_at(run, 10**6) == 0  # a whole save, which makes the folder
    hidden = {".model.zip.0123abcd": "model.zip"}
    (run / ".model.zip.0123abcd").write_bytes(b"newest")
    (run / ".saving").write_text(json.dumps(hidden))
    with pytest.raises(UsageError, match="not the folder of one run"):
        open_run(run)
    assert (run / "model.zip").read_bytes() == b"newest" and not list(run.rglob(".*"))


def test_a_model_and_statistics_of_two_saves_are_not_taken_together(tmp_path, monkeypatch):
    assert train.main([*SMALL, "normalize:True", "-f", str(tmp_path)]) == 0
    run = tmp_path / "spiking_ppo" / "CartPole-v1_1"
    load = SpikingPPO.load

    def saved_meanwhile(path, *args, **kwargs):
        os.utime(run / "CartPole-v1" / "vecnormalize.pkl")
        return load(path, *args, **kwargs)

    monkeypatch.setattr(SpikingPPO, "load", saved_meanwhile)
    with pytest.raises(UsageError, match="saved anew while it was read"):
        load_run(run, False, 0, None)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with answering([signal.SIGUSR1], lambda *_: None):
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_workers_outlive_a_signal_to_the_whole_group():
    workers = SubprocVecEnv([partial(guarded, None, True, gym.make("CartPole-v1"))])
    try:
        workers.reset()
        for number in POLITE:
            os.kill(workers.processes[0].pid, number)
        assert workers.step([0])[0].shape == (1, 4)
    finally:
        workers.close()


def test_what_is_otherwise_than_where_a_checkpoint_was_made_is_named():
    here = machine.this_machine()
    assert machine.differences(here) == []
    assert machine.differences({**here, "torch": "1.0"}) == [f"torch 1.0, here {here['torch']}"]
