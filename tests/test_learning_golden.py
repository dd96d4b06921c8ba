"""The learning engine reproduces what independent simulators computed: bit for bit, or in mean and variance."""

import json
from pathlib import Path

import numpy as np
import pytest

from spikeloop.hardware.learning.engine import Learner
from spikeloop.hardware.learning.kernels import lava_step
from spikeloop.hardware.learning.reference import ReferenceLearner, lava_trace
from spikeloop.hardware.learning.rule import TRACES, LearningRule, Trace, decay_per_epoch

GOLDEN = Path(__file__).parent / "golden"
LAVA_DRAWS = {
    "x_decay": "r_xdecay",
    "x_impulse": "r_ximp",
    "y_decay": "r_ydecay",
    "y_impulse": "r_yimp",
    "y_impulse_mid": "r_yimp_mid",
    "synapse": "r_syn",
}


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads((GOLDEN / f"{name}.json").read_text())["cases"]


def cases(*names):
    found = []
    for name in names:
        arrays, parameters = load(name)
        for c, case in enumerate(parameters):
            one = {key: array[c] for key, array in arrays.items() if len(array) == len(parameters)}
            found.append(pytest.param(one, case, id=f"{name}-{case['case']}"))
    return found


def interpreted(*args, **kwargs):
    """A learner whose kernel is not compiled: the same source, without the seconds that compiling each rule takes."""
    learner = Learner(*args, **kwargs)
    learner.kernel = getattr(learner.kernel, "py_func", learner.kernel)
    return learner


def events(spikes):
    return np.flatnonzero(spikes).astype(np.int32)


def traces_of(engine):
    if isinstance(engine, Learner):
        return {name: engine.trace(name) for name in TRACES}
    return engine.traces


def lava_rule(case):
    traces = {name: Trace(case.get(f"{name}_impulse", 0), case.get(f"{name}_tau", 0)) for name in TRACES}
    texts = {name: case.get(name) or "" for name in ("dw", "dt", "dd")}
    return LearningRule(**texts, epoch=case["t_epoch"], profile="lava", **traces)


def replay_lava(engine, arrays, case):
    now = {}

    def draws(name, shape):
        assert shape == ()
        return arrays[LAVA_DRAWS[name]][now["t"]] / (128 if "impulse" in name else 1)

    learner = engine(
        lava_rule(case),
        arrays["w0"],
        tags=arrays.get("tag_1_0"),
        delays=arrays.get("tag_2_0"),
        sign_mode=case["sign_mode"].lower(),
        draws=draws,
    )
    for t in range(len(arrays["x_spk"])):
        now["t"], written = t, None
        if "y1_in" in arrays:
            written = np.stack([arrays["y1_in"][t], arrays["y2_in"][t], np.zeros(3)]).astype(np.int32)
        learner.tick(events(arrays["x_spk"][t]), events(arrays["y_spk"][t]), 0, written)
        found = {"weights": learner.w, "tag_1": learner.t, "tag_2": learner.d, **traces_of(learner)}
        for name, values in found.items():
            np.testing.assert_array_equal(values, arrays[name][t], err_msg=f"{name} at tick {t}")
    np.testing.assert_array_equal(learner.w, arrays["final_weights"])


@pytest.mark.parametrize("engine", [interpreted, ReferenceLearner])
@pytest.mark.parametrize("arrays, case", cases("lava_stdp", "lava_stdp_det", "lava_rstdp", "lava_rstdp_det"))
def test_lava_learning(engine, arrays, case):
    replay_lava(engine, arrays, case)


@pytest.mark.parametrize("arrays, case", cases("lava_stdp")[6:7] + cases("lava_rstdp")[1:2])
def test_lava_learning_compiled(arrays, case):
    replay_lava(Learner, arrays, case)


