"""What holds for all algorithms: copies, seeds, schedules, callbacks that stop, evaluations on the way."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from learners import BY_GRADIENT, LEARNERS, Noise, make, weights
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env

import spikeloop.envs  # noqa: F401  registers the task
from spikeloop.agents import RSTDP, EProp
from spikeloop.hardware import ChipGlm, ChipLsnn
from spikeloop.spiking import WinnerTakeAll

OBS = np.random.default_rng(0).uniform(-1, 1, (30, 3)).astype(np.float32)
VARIANTS = [(learner, {}) for learner in LEARNERS] + [
    ("spiking_ppo", {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [8]}, "encoder": "population"}}),
    ("spiking_ppo", {"policy_kwargs": {"encoder": "rate", "n_ticks": 2}}),
    ("spiking_ppo", {"policy_kwargs": {"readout": "max", "n_ticks": 3, "tau_out": 2.0}}),
    ("spiking_ppo", {"policy_kwargs": {"n_neurons": [], "encoder": "latency", "readout": "max", "n_ticks": 6}}),
    ("spiking_a2c", {"policy_kwargs": {"readout": "bernoulli", "n_ticks": 3, "tau_out": 2.0}}),
    ("spiking_a2c", {"use_rms_prop": True}),
    ("eprop", {"policy_kwargs": {"feedback": "random"}}),
    ("eprop", {"optimizer": "adam", "policy_kwargs": {"tau_a": [5.0, 50.0], "bias_scale": 0.5, "critic": "tiles"}}),
    ("rstdp", {"modulator": "reward_baseline"}),
    ("glm", {"policy_kwargs": {"n_hidden": 5}}),
    ("glm", {"hidden_gradient": "score", "policy_kwargs": {"n_hidden": 5, "encoder": "latency"}}),
]
SPACES = [
    spaces.Discrete(3, start=2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
    spaces.Box(-1, 1, (2,), np.float64),
]


def act(policy, deterministic=True):
    return policy.predict(OBS, episode_start=np.ones(len(OBS)), deterministic=deterministic)[0]


def by_file(policy, tmp_path):
    policy.save(tmp_path / "policy.pt")
    return type(policy).load(tmp_path / "policy.pt")


WAYS = {
    "deepcopy": lambda policy, tmp_path: copy.deepcopy(policy),
    "pickle": lambda policy, tmp_path: pickle.loads(pickle.dumps(policy)),
    "file": by_file,
}


def draws(learner, kwargs):
    """Return whether a state that begins has keys that are drawn: two calls do not see the same spikes."""
    encoder = kwargs.get("policy_kwargs", {}).get("encoder", "population_spikes" if "glm" in learner else "direct")
    return encoder in ("rate", "population_spikes")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("learner", "kwargs"), VARIANTS, ids=str)
def test_a_policy_can_be_copied_right_after_learning(learner, kwargs, way, tmp_path):
    policy = make(learner, **kwargs).learn(40).policy
    again = WAYS[way](policy, tmp_path)
    for name, value in policy.state_dict().items():
        assert np.array_equal(again.state_dict()[name], value)
    if not draws(learner, kwargs):
        np.testing.assert_array_equal(act(again), act(policy))
    act(again, deterministic=False)
    again.load_state_dict(policy.state_dict())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("use_sde", [False, True])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_policy_of_any_action_space_can_be_copied(space, use_sde, way, tmp_path):
    if use_sde and not isinstance(space, spaces.Box):
        pytest.skip("gSDE is for continuous actions")
    policy = make("spiking_ppo", Noise(action_space=space), use_sde=use_sde).learn(32).policy
    again = WAYS[way](policy, tmp_path)
    np.testing.assert_array_equal(act(again), act(policy))
    assert all(space.contains(action) for action in act(again, deterministic=False))


def test_a_copy_learns_on_by_itself():
    model = make("spiking_ppo").learn(16)
    before = act(model.policy)
    model.policy, kept = copy.deepcopy(model.policy), model.policy
    model.learn(64, reset_num_timesteps=False)
    assert not np.array_equal(kept.value_net.weight.detach(), model.policy.value_net.weight.detach())
    np.testing.assert_array_equal(act(kept), before)


@pytest.mark.parametrize(("learner", "kwargs"), VARIANTS, ids=str)
def test_a_seed_reaches_every_source_of_random_numbers(learner, kwargs):
    model = make(learner, **kwargs).learn(40)
    runs = []
    for seed in (7, 7, 8):
        model.set_random_seed(seed)
        runs.append([act(model, deterministic=False) for _ in range(5)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_a_seed_reaches_the_keys_of_a_rate_encoder():
    model, keys = make("spiking_ppo", policy_kwargs={"encoder": "rate"}), []
    for seed in (7, 7, 8):
        model.set_random_seed(seed)
        keys.append(model.policy.initial_state(5)[0, :, 0])
    assert np.array_equal(keys[0], keys[1]) and not np.array_equal(keys[0], keys[2])


class OtherBackend(WinnerTakeAll):
    """Another network behind the same protocol."""


def test_a_policy_on_another_backend_comes_back_on_it(tmp_path):
    policy = make("rstdp", backend=OtherBackend).learn(40).policy
    assert type(by_file(policy, tmp_path).network) is OtherBackend


def test_a_backend_may_be_called_core_as_in_models_and_files_of_before(tmp_path):
    model = make("rstdp", core=OtherBackend, core_kwargs={})
    for name in ("backend", "backend_kwargs"):
        setattr(model, name.replace("backend", "core"), vars(model).pop(name))
    model.save(tmp_path / "model")
    assert type(RSTDP.load(tmp_path / "model").policy.network) is OtherBackend
    arguments = model.policy._get_constructor_parameters()
    former = {name.replace("backend", "core"): value for name, value in arguments.items()}
    assert type(type(model.policy)(**former).network) is OtherBackend


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_seed_set_later_makes_trainings_the_same(learner):
    first, second = make(learner, seed=1), make(learner, seed=1)
    act(first, deterministic=False)  # draws
    for model in (first, second):
        model.set_random_seed(5)
        model.learn(60)
    for name, value in weights(first).items():
        np.testing.assert_array_equal(weights(second)[name], value)


def moved(model, before):
    """Return the largest change of a weight; running means of firing rates are none, nor is what else a chip holds."""
    if isinstance(network := getattr(model.policy, "network", None), (ChipGlm, ChipLsnn)):
        plastic = [i for i, projection in enumerate(network.program.projections) if projection.learning is not None]
        found = {f"network.{i}": network.emulator.weights(i) for i in plastic}
        return max(abs(value - before[f"{name}.synapses"][:, 0].T).max() for name, value in found.items())
    return max(abs(value - before[name]).max(initial=0.0) for name, value in weights(model).items() if name != "rate")


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_learning_rate_that_begins_with_zero_teaches(learner):
    longer = {"n_episodes": 20} if learner.startswith("eprop") else {}  # than the training, which would be one rollout
    model, frozen = (make(learner, learning_rate=rate, **longer) for rate in (lambda p: 0.1 * (1 - p), 0.0))
    before = weights(model)
    for one in (model, frozen):
        one.learn(60)
    assert moved(model, before) > 1e-6 and moved(frozen, before) == 0


def test_a_schedule_of_r_stdp_scales_from_its_start_or_from_its_peak():
    decaying, warming = (make("rstdp", learning_rate=rate) for rate in (lambda p: 0.1 * p, lambda p: 0.1 * (1 - p)))
    constant = make("rstdp", learning_rate=0.1)
    for model in (decaying, warming, constant):
        assert model.policy.parameters_of_rule.learning_rate == 0.1


class StopAt(BaseCallback):
    """Stops training on its n-th step."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def _on_step(self):
        return self.n_calls < self.n


