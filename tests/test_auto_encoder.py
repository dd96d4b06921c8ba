"""Encoder 'auto': cells that recruit themselves while a policy learns, saved with it, and frozen in its network."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from spikeloop.agents.compiled_episodes import ClosedLoop
from spikeloop.agents.rstdp import RSTDP
from spikeloop.spiking import Network, Simulator
from spikeloop.spiking.encoders.recruited_cells import RecruitedCells, RecruitingCells

CLASSIC = ["CartPole-v1", "MountainCar-v0", "Acrobot-v1"]


class OrdinaryLoop(gym.Wrapper):
    """Changes nothing; the compiled loop stands back from wrappers that it does not know."""


def make(env_id="CartPole-v1", compiled=True, seed=0, encoder_kwargs=None, **kwargs):
    env = Monitor(gym.make(env_id) if compiled else OrdinaryLoop(gym.make(env_id)))
    few = {"n_measured": 100, "n_inputs": 300, **(encoder_kwargs or {})}
    return RSTDP("WtaPolicy", env, seed=seed, policy_kwargs={"encoder": "auto", "encoder_kwargs": few}, **kwargs)


def learnt(model):
    return {name: tensor.numpy().copy() for name, tensor in model.policy.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def observed(model, n=300, seed=0):
    """Return observations about those that the cells were made from."""
    rng, cells = np.random.default_rng(seed), model.policy.coder.cells
    low, high = model.observation_space.low, model.observation_space.high
    return np.clip(rng.normal(cells.mean, 4 * cells.sd, (n, len(cells.mean))), low, high).astype(np.float32)


def expected_lines(
    observations, n_inputs, n_active, n_sizes, share, n_measured, n_active_pairs, n_inputs_pair, pair_share
):
    """Yield the lines of each observation, by the equations of the module."""
    seen = np.array(observations[:n_measured])
    mean, sd = seen.mean(axis=0), seen.std(axis=0)
    sd[sd == 0] = 1.0
    places = np.arcsinh((observations - mean) / sd)
    n_obs, room = len(mean), n_inputs // n_sizes
    maps = [(list(range(n_obs)), n_active, room, share / 4**size) for size in range(n_sizes)]
    if n_active_pairs and n_obs > 2:
        maps += [([i, j], n_active_pairs, n_inputs_pair, pair_share) for i in range(n_obs) for j in range(i + 1, n_obs)]
    a, b = np.tril_indices(n_measured, -1)
    radii = []
    for numbers, _, _, part in maps:
        distances = np.sort(np.linalg.norm((places[a] - places[b])[:, numbers], axis=1))
        radii.append(distances[int(part * len(distances))])
    cells = [[] for _ in maps]
    yield from ([] for _ in range(n_measured))
    for place in places[n_measured:]:
        lines, first = [], 0
        for centers, radius, (numbers, n_each, most, _) in zip(cells, radii, maps, strict=True):
            away = np.linalg.norm(np.reshape(centers, (-1, len(numbers))) - place[numbers], axis=1)
            nearest = np.argsort(away, kind="stable")[:n_each].tolist()
            if (not nearest or away[nearest[0]] > radius) and len(centers) < most:
                nearest = [*nearest[: n_each - 1], len(centers)]
                centers.append(place[numbers])
            lines += sorted(first + cell for cell in nearest)
            first += most
        yield lines


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    n_obs=st.integers(1, 5),
    n_active=st.integers(1, 5),
    n_sizes=st.integers(1, 3),
    room=st.integers(5, 40),
    share=st.sampled_from([0.02, 0.1, 0.5]),
    n_active_pairs=st.integers(0, 3),
)
def test_cells_are_recruited_by_the_equations(seed, n_obs, n_active, n_sizes, room, share, n_active_pairs):
    options = {"n_inputs": room * n_sizes, "n_active": n_active, "n_sizes": n_sizes, "share": share, "n_measured": 20}
    options |= {"n_active_pairs": n_active_pairs, "n_inputs_pair": 7, "pair_share": 0.1}
    observations = np.random.default_rng(seed).normal(1.0, 3.0, (120, n_obs))
    cells = RecruitingCells(n_obs, **options)
    for obs, lines in zip(observations, expected_lines(observations, **options), strict=True):
        assert cells.lines(obs, learning=True).tolist() == lines
    value, of_lines = cells.recruited()
    for obs in observations:
        np.testing.assert_array_equal(of_lines[value.lines(obs)], cells.lines(obs))


@pytest.mark.parametrize(("env_id", "n_active_pairs"), [*((env_id, 0) for env_id in CLASSIC), ("Acrobot-v1", 2)])
def test_its_network_takes_the_very_actions_of_the_policy(env_id, n_active_pairs, tmp_path):
    cells = {"n_active_pairs": n_active_pairs, "n_inputs_pair": 20}
    model = make(env_id, encoder_kwargs=cells, learning_rate=0.02, value_learning_rate=0.01).learn(1500)
    assert 0 < model.policy.coder.n_recruited <= (600 if n_active_pairs else 300)
    obs = observed(model)
    chosen = model.predict(obs, deterministic=True)[0]
    assert len(set(chosen.tolist())) > 1
    model.to_network().save(tmp_path / "file")
    network = Network.load(tmp_path / "file")
    assert network.encoder.n_channels == model.policy.coder.n_recruited  # cells that were never recruited stay behind
    simulator = Simulator(network)
    np.testing.assert_array_equal(simulator.predict(obs, simulator.initial_state(len(obs)))[0], chosen)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0"])
def test_the_compiled_loop_does_what_the_ordinary_one_does_to_the_bit(env_id):
    models = [make(env_id, compiled) for compiled in (True, False)]
    assert [bool(ClosedLoop.of(m.get_env(), m.policy.network, m.policy.coder)) for m in models] == [True, False]
    for model in models:
        model.learn(1500)
    assert_same(*map(learnt, models))


@pytest.mark.parametrize("compiled", [True, False])
def test_a_training_in_pieces_is_the_training_in_one(compiled):
    whole, pieces = make(compiled=compiled), make(compiled=compiled)
    whole.learn(500)
    for n in (60, 40, 1, 399):  # cut while it measures, where that ends, and after
        pieces.learn(n, reset_num_timesteps=False)
    assert_same(learnt(whole), learnt(pieces))


@pytest.mark.parametrize("n_steps", [50, 600])  # while it measures, and after
def test_save_and_load_keep_the_cells(n_steps, tmp_path):
    model = make().learn(n_steps)
    model.save(tmp_path / "model")
    loaded = RSTDP.load(tmp_path / "model", env=gym.make("CartPole-v1"))
    assert_same(learnt(model), learnt(loaded))
    obs = observed(model)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])


def test_nothing_is_recruited_or_measured_where_nothing_is_learnt():
    alone, watched = make(), make()
    alone.learn(600)
    watched.learn(600, EvalCallback(gym.make("CartPole-v1"), n_eval_episodes=1, eval_freq=37, verbose=0, warn=False))
    assert_same(learnt(alone), learnt(watched))
    before = learnt(watched)
    watched.predict(observed(watched))
    assert_same(before, learnt(watched))


def test_random_play_is_what_it_measures():
    model = make("MountainCar-v0", encoder_kwargs={"n_measured": 1000}).learn(900)
    assert model.policy.coder.n_recruited == 0 and not model.policy.network.arrays.w.any()
    model.learn(200, reset_num_timesteps=False)
    assert model.policy.coder.n_recruited > 0


def test_a_policy_that_has_learnt_nothing_acts_as_its_network_does():
    model = make()
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    simulator = Simulator(model.to_network())
    chosen = model.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(simulator.predict(obs, simulator.initial_state(20))[0], chosen)


def test_where_all_cells_are_used_up_the_nearest_spike():
    cells = RecruitingCells(1, n_inputs=4, n_active=2, n_sizes=1, share=0.0, n_measured=2)
    for x in (-1.0, 1.0, 0.0, 1e1, 1e3, 1e5, 1e7):  # the first two are measured: the radius is 1.8
        lines = cells.lines(np.array([x]), learning=True)
    assert cells.n_recruited == 4 and lines.tolist() == [2, 3]


def test_observations_that_never_change_have_one_cell_of_each_size():
    cells = RecruitingCells(3, n_inputs=30, n_measured=10)
    for _ in range(30):
        lines = cells.lines(np.full(3, 7.0), learning=True)
    assert lines.tolist() == [0, 10, 20]


def test_values_that_are_few_get_a_cell_each():
    cells = RecruitingCells(1, n_inputs=30, n_active=1, n_sizes=1, n_measured=50)
    rng = np.random.default_rng(0)
    for x in rng.integers(0, 5, 200):
        cells.lines(np.array([float(x)]), learning=True)
    assert cells.n_recruited == 5


def test_it_learns_cartpole_without_being_told_any_range():
    env = Monitor(gym.make("CartPole-v1"))
    model = RSTDP("WtaPolicy", env, n_episodes=150, initial_value=1.0, seed=1, policy_kwargs={"encoder": "auto"})
    model.learn(100_000)
    assert evaluate_policy(model, model.get_env(), 10)[0] >= 475


def test_it_learns_on_the_chip():
    from spikeloop.hardware import ChipWinnerTakeAll

    model = make("MountainCar-v0", backend=ChipWinnerTakeAll, n_ticks=4).learn(600)
    obs = observed(model)
    simulator = Simulator(model.to_network())
    chosen = model.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(simulator.predict(obs, simulator.initial_state(len(obs)))[0], chosen)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_tiles": 3}, "encoder_kwargs of 'auto': .*n_tiles"),
        ({"n_inputs": 100}, "n_inputs must be a multiple of 3 sizes, got 100"),
        ({"share": 1.5}, r"share must be a finite number within \[0, 0.999\], got 1.5"),
        ({"n_active": 0}, "n_active must be an integer >= 1"),
        ({"n_measured": 1}, "n_measured must be an integer >= 2"),
        ({"n_inputs": 10**9}, "n_inputs must be an integer >= 3 and <= 5000000"),
        ({"n_active_pairs": 301}, "n_active_pairs must be an integer >= 0 and <= 300"),
        ({"pair_share": -1.0}, "pair_share must be a finite number"),
    ],
)
def test_wrong_arguments_are_refused_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RSTDP("WtaPolicy", "CartPole-v1", policy_kwargs={"encoder": "auto", "encoder_kwargs": kwargs})


def test_pairs_of_very_many_numbers_are_refused():
    RecruitingCells(32, n_active_pairs=1)
    with pytest.raises(ValueError, match=r"n_active_pairs must be 0 for 33 numbers.*528 pairs.*got 1"):
        RecruitingCells(33, n_active_pairs=1)


def test_cells_of_pairs_have_a_size_each():
    with pytest.raises(ValueError, match="sizes must have more than 3 numbers, one per pair, got 1"):
        RecruitedCells(np.zeros((2, 3)), sizes=[2], mean=np.zeros(3), sd=np.ones(3), n_active_pairs=1)


def test_policies_that_do_not_recruit_refuse_it():
    with pytest.raises(ValueError, match=r"encoder must be one of tiles, places.*got 'auto'"):
        RSTDP("PopulationPolicy", "CartPole-v1", policy_kwargs={"encoder": "auto"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": [2]}, r"sizes must add up to 3 cells, got \(2,\)"),
        ({"sd": [0.0]}, "sd must be > 0, got 0.0"),
        ({"mean": [0.0, 1.0]}, r"mean must have shape \(1\), got \(2,\)"),
        ({"centers": [[np.nan], [0.0], [1.0]]}, "centers must be finite"),
        ({"n_active": 0}, "n_active must be an integer >= 1"),
        ({"n_active_pairs": -1}, "n_active_pairs must be an integer >= 0"),
    ],
)
def test_cells_that_make_no_sense_are_refused(changes, message):
    fields = {"centers": [[0.0], [1.0], [2.0]], "sizes": [3], "mean": [0.0], "sd": [1.0], "n_active": 2}
    with pytest.raises(ValueError, match=message):
        RecruitedCells(**{**fields, **changes})


@pytest.mark.parametrize(
    ("name", "value"), [("counts", [-1, 0, 0]), ("sd", [0.0]), ("centers", [[0.0]]), ("n_seen", [-3])]
)
def test_damaged_cells_are_refused(name, value):
    cells = RecruitingCells(1, n_inputs=30)
    with pytest.raises(ValueError, match="cells"):
        cells.load_state_dict({**cells.state_dict(), name: np.array(value)})
