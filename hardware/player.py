"""A network compiled for a chip that plays whole episodes, so that a search can go by the chip's returns."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from spikeloop.hardware.calibration import sample_observations
from spikeloop.hardware.compile import compile_network
from spikeloop.hardware.deployed import DeployedPolicy
from spikeloop.hardware.loihi.player import play, plays_whole
from spikeloop.hardware.target import target_of
from spikeloop.spiking.network import Network

_N_STEPS = 50  # of noise; calibrating on more takes longer than the rest of a compilation


class ChipPlayer:
    """A network compiled for an emulated chip, which acts there in integers.

    The compiler's warnings are silenced, as a search compiles thousands of networks; :meth:`check` gives them once.

    Args:
        network: The network.
        chip: Name of the chip.
        bits: Bits of a weight, sign included.
        calibration: As of :func:`~spikeloop.hardware.compile.compile_network`; a little noise if None.
        options: Further arguments of ``compile_network``, such as ``approximate``.

    Attributes:
        deployment: The compiled network.
        whole: Whether it can :meth:`play` (:func:`~spikeloop.hardware.loihi.player.plays_whole`).

    Raises:
        ValueError: If the network does not fit the chip.

    Example:
        >>> from spikeloop.spiking import ActionHead, Encoder, Layer, LsnnNeurons, Readout
        >>> ones = np.ones(4)
        >>> layer = Layer(np.eye(4), 0 * ones, LsnnNeurons(4 * ones, ones, ones, 0 * ones, 0 * ones))
        >>> readout, head = Readout(np.eye(4), 0 * ones), ActionHead("discrete", (4,))
        >>> network = Network(Encoder("direct", 4), (layer,), readout, head, n_ticks=4, latency=1)
        >>> player = ChipPlayer(network)
        >>> action, state = player.predict(np.array([[0.1, 0.9, 0.3, 0.2]]), None, np.ones(1, bool))
        >>> action
        array([1])
        >>> round(ChipPlayer.coarseness(network), 4)  # the power of two in which the largest weight has up to 127 steps
        0.0156
    """

    def __init__(
        self,
        network: Network,
        chip: str = "loihi1",
        bits: int = 8,
        calibration: np.ndarray | None = None,
        **options: Any,
    ):
        if calibration is None and network.layers:
            calibration = sample_observations(network, np.random.default_rng(0))[:_N_STEPS, :1]
        elif calibration is None:
            calibration = np.zeros((1, 1, network.n_obs))  # there is nothing to calibrate
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.deployment = compile_network(network, chip, bits=bits, calibration=calibration, **options)
        self.policy = DeployedPolicy(self.deployment)
        self.whole = plays_whole(self.policy.machine, self.deployment.host)

    def predict(
        self, observation: Any, state: Any = None, episode_start: np.ndarray | None = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """Choose actions; see :meth:`~spikeloop.hardware.deployed.DeployedPolicy.predict`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a member may saturate; its return says what that is worth
            return self.policy.predict(observation, state, episode_start, deterministic)

    def play(self, episodes: Any) -> tuple[np.ndarray, ...]:
        """Play whole episodes of a compiled task in one kernel, which needs :attr:`whole`.

        Args:
            episodes: The episodes, about to begin (``spikeloop.agents.episode_kernels.Episodes``).

        Returns:
            Returns and lengths, shape (E,), and mean and summed square distance of what was observed, (E, n_obs).
        """
        machine: Any = self.policy.machine
        return play(machine, self.deployment.host, episodes)

    @staticmethod
    def check(network: Network, chip: str = "loihi1", bits: int = 8, **options: Any) -> None:
        """Refuse a network that does not fit the chip, and give the compiler's warnings.

        Raises:
            ValueError: If it does not fit.
        """
        _check_ticks(network, chip)
        compile_network(network, chip, bits=bits, **options)

    @staticmethod
    def on_grid(network: Network, chip: str = "loihi1", bits: int = 8, **options: Any) -> Network:
        """Return the network with the weights that the chip would hold, in units of the network's own.

        Compiled again, with whatever calibration, these weights are not rounded any more. The first layer's input
        weights stay as they are where the host writes currents, as it keeps them itself.

        Raises:
            ValueError: If its layers do not run in ticks.
        """
        _check_ticks(network, chip)
        quantize, layers = target_of(chip).quantizer(bits), []
        for i, layer in enumerate(network.layers):
            w_in = quantize(layer.w_in) if i else layer.w_in
            layers.append(replace(layer, w_in=w_in, w_rec=None if layer.w_rec is None else quantize(layer.w_rec)))
        readout = network.readout
        if not readout.dense:
            readout = replace(readout, w_out=quantize(readout.w_out))
        return replace(network, layers=tuple(layers), readout=readout)

    @staticmethod
    def coarseness(network: Network, chip: str = "loihi1", bits: int = 8, **options: Any) -> float:
        """Return the largest step between two weights of a matrix on the chip, in root mean squares of the matrix.

        Only the matrices of :meth:`on_grid` count.
        """
        quantize = target_of(chip).quantizer(bits)
        held = [layer.w_rec for layer in network.layers if layer.w_rec is not None]
        held += [layer.w_in for layer in network.layers[1:]] + (
            [] if network.readout.dense else [network.readout.w_out]
        )
        steps = [0.0]
        for w in (np.asarray(one, np.float64) for one in held if np.any(one)):
            levels = np.unique(quantize(np.linspace(0, 1, 4097)[None] * abs(w).max()))
            steps.append(float(np.diff(levels).max() / np.sqrt(np.mean(w[w != 0] ** 2))))
        return max(steps)


def _check_ticks(network: Network, chip: str) -> None:
    """Refuse layers that answer an env step as a whole: the weights of a search are those that the chip holds."""
    if network.answers_steps:
        name = type(network.layers[0]).__name__
        raise ValueError(f"{chip} runs in ticks: no search changes {name} there, which answers an env step as a whole")