class Accumulators(ReferenceLearner):
    """Keeps what the products of each weight added up to, before it is rounded."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sums = self.w.astype(np.int64) << 7

    def stored(self, z, acc, i, j):
        self.sums[j, i] = acc
        return super().stored(z, acc, i, j)


@pytest.mark.parametrize("engine", [interpreted, Accumulators])
@pytest.mark.parametrize("arrays, case", cases("lava_rule_unit"))
def test_lava_products(engine, arrays, case):
    text = case["dw"] if arrays["u"] else case["dw"].replace("u0", "u1")  # u1 is not evaluated in the first epoch
    rule = LearningRule(dw=text, profile="lava", **{name: Trace(0, 1e12) for name in TRACES})
    for (_, product), expected in zip(rule.products(), case["products"], strict=True):
        found = [{"var": f.variable, "const": f.constant, "sgn": f.sign} for f in product.factors]
        assert (product.gate, product.mantissa, product.exponent + 7) == (
            expected["dependency"],
            expected["mantissa"],
            expected["exponent_field"],
        )
        assert found == expected["factors"]
    mode = case["sign_mode"].lower()
    low, high = {"mixed": (-256, 255), "excitatory": (0, 255), "inhibitory": (-255, 0)}[mode]
    w = np.clip(arrays["w"], low, high)  # some start where no weight can be
    possible = w == arrays["w"]
    draws = {"synapse": arrays["r_syn"]}
    kept = {"tags": arrays["t"], "delays": arrays["d"]}
    learner = engine(rule, w, **kept, sign_mode=mode, draws=lambda name, _: draws.get(name, 0.0))
    for name in ("x1", "x2"):
        if engine is interpreted:
            learner.write(name, arrays[name])
        else:
            learner.traces[name] = arrays[name].tolist()
    written = np.stack([arrays[name] for name in ("y1", "y2", "y3")]).astype(np.int32)
    learner.tick(events(arrays["x0"]), events(arrays["y0"]), 0, written)
    np.testing.assert_array_equal(learner.w[possible], arrays["w_out"][possible])
    if engine is Accumulators:
        np.testing.assert_array_equal(w[possible] << 7, arrays["acc_in"][possible])
        np.testing.assert_array_equal(learner.sums[possible], arrays["acc_out"][possible])


@pytest.mark.parametrize("arrays, case", cases("lava_trace_unit"))
def test_lava_trace(arrays, case):
    decay = decay_per_epoch(Trace(0, case["tau"]), LearningRule(dw="x0", profile="lava"))
    for x, draw, out in zip(arrays["d_in"].tolist(), arrays["d_rand"], arrays["d_out"], strict=True):
        assert lava_trace(x, 0.0, decay, 0, 1, [draw, 0.0])[-1] == out
        assert lava_step(np.int32(x), decay, 0.0, False, draw, 0.0) == out
    for x, draw, out in zip(arrays["i_in"].tolist(), arrays["i_rand"] / 128, arrays["i_out"], strict=True):
        assert lava_trace(x, case["impulse"], 1.0, 1, 1, [0.0, draw])[-1] == out
        assert lava_step(np.int32(x), 1.0, case["impulse"], True, 0.0, draw) == out


def assert_distributed(samples, mean, variance, n, step=1):
    """Compare samples (axis 0), multiples of ``step``, with mean and variance of ``n`` others: 4 standard errors."""
    samples = samples.astype(float)
    found = samples.var(axis=0)
    fourth = ((samples - samples.mean(axis=0)) ** 4).mean(axis=0)
    v = np.maximum(found, variance)
    kurtosis = fourth / np.maximum(found, 1e-12) ** 2
    # Of a rare event the samples' own fourth moment says little; then only two neighbouring values occur.
    two_values = np.maximum(found * (step**2 - 4 * found), variance * (step**2 - 4 * variance))
    spread = np.maximum((kurtosis - 1) * v**2, two_values)
    parts = 1 / len(samples) + 1 / n
    assert np.all(np.abs(samples.mean(axis=0) - mean) <= 4 * np.sqrt(v * parts) + 1e-9)
    assert np.all(np.abs(found - variance) <= 4 * np.sqrt(spread * parts) + step**2 * parts)


@pytest.mark.parametrize("number, tau", list(enumerate([2, 5, 10, 20, 50, 100])))
def test_free_decay_is_distributed_as_in_lava(number, tau):
    arrays, _ = load("lava_trace_unit")
    learner = Learner(LearningRule(dw="x1*y0", x1=Trace(0, tau)), np.zeros((1, 4000), int), seed=tau)
    learner.write("x1", 127)
    values, nothing = [learner.trace("x1").copy()], np.zeros(0, np.int32)
    for _ in range(60):
        learner.tick(nothing, nothing)
        values.append(learner.trace("x1").copy())
    assert_distributed(
        np.stack(values, axis=1), arrays["free_decay_mean"][number], arrays["free_decay_var"][number], 4000
    )


def brian_rule(case):
    return LearningRule(
        dw=case["dw"], profile="brian", **{name: Trace(case["imp"][name], case["tau"][name]) for name in TRACES}
    )


def brian_monitored(learner, case, x_spike):
    """Return the traces as Brian monitors them: x with this tick's impulse and before its decay, y before both."""
    found = {name: np.array(values) for name, values in traces_of(learner).items()}
    for name in ("x1", "x2"):
        found[name] = np.minimum(127, found[name] + case["imp"][name] * x_spike)
    return found


