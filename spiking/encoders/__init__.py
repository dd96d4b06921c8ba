"""Encoders: how an observation becomes the input of the first layer."""
