"""A run that was cut and goes on is, bit for bit, the run that was never cut."""

import multiprocessing
import os
import signal

import pytest
import torch as th
from stable_baselines3.common.save_util import load_from_zip_file

pytest.importorskip("rl_zoo3")

from spikeloop.agents.checkpoints import read_checkpoint
from spikeloop.agents.episodes import EpisodeLog
from spikeloop.scripts import train

NET = "policy_kwargs:dict(n_neurons=[8])"
FRAMES = "policy_kwargs:dict(n_neurons=[8, 8], critic_frames=3)"
RATE = "policy_kwargs:dict(n_neurons=[8], encoder='rate', n_ticks=2)"
SPARSE = "policy_kwargs:dict(n_neurons=[16], constraint='deep_r', constraint_kwargs=dict(l1=1.0, temperature=0.01))"
BINARY = "policy_kwargs:dict(n_neurons=[16], constraint='binary')"
BY_STEPS = ["n_envs:2", "n_steps:32", "batch_size:64", "n_epochs:1"]
RUNS = {
    "spiking_ppo": (["--algo", "spiking_ppo", "--env", "CartPole-v1"], [*BY_STEPS, FRAMES]),
    "spiking_a2c": (["--algo", "spiking_a2c", "--env", "CartPole-v1"], ["n_envs:2", "n_steps:8", NET]),
    "rstdp": (["--algo", "rstdp", "--env", "CartPole-v1"], ["n_episodes:200"]),
    "rstdp_populations": (["--algo", "rstdp_populations", "--env", "CartPole-v1"], ["n_episodes:200"]),
    "rstdp on given spike times": (["--algo", "rstdp", "--env", "spikeloop/SpikeOrder-v0"], ["n_ticks:250"]),
    "rstdp on the chip": (["--algo", "rstdp", "--backend", "chip", "--env", "CartPole-v1"], ["n_episodes:200"]),
    "eprop": (["--algo", "eprop", "--env", "CartPole-v1"], ["n_episodes:2", "policy_kwargs:dict(n_neurons=8)"]),
    "eprop, Adam and tiles": (
        ["--algo", "eprop", "--env", "CartPole-v1"],
        [
            "n_episodes:1",
            "optimizer:'adam'",
            "policy_kwargs:dict(n_neurons=8, tau_a=[5, 50], bias_scale=0.5, critic='tiles', "
            "critic_kwargs=dict(n_tiles=3, low=[-2.4, -3, -0.2, -3], high=[2.4, 3, 0.2, 3]))",
        ],
    ),
    "eprop on the chip": (["--algo", "eprop", "--backend", "chip", "--env", "CartPole-v1"], ["n_episodes:1"]),
    "glm": (["--algo", "glm", "--env", "CartPole-v1"], ["bias_scale:0.1"]),
    "eprop, episodes drawn": (
        ["--algo", "eprop", "--env", "spikeloop/TMaze-v0"],
        ["n_episodes:2", "policy_kwargs:dict(n_neurons=8)"],
    ),
    "evolution": (["--algo", "evolution", "--env", "CartPole-v1"], ["n_members:2"]),
    "evolution, CMA in workers, normalised": (
        ["--algo", "evolution", "--env", "CartPole-v1", "--vec-env", "subproc"],
        ["n_envs:2", "method:'cma'", "n_members:4", "normalize:True", "policy_kwargs:dict(n_neurons=4)"],
    ),
    "evolution, Bayesian": (["--algo", "evolution", "--env", "CartPole-v1"], ["method:'bayes'", "n_random:2"]),
    "evolution on the chip": (["--algo", "evolution", "--backend", "chip", "--env", "CartPole-v1"], ["n_members:2"]),
    "normalised, stacked, gSDE, a rate code": (
        ["--algo", "spiking_ppo", "--env", "Pendulum-v1"],
        [*BY_STEPS, "frame_stack:2", "normalize:True", "use_sde:True", RATE],
    ),
    "an LSTM": (["--algo", "ppo_lstm", "--env", "CartPole-v1"], [*BY_STEPS, "policy:'MlpLstmPolicy'"]),
    "synapses that are rewired": (["--algo", "spiking_ppo", "--env", "CartPole-v1"], [*BY_STEPS, SPARSE]),
    "latent weights": (["--algo", "spiking_ppo", "--env", "CartPole-v1"], [*BY_STEPS, BINARY]),
    "workers": (["--algo", "spiking_ppo", "--env", "CartPole-v1", "--vec-env", "subproc"], [*BY_STEPS, NET]),
}


def run(folder, arguments, hyperparams):
    budget = ["-n", "768", "--seed", "3", "--checkpoint-freq", "64", "--eval-freq", "200", "--eval-episodes", "1"]
    options = [*budget, "--verbose", "0", "--num-threads", "1", "-f", str(folder), "--hyperparams", *hyperparams]
    try:
        return train.main([*arguments, *options])
    except SystemExit as end:
        return end.code


def learnt(folder):
    (model,) = (path for path in folder.rglob("*.zip") if path.stem == path.parent.name.rpartition("_")[0])
    data, params, _ = load_from_zip_file(model)
    assert data["num_timesteps"] >= 768
    return model.parent, params


def same(one, other):
    if isinstance(one, th.Tensor):
        return th.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_goes_on_equals_the_one_that_was_never_cut(name, tmp_path, monkeypatch):
    assert run(tmp_path / "whole", *RUNS[name]) == 0
    on_step = EpisodeLog._on_step

    def cut(self):
        if self.num_timesteps in (470, 471):  # in two environments at a time one of them does not occur
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return on_step(self)

    monkeypatch.setattr(EpisodeLog, "_on_step", cut)
    assert run(tmp_path / "cut", *RUNS[name]) == 130
    monkeypatch.setattr(EpisodeLog, "_on_step", on_step)
    (checkpoint,) = (tmp_path / "cut").rglob("checkpoint.zip")
    assert 300 < read_checkpoint(checkpoint)["num_timesteps"] < 470
    assert train.main(["--resume", str(checkpoint.parent)]) == 0
    assert not multiprocessing.active_children()  # those of the evaluation too, which RL Zoo leaves open
    (whole, params), (resumed, others) = learnt(tmp_path / "whole"), learnt(tmp_path / "cut")
    assert same(params, others)
    for file in ("learning_curve.csv", "evaluations.npz"):
        assert (whole / file).read_bytes() == (resumed / file).read_bytes()
