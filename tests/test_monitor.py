import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloop.spiking.monitor import Monitor
from spikeloop.spiking.network import Layer
from spikeloop.spiking.neurons.lsnn import LsnnNeurons


def random_spikes(seed=0, ticks=20, n_envs=3, sizes=(4, 6), rate=0.3):
    rng = np.random.default_rng(seed)
    return [(rng.random((ticks, n_envs, n)) < rate).astype(np.float32) for n in sizes]


def make_layers(sizes=(4, 6)):
    layers = []
    for n_in, n in zip((2, *sizes), sizes, strict=False):
        beta = np.where(np.arange(n) < n // 2, 0.0, 0.2)
        neurons = LsnnNeurons(np.full(n, 4.0), np.ones(n), np.full(n, 100.0), beta, np.zeros(n))
        layers.append(Layer(np.zeros((n, n_in)), np.zeros(n), neurons))
    return layers


@given(st.integers(0, 1000), st.integers(0, 12), st.integers(1, 4), st.sampled_from([0.5, 1.0, 2.0]))
def test_events_rebuild_the_dense_spikes(seed, ticks, n_envs, dt):
    dense = random_spikes(seed, ticks, n_envs)
    monitor = Monitor.from_dense(dense, dt=dt)
    for spikes, z in zip(monitor.layers, dense, strict=True):
        rebuilt = np.zeros_like(z)
        rebuilt[np.round(spikes.t / dt).astype(int), spikes.env, spikes.i] = 1.0
        np.testing.assert_array_equal(rebuilt, z)
        assert len(spikes.i) == z.sum()
        assert np.all(np.diff(spikes.t) >= 0)


def test_counts_and_rates():
    dense = random_spikes()
    monitor = Monitor.from_dense(dense, n_ticks=5)
    assert (monitor.n_counted, monitor.n_neurons, monitor.n_ticks) == (60, (4, 6), 5)
    for counts, rates, z in zip(monitor.spike_counts, monitor.rates, dense, strict=True):
        np.testing.assert_array_equal(counts, z.sum(axis=(0, 1)))
        np.testing.assert_allclose(rates, z.mean(axis=(0, 1)), rtol=1e-6)


def test_a_silent_network_has_counts_of_zero():
    monitor = Monitor.from_dense([np.zeros((3, 1, 4))])
    assert monitor.spike_counts[0].tolist() == [0, 0, 0, 0]
    assert monitor.rates[0].tolist() == [0, 0, 0, 0]


def test_arrays_that_do_not_belong_together_are_refused():
    dense = random_spikes()
    with pytest.raises(ValueError, match="spikes must be"):
        Monitor.from_dense([dense[0], dense[1][1:]])
    with pytest.raises(ValueError, match="spikes must be"):
        Monitor.from_dense([])
    with pytest.raises(ValueError, match="v must have the shapes"):
        Monitor.from_dense(dense, [dense[0], dense[0]])


@pytest.fixture
def plotting():
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot as plt

    from spikeloop.spiking import plotting

    yield plotting
    plt.close("all")


def test_raster_shows_each_spike_of_one_environment_in_the_colour_of_its_population(plotting):
    dense = random_spikes()
    monitor = Monitor.from_dense(dense, dt=2.0)
    (ax,) = plotting.new_axes()
    assert plotting.raster(ax, monitor, make_layers(), env=1) is ax
    drawn = [{(x, (y0 + y1) / 2) for (x, y0), (_, y1) in lines.get_segments()} for lines in ax.collections]
    offset, expected = 0, []
    for z in dense:
        n = z.shape[2]
        for members in (range(n // 2), range(n // 2, n)):
            expected.append({(2.0 * t, offset + i) for t, i in np.argwhere(z[:, 1]) if i in members})
        offset += n + 1
    assert drawn == expected
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["R", "A (adaptive)"]
    assert ax.get_xlabel() == "time (ms)"


def test_raster_without_layers_has_one_colour_and_no_legend(plotting):
    (ax,) = plotting.new_axes()
    plotting.raster(ax, Monitor.from_dense(random_spikes(sizes=(4,))))
    assert ax.get_legend() is None
    assert ax.get_ylabel() == "neuron"


def test_traces_draw_the_recorded_membranes(plotting):
    dense = random_spikes()
    v = [z.cumsum(axis=0) for z in dense]
    top, bottom = plotting.new_axes(2)
    plotting.raster(top, Monitor.from_dense(dense, v))
    ax = plotting.traces(bottom, Monitor.from_dense(dense, v), [3, 0], layer=1, env=2, layers=make_layers())
    curves = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 20 and line.get_ls() == "-"]
    for curve, neuron in zip(curves, (3, 0), strict=True):
        np.testing.assert_allclose(np.diff(curve), np.diff(v[1][:, 2, neuron]), atol=1e-9)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["neuron 3", "neuron 0"]
    assert (top.get_xlabel(), ax.get_xlabel()) == ("", "time (ms)")  # they share the axis


def test_traces_need_membranes(plotting):
    (ax,) = plotting.new_axes()
    with pytest.raises(ValueError, match="no membranes"):
        plotting.traces(ax, Monitor.from_dense(random_spikes()), [0])


def test_learning_curve_is_the_mean_of_the_seeds(plotting):
    (ax,) = plotting.new_axes()
    runs = [
        (np.array([0.0, 1e4, 2e4]), np.array([0.0, 10.0, 20.0])),
        (np.array([0.0, 2e4, 3e4]), np.array([4.0, 4, 9])),
    ]
    plotting.learning_curve(ax, runs, label="SpikingPPO")
    plotting.learning_curve(ax, runs[:1], label="one seed")
    mean = ax.lines[0]
    assert mean.get_xdata().tolist() == [0.0, 1e4, 2e4]
    assert mean.get_ydata().tolist() == [2.0, 7.0, 12.0]
    band = ax.collections[0].get_paths()[0].vertices
    spread = np.std([20.0, 4.0], ddof=1)
    assert band[:, 1].max() == pytest.approx(12 + spread)
    assert len(ax.collections) == 1  # no band for one seed
    assert ax.lines[0].get_color() != ax.lines[1].get_color()
    ax.figure.canvas.draw()
    assert "20k" in [label.get_text() for label in ax.get_xticklabels()]


def test_missing_matplotlib_is_named_with_its_remedy(monkeypatch):
    from spikeloop.spiking import plotting

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install -e ".*\[plot\]"'):
        plotting.new_axes()
