"""What layers are before training: neurons with given or drawn parameters, and normal weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_args, get_type_hints

import numpy as np
import torch

from spikeloop.spiking.decay import decay
from spikeloop.spiking.network import Layer
from spikeloop.spiking.neurons import NEURONS, Neurons
from spikeloop.spiking.neurons.lsnn import LsnnNeurons


def per_neuron(kind: type[Neurons]) -> tuple[str, ...]:
    """Return the fields of a neuron model that hold one number per neuron; the others hold for all neurons."""
    hints = get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # each model is a dataclass, which a Protocol cannot say
    return tuple(f.name for f in fields if np.ndarray in (hints[f.name], *get_args(hints[f.name])))


def neuron_kind(name: str) -> type[Neurons]:
    """Return the neuron model of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in NEURONS:
        raise ValueError(f"neurons must be one of {sorted(NEURONS)}, got {name!r}")
    return NEURONS[name]


def drawn_neurons(
    n: int, kind: type[Neurons], options: Mapping[str, Any], generator: torch.Generator | None = None
) -> Neurons:
    """Return ``n`` neurons of a model.

    Args:
        n: Number of neurons.
        kind: The model.
        options: Its fields by name. Of a field with one number per neuron, a number holds for all neurons, a pair
            (low, high) draws one per neuron (:func:`drawn`), and what is left out has the model's default.
        generator: Source of what is drawn; torch's default if None.

    Raises:
        ValueError: If an option is unknown, missing or out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(options) - set(fields)):
        raise ValueError(f"{kind.__name__} has no parameter {unknown[0]!r}; it takes {list(fields)}")
    values = dict(options)
    for name in per_neuron(kind):
        value = values.get(name, fields[name].default)
        if value is dataclasses.MISSING:
            raise ValueError(f"{kind.__name__} needs a value for {name!r} in neuron_kwargs")
        values[name] = drawn(name, value, n, generator).numpy()
    return kind(**values)


def lsnn_neurons(
    n: int,
    *,
    tau_m: float | tuple[float, float],
    v_th: float,
    tau_a: float | tuple[float, float],
    beta: float,
    adaptive_fraction: float,
    refractory: int,
    reset: Any,
    adaptation: Any,
    hold: bool,
    generator: torch.Generator | None = None,
) -> LsnnNeurons:
    """Return ``n`` LSNN neurons, of which the last ``round(adaptive_fraction * n)`` adapt.

    The arguments are those of :class:`~spikeloop.spiking.module.LSNN`.
    """
    betas = np.zeros(n, np.float32)
    betas[n - round(adaptive_fraction * n) :] = beta
    return LsnnNeurons(
        tau_m=drawn("tau_m", tau_m, n, generator).numpy(),
        v_th=np.full(n, v_th, np.float32),
        tau_a=drawn("tau_a", tau_a, n, generator).numpy(),
        beta=betas,
        refractory=np.full(n, refractory),
        reset=reset,
        adaptation=adaptation,
        hold=hold,
    )


def drawn(name: str, value: Any, n: int, generator: torch.Generator | None) -> torch.Tensor:
    """Return one number per neuron, float32: ``n`` equal ones, or as many drawn between two bounds.

    Bounds above zero are those of a magnitude, such as a time constant, which is drawn log-uniformly; a negative one
    is that of a quantity with a sign, which is drawn uniformly.

    Raises:
        ValueError: If it is neither a number nor two bounds in their order, or the lower bound is zero.
    """
    if isinstance(value, (int, float)):
        return torch.full((n,), float(value))
    try:
        low, high = (float(bound) for bound in value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, or bounds (low, high) to draw between, got {value!r}") from None
    if not low <= high or low == 0:
        raise ValueError(f"{name} is drawn between two bounds low <= high, of which low is not 0, got {value!r}")
    unit = torch.rand(n, generator=generator)
    return torch.exp(math.log(low) + math.log(high / low) * unit) if low > 0 else low + (high - low) * unit


def normal_weights(
    n: int, n_inputs: int, scale: float | np.ndarray, generator: torch.Generator | None = None
) -> np.ndarray:
    """Return normal weights of mean 0, float32, shape (n, n_inputs).

    Args:
        n: Number of neurons.
        n_inputs: Number of their inputs.
        scale: Standard deviation, or that of each neuron's weights, shape (n,).
        generator: Source of what is drawn; torch's default if None.
    """
    columns = torch.as_tensor(scale, dtype=torch.float32).reshape(-1, 1)
    return (torch.randn(n, n_inputs, generator=generator) * columns).numpy()


def neuron_maker(
    name: str,
    lsnn_options: Mapping[str, Any],
    lsnn_defaults: Mapping[str, Any],
    options: Mapping[str, Any],
    generator: torch.Generator | None,
) -> Callable[[int], Neurons]:
    """Return what makes so many neurons of a model.

    Args:
        name: The model.
        lsnn_options: Options of LSNN neurons, and below what they are if nobody gives them.
        lsnn_defaults: These.
        options: Parameters of neurons of another model.
        generator: Source of what is drawn.

    Raises:
        ValueError: If there is no such model, or options of one model are given for another.
    """
    kind = neuron_kind(name)
    if name == "lsnn":
        if options:
            raise ValueError(f"neuron_kwargs are for other neurons: give LSNN {sorted(options)} as its own arguments")
        return partial(lsnn_neurons, **lsnn_options, generator=generator)
    foreign = [option for option, value in lsnn_options.items() if value != lsnn_defaults[option]]
    if foreign:
        raise ValueError(f"{foreign[0]} is an option of LSNN neurons: parameters of {name!r} go into neuron_kwargs")
    return partial(drawn_neurons, kind=kind, options=options, generator=generator)


def drawn_layers(
    n_channels: int,
    n_neurons: Sequence[int],
    make: Callable[[int], Neurons],
    recurrent: bool,
    w_in_scale: float | None,
    w_rec_scale: float,
    dt: float,
    generator: torch.Generator | None,
) -> list[Layer]:
    """Return layers with normal weights and no bias, each fed by the one before.

    Args:
        n_channels: Inputs of the first layer.
        n_neurons: Neurons of each layer.
        make: What makes so many neurons.
        recurrent: Whether layers have recurrent weights.
        w_in_scale: As of :class:`~spikeloop.spiking.module.LSNN`, like those that follow.
        w_rec_scale: Of the recurrent weights.
        dt: Length of a tick in ms.
        generator: Source of what is drawn.
    """
    layers = []
    for n_inputs, n in zip((n_channels, *n_neurons), n_neurons, strict=False):
        neurons = make(n)
        scale: Any = w_in_scale
        if scale is None:
            scale = 2 * (1 - decay(neurons.tau_m, dt)) if isinstance(neurons, LsnnNeurons) else 1.0
        w_in = normal_weights(n, n_inputs, scale / math.sqrt(n_inputs), generator)
        w_rec = normal_weights(n, n, w_rec_scale / math.sqrt(n), generator) if recurrent else None
        if w_rec is not None:
            np.fill_diagonal(w_rec, 0.0)
        layers.append(Layer(w_in, np.zeros(n, w_in.dtype), neurons, w_rec))
    return layers
