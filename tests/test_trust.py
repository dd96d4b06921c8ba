"""What the README says of each input that could run code holds: it runs there, and nowhere else."""

import base64
import contextlib
import json
import os
import pickle
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("rl_zoo3")

from strangers import CONF, FILE, MARKER, MODEL, ROLLOUT, SMALL, STATISTICS, TRAIN, in_run, metadata, preset, start

from spikeloop.agents.checkpoints import read_checkpoint
from spikeloop.agents.registry import load_algorithm
from spikeloop.hardware.deployment import Deployment

README = Path(__file__).parents[1] / "README.md"
TEXT = f"__import__('os').mkdir('{MARKER}') or dict(n_neurons=[8])"
TAG = f"!!python/object/apply:os.mkdir ['{MARKER}']\n"
MODULE = f"import os\nos.mkdir('{MARKER}')\nclass X: pass\nhyperparams = {{}}\n"


class Bomb:
    def __reduce__(self):
        return os.mkdir, (MARKER,)


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


def nothing():
    pass


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
        "trained agent, model to convert",
        "model",
        in_run(MODEL, entry("data", evil_model)),
        [*TRAIN, *SMALL, "--trained-agent", f"run/{MODEL}"],
        NO,
        YES,
    ),
    (
        "trained agent, model to convert",
        "statistics",
        in_run(STATISTICS, pickled),
        [*TRAIN, *SMALL, "--trained-agent", f"run/{MODEL}"],
        NO,
        YES,
    ),
    (
        "trained agent, model to convert",
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
    elsewhere = {"learning rule", "Python API"}  # in test_without_trust, and above
    tried = {row for row, *_ in WAYS} | elsewhere | {"working folder"}  # whose modules tests of the scripts find
    assert set(listed) == tried
    for row, _, _, _, runs, trusted in WAYS:
        if runs:
            assert listed[row] and "nothing" in next(cells[2] for cells in rows if cells[0] == row)
        elif trusted:
            assert "--trust" in next(cells[2] for cells in rows if cells[0] == row) or row.startswith("trained agent")


@pytest.mark.parametrize("command", [ROLLOUT, ["deploy", "run", "-n", 1], ["train", "--resume", "run"]])
def test_the_run_of_another_user_is_refused_in_one_line(command, own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIKELOOP_KEY", str(tmp_path / "key of another"))
    shutil.copytree(own, "run")
    capsys.readouterr()
    assert start(*command) == 2
    assert re.fullmatch(r"spikeloop .*run/.* can run code, .*: add --trust if you .*\n", capsys.readouterr().err)
    assert start(*command, "--trust") == 0