@pytest.mark.parametrize("n", [1, 25, 26, 27, 60])
def test_e_prop_that_is_stopped_has_learnt_from_the_whole_episodes_before(n):
    def model():
        return EProp("EpropPolicy", "spikeloop/TMaze-v0", seed=0, n_episodes=20)

    stopped, before = model(), weights(model())
    stopped.learn(10_000, StopAt(n))
    assert stopped.num_timesteps == n and stopped._episode_num == n // 26
    if n < 26:
        assert moved(stopped, before) == 0
    one, two = model(), model()
    one.learn(10_000, StopAt(26 * (n // 26)) if n >= 26 else StopAt(1))
    two.learn(10_000)
    assert moved(stopped, weights(one)) == 0 and moved(two, weights(stopped)) > 0
    stopped.learn(52, reset_num_timesteps=False)
    assert stopped.num_timesteps == n + 52


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_last_episode_that_is_wanted_is_the_last_that_is_learnt_from(learner):
    env = Noise()
    model = make(learner, env)
    model.learn(1000, StopTrainingOnMaxEpisodes(3))
    assert model.num_timesteps == 60 == len(env.seen)


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: EProp("EpropPolicy", "spikeloop/TMaze-v0", seed=0),
        lambda: RSTDP(
            "WtaPolicy",
            "CartPole-v1",
            seed=0,
            policy_kwargs={"encoder_kwargs": {"n_tiles": 3, "low": [-2.4, -3, -0.2, -3], "high": [2.4, 3, 0.2, 3]}},
        ),
    ],
)
def test_compiled_episodes_stop_with_the_last_that_is_wanted(make_model):
    model = make_model()
    model.learn(10_000, StopTrainingOnMaxEpisodes(3))
    assert model._episode_num == len(model.ep_info_buffer) == 3
    assert model.num_timesteps == sum(info["l"] for info in model.ep_info_buffer)


@pytest.mark.parametrize("critic_reads_actor", [False, True])
@pytest.mark.parametrize("learner", BY_GRADIENT)
def test_the_firing_rate_of_a_rollout_is_that_of_its_steps_alone(learner, critic_reads_actor):
    def rates(callback):
        env = make_vec_env(lambda: gym.wrappers.TimeLimit(Noise(), 5), n_envs=2, seed=0)
        model = make(learner, env, policy_kwargs={"critic_reads_actor": critic_reads_actor})
        _, callback = model._setup_learn(1000, callback)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        (count,), n_counted = model.policy.rollout_counts
        assert n_counted == model.n_steps * 2 and model.policy.lstm_actor.n_ticks == 1
        assert model.logger.name_to_value["spiking/firing_rate_0"] == count.mean() / n_counted
        return count, model

    alone, model = rates(None)
    watched, also = rates(EvalCallback(make_vec_env(Noise, seed=1), n_eval_episodes=1, eval_freq=2, verbose=0))
    np.testing.assert_array_equal(alone, watched)
    assert also.policy.lstm_actor.n_counted > model.policy.lstm_actor.n_counted  # evaluations count for themselves
