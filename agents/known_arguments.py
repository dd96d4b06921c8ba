"""What a constructor takes, and policies that refuse anything else in one line."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import Any, ClassVar, Self

_OF_ALGORITHM = {"observation_space", "action_space", "lr_schedule"}  # what no one gives a policy by name


def arguments_of(cls: Any) -> set[str]:
    """Return the names a constructor takes, those it hands on to its base classes included; or a function."""
    names: set[str] = set()
    for base in cls.__mro__ if isinstance(cls, type) else (cls,):
        is_written = not isinstance(base, type) or "__init__" in vars(base)
        parameters = inspect.signature(base).parameters.values() if is_written else ()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if "of_kwargs" in vars(base):
            return names | vars(base)["of_kwargs"]
        if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


def unknown_argument(cls: type, given: Iterable[str]) -> str | None:
    """Return a line about the first argument that a policy does not take, and what it takes; None if it takes all.

    >>> from stable_baselines3.common.policies import BasePolicy
    >>> unknown_argument(BasePolicy, ["squash_outputs"])[:80]
    "BasePolicy has no argument 'squash_outputs' (did you mean 'squash_output'?); it "
    """
    known = arguments_of(cls)
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
            takes = ", ".join(sorted(known - _OF_ALGORITHM))
            return f"{cls.__name__} has no argument {name!r}{hint}; it takes {takes}"
    return None


class KnownArguments:
    """A policy that refuses arguments which it does not take; it inherits from this class, and from SB3's after it.

    Attributes:
        of_kwargs: All names that ``**kwargs`` of the constructor may hold. A class has this set of its own if it does
            not just hand ``**kwargs`` on to the next constructor.

    Raises:
        TypeError: If there is such an argument.

    >>> class Policy(KnownArguments):
    ...     def __init__(self, n_neurons=16): ...
    >>> Policy(n_neuron=8)
    Traceback (most recent call last):
    TypeError: Policy has no argument 'n_neuron' (did you mean 'n_neurons'?); it takes n_neurons
    """

    of_kwargs: ClassVar[set[str]]

    # Python calls this before the constructors of all subclasses, which so need no check of their own.
    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Return an object without content, as Python does, if the constructor knows all names in ``kwargs``."""
        if unknown := unknown_argument(cls, kwargs):
            raise TypeError(unknown)
        return super().__new__(cls)
