"""What is changed in place between forward and backward is noticed, or does not matter."""

import numpy as np
import pytest
import torch

from spikeloop.spiking.encoders import Encoder
from spikeloop.spiking.module import LSNN
from spikeloop.spiking.row_linear import RowLinear

ENCODERS = {
    "direct": Encoder("direct", 3),
    "population": Encoder("population", 3, centers=np.tile([-1.0, 1.0], (3, 1)), widths=np.ones((3, 2))),
}


def gradients(encoder, sizes, n_envs, dtype, want_x, change=None):
    """Return the gradients of a sequence, before whose backward pass ``change`` touches one of its tensors."""
    torch.manual_seed(0)
    lsnn = LSNN(ENCODERS[encoder], sizes, n_ticks=2, learn_encoder=True).to(dtype)
    tensors = dict(lsnn.named_parameters())
    tensors["features"] = torch.randn(5, n_envs, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    tensors["state"] = torch.from_numpy(lsnn.initial_state(n_envs))
    tensors["episode_start"] = torch.zeros(5, n_envs, dtype=dtype)
    tensors["episode_start"][2] = 1
    features = tensors["features"].requires_grad_() if want_x else tensors["features"]
    y, new = lsnn(
        features * 1 if want_x and change == "features" else features, tensors["state"], tensors["episode_start"]
    )
    if change is not None:
        with torch.no_grad():
            tensors[change].mul_(-2).add_(1)
            new.zero_()
    (y * torch.arange(y.shape[-1])).sum().backward()
    wanted = {name: p.grad for name, p in lsnn.named_parameters()}
    return wanted | ({"features": features.grad} if want_x else {})


WEIGHTS = ("layers.0.w_in", "layers.0.w_rec", "layers.0.bias", "layers.1.w_in", "layers.1.w_rec", "layers.1.bias")
CHANGED = [*WEIGHTS, "features", "state", "episode_start"]


@pytest.mark.parametrize("sizes", [(64, 64), (5, 33)])  # weights the kernels read where they are, or padded copies
@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_change_in_place_is_refused_or_without_effect(encoder, sizes, n_envs, dtype):
    learned = ["centers", "log_widths"] if encoder == "population" else []
    refused = set()
    for want_x in (False, True):
        right = gradients(encoder, sizes, n_envs, dtype, want_x)
        for name in CHANGED + learned:
            try:
                found = gradients(encoder, sizes, n_envs, dtype, want_x, name)
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)
                refused.add(name)
            else:
                for key, value in right.items():
                    torch.testing.assert_close(
                        found[key], value, rtol=0, atol=0, msg=f"{name} changed, gradient of {key}"
                    )
    assert {"layers.0.w_rec", "layers.1.w_in", "layers.1.w_rec", *learned} <= refused  # the backward pass needs them
    assert not refused & {"layers.0.bias", "layers.1.bias", "state", "episode_start"}  # and these it does not


@pytest.mark.parametrize("name", ["weight", "x"])
def test_a_row_linear_notices_as_well(name):
    layer, x = RowLinear(3, 2), torch.randn(1, 3, requires_grad=True)
    used = x * 1
    y = layer(used)
    with torch.no_grad():
        (layer.weight if name == "weight" else used).zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    "x", [torch.ones(2, 4), torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.int64)]
)
def test_a_row_linear_refuses_what_does_not_fit(x):
    with pytest.raises(RuntimeError):
        RowLinear(3, 2)(x)
