"""Settings from files are read as data: what RL Zoo writes is understood, what would run is refused."""

from collections import OrderedDict

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from torch import nn

pytest.importorskip("rl_zoo3")

from rl_zoo3 import exp_manager

from spikeloop.scripts.plain_data import parse, read_settings


def test_what_the_zoo_writes_is_read(tmp_path):
    class_of = gym.wrappers.ClipAction
    written = OrderedDict(
        a=1, b=(1, 2.5), c={"x": [None, True, "y"]}, f8=np.float64(1.5), i4=np.int32(-3), b1=np.bool_(True)
    )
    file = tmp_path / "config.yml"
    file.write_text(yaml.dump(OrderedDict(written, env_wrapper=[class_of], space=gym.spaces.Discrete(2))))
    assert read_settings(file, tuple(written)) == written
    assert read_settings(file, ("env_wrapper", "none")) == {
        "env_wrapper": ["gymnasium.wrappers.transform_action.ClipAction"]
    }
    with pytest.raises(ValueError, match=r"space holds .*gymnasium.spaces.discrete.Discrete.*, expected plain data"):
        read_settings(file, ("space",))


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.getcwd []",
        "a: !!python/object/apply:os.getcwd []",
        "a: !!python/object/new:os.system [x]",
        "a: !!python/object:os.X {}",
        "a: !!python/module:this",
        "a: !!python/name:os.system",
        "a: !!python/object/apply:collections.OrderedDict [5]",
        "a: !!python/object/apply:numpy._core.multiarray.scalar [x]",
        "a: !!python/object/apply:numpy.core.multiarray.scalar\n- !!python/object/apply:numpy.dtype\n  args: [O8]\n- x",
        "a: !!python/tuple {a: b}",
        "[1, 2]",
        "a: [",
        "a: " + "[" * 1000,
        "\x00",
    ],
    ids=lambda text: text[:50].encode("unicode_escape").decode(),
)
def test_what_is_no_data_is_refused(text, tmp_path):
    file = tmp_path / "args.yml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"args\.yml"):
        read_settings(file, ("a",))


def test_aliases_cost_nothing(tmp_path):
    file = tmp_path / "args.yml"
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    file.write_text("\n".join(["a0: &a0 [x]", *lines, "b: &b [*b]"]))
    assert read_settings(file, ("a0", "a39", "b"))["a0"] == ["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" dict(net_arch=[256, 256], activation_fn=nn.Tanh,\n ortho_init=False) ", None),
        ("dict(optimizer_class=RMSpropTFLike, optimizer_kwargs=dict(eps=1e-5))", None),
        ("{'norm_obs': True, 'n': -2 * 3 + 4 / 2, 's': {1, 2}, 't': tuple([1])}", None),
        ("HerReplayBuffer", None),
        ("torch.nn.ELU", nn.ELU),
        ("th.optim.Adam", th.optim.Adam),
    ],
)
def test_texts_mean_what_they_mean_to_the_zoo(text, value):
    assert parse(text) == (eval(text.strip(), vars(exp_manager).copy()) if value is None else value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "open('x')",
        "nn.Module.__subclasses__",
        "nn.ReLU()",
        "nn.init",
        "nn.modules.sys",
        "th.load",
        "dict(**{'a': 1})",
        "[x for x in (1,)]",
        "(lambda: 1)()",
        "f'{1}'",
        "9 ** 9",
        "'a' * 9",
        "1 / 0",
        "dict(a=1).clear",
        "dict(a=1)['a']",
        "x := 1",
        "import os",
        "(" * 1000,
        "-" * 100_000 + "1",
        "\0",
        "",
    ],
    ids=lambda text: text[:30].encode("unicode_escape").decode(),
)
def test_texts_that_are_no_data_are_refused(text):
    with pytest.raises(ValueError, match="expected plain data"):
        parse(text)
