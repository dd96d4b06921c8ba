"""What a deployed policy takes of the chip and what its steps cost: as a table, as JSON, and as one picture.

Resources and events are counted. Energies and times are modelled from published constants
(:mod:`spikeloop.hardware.energy`): nothing here was measured on a chip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloop.hardware.deployed import DeployedPolicy, Deployment
from spikeloop.hardware.energy import idle_energy, modelled_cost
from spikeloop.hardware.loihi.chip import CHIPS, COSTS
from spikeloop.hardware.loihi.emulator import Counts
from spikeloop.hardware.loihi.lowering import APPROXIMATIONS
from spikeloop.hardware.loihi.program import Program
from spikeloop.hardware.loihi.quantize import QuantizationCost
from spikeloop.hardware.loihi.resources import RESOURCES, CoreUse, use
from spikeloop.spiking.metrics import SynapticOperations, activation_sparsity
from spikeloop.spiking.observation import Normalizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Intel has published no energy per event of its second chip.
_COSTS_NOTE = {"loihi1": "", "loihi2": " (constants of the first chip: none are published for the second)"}
MODELLED_OF = (
    "compartment updates, spikes and synaptic operations",
    "packets between cores, from the host and to it",
    "the barrier that ends each tick",
)
NOT_MODELLED = (
    "arithmetic and power of the host",
    "biases written and values read: no cost of a register is published",
    "the link between host and chip, beyond one packet per spike",
    "packets that wait for each other",
)


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
        host: What the host does per env step, by name, traffic with the chip included.
        overflows: Values that left their range over all steps, by kind.
        modelled: By source of the constants: modelled energies and time per env step; with a control period, also the
            static energy between two steps, ``idle``.
        metrics: NeuroBench's metrics (:mod:`spikeloop.spiking.metrics`), footprint in bytes.
        approximations: In what the chip differs from the network, beside rounding.
        quantization: What the weights of each projection lost.
        control_period: Time from one env step to the next; None if it is not known.
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
    quantization: tuple[QuantizationCost, ...]
    control_period: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, for JSON, which has no infinity: a ratio without noise is None."""
        costs = [asdict(cost) for cost in self.quantization]
        for cost in costs:
            if math.isinf(cost["signal_to_noise_db"]):
                cost["signal_to_noise_db"] = None
        spec = CHIPS[self.chip]
        limits = {"cores": spec.cores, **{limit: getattr(spec, limit) for _, limit in RESOURCES.values()}}
        return {
            "what": "energies and times are modelled, not measured",
            "modelled_of": MODELLED_OF,
            "not_modelled": NOT_MODELLED,
            "limits": limits,
            **asdict(self),
            "quantization": costs,
        }

    def sections(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Yield titles with rows of a name and its figures."""
        spec = CHIPS[self.chip]
        rows = [("cores", f"{len(self.cores)} of {spec.cores}")]
        needs = [core.needs(spec) for core in self.cores]
        for label in RESOURCES:
            used, most = [need[label][0] for need in needs], needs[0][label][1]
            of = "no limit" if most is None else f"of {most:,}"
            total = f" on the fullest core, {sum(used):,} in all" if len(used) > 1 else ""
            rows.append((label, f"{max(used):,} {of}{total}"))
        yield f"{self.chip}, arithmetic {self.profile}", rows
        yield (
            f"on the chip, per env step of {self.ticks_per_step} ticks, over {self.n_steps:,} steps",
            [(name, f"{value:,.1f}") for name, value in self.events.items()],
        )
        yield "by and with the host, per env step", [(name, f"{n:,.1f}") for name, n in self.host.items() if n]
        for source, cost in self.modelled.items():
            yield f"modelled, per env step, constants: {source}{_COSTS_NOTE[self.chip]}", self._modelled_rows(cost)
        counted = [("counted", text) for text in MODELLED_OF]
        yield "what these energies and latencies hold", [*counted, *(("left out", text) for text in NOT_MODELLED)]
        yield "NeuroBench", [(name.replace("_", " "), f"{value:,.4g}") for name, value in self.metrics.items()]
        yield (
            "weights, quantised",
            [(cost.projection, str(cost).removeprefix(f"{cost.projection}: ")) for cost in self.quantization],
        )
        left = [(kind, f"{n:,} times") for kind, n in self.overflows.items() if n]
        yield "values that left their range", left or [("of any kind", "none")]
        if self.approximations:
            yield "lowered to what the chip has", [(name, APPROXIMATIONS[name]) for name in self.approximations]

    def _modelled_rows(self, cost: dict[str, float]) -> list[tuple[str, str]]:
        rows = [
            ("dynamic energy", f"{cost['dynamic'] * 1e9:,.2f} nJ"),
            ("static energy, whole chip", f"{cost['static'] * 1e9:,.2f} nJ"),
            ("latency", f"{cost['latency'] * 1e6:,.2f} µs"),
        ]
        if self.control_period is not None:
            idle = f"{cost['idle'] * 1e6:,.2f} µJ, with one step per {self.control_period * 1e3:,.4g} ms"
            rows.insert(2, ("static energy until the next step", idle))
        return rows

    def energy(self, source: str = "sanafe") -> str:
        """Return dynamic and static energy and the latency per env step in one phrase, by one source of constants."""
        cost = self.modelled[source]
        return (
            f"{cost['dynamic'] * 1e9:,.1f} nJ dynamic and {cost['static'] * 1e9:,.1f} nJ static energy, "
            f"{cost['latency'] * 1e6:,.1f} µs per env step"
        )

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


def report(policy: DeployedPolicy, control_period: float | None = None) -> Report:
    """Return the figures of a policy over the steps it has run.

    Args:
        policy: The policy.
        control_period: Time from one env step to the next, in s, for the energy of waiting; None if it is not known.

    Raises:
        ValueError: If it has run none, or on the interpreter, which does not count; or if the period is not > 0.
    """
    if control_period is not None and not 0 < control_period < np.inf:
        raise ValueError(f"control_period must be a number > 0 in s, got {control_period}")
    counts = getattr(policy.engine, "counts", None)
    if counts is None or not policy.n_steps:
        raise ValueError("a report needs a policy that has run on the emulator for at least one step")
    deployment, n = policy.deployment, policy.n_steps
    program = deployment.program
    modelled = {}
    for name, model in COSTS.items():
        cost = modelled_cost(program, counts, model)
        modelled[name] = {"dynamic": cost.dynamic / n, "static": cost.static / n, "latency": cost.time / n}
        if control_period is not None:
            modelled[name]["idle"] = idle_energy(control_period, cost.time / n, model)
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
            "packets to the host": host["spikes read from the chip"],
        },
        host=host,
        overflows={
            **counts.overflows,
            "bias written by the host": policy.clipped_biases,
            "payload sent by the host": policy.clipped_payloads,
        },
        modelled=modelled,
        metrics=_metrics(deployment, counts, n, host),
        approximations=deployment.approximations,
        quantization=deployment.quantization,
        control_period=control_period,
    )


def _host_operations(deployment: Deployment, counts: Counts, n_steps: int) -> dict[str, float]:
    """Return what the host does per env step. The arithmetic of an encoder counts as one operation per channel."""
    host, n_channels = deployment.host, deployment.host.encoder.n_channels
    ticks = host.n_ticks if host.encoder.per_tick else 1
    n_outputs, n_read = host.readout.n_outputs, host.readout.n_neurons
    written = 0 if host.bias is None else len(host.bias)
    spikes_read = counts.spikes[deployment.program.spike_outputs].sum() / n_steps
    sent = host.n_ticks * n_channels if host.input == "graded" else float(counts.input_spikes.sum() / n_steps)
    return {
        "observations normalised": sum(step.n_in for step in host.preprocessing if isinstance(step, Normalizer)),
        "channels encoded": 0 if host.encoder.kind == "direct" else ticks * n_channels,
        "multiply-accumulates": written * n_channels
        + (0 if n_read else n_outputs)
        + sum(w.size for w in host.readout.weights[1:]),
        "accumulates": float(spikes_read * len(host.readout.weights[0])),
        "biases written": written,
        "spikes sent to the chip": 0 if written else sent,
        "values read from the chip": 0 if n_read else n_outputs,
        "spikes read from the chip": float(spikes_read),
        "outputs compared": n_outputs if host.head is not None else 0,
    }


def _metrics(deployment: Deployment, counts: Counts, n_steps: int, of_host: dict[str, float]) -> dict[str, float]:
    """Return NeuroBench's metrics of the network as it runs: on the chip, and what the host computes of it.

    The footprint is synaptic memory, 8 bytes of state per compartment, and the host's arrays.
    """
    program, host = deployment.program, deployment.host
    on_host = [*([] if host.w_in is None else [host.w_in]), *host.readout.weights]
    biases = [*([] if host.bias is None else [host.bias]), *(layer.b for layer in host.readout.dense)]
    arrays = [*on_host, *biases, host.readout.b_out]
    sizes = np.array([_n_weights(p.weights) for p in program.projections])
    n_weights = int(sizes.sum()) + sum(w.size for w in on_host)
    stored = sum(np.count_nonzero(w) for w in [*(p.weights for p in program.projections), *on_host])
    graded = host.input == "graded"
    of_input = sum(_reached(p.weights, counts.input_spikes) for p in program.projections if p.from_input)
    macs = of_host["multiply-accumulates"]
    operations = SynapticOperations(
        effective_macs=(of_input / n_steps if graded else 0.0) + macs,
        effective_acs=(counts.synaptic_ops - of_input * graded) / n_steps + of_host["accumulates"],
        dense=float(host.n_ticks * (sizes.sum() + host.readout.weights[0].size) + macs),
    )
    words = sum(core.memory_words for core in use(program))
    return {
        "footprint": float(8 * (words + program.compartments.n) + sum(a.nbytes for a in arrays)),
        "connection_sparsity": 1.0 - float(stored) / n_weights if n_weights else 0.0,
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
    """Draw the chip's cores, four to a tile, coloured by how much of its scarcest resource each core uses.

    Args:
        ax: Axes to draw on.
        figures: The report.
    """
    spec = CHIPS[figures.chip]
    shares = {core.core: core.scarcest(spec)[1] for core in figures.cores}
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
    title = f"{figures.chip}: {len(figures.cores)} of {spec.cores} cores; modelled {figures.energy()}"
    ax.set_title(title, fontsize=9)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.025, pad=0.02)
    bar.set_label("share in use of the core's scarcest resource", fontsize=8)
    return ax
