"""Spikes, membranes and learning curves drawn on matplotlib Axes; every function takes Axes and returns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spikeloop.spiking.extras import install_hint
from spikeloop.spiking.monitor import Monitor, Spikes
from spikeloop.spiking.network import Layer
from spikeloop.spiking.neurons.lsnn import LsnnNeurons

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's colours, which stay apart for colour-blind readers.
_R, _A, _GREY = "#0072B2", "#D55E00", "#8C8C8C"
CURVE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def new_axes(n_rows: int = 1, height: float = 2.6) -> list[Axes]:
    """Return Axes of a new figure of README width, one above the other with a shared x axis.

    Args:
        n_rows: Number of Axes.
        height: Height of each in inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(f"plots need matplotlib: {install_hint('plot')}") from None
    _, axes = plt.subplots(
        n_rows, 1, figsize=(8.0, height * n_rows), sharex=True, squeeze=False, layout="constrained", dpi=150
    )
    return list(axes[:, 0])


def raster(ax: Axes, monitor: Monitor, layers: Sequence[Layer] | None = None, env: int = 0) -> Axes:
    """Draw the spikes of one environment, a row per neuron, the layers one above the other, input side at the bottom.

    Inputs and output units are drawn where they spike: of the inputs those that ever did, the output units wider.

    Args:
        ax: Axes to draw on.
        monitor: What the run did.
        layers: The network's layers, which tell adaptive neurons (population A) from plain ones (R); without them
            all have one colour.
        env: Environment to draw.
    """
    middles: list[tuple[float, str]] = []
    bottom = 0.0  # row of the next neuron
    named: set[str] = set()

    def draw(label: str, spikes: Spikes, n: int, height: float, kinds: Sequence[tuple[str, str, np.ndarray]]) -> None:
        nonlocal bottom
        if middles:
            ax.axhline(bottom - 1, color=_GREY, lw=0.5, alpha=0.6)
        for name, color, members in kinds:
            shown = (spikes.env == env) & members[spikes.i]
            rows = bottom + height * spikes.i[shown] + 0.5 * (height - 1)
            new = name if members.any() and name and name not in named else ""
            named.update([name] if members.any() and name else [])
            half = 0.4 * height
            ax.vlines(spikes.t[shown], rows - half, rows + half, color=color, lw=0.9, label=new)
        middles.append((bottom + (height * n - 1) / 2, label))
        bottom += height * n + 1  # one empty row between layers

    if monitor.input is not None:
        lines, place = np.unique(monitor.input.i, return_inverse=True)  # of thousands, few spike in an episode
        draw("input", monitor.input._replace(i=place), lines.size, 1.0, [("", _GREY, np.ones(lines.size, bool))])
    for index, (spikes, n) in enumerate(zip(monitor.layers, monitor.n_neurons, strict=True)):
        adaptive = _adapt(n, layers, index)
        draw(f"layer {index}", spikes, n, 1.0, [("R", _R, ~adaptive), ("A (adaptive)", _A, adaptive)])
    if monitor.output is not None:
        n = monitor.n_outputs
        draw("output", monitor.output, n, max(1.0, 0.2 * bottom / n), [("", "black", np.ones(n, bool))])
    ax.set_ylim(-1, bottom - 1)
    if len(middles) == 1:
        ax.set_ylabel("neuron")
    else:
        ax.set_yticks([middle for middle, _ in middles], [label for _, label in middles])
        ax.tick_params(axis="y", length=0)
    if len(named) > 1:
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, handlelength=1.0)
    return _time_axis(ax, monitor)


def _adapt(n: int, layers: Sequence[Layer] | None, index: int) -> np.ndarray:
    """Return which of the first ``n`` neurons of a layer adapt, as far as is known."""
    neurons = None if layers is None else getattr(layers[index], "neurons", None)
    return neurons.beta[:n] > 0 if isinstance(neurons, LsnnNeurons) else np.zeros(n, dtype=bool)


