"""Forward and backward over a sequence: one recurrent layer, half of it adaptive, about 5 % spikes, float32.

The FLOP limit is the time torch takes for the three matrix products of the same pass done densely: spikes by recurrent
weights, gradient by recurrent weights, gradient by spikes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch

from spikeloop.scripts.bench.tables import print_times
from spikeloop.scripts.bench.timing import Case, alternate
from spikeloop.spiking import LSNN, Encoder

SHAPES = ((128, 64, 16), (128, 256, 64), (256, 64, 16), (256, 256, 64))
N_INPUTS, RATE = 8, 0.05
OURS, LIMIT = "spikeloop LSNN", "FLOP limit, dense"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark sequence``."""
    parser.add_argument("--threads", type=int, help="of torch, and so of the kernels (default all, with --against 1)")
    parser.add_argument("--blocks", type=int, default=9, help="blocks per contender (default 9)")
    parser.add_argument("--seconds", type=float, default=0.3, help="per contender and block (default 0.3)")
    parser.add_argument("--no-peers", action="store_true", help="only ours and the FLOP limit")


def run(args: argparse.Namespace) -> None:
    """Print a table for each size."""
    from spikeloop.scripts.bench.peers import training

    torch.set_num_threads(args.threads or torch.get_num_threads())
    for shape in SHAPES:
        lsnn, x, grad, title = _problem(*shape)
        contenders = {OURS: _ours(lsnn, x, grad), LIMIT: _dense_products(shape[0], shape[1] * shape[2])}
        if not args.no_peers:
            contenders |= training(lsnn, x, grad)
        print(f"\n{title}, {torch.get_num_threads()} threads")
        print_times(alternate(contenders, args.blocks, args.seconds), OURS, 1e-3, "ms")


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Yield what is compared with another source tree."""
    torch.set_num_threads(args.threads or 1)
    for shape in SHAPES:
        lsnn, x, grad, title = _problem(*shape)
        yield Case(title, {OURS: _ours(lsnn, x, grad)}, args.seconds, "ms", 1e-3)


def _problem(n: int, n_t: int, n_batch: int) -> tuple[LSNN, torch.Tensor, torch.Tensor, str]:
    """Return a network, its input (T, B, F), the gradient of its output (T, B, N), and the title of the table."""
    torch.manual_seed(0)
    x, grad = torch.randn(n_t, n_batch, N_INPUTS), torch.randn(n_t, n_batch, n)
    lsnn = LSNN(Encoder("direct", N_INPUTS), [n], tau_m=20.0)
    rate = set_rate(lsnn, x, RATE)
    return lsnn, x, grad, f"N {n}, T {n_t}, B {n_batch}, {rate:.3f} spikes per neuron and tick"


def set_rate(lsnn: LSNN, x: torch.Tensor, rate: float) -> float:
    """Set the bias of a one-layer LSNN so that it spikes at about ``rate`` on x (T, B, F), and return its rate."""
    state, start = torch.from_numpy(lsnn.initial_state(x.shape[1])), torch.zeros(x.shape[:2])
    (bias,) = (parameter for name, parameter in lsnn.named_parameters() if "bias" in name)
    low, high, found = -1.0, 1.0, 0.0
    with torch.no_grad():
        for _ in range(12):
            bias.fill_((low + high) / 2)
            lsnn.reset_counts()
            lsnn(x, state, start)
            found = float(lsnn.spike_counts[0].mean() / lsnn.n_counted)
            low, high = ((low + high) / 2, high) if found < rate else (low, (low + high) / 2)
    return found


def _ours(lsnn: LSNN, x: torch.Tensor, grad: torch.Tensor) -> Callable[[], None]:
    state, start = torch.from_numpy(lsnn.initial_state(x.shape[1])), torch.zeros(x.shape[:2])

    def call() -> None:
        lsnn(x, state, start)[0].backward(grad)

    return call


def _dense_products(n: int, rows: int) -> Callable[[], None]:
    spikes, gradient, w_rec = (torch.rand(rows, n) < RATE).float(), torch.randn(rows, n), torch.randn(n, n)
    forward, backward, by_weight = torch.empty(rows, n), torch.empty(rows, n), torch.empty(n, n)

    def call() -> None:
        torch.mm(spikes, w_rec, out=forward)
        torch.mm(gradient, w_rec, out=backward)
        torch.mm(gradient.t(), spikes, out=by_weight)

    return call
