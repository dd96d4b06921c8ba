"""Peers in the benchmark of local rules: each runs, is determined by its seed, and computes its equations."""

import shutil

import gymnasium as gym
import numpy as np
import pytest

from spikeloop.scripts import kept_results
from spikeloop.scripts.bench import fremaux, linear_peers, local_learners, local_peers, mstdpet, peer_play
from spikeloop.scripts.bench import fremaux_kernels as kernels
from spikeloop.scripts.bench.peer_features import GRIDS, Features, PlaceCells
from spikeloop.scripts.benchmark import main

PEERS = local_learners.peers()
HERE = [name for name in PEERS if name != "bindsnet"]


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch):
    """Let no episode take long."""
    for env_id in GRIDS:
        monkeypatch.setattr(gym.spec(env_id), "max_episode_steps", 60)


@pytest.mark.parametrize("env_id", list(GRIDS))
@pytest.mark.parametrize("name", HERE)
def test_every_peer_learns_for_a_few_episodes_the_same_with_the_same_seed(name, env_id):
    n_episodes, peer = 3 if env_id == "CartPole-v1" else 1, PEERS[name]
    first, second, other = (
        peer_play.train(peer.make, env_id, peer.settings[peer.chosen[env_id]], n_episodes, seed, 1)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.returns, second.returns)
    np.testing.assert_array_equal(first.frozen, second.frozen)
    assert len(first.returns) == len(first.steps) == n_episodes and len(first.frozen) == 1
    assert first.steps[-1] >= n_episodes and first.seconds > 0
    if env_id == "CartPole-v1":
        assert not np.array_equal(first.returns, other.returns)


@pytest.mark.parametrize("name", HERE)
def test_frozen_weights_stay_as_they_are(name):
    env = gym.make("CartPole-v1")
    player = PEERS[name].make(env, np.random.default_rng(0), **PEERS[name].settings[0])
    peer_play.play(player, env, 2, 0)
    player.learning = False
    before = weights(player)
    peer_play.play(player, env, 2, 1)
    np.testing.assert_array_equal(weights(player), before)


def weights(player):
    if isinstance(player, fremaux.FremauxActorCritic):
        kernels.move_on(player.net, player.c)
        return player.net.synapses[:, :, kernels.W].copy()
    return (player.w if isinstance(player, mstdpet.RewardModulated) else player.theta).copy()


@pytest.mark.parametrize("name", HERE)
def test_every_peer_had_a_search_of_its_own_and_takes_each_of_its_settings(name):
    peer, env = PEERS[name], gym.make("CartPole-v1")
    assert len(peer.settings) >= 8 and len({str(each) for each in peer.settings}) == len(peer.settings)
    assert set(peer.chosen) == set(GRIDS) and all(0 <= index < len(peer.settings) for index in peer.chosen.values())
    for settings in peer.settings:
        player = peer.make(env, np.random.default_rng(0), **settings)
        assert player.begin(env.reset(seed=0)[0]) in (0, 1)


def test_the_code_that_a_peers_runs_depend_on_is_there():
    assert all((kept_results.ROOT / path).exists() for peer in PEERS.values() for path in peer.code)


