"""Evolution through the compiled chip program: what it goes by is what the chip does."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

import spikeloop.envs  # noqa: F401  registers tasks
from spikeloop.agents import RSTDP, Evolution, SpikingPPO
from spikeloop.agents.evolution_policy import EvolutionPolicy
from spikeloop.agents.playing import CompiledTask, play_compiled, play_steps
from spikeloop.hardware import ChipPlayer, ChipWinnerTakeAll, DeployedPolicy, compile_network

READY = {"n_neurons": 8, "n_ticks": 3, "latency": 1, "reset": "zero", "adaptation": "ahp", "beta": 0.05}
TILES = {"n_tiles": [3, 3, 6, 6], "low": [-2.4, -2.5, -0.2095, -2.5], "high": [2.4, 2.5, 0.2095, 2.5]}
PLAIN = {"residue": False, "w_max": 0.1, "value_unit": 0.0006}


def make(env="CartPole-v1", policy_kwargs=READY, **kwargs):
    arguments = {"seed": 0, "n_members": 4, "backend": ChipPlayer, **kwargs}
    return Evolution("EvolutionPolicy", env, policy_kwargs=dict(policy_kwargs), **arguments)


@pytest.fixture(scope="module")
def plain_rstdp(tmp_path_factory):
    kwargs = {"encoder_kwargs": TILES}
    model = RSTDP(
        "WtaPolicy", "CartPole-v1", n_ticks=4, n_episodes=20, seed=0, initial_value=1.0, policy_kwargs=kwargs,
        backend=ChipWinnerTakeAll, backend_kwargs=PLAIN,
    ).learn(100_000)  # fmt: skip
    path = tmp_path_factory.mktemp("rstdp") / "model.zip"
    model.save(path)
    return model, path


CASES = {
    "LSNN, scaled": ("CartPole-v1", {**READY, "obs_scale": [1, 1, 10, 1]}),
    "mean spikes": ("CartPole-v1", {**READY, "count": True}),
    "hidden velocities": ("spikeloop/CartPoleNoVel-v0", READY),
    "continuous": ("Pendulum-v1", READY),
    "two layers": ("Acrobot-v1", {**READY, "n_neurons": (6, 6)}),
}


def compare(env_id, networks, seeds=(5, 6, 7)):
    venv = make_vec_env(env_id)
    players = [ChipPlayer(network) for network in networks]
    assert all(player.whole for player in players)
    compiled = list(play_compiled(players, CompiledTask.of(venv).begin(list(seeds))))
    stepped = list(play_steps(venv, players, list(seeds), lambda *_, **__: True))
    for mine, theirs in zip(compiled, stepped, strict=True):
        assert mine[:4] == theirs[:4]
        np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-12)
    return compiled


@pytest.mark.parametrize("case", CASES)
def test_whole_episodes_on_the_chip_are_those_of_the_deployed_policy(case):
    env_id, kwargs = CASES[case]
    venv = make_vec_env(env_id)
    networks = [EvolutionPolicy(venv.observation_space, venv.action_space, **kwargs).network for _ in range(3)]
    compare(env_id, networks)


def test_tiles_send_spikes_in_whole_episodes(plain_rstdp):
    compare("CartPole-v1", [plain_rstdp[0].to_network()], range(10))


def test_a_plain_policy_of_r_stdp_is_where_the_search_starts(plain_rstdp):
    rstdp, path = plain_rstdp
    model = Evolution.load(path, env=make_vec_env("CartPole-v1"), method="es", backend=ChipPlayer, n_members=4, seed=0)
    network = model.to_network()
    assert network.to_vector().tobytes() == rstdp.to_network().to_vector().tobytes()
    deployed, obs = DeployedPolicy(compile_network(network)), np.random.default_rng(0).normal(0, 0.1, (50, 4))
    weights = rstdp.policy.network.state_dict()["w"]
    on_chip = deployed.deployment.program.projections[0].weights.reshape(-1, *weights.shape)  # in parts of the lines
    np.testing.assert_array_equal(on_chip.sum(axis=0), weights)  # the same integers
    start = np.ones(50, bool)
    actions = deployed.predict(obs, deployed.initial_state(50), start)[0]
    np.testing.assert_array_equal(actions, rstdp.predict(obs, deterministic=True)[0])
    before = network.to_vector()
    model.learn(5000)
    assert not np.array_equal(model.to_network().to_vector(), before)


def test_what_is_learnt_is_what_the_chip_returns():
    one, other = (make(n_members=16, max_generations=5, backend=b).learn(20_000) for b in (ChipPlayer, "float"))
    assert not np.array_equal(one.to_network().to_vector(), other.to_network().to_vector())
    (episode, *_) = compare("CartPole-v1", [one.to_network()])
    venv, policy = make_vec_env("CartPole-v1"), DeployedPolicy(compile_network(one.to_network()))
    (played, *_) = play_steps(venv, [policy], [5], lambda *_, **__: True)
    assert played.total == episode.total


def test_the_weights_of_members_are_those_that_the_chip_holds():
    model = make(backend_kwargs={"bits": 6}, max_generations=2).learn(20_000)
    network, start = model.to_network(), make(backend_kwargs={"bits": 6}).to_network()
    assert not np.array_equal(network.readout.w_out, start.readout.w_out)
    assert 2 < len(np.unique(abs(network.layers[0].w_rec))) <= 33
    np.testing.assert_array_equal(ChipPlayer.on_grid(network, bits=6).to_vector(), network.to_vector())


def test_noise_below_the_chips_steps_is_refused():
    with pytest.raises(ValueError, match="sigma must be at least the step between two weights on the chip"):
        make(sigma=1e-4)
    assert make(sigma=1e-4, evolved="tau_m").policy.evolved.n == 8  # no weights move


def test_fewer_bits_ask_for_more_noise():
    network = make().to_network()
    steps = [ChipPlayer.coarseness(network, bits=bits) for bits in (8, 6, 4)]
    assert steps == sorted(steps) and steps[-1] > 10 * steps[0]


def test_a_network_that_the_chip_cannot_hold_is_refused_at_once():
    with pytest.raises(ValueError, match="loihi1"):
        make(policy_kwargs={"n_neurons": 8, "n_ticks": 3, "neurons": "izhikevich"})


def test_a_trained_policy_is_fine_tuned_there_and_goes_back(tmp_path):
    from spikeloop.agents import load_network

    ppo = SpikingPPO("LsnnPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0, policy_kwargs=READY).learn(64)
    ppo.save(tmp_path / "ppo")
    model = Evolution.load(tmp_path / "ppo", env=make_vec_env("CartPole-v1"), method="es", backend=ChipPlayer)
    model.learn(3000)
    load_network(ppo.policy, model.to_network())
    np.testing.assert_array_equal(ppo.to_network().to_vector(), model.to_network().to_vector())


def test_a_player_copes_with_any_task_and_code():
    for kwargs in ({**READY, "encoder": "population"}, {**READY, "encoder": "rate"}):
        policy = EvolutionPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), **kwargs)
        player = ChipPlayer(policy.network)
        played = list(play_steps(make_vec_env("CartPole-v1"), [player], [1, 2], lambda *_, **__: True))
        assert [episode.number for episode in played] == [0, 1]
