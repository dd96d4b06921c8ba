"""What the README says of each input that could run code holds: it runs there, and nowhere else."""

import ast
import base64
import contextlib
import dataclasses
import json
import os
import pickle
import re
import shutil
import sys
import zipfile
from pathlib import Path

import gymnasium as gym
import pytest

pytest.importorskip("rl_zoo3")

from spikeloop.agents.checkpoints import read_checkpoint
from spikeloop.agents.environment import EnvDescription
from spikeloop.agents.registry import load_algorithm
from spikeloop.hardware.deployment import Deployment
from spikeloop.hardware.learning.codegen import source_of
from spikeloop.hardware.learning.rule import LearningRule, Trace
from spikeloop.scripts import deploy, rollout, train
from spikeloop.spiking import Network

README = Path(__file__).parents[1] / "README.md"
MARKER = "ran"
TEXT = f"__import__('os').mkdir('{MARKER}') or dict(n_neurons=[8])"
TAG = f"!!python/object/apply:os.mkdir ['{MARKER}']\n"
MODULE = f"import os\nos.mkdir('{MARKER}')\nclass X: pass\nhyperparams = {{}}\n"
PRESET = {
    "policy": "LifPolicy",
    "n_envs": 2,
    "n_timesteps": 32,
    "n_steps": 8,
    "policy_kwargs": "{n_neurons: [8]}",
}
TRAIN = ["train", "--algo", "spiking_a2c", "-n", 32, "--eval-freq", -1, "--verbose", 0]
SMALL = ["--hyperparams", "n_envs:2", "n_steps:8", "policy_kwargs:dict(n_neurons=[8])"]
MODEL, STATISTICS = "CartPole-v1.zip", "CartPole-v1/vecnormalize.pkl"
ROLLOUT, FILE = ["rollout", "run", "-n", 1], ["rollout", "run/policy.safetensors", "-n", 1]


class Bomb:
    def __reduce__(self):
        return os.mkdir, (MARKER,)


def start(command, *args):
    return {"train": train, "rollout": rollout, "deploy": deploy}[command].main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run folder of this user's, deployed."""
    folder = tmp_path_factory.mktemp("own")
    budget = ["-n", 32, "--eval-freq", 16, "--eval-episodes", 1, "--verbose", 0, "-f", folder]
    assert start("train", "--algo", "spiking_a2c", *budget, *SMALL, "normalize:True") == 0
    run = folder / "spiking_a2c" / "CartPole-v1_1"
    assert start("deploy", run / "policy.safetensors", "-n", 1) == 0
    return run


def in_run(name, change):
    """Change a file of a run folder."""
    return lambda: change(Path("run", name))


def text(value):
    return lambda path: path.write_text(value)


def entry(name, data):
    """Replace an entry of a zip, whose data are made of the old ones."""

    def change(path):
        with zipfile.ZipFile(path) as archive:
            entries = {one: archive.read(one) for one in archive.namelist()}
        entries[name] = data(entries[name])
        with zipfile.ZipFile(path, "w") as archive:
            for one, contents in entries.items():
                archive.writestr(one, contents)

    return change


def evil_model(data):
    value = base64.b64encode(pickle.dumps(Bomb())).decode()
    return json.dumps({**json.loads(data), "policy_class": {":type:": "x", ":serialized:": value}})


def pickled(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Bomb()))


def metadata(file="policy.safetensors", kind=Network, **values):
    """Change what a network's file says of its environment."""

    def change(path):
        network = kind.load(path)
        dataclasses.replace(network, metadata={**network.metadata, **values}).save(path)

    return in_run(file, change)


def preset(**values):
    def prepare():
        lines = "".join(f"  {name}: {value}\n" for name, value in {**PRESET, **values}.items())
        Path("preset.yml").write_text(f"default:\n{lines}")

    return prepare


def nothing():
    pass


