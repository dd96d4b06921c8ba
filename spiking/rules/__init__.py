"""Local learning rules: equations, kernels and the functions that run them."""
