"""EProp in control tasks: compiled or stepped the same bits, any encoder, Box actions, budgets, no NaN in silence."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TransformReward
from learners import Noise, weights
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

import spikeloop.envs  # noqa: F401  registers the tasks
from spikeloop.agents import EProp
from spikeloop.agents.check_finite import NonFiniteError
from spikeloop.agents.stretches import Stretches
from spikeloop.spiking import Network, Simulator
from spikeloop.spiking.encoders import ENCODERS
from spikeloop.spiking.rules.eprop_kernels import reward_eprop_act

ENDS = {"low": [-2.4, -2.5, -0.21, -2.5], "high": [2.4, 2.5, 0.21, 2.5]}
NO_VELOCITY = {"low": [-2.4, -0.21, -0.05, -0.05], "high": [2.4, 0.21, 0.05, 0.05]}
TASKS = {
    "CartPole-v1": {"obs_scale": [0.5, 0.5, 6.0, 1.0], "critic": "tiles", "critic_kwargs": {"n_tiles": 3, **ENDS}},
    "spikeloop/CartPoleNoVel-v0": {
        "critic": "tiles",
        "critic_sees_changes": True,
        "critic_kwargs": {"n_tiles": 3, **NO_VELOCITY},
    },
    "MountainCar-v0": {"critic": "places", "critic_kwargs": {"n_inputs": 50, "n_active": 3}},
    "Acrobot-v1": {},
}
SMALL = {"n_neurons": 8, "n_ticks": 2, "bias_scale": 0.5, "feedback": "initial", "tau_a": [5.0, 50.0]}
RULE = {"optimizer": "adam", "trace_lambda": 0.9, "reward_scale": 0.01, "initial_value": 1.0, "learning_rate": 0.002}


def make(env, policy_kwargs=(), seed=3, **kwargs):
    return EProp("EpropPolicy", env, seed=seed, policy_kwargs={**SMALL, **dict(policy_kwargs)}, **{**RULE, **kwargs})


class Seen(BaseCallback):
    """Notes the steps that a callback sees."""

    def __init__(self, last=None):
        super().__init__()
        self.steps, self.last = [], last

    def _on_step(self):
        ends = bool(self.locals["dones"][0])
        self.steps.append((self.num_timesteps, float(self.locals["rewards"][0]), ends))
        return self.num_timesteps != self.last


@pytest.mark.parametrize("rule", [{}, {"optimizer": "sgd", "trace_max": 1.0, "n_episodes": 3}])
@pytest.mark.parametrize("name", TASKS)
def test_compiled_stretches_and_single_steps_learn_the_same_bits(name, rule):
    """The compiled dynamics round as Gymnasium's do where numba does not contract; so few steps agree to the bit."""

    def train(**wrapper):
        env, seen = make_vec_env(name, seed=5, **wrapper), Seen()
        model = make(env, TASKS[name], **rule)
        assert (Stretches.of(model.env) is None) == bool(wrapper)
        return model.learn(400, callback=seen), seen.steps

    (compiled, seen), (stepped, also_seen) = (
        train(),
        train(wrapper_class=TransformReward, wrapper_kwargs={"func": float}),
    )
    for key, value in weights(compiled).items():
        np.testing.assert_array_equal(value, weights(stepped)[key], err_msg=key)
    assert seen == also_seen and compiled._episode_num == stepped._episode_num
    first = make(make_vec_env(name, seed=5), TASKS[name], **rule)
    assert not np.array_equal(weights(first)["w"], weights(compiled)["w"])


@pytest.mark.parametrize("last", [7, 150])
def test_a_callback_stops_it_amid_a_stretch(last):
    model = make("CartPole-v1", TASKS["CartPole-v1"])
    seen = Seen(last)
    model.learn(1000, callback=seen)
    assert len(seen.steps) == last <= model.num_timesteps < 1000
    model.learn(50, reset_num_timesteps=False)


def test_it_learns_cartpole_without_velocities():
    """Within a quarter of the budget, to be quick; the whole task is `spikeloop benchmark local-lsnn`."""
    network = {"n_neurons": 16, "adaptive_fraction": 0.5, "tau_m": 2.0, "tau_a": 20.0, "beta": 1.0, "tau_out": 2.0}
    drawn = {"w_in_scale": 1.0, "w_out_std": 0.75, "obs_scale": [1.0, 12.0]}
    policy = {**TASKS["spikeloop/CartPoleNoVel-v0"], **network, **drawn}
    rates = {"actor_scale": 5.0, "value_scale": 50.0, "rate_coef": 0.0, "n_episodes": 1}
    model = make("spikeloop/CartPoleNoVel-v0", policy, **rates).learn(25_000)
    returns = [info["r"] for info in model.ep_info_buffer]
    assert np.mean(returns[-10:]) > 100  # of at most 500; about 25 at first


