"""The benchmark of converted policies: what it prints, and how its models are trained and compared."""

import argparse

import numpy as np
import pytest
from stable_baselines3 import PPO
from torch import nn

pytest.importorskip("rl_zoo3")

from spikeloop.scripts.ann_policy import load
from spikeloop.scripts.bench import convert
from spikeloop.scripts.bench.convert import Task
from spikeloop.scripts.convert import Reference
from spikeloop.scripts.load_policy import Place
from spikeloop.scripts.saving import model_bytes
from spikeloop.spiking.conversion import forward, margins

CARTPOLE = "CartPole-v1"


def test_every_seed_is_printed(monkeypatch, capsys, tmp_path):
    def measured(task, seed, output):
        agreement = {"snn": 0.9, "measure": "mean difference" if task == "pendulum-sac" else "share"}
        network = {"kept": None if seed == 2 else 0.5 + seed / 10, "agreement": agreement, "spikes_per_decision": 70}
        chip = network | {"modelled": {"davies2018": {"dynamic": 5e-7}}}
        found = {f"{n} ticks": network for n in convert.TICKS}
        found |= {f"{chip_name}, {convert.CHIP_TICKS} ticks": chip for chip_name in convert.CHIPS}
        if seed == 2:  # too large for one chip
            nothing = {"kept": None, "agreement": {"snn": None}, "modelled": {"davies2018": {"dynamic": np.nan}}}
            found[f"loihi2, {convert.CHIP_TICKS} ticks"] = nothing | {"refused": "loihi2 has 128 cores"}
        found |= {f"{name}, {n} ticks": network for name in convert.CONTROLS for n in convert.TICKS}
        return found | {"means": {"random": 20.0, "ann": 500.0}, "quarters": [0.5, 0.75, 1.0, 1.0]}

    monkeypatch.setattr(convert, "measured", measured)
    for seeds, kept in (([0, 1], "0.550 (0.500, 0.600)"), ([0, 2], "- (0.500, -)")):
        convert.run(argparse.Namespace(tasks=["cartpole"], seeds=seeds, output=tmp_path))
        printed = capsys.readouterr().out
        for cell in (kept, "500.0 (500.0, 500.0)", "0.900 (0.900, 0.900)", "500 (500, ", "| 0.500 | 0.750 |"):
            assert cell in printed
        assert ("cartpole, loihi2, 16 ticks: loihi2 has 128 cores" in printed) == (2 in seeds)
    convert.run(argparse.Namespace(tasks=["cartpole", "pendulum-sac", "acrobot"], seeds=[0], output=tmp_path))
    rows_of = {}
    for table in capsys.readouterr().out.split("\n\n"):
        title, *lines = table.splitlines()
        rows_of[title] = [line.split(" | ")[0].strip("| ") for line in lines[2:]]
    for title in ("agreement", *(f"control, {name}" for name in convert.CONTROLS)):
        assert rows_of[f"{title}: share"] == ["cartpole", "acrobot"]
        assert rows_of[f"{title}: mean difference"] == ["pendulum-sac"]


def test_a_training_ends_when_its_evaluations_are_enough(tmp_path):
    settings = dict(n_steps=256, batch_size=256, n_epochs=1)
    for enough, expected in ((1.0, convert.EVALUATION_FREQ), (None, 1280)):
        convert._train(Task(CARTPOLE, "ppo", 1280, settings, enough=enough), 0, tmp_path / "model.zip")
        model = PPO.load(tmp_path / "model.zip", device="cpu")
        assert model.num_timesteps == expected
        assert model.policy_kwargs["activation_fn"] is nn.ReLU


def test_quarters_go_from_the_closest_choices_to_the_clearest(tmp_path):
    path = tmp_path / "model.zip"
    policy_kwargs = dict(activation_fn=nn.ReLU)
    path.write_bytes(model_bytes(PPO("MlpPolicy", CARTPOLE, seed=0, device="cpu", policy_kwargs=policy_kwargs)))
    policy = load(path, Place(CARTPOLE), None, None, False)
    obs = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    steps = [(one[None], np.zeros(1, bool)) for one in obs]
    outputs = forward(policy.ann.layers, obs)[-1]
    by, chosen = margins(outputs, policy.ann.head), outputs.argmax(axis=1)
    reference = Reference({}, steps, chosen[:, None])
    near = by <= np.median(by)

    def wrong_where_it_is_close(seen, state, start):
        (i,) = np.flatnonzero((obs == seen).all(axis=1))
        return np.array([1 - chosen[i] if near[i] else chosen[i]]), state

    assert convert._quarters(policy, reference, wrong_where_it_is_close) == [0.0, 0.0, 1.0, 1.0]
    assert convert._quarters(policy, reference, policy.player()) == [1.0] * 4