def traces(
    ax: Axes,
    monitor: Monitor,
    neurons: Sequence[int],
    layer: int = 0,
    env: int = 0,
    layers: Sequence[Layer] | None = None,
) -> Axes:
    """Draw membranes of some neurons of one layer, shifted apart, with a mark above each spike.

    Args:
        ax: Axes to draw on.
        monitor: What the run did, with membranes.
        neurons: Neurons to draw, the first at the top.
        layer: Their layer.
        env: Environment to draw.
        layers: The network's layers; with them the threshold of the rested neuron is drawn dashed, and adaptive
            neurons have their own colour.

    Raises:
        ValueError: If the run was recorded without membranes.
    """
    if monitor.v is None:
        raise ValueError("the monitor holds no membranes; record the run with v")
    v = monitor.v[layer][:, env, list(neurons)].astype(np.float64)  # (T, n)
    spikes = monitor.layers[layer]
    t = np.arange(monitor.total_ticks) * monitor.dt
    own = None if layers is None else layers[layer].neurons
    v_th = own.v_th[list(neurons)] if isinstance(own, LsnnNeurons) else None
    gap = 1.15 * max(float(np.ptp(v)), 1e-9) + 0.15 * (0.0 if v_th is None else float(v_th.max()))
    for row, neuron in enumerate(neurons):
        shift = -row * gap
        color = _A if _adapt(neuron + 1, layers, layer)[neuron] else _R
        ax.plot(t, v[:, row] + shift, color=color, lw=1.0)
        top = float(v[:, row].max())
        if v_th is not None:
            ax.axhline(v_th[row] + shift, color=_GREY, lw=0.7, ls=(0, (4, 3)))
            top = max(top, float(v_th[row]))
        fired = spikes.t[(spikes.env == env) & (spikes.i == neuron)]
        ax.plot(fired, np.full(fired.shape, top + shift + 0.08 * gap), "|", color="black", ms=5, mew=0.9)
    ax.set_yticks(-gap * np.arange(len(neurons)), [f"neuron {neuron}" for neuron in neurons])
    ax.set_ylabel("membrane v" if v_th is None else "membrane v (dashed: v_th)")
    return _time_axis(ax, monitor)


def learning_curve(
    ax: Axes, runs: Sequence[tuple[np.ndarray, np.ndarray]], label: str | None = None, color: str | None = None
) -> Axes:
    """Draw the mean of several seeds, with a band of one standard deviation to either side.

    Args:
        ax: Axes to draw on; call again for the next algorithm.
        runs: Time steps and returns of each seed, increasing in time. They are interpolated to common time steps
            and drawn up to where the shortest ends.
        label: Name in the legend.
        color: Colour of the line; by default the next of ``CURVE_COLORS``.
    """
    start, stop = max(steps[0] for steps, _ in runs), min(steps[-1] for steps, _ in runs)
    grid = np.unique(np.concatenate([steps for steps, _ in runs]))
    grid = grid[(grid >= start) & (grid <= stop)]
    values = np.stack([np.interp(grid, steps, returns) for steps, returns in runs])  # (seeds, time)
    color = color or CURVE_COLORS[len(ax.lines) % len(CURVE_COLORS)]
    mean = values.mean(axis=0)
    ax.plot(grid, mean, color=color, lw=1.8, label=label)
    if len(runs) > 1:
        spread = values.std(axis=0, ddof=1)
        ax.fill_between(grid, mean - spread, mean + spread, color=color, alpha=0.18, lw=0)
    ax.set_xlabel("environment steps")
    ax.set_ylabel("episode return")
    ax.xaxis.set_major_formatter(lambda value, _: _short(value))
    ax.margins(x=0.01)
    if label is not None:
        ax.legend(frameon=False)
    ax.grid(axis="y", color=_GREY, alpha=0.25, lw=0.5)
    return _open_frame(ax)


def _time_axis(ax: Axes, monitor: Monitor) -> Axes:
    ax.set_xlim(-0.5 * monitor.dt, monitor.total_ticks * monitor.dt)
    place = ax.get_subplotspec()
    shared = len(ax.get_shared_x_axes().get_siblings(ax)) > 1
    if not shared or place is None or place.is_last_row():
        ax.set_xlabel("time (ms)")
    return _open_frame(ax)


def _short(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def _open_frame(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax
