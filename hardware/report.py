"""What a deployed policy takes of the chip and what its steps cost: as a table, as JSON, and as one picture.

Resources and events are counted. Energies and times are modelled from published constants
(:mod:`spikeloop.hardware.energy`): nothing here was measured on a chip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloop.hardware.chip import CHIPS, COSTS
from spikeloop.hardware.core import Counts
from spikeloop.hardware.deployed import DeployedPolicy, Deployment
from spikeloop.hardware.energy import modelled_cost
from spikeloop.hardware.lowering import APPROXIMATIONS
from spikeloop.hardware.program import Program
from spikeloop.hardware.resources import CoreUse, use
from spikeloop.spiking.metrics import SynapticOperations, activation_sparsity
from spikeloop.spiking.observation import Normalizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Intel has published no energy per event of its second chip.
_COSTS_NOTE = {"loihi1": "", "loihi2": " (constants of the first chip: none are published for the second)"}


@dataclass(frozen=True)
class Report:
    """Figures of a deployed policy; all rates are per env step, energies in J, times in s.

    Args:
        chip: Name of the chip.
        profile: Its arithmetic.
        n_steps: Env steps over which rates are averaged.
        ticks_per_step: Ticks per env step.
        cores: Use of each core in use.
        events: Events on the chip per env step, by name.
        host: What the host does per env step, by name.
        overflows: Values that left their range over all steps, by kind.
        modelled: By source of the constants: modelled energies and time per env step.
        metrics: NeuroBench's metrics (:mod:`spikeloop.spiking.metrics`), footprint in bytes.
        approximations: What the chip does otherwise than the network says, beside rounding.
    """

    chip: str
    profile: str
    n_steps: int
    ticks_per_step: int
    cores: tuple[CoreUse, ...]
    events: dict[str, float]
    host: dict[str, float]
    overflows: dict[str, int]
    modelled: dict[str, dict[str, float]]
    metrics: dict[str, float]
    approximations: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, for JSON."""
        spec = CHIPS[self.chip]
        limits = {name: getattr(spec, name) for name in ("cores", *_RESOURCES)}
        return {"what": "energies and times are modelled, not measured", "limits": limits, **asdict(self)}

    def sections(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Yield titles with rows of a name and its figures."""
        spec = CHIPS[self.chip]
        rows = [("cores", f"{len(self.cores)} of {spec.cores}")]
        for name, label in _RESOURCES.items():
            used = [getattr(core, name) for core in self.cores]
            most = getattr(spec, name)
            total = f" on the fullest core, {sum(used):,} in all" if len(used) > 1 else ""
            rows.append((label, f"{max(used):,} of {most:,}{total}"))
        yield f"{self.chip}, arithmetic {self.profile}", rows
        yield (
            f"on the chip, per env step of {self.ticks_per_step} ticks, over {self.n_steps:,} steps",
            [(name, f"{value:,.1f}") for name, value in self.events.items()],
        )
        yield "on the host, per env step", [(name, f"{value:,.1f}") for name, value in self.host.items() if value]
        for source, cost in self.modelled.items():
            yield (
                f"modelled, per env step, constants: {source}{_COSTS_NOTE[self.chip]}",
                [
                    ("dynamic energy", f"{cost['dynamic'] * 1e9:,.2f} nJ"),
                    ("static energy, whole chip", f"{cost['static'] * 1e9:,.2f} nJ"),
                    ("latency", f"{cost['latency'] * 1e6:,.2f} µs"),
                ],
            )
        yield "NeuroBench", [(name.replace("_", " "), f"{value:,.4g}") for name, value in self.metrics.items()]
        left = [(kind, f"{n:,} times") for kind, n in self.overflows.items() if n]
        yield "values that left their range", left or [("of any kind", "none")]
        if self.approximations:
            yield "lowered to what the chip has", [(name, APPROXIMATIONS[name]) for name in self.approximations]

    def table(self) -> str:
        """Return the figures as plain text."""
        lines: list[str] = []
        for title, rows in self.sections():
            lines += ["", title, *(f"  {name:<32} {value}".rstrip() for name, value in rows)]
        return "\n".join(lines[1:])

    def print(self) -> None:
        """Print the figures, as a rich table where rich is installed."""
        try:
            from rich.console import Console
            from rich.table import Table
        except ImportError:
            print(self.table())
            return
        console = Console(highlight=False)
        for title, rows in self.sections():
            table = Table(title=title, title_justify="left", show_header=False, min_width=min(88, console.width))
            table.add_column(width=32)
            table.add_column(ratio=1)
            for row in rows:
                table.add_row(*row)
            console.print(table)


_RESOURCES = {
    "compartments": "compartments",
    "input_axons": "input axons",
    "output_axons": "output axons",
    "memory_words": "64-bit words of synaptic memory",
}


def report(policy: DeployedPolicy) -> Report:
    """Return the figures of a policy over the steps it has run.

    Raises:
        ValueError: If it has run none, or on the interpreter, which does not count.
    """
    counts = getattr(policy.engine, "counts", None)
    if counts is None or not policy.n_steps:
        raise ValueError("a report needs a policy that has run on the emulator for at least one step")
    deployment, n = policy.deployment, policy.n_steps
    program = deployment.program
    modelled = {}
    for name, model in COSTS.items():
        cost = modelled_cost(program, counts, model)
        modelled[name] = {"dynamic": cost.dynamic / n, "static": cost.static / n, "latency": cost.time / n}
    host = _host_operations(deployment, counts, n)
    return Report(
        chip=program.chip,
        profile=program.profile,
        n_steps=n,
        ticks_per_step=deployment.host.n_ticks,
        cores=use(program),
        events={
            "spikes": counts.spikes.sum() / n,
            "input spikes": counts.input_spikes.sum() / n,
            "synaptic operations": counts.synaptic_ops / n,
            "compartment updates": counts.updates / n,
            "packets to cores": (counts.packets + counts.input_packets) / n,
        },
        host=host,
        overflows={**counts.overflows, "bias written by the host": policy.clipped_biases},
        modelled=modelled,
        metrics=_metrics(deployment, counts, n, host["multiply-accumulates"]),
        approximations=deployment.approximations,
    )


def _host_operations(deployment: Deployment, counts: Counts, n_steps: int) -> dict[str, float]:
    """Return what the host does per env step. The arithmetic of an encoder counts as one operation per channel."""
    host, n_channels = deployment.host, deployment.host.encoder.n_channels
    ticks = host.n_ticks if host.encoder.per_tick else 1
    n_outputs, n_read = host.readout.n_outputs, host.readout.n_neurons
    written = 0 if host.bias is None else len(host.bias)
    spikes_read = counts.spikes[host.first_source : host.first_source + n_read].sum() / n_steps
    sent = host.n_ticks * n_channels if host.input == "graded" else float(counts.input_spikes.sum() / n_steps)
    return {
        "observations normalised": sum(step.n_in for step in host.preprocessing if isinstance(step, Normalizer)),
        "channels encoded": 0 if host.encoder.kind == "direct" else ticks * n_channels,
        "multiply-accumulates": (written * n_channels) + (0 if n_read else n_outputs),
        "accumulates": float(spikes_read * n_outputs),
        "biases written": written,
        "spikes sent to the chip": 0 if written else sent,
        "values read from the chip": 0 if n_read else n_outputs,
        "spikes read from the chip": float(spikes_read),
        "outputs compared": n_outputs if host.head is not None else 0,
    }


def _metrics(deployment: Deployment, counts: Counts, n_steps: int, host_macs: float) -> dict[str, float]:
    """Return NeuroBench's metrics of the network as it runs: on the chip, and what its input costs the host.

    The footprint is synaptic memory, 8 bytes of state per compartment, and the host's arrays.
    """
    program, host = deployment.program, deployment.host
    sizes = np.array([_n_weights(p.weights) for p in program.projections])
    stored = np.array([np.count_nonzero(p.weights) for p in program.projections])
    arrays = [a for a in (host.w_in, host.bias, host.readout.w_out, host.readout.b_out) if a is not None]
    graded = host.input == "graded"
    of_input = sum(_reached(p.weights, counts.input_spikes) for p in program.projections if p.from_input)
    operations = SynapticOperations(
        effective_macs=(of_input / n_steps if graded else 0.0) + host_macs,
        effective_acs=(counts.synaptic_ops - of_input * graded) / n_steps,
        dense=float(host.n_ticks * sizes.sum() + host_macs),
    )
    n_weights = sizes.sum() + sum(a.size for a in arrays[:1] if host.w_in is not None)
    zeros = sizes.sum() - stored.sum()
    words = sum(core.memory_words for core in use(program))
    return {
        "footprint": float(8 * (words + program.compartments.n) + sum(a.nbytes for a in arrays)),
        "connection_sparsity": float(zeros / n_weights) if n_weights else 0.0,
        "activation_sparsity": activation_sparsity([counts.spikes[_firing(program)]], counts.n_ticks),
        **operations._asdict(),
    }


def _firing(program: Program) -> np.ndarray:
    return program.compartments.fires > 0


def _n_weights(weights: np.ndarray) -> int:
    """Return how many weights a matrix stands for: all, or one per neuron where each has its own synapse."""
    present = int(np.count_nonzero(weights))
    return present if present <= max(weights.shape) else weights.size


def _reached(weights: np.ndarray, spikes: np.ndarray) -> float:
    return float(np.count_nonzero(weights, axis=0) @ spikes)


def draw_cores(ax: Axes, figures: Report) -> Axes:
    """Draw the chip's cores, four to a tile, coloured by the share in use of what binds each of them first.

    Args:
        ax: Axes to draw on.
        figures: The report.
    """
    spec = CHIPS[figures.chip]
    shares = {
        core.core: max(getattr(core, name) / getattr(spec, name) for name in _RESOURCES) for core in figures.cores
    }
    n_columns = 2 * max(spec.tile_columns, 1 + max(spec.tile(core)[0] for core in shares))
    grid = np.full((2 * spec.tile_rows, n_columns), np.nan)
    for core, share in shares.items():
        x, y = spec.tile(core)
        corner = core % spec.cores_per_tile
        row, column = 2 * y + corner // 2, 2 * x + corner % 2
        grid[row, column] = share
        ax.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=7, color="w" if share < 0.6 else "k")
    image = ax.imshow(grid, vmin=0.0, vmax=1.0, cmap="viridis")
    ax.set_facecolor("#DDDDDD")
    ax.set_xticks(np.arange(-0.5, grid.shape[1], 2), labels=[])
    ax.set_yticks(np.arange(-0.5, grid.shape[0], 2), labels=[])
    ax.grid(color="w", linewidth=2)
    ax.tick_params(length=0)
    cost = figures.modelled["sanafe"]
    ax.set_title(
        f"{figures.chip}: {len(figures.cores)} of {spec.cores} cores; modelled {cost['dynamic'] * 1e9:.1f} nJ dynamic, "
        f"{cost['latency'] * 1e6:.1f} µs per env step",
        fontsize=9,
    )
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.025, pad=0.02)
    bar.set_label("share in use of the core's scarcest resource", fontsize=8)
    return ax
