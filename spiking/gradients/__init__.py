"""How gradients reach the weights of spiking layers; torch."""
