"""Bodies that change in mid-life: gravity, motors, masses, sensors, from one episode to the next.

An agent that keeps learning can adapt; a frozen one shows what its policy is worth on a body it was not made for.
``ChangeBody(gym.make("CartPole-v1"), "length", factor=2.0, after_episodes=150)`` has a pole twice as long from the
151st episode on. In RL Zoo's format: ``env_wrapper: [{spikeloop.envs.ChangeBody: {part: length, factor: 2.0}}]``.
Wrappers in wrappers change several parts, each in its own episode.

| Task                    | Parts that are multiplied by the factor                                                  |
|-------------------------|------------------------------------------------------------------------------------------|
| CartPole                | length (of the pole), mass (of the pole), cart (its mass), gravity, force                |
| Acrobot                 | length (of both links, with their centres of mass; inertia by its square), mass (and     |
|                         | inertia), force (torque)                                                                 |
| MountainCar             | gravity, force                                                                           |
| MountainCarContinuous   | force                                                                                    |
| Pendulum                | length, mass, gravity                                                                    |
| MuJoCo                  | mass (and inertia), friction, gravity, gear, damping; of one body, geom, actuator or     |
|                         | joint alone as "mass:torso"                                                              |
| any other               | an attribute that is a number, by its name                                               |
| boxes of actions        | action_gain: the action, then clipped to the space, where a motor saturates              |
| ... also single choices | action_sign: actions negated, choices in reverse order; no factor                        |
| boxes of observations   | sensor_gain. sensor_offset and sensor_noise (standard deviation) take an amount instead, |
|                         | in the units of the observation: a number, or one for each value                         |

Spaces, rewards, starts and ends of episodes stay as they are; Acrobot still has to reach the height of one of its links
above its base, whatever that link's length. An observation of a changed sensor may leave its space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import (
    AcrobotEnv,
    CartPoleEnv,
    Continuous_MountainCarEnv,
    MountainCarEnv,
    PendulumEnv,
)

# part -> attribute and the power of the factor it is multiplied by
_PARTS: dict[type[gym.Env], dict[str, dict[str, int]]] = {
    CartPoleEnv: {
        "length": {"length": 1},
        "mass": {"masspole": 1},
        "cart": {"masscart": 1},
        "gravity": {"gravity": 1},
        "force": {"force_mag": 1},
    },
    AcrobotEnv: {
        "length": {
            "LINK_LENGTH_1": 1,
            "LINK_LENGTH_2": 1,
            "LINK_COM_POS_1": 1,
            "LINK_COM_POS_2": 1,
            "LINK_MOI": 2,
        },
        "mass": {"LINK_MASS_1": 1, "LINK_MASS_2": 1, "LINK_MOI": 1},
        "force": {"AVAIL_TORQUE": 1},
    },
    MountainCarEnv: {"gravity": {"gravity": 1}, "force": {"force": 1}},
    Continuous_MountainCarEnv: {"force": {"power": 1}},
    PendulumEnv: {"length": {"l": 1}, "mass": {"m": 1}, "gravity": {"g": 1}},
}
# part -> fields of a MuJoCo model, and what gives a name to their rows
_MUJOCO: dict[str, tuple[tuple[str, ...], str]] = {
    "mass": (("body_mass", "body_inertia"), "body"),
    "friction": (("geom_friction",), "geom"),
    "gear": (("actuator_gear",), "actuator"),
    "damping": (("dof_damping",), "joint"),
    "gravity": (("opt.gravity",), ""),
}
_SENSORS = ("sensor_gain", "sensor_offset", "sensor_noise")
_PASSING = ("action_gain", "action_sign", *_SENSORS)  # what changes actions and observations on their way
ADDED = ("sensor_offset", "sensor_noise")  # these take an amount
_POSITIVE = ("length", "mass", "cart")
_OWN_NOISE = 0x5E2502  # keeps the noise of a sensor apart from the task's random numbers of the same seed


class ChangeBody(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Changes a part of the body, once, where an episode begins.

    An episode counts when a step of it has been taken, so that resetting more than once changes nothing.

    Args:
        env: The task.
        part: What changes; the table above says what tasks have.
        factor: What it is multiplied by: > 0 for length and mass, any number for others, 2 if None.
        after_episodes: Episodes on the old body.
        amount: What is added to a sensor instead: a number, or one for each value of the observation.

    Raises:
        ValueError: If the task has no such part, or a number is out of range.

    Example:
        >>> env = ChangeBody(gym.make("Pendulum-v1"), "gravity", factor=0.5, after_episodes=1)
        >>> for episode in range(2):
        ...     obs, info = env.reset(seed=episode)
        ...     obs, *_ = env.step([0.0])
        ...     print(env.unwrapped.g)
        10.0
        5.0
        >>> ChangeBody(gym.make("Pendulum-v1"), "friction")
        Traceback (most recent call last):
        ...
        ValueError: part must be one of action_gain, action_sign, gravity, length, mass, sensor_gain, sensor_noise, \
sensor_offset of Pendulum-v1, got 'friction'
    """

    def __init__(
        self,
        env: gym.Env,
        part: str = "length",
        factor: float | None = None,
        after_episodes: int = 0,
        amount: float | Sequence[float] | None = None,
    ):
        gym.utils.RecordConstructorArgs.__init__(
            self, part=part, factor=factor, after_episodes=after_episodes, amount=amount
        )
        gym.Wrapper.__init__(self, env)
        if part not in (known := parts_of(env)) and not _is_named(env, part):
            raise ValueError(f"part must be one of {', '.join(sorted(known))} of {_name(env)}, got {part!r}")
        if part in ADDED and (factor is not None or amount is None):
            raise ValueError(f"{part} takes an amount that is added, got factor={factor} and amount={amount}")
        if part not in ADDED and amount is not None:
            raise ValueError(f"{part} takes a factor, got amount={amount}")
        if part == "action_sign" and factor is not None:
            raise ValueError(f"action_sign takes no factor, got {factor}")
        factor = 2.0 if factor is None else factor
        if isinstance(factor, bool) or not isinstance(factor, (int, float, np.number)) or not np.isfinite(factor):
            raise ValueError(f"factor must be a finite number, got {factor!r}")
        factor = float(factor)
        if part.partition(":")[0] in _POSITIVE and not factor > 0:
            raise ValueError(f"factor must be a number > 0 for {part}, got {factor}")
        if not isinstance(after_episodes, (int, np.integer)) or after_episodes < 0:
            raise ValueError(f"after_episodes must be a whole number >= 0, got {after_episodes!r}")
        self._part, self._factor, self._left = part, factor, after_episodes
        self._amount = _amount(env, part, amount)
        self._stepped = self._changed = False
        self._noise = np.random.default_rng(_OWN_NOISE)

    @property
    def lets_pass(self) -> bool:
        """Whether actions and observations pass unchanged: only what the task itself computes with changes."""
        return self._part not in _PASSING

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, on the changed body when its time has come."""
        self._left -= self._stepped
        self._stepped = False
        if seed is not None:
            self._noise = np.random.default_rng([seed, _OWN_NOISE])
        if self._left <= 0 and not self._changed:
            self._changed = True
            if self.lets_pass:
                _multiply(self.env.unwrapped, self._part, self._factor)
        obs, info = self.env.reset(seed=seed, options=options)
        return self._sensed(obs), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take a step, which makes the episode count."""
        self._stepped = True
        obs, reward, terminated, truncated, info = self.env.step(self._acted(action))
        return self._sensed(obs), reward, terminated, truncated, info

    def _acted(self, action: Any) -> Any:
        """Return what reaches the task of an action."""
        space: Any = self.env.action_space
        if not self._changed or self._part not in ("action_gain", "action_sign"):
            return action
        if isinstance(space, spaces.Discrete):
            turned = 2 * space.start + space.n - 1 - action
            return turned if isinstance(action, np.ndarray) else type(action)(turned)
        factor = -1.0 if self._part == "action_sign" else self._factor
        return np.clip(np.multiply(action, factor), space.low, space.high).astype(space.dtype)

    def _sensed(self, obs: Any) -> Any:
        """Return what is seen of an observation."""
        if not self._changed or self._part not in _SENSORS:
            return obs
        if self._part == "sensor_gain":
            changed = obs * self._factor
        elif self._part == "sensor_offset":
            changed = obs + self._amount
        else:
            changed = obs + self._amount * self._noise.standard_normal(obs.shape)
        return changed.astype(obs.dtype)


