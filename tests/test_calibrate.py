"""`spikeloop calibrate` prints what random play shows, and a proposal that trainings take as it is."""

import re
import shlex

import gymnasium as gym
import numpy as np
import pytest
import yaml
from shell import assert_one_line, start

from spikeloop.agents.rstdp import RSTDP
from spikeloop.scripts import calibrate, train


class Shows(gym.Env):
    """Shows samples of any space, and takes two actions."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


DICT = gym.spaces.Dict(pose=gym.spaces.Box(-1, 1, (2,)), gear=gym.spaces.Discrete(3))
LONG = gym.spaces.Box(-1, 1, (30,))


@pytest.fixture
def shows(monkeypatch):
    """Register environments that show a space, for one test."""
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    monkeypatch.setattr(gym, "registry", gym.envs.registration.registry)

    def register(space):
        gym.register("tests/Shows-v0", Shows, kwargs={"space": space}, max_episode_steps=20)
        return "tests/Shows-v0"

    return register


def columns(out):
    """Return the table's cells by row: bounds, seen, mean, sd, ends, clipped."""
    rows = [re.split(r" {2,}", line.strip()) for line in out.splitlines() if re.match(r" +\d+  ", line)]
    return [row[1:] for row in rows]


def test_each_number_of_the_observation_has_its_row(capsys):
    assert start(calibrate, "CartPole-v1", "-n", 2000) == 0
    rows = columns(capsys.readouterr().out)
    assert len(rows) == 4
    assert [row[0] == row[4] for row in rows] == [True, False, True, False]  # ends of the space where it has some
    assert rows[1][0] == "-inf to inf" and all(float(end) for end in rows[1][4].split(" to "))
    for row in rows:
        seen, ends = ([float(end) for end in cell.split(" to ")] for cell in (row[1], row[4]))
        assert seen[0] <= float(row[2]) <= seen[1] and float(row[3]) > 0
        assert (row[5] == "0.00%") == (ends[0] <= seen[0] and seen[1] <= ends[1])


def test_what_lies_beyond_the_ends_is_counted():
    seen = np.concatenate([np.zeros((990, 1)), np.full((10, 1), 9.0)])  # the ends are about 0: ten of 1000 are beyond
    rows = calibrate.described(seen, gym.spaces.Box(-np.inf, np.inf, (1,)))
    assert rows[1].split()[-1] == "1.00%"


def test_the_same_seed_prints_the_same(capsys):
    outs = []
    for seed in (3, 3, 4):
        assert start(calibrate, "CartPole-v1", "-n", 500, "--seed", seed) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1] != outs[2]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1"])
def test_the_lines_it_prints_train_as_they_stand(env_id, capsys, tmp_path):
    pytest.importorskip("rl_zoo3")
    assert start(calibrate, env_id, "-n", 500) == 0
    out = capsys.readouterr().out
    flags = [shlex.split(line[line.index("--") :]) for line in out.splitlines() if "--hyperparams" in line]
    assert len(flags) == 2  # tiles, and encoder 'auto'
    for words in flags:
        short = ["-n", 60, "--eval-freq", -1, "--verbose", 0, "-f", tmp_path]
        assert start(train, "--algo", "rstdp", "--env", env_id, *short, *words) == 0
    in_yaml = yaml.safe_load(
        next(line for line in out.splitlines() if line.startswith("YAML: ")).removeprefix("YAML: ")
    )
    model = RSTDP("WtaPolicy", env_id, **in_yaml)
    assert model.policy.coder.n_inputs == int(re.search(r"of ([\d,]+) lines", out).group(1).replace(",", ""))


@pytest.mark.parametrize("space", [gym.spaces.Discrete(5), DICT, gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)])
def test_what_has_no_ranges_is_answered_in_one_line(space, shows, capsys):
    assert start(calibrate, shows(space)) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and str(space)[:8] in out and "ranges to calibrate" in out


def test_too_many_dimensions_for_tiles_are_sent_to_cells_that_recruit_themselves(shows, capsys):
    assert start(calibrate, shows(LONG), "-n", 100) == 0
    out = capsys.readouterr().out
    assert "30 dimensions are more than" in out and "encoder='auto'" in out and "low" not in out


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["CartPole-v9"], "did you mean"),
        (["CartPole-v1", "-n", "0"], "'0' is not a positive whole number"),
        (["CartPole-v1", "--seed", "-1"], "seed"),
    ],
)
def test_a_wrong_request_is_answered_in_one_line(args, answer, capsys):
    assert start(calibrate, *args) == 2
    assert_one_line(capsys, answer)


def test_a_policy_without_ranges_names_the_command():
    with pytest.raises(ValueError, match=r"needs low and high.*spikeloop calibrate ENV"):
        RSTDP("WtaPolicy", "CartPole-v1")


def test_ends_tell_numbers_apart_however_far_from_zero_they_lie():
    seen = 1e5 + np.linspace(-1, 1, 101)[:, None]
    space = gym.spaces.Box(-np.inf, np.inf, (1,), dtype=np.float64)
    (low,), (high,) = calibrate.ends_for(seen, space)
    assert 99_996.5 < low < 99_997.5 and 100_002.5 < high < 100_003.5
    bounded = gym.spaces.Box(-0.41887903, 0.41887903, (1,), dtype=np.float64)
    assert calibrate.ends_for(seen * 1e-6, bounded) == ([-0.41887903], [0.41887903])
    single = gym.spaces.Box(-4.8, 4.8, (1,), dtype=np.float32)  # 4.8 is 4.800000190734863 in float64
    assert calibrate.ends_for(seen * 1e-6, single) == ([-4.8], [4.8])