def test_a_budget_in_episodes_ends_learning_and_its_schedule():
    rates = []
    model = make("CartPole-v1", learning_rate=lambda left: rates.append(left) or 0.001, max_episodes=5, n_episodes=2)
    model.learn(100_000)
    assert model._episode_num == 5 and min(rates) == pytest.approx(0.2) and model.num_timesteps < 1000
    drawn = EProp("EpropPolicy", "spikeloop/TMaze-v0", max_episodes=30, n_episodes=20, seed=0).learn(10_000)
    assert drawn.num_timesteps == 30 * 26


@pytest.mark.parametrize("kind", ENCODERS)
def test_any_encoder_learns_and_its_network_acts_the_same(kind, tmp_path):
    options = {"places": {"n_inputs": 30, "n_active": 4}, "tiles": {"n_tiles": 2}, "delta": {"threshold": 0.1}}
    encoder = {"encoder": kind, "encoder_kwargs": options.get(kind, {}), "tau_a": 20.0, "n_ticks": 4}
    model = make(Noise(), encoder, n_episodes=2)
    before = weights(model)["w"]
    model.learn(80)
    assert not np.array_equal(before, weights(model)["w"])
    model.to_network().save(tmp_path / "policy.safetensors")
    simulator, env = Simulator(Network.load(tmp_path / "policy.safetensors")), Noise()
    obs, _ = env.reset(seed=1)
    state = simulated = model.predict(obs, deterministic=True)[1]  # keys of a rate code are drawn
    for _ in range(10):
        obs, *_ = env.step(0)
        action, state = model.predict(obs, state, deterministic=True)
        expected, packed = simulator.predict(obs, simulated[0])
        assert action == expected
        simulated = (packed,)


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_what_learns_is_what_is_exported(kind):
    """The kernels' action probabilities are those of the network, in another order of sums."""
    options = {"places": {"n_inputs": 30, "n_active": 4}, "tiles": {"n_tiles": 2}, "delta": {"threshold": 0.1}}
    policy = {"encoder": kind, "encoder_kwargs": options.get(kind, {}), "n_ticks": 4, "obs_scale": [1.0, 2.0, 0.5]}
    model = make(Noise(), policy, n_episodes=2, learning_rate=0.01, optimizer="sgd").learn(80)
    model.learning_rate = 0.0
    model._setup_lr_schedule()
    policy, simulator = model.policy, Simulator(model.to_network())
    learner, memory = policy.learner(model._rule()), policy.encoder.initial_memory(1, policy.rng)
    state = simulator.initial_state(1)
    state[: memory.shape[0], :, : memory.shape[2]] = memory  # the same keys where a code draws
    outputs, rng = np.empty(4, np.float32), np.random.default_rng(0)
    for t in range(15):
        obs = rng.uniform(-1, 1, 3).astype(np.float32)
        x, memory = policy.input(obs, memory, t == 0)
        reward_eprop_act(x, np.empty(0, np.int64), np.float32(0), np.float32(0.5), 4, learner, outputs)
        preferences, state = simulator.run(obs[None, None], state)
        expected = np.exp(preferences[0, 0] - preferences.max())
        np.testing.assert_allclose(outputs[:-1], expected / expected.sum(), atol=1e-5)


@pytest.mark.parametrize("critic", [{}, {"critic": "tiles", "critic_kwargs": {"n_tiles": 2}}])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_box_actions_are_drawn_learnt_and_exported(critic, optimizer):
    space = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 0.5], np.float32))
    env = Noise(action_space=space)
    model = make(env, {**critic, "log_std_init": -1.0}, optimizer=optimizer)
    before = weights(model)
    model.learn(100)
    assert all(space.contains(action.astype(np.float32)) for action in env.seen)
    changed = {name for name, value in weights(model).items() if not np.array_equal(value, before[name])}
    assert {"w", "w_out"} <= changed and "log_std" not in changed
    obs = np.zeros(3, np.float32)
    action, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(action, Simulator(model.to_network()).predict(obs)[0])
    drawn = np.array([model.predict(obs)[0] for _ in range(200)])
    assert 0.1 < drawn[:, 0].std() < 0.6 and space.contains(drawn[0])


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)], ids=str)
def test_other_actions_are_refused_in_our_words(space):
    with pytest.raises(ValueError, match="EpropPolicy needs a Discrete or Box action space, got Multi"):
        make(Noise(action_space=space))


class Reach(gym.Env):
    """Pays for actions near the number that it shows."""

    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.goal = 0, self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.goal, {}

    def step(self, action):
        assert self.action_space.contains(action)
        reward, self.t = -float((action[0] - self.goal[0]) ** 2), self.t + 1
        self.goal = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.goal, reward, False, self.t >= 20, {}