def parts_of(env: gym.Env) -> list[str]:
    """Return the parts of a task that :class:`ChangeBody` can change.

    >>> parts_of(gym.make("MountainCar-v0"))
    ['gravity', 'force', 'action_sign', 'sensor_gain', 'sensor_offset', 'sensor_noise']
    """
    task: Any = env.unwrapped
    known = next((list(parts) for kind, parts in _PARTS.items() if isinstance(task, kind)), None)
    if known is None:
        known = list(_MUJOCO) if _is_mujoco(task) else [name for name in vars(task) if _is_number(task, name)]
        if hasattr(task, "P"):  # a table of transitions was made of its numbers, which no step reads again
            known = []
    if isinstance(env.action_space, spaces.Box):
        known.append("action_gain")
    if isinstance(env.action_space, (spaces.Box, spaces.Discrete)):
        known.append("action_sign")
    seen = env.observation_space
    return [*known, *_SENSORS] if isinstance(seen, spaces.Box) and seen.dtype.kind == "f" else known


def _name(env: gym.Env) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _is_mujoco(task: Any) -> bool:
    return hasattr(getattr(task, "model", None), "body_inertia")


def _is_number(task: Any, name: str) -> bool:
    value = getattr(task, name)
    return name[0] != "_" and isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _is_named(env: gym.Env, part: str) -> bool:
    """Return whether a part is one row of a MuJoCo model.

    Raises:
        ValueError: If there is no such row, with the rows that there are.
    """
    kind, colon, name = part.partition(":")
    if not colon or not _is_mujoco(env.unwrapped) or not _MUJOCO.get(kind, ("", ""))[1]:
        return False
    _row(env.unwrapped, kind, name)
    return True


