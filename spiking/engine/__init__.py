"""The numba engine: sequences of env steps through layers, forward and backward."""
