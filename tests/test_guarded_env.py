"""What an environment does wrong is said in one line that names it, in this process and in a worker."""

import errno
import functools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import faulty_env
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from learners import LEARNERS, Noise, make
from scripted_env import DICT, GOOD, Scripted, stumble
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from spikeloop.agents.check_finite import CheckFinite, NonFiniteError
from spikeloop.agents.environment import describe
from spikeloop.agents.environment_state import restore_venv, venv_state
from spikeloop.agents.failures import EnvironmentFailed
from spikeloop.agents.guarded_env import GuardedEnv
from spikeloop.agents.workers import close_quietly
from spikeloop.scripts import train


def run(env, n_steps=4):
    env.reset()
    for _ in range(n_steps):
        env.step(0)


WRONG = [
    ({"obs": np.zeros(2, np.float32)}, r"an observation of shape \(2,\), expected \(4,\)"),
    ({"obs": np.zeros(1, np.float32)}, r"an observation of shape \(1,\), expected \(4,\)"),
    ({"obs": np.zeros((1, 4), np.float32)}, r"an observation of shape \(1, 4\), expected \(4,\)"),
    ({"obs": np.float32(0.5)}, r"an observation of shape \(\), expected \(4,\)"),
    ({"obs": [0.0, 1.0]}, r"an observation of shape \(2,\), expected"),
    ({"obs": [[0.0], [1.0, 2.0]]}, r"an observation that is \[\[0.0\], \[1.0, 2.0\]\] \(list\), expected float32"),
    ({"obs": None}, r"an observation that is None, expected float32 of shape \(4,\)"),
    ({"obs": np.array(["a"] * 4)}, r"an observation that is an array of <U1 of shape \(4,\), expected float32"),
    ({"obs": np.zeros(4, complex)}, r"an observation that is an array of complex128"),
    ({"reward": None}, "a reward that is None, expected a number"),
    ({"reward": "1.5"}, r"a reward that is '1.5' \(str\)"),
    ({"reward": np.zeros(1)}, r"a reward that is an array of float64 of shape \(1,\)"),
    ({"reward": 1j}, "a reward that is 1j"),
    ({"reward": -1e300}, r"a reward of -1e\+300, beyond 1.8e\+19"),
    ({"reward": 10**400}, "a reward of 1000"),
    ({"terminated": None}, "terminated = None, expected True or False"),
    ({"truncated": np.zeros(2, bool)}, r"truncated = an array of bool of shape \(2,\)"),
    ({"info": None}, "an info that is None, expected a dict"),
    ({"all": (np.zeros(4, np.float32), 0.0, False, {})}, "4 values, expected a tuple of 5"),
    ({"all": None}, "None, expected a tuple of 5"),
]
WRONG_PARTS = [
    ({"obs": {"a": GOOD["a"]}}, "an observation without 'b'"),
    ({"obs": 1.0}, r"an observation that is 1.0 \(float\), expected a dict of 'a', 'b'"),
    ({"obs": {**GOOD, "a": np.zeros(1)}}, r"part \['a'\] of an observation of shape \(1,\), expected \(2,\)"),
    ({"obs": {**GOOD, "b": (1,)}}, r"part \['b'\] of an observation that is \(1,\) \(tuple\), expected a tuple of 2"),
    (
        {"obs": {**GOOD, "b": (3, GOOD["b"][1])}},
        r"part \['b'\]\[0\] of an observation that holds 3, expected one of Disc",
    ),
    ({"obs": {**GOOD, "b": (1.5, GOOD["b"][1])}}, r"part \['b'\]\[0\] of an observation that holds 1.5"),
    (
        {"obs": {**GOOD, "b": (1, np.float32([0, 0.5]))}},
        r"part \['b'\]\[1\] of an observation that holds 0.5, expected",
    ),
]


@pytest.mark.parametrize(
    ("told", "answer"), [*WRONG, *(({"space": DICT, **told}, answer) for told, answer in WRONG_PARTS)]
)
def test_what_is_returned_wrong_is_named(told, answer):
    env = GuardedEnv(Scripted(**told))
    with pytest.raises(EnvironmentFailed, match=f"^Scripted returned {answer}.* in step 3$"):
        run(env)


