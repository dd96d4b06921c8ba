"""What needs no trust: own runs, presets of plain data, and files and rules that say no more than they need to."""

import ast
import re
import shutil
import sys

import gymnasium as gym
import pytest

pytest.importorskip("rl_zoo3")

from strangers import CONF, FILE, MODEL, SMALL, TRAIN, metadata, preset, start

from spikeloop.agents.environment import EnvDescription
from spikeloop.hardware.learning.codegen import source_of
from spikeloop.hardware.learning.rule import LearningRule, Trace


def test_an_own_run_needs_no_trust_wherever_it_was_moved(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(own, "moved")
    assert start("rollout", "moved", "-n", 1) == 0
    assert start("rollout", "moved", "-n", 1, "--load-best") == 0
    assert start("rollout", "moved", "-n", 1, "--deployed") == 0
    assert start("deploy", "moved", "-n", 1) == 0
    assert start("train", "--resume", "moved", "-n", 64) == 0
    assert start("rollout", "moved", "-n", 1) == 0
    assert start(*TRAIN, *SMALL, "--trained-agent", f"moved/{MODEL}") == 0


def test_a_preset_of_plain_data_and_of_own_classes_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_wrappers.py").write_text("import gymnasium\nclass Mine(gymnasium.Wrapper): pass\n")
    plain = {"normalize": '"dict(norm_obs=True, norm_reward=False)"', "env_wrapper": "[own_wrappers.Mine]"}
    preset(policy_kwargs='"dict(n_neurons=[4 * 2])"', **plain)()
    assert start(*CONF) == 2
    assert "allow it with --gym-packages own_wrappers" in capsys.readouterr().err
    assert start(*CONF, "--gym-packages", "own_wrappers") == 0
    assert start("rollout", "logs/spiking_a2c/CartPole-v1_1", "-n", 1) == 0
    sys.modules.pop("own_wrappers")


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ({"env_kwargs": '{"render_mode": "human"}'}, "'render_mode' is no argument"),
        ({"env_kwargs": '{"max_episode_steps": 5}'}, "'max_episode_steps' is no argument"),
        ({"env_kwargs": '{"disable_env_checker": true}'}, "'disable_env_checker' is no argument"),
        ({"env_kwargs": '["x"]'}, "does not describe an environment"),
        ({"max_episode_steps": '"5"'}, "max_episode_steps must be a whole number"),
        ({"max_episode_steps": "0"}, "max_episode_steps must be a whole number"),
        ({"env_wrappers": '[["stable_baselines3.common.monitor:Monitor", {"filename": "x"}]]'}, "no wrapper that"),
        ({"env_wrappers": '[["gymnasium.wrappers:RecordVideo", {"video_folder": "x"}]]'}, "no wrapper that"),
        ({"env_wrappers": '[["gymnasium.wrappers:FilterObservation", {"filter_keys": ["a/b"]}]]'}, "'a/b' could name"),
        ({"gym_packages": '["\\u001b[2J"]', "env": "no-such-task"}, r"\x1b[2J"),
    ],
    ids=str,
)
def test_a_network_file_chooses_only_what_it_needs(values, answer, own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(own, "run")
    metadata(**values)()
    capsys.readouterr()
    assert start(*FILE) == 2
    said = capsys.readouterr().err
    assert answer in said and "\x1b" not in said


class Maze(gym.Env):
    def __init__(self, size=3, map_file="default.txt", **more):
        raise AssertionError((size, map_file, more))


gym.register("Maze-v0", entry_point=Maze, kwargs={"map_file": "own/map.txt"})


@pytest.mark.parametrize(
    ("kwargs", "refused"),
    [
        ({"size": 4, "map_file": "8x8"}, None),
        ({"map_file": "own/map.txt"}, None),  # as it is registered
        ({"map_file": "/etc/passwd"}, "'/etc/passwd' could name a file or a module"),
        ({"map_file": "os.path"}, "could name"),
        ({"size": [{"x": "..\\x"}]}, "could name"),
        ({"colour": 1}, "'colour' is no argument of Maze-v0"),
    ],
    ids=str,
)
def test_a_file_gives_numbers_and_words_to_what_the_constructor_names(kwargs, refused):
    if refused is None:
        with pytest.raises(AssertionError):  # of the constructor
            EnvDescription("Maze-v0", kwargs).make()
    else:
        with pytest.raises(ValueError, match=re.escape(refused)):
            EnvDescription("Maze-v0", kwargs).make()
        with pytest.raises(AssertionError):
            EnvDescription("Maze-v0", kwargs).make(trust=True)


RULES = [
    "2^-2*x1*y0\n*w",
    "2^-2*x1*\r\n(y1-20)*y0",
    "x0*y1\n\n\n*w - 2^-1*\n\ty0*x1",
    "x0*y1*w #\nimport os",
    "x0*(__import__)",
    "x0*(y1-20); os",
    "x0*y1.real",
    "x0*'''w",
    "x0\\\n*y1",
    "\x0cx0*y1\u2028*w\x85*w",
    "x\uff10*y1",
    "u\u0660*y1*x1",
    "x0*\u0663*y1",
    "x0*(y1-2_0)",
]


@pytest.mark.parametrize("rule", RULES, ids=ascii)
@pytest.mark.parametrize("profile", ["nengo", "lava"])
def test_a_learning_rule_reaches_the_compiler_as_the_chips_own_words(rule, profile):
    try:
        traces = {name: Trace(16, 10) for name in ("x1", "y1")}
        source = source_of(LearningRule(dw=rule, profile=profile, **traces), "mixed", 8, False)
    except ValueError:
        return
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    plain = source_of(LearningRule(dw=" ".join(rule.split()), profile=profile, **traces), "mixed", 8, False)
    assert source == plain