CONF = [*TRAIN, "--conf-file", "preset.yml"]
YES, NO = True, False
# Row of the README, what is tried, how, the command; whether code runs without and with --trust.
WAYS = [
    ("run folder", "model", in_run(MODEL, entry("data", evil_model)), ROLLOUT, NO, YES),
    ("run folder", "model, deployed", in_run(MODEL, entry("data", evil_model)), ["deploy", "run", "-n", 1], NO, YES),
    ("run folder", "best", in_run("best_model.zip", entry("data", evil_model)), [*ROLLOUT, "--load-best"], NO, YES),
    ("run folder", "statistics", in_run(STATISTICS, pickled), ROLLOUT, NO, YES),
    (
        "run folder",
        "statistics of the best",
        in_run("best_model/vecnormalize.pkl", pickled),
        [*ROLLOUT, "--load-best"],
        NO,
        YES,
    ),
    (
        "run folder",
        "checkpoint",
        in_run("checkpoint.zip", entry("spikeloop.pkl", lambda _: pickle.dumps(Bomb()))),
        ["train", "--resume", "run"],
        NO,
        YES,
    ),
    ("run folder", "tag in args.yml", in_run("CartPole-v1/args.yml", text(TAG)), ROLLOUT, NO, NO),
    ("run folder", "tag in config.yml", in_run("CartPole-v1/config.yml", text(f"normalize: {TAG}")), ROLLOUT, NO, NO),
    (
        "run folder",
        "text in config.yml",
        in_run("CartPole-v1/config.yml", text(f'normalize: "{TEXT}"')),
        ROLLOUT,
        NO,
        NO,
    ),
    (
        "run folder",
        "wrapper in config.yml",
        in_run("CartPole-v1/config.yml", text("env_wrapper: stranger.X")),
        ROLLOUT,
        NO,
        YES,
    ),
    *(
        (
            "run folder",
            f"module in args.yml, {name}",
            in_run(
                "CartPole-v1/args.yml",
                text("algo: spiking_a2c\nenv: CartPole-v1\nenv_kwargs: null\ngym_packages: [stranger]"),
            ),
            command,
            NO,
            YES,
        )
        for name, command in {
            "rollout": ROLLOUT,
            "deployed": [*ROLLOUT, "--deployed"],
            "deploy": ["deploy", "run", "-n", 1],
        }.items()
    ),
    (
        "trained agent",
        "model",
        in_run(MODEL, entry("data", evil_model)),
        [*TRAIN, *SMALL, "--trained-agent", f"run/{MODEL}"],
        NO,
        YES,
    ),
    (
        "trained agent",
        "statistics",
        in_run(STATISTICS, pickled),
        [*TRAIN, *SMALL, "--trained-agent", f"run/{MODEL}"],
        NO,
        YES,
    ),
    (
        "trained agent",
        "statistics beside none",
        lambda: pickled(Path(STATISTICS)),
        [*TRAIN, *SMALL],
        NO,
        NO,
    ),
    ("preset in YAML", "policy_kwargs: text", preset(policy_kwargs=f'"{TEXT}"'), CONF, NO, YES),
    ("preset in YAML", "normalize: text", preset(normalize=f'"{TEXT}"'), CONF, NO, YES),
    ("preset in YAML", "monitor_kwargs: text", preset(monitor_kwargs=f'"{TEXT}"'), CONF, NO, YES),
    ("preset in YAML", "env_wrapper: module", preset(env_wrapper="stranger.X"), CONF, NO, YES),
    ("preset in YAML", "vec_env_wrapper: module", preset(vec_env_wrapper="[stranger.X]"), CONF, NO, YES),
    ("preset in YAML", "callback: module", preset(callback="stranger.X"), CONF, NO, YES),
    (
        "preset in YAML",
        "callback: function",
        preset(callback=f"[subprocess.Popen: {{args: [mkdir, {MARKER}]}}]"),
        CONF,
        NO,
        None,
    ),
    ("preset in YAML", "policy: module", preset(policy="stranger.X"), CONF, NO, YES),
    ("preset in YAML", "tag", preset(seed=TAG.strip()), CONF, NO, NO),
    ("preset in Python", "file", nothing, [*TRAIN, "--conf-file", "stranger.py"], YES, YES),
    ("preset in Python", "module", nothing, [*TRAIN, "--conf-file", "stranger"], YES, YES),
    ("command line", "--hyperparams", nothing, [*TRAIN, "--hyperparams", f"policy_kwargs:{TEXT}"], YES, YES),
    ("command line", "--env-kwargs", nothing, [*TRAIN, "--env-kwargs", f"x:{TEXT}"], YES, YES),
    ("command line", "--gym-packages", nothing, [*FILE, "--gym-packages", "stranger"], YES, YES),
    ("command line", "--env", nothing, [*FILE, "--env", "stranger:CartPole-v1"], YES, YES),
    ("network file", "env: module", metadata(env="stranger:CartPole-v1"), FILE, NO, NO),
    ("network file", "entry point", metadata(env_kwargs='{"entry_point": "stranger:X"}'), FILE, NO, NO),
    ("network file", "gym_packages", metadata(gym_packages='["stranger"]'), FILE, NO, NO),
    ("network file", "wrapper: module", metadata(env_wrappers='[["stranger:X", {}]]'), FILE, NO, NO),
    ("network file", "wrapper: script", metadata(env_wrappers='[["rl_zoo3.benchmark:X", {}]]'), FILE, NO, NO),
    (
        "network file",
        "wrapper: function",
        metadata(env_wrappers=f'[["os:mkdir", {{"path": "{MARKER}"}}]]'),
        FILE,
        NO,
        NO,
    ),
    (
        "network file",
        "deployed",
        metadata("deployed-loihi1.safetensors", Deployment, env="stranger:CartPole-v1"),
        ["rollout", "run/deployed-loihi1.safetensors", "--deployed", "-n", 1],
        NO,
        NO,
    ),
]


