"""A network compiled for a chip, as a value that can be saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any

from spikeloop.hardware.host import Host
from spikeloop.hardware.quantization import QuantizationCost
from spikeloop.hardware.reinforcement import Reinforcement
from spikeloop.hardware.sensors import n_sensors
from spikeloop.hardware.target import TARGETS, Target, approximations_of, target_of
from spikeloop.hardware.weight_search import WeightSearch
from spikeloop.spiking.fields import check_choice, check_part, parts_of, set_fields, texts
from spikeloop.spiking.former import FORMER
from spikeloop.spiking.network import host_parts
from spikeloop.spiking.storage import load_parts, save_parts

FORMAT_VERSION = 5
KIND = "spikeloop.deployment"


@dataclass(frozen=True, eq=False)
class Deployment:
    """A network compiled for a chip, as a value.

    Args:
        program: What the chip is loaded with, of the class of programs of one of
            :data:`~spikeloop.hardware.target.TARGETS`.
        host: What stays beside it.
        approximations: In what the chip differs from the network, beside rounding: names that the target explains.
        metadata: Free text pairs, those of the network among them.
        quantization: What the weights of each projection lost; empty in files saved before this was recorded.
        reinforcement: How the host turns rewards into the chip's, where the program has learning rules: on each step,
            or by a search that judges whole episodes.

    Raises:
        ValueError: If program and host do not fit together.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from spikeloop.spiking import ActionHead, Encoder, Layer, Network, LsnnNeurons, Readout
        >>> ones = np.ones(4)
        >>> layer = Layer(np.eye(4), 0 * ones, LsnnNeurons(4 * ones, ones, ones, 0 * ones, 0 * ones))
        >>> readout, head = Readout(np.eye(4), 0 * ones), ActionHead("discrete", (4,))
        >>> network = Network(Encoder("direct", 4), (layer,), readout, head, n_ticks=4, latency=1)
        >>> from spikeloop.hardware import compile_network
        >>> deployment = compile_network(network, "loihi2")
        >>> with TemporaryDirectory() as folder:
        ...     deployment.save(Path(folder, "policy.safetensors"))
        ...     loaded = Deployment.load(Path(folder, "policy.safetensors"))
        >>> loaded.chip, loaded.metadata
        ('loihi2', {'bits': '8'})
    """

    program: Any
    host: Host
    approximations: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    quantization: tuple[QuantizationCost, ...] = ()
    reinforcement: Reinforcement | WeightSearch | None = None

    def __post_init__(self) -> None:
        """Validate that the parts fit together."""
        me = "Deployment"
        check_part(me, "program", self.program, *dict.fromkeys(target.program for target in TARGETS.values()))
        check_part(me, "program", self.program, self.target.program)
        check_part(me, "host", self.host, Host)
        check_part(me, "reinforcement", self.reinforcement, Reinforcement, WeightSearch, NoneType)
        set_fields(
            self,
            approximations=parts_of(me, "approximations", self.approximations, str),
            metadata=texts(me, "metadata", self.metadata),
            quantization=parts_of(me, "quantization", self.quantization, QuantizationCost),
        )
        for note in self.approximations:
            check_choice(me, "approximations", note, tuple(approximations_of(self.target)))
        self.target.check(self.program, self.host)
        if isinstance(self.reinforcement, WeightSearch):
            n = n_sensors(self.host)
            if self.reinforcement.n_sensors not in (None, 0, n):
                raise ValueError(f"{me}.reinforcement.n_sensors must be 0 or {n}, got {self.reinforcement.n_sensors}")

    @property
    def chip(self) -> str:
        """Name of the chip."""
        return self.program.chip

    @property
    def target(self) -> Target:
        """The chip's target."""
        return target_of(self.chip)

    def taught(
        self,
        rule: Any = "rstdp",
        projection: str | None = None,
        reinforcement: Reinforcement | WeightSearch | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Deployment:
        """Return a deployment in which the synapses of a projection go on learning where the policy is asked to.

        Args:
            rule: A learning rule; the text of one that changes weights, such as ``"2^-7*u0*r1*t"``; ``"rstdp"``, for
                the readout of a policy with discrete actions; or ``"perturbation"``, which leaves a policy as it is
                while its returns are those on record, and else tries other sensors and weights, episode by episode.
            projection: Name of the projection; None for that of the readout.
            reinforcement: How the host turns rewards into the rule's; None for the defaults. A
                :class:`~spikeloop.hardware.weight_search.WeightSearch` for ``"perturbation"``, and for nothing else.
            seed: Of the random rounding of weights.
            options: Other arguments of the rule, if it is given as text.

        Raises:
            ValueError: If the chip does not learn, has no such projection, or cannot hold the rule.
        """
        teach = getattr(self.target, "teach", None)
        if teach is None:
            raise ValueError(f"no synapse of {self.chip} learns")
        kind = WeightSearch if rule == "perturbation" else Reinforcement
        reinforcement = kind() if reinforcement is None else reinforcement
        if not isinstance(reinforcement, kind):
            found = type(reinforcement).__name__
            raise ValueError(f"reinforcement must be a {kind.__name__} for the rule {rule!r}, got a {found}")
        if isinstance(reinforcement, WeightSearch) and reinforcement.n_sensors is None:
            reinforcement = replace(reinforcement, n_sensors=n_sensors(self.host))
        program = teach(self.program, self.host, rule, projection, seed, **options)
        return replace(self, program=program, reinforcement=reinforcement)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one safetensors file; it appears under its name only when it is complete."""
        save_parts(path, KIND, FORMAT_VERSION, self)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Deployment:
        """Read what :meth:`save` wrote. Runs no code from the file, and builds parts of registered targets only.

        Raises:
            ValueError: If the file is truncated, not ours, of another version, or does not hold a valid deployment.
            FileNotFoundError: If there is no such file.
        """
        of_chips = (part for target in TARGETS.values() for part in target.parts)
        classes = (*of_chips, Deployment, Host, *host_parts(), QuantizationCost, Reinforcement, WeightSearch)
        deployment = load_parts(path, KIND, FORMAT_VERSION, classes, former=FORMER, checksums_since=3)
        if not isinstance(deployment, Deployment):
            raise ValueError(f"{path} does not describe a deployment")
        return deployment
