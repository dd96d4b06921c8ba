"""Neuron models: what one tick does to the state of a layer. A new model is a file here and a line below."""

from __future__ import annotations

from spikeloop.spiking.neurons.base import Neurons
from spikeloop.spiking.neurons.current_lif import CurrentLif
from spikeloop.spiking.neurons.fitzhugh_nagumo import FitzHughNagumo
from spikeloop.spiking.neurons.integrate_and_fire import IntegrateAndFire
from spikeloop.spiking.neurons.izhikevich import Izhikevich
from spikeloop.spiking.neurons.lsnn import LsnnNeurons

NEURONS: dict[str, type[Neurons]] = {
    "lsnn": LsnnNeurons,
    "izhikevich": Izhikevich,
    "fitzhugh_nagumo": FitzHughNagumo,
    "integrate_and_fire": IntegrateAndFire,
    "current_lif": CurrentLif,
}
