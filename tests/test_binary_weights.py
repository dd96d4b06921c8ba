"""Binary weights: what acts and what learns by a plain definition, and that training, files and chips keep both."""

import numpy as np
import pytest
import test_compiled_update as compiled_update
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from learners import make
from test_agents import collect

from spikeloop.agents import SpikingA2C, SpikingPPO
from spikeloop.agents.compilable import torch_reason
from spikeloop.agents.initial_firing import calibrate
from spikeloop.hardware import compile_network
from spikeloop.spiking import LSNN, Encoder, Network, Simulator
from spikeloop.spiking.constrained_weights import ConstrainedWeights
from spikeloop.spiking.constraints.base import Synapses
from spikeloop.spiking.constraints.binary import Binary

BINARY = {"constraint": "binary"}


def acting_by_hand(w, active):
    """Each row's signs, times the mean size of the weights that are there."""
    found = np.zeros_like(w)
    for j, row in enumerate(w):
        there = [abs(float(x)) for x, is_there in zip(row, active[j], strict=True) if is_there]
        for i in range(len(row)):
            if active[j, i]:
                found[j, i] = (1 if row[i] >= 0 else -1) * sum(there) / len(there)
    return found


def latents(constrained):
    return {key: constrained.get_buffer(f"latent_{key}").numpy() for *_, key in constrained._held}


def assert_acts_with_latents(constrained):
    for (*_, key), w, active in zip(constrained._held, constrained.weights, constrained.active, strict=True):
        latent = latents(constrained)[key]
        np.testing.assert_allclose(w.detach().numpy(), acting_by_hand(latent, active.numpy()), rtol=1e-5)
        assert abs(latent).max() <= 1


def sizes_of(w):
    """The distinct sizes in each row of a matrix, 0 aside."""
    return [set(abs(row[row != 0]).tolist()) for row in w]


@given(
    w=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-2, 2, width=32)),
    recurrent=st.booleans(),
)
def test_a_neuron_acts_with_its_signs_times_the_mean_size(w, recurrent):
    active = ~np.eye(*w.shape, dtype=bool) if recurrent else np.ones(w.shape, bool)
    w = np.where(active, w, np.float32(0))
    latent = Synapses(w, np.zeros(w.shape, np.int8), active)
    np.testing.assert_allclose(Binary.acting(latent), acting_by_hand(w, active), rtol=1e-5)
    (after, sign, same), kept = Binary().after_step(latent, 0.1, np.random.default_rng(0))
    np.testing.assert_array_equal(after, [[min(max(x, -1), 1) for x in row] for row in w])
    assert after.dtype == Binary.acting(latent).dtype == np.float32
    assert same is kept is active and not sign.any()


class Adam:
    def __init__(self, rate):
        self.rate, self.m, self.v, self.t = rate, 0.0, 0.0, 0

    def __call__(self, gradient):
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * gradient, 0.999 * self.v + 0.001 * gradient**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return -self.rate * m / (np.sqrt(v) + 1e-8)


class SGD:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, gradient):
        return -self.rate * gradient


@pytest.mark.parametrize("step", [Adam, SGD])
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    recurrent=st.booleans(),
    scale=st.sampled_from([0.1, 3.0]),  # with 3 many weights are drawn beyond 1
    rate=st.sampled_from([1e-2, 0.5]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25)
def test_latent_weights_learn_straight_through_where_they_are_at_most_1(step, sizes, recurrent, scale, rate, seed):
    drawn = th.Generator().manual_seed(seed)
    weights = {"w_in_scale": scale, "w_rec_scale": scale}
    layers = LSNN(Encoder("direct", 3), sizes, recurrent=recurrent, generator=drawn, **weights).layers
    begins = {f"{i}_{name}": p.detach().numpy().copy() for i, layer in enumerate(layers)
              for name, p in layer.named_parameters() if name != "bias"}  # fmt: skip
    constrained = ConstrainedWeights(layers, Binary(), seed)
    assert latents(constrained).keys() == begins.keys()
    by_hand = {key: np.clip(w.astype(float), -1, 1) for key, w in begins.items()}
    steps = {key: step(rate) for key in by_hand}
    optimizer = getattr(th.optim, step.__name__)(layers.parameters(), rate)
    for _ in range(4):
        assert_acts_with_latents(constrained)
        for p in layers.parameters():
            p.grad = th.randn(p.shape, generator=drawn)
        constrained.mask_gradients()
        for (*_, key), p in zip(constrained._held, constrained.weights, strict=True):
            latent = by_hand[key]
            gradient = p.grad.numpy() * (abs(latent) <= 1) * (~np.eye(len(latent), dtype=bool) if "rec" in key else 1)
            by_hand[key] = np.clip(latent + steps[key](gradient), -1, 1)
        optimizer.step()
        constrained.after_step(optimizer)
    for key, latent in latents(constrained).items():
        np.testing.assert_allclose(latent, by_hand[key], atol=2e-5)