@pytest.mark.filterwarnings("ignore")  # of what strangers leave behind
@pytest.mark.parametrize("trust", [False, True], ids=["", "--trust"])
@pytest.mark.parametrize(
    ("prepare", "command", "runs", "runs_with_trust"),
    [way[2:] for way in WAYS],
    ids=[f"{row}: {name}" for row, name, *_ in WAYS],
)
def test_code_of_a_stranger_runs_where_the_readme_says(
    prepare, command, runs, runs_with_trust, trust, own, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    shutil.copytree(own, "run")
    Path("stranger.py").write_text(MODULE)
    prepare()
    try:
        status = start(*command, *["--trust"] * trust)
    except (Exception, SystemExit) as error:
        status = error
    finally:
        sys.modules.pop("stranger", None)
    ran = Path(MARKER).exists()
    expected = runs_with_trust if trust else runs
    assert expected is None or ran == expected, (status, capsys.readouterr().err)
    if not trust and not runs and status != 0:
        assert status == 2 and capsys.readouterr().err.splitlines()[-1].startswith("spikeloop ")


@pytest.mark.parametrize(
    "load", [lambda: load_algorithm("spiking_a2c").load(f"run/{MODEL}"), lambda: read_checkpoint("run/checkpoint.zip")]
)
def test_loading_a_pickle_from_python_runs_its_code(load, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(own, "run")
    in_run(MODEL, entry("data", evil_model))()
    in_run("checkpoint.zip", entry("spikeloop.pkl", lambda _: pickle.dumps(Bomb())))()
    with contextlib.suppress(Exception):
        load()
    assert Path(MARKER).exists()


def test_the_readme_lists_the_inputs_that_are_tried_here():
    section = README.read_text("utf-8").partition("## What is safe to take from a stranger")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")][
        2:
    ]
    listed = {row[0]: "run no code" not in row[1] for row in rows}
    elsewhere = {"learning rule", "Python API"}  # below and above
    tried = {row for row, *_ in WAYS} | elsewhere | {"working folder"}  # whose modules tests of the scripts find
    assert set(listed) == tried
    for row, _, _, _, runs, trusted in WAYS:
        if runs:
            assert listed[row] and "nothing" in next(cells[2] for cells in rows if cells[0] == row)
        elif trusted:
            assert "--trust" in next(cells[2] for cells in rows if cells[0] == row) or row == "trained agent"


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


@pytest.mark.parametrize("command", [ROLLOUT, ["deploy", "run", "-n", 1], ["train", "--resume", "run"]])
def test_the_run_of_another_user_is_refused_in_one_line(command, own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIKELOOP_KEY", str(tmp_path / "key of another"))
    shutil.copytree(own, "run")
    capsys.readouterr()
    assert start(*command) == 2
    assert re.fullmatch(r"spikeloop .*run/.* can run code, .*: add --trust if you .*\n", capsys.readouterr().err)
    assert start(*command, "--trust") == 0


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
