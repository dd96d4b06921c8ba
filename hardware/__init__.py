"""Emulators of neuromorphic chips, to come: a trained network compiled to integers and run as a chip would run it."""