@pytest.mark.parametrize(
    "told",
    [
        {"obs": [0.0, 0.5, 1.0, 0.0]},
        {"obs": np.zeros(4)},
        {"obs": np.zeros(4, int)},
        {"reward": 1},
        {"reward": np.float32(1)},
        {"reward": np.array(1.0)},
        {"reward": np.bool_(True)},
        {"terminated": np.array(False), "truncated": 0},
        {"space": DICT, "obs": {**GOOD, "more": None}},
        {"space": DICT, "obs": {**GOOD, "b": [np.array(2), np.ones(2)]}},
    ],
)
def test_what_can_be_taken_is_taken(told):
    run(GuardedEnv(Scripted(**told)))


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        ({"do": RuntimeError("fell\nover")}, r"raised RuntimeError in step 3: fell over \(scripted_env.py, line "),
        ({"do": KeyError()}, "raised KeyError in step 3: it says no more"),
        ({"do": SystemExit(0)}, "raised SystemExit in step 3: 0"),
        ({"do": FileNotFoundError(errno.ENOENT, "None", "map.txt")}, "raised FileNotFoundError in step 3: .*map.txt"),
        ({"do": lambda: run(GuardedEnv(Scripted(do=ValueError("inner"))))}, "raised ValueError in step 3: inner"),
    ],
)  # fmt: skip
def test_what_is_raised_is_named(told, answer):
    with pytest.raises(EnvironmentFailed, match=f"^Scripted {answer}") as caught:
        run(GuardedEnv(Scripted(**told)))
    assert "\n" not in str(caught.value)


def test_a_reset_that_fails_is_named():
    for told, answer in (
        (RuntimeError("no"), "Scripted raised RuntimeError in the reset after step 3: no"),
        ((np.zeros(2), {}), r"Scripted returned an observation of shape \(2,\), .* in the reset after step 3"),
        (np.zeros(4), r"Scripted returned an array of float64 of shape \(4,\), expected a tuple of 2"),
        ((np.zeros(4), None), "Scripted returned an info that is None"),
    ):  # fmt: skip
        env = GuardedEnv(Scripted(reset=told))
        run(env, 3)
        with pytest.raises(EnvironmentFailed, match=answer):
            env.reset()


@pytest.mark.parametrize("told", [{"reward": None}, {"all": (np.zeros(4, np.float32), 0.0, False, {})}])
def test_what_a_wrapper_of_a_library_stumbles_over_is_put_down_to_the_environment(told):
    with pytest.raises(EnvironmentFailed, match="Scripted returned what Monitor cannot take in step 3: "):
        run(GuardedEnv(Monitor(Scripted(**told))))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), MemoryError("none left")])
@pytest.mark.parametrize("base", [DummyVecEnv, "workers"])
def test_errors_of_the_machine_stay_what_they_are(error, base):
    envs = in_workers(do=error) if base == "workers" else DummyVecEnv([lambda: GuardedEnv(Scripted(do=error))])
    with pytest.raises(type(error), match=r"none left|No space left") as caught:
        steps(envs)
    assert getattr(caught.value, "errno", None) == getattr(error, "errno", None)
    close_quietly(envs)


def in_workers(**told):
    """Two workers, the second of which does what it is told to."""
    multiprocessing.set_forkserver_preload(["spikeloop.agents.check_finite"])  # so that each starts at once

    def one(told):
        return lambda: GuardedEnv(Scripted(**told), hand_over=True)

    return CheckFinite(SubprocVecEnv([one({}), one(told)]), "Scripted-v0")