@pytest.mark.parametrize("algo", [SpikingPPO, SpikingA2C])
def test_an_update_is_the_same_compiled_as_in_torch(algo):
    model = compiled_update.make(algo=algo, policy_kwargs={**BINARY, "n_neurons": [20, 12]})
    assert torch_reason(model.policy) is None
    collect(model)
    begins = {key: latent.copy() for key, latent in latents(model.policy.constraint).items()}
    (_, after, *_), (_, after_too, *_) = compiled_update.both(model)
    compiled_update.assert_close(after_too, after, 1e-4)
    assert_acts_with_latents(model.policy.constraint)
    for key, latent in latents(model.policy.constraint).items():
        moved = latent != begins[key]
        assert moved.any() and len(np.unique(latent[moved])) > len(latent)  # what acts has one size in a row


@pytest.mark.parametrize(
    ("policy_kwargs", "reason"),
    [
        ({"encoder": "population", "encoder_kwargs": {"n": 4}, "learn_encoder": True}, "learn_encoder is on"),
        ({"neurons": "izhikevich"}, "its neurons are not LSNN neurons"),
        ({"recurrent": False}, None),
    ],
)
def test_every_layer_may_have_binary_weights(policy_kwargs, reason):
    model = make("spiking_ppo", policy_kwargs={**BINARY, **policy_kwargs}, compiled="auto")
    assert torch_reason(model.policy) == reason
    begins = {key: latent.copy() for key, latent in latents(model.policy.constraint).items()}
    model.learn(32)
    assert_acts_with_latents(model.policy.constraint)
    assert all((latent != begins[key]).any() for key, latent in latents(model.policy.constraint).items())


def test_the_network_has_the_weights_that_the_policy_acts_with(tmp_path):
    model = make("spiking_ppo", policy_kwargs={**BINARY, "n_neurons": [12, 6]}).learn(64)
    model.to_network().save(tmp_path / "file")
    network = Network.load(tmp_path / "file")
    for layer in network.layers:
        assert all(len(sizes) == 1 for w in (layer.w_in, layer.w_rec) for sizes in sizes_of(w))
        assert np.count_nonzero(layer.w_rec) == layer.w_rec.size - len(layer.w_rec)
    assert all(len(sizes) > 1 for sizes in sizes_of(network.readout.w_out))  # which is free
    simulator, states = Simulator(network), [None, None]
    for i, obs in enumerate(np.random.default_rng(0).uniform(-1, 1, (20, 5, 3)).astype("f4")):
        begin = np.full(5, i == 0)
        actions = []
        for k, player in enumerate((model, simulator)):
            action, states[k] = player.predict(obs, states[k], begin, deterministic=True)
            actions.append(action)
        np.testing.assert_array_equal(*actions)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_saved_model_goes_on_with_its_latent_weights(tmp_path, compiled):
    model = make("spiking_ppo", policy_kwargs=BINARY, compiled=compiled).learn(64)
    model.save(tmp_path / "model.zip")
    again = SpikingPPO.load(tmp_path / "model.zip", device="cpu", env=model.env)
    assert len([name for name in again.policy.state_dict() if "latent" in name]) == 2
    for one in (model, again):
        one._last_obs = None
        one.policy._key_rng = np.random.default_rng(0)
        one.set_random_seed(3)
        one.learn(64)
    for name, value in model.policy.state_dict().items():
        assert th.equal(value, again.policy.state_dict()[name]), name


@pytest.mark.parametrize("scale", [0.5, 30.0])  # latent weights that are drawn large are clipped as they are scaled
def test_layers_that_start_silent_are_scaled_by_their_latent_weights(scale):
    drawn = th.Generator().manual_seed(0)
    lsnn = LSNN(Encoder("direct", 3), [30, 20], n_ticks=4, w_in_scale=scale, generator=drawn)
    constrained = ConstrainedWeights(lsnn.layers, Binary(), 0)
    begins = {key: latent.copy() for key, latent in latents(constrained).items()}
    features, starts = th.randn(40, 2, 3, generator=drawn), th.zeros(40, 2)
    state = th.from_numpy(lsnn.initial_state(2))
    factors, counts, n = calibrate(lsnn, features, state, starts, 0.2, constrained)
    assert_acts_with_latents(constrained)
    assert 1 in factors and counts[1].mean() / n == pytest.approx(0.2, abs=0.02)
    for i, factor in factors.items():
        expected = np.clip(begins[f"{i}_w_in"] * np.float32(factor), -1, 1)
        np.testing.assert_array_equal(latents(constrained)[f"{i}_w_in"], expected)
    np.testing.assert_array_equal(latents(constrained)["1_w_rec"], begins["1_w_rec"])


@pytest.mark.filterwarnings("ignore:quantised to 8 bits")
def test_the_chip_keeps_one_size_for_each_neuron():
    chip_ready = {"n_neurons": [24], "latency": 1, "n_ticks": 2, "reset": "zero", "beta": 0.0}
    network = make("spiking_ppo", policy_kwargs={**BINARY, **chip_ready}).learn(64).to_network()
    obs = np.random.default_rng(0).uniform(-1, 1, (20, 30, 3)).astype("f4")
    program = compile_network(network, "loihi1", calibration=obs).program
    (recurrent,) = (p for p in program.projections if p.name == "layer 0 recurrent")
    assert all(len(sizes) == 1 for sizes in sizes_of(recurrent.weights))


def test_it_takes_no_arguments():
    with pytest.raises(ValueError, match="constraint_kwargs do not fit constraint 'binary'") as found:
        make("spiking_ppo", policy_kwargs={**BINARY, "constraint_kwargs": {"connectivity": 0.1}})
    assert "\n" not in str(found.value)