@pytest.mark.parametrize("engine", [interpreted, ReferenceLearner])
@pytest.mark.parametrize("arrays, case", cases("brian_stdp_det"))
def test_brian_learning(engine, arrays, case):
    np.testing.assert_array_equal(arrays["s_post"][:, 0], arrays["y"])  # the neuron fires as it was made to
    learner = engine(brian_rule(case), np.array([[case["w0"]]]))
    for t in range(len(arrays["x"])):
        monitored = brian_monitored(learner, case, arrays["x"][t])
        learner.tick(events(arrays["x"][t : t + 1]), events(arrays["y"][t : t + 1]))
        assert {name: values[0] for name, values in monitored.items()} == {name: arrays[name][t] for name in monitored}
        assert learner.w[0, 0] == arrays["w"][t]


@pytest.mark.parametrize("arrays, case", cases("brian_stdp"))
def test_brian_learning_is_distributed_as_there(arrays, case):
    np.testing.assert_array_equal(arrays["s_post"][:, 0], arrays["y"])  # the neuron fires as it was made to
    n = 1000
    learner = Learner(brian_rule(case), np.full((n, n), case["w0"]), seed=case["seed"])
    every, none = np.arange(n, dtype=np.int32), np.zeros(0, np.int32)
    samples = {name: [] for name in ("w", *TRACES)}
    for t in range(len(arrays["x"])):
        for name, values in brian_monitored(learner, case, arrays["x"][t]).items():
            samples[name].append(values)
        learner.tick(every if arrays["x"][t] else none, every if arrays["y"][t] else none)
        samples["w"].append(np.diag(learner.w).copy())  # synapses that share no neuron
    for name, values in samples.items():
        assert_distributed(
            np.stack(values, axis=1),
            arrays[f"{name}_mean"],
            arrays[f"{name}_var"],
            case["synapses"],
            2 if name == "w" else 1,
        )


def run_pes(engine, arrays, case, w0, **options):
    """Run nengo-loihi's PES rule, the host writing signed errors into y1; return w (T, pre, post) and x1 (T, pre)."""
    rule = LearningRule(
        dw="2^-7*u1*x1*y1", x1=Trace(case["tracing_mag"], case["tracing_tau"]), epoch=case["train_epoch"]
    )
    after_tick = options.pop("after_tick", lambda: None)
    learner = engine(rule, w0.T, **options)
    w, x1 = [], []
    for t, error in enumerate(arrays["err"].astype(np.int32)):
        spikes = events(arrays["x"][t - 1]) if t else events([])  # an input spike takes a tick to arrive
        written = np.stack([np.concatenate([-error, error]), np.zeros(4), np.zeros(4)]).astype(np.int32)
        learner.tick(spikes, events([]), 0, written)
        after_tick()
        w.append(np.array(learner.w.T))
        x1.append(np.array(traces_of(learner)["x1"]))
    return np.stack(w), np.stack(x1)


@pytest.mark.parametrize("engine", [Learner, ReferenceLearner])
@pytest.mark.parametrize("arrays, case", cases("nengo_pes"))
def test_nengo_learning_with_its_seeds(engine, arrays, case):
    for number in range(3):
        rng = np.random.RandomState(case["emulator_seeds"][0] + number)
        w, x1 = run_pes(
            engine,
            arrays,
            case,
            arrays["w"][number, 0],
            draws=lambda _, shape, rng=rng: rng.rand(*shape),
            after_tick=lambda rng=rng: rng.randint(-127, 128, size=4, dtype=np.int32),  # compartment noise
        )
        np.testing.assert_array_equal(x1, arrays["x1"][number])
        np.testing.assert_array_equal(w, arrays["w"][number])


@pytest.mark.parametrize("arrays, case", cases("nengo_pes"))
def test_nengo_learning_is_distributed_as_there(arrays, case):
    runs = [run_pes(Learner, arrays, case, arrays["w"][0, 0], seed=seed) for seed in range(400)]
    for number, (name, step) in enumerate((("w", 2), ("x1", 1))):
        samples = np.stack([run[number] for run in runs])
        assert_distributed(samples, arrays[f"{name}_mean"], arrays[f"{name}_var"], 200, step)