def steps(envs, n=4):
    envs.reset()
    for _ in range(n):
        envs.step(np.zeros(envs.num_envs, int))


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        ({"do": RuntimeError("fell over")}, "Scripted raised RuntimeError in step 3: fell over"),
        ({"do": lambda: stumble(1, 2)}, "Scripted raised Unpicklable in step 3: it cannot"),
        ({"obs": None}, "Scripted returned an observation that is None"),
        (
            {"truncated": True, "reset": RuntimeError("no")},
            "Scripted raised RuntimeError in the reset after step 3: no",
        ),
        ({"do": lambda: os._exit(3)}, r"worker process of Scripted-v0 \(env 1\) exited with status 3"),
        ({"do": lambda: os.kill(os.getpid(), signal.SIGKILL)}, r"\(env 1\) was killed by SIGKILL, as happens where"),
        ({"do": lambda: os.kill(os.getpid(), signal.SIGSEGV)}, r"\(env 1\) was killed by SIGSEGV"),
    ],
)
def test_a_failure_in_a_worker_is_raised_here_and_the_others_are_closed(told, answer):
    envs = in_workers(**told)
    workers = envs.venv.processes
    with pytest.raises(EnvironmentFailed, match=answer) as caught:
        steps(envs)
    if "do" in told and isinstance(told["do"], Exception):
        assert "Traceback" in caught.value.__notes__[0] and "raise action" in caught.value.__notes__[0]
    begin = time.monotonic()
    close_quietly(envs)
    close_quietly(envs)
    assert time.monotonic() - begin < 4 and not any(worker.is_alive() for worker in workers)


def test_a_worker_that_died_between_steps_is_named_whatever_is_asked_next():
    envs = in_workers()
    envs.reset()
    state = venv_state(envs)
    os.kill(envs.venv.processes[1].pid, signal.SIGTERM)
    envs.venv.processes[1].join()
    step = functools.partial(envs.step, np.zeros(2, int))
    for ask in (step, envs.reset, lambda: venv_state(envs), lambda: restore_venv(envs, state)):
        with pytest.raises(EnvironmentFailed, match=r"^the worker process of .* \(env 1\) was killed by SIGTERM$"):
            ask()
    close_quietly(envs)


def test_workers_that_do_not_answer_are_ended(monkeypatch):
    monkeypatch.setattr("spikeloop.agents.workers._PATIENCE", 0.3)
    envs = in_workers(do=lambda: time.sleep(1000))
    envs.reset()
    for _ in range(2):
        envs.step(np.zeros(2, int))
    envs.step_async(np.zeros(2, int))
    close_quietly(envs)
    assert not any(worker.is_alive() for worker in envs.venv.processes)
    assert venv_state(envs) == "the environments cannot be saved: they are closed"


def test_closing_does_not_raise():
    class Stuck(gym.Wrapper):
        def close(self):
            raise RuntimeError("stuck")

    close_quietly(DummyVecEnv([lambda: Stuck(Scripted())]))


def test_a_failure_survives_pickling():
    error = EnvironmentFailed("why")
    error.add_note("where")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == "why" and again.__notes__ == ["where"]


@pytest.mark.parametrize("value", [3e38, -2e19])
@pytest.mark.parametrize("learner", LEARNERS)
def test_numbers_whose_square_overflows_are_refused_as_infinity_is(learner, value):
    env = Noise()
    env.faults[5] = {"observation": np.float32([0.1, value, 0.2])}
    model = make(learner, env)
    with pytest.raises(NonFiniteError, match=f"observation from env 0 is {value:g}".replace("+", r"\+")):
        model.learn(100)
    with pytest.raises(NonFiniteError, match="finite observation"):
        model.predict(np.float32([0, value, 0]))


def test_many_numbers_that_are_large_only_together_are_taken():
    space = spaces.Box(-np.inf, np.inf, (1000,), np.float32)

    class Large(Noise):
        def step(self, action):
            return (np.full(1000, 1e18, np.float32), *super().step(action)[1:])

    envs = CheckFinite(DummyVecEnv([lambda: Large(space)]))
    steps(envs)


