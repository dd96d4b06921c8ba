"""Encoders: how an observation becomes the input of the first layer. A new one is a class, and a line here."""

from __future__ import annotations

from spikeloop.spiking.encoders.base import Encoder, encode
from spikeloop.spiking.encoders.dimensions import Dimensions
from spikeloop.spiking.encoders.first_spikes import FirstSpikes
from spikeloop.spiking.encoders.first_spikes_in_ticks import FirstSpikesInTicks
from spikeloop.spiking.encoders.lines import Binary, Parts
from spikeloop.spiking.encoders.population_spikes import PopulationSpikes
from spikeloop.spiking.encoders.recruited_cells import RecruitedCells
from spikeloop.spiking.encoders.spike_times import SpikeTimes
from spikeloop.spiking.encoders.spikes import Delta, Latency, Rate
from spikeloop.spiking.encoders.tile_coding import PlaceCells, Tiles
from spikeloop.spiking.encoders.values import Direct, Population

__all__ = ["ENCODERS", "Dimensions", "Encoder", "encode"]

ENCODERS: dict[str, type[Encoder]] = {
    encoder.kind: encoder
    for encoder in (
        Direct,
        Population,
        PopulationSpikes,
        Rate,
        Latency,
        SpikeTimes,
        FirstSpikes,
        FirstSpikesInTicks,
        Delta,
        Tiles,
        PlaceCells,
        RecruitedCells,
        Binary,
        Parts,
    )
}
