"""A picture of the cores that a deployed policy uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spikeloop.hardware.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_cores(ax: Axes, figures: Report) -> Axes:
    """Draw the chip's cores, coloured by how much of its scarcest resource each core uses.

    Args:
        ax: Axes to draw on.
        figures: The report.
    """
    grid = np.full(figures.grid, np.nan)
    for core in figures.cores:
        row, column = core.place
        grid[row, column] = share = core.share
        ax.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=7, color="w" if share < 0.6 else "k")
    image = ax.imshow(grid, vmin=0.0, vmax=1.0, cmap="viridis")
    ax.set_facecolor("#DDDDDD")
    ax.set_xticks(np.arange(-0.5, grid.shape[1], 2), labels=[])
    ax.set_yticks(np.arange(-0.5, grid.shape[0], 2), labels=[])
    ax.grid(color="w", linewidth=2)
    ax.tick_params(length=0)
    title = f"{figures.chip}: {len(figures.cores)} of {figures.limits['cores']} cores; modelled {figures.energy()}"
    ax.set_title(title, fontsize=9)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.025, pad=0.02)
    bar.set_label("share in use of the core's scarcest resource", fontsize=8)
    return ax
