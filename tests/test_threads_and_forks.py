"""Several Python threads share an engine, copies stand alone, and forked processes run."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from learners import BY_GRADIENT, LEARNERS, Noise, make, weights
from stable_baselines3.common.vec_env import DummyVecEnv

from spikeloop.agents import SpikingPPO, ppo_kernels, spiking_ppo
from spikeloop.spiking.action_head import ActionHead
from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.engine import shares
from spikeloop.spiking.module import LSNN
from spikeloop.spiking.network import Network
from spikeloop.spiking.readout import Readout
from spikeloop.spiking.rules.winner_take_all import WinnerTakeAll, WinnerTakeAllParameters
from spikeloop.spiking.simulator import Simulator
from spikeloop.spiking.threads import kernel_threads, torch_on_one_thread

SIZES, B, L = (64, 20), 3, 200


def make_lsnn(seed=0, sizes=SIZES):
    torch.manual_seed(seed)
    lsnn = LSNN(Encoder("direct", 3), sizes, n_ticks=4)
    with torch.no_grad():
        lsnn.layers[0].w_in.mul_(3)
    return lsnn


def make_network():
    lsnn = make_lsnn()
    readout = Readout(np.random.default_rng(0).normal(size=(5, SIZES[-1])).astype("f4"), np.zeros(5))
    return Network(lsnn.encoder, lsnn.network_layers(), readout, ActionHead("discrete", (5,)), n_ticks=4)


def rollout(engine_like, seed):
    """Return the states that a sequence of steps goes through."""
    obs = np.random.default_rng(seed).normal(size=(L, B, 3))
    state, states = engine_like.initial_state(B), []
    for step in obs:
        if isinstance(engine_like, Simulator):
            _, state = engine_like.predict(step, state)
        else:
            _, state = engine_like.step(step, state, np.zeros(B))
        states.append(state)
    return np.stack(states)


def counts_of(engine_like):
    return [count.tolist() for count in engine_like.spike_counts], engine_like.n_counted


@pytest.mark.parametrize("make", [lambda: Simulator(make_network()), make_lsnn], ids=["simulator", "lsnn"])
def test_threads_share_an_engine(make):
    alone, shared = make(), make()
    right = [rollout(alone, seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda seed: rollout(shared, seed), range(6)))
    np.testing.assert_array_equal(found, right)
    assert counts_of(shared) == counts_of(alone)


def test_threads_share_a_sequence_engine():
    network, lsnn = make_network(), make_lsnn()
    alone, shared = Simulator(network), Simulator(network)
    obs = [np.random.default_rng(seed).normal(size=(60, 8, 3)).astype("f4") for seed in range(6)]
    start = torch.zeros(60, 8)

    def gradient(x):
        y, _ = lsnn(torch.from_numpy(x), torch.from_numpy(lsnn.initial_state(8)), start)
        return torch.autograd.grad(y.sum(), [lsnn.layers[0].w_in, lsnn.layers[1].w_rec])

    runs, gradients = [alone.run(x)[0] for x in obs], [gradient(x) for x in obs]
    with ThreadPoolExecutor(6) as pool:
        np.testing.assert_array_equal(list(pool.map(lambda x: shared.run(x)[0], obs)), runs)
        for found, right in zip(pool.map(gradient, obs), gradients, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))
    assert counts_of(shared) == counts_of(alone)


def test_threads_share_a_network_that_does_not_learn():
    learner = WinnerTakeAll(400, 3, WinnerTakeAllParameters(), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    learner.load_state_dict({"w": rng.uniform(-1, 1, (3, 400)), "v": rng.normal(size=400)})
    learner.learning = learner.exploring = False
    lines = [rng.choice(400, 30, replace=False) for _ in range(300)]
    right = [[part.tolist() if i < 2 else part for i, part in enumerate(learner.run(x, 5))] for x in lines]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda x: learner.run(x, 5), lines * 4))
    assert [[spikes.tolist(), last.tolist(), value] for spikes, last, value in found] == right * 4


def test_threads_that_learn_together_leave_the_network_whole():
    learner = WinnerTakeAll(50, 3, WinnerTakeAllParameters(), np.random.default_rng(0))

    def learn(seed):
        rng = np.random.default_rng(seed)
        for _ in range(300):
            learner.run(rng.choice(50, 20, replace=False), 5)
            learner.reinforce(rng.normal())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(learn, range(6)))
    arrays = learner.arrays
    live = arrays.live[: arrays.n_live[0]]
    assert sorted(live) == np.flatnonzero(arrays.e_v).tolist()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("sizes", [(64, 20), (128,)])
def test_a_copy_of_a_used_lsnn_stands_alone(how, sizes):
    original = make_lsnn(sizes=sizes)
    right = rollout(original, 0)
    made = how(original)
    assert counts_of(made) == counts_of(original)
    with torch.no_grad():
        original.layers[0].w_in.zero_()
        original.layers[0].v_th.mul_(100)
    before = counts_of(original)
    np.testing.assert_array_equal(rollout(made, 0), right)
    assert counts_of(original) == before


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_a_used_simulator_stands_alone(how):
    original = Simulator(make_network(), n_threads=1)
    right = rollout(original, 0)
    before = counts_of(original)
    made = how(original)
    assert counts_of(made) == before and made.n_threads == 1
    np.testing.assert_array_equal(rollout(made, 0), right)
    assert counts_of(original) == before


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_a_used_learner_stands_alone(how):
    original = WinnerTakeAll(10, 3, WinnerTakeAllParameters(), np.random.default_rng(0))
    original.run(np.arange(4), 5)
    made = how(original)
    for learner in (original, made):
        learner.reinforce(0.5)
        learner.run(np.arange(4), 5)
        learner.reinforce(0.5)
    for a, b in zip(original.arrays, made.arrays, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.shares_memory(a, b)


def test_counts_can_be_reset():
    simulator = Simulator(make_network())
    rollout(simulator, 0)
    first = counts_of(simulator)
    simulator.reset_counts()
    assert simulator.n_counted == 0 and not any(count.any() for count in simulator.spike_counts)
    rollout(simulator, 0)
    assert counts_of(simulator) == first


def _work(network, obs, queue):
    queue.put((shares.max_threads(), Simulator(network, n_threads=2).run(obs)[0]))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_runs_what_its_parent_ran():
    network, obs = make_network(), np.random.default_rng(0).normal(size=(200, 8, 3))
    right = Simulator(network).run(obs)[0]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_work, args=(network, obs, queue))
    worker.start()
    threads, found = queue.get(timeout=100)
    worker.join(100)
    assert worker.exitcode == 0 and threads == 1
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threads_may_start_the_engine_at_once(layer):
    code = (
        "import threading, numba; from spikeloop.spiking.engine import shares\n"
        f"numba.config.THREADING_LAYER = {layer!r}\n"
        "gate, found = threading.Barrier(8), []\n"
        "def first():\n    gate.wait(); found.append(shares.max_threads())\n"
        "threads = [threading.Thread(target=first) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]; print(found)"
    )
    environment = {"NUMBA_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str([2 if layer == "omp" else 1] * 8)


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# 17 values and 5 environments: numbers of rows and columns that matrix products do not share out evenly
@pytest.mark.parametrize("name", LEARNERS)
def test_training_has_the_same_bits_whatever_the_threads(set_threads, name):
    n_obs, n_envs, options, kwargs = 3, 1, {}, {}
    if name in BY_GRADIENT:
        n_obs, n_envs, options = 17, 5, {"n_neurons": [128], "n_ticks": 4, "net_arch": {"vf": [64, 64]}}
        kwargs = {"batch_size": 80} if name == "spiking_ppo" else {}
    found = []
    for n_threads in (1, 2, 3):
        set_threads(n_threads)
        env = DummyVecEnv([partial(Noise, gym.spaces.Box(-1, 1, (n_obs,), np.float32))] * n_envs)
        env.seed(0)
        found.append(weights(make(name, env, options, **kwargs).learn(160)))
        assert torch.get_num_threads() == n_threads
    for other in found[1:]:
        for key, value in found[0].items():
            np.testing.assert_array_equal(value, other[key], key)


@pytest.mark.filterwarnings("ignore:batch_size")
@pytest.mark.parametrize("target_kl", [None, 1e-4])
def test_an_update_in_shares_has_the_same_bits_whatever_the_threads(set_threads, monkeypatch, target_kl):
    if shares.max_threads() < 2:
        pytest.skip("kernels have one thread here")
    in_threads = []
    threaded = ppo_kernels.epochs_in_threads
    monkeypatch.setattr(ppo_kernels, "epochs_in_threads", lambda n, *rest: in_threads.append(n) or threaded(n, *rest))
    monkeypatch.setattr(spiking_ppo, "shares_of", lambda policy, n_steps, n_sequences: min(n_sequences, 3))
    learnt = []
    for n_threads in (1, 2):
        set_threads(n_threads)
        model = SpikingPPO("LsnnPolicy", "CartPole-v1", n_steps=64, seq_len=8, batch_size=24, n_epochs=9, seed=0)
        model.target_kl = target_kl
        model.learn(128)
        assert len(model._compiled_policy.gradients) == 3
        learnt.append([p.detach().numpy().copy() for p in model.policy.parameters()])
    assert set(in_threads) == {2}
    for one, two in zip(*learnt, strict=True):
        np.testing.assert_array_equal(one, two)


def test_torch_gets_its_threads_back_and_kernels_keep_theirs(set_threads):
    set_threads(2)
    before = kernel_threads()
    with pytest.raises(KeyError), torch_on_one_thread(), torch_on_one_thread():
        assert torch.get_num_threads() == 1 and kernel_threads() == before
        raise KeyError
    assert torch.get_num_threads() == 2 and kernel_threads() == before
