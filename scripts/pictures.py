"""Pictures the scripts leave: learning curves and rasters."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikeloop.agents.episodes import read_episodes
from spikeloop.spiking.plotting import learning_curve, new_axes, raster
from spikeloop.spiking.storage import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spikeloop.spiking.monitor import Monitor
    from spikeloop.spiking.network import Network

SMOOTHED_OVER = 100  # episodes, as SB3's own rollout/ep_rew_mean


def draw_learning_curve(episodes: Path, picture: Path) -> None:
    """Draw the mean return of the latest episodes; nothing if no episode has ended.

    Args:
        episodes: File of :class:`~spikeloop.agents.episodes.EpisodeLog`.
        picture: File to write.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    if len(read_episodes(episodes)[0]):
        save(_curve(new_axes()[0], episodes), picture)


def draw_raster_above_curve(network: Network, monitor: Monitor, episodes: Path, picture: Path) -> None:
    """Draw the spikes of an episode above the learning curve of its policy."""
    import matplotlib.pyplot as plt

    _, (top, bottom) = plt.subplots(2, 1, figsize=(8.0, 6.2), height_ratios=(3, 2), layout="constrained", dpi=150)
    raster(top, monitor, network.layers)
    save(_curve(bottom, episodes), picture)


def _curve(ax: Axes, episodes: Path) -> Axes:
    steps, returns = read_episodes(episodes)
    totals = np.concatenate([[0.0], np.cumsum(returns)])
    stop = np.arange(1, len(totals))
    start = np.maximum(stop - SMOOTHED_OVER, 0)
    learning_curve(ax, [(steps, (totals[stop] - totals[start]) / (stop - start))])
    ax.set_ylabel(f"return, mean of {SMOOTHED_OVER} episodes")
    return ax


def draw_raster(network: Network | None, monitor: Monitor, picture: Path) -> None:
    """Draw recorded spikes; with the network given, its adaptive neurons are coloured apart from plain ones."""
    save(raster(new_axes(height=4.0)[0], monitor, None if network is None else network.layers), picture)


def save(ax: Axes, picture: Path) -> None:
    """Write the figure of some Axes to a file, in the format of its name's ending, and close it."""
    import matplotlib.pyplot as plt

    figure = ax.get_figure(root=True)
    assert figure is not None
    data = io.BytesIO()
    figure.savefig(data, format=picture.suffix[1:])
    plt.close(figure)
    write_atomically(picture, data.getvalue())
