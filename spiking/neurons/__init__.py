"""Neuron models: what one tick does to the state of a layer."""
