"""What a constructor cannot use it refuses: one line with the name, the value, and what is expected."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from learners import BY_GRADIENT, LEARNERS, Noise, make
from stable_baselines3.common.env_util import make_vec_env

from spikeloop.agents import SpikingA2C, SpikingPPO

BAD = {
    "learning_rate": ["abc", "cos_0.1", "lin_0.1", -0.1, math.nan, math.inf, None, [0.1], lambda progress: "fast"],
    "gamma": [2, -0.1, math.nan, "0.9", None],
    "stats_window_size": [0, 1.5],
    "seed": [-1, 0.5, "zero"],
}
BAD_BY_GRADIENT = {
    "n_steps": [-1, 0, 1.5, "a", True],
    "gae_lambda": [1.5, -1, math.nan],
    "ent_coef": [-0.1, math.inf, "auto"],
    "vf_coef": [-1, None],
    "max_grad_norm": [0, -0.5, math.nan, "none"],
}
BAD_OF_ONE = {
    "spiking_ppo": {
        "batch_size": ["a", 0, -8, 2.5],
        "n_epochs": [0, -1, 1.5],
        "clip_range": [0, -0.2, "abc", math.nan],
        "clip_range_vf": [0, -0.2, "abc"],
        "target_kl": [0, -0.1, math.nan],
        "seq_len": [0, -8, 2.5, "a", None],
    },
    "spiking_a2c": {},
    "eprop": {
        "n_episodes": [0, 1.5, None],
        "trace_lambda": [1.5, -1],
        "actor_scale": [-1, math.nan],
        "value_scale": [-1],
        "value_coef": [-1, "a"],
        "rate_coef": [-1],
        "target_rate": [2, -1],
        "reward_scale": [math.nan, "a"],
        "initial_value": [math.inf, None],
        "trace_max": [0, -1, math.nan],
        "max_episodes": [0, 2.5],
    },
    "rstdp": {
        "value_learning_rate": [-1, math.nan, "a"],
        "trace_lambda": [1.5],
        "n_ticks": [0, 1.5],
        "noise": [-1, math.inf],
        "reward_scale": [math.nan, "a"],
        "initial_value": [math.inf],
        "baseline_rate": [1.5],
        "n_episodes": [0, 1.5],
    },
}
BAD_OF_ONE["glm"] = {
    "hidden_scale": [-1, "a"],
    "bias_scale": [-1, math.nan],
    "value_scale": [-1],
    "trace_lambda": [1.5],
    "reward_scale": [math.nan, "a"],
    "initial_value": [math.inf],
    "n_episodes": [0, 1.5],
    "max_episodes": [0, 1.5],
}
BAD_OF_ONE["eprop_chip"] = BAD_OF_ONE["eprop"]
BAD_OF_ONE["glm_chip"] = BAD_OF_ONE["glm"]
BAD_OF_ONE["rstdp_populations"] = BAD_OF_ONE["rstdp"]
OF_THE_POLICY = {("rstdp", "learning_rate"), ("rstdp_populations", "learning_rate")}  # its own if None
CASES = [
    (learner, name, value)
    for learner in LEARNERS
    for table in (BAD, BAD_BY_GRADIENT if learner in BY_GRADIENT else {}, BAD_OF_ONE[learner])
    for name, values in table.items()
    for value in values
    if value is not None or (learner, name) not in OF_THE_POLICY
]


@pytest.mark.parametrize(("learner", "name", "value"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_an_argument_out_of_range_is_named_with_its_value_and_what_is_expected(learner, name, value):
    with pytest.raises(ValueError) as caught:
        make(learner, **{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} must be a") and message.endswith(f", got {value!r}") and "\n" not in message


@pytest.mark.parametrize("learner", LEARNERS)
def test_numbers_of_numpys_are_numbers(learner):
    kwargs = {"learning_rate": np.float32(1e-3), "gamma": np.float64(0.9), "seed": np.int64(3)}
    assert make(learner, **kwargs).learn(20).num_timesteps >= 20


POLICY_CASES = [
    ("spiking_ppo", "n_neurons", [[], 0, -3, 2.5, [8, 0], "64", [8.5], None]),
    ("spiking_ppo", "net_arch", [[64, 64], [], 64, {"pi": [0]}, {"vf": "a"}, {"qf": [8]}]),
    ("spiking_ppo", "n_ticks", [0, 2.5, "a"]),
    ("spiking_ppo", "refractory", [-1, 1.5]),
    ("spiking_ppo", "latency", [2, 0.5]),
    ("spiking_ppo", "dt", [0, math.nan]),
    ("spiking_ppo", "tau_out", [-1]),
    ("spiking_ppo", "beta", [-1, math.nan]),
    ("spiking_ppo", "v_th", [0]),
    ("spiking_ppo", "rate_coef", [-1, math.nan]),
    ("spiking_ppo", "target_rate", [2]),
    ("spiking_ppo", "adaptive_fraction", [1.5]),
    ("spiking_ppo", "learn_encoder", [True]),
    ("glm", "n_hidden", [-1, 2.5, [8]]),
    ("glm", "n_ticks", [0, 1.5]),
    ("glm", "tau_s", [-1.0, math.nan]),
    ("glm", "bias", [-31, math.nan]),
    ("glm", "w_hidden_std", [-1]),
    ("glm", "w_out_std", [-1, math.inf]),
    ("glm", "encoder", ["population", "direct"]),
    ("glm", "critic", ["trace", "colour"]),
    ("eprop", "n_neurons", [0, 2.5, [8]]),
    ("eprop", "n_ticks", [0, 1.5]),
    ("eprop", "adaptive_fraction", [2.0, math.nan]),
    ("eprop", "tau_m", [-1.0]),
    ("eprop", "refractory", [-1, 0.5]),
    ("eprop", "w_in_scale", [-1, math.inf]),
    ("eprop", "bias_scale", [-1, math.nan, "a"]),
    ("eprop", "log_std_init", [math.nan, 100.0]),
    ("eprop", "tau_a", [-1, [50.0], [0.0, 5.0], [9.0, 5.0], [5.0, math.inf], "a"]),
]


@pytest.mark.parametrize(
    ("learner", "name", "value"), [(one, name, v) for one, name, values in POLICY_CASES for v in values], ids=str
)
def test_a_policy_argument_out_of_range_is_named_with_its_value(learner, name, value):
    with pytest.raises(ValueError, match=name) as caught:
        make(learner, policy_kwargs={name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("learner", BY_GRADIENT)
def test_a_number_of_neurons_is_a_single_layer(learner):
    assert make(learner, policy_kwargs={"n_neurons": 12}).policy.lstm_actor.n_neurons == (12,)


def test_sb3s_list_of_layers_is_refused_with_what_to_write_instead():
    with pytest.raises(ValueError, match=r"net_arch .*dict\(pi=\[\], vf=\[64, 64\]\), got \[64, 64\]"):
        make("spiking_ppo", policy_kwargs={"net_arch": [64, 64]})


@pytest.mark.parametrize("batch_size", [4, 20, 100])
def test_a_batch_that_does_not_hold_whole_sequences_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} must be a multiple of seq_len=8"):
        make("spiking_ppo", n_steps=200, batch_size=batch_size)


def test_a_last_minibatch_that_is_smaller_is_warned_of():
    with pytest.warns(UserWarning, match="batch_size=16 does not divide the 40 steps .* holds 8"):
        make("spiking_ppo", n_steps=40, batch_size=16)


@pytest.mark.parametrize(
    ("learner", "kwargs"),
    [
        ("spiking_a2c", {"n_steps": 1, "normalize_advantage": True}),
        ("spiking_ppo", {"n_steps": 1, "seq_len": 1, "batch_size": 1}),
        ("spiking_ppo", {"n_steps": 8, "seq_len": 1, "batch_size": 1}),
    ],
)
def test_the_advantage_of_a_single_step_cannot_be_normalised(learner, kwargs):
    with pytest.raises(ValueError, match="normalize_advantage needs more than one step"):
        make(learner, **kwargs)
    make(learner, **{**kwargs, "normalize_advantage": False}).learn(2)


@pytest.mark.parametrize("n_steps", [9, 33])
@pytest.mark.filterwarnings("ignore:batch_size")
def test_a_single_step_that_is_left_over_joins_the_minibatch_before(n_steps):
    model = make("spiking_ppo", n_steps=n_steps, batch_size=8, seq_len=1).learn(n_steps)
    sizes = [len(batch.actions) for batch in model.rollout_buffer.get(8)]
    assert sum(sizes) == n_steps and sizes[-1] == 9


def test_two_environments_make_one_step_each_enough_to_normalise():
    env = make_vec_env(Noise, n_envs=2, seed=0)
    make("spiking_a2c", env, n_steps=1, normalize_advantage=True).learn(8)


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_observations_that_hold_nothing_are_refused_with_their_space(learner, shape):
    with pytest.raises(ValueError, match=r"(got|shows) Box\(\[\], \[\], "):
        make(learner, Noise(spaces.Box(-1, 1, shape, np.float32)))


def test_a_part_of_an_observation_that_holds_nothing_is_refused():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (0,))})
    with pytest.raises(ValueError, match="observation space must hold at least one number"):
        make("spiking_ppo", Noise(space))


@pytest.mark.parametrize("wrap", [lambda space: space, lambda space: spaces.Dict(a=space)])
def test_a_bare_number_as_observation_is_refused(wrap):
    with pytest.raises(ValueError, match="observation space must have an axis"):
        make("spiking_ppo", Noise(wrap(spaces.Box(-1, 1, (), np.float32))))


def test_a_model_that_is_loaded_to_play_may_have_fewer_environments(tmp_path):
    make("spiking_a2c", make_vec_env(Noise, n_envs=2), n_steps=1, normalize_advantage=True).save(tmp_path / "a2c")
    SpikingA2C.load(tmp_path / "a2c", env=Noise()).predict(np.zeros(3, np.float32))
    make("spiking_ppo", make_vec_env(Noise, n_envs=3), n_steps=8, batch_size=24).save(tmp_path / "ppo")
    SpikingPPO.load(tmp_path / "ppo", env=make_vec_env(Noise, n_envs=5)).predict(np.zeros(3, np.float32))  # 40 steps
