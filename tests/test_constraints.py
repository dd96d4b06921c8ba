"""Constraints on weights: their rules by a plain definition, what holds after every step, training, saving, chips."""

import math

import numpy as np
import pytest
import test_compiled_update as compiled_update
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import make
from test_agents import collect

from spikeloop.agents import GLM, RSTDP, EProp, Evolution, SpikingA2C, SpikingPPO
from spikeloop.agents.compilable import torch_reason
from spikeloop.agents.quantization import QuantizeWeights
from spikeloop.agents.warm_start import load_network
from spikeloop.hardware import DeployedPolicy, compile_network
from spikeloop.hardware.report import report
from spikeloop.spiking import LSNN, Encoder, Network
from spikeloop.spiking.constrained_weights import ConstrainedWeights
from spikeloop.spiking.constraints import CONSTRAINTS, constraint_for
from spikeloop.spiking.constraints.base import AWAKE, Synapses, begin
from spikeloop.spiking.constraints.deep_r import DeepR
from spikeloop.spiking.constraints.static import Static

DALE = {"inhibitory": 0.25}
# every member as it is, and with all that it can do
CASES = {name: (name, {}) for name in CONSTRAINTS} | {
    "deep_r, all": ("deep_r", {**DALE, "connectivity": 0.3, "input_connectivity": 0.5, "l1": 3.0, "temperature": 0.01}),
    "static, all": ("static", {**DALE, "connectivity": 0.3, "input_connectivity": 0.5}),
}
SPARSE = {"constraint": "deep_r", "constraint_kwargs": {"connectivity": 0.2, "l1": 1.0, "temperature": 0.01}}


def layers_of(sizes=(12, 8), recurrent=True, seed=0):
    generator = th.Generator().manual_seed(seed)
    return LSNN(Encoder("direct", 5), sizes, recurrent=recurrent, generator=generator).layers


def trained(algo="spiking_ppo", steps=64, policy_kwargs=(), **kwargs):
    return make(algo, policy_kwargs={**SPARSE, **dict(policy_kwargs)}, **kwargs).learn(steps)


def deep_r_by_hand(w, sign, active, constraint, rate, rng):
    """Bellec et al. 2018, algorithm 1, one synapse after the other."""
    w, active = w.copy(), active.copy()
    noise = rng.standard_normal(w.shape, np.float32) if constraint.temperature else np.zeros(w.shape, np.float32)
    n_asleep, kept = 0, np.zeros(w.shape, bool)
    for k in np.ndindex(w.shape):
        theta = sign[k] * w[k]
        if active[k]:
            theta = theta - rate * constraint.l1 + math.sqrt(2 * rate * constraint.temperature) * noise[k]
            kept[k] = theta > 0
            n_asleep += not kept[k]
        active[k] = kept[k]
        w[k] = sign[k] * theta if kept[k] else 0.0
    dormant = [i for i, k in enumerate(np.ndindex(w.shape)) if sign[k] != 0 and not kept[k]]
    if n_asleep:
        for i in rng.choice(dormant, n_asleep, replace=False):
            w.flat[i], active.flat[i] = sign.flat[i] * AWAKE, True
    return w, active, kept


@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0.05, 1.0),
    l1=st.sampled_from([0.0, 0.3, 10.0]),
    temperature=st.sampled_from([0.0, 0.1]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=60)
