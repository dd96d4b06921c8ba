"""Every algorithm of the registry has what its line promises: a class, a preset, a space that a search draws from."""

import pytest
import yaml

pytest.importorskip("optuna")
pytest.importorskip("rl_zoo3")

import optuna
from rl_zoo3 import ALGOS as ZOO_ALGOS
from rl_zoo3 import hyperparams_opt

from spikeloop.agents.known_arguments import arguments_of
from spikeloop.agents.registry import ALGOS, DEFAULT_ALGO, hyperparams_file, load_algorithm, register_with_zoo
from spikeloop.scripts.hyperparameters import check_hyperparameters


@pytest.mark.parametrize("name", ALGOS)
def test_what_a_search_draws_the_algorithm_takes(name):
    register_with_zoo()
    assert ZOO_ALGOS[name] is load_algorithm(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(5):
        trial = study.ask()
        drawn = hyperparams_opt.HYPERPARAMS_SAMPLER[name](trial, 2, 1, {})
        assert hyperparams_opt.HYPERPARAMS_CONVERTER[name](trial.params) == drawn
        preset = yaml.safe_load(hyperparams_file(name).read_text("utf-8"))["default"]
        check_hyperparameters(load_algorithm(name), {**preset, **drawn})
        assert set(drawn) <= arguments_of(load_algorithm(name))


def test_the_default_is_the_first():
    assert DEFAULT_ALGO == "spiking_ppo"