def test_gaussian_actions_learn_where_to_reach():
    policy = {"n_neurons": 30, "log_std_init": -1.0, "tau_a": 20.0, "tau_m": 1.0, "tau_out": 0.0, "n_ticks": 4}
    model = make(Reach(), policy, trace_lambda=0.0, gamma=0.0, reward_scale=1.0, initial_value=0.0, n_episodes=5)
    model.learn(12_000)
    returns = [info["r"] for info in model.ep_info_buffer]
    assert np.mean(returns[-50:]) > -20 * 0.35  # noise alone costs 0.14 a step, standing still 0.33 more


@pytest.mark.parametrize("env", ["CartPole-v1", "spikeloop/TMaze-v0", "Pendulum-v1"])  # in stretches, drawn, stepped
def test_numbers_that_are_not_finite_end_learning_and_the_last_good_weights_are_kept(env):
    model = make(env, learning_rate=lambda left: 1e-4 if left > 0.5 else 1e30, optimizer="sgd", n_episodes=1)

    class Keep(BaseCallback):
        def _on_rollout_start(self):
            self.weights = weights(model)

        def _on_step(self):
            return True

    keep = Keep()
    with pytest.raises(NonFiniteError, match="a lower learning_rate may help") as error:
        model.learn(2000, callback=keep)
    assert "\n" not in str(error.value)
    for name, value in weights(model).items():
        np.testing.assert_array_equal(value, keep.weights[name])
    model.predict(model.observation_space.sample(), deterministic=True)


@pytest.mark.parametrize("name", ["CartPole-v1", "spikeloop/CartPoleNoVel-v0"])
def test_saves_loads_and_goes_on_as_if_never_cut(name, tmp_path):
    """With Adam's running means, drawn time constants and the critic's lines."""

    def model():
        return make(make_vec_env(name, seed=1), TASKS[name], n_episodes=4)

    whole, cut = model(), model()
    whole.learn(200)
    cut.learn(200)
    cut.save(tmp_path / "model")
    loaded = EProp.load(tmp_path / "model", env=make_vec_env(name, seed=1))
    for key, value in weights(whole).items():
        np.testing.assert_array_equal(weights(loaded)[key], value)
    for one in (whole, loaded):
        one.set_random_seed(9)
        one._last_obs = None
        one.learn(300, reset_num_timesteps=False)
    for key, value in weights(whole).items():
        np.testing.assert_array_equal(weights(loaded)[key], value, err_msg=key)
    assert "adam_first" in weights(loaded) and len(np.unique(weights(loaded)["tau_a"])) == 8


def test_time_constants_are_drawn_between_the_ends_and_kept_in_the_network():
    model = make("CartPole-v1", {"tau_a": (50.0, 800.0), "n_neurons": 400})
    tau_a = model.to_network().layers[0].neurons.tau_a
    np.testing.assert_array_equal(tau_a, model.policy.tau_a)
    assert 50 <= tau_a.min() < 60 and 600 < tau_a.max() <= 800
    assert np.median(tau_a) == pytest.approx(200, rel=0.15)  # log-uniformly


def test_weights_saved_before_neurons_were_among_them_still_load():
    model = make("CartPole-v1", {"tau_a": 30.0})
    former = {k: v for k, v in model.policy.state_dict().items() if k not in ("tau_m", "v_th", "tau_a", "beta")}
    del former["refractory"]
    other = make("CartPole-v1", {"tau_a": 30.0}, seed=4)
    other.policy.load_state_dict(former)
    assert th.equal(other.policy.w, model.policy.w)


def test_random_feedback_of_a_value_that_nobody_reads_teaches_nothing():
    code = {"critic": "tiles", "critic_kwargs": {"n_tiles": 2, "low": [-2, -2, -0.2, -2], "high": [2, 2, 0.2, 2]}}
    learnt = []
    for value_coef in (0.0, 0.5):
        kwargs = {"feedback": "random", **code}
        model = EProp("EpropPolicy", "CartPole-v1", seed=0, value_coef=value_coef, policy_kwargs=kwargs).learn(100)
        learnt.append(weights(model)["w"])
    np.testing.assert_array_equal(*learnt)


def test_flags_are_true_or_false():
    with pytest.raises(ValueError, match="train_hidden must be true or false, got 3"):
        EProp("EpropPolicy", "CartPole-v1", train_hidden=3)
    with pytest.raises(ValueError, match="critic_sees_changes must be true or false, got 'no'"):
        EProp("EpropPolicy", "CartPole-v1", policy_kwargs={"critic_sees_changes": "no"})


def test_the_ends_of_changes_are_no_ones_guess():
    kwargs = {"critic": "tiles", "critic_sees_changes": True, "critic_kwargs": {"n_tiles": 2}}
    with pytest.raises(ValueError, match="critic: encoder_kwargs needs low and high within"):
        EProp("EpropPolicy", "MountainCar-v0", policy_kwargs=kwargs)
