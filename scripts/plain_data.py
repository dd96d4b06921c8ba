"""Settings from files, read as data: no text of a file is run, and no object of Python is made of it."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from spikeloop.agents.environment import leaves
from spikeloop.scripts.hyperparameters import CLASSES

_PYTHON = "tag:yaml.org,2002:python/"
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_CALLED = {"dict": dict, "list": list, "tuple": tuple, "set": set}


@dataclass(frozen=True)
class Unread:
    """Stands for what a file says in Python's own words, which is not read.

    Args:
        tag: Its tag.
    """

    tag: str


class ClassName(str):
    """The name of a class in Python's own words, which RL Zoo takes for the class where it asks for one."""


class _Loader(yaml.SafeLoader):
    """Reads what RL Zoo writes of a run: plain values, ordered dicts, tuples, numbers of numpy, names of classes."""

    def python(self, tag: str, node: yaml.Node) -> Any:
        """Return the value of a node with one of Python's tags."""
        if tag == "tuple":
            return tuple(self.construct_sequence(node, deep=True))
        if tag.startswith("name:"):
            return ClassName(tag.removeprefix("name:"))
        if tag == "object/apply:collections.OrderedDict" and isinstance(node, yaml.SequenceNode):
            arguments = self.construct_sequence(node, deep=True)
            return dict(arguments[0]) if arguments else {}
        if tag.startswith("object/apply:numpy.") and tag.endswith(".multiarray.scalar"):
            return self._number(node)
        return Unread(tag)

    def _number(self, node: yaml.Node) -> Any:
        """Return a number of numpy, written as its type and its bytes."""
        kind, data = node.value
        name = next(value for key, value in kind.value if key.value == "args").value[0].value
        dtype = np.dtype(name)
        return np.frombuffer(self.construct_object(data), dtype)[0].item() if dtype.kind in "fiub" else Unread(name)


_Loader.add_multi_constructor(_PYTHON, _Loader.python)


def read_settings(path: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings in a file of a run folder.

    Args:
        path: The file, which may hold tags of Python.
        needed: The settings that are asked for; the rest is left out.

    Raises:
        ValueError: If it holds no settings, or one that is needed is no plain data.
    """
    try:
        settings = yaml.load(path.read_bytes(), Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, StopIteration, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not the settings of a run ({type(error).__name__}: {reason})") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is not the settings of a run: expected a mapping, got {type(settings).__name__}")
    found = {name: settings[name] for name in needed if name in settings}
    for name, value in found.items():
        for one in leaves(value):
            if isinstance(one, Unread) or (isinstance(one, ClassName) and name not in CLASSES):
                raise ValueError(f"{path}: {name} holds {one}, expected plain data")
    return found


def parse(text: str) -> Any:
    """Return the value of a text such as ``dict(net_arch=[64], activation_fn=nn.ReLU)``, without running it.

    Numbers and sums of them, texts, lists, tuples, dicts and sets are known, and the classes of :func:`_named`.

    Raises:
        ValueError: If it holds anything else.

    >>> parse("dict(net_arch=[64, 64], log_std_init=-2)")
    {'net_arch': [64, 64], 'log_std_init': -2}
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"expected plain data as in 'dict(net_arch=[64, 64])', got {text[:60]!r} ({error})") from None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(_value(item) for item in node.elts)
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_number(node.left), _number(node.right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLED:
        named = {word.arg: _value(word.value) for word in node.keywords if word.arg}
        if len(named) == len(node.keywords):
            return _CALLED[node.func.id](*map(_value, node.args), **named)
    if isinstance(node, (ast.Name, ast.Attribute)):
        return _named(ast.unparse(node))
    raise ValueError(f"{ast.unparse(node)!r} is no plain data")


def _number(node: ast.expr) -> int | float:
    value = _value(node)
    if isinstance(value, (int, float)):
        return value
    raise ValueError(f"{ast.unparse(node)!r} is no number")


def _named(name: str) -> type:
    """Return the class that RL Zoo's own settings call by this name: layers, optimizers and a replay buffer."""
    import torch as th
    from stable_baselines3 import HerReplayBuffer
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    for one in (HerReplayBuffer, RMSpropTFLike):
        if name == one.__name__:
            return one
    place, _, last = name.rpartition(".")
    module, base = {
        "nn": (th.nn, th.nn.Module),
        "th.nn": (th.nn, th.nn.Module),
        "torch.nn": (th.nn, th.nn.Module),
        "th.optim": (th.optim, th.optim.Optimizer),
        "torch.optim": (th.optim, th.optim.Optimizer),
    }.get(place, (None, object))
    found = getattr(module, last, None)
    if isinstance(found, type) and issubclass(found, base):
        return found
    raise ValueError(f"{name!r} is no class that a text may name")
