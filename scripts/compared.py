"""What a deployed policy kept of its float network's return, and how often both choose the same action."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloop.scripts.players import Act

if TYPE_CHECKING:
    from gymnasium import Space

    from spikeloop.hardware.deployment import Deployment
    from spikeloop.spiking.action_head import ActionHead
    from spikeloop.spiking.network import Network

RESAMPLES, CHUNK = 10_000, 100
COVERED = (2.5, 97.5)  # percentiles: an interval of 95 %
PERTURBATION = 1e-3  # of a neuron's threshold


def bootstrap_interval(n: int, statistic: Callable[[np.ndarray], np.ndarray]) -> list[float]:
    """Return the 95 % percentile interval of a statistic of n things; the same for each call, as it is seeded.

    Args:
        n: How many things there are.
        statistic: From indices of drawn things, shape (draws, n), to values, shape (draws,); NaN is left out.

    Example:
        >>> values = np.arange(10.0)
        >>> [round(end, 1) for end in bootstrap_interval(10, lambda drawn: values[drawn].mean(axis=1))]
        [2.7, 6.3]
    """
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.integers(0, n, (CHUNK, n))) for _ in range(RESAMPLES // CHUNK)]
    values = np.concatenate(drawn)
    return [float(value) for value in np.percentile(values[~np.isnan(values)], COVERED)]


def kept(returns: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return what the chip kept of what the float network does better than chance.

    Args:
        returns: Returns of ``float``, ``chip`` and ``random`` on the same episodes, in the same order.

    Returns:
        ``kept`` = (chip - random) / (float - random) of the mean returns and its ``kept_interval``, both None where
        it is undefined: where the interval of ``gained``, float - random, does not lie above 0. Intervals are
        bootstrapped over episodes, which are drawn together for all players.

    Example:
        >>> kept({"float": [10.0, 12.0], "chip": [10.0, 11.0], "random": [2.0, 2.0]})["kept"]  # 8.5 of 9
        0.9444444444444444
    """
    played = {name: np.asarray(values, np.float64) for name, values in returns.items()}
    n = len(played["float"])

    def gained(drawn: np.ndarray) -> np.ndarray:
        return (played["float"] - played["random"])[drawn].mean(axis=1)

    def ratio(drawn: np.ndarray) -> np.ndarray:
        most = gained(drawn)
        return (played["chip"] - played["random"])[drawn].mean(axis=1) / np.where(most > 0, most, np.nan)

    every = np.arange(n)[None]
    figures: dict[str, Any] = {
        "kept": None,
        "kept_interval": None,
        "gained": float(gained(every)[0]),
        "gained_interval": bootstrap_interval(n, gained) if n > 1 else None,
        "mean_returns": {name: float(np.mean(values)) for name, values in played.items()},
    }
    if figures["gained_interval"] is not None and figures["gained_interval"][0] > 0:
        figures |= {"kept": float(ratio(every)[0]), "kept_interval": bootstrap_interval(n, ratio)}
    return figures


def kept_in_words(figures: Mapping[str, Any]) -> str:
    """Return in one phrase what :func:`kept` found."""
    if figures["kept"] is not None:
        low, high = figures["kept_interval"]
        return f"{figures['kept']:.1%} (95% interval {low:.1%} to {high:.1%}, bootstrapped over episodes)"
    if figures["gained_interval"] is None:
        return "undefined: one episode gives no interval"
    low, high = figures["gained_interval"]
    return f"undefined: the float network is not above chance (float - random: 95% interval {low:.2f} to {high:.2f})"


def action_agreement(
    network: Network,
    deployment: Deployment,
    steps: Sequence[tuple[Any, np.ndarray]],
    space: Space,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare actions on what the float network saw, each player carrying its own state.

    A spiking network amplifies small differences, so some disagreement says nothing about the chip. The baseline
    tells how much: it compares the float network with a copy of itself whose membranes were raised once, after the
    first step of each episode, by a thousandth of their thresholds.

    Args:
        network: The float network.
        deployment: The same compiled.
        steps: Of each step, what one environment showed, and whether an episode started, shape (1,).
        space: Action space.
        seed: Seed of the start keys of a ``rate`` encoder; all players have the same keys.

    Returns:
        ``chip`` and ``baseline`` (None if the network carries no membranes over env steps), and what they ``measure``:
        the share of steps with the same action, or of a box the mean absolute difference, as a share of the range where
        it has one.
    """
    from spikeloop.hardware.deployed import DeployedPolicy
    from spikeloop.spiking.simulator import Simulator

    def rng() -> np.random.Generator:
        return np.random.default_rng(seed)

    exact = _actions(Simulator(network, rng()).predict, steps)
    chip = _actions(DeployedPolicy(deployment, rng()).predict, steps)
    assert network.head is not None
    disturbed = None
    if network.layers and not (network.clears or network.answers_steps):
        disturbed = _actions(Simulator(network, rng()).predict, steps, lambda state: raise_membranes(network, state))
    measure = measure_of_actions(network.head, space)
    return {
        "measure": measure[0],
        "chip": measure[1](chip, exact),
        "baseline": None if disturbed is None else measure[1](disturbed, exact),
        "steps": len(steps),
        "perturbation": PERTURBATION,
    }


def raise_membranes(network: Network, state: np.ndarray) -> np.ndarray:
    """Return a packed state, (n_rows, B, width), in which each membrane is higher by 1e-3 of its threshold.

    Where neurons have no threshold, it is higher by 1e-3. The membrane is the first of their rows.
    """
    from spikeloop.spiking.network import state_rows

    rows, new = state_rows(network), state.copy()
    for i, layer in enumerate(network.layers):
        membrane = rows.index(f"{i}.{layer.neurons.rows[0]}")
        new[membrane, :, : layer.n_neurons] += PERTURBATION * getattr(layer.neurons, "v_th", 1.0)
    return new


def _actions(
    predict: Act, steps: Sequence[tuple[Any, np.ndarray]], disturb: Callable[[Any], Any] | None = None
) -> np.ndarray:
    """Return the actions of one player, its state disturbed after the first step of each episode."""
    state, actions = None, []
    for obs, start in steps:
        action, state = predict(obs, None if start[0] else state, start)
        if disturb is not None and start[0]:
            state = disturb(state)
        actions.append(np.reshape(action, -1))
    return np.array(actions)


def measure_of_actions(head: ActionHead, space: Any) -> tuple[str, Callable[[np.ndarray, np.ndarray], float]]:
    """Return the name of a measure of two players' actions, (L, n) each, and the measure."""
    if head.kind != "box":
        return "share of steps with the same action", lambda a, b: float(np.all(a == b, axis=1).mean())
    extent = np.ravel(space.high).astype(np.float64) - np.ravel(space.low)
    if np.isfinite(extent).all():
        return "mean difference, share of the actions' range", lambda a, b: float((abs(a - b) / extent).mean())
    return "mean difference of actions, which have no range", lambda a, b: float(abs(a - b).mean())
