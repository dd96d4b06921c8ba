"""Deployed policies step as SB3's do, carry their state as a value, and come back from their files unchanged."""

import copy
import dataclasses
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
from deployable import exact_network, observations
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from spikeloop.hardware.compile import compile_network
from spikeloop.hardware.deployed import DeployedPolicy
from spikeloop.hardware.deployment import Deployment
from spikeloop.hardware.host import Host
from spikeloop.hardware.loihi.chip import CHIPS, PROFILES
from spikeloop.hardware.loihi.quantize import MAX_BIAS
from spikeloop.spiking import ActionHead, Encoder, Layer, LsnnNeurons, Network, Normalizer, Readout, Simulator

ENCODERS = ("direct", "population", "delta", "rate", "latency")


def deploy(chip="loihi1", **options):
    return compile_network(exact_network(**options), chip, calibration=observations()[0])


def cartpole_network(n=64):
    """Return a network that takes CartPole's observations and pushes towards the side the pole falls to."""
    neurons = LsnnNeurons(
        np.full(n, 4.0),
        np.ones(n),
        np.full(n, 100.0),
        np.repeat([0.0, 0.05], n // 2),
        np.zeros(n),
        reset="zero",
        adaptation="ahp",
    )
    side = np.where(np.arange(n) % 2, 1.0, -1.0)
    w_in = np.outer(side, [0.02, 0.2, 1.5, 1.0])
    rng = np.random.default_rng(0)
    w_rec = rng.normal(0, 0.02, (n, n))
    np.fill_diagonal(w_rec, 0)
    layer = Layer(w_in.astype("f4"), rng.uniform(0, 0.3, n).astype("f4"), neurons, w_rec.astype("f4"))
    readout = Readout((np.outer([-1, 1], side) / n).astype("f4"), np.zeros(2, "f4"), count=True)
    normalizer = Normalizer(np.zeros(4), np.sqrt([0.2, 0.2, 0.01, 0.1]))
    head = ActionHead("discrete", (2,))
    return Network(Encoder("direct", 4), (layer,), readout, head, (normalizer,), n_ticks=4, latency=1)


@pytest.mark.parametrize("chip", CHIPS)
def test_actions_and_shapes_are_those_of_the_simulator(chip):
    network, (obs, starts) = exact_network(), observations()
    simulator, policy = Simulator(network), DeployedPolicy(deploy(chip))
    expected_state = state = None
    for x, start in zip(obs, starts, strict=True):
        expected, expected_state = simulator.predict(x, expected_state, start)
        actions, state = policy.predict(x, state, start)
        np.testing.assert_array_equal(actions, expected)
        assert actions.shape == (3,)
    action, one = policy.predict(obs[0, 0], policy.initial_state())
    assert np.shape(action) == () and one.chip.shape[0] == 1


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("latency", [0, 1])
def test_state_is_a_value_and_environments_do_not_mix(encoder, latency):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        policy = DeployedPolicy(deploy(encoder=encoder, latency=latency))
    obs, starts = observations()
    together = policy.initial_state(3)
    alone = [
        type(together)(together.chip[i : i + 1], together.memory[:, i : i + 1], together.trace[i : i + 1])
        for i in range(3)
    ]
    before = [part.copy() for part in together]
    first, _ = policy.step(obs[0], together, starts[0])
    for part, kept in zip(together, before, strict=True):
        np.testing.assert_array_equal(part, kept)
    again, _ = policy.step(obs[0], together, starts[0])
    np.testing.assert_array_equal(first, again)
    for x, start in zip(obs[:12], starts[:12], strict=True):
        values, together = policy.step(x, together, start)
        for i in range(3):
            value, alone[i] = policy.step(x[i : i + 1], alone[i], start[i : i + 1])
            np.testing.assert_allclose(value[0], values[i], rtol=0, atol=1e-12)


@pytest.mark.parametrize("encoder", ["direct", "delta"])
def test_an_episode_start_forgets_what_came_before(encoder):
    policy, (obs, _) = DeployedPolicy(deploy(encoder=encoder)), observations()
    fresh, _ = policy.step(obs[5])
    _, used = policy.step(obs[0])
    np.testing.assert_array_equal(policy.step(obs[5], used, np.ones(3, bool))[0], fresh)
    assert not np.array_equal(policy.step(obs[5], used)[0], fresh)


@pytest.mark.parametrize(("chip", "options"), [(chip, {"encoder": e}) for chip in CHIPS for e in ("direct", "delta")])
def test_the_interpreter_chooses_the_same_actions(chip, options):
    deployment, (obs, starts) = deploy(chip, sizes=(12, 9), **options), observations()
    fast, slow = DeployedPolicy(deployment), DeployedPolicy(deployment, interpreted=True)
    states = [None, None]
    for x, start in zip(obs, starts, strict=True):
        values = []
        for i, policy in enumerate((fast, slow)):
            value, states[i] = policy.step(x, states[i], start)
            values.append(value)
        np.testing.assert_array_equal(*values)
    np.testing.assert_array_equal(states[0].chip, states[1].chip)


def test_evaluate_policy_runs_it_in_vectorised_environments_as_it_runs_the_float_network():
    network = cartpole_network()
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")] * 3)
    returns = {}
    for name, policy in (("float", Simulator(network)), ("chip", DeployedPolicy(compile_network(network)))):
        env.seed(0)
        returns[name] = evaluate_policy(policy, env, n_eval_episodes=6, warn=False)[0]
    assert returns["float"] > 100 and returns["chip"] == pytest.approx(returns["float"], rel=0.25)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("options", [{"encoder": e} for e in ENCODERS] + [{"latency": 0}])
@pytest.mark.filterwarnings("ignore:lowered for")
def test_files_give_the_same_policy_back(chip, options, tmp_path):
    network = dataclasses.replace(exact_network(**options), metadata={"env": "CartPole-v1"})
    policy = DeployedPolicy(compile_network(network, chip, calibration=observations()[0]))
    policy.save(tmp_path / "policy.safetensors")
    loaded = DeployedPolicy.load(tmp_path / "policy.safetensors")
    assert loaded.deployment.metadata["env"] == "CartPole-v1" and loaded.deployment.program.chip == chip
    assert loaded.deployment.approximations == policy.deployment.approximations
    states = [policy.initial_state(3), loaded.initial_state(3)]
    for x in observations()[0][:5]:
        (values, states[0]), (same, states[1]) = policy.step(x, states[0]), loaded.step(x, states[1])
        np.testing.assert_array_equal(values, same)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "version", "network", "host"])
