"""Every policy refuses an argument that it does not take in a line of its own, and takes all that it says it does."""

import copy
import inspect

import pytest
from gymnasium import spaces

from spikeloop.agents import SpikingPPO
from spikeloop.agents.known_arguments import arguments_of, unknown_argument
from spikeloop.agents.policies import POLICIES, LsnnPolicy
from spikeloop.agents.registry import ALGOS, load_algorithm

ALL = {name: policy for algo in ALGOS for name, policy in load_algorithm(algo).policy_aliases.items()}
SPACES = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)


def refusal(policy, **kwargs):
    with pytest.raises(TypeError) as found:
        policy(*SPACES, lambda _: 1e-3, **kwargs)
    return str(found.value)


@pytest.mark.parametrize("name", ALL)
def test_an_unknown_argument_is_refused_with_what_the_policy_takes(name):
    message = refusal(ALL[name], xyzzy=3)
    start, _, takes = message.partition("; it takes ")
    assert start == f"{name} has no argument 'xyzzy'" and "\n" not in message
    listed = takes.split(", ")
    assert "trained_behind" in listed and "lstm_hidden_size" not in listed
    assert {*listed, "observation_space", "action_space", "lr_schedule"} == arguments_of(ALL[name])


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("LsnnPolicy", "LifPolicy")])
def test_policies_without_lsnn_layers_refuse_constraints_by_name(name):
    for argument in ("constraint", "constraint_kwargs"):
        assert refusal(ALL[name], **{argument: None}).startswith(f"{name} has no argument '{argument}'")


@pytest.mark.parametrize("name", ALL)
def test_what_a_policy_says_it_takes_no_constructor_finds_unknown(name):
    for argument in arguments_of(ALL[name]) - {"observation_space", "action_space", "lr_schedule"}:
        try:
            ALL[name](*SPACES, lambda _: 1e-3, **{argument: object()})
        except Exception as error:
            assert f"unexpected keyword argument '{argument}'" not in str(error)


def test_a_name_that_is_nearly_right_is_suggested():
    assert refusal(LsnnPolicy, tau_mm=3).startswith("LsnnPolicy has no argument 'tau_mm' (did you mean 'tau_m'?); it")
    with pytest.raises(TypeError, match="did you mean 'constraint'"):
        SpikingPPO("LsnnPolicy", "CartPole-v1", policy_kwargs={"constrain": "deep_r"})


def test_a_subclass_takes_what_its_own_constructor_names():
    class Own(LsnnPolicy):
        def __init__(self, *args, gain=1.0, **kwargs):
            super().__init__(*args, **kwargs)
            self.gain = gain

    assert Own(*SPACES, lambda _: 1e-3, gain=2.0, beta=0.1).gain == 2.0
    assert "(did you mean 'gain'?); it takes" in refusal(Own, gains=2.0)


def test_policies_are_copied_and_show_their_arguments():
    policy = LsnnPolicy(*SPACES, lambda _: 1e-3, n_neurons=4)
    assert copy.deepcopy(policy).lstm_actor.n_neurons == (4,)
    for policy_class in POLICIES.values():
        assert "n_neurons" in inspect.signature(policy_class).parameters
    assert unknown_argument(LsnnPolicy, ["beta"]) is None
