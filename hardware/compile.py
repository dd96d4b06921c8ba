"""Compiles a network for a chip: the one function for all targets."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from spikeloop.hardware.calibration import sample_observations
from spikeloop.hardware.deployment import Deployment
from spikeloop.hardware.target import OF_TICKS, TICKS, target_of
from spikeloop.spiking.in_ticks import IN_TICKS, in_ticks
from spikeloop.spiking.network import Network


def _in_ticks(network: Network, chip: str, ticks_per_tau: int, strict: bool) -> Network:
    """Return the network in ticks that stands for one whose layers answer an env step as a whole.

    Raises:
        ValueError: If there is none, or ``strict`` is set.
    """
    kind = type(network.layers[0])
    if kind not in IN_TICKS:
        raise ValueError(f"{chip} runs in ticks: it cannot hold {kind.__name__}, which answers an env step as a whole")
    if strict:
        raise ValueError(f"{chip} cannot run this network as it is: {TICKS} ({OF_TICKS[TICKS]})")
    warnings.warn(f"lowered for {chip}: {TICKS} ({OF_TICKS[TICKS]})", stacklevel=3)
    found = in_ticks(network, ticks_per_tau)
    return replace(found, metadata={**found.metadata, "ticks_per_tau": str(ticks_per_tau)})


def compile_network(
    network: Network,
    chip: str = "loihi1",
    *,
    bits: int = 8,
    calibration: np.ndarray | None = None,
    strict: bool = False,
    approximate: bool = False,
    ticks_per_tau: int = 16,
    **options: Any,
) -> Deployment:
    """Compile a network for a chip.

    Weights are quantised; what else has to change is done with one warning for each change, and named in the
    deployment's ``approximations``. What is known to cost most of a return is refused unless ``approximate`` is set.
    Weights that lose much by quantisation are warned of; the deployment's ``quantization`` says what each projection
    lost.

    Args:
        network: The network.
        chip: Name of the chip, a key of :data:`~spikeloop.hardware.target.TARGETS`.
        bits: Bits of a weight, sign included; on the Loihi chips 2 to 6, or 8.
        calibration: Recorded raw observations, in order, shape (L, B, n_obs) or (L, n_obs); noise if None.
        strict: Refuse instead of approximating.
        approximate: Approximate even what is known to cost most of a return.
        ticks_per_tau: Ticks per time constant of layers that answer an env step as a whole; of no matter to others.
        options: The chip's own. Those of the Loihi chips are at
            :func:`~spikeloop.hardware.loihi.compiler.compile_for`: ``profile``, ``limits`` and ``neurons``.

    Returns:
        The program, and what stays on the host.

    Raises:
        ValueError: If there is no such chip, the network does not fit it, or it would have to be approximated and
            ``strict`` is set.

    Example:
        A network whose four neurons watch one number each, and vote for an action each:

        >>> import numpy as np
        >>> from spikeloop.spiking import ActionHead, Encoder, Layer, Network, LsnnNeurons, Readout
        >>> ones = np.ones(4)
        >>> layer = Layer(np.eye(4), 0 * ones, LsnnNeurons(4 * ones, ones, ones, 0 * ones, 0 * ones))
        >>> readout, head = Readout(np.eye(4), 0 * ones), ActionHead("discrete", (4,))
        >>> network = Network(Encoder("direct", 4), (layer,), readout, head, n_ticks=4, latency=1)
        >>> deployment = compile_network(network, "loihi1")
        >>> deployment.program.compartments.n, deployment.approximations
        (12, ())
    """
    target = target_of(chip)
    notes = (TICKS,) if network.answers_steps else ()
    if network.answers_steps:
        network = _in_ticks(network, chip, ticks_per_tau, strict)
    if calibration is None:
        calibration = sample_observations(network, np.random.default_rng(0))
    compiled = target.compile(network, calibration, bits=bits, strict=strict, approximate=approximate, **options)
    if compiled.host.clears != network.clears:
        raise ValueError(
            f"{chip} cannot run this network, whose state is cleared at every env step: its target does not"
        )
    for warning in compiled.warnings:
        warnings.warn(warning, stacklevel=2)
    metadata = {**network.metadata, "bits": str(bits)}
    approximations = (*notes, *compiled.approximations)
    return Deployment(compiled.program, compiled.host, approximations, metadata, compiled.quantization)


def quantizer(chip: str = "loihi1", bits: int = 8) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that puts one weight matrix on a chip's grid, for quantisation-aware training.

    The compiler finds the grid again without error. The function can be pickled.

    Args:
        chip: Name of the chip.
        bits: Bits of a weight, sign included.

    Raises:
        ValueError: If there is no such chip, or its weights cannot have so many bits.

    Example:
        >>> import numpy as np
        >>> quantizer("loihi1", bits=3)(np.array([0.1, -0.7, 1.2]))
        array([ 0. , -0.5,  1. ])
    """
    return target_of(chip).quantizer(bits)