def test_damaged_and_foreign_files_are_refused(damage, tmp_path):
    file = tmp_path / "policy.safetensors"
    deploy().save(file)
    data = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "foreign":
        file.write_bytes(b"PK" + data)
    elif damage == "version":
        file.write_bytes(data.replace(b'format_version\\": 5', b'format_version\\": 9'))
    elif damage == "network":
        exact_network().save(file)
    else:
        file.write_bytes(data.replace(b'first_target\\": 6', b'first_target\\": 9'))
    with pytest.raises(ValueError, match=r"policy\.safetensors|first_target"):
        DeployedPolicy.load(file)
    with pytest.raises(FileNotFoundError, match="no file at"):
        Deployment.load(tmp_path / "none")


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u1", "?"])
def test_neither_dtype_nor_order_of_an_observation_matters(chip, dtype):
    policy, state = DeployedPolicy(deploy(chip)), None
    obs = (observations()[0] > 0).astype(dtype)
    for x in obs[:10]:
        values, new = policy.step(x, state)
        fortran = None if state is None else type(state)(*(np.asfortranarray(part) for part in state))
        same, _ = policy.step(np.asfortranarray(x), fortran)
        np.testing.assert_array_equal(same, values)
        np.testing.assert_array_equal(policy.step(x.astype("f8"), state)[0], values)
        state = new


def test_wrong_calls_are_refused():
    policy, (obs, _) = DeployedPolicy(deploy()), observations()
    with pytest.raises(ValueError, match="must have shape \\(3,\\)"):
        policy.predict(obs[0, :, :2])
    with pytest.raises(ValueError, match="deterministic=True"):
        policy.predict(obs[0], deterministic=False)
    with pytest.raises(ValueError, match="state must be that of 2 environments"):
        policy.predict(obs[0, :2], policy.initial_state(3))
    for wrong in (-1, 1.5, True):
        with pytest.raises(ValueError, match=f"n_envs must be an integer >= 0, got {wrong}"):
            policy.initial_state(wrong)
    other = DeployedPolicy(deploy(sizes=(9,)))
    with pytest.raises(ValueError, match="state must be that of 3 environments"):
        policy.predict(obs[0], other.initial_state(3))
    with pytest.raises(ValueError, match=r"state must be that of 3 environments, .* got \(\("):
        policy.predict(obs[0], policy.initial_state(3).chip)
    start = policy.initial_state(3)
    with pytest.raises(ValueError, match="state must be int32"):
        policy.predict(obs[0], start._replace(chip=start.chip.astype(np.float64)))
    with pytest.raises(ValueError, match=r"episode_start must have shape \(3,\), got bool \(2,\)"):
        policy.predict(obs[0], start, np.ones(2, bool))
    with pytest.raises(ValueError, match="observation must hold real numbers, got <U1"):
        policy.predict(np.full((3, 3), "1"), start)
    with pytest.raises(ValueError, match="observations must have 3 values"):
        policy.predict(np.zeros((0, 3)), policy.initial_state(0))
    with pytest.raises(ValueError, match="no action head"):
        DeployedPolicy(deploy(head=None)).predict(obs[0])


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"input": "telepathy"}, "Host.input must be one of"),
        ({"n_ticks": 0}, "Host.n_ticks must be"),
        ({"w_in": None}, "Host.w_in must be an array"),
        ({"w_in": np.zeros((12, 5))}, "Host.w_in must have shape"),
        ({"head": ActionHead("discrete", (3,))}, "Host.head needs 3 outputs"),
    ],
)
def test_a_host_that_fits_nothing_is_refused(change, answer):
    host = deploy().host
    with pytest.raises(ValueError, match=answer):
        Host(**{f.name: getattr(host, f.name) for f in dataclasses.fields(Host)} | change)


