"""What a local learning rule is to the rest of the library: traces at the synapses, and how they change the weights."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from spikeloop.spiking.neurons.base import Neurons

Constants = TypeVar("Constants", bound=tuple[Any, ...])


class Post(NamedTuple):
    """What a synapse sees of the neuron behind it, in one tick or, with an axis more in front, in each tick of a run.

    A rule that looks at spikes alone takes ``Post(z)``; one that looks at the membrane needs the other two.
    """

    z: np.ndarray
    """Spikes, 0 or 1, shape (n_post,)."""
    u: np.ndarray | None = None
    """How far the membrane lies above its threshold, in units of the threshold, shape (n_post,)."""
    free: np.ndarray | None = None
    """Whether the neuron may spike: False while it is refractory, shape (n_post,)."""


class Rule(Protocol):
    """A local learning rule: a frozen dataclass of parameters, and the equations of the rule.

    A synapse keeps traces of its two neurons, which every tick advances; the weights change by these traces and, in a
    three-factor rule, by a signal from elsewhere. The equations are written once, here; where a kernel computes them
    faster, it is tested against them. That the rule is local is tested too: what becomes of a weight depends on its own
    two neurons and on the signal, and on no other spike.

    Attributes:
        n_factors: 2 for a rule of pre- and postsynaptic activity alone, 3 for one that takes a signal.
    """

    n_factors: ClassVar[int]

    def constants(self, dt: float, dtype: npt.DTypeLike, neurons: Neurons | None = None) -> Any:
        """Return the constants of a tick of ``dt`` ms, a NamedTuple of numbers and arrays in ``dtype``.

        Args:
            dt: Length of a tick in ms.
            dtype: float32 or float64, that of the weights.
            neurons: The postsynaptic neurons, for a rule that looks at more than their spikes.
        """
        ...

    def begin(self, n_post: int, n_pre: int, dtype: npt.DTypeLike) -> Any:
        """Return the traces of synapses that have seen no spike yet, a NamedTuple of arrays."""
        ...

    @staticmethod
    def tick(pre: np.ndarray, post: Post, traces: Any, c: Any) -> Any:
        """Return the traces after one more tick; nothing that was given is modified.

        Args:
            pre: What arrives at the synapses, shape (n_pre,): spikes, 0 or 1.
            post: The neurons behind them.
            traces: The traces before.
            c: What :meth:`constants` returned.
        """
        ...

    @staticmethod
    def change(w: np.ndarray, traces: Any, signal: Any, c: Any) -> np.ndarray:
        """Return the weights, shape (n_post, n_pre), after the change that is due in the tick the traces stand at.

        Args:
            w: Weights before; not modified.
            traces: What :meth:`tick` returned.
            signal: The third factor, one number or one for each postsynaptic neuron; two-factor rules do not look.
            c: What :meth:`constants` returned.
        """
        ...


@runtime_checkable
class CompiledRule(Rule, Protocol):
    """A rule with a kernel for whole spike trains; tests hold it against :func:`run`."""

    def compiled(
        self, pre: np.ndarray, z: np.ndarray, signal: np.ndarray, w: np.ndarray, traces: Any, dt: float
    ) -> tuple[np.ndarray, Any]:
        """Return new weights, and traces that go on as those of :func:`run`; the arguments are those of ``run``."""
        ...


def run(
    rule: Rule,
    pre: np.ndarray,
    post: Post,
    signal: npt.ArrayLike,
    w: np.ndarray,
    traces: Any = None,
    dt: float = 1.0,
    neurons: Neurons | None = None,
) -> tuple[np.ndarray, Any]:
    """Run a rule on the activity of its neurons, tick by tick in numpy: the definition of what every kernel computes.

    Args:
        rule: The rule.
        pre: Presynaptic spikes, shape (T, n_pre).
        post: The postsynaptic neurons, arrays of shape (T, n_post).
        signal: Third factor of each tick, shape (T,) or (T, n_post).
        w: Weights, shape (n_post, n_pre), float32 or float64. Not modified.
        traces: What an earlier run returned, to go on from there; None for synapses that have seen no spike.
        dt: Length of a tick in ms.
        neurons: The postsynaptic neurons' parameters, for a rule that needs them.

    Returns:
        New weights and traces.

    >>> from spikeloop.spiking.rules.stdp import STDP
    >>> pre, z = np.eye(3)[:, :1], np.eye(3)[:, 1:2]  # one spike before, one a tick later
    >>> w, traces = run(STDP(tau_plus=10.0, a_plus=0.1), pre, Post(z), np.zeros(3), np.array([[0.5]]))
    >>> w.round(4)  # 0.5 + 0.1 exp(-1 / 10)
    array([[0.5905]])
    """
    c = rule.constants(dt, w.dtype, neurons)
    n_post, n_pre = w.shape
    traces = rule.begin(n_post, n_pre, w.dtype) if traces is None else traces
    pre, z = np.asarray(pre, w.dtype), np.asarray(post.z, w.dtype)
    u = None if post.u is None else np.asarray(post.u, w.dtype)
    for t, third in enumerate(np.asarray(signal, w.dtype)):
        now = Post(z[t], None if u is None else u[t], None if post.free is None else post.free[t])
        traces = rule.tick(pre[t], now, traces, c)
        w = rule.change(w, traces, third, c)
    return w, traces


def typed(kind: type[Constants], values: dict[str, Any], dtype: npt.DTypeLike) -> Constants:
    """Return a NamedTuple of constants whose fields are the values of these names, numbers and arrays in one dtype.

    Kernels compute in the dtype of what they are given: one float64 among float32 would change every sum.
    """
    number: Any = np.dtype(dtype).type
    with np.errstate(over="ignore"):  # a bound that float32 cannot hold is none
        return kind(*(number(values[name]) for name in kind._fields))  # type: ignore[attr-defined]
