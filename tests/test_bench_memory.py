"""The benchmark of memory trains its presets, and a change of the state tells where a memory lies."""

import numpy as np
import pytest
import yaml

from spikeloop.agents.compiled_tasks import tasks_of
from spikeloop.agents.registry import hyperparams_file
from spikeloop.agents.spiking_ppo import SpikingPPO
from spikeloop.scripts.bench.memory import BARS, CHANGES, NETWORKS, PRESET, STATE, judged, trained
from spikeloop.scripts.benchmark import main

PRESETS = yaml.safe_load(hyperparams_file("spiking_ppo").read_text("utf-8"))


@pytest.mark.parametrize("task", BARS)
def test_presets_train_whole_episodes_in_compiled_tasks(task):
    preset = {**PRESETS[f"spikeloop/{task}-v0"], "n_epochs": 1}
    model = trained(task, preset, PRESET, 0, 1)
    n_steps = model.env.get_attr("n_steps")[0]
    assert model.seq_len == n_steps == model.n_steps / 2 and model.batch_size == 8 * n_steps
    assert not isinstance(tasks_of(model, model.env), str) and model._torch_reason() is None
    assert judged(model, task, 0) == judged(model, task, 0)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_trains(network):
    preset = {**PRESETS["spikeloop/TMaze50-v0"], "n_envs": 2, "batch_size": 224, "n_epochs": 1}
    model = trained("TMaze50", preset, network, 0, 1)
    assert judged(model, "TMaze50", 0) == judged(model, "TMaze50", 0)
    if isinstance(model, SpikingPPO):
        state = model.predict(np.zeros((1, 60)), None, np.ones(1, bool))[1]
        assert len(state[0]) == len(STATE)


class Scripted:
    """Keeps the side of the cue in one row of its state."""

    def __init__(self, row):
        self.row = STATE.index(row)

    def predict(self, obs, state, start, deterministic):
        left, right = (obs[:, first : first + 20].mean(1) > 0.5 for first in (0, 20))
        state = np.zeros((len(STATE), len(obs), 1)) if state is None else state[0]
        state[self.row, :, 0] += right - 1.0 * left
        return (state[self.row, :, 0] > 0).astype(int), (state,)


@pytest.mark.parametrize("row", ["a", "z"])
def test_a_memory_is_lost_with_the_row_that_holds_it_and_goes_where_that_goes(row):
    model = Scripted(row)
    for name, change in CHANGES.items():
        right = judged(model, "TMaze50", 0, change) == 1
        untouched = change is None or row not in change.rows
        assert right == (untouched if change is None or not change.exchanged else not untouched), name


def test_a_row_is_printed_for_each_network_that_differs_from_the_preset(capsys):
    rows = [PRESET, "beta = 0", "beta = 1"]
    assert main(["memory", "--tasks", "TMaze50", "--seeds", "0", "-n", "1", "--rows", *rows]) == 0
    cells = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    assert [row[2] for row in cells if row[1:2] == ["TMaze50"]] == [*rows[:2], *list(CHANGES)[1:]]