def _row(task: Any, part: str, name: str) -> Any:
    """Return the rows of a MuJoCo model's fields that belong to a name."""
    kind = _MUJOCO[part][1]
    try:
        named = getattr(task.model, kind)(name)
    except KeyError as error:
        raise ValueError(f"part must be {part} or {part}:NAME, a {kind} of the model: {error.args[0]}") from None
    return slice(named.dofadr[0], named.dofadr[0] + named.damping.size) if kind == "joint" else named.id


def _amount(env: gym.Env, part: str, amount: float | Sequence[float] | None) -> np.ndarray | None:
    if part not in ADDED:
        return None
    shape, found = env.observation_space.shape, np.asarray(amount, np.float64)
    if found.shape not in ((), shape) or not np.isfinite(found).all():
        raise ValueError(f"amount must be a finite number, or of shape {shape} of such, got {amount}")
    if part == "sensor_noise" and (found < 0).any():
        raise ValueError(f"amount of sensor_noise must be a standard deviation >= 0, got {amount}")
    return found


def _multiply(task: Any, part: str, factor: float) -> None:
    """Multiply a part of a task, and what its constructor derives from it."""
    if _is_mujoco(task):
        _multiply_mujoco(task, *part.partition(":")[::2], factor)
        return
    known = next((parts for kind, parts in _PARTS.items() if isinstance(task, kind)), None)
    for name, power in ({part: 1} if known is None else known[part]).items():
        value = getattr(task, name)
        new = [each * factor**power for each in value] if isinstance(value, list) else value * factor**power
        setattr(task, name, new)
    if isinstance(task, CartPoleEnv):
        task.total_mass = task.masspole + task.masscart
        task.polemass_length = task.masspole * task.length


def _multiply_mujoco(task: Any, part: str, name: str, factor: float) -> None:
    import mujoco  # type: ignore[import-not-found,unused-ignore]

    rows = _row(task, part, name) if name else slice(None)
    for field in _MUJOCO[part][0]:
        values = task.model.opt.gravity if field == "opt.gravity" else getattr(task.model, field)
        values[rows] *= factor
    mujoco.mj_setConst(task.model, mujoco.MjData(task.model))  # what the compiler of models derived from them
