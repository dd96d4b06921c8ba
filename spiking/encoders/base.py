"""What an encoder is to the rest of the library, and the checks that all of them share."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from spikeloop.spiking import checks
from spikeloop.spiking.fields import in_one_line, shown

# what the one class of format version 3 had for its five kinds
_OF_SOME_KIND = {"centers", "widths", "low", "high", "gain", "poisson", "tau", "threshold"}


class Encoder(Protocol):
    """How an observation becomes the input of the first layer: a frozen dataclass with these members.

    ``Encoder("rate", 2, low=[0, 0], high=[1, 1])`` builds one by the name that it has in
    :data:`~spikeloop.spiking.encoders.ENCODERS`, with the arguments of its class.

    Attributes:
        kind: Its name in the registry.
        held: Whether the input is the same on all ticks of an env step.
        spikes: Whether the input is spikes, 0 or 1, and not values.
        identity: Whether the input is the observation, untouched.
        differentiable: Whether :class:`~spikeloop.spiking.module.LSNN` gives features a gradient through it.
        obs_dtype: Type that observations are rounded to first: float32, as SB3 does before its policies, or float64.
        memory_rows: Names of the rows that it keeps in the packed state; () if it remembers nothing.

    >>> Encoder("population", 1, centers=[[-1.0, 1.0]], widths=[[0.5, 0.5]]).n_channels
    2
    """

    kind: ClassVar[str]
    held: ClassVar[bool]
    spikes: ClassVar[bool]
    identity: ClassVar[bool]
    differentiable: ClassVar[bool]
    obs_dtype: ClassVar[type]
    memory_rows: ClassVar[tuple[str, ...]]

    def __new__(cls, kind: str, n_obs: int, **fields: Any) -> Any:
        """Return the encoder of that name, built with those of the fields that its class has.

        Files of format version 3 and scripts of that time have one class for all kinds, and give it what only other
        kinds use. Such fields are passed over.

        Raises:
            ValueError: If there is no such encoder, a field is wrong, or no kind has it.
        """
        encoder = encoder_class(kind)
        own = {field.name for field in dataclasses.fields(encoder)}
        if unknown := sorted(set(fields) - own - _OF_SOME_KIND):
            raise ValueError(f"encoder {kind!r} has no field {unknown[0]!r}, only {', '.join(sorted(own))}")
        try:
            return encoder(n_obs=n_obs, **{name: value for name, value in fields.items() if name in own})
        except TypeError as error:
            raise ValueError(f"encoder {kind!r}: {in_one_line(error)}") from None

    @property
    def n_obs(self) -> int:
        """Length of the observation vector."""
        ...

    @property
    def n_channels(self) -> int:
        """Number of inputs that the first layer sees."""
        ...

    @property
    def expected(self) -> tuple[np.ndarray, np.ndarray] | None:
        """From where to where values are expected to lie, two arrays (n_obs,); None if it is made for any."""
        ...

    @property
    def covered(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Bounds, two arrays (n_obs,), beyond which a value leaves no trace, or always the same; None for no bounds."""
        ...

    @classmethod
    def over(cls, *ends: Any, **options: Any) -> Self:
        """Return a sensible encoder of values that lie between two ends, low and high, both of shape (n_obs,)."""
        ...

    def blind(self, n_ticks: int, dt: float) -> str | None:
        """Say why it can never spike within an env step of such ticks, and what would mend it; None if it can."""
        ...

    def initial_memory(self, n_envs: int, rng: np.random.Generator) -> np.ndarray:
        """Return what it remembers before the first step, shape (n_memory_rows, n_envs, n_obs)."""
        ...

    def __call__(
        self, obs: np.ndarray, memory: np.ndarray, start: np.ndarray | None, n_ticks: int, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode a sequence of env steps. :func:`encode` checks the arguments, and is what to call.

        What a value becomes depends on one environment's observations and memory only, so that any split of a sequence
        into steps, or of the batch, gives the same bits.

        Args:
            obs: Finite observations, C-contiguous, of type ``obs_dtype``, shape (L, B, n_obs).
            memory: Its rows of the packed state, shape (n_memory_rows, B, >= n_obs). It must not be modified.
            start: Whether an episode begins at a step, bool, shape (L, B); None where none does.
            n_ticks: Ticks per env step.
            dt: Length of a tick in ms.

        Returns:
            The input as float32, shape (L, B, n_channels) where ``held``, else (L, n_ticks, B, n_channels); and the
            memory after the last step.
        """
        ...


def encoder_class(kind: str) -> Any:
    """Return the class of that name in the registry.

    Raises:
        ValueError: If there is none.
    """
    from spikeloop.spiking.encoders import ENCODERS  # which holds what is checked here

    if not isinstance(kind, str) or kind not in ENCODERS:
        raise ValueError(f"Encoder.kind must be one of {tuple(ENCODERS)}, got {shown(kind)}")
    return ENCODERS[kind]


def encode(
    encoder: Encoder,
    obs: np.ndarray,
    memory: np.ndarray,
    episode_start: np.ndarray | None,
    n_ticks: int,
    dt: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Encode a sequence of env steps.

    The result for L steps equals, bit for bit, that of L calls with one step each and that of any split of the batch.
    Observations are rounded to ``encoder.obs_dtype`` first; what follows is computed in float64 and rounded once.

    Args:
        encoder: What to compute.
        obs: Observations, already normalised, shape (L, B, n_obs).
        memory: The encoder's rows of the packed state, shape (n_memory_rows, B, >= n_obs), before the first step.
        episode_start: Whether an episode begins at a step, shape (L, B); None where none does.
        n_ticks: Ticks per env step.
        dt: Length of a tick in ms.

    Returns:
        The input as float32, shape (L, B, n_channels) where it is held over the step, else
        (L, n_ticks, B, n_channels); and the memory after the last step. The arguments are not modified.

    Raises:
        ValueError: If a shape is wrong, an observation is not finite, or the memory is none of this encoder's.
    """
    obs = checks.shaped("obs", obs, ("L", "B", encoder.n_obs))
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        obs = checks.finite("obs", np.array(obs, dtype=encoder.obs_dtype, order="C"))
    n_rows = len(encoder.memory_rows)
    if memory.ndim != 3 or memory.shape[:2] != (n_rows, obs.shape[1]) or (n_rows and memory.shape[2] < encoder.n_obs):
        raise ValueError(f"memory must have shape ({n_rows}, {obs.shape[1]}, >= {encoder.n_obs}), got {memory.shape}")
    if episode_start is not None:
        episode_start = checks.flags("episode_start", episode_start, obs.shape[:2])
    return encoder(obs, memory, episode_start, n_ticks, dt)
