"""What a deployed policy takes of the chip and what its steps cost: as a table and as JSON.

Resources and events are counted. Energies and times are modelled from published constants
(:mod:`spikeloop.hardware.energy`): nothing here was measured on a chip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from spikeloop.hardware.deployed import DeployedPolicy
from spikeloop.hardware.energy import idle_energy
from spikeloop.hardware.figures import ChipFigures, CoreFigures
from spikeloop.hardware.host import Host
from spikeloop.hardware.quantization import QuantizationCost
from spikeloop.hardware.target import TARGETS, approximations_of
from spikeloop.spiking.metrics import SynapticOperations
from spikeloop.spiking.observation import Normalizer

MODELLED_OF = (
    "compartment updates, spikes and synaptic operations",
    "packets between cores, from the host and to it",
    "the barrier that ends each tick",
)
NOT_MODELLED = (
    "arithmetic and power of the host",
    "biases written, neurons set to rest and values read: no cost of a register is published",
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
        cores: What it takes of each core in use.
        limits: What the chip, and a core of it, has of each resource; ``"cores"`` is among them.
        grid: Rows and columns of a picture of the chip.
        events: Events on the chip per env step, by name.
        host: What the host does per env step, by name, traffic with the chip included.
        overflows: Values that left their range over all steps, by kind.
        modelled: By source of the constants: modelled energies and time per env step; with a control period, also the
            static energy between two steps, ``idle``.
        metrics: NeuroBench's metrics (:mod:`spikeloop.spiking.metrics`), footprint in bytes.
        approximations: In what the chip differs from the network, beside rounding.
        quantization: What the weights of each projection lost.
        control_period: Time from one env step to the next; None if it is not known.

    Example:
        >>> import numpy as np
        >>> from spikeloop.spiking import ActionHead, Encoder, Layer, Network, LsnnNeurons, Readout
        >>> ones = np.ones(4)
        >>> layer = Layer(np.eye(4), 0 * ones, LsnnNeurons(4 * ones, ones, ones, 0 * ones, 0 * ones))
        >>> readout, head = Readout(np.eye(4), 0 * ones), ActionHead("discrete", (4,))
        >>> network = Network(Encoder("direct", 4), (layer,), readout, head, n_ticks=4, latency=1)
        >>> from spikeloop.hardware import DeployedPolicy, compile_network
        >>> policy = DeployedPolicy(compile_network(network, "loihi1"))
        >>> action, state = policy.predict(np.array([0.1, 0.9, 0.3, 0.2]), policy.initial_state())
        >>> figures = report(policy)
        >>> figures.events["spikes"], figures.energy("sanafe")
        (2.0, '3.8 nJ dynamic and 308.0 nJ static energy, 3.0 µs per env step')
    """

    chip: str
    profile: str
    n_steps: int
    ticks_per_step: int
    cores: tuple[CoreFigures, ...]
    limits: dict[str, int | None]
    grid: tuple[int, int]
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
        figures = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "grid"}
        return {
            "what": "energies and times are modelled, not measured",
            "modelled_of": MODELLED_OF,
            "not_modelled": NOT_MODELLED,
            **figures,
            "cores": [asdict(core.use) for core in self.cores],
            "quantization": costs,
        }

    def sections(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Yield titles with rows of a name and its figures."""
        target = TARGETS[self.chip]
        rows = [("cores", f"{len(self.cores)} of {self.limits['cores']}")]
        for label, (_, most) in self.cores[0].needs.items():
            used = [core.needs[label][0] for core in self.cores]
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
            yield f"modelled, per env step, constants: {source}{target.costs_note}", self._modelled_rows(cost)
        counted = [("counted", text) for text in MODELLED_OF]
        yield "what these energies and times hold", [*counted, *(("left out", text) for text in NOT_MODELLED)]
        yield "NeuroBench", [(name.replace("_", " "), f"{value:,.4g}") for name, value in self.metrics.items()]
        yield (
            "weights, quantised",
            [(cost.projection, str(cost).removeprefix(f"{cost.projection}: ")) for cost in self.quantization],
        )
        left = [(kind, f"{n:,} times") for kind, n in self.overflows.items() if n]
        yield "values that left their range", left or [("of any kind", "none")]
        if self.approximations:
            explained = approximations_of(target)
            yield "lowered to what the chip has", [(name, explained[name]) for name in self.approximations]

    def _modelled_rows(self, cost: dict[str, float]) -> list[tuple[str, str]]:
        rows = [
            ("dynamic energy", f"{cost['dynamic'] * 1e9:,.2f} nJ"),
            ("static energy, whole chip", f"{cost['static'] * 1e9:,.2f} nJ"),
            ("time", f"{cost['time'] * 1e6:,.2f} µs"),
        ]
        if self.control_period is not None:
            idle = f"{cost['idle'] * 1e6:,.2f} µJ, with one step per {self.control_period * 1e3:,.4g} ms"
            rows.insert(2, ("static energy until the next step", idle))
        return rows

    def energy(self, source: str | None = None) -> str:
        """Return dynamic and static energy and the time per env step in one phrase.

        Args:
            source: Of the constants; the chip's last if None.
        """
        if not self.modelled:
            return "no energy, as no costs of this chip are known"
        cost = self.modelled[source or list(self.modelled)[-1]]
        return (
            f"{cost['dynamic'] * 1e9:,.1f} nJ dynamic and {cost['static'] * 1e9:,.1f} nJ static energy, "
            f"{cost['time'] * 1e6:,.1f} µs per env step"
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
        ValueError: If it has run none, or on a machine that does not count; or if the period is not > 0.
    """
    if control_period is not None and not 0 < control_period < np.inf:
        raise ValueError(f"control_period must be a number > 0 in s, got {control_period}")
    if not policy.n_steps:
        raise ValueError("a report needs a policy that has run for at least one step")
    deployment, n, chip = policy.deployment, policy.n_steps, policy.machine.figures()
    modelled = {}
    for name, cost in chip.modelled.items():
        modelled[name] = {"dynamic": cost.dynamic / n, "static": cost.static / n, "time": cost.time / n}
        if control_period is not None:
            modelled[name]["idle"] = idle_energy(control_period, cost.time / n, deployment.target.costs[name])
    host = _host_operations(deployment.host, chip, n)
    return Report(
        chip=deployment.chip,
        profile=chip.profile,
        n_steps=n,
        ticks_per_step=deployment.host.n_ticks,
        cores=chip.cores,
        limits=chip.limits,
        grid=chip.grid,
        events={name: float(number / n) for name, number in chip.events.items()},
        host=host,
        overflows=chip.overflows,
        modelled=modelled,
        metrics=_metrics(deployment.host, chip, n, host),
        approximations=deployment.approximations,
        quantization=deployment.quantization,
        control_period=control_period,
    )


def _host_operations(host: Host, chip: ChipFigures, n_steps: int) -> dict[str, float]:
    """Return what the host does per env step. The arithmetic of an encoder counts as one operation per channel."""
    n_channels = host.encoder.n_channels
    ticks = 1 if host.encoder.held else host.n_ticks
    n_outputs, n_read = host.readout.n_outputs, host.readout.n_neurons
    reads = host.n_ticks if host.readout.every_tick and host.readout.kind != "winner" else 1
    written = 0 if host.bias is None else len(host.bias)
    spikes_read = chip.spikes_read / n_steps
    sent = host.n_ticks * n_channels if host.input == "graded" else chip.spikes_sent / n_steps
    return {
        "observations normalised": sum(step.n_in for step in host.preprocessing if isinstance(step, Normalizer)),
        "channels encoded": 0 if host.encoder.identity else ticks * n_channels,
        "multiply-accumulates": written * n_channels
        + (0 if n_read else reads * n_outputs)
        + sum(w.size for w in host.readout.weights[1:]),
        "accumulates": spikes_read * len(host.readout.weights[0]) + (host.n_parts - 1) * reads * n_outputs,
        "biases written": written,
        "spikes sent to the chip": 0 if written else sent,
        "values read from the chip": 0 if n_read else host.n_parts * reads * n_outputs,
        "spikes read from the chip": spikes_read,
        "outputs compared": n_outputs if host.head is not None else 0,
        "chip set to rest": float(host.clears),
    }


def _metrics(host: Host, chip: ChipFigures, n_steps: int, of_host: dict[str, float]) -> dict[str, float]:
    """Return NeuroBench's metrics of the network as it runs: on the chip, and what the host computes of it.

    The footprint is the chip's memory of synapses and neurons, and the host's arrays.
    """
    on_host = [*([] if host.w_in is None else [host.w_in]), *host.readout.weights]
    biases = [*([] if host.bias is None else [host.bias]), *(layer.b for layer in host.readout.dense)]
    arrays = [*on_host, *biases, host.readout.b_out]
    n_weights = chip.n_weights + sum(w.size for w in on_host)
    stored = chip.n_nonzero + sum(np.count_nonzero(w) for w in on_host)
    macs = of_host["multiply-accumulates"]
    operations = SynapticOperations(
        effective_macs=chip.effective_macs / n_steps + macs,
        effective_acs=chip.effective_acs / n_steps + of_host["accumulates"],
        dense=float(host.n_ticks * (chip.n_weights + host.readout.weights[0].size) + macs),
    )
    return {
        "footprint": float(chip.memory_bytes + sum(a.nbytes for a in arrays)),
        "connection_sparsity": 1.0 - float(stored) / n_weights if n_weights else 0.0,
        "activation_sparsity": chip.activation_sparsity,
        **operations._asdict(),
    }