def test_fast_paths_and_files_see_the_environment_through_the_guard():
    code = {"encoder_kwargs": {"n_tiles": 3, "low": [-3] * 4, "high": [3] * 4}}
    learner, plain = (
        make("rstdp", wrap(Monitor(gym.make("CartPole-v1"))), code) for wrap in (GuardedEnv, lambda env: env)
    )
    for model in (learner, plain):
        model.learn(300)
    (one,), (other,) = learner.get_env().envs, plain.get_env().envs
    assert one.n_steps == 300 and one.env.episode_returns == other.episode_returns
    assert describe(learner.get_env()) == describe(plain.get_env())
    eprop = make("eprop", GuardedEnv(Monitor(gym.make("spikeloop/TMaze-v0"))), n_episodes=2)
    eprop.learn(52)
    assert eprop.get_env().envs[0].n_steps == 0  # whole episodes, in one call


def test_episodes_that_cannot_be_drawn_are_named(monkeypatch):
    model = make("eprop", GuardedEnv(Monitor(gym.make("spikeloop/TMaze-v0"))))

    def draw_episodes(rng, n):
        return draw(rng, n) if n == 1 else 1 / 0  # one is drawn by a reset

    task = model.get_env().envs[0].unwrapped
    draw = task.draw_episodes
    monkeypatch.setattr(task, "draw_episodes", draw_episodes)
    with pytest.raises(EnvironmentFailed, match=r"TMaze raised ZeroDivisionError in draw_episodes\(\)"):
        model.learn(52)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    pytest.importorskip("rl_zoo3")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(fault, *more):
    run = ["-n", "256", "--seed", "3", "--eval-freq", "-1", "--checkpoint-freq", "64", "--verbose", "0", *more]
    env = ["--env", "Faulty-v0", "--gym-packages", "faulty_env", "--env-kwargs", f"fault:{fault!r}", "at:75"]
    sizes = ["n_envs:2", "n_steps:32", "batch_size:64", "n_epochs:1", "policy_kwargs:dict(n_neurons=[8])"]
    return [*run, *env, "--hyperparams", *sizes]


KEPT = "logs/spiking_ppo/Faulty-v0_1/checkpoint.zip holds step 128, go on with: spikeloop train --resume"


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        ("raise", "Faulty-v0 (env 0) raised RuntimeError in step 75: the robot fell over (faulty_env.py, line"),
        ("short", "Faulty-v0 (env 0) returned an observation of shape (1,), expected (2,) in step 75; "),
        ("huge", "Faulty-v0 (env 0) returned a reward of 1e+300, beyond 1.8e+19 in step 75; "),
        ("no room", "training stopped: [Errno 28] No space left on device; "),
    ],
)
def test_training_answers_in_one_line_and_says_what_is_kept(fault, answer, folder, capsys):
    with pytest.raises(SystemExit) as end:
        train.main(arguments(fault))
    assert str(end.value).startswith(answer) and KEPT in str(end.value)
    assert capsys.readouterr().err == ""


def test_training_outlives_a_worker_and_says_of_what_it_died(folder):
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, train.__file__, *arguments("die", "--vec-env", "subproc")]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=280)
    (line,) = run.stderr.splitlines()
    assert run.returncode == 1 and KEPT in line
    assert line.startswith("the worker process of Faulty-v0 (env ") and "exited with status 3" in line


@pytest.mark.parametrize("what", ["run", "network"])
def test_rollout_and_deploy_answer_in_one_line(what, folder, monkeypatch, capsys):
    from spikeloop.scripts import deploy, rollout

    assert train.main(arguments("")) == 0
    run = "logs/spiking_ppo/Faulty-v0_1" + ("" if what == "run" else "/policy.safetensors")
    step = faulty_env.FaultyEnv.step

    def fails(self, action):
        if self.count == 20:
            raise RuntimeError("the robot fell over")
        return step(self, action)

    monkeypatch.setattr(faulty_env.FaultyEnv, "step", fails)
    capsys.readouterr()
    for script in (rollout, deploy):
        assert script.main([run, "--gym-packages", "faulty_env"]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(
            f"spikeloop {script.__name__.rpartition('.')[2]}: error: Faulty-v0 raised RuntimeError in step"
        )