def test_deep_r_is_the_published_rule(seed, share, l1, temperature, dtype):
    rng = np.random.default_rng(seed)
    sign = rng.choice(np.array([-1, 1], np.int8), (6, 6))
    np.fill_diagonal(sign, 0)
    active = (rng.random((6, 6)) < share) & (sign != 0)
    w = np.where(active, rng.normal(0, 0.1, (6, 6)) + 0.05 * sign, 0).astype(dtype)  # as a step has left them
    constraint = DeepR(l1=l1, temperature=temperature)
    (new, same_sign, awake), kept = constraint.after_step(Synapses(w, sign, active), 0.01, np.random.default_rng(seed))
    by_hand = deep_r_by_hand(w, sign, active, constraint, 0.01, np.random.default_rng(seed))
    np.testing.assert_allclose(new, by_hand[0], rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(awake, by_hand[1])
    np.testing.assert_array_equal(kept, by_hand[2])
    assert new.dtype == dtype and same_sign is sign
    assert awake.sum() == active.sum() == np.count_nonzero(new)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop"])
@settings(max_examples=8)
@given(seed=st.integers(0, 1000), rate=st.sampled_from([1e-3, 0.1]))
def test_what_must_hold_does_after_every_step(case, optimizer, seed, rate):
    name, options = CASES[case]
    layers, generator = layers_of(seed=seed), th.Generator().manual_seed(seed)
    constraint = constraint_for(name, options)
    constrained = ConstrainedWeights(layers, constraint, seed)
    steps = getattr(th.optim, optimizer)(layers.parameters(), rate)
    numbers = [int(active.sum()) for active in constrained.active]
    keys = [key for *_, key in constrained._held]
    for _ in range(5):
        for p in layers.parameters():
            p.grad = th.randn(p.shape, generator=generator)
        constrained.mask_gradients()
        before = [active.clone() for active in constrained.active]
        for w, active in zip(constrained.weights, before, strict=True):
            assert not w.grad[~active].any() and w.grad[active].all()
        steps.step()
        constrained.after_step(steps)
        for w, key, n, was in zip(constrained.weights, keys, numbers, before, strict=True):
            active, sign = constrained.get_buffer(f"active_{key}"), constrained.get_buffer(f"sign_{key}")
            assert int(active.sum()) == n
            assert not w[~active].any() and (w * sign >= 0).all()
            if name == "deep_r":
                assert int(w.count_nonzero()) == n
            moments = [m for m in steps.state[w].values() if m.shape == w.shape]
            assert moments
            for moment in moments:
                assert not moment[~active].any() and not moment[active & ~was].any()
            if key.endswith("w_rec"):
                assert not w.diagonal().any() and n == round(
                    constrained.constraint.connectivity * len(w) * (len(w) - 1)
                )
            if constrained.constraint.inhibitory is not None and key != "0_w_in":
                of_senders = th.stack([(sign > 0).any(0), (sign < 0).any(0)])
                assert (of_senders.sum(0) == 1).all()
                assert int(of_senders[1].sum()) == round(constrained.constraint.inhibitory * w.shape[1])


@pytest.mark.parametrize("case", ["dale", "deep_r, all", "static, all"])
def test_what_neurons_send_sums_to_zero_onto_each_at_first(case):
    layers = layers_of((40, 30))
    constrained = ConstrainedWeights(layers, constraint_for(*CASES[case]), 0)
    for (*_, key), w in zip(constrained._held, constrained.weights, strict=True):
        if key != "0_w_in":
            assert w.sum(1).abs().max() < 1e-5 and float(w.detach().abs().max()) > 0.1


@pytest.mark.parametrize("algo", [SpikingPPO, SpikingA2C])
@pytest.mark.parametrize("target_kl", [None, 1e-4])
def test_an_update_is_the_same_compiled_as_in_torch(algo, target_kl):
    constraint = {"connectivity": 0.2, "input_connectivity": 0.5, "l1": 2.0, "temperature": 0.01}
    model = compiled_update.make(
        algo=algo, policy_kwargs={**SPARSE, "n_neurons": [20, 12], "constraint_kwargs": constraint}, target_kl=target_kl
    )
    collect(model)
    first = [active.clone() for active in model.policy.constraint.active]
    (grads, after, told, _, drawn), (grads_too, after_too, *rest) = compiled_update.both(model)
    compiled_update.assert_close(grads_too, grads, 1e-4)
    compiled_update.assert_close(after_too, after, 1e-4)
    assert rest[2] == drawn and told.keys() == rest[0].keys()
    assert any(not th.equal(a, b) for a, b in zip(first, model.policy.constraint.active, strict=True))
    for w, active, n in zip(model.policy.constraint.weights, model.policy.constraint.active, first, strict=True):
        assert int(w.count_nonzero()) == int(active.sum()) == int(n.sum())


def test_the_seed_decides_what_is_drawn():
    one, same, other = (trained(seed=seed).policy.constraint for seed in (0, 0, 1))
    assert th.equal(one.active[0], same.active[0]) and not th.equal(one.active[0], other.active[0])
    model = trained()
    model.set_random_seed(7)
    assert int(model.policy.constraint.seed) == 7


def test_a_saved_model_goes_on_as_if_it_had_not_been(tmp_path):
    model = trained()
    model.save(tmp_path / "model.zip")
    again = SpikingPPO.load(tmp_path / "model.zip", device="cpu")
    for one in (model, again):
        for _ in range(3):
            one.policy.constraint.after_step(one.policy.optimizer)
    for name, value in model.policy.state_dict().items():
        assert th.equal(value, again.policy.state_dict()[name]), name
    assert int(again.policy.constraint.n_steps) > 3


def test_a_policy_without_a_constraint_has_nothing_of_it():
    model = make("spiking_ppo")
    assert model.policy.constraint is None and not any("constraint" in name for name in model.policy.state_dict())


def test_a_constraint_needs_no_torch_path_of_its_own():
    assert torch_reason(make("spiking_ppo", policy_kwargs=SPARSE).policy) is None
    other_neurons = {**SPARSE, "neurons": "izhikevich"}
    model = make("spiking_ppo", policy_kwargs=other_neurons)
    assert torch_reason(model.policy) == "its neurons are not LSNN neurons"
    model.learn(32)
    assert int(model.policy.lstm_actor.layers[0].w_rec.count_nonzero()) == round(0.2 * 8 * 7)


@pytest.mark.filterwarnings("ignore:quantised to 8 bits")
def test_the_network_has_zeros_that_the_chip_does_not_store(tmp_path):
    chip_ready = {"n_neurons": [64], "latency": 1, "n_ticks": 2, "reset": "zero", "beta": 0.0}
    obs = np.random.default_rng(0).uniform(-1, 1, (20, 30, 3)).astype("f4")
    synapses, words = [], []
    for options in ({"constraint": "dale"}, {"constraint": "deep_r"}):
        trained(policy_kwargs={**chip_ready, "constraint_kwargs": {}, **options}).to_network().save(tmp_path / "file")
        network = Network.load(tmp_path / "file")
        synapses.append(np.count_nonzero(network.layers[0].w_rec))
        policy = DeployedPolicy(compile_network(network, "loihi1", calibration=obs))
        policy.predict(obs[0], policy.initial_state(30))
        words.append(sum(core.use.memory_words for core in report(policy).cores))
    assert synapses[1] == round(0.1 * 64 * 63) < synapses[0] / 5
    assert words[1] < words[0] - 64 * (9 - 4)  # a list of 64 weights takes 9 words, one of 11 synapses at most 4


REFUSED = {
    "no such constraint": ({"constraint": "deeper"}, "constraint must be one of .*'deep_r'.*, got 'deeper'"),
    "arguments of another": (
        {"constraint": "dale", "constraint_kwargs": {"l1": 1}},
        "constraint_kwargs do not fit constraint 'dale'.*l1",
    ),
    "arguments of none": ({"constraint_kwargs": {"l1": 1}}, "constraint is None, got {'l1': 1}"),
    "no synapses": ({**SPARSE, "constraint_kwargs": {"connectivity": 0.0}}, "DeepR.connectivity must be .*, got 0.0"),
    "a pull away": ({**SPARSE, "constraint_kwargs": {"l1": -1}}, "DeepR.l1 must be .*, got -1"),
    "one sign": ({**SPARSE, "constraint_kwargs": {"inhibitory": 0.01}}, "inhibitory=0.01 of 8 neurons .* got 0"),
    "nothing to act on": ({**SPARSE, "recurrent": False}, "no weights to act on: it needs recurrent layers"),
    "no neurons": ({**SPARSE, "n_neurons": []}, "constraint must be left out with n_neurons="),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_constrained_is_refused(case):
    kwargs, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as found:
        make("spiking_ppo", policy_kwargs=kwargs)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [
        *((EProp, "EpropPolicy"), (GLM, "GlmPolicy"), (RSTDP, "WtaPolicy"), (RSTDP, "PopulationPolicy")),
        *((Evolution, "EvolutionPolicy"), (SpikingPPO, "SpikeTimePolicy"), (SpikingA2C, "EquilibriumPolicy")),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_learners_that_know_no_constraint_refuse_it_by_name(algorithm, policy):
    with pytest.raises(TypeError, match=f"{policy} has no argument 'constraint'.*; it takes ") as found:
        algorithm(policy, "CartPole-v1", policy_kwargs={"constraint": "deep_r"})
    assert "\n" not in str(found.value)


def test_sparse_weights_begin_larger_so_that_currents_keep_their_size():
    drawn = np.random.default_rng(0).standard_normal((40, 100))
    w, _, active = begin(Static(input_connectivity=0.25), drawn, None, False, np.random.default_rng(1))
    np.testing.assert_allclose(w[active], 2 * drawn[active])
    assert active.mean() == 0.25 and not w[~active].any()


def test_what_would_break_a_constraint_is_refused():
    model = make("spiking_ppo", policy_kwargs=SPARSE)
    with pytest.raises(ValueError, match="load_network gives weights to a policy without a constraint"):
        load_network(model.policy, model.to_network())
    with pytest.raises(ValueError, match="cannot be trained under a constraint, the policy has DeepR"):
        model.learn(16, callback=QuantizeWeights(np.round))


def test_the_command_line_refuses_to_quantise_constrained_weights():
    pytest.importorskip("rl_zoo3")
    from spikeloop.scripts.hyperparameters import check_hyperparameters

    hyperparams = {"policy": "LsnnPolicy", "n_timesteps": 64, "policy_kwargs": SPARSE}
    check_hyperparameters(SpikingPPO, hyperparams)
    with pytest.raises(ValueError, match="--quantize needs weights without a constraint, policy_kwargs has 'deep_r'"):
        check_hyperparameters(SpikingPPO, hyperparams, "loihi1")