@pytest.mark.parametrize("part", ["n_inputs", "outputs"])
def test_a_program_of_another_network_is_refused(part):
    deployment = deploy()
    program = dataclasses.replace(deployment.program, **{part: 4 if part == "n_inputs" else np.arange(3)})
    with pytest.raises(ValueError, match=r"Deployment\.program must have"):
        dataclasses.replace(deployment, program=program)


def test_forgetting_the_state_warns_once():
    policy, (obs, _) = DeployedPolicy(deploy()), observations()
    policy.predict(obs[0])
    with pytest.warns(UserWarning, match="starts from rest"):
        policy.predict(obs[0])
    policy.predict(obs[0])


@pytest.mark.parametrize("chip", CHIPS)
def test_inputs_beyond_the_range_saturate_and_are_counted_and_warned_of_once(chip):
    policy = DeployedPolicy(deploy(chip))
    with pytest.warns(UserWarning, match="values left their range on the way to the chip"):
        _, far = policy.step(np.array([[1e12, 0.5, -1e12]]), policy.initial_state())
    assert sum(policy.machine.clipped.values()) == (12 if chip == "loihi1" else 2)
    _, further = policy.step(np.array([[np.inf, 0.5, -np.inf]]), policy.initial_state())
    _, other_way = policy.step(np.array([[-np.inf, 0.5, np.inf]]), policy.initial_state())
    np.testing.assert_array_equal(far.chip, further.chip)
    assert np.any(far.chip != other_way.chip)


def test_a_current_beyond_the_largest_bias_is_written_as_the_largest():
    machine = DeployedPolicy(deploy()).machine
    _, bias = machine.to_chip(np.full((1, 3), 1e4, np.float32))
    assert machine.clipped["bias written by the host"] > 0 and abs(bias).max() == MAX_BIAS
    assert machine.overflowed == "on the way to the chip"


@pytest.mark.filterwarnings("ignore:values left")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("factor", [1.0, 1e2, 1e5, 1e9])
def test_payloads_keep_the_direction_of_an_observation_however_large(profile, factor):
    network = cartpole_network()
    network = dataclasses.replace(network, preprocessing=())
    simulator = Simulator(network)
    policy = DeployedPolicy(compile_network(network, "loihi2", profile=profile))
    obs = factor * np.random.default_rng(0).normal(size=(300, 4))
    expected, _ = simulator.predict(obs, simulator.initial_state(300))
    actions, _ = policy.predict(obs, policy.initial_state(300))
    assert np.mean(actions == expected) > 0.95
    assert not any(policy.machine.counts.overflows[kind] for kind in ("input", "u", "v input"))


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_observation_that_is_no_number_is_refused_on_every_chip(chip, encoder):
    policy = DeployedPolicy(deploy(chip, encoder=encoder))
    obs = np.zeros((2, 3))
    obs[1, 2] = np.nan
    with pytest.raises(ValueError, match="observation must hold numbers, got nan as value 2 of environment 1"):
        policy.predict(obs, policy.initial_state(2))


@pytest.mark.parametrize("interpreted", [False, True])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))])
def test_a_copied_policy_goes_on_alike_and_shares_nothing(how, interpreted):
    policy, (obs, _) = DeployedPolicy(deploy(encoder="rate"), interpreted=interpreted), observations()
    _, state = policy.step(obs[0])
    twin = how(policy)
    np.testing.assert_array_equal(twin.step(obs[1], state)[0], policy.step(obs[1], state)[0])
    np.testing.assert_array_equal(twin.initial_state(2).memory, policy.initial_state(2).memory)
    twin.step(obs[1], state)
    assert (policy.n_steps, twin.n_steps) == (6, 9)
    if not interpreted:
        assert (policy.machine.counts.n_ticks, twin.machine.counts.n_ticks) == (18, 27)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("latency", [0, 1])
@pytest.mark.filterwarnings("ignore:lowered for")
def test_threads_that_step_one_policy_get_what_one_thread_gets(chip, latency):
    network = dataclasses.replace(cartpole_network(), latency=latency)
    policy, rng = DeployedPolicy(compile_network(network, chip)), np.random.default_rng(0)
    obs = rng.normal(0, 0.1, (6, 80, 1, 4))

    def play(mine):
        state, values = policy.initial_state(), []
        for x in mine:
            value, state = policy.step(x, state)
            values.append(value)
        return np.array(values)

    expected, spikes = [play(mine) for mine in obs], policy.machine.counts.spikes
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(play, obs))
    np.testing.assert_array_equal(found, expected)
    assert policy.n_steps == 2 * 6 * 80
    np.testing.assert_array_equal(policy.machine.counts.spikes, 2 * spikes)