def test_the_benchmark_has_a_row_for_ours_and_for_a_peer_and_keeps_what_is_finished(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(local_peers, "N_FROZEN", 2)
    few = ["--tasks", "cartpole", "--seeds", "2", "--episodes", "3", "-o", str(tmp_path)]
    few += ["--learners", "no learning", "reinforce"]
    assert main(["local-peers", *few]) == 0
    first = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in first.splitlines() if line.startswith("| CartPole")]
    assert [row[1].strip() for row in rows] == ["no learning", "reinforce"]
    assert all(len(row[8].split(",")) == 2 for row in rows)

    def fail(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(peer_play, "train", fail)
    monkeypatch.setattr(local_peers.local, "train_one", fail)
    assert main(["local-peers", *few]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "CartPole-v1 |" in line] == [
        line for line in first.splitlines() if "CartPole-v1 |" in line
    ]


def test_the_search_tries_the_best_three_on_all_of_its_seeds(capsys, tmp_path):
    few = ["--tasks", "cartpole", "--episodes", "60", "-o", str(tmp_path), "--learners", "reinforce"]
    assert main(["local-peers", "--search", *few]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| CartPole")]
    assert [len(row[3].split(",")) for row in rows] == [3] * 3 + [1] * 5
    means = [np.mean([float(value) for value in row[3].split(",")]) for row in rows]
    assert means[:3] == sorted(means[:3], reverse=True) and means[3:] == sorted(means[3:], reverse=True)
    marks = [row[4].strip() for row in rows]
    assert ["best" in mark for mark in marks] == [True] + [False] * 7
    assert sum("chosen" in mark for mark in marks) == 1


def test_bindsnet_is_refused_in_one_line_where_it_is_missing():
    peer = local_learners.peers(shutil.which("false"))["bindsnet"]
    with pytest.raises(SystemExit, match=r"needs a python that has BindsNET \(--bindsnet\), got .*false"):
        peer_play.train(peer.make, "CartPole-v1", peer.settings[0], 1, 0, 1)


def test_the_linear_actor_critic_computes_its_equations():
    features = Features(lambda obs: obs, 2, 1.0)
    env = gym.make("CartPole-v1")
    learner = linear_peers.LinearActorCritic(env, np.random.default_rng(0), lambda _: features, 0.5, 0.25, 0.5)
    assert learner.gamma == 0.99
    x = np.array([[1.0, 0.0], [0.5, 2.0], [0.0, 1.0]])
    scores = []
    learner.begin(x[0])
    scores.append(learner.score)
    learner.step(1.0, x[1], False, False)
    np.testing.assert_allclose(learner.v, 0.25 * x[0])
    np.testing.assert_allclose(learner.theta, 0.5 * np.outer(scores[0], x[0]))
    scores.append(learner.score)
    v = learner.v.copy()
    learner.step(2.0, x[2], True, False)
    delta = 2.0 - v @ x[1]
    np.testing.assert_allclose(learner.v, v + 0.25 * delta * (x[1] + 0.495 * x[0]))
    trace = np.outer(scores[1], x[1]) + 0.495 * np.outer(scores[0], x[0])
    np.testing.assert_allclose(learner.theta, 0.5 * np.outer(scores[0], x[0]) + 0.5 * delta * trace)


def test_reinforce_climbs_the_gradient_of_what_it_did():
    learner = linear_peers.Reinforce(gym.make("MountainCar-v0"), np.random.default_rng(0), 0.1)
    learner.begin(np.zeros(2))
    learner.step(1.0, np.ones(2), False, False)
    scores = np.array(learner.scores)
    learner.step(0.0, np.zeros(2), True, False)
    np.testing.assert_allclose(learner.theta, 0.1 * (scores[0] - scores[1]), atol=1e-6)  # returns 1 and 0


def test_reinforce_compares_with_what_followed_the_same_step_in_past_episodes():
    learner = linear_peers.Reinforce(gym.make("MountainCar-v0"), np.random.default_rng(0), 0.1, "past")
    for rewards, weight in (([-1.0, -1.0], 0.0), ([-1.0], 1.0), ([-1.0, -1.0], -1.0)):
        before, scores = learner.theta.copy(), []
        learner.begin(np.zeros(2))
        for i, reward in enumerate(rewards):
            scores = list(learner.scores)
            learner.step(reward, np.zeros(2), i == len(rewards) - 1, False)
        change = learner.theta - before
        assert np.sign((change * scores[0]).sum().round(9)) == weight


def test_the_populations_of_mstdpet_are_integrate_and_fire_neurons_that_inhibit_each_other():
    rng = np.random.default_rng(0)
    n_ticks, n_cells, n = 200, 30, 2 * mstdpet.N_PER_ACTION
    pre = (rng.random((n_ticks, n_cells)) < 0.2).astype(float)
    w, u, late, z = rng.uniform(0, 0.12, (n, n_cells)), np.zeros(n), np.zeros(n_cells), np.zeros(n)
    found = mstdpet.run_actor(pre, late, z, w, np.zeros(n), 0.06)
    other = np.kron(1 - np.eye(2), np.ones((mstdpet.N_PER_ACTION, mstdpet.N_PER_ACTION)))
    for t in range(n_ticks):
        u = np.exp(-1 / 20) * u + w @ late - 0.06 * other @ z
        late, z = pre[t], (u >= 1).astype(float)
        u[u >= 1] = 0.0
        np.testing.assert_array_equal(found[t], z)
    assert found.sum() > 50


def test_the_error_of_mstdpet_is_the_reward_less_its_mean_over_past_episodes():
    third = mstdpet.ThirdFactor("error")
    third.begin()
    assert [third.of(-1.0), third.of(-1.0)] == [-1.0, -1.0]
    third.begin()
    assert third.of(0.0) == pytest.approx(0.1)
    plain = mstdpet.ThirdFactor("reward")
    assert [(plain.begin(), plain.of(-1.0))[1] for _ in range(3)] == [-1.0] * 3


def test_place_cells_are_most_active_where_they_stand_and_wrap_around_a_turn():
    cells = PlaceCells(GRIDS["Acrobot-v1"])
    near = [cells(np.array([np.cos(a), np.sin(a), 1.0, 0.0, 0.0, 0.0])) for a in (np.pi - 1e-9, -np.pi + 1e-9)]
    np.testing.assert_allclose(*near, atol=1e-6)
    assert near[0].shape == (cells.n,) and near[0].sum() == pytest.approx(1.0)


def kappa(s, c):
    value = (np.exp(-s / c.tau_kappa) - np.exp(-s / c.upsilon_kappa)) / (c.tau_kappa - c.upsilon_kappa)
    return np.where(s >= 0, value, 0.0)


def slope_of_kappa(s, c):
    value = np.exp(-s / c.upsilon_kappa) / c.upsilon_kappa - np.exp(-s / c.tau_kappa) / c.tau_kappa
    return np.where(s >= 0, value / (c.tau_kappa - c.upsilon_kappa), 0.0)


def test_the_critic_of_fremaux_and_its_weights_follow_the_written_equations():
    c = fremaux.constants(n_critic=3, v_0=2.0, dt=1.0)
    rng, n_actor, n_ticks = np.random.default_rng(0), 2, 1100  # so that the origin of the sums moves
    w = rng.uniform(2.0, 2.4, (4, 5))
    rates = 3.0, 5.0
    net = fremaux.new_net(n_actor, c, rates, w)
    cumulative = np.cumsum([0.4, 0.3, 0.2, 0.1])
    z, delta = kernels.advance(net, c._replace(drive=0.5), cumulative, 0.01, n_ticks, True, rng)
    kernels.move_on(net, c)
    n_pre = net.n_spikes[0]
    assert 300 < n_pre < fremaux.CAPACITY and z.sum(axis=0).min() > 5
    places, times = net.places[:n_pre], net.times[:n_pre]
    t = np.arange(n_ticks)

    post = [np.flatnonzero(z[:, i]) for i in range(5)]
    v = np.full(n_ticks, c.v_0)
    dv = np.zeros(n_ticks)
    for i in range(3):
        v += c.nu / 3 * kappa(t[:, None] - post[i], c).sum(axis=1)
        dv += c.nu / 3 * slope_of_kappa(t[:, None] - post[i], c).sum(axis=1)
    np.testing.assert_allclose(delta, dv - v / c.tau_r + 0.01, rtol=1e-9, atol=1e-12)
    assert kernels.value(net, c) == pytest.approx(v[-1])

    expected = w.copy()
    for i in range(5):
        rate, before = rates[i >= 3], -1
        for spike in post[i]:
            since = [(j, spike - s) for j, s in zip(places, times, strict=True) if before < s <= spike]
            for j, age in since:
                epsilon = c.epsilon_0 * (np.exp(-age / c.tau_m) - np.exp(-age / c.tau_s)) / (c.tau_m - c.tau_s)
                expected[j, i] += rate * (delta * epsilon * kappa(t - spike, c)).sum() / c.tau_r
            before = spike
    assert np.abs(expected - w).max() > 1e-4
    np.testing.assert_allclose(net.synapses[:, :, kernels.W], expected, rtol=1e-9)


def test_what_a_terminal_state_teaches_fremaux_is_a_fall_of_the_value_to_zero():
    c = fremaux.constants(n_critic=2, dt=1.0)
    rng = np.random.default_rng(0)
    net = fremaux.new_net(2, c, (1e3, 1e3), np.full((3, 4), 0.5))
    kernels.advance(net, c, np.cumsum([0.5, 0.3, 0.2]), 0.0, 300, True, rng)
    kernels.move_on(net, c)
    before = net.synapses[:, :, kernels.W].copy()
    k1, k2 = net.synapses[:, :, kernels.K1], net.synapses[:, :, kernels.K2]
    elapsed = 1.0  # since the last tick, from which on the terminal state counts
    eligibility = (k1 * np.exp(elapsed / c.tau_kappa) - k2 * np.exp(elapsed / c.upsilon_kappa)) / 150.0 / c.tau_r
    kernels.impulse(net, c, -5.0)
    np.testing.assert_allclose(net.synapses[:, :, kernels.W], (before - 5e3 * eligibility).clip(0, 3), rtol=1e-9)


def test_in_bindsnet_the_same_network_fires_the_same_spikes_and_learns_nearly_the_same():
    pytest.importorskip("bindsnet")
    import torch
    from bindsnet.learning import MSTDPET
    from bindsnet.network import Network
    from bindsnet.network.monitors import Monitor
    from bindsnet.network.nodes import Input, LIFNodes
    from bindsnet.network.topology import Connection

    rng, n_cells, n, threshold, rate = np.random.default_rng(0), 121, 15, 13.0, 1e-6
    start = rng.uniform(0, 2 * mstdpet.MEAN_WEIGHT, (n, n_cells))
    network = Network(dt=1.0)
    network.add_layer(Input(n=n_cells), "places")
    network.add_layer(LIFNodes(n=n, tc_decay=20.0, refrac=0), "actor")
    layers, given = network.layers, torch.tensor(threshold * start.T, dtype=torch.float32)
    rule = {"update_rule": MSTDPET, "nu": rate * threshold, "tc_e_trace": mstdpet.TAU_E}
    learned = Connection(layers["places"], layers["actor"], w=given.clone(), **rule)
    network.add_connection(learned, "places", "actor")
    other = torch.kron(1 - torch.eye(3), torch.ones(5, 5))
    inhibition = Connection(layers["actor"], layers["actor"], w=-0.06 * threshold * other)
    network.add_connection(inhibition, "actor", "actor")
    monitor = Monitor(layers["actor"], ["s"], time=mstdpet.N_TICKS)
    network.add_monitor(monitor, "actor")

    ours = mstdpet.RewardSTDP(20.0, 20.0, mstdpet.TAU_E, 1 / mstdpet.TAU_E, 1 / mstdpet.TAU_E, rate)
    w, state, u, late, z, n_spikes = start.copy(), None, np.zeros(n), np.zeros(n_cells), np.zeros(n), 0
    for _ in range(100):
        pre = mstdpet.place_cell_spikes(rng.dirichlet(np.full(n_cells, 0.1)), rng)
        reward = float(rng.normal())
        network.run({"places": torch.tensor(pre[:, None], dtype=torch.float32)}, time=len(pre), reward=reward)
        post = mstdpet.run_actor(pre, late, z, w, u, 0.06)
        late, z, n_spikes = pre[-1], post[-1], n_spikes + post.sum()
        np.testing.assert_array_equal(post, monitor.get("s").reshape(post.shape).numpy())
        w, state = mstdpet.reward_stdp(pre, post, np.full(len(pre), reward), w, ours, state)
    theirs = (learned.w - given).detach().numpy().T / threshold
    assert n_spikes > 300 and np.corrcoef((w - start).ravel(), theirs.ravel())[0, 1] > 0.98  # pairs of one tick differ
