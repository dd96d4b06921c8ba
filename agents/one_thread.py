"""Whether a pass through a policy's torch modules is worth threads."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from spikeloop.spiking.threads import torch_on_one_thread

# Rows times weights of the critic and the like, up to which a pass through them gains next to nothing from threads.
ONE_THREAD_UP_TO = 16_000_000


def weights_per_row(policy: nn.Module) -> float:
    """Return how many weights each observation meets beside the spiking layers; infinity if there are convolutions."""
    weights = [p for name, p in policy.named_parameters() if not name.startswith("lstm_actor.")]
    return math.inf if any(p.ndim > 2 for p in weights) else sum(p.numel() for p in weights)


def one_thread_up_to(n_products: float) -> AbstractContextManager[None]:
    """Return a context for a pass of so many products: on one thread, or on torch's where that saves time."""
    return torch_on_one_thread() if n_products <= ONE_THREAD_UP_TO else nullcontext()
