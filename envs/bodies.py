"""Bodies that change in mid-life: CartPole's pole and Acrobot's links grow or gain weight between two episodes.

An agent that keeps learning can adapt; a frozen one shows what its policy is worth on a body it was not made for.
``ChangeBody(gym.make("CartPole-v1"), "length", factor=2.0, after_episodes=150)`` has a pole twice as long from the
151st episode on. In RL Zoo's format: ``env_wrapper: [{spikeloop.envs.ChangeBody: {part: length, factor: 2.0}}]``.

| Task     | Part   | What is multiplied by the factor                                                  |
|----------|--------|-----------------------------------------------------------------------------------|
| CartPole | length | length of the pole                                                                |
| CartPole | mass   | mass of the pole                                                                  |
| Acrobot  | length | length of both links and their centres of mass; their inertia by its square       |
| Acrobot  | mass   | mass of both links and their inertia                                              |

Spaces, rewards, starts and ends of episodes stay as they are; Acrobot still has to reach the height of one of its links
above its base, whatever that link's length.
"""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.envs.classic_control import AcrobotEnv, CartPoleEnv

# part -> attribute and the power of the factor it is multiplied by
_PARTS: dict[type[gym.Env], dict[str, dict[str, int]]] = {
    CartPoleEnv: {"length": {"length": 1}, "mass": {"masspole": 1}},
    AcrobotEnv: {
        "length": {
            "LINK_LENGTH_1": 1,
            "LINK_LENGTH_2": 1,
            "LINK_COM_POS_1": 1,
            "LINK_COM_POS_2": 1,
            "LINK_MOI": 2,
        },
        "mass": {"LINK_MASS_1": 1, "LINK_MASS_2": 1, "LINK_MOI": 1},
    },
}


class ChangeBody(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Multiplies a part of the body by a factor, once, where an episode begins.

    An episode counts when a step of it has been taken, so that resetting more than once changes nothing.

    Args:
        env: A CartPole or an Acrobot.
        part: ``length`` or ``mass``.
        factor: The factor, > 0.
        after_episodes: Episodes on the old body.

    Raises:
        ValueError: If the task has no such part, or a number is out of range.
    """

    def __init__(self, env: gym.Env, part: str = "length", factor: float = 2.0, after_episodes: int = 0):
        gym.utils.RecordConstructorArgs.__init__(self, part=part, factor=factor, after_episodes=after_episodes)
        gym.Wrapper.__init__(self, env)
        parts = next((parts for task, parts in _PARTS.items() if isinstance(env.unwrapped, task)), {})
        if part not in parts:
            raise ValueError(f"ChangeBody knows the parts {sorted(parts)} of {env.unwrapped}, not {part!r}")
        if not 0 < factor < float("inf"):
            raise ValueError(f"factor must be a number > 0, got {factor}")
        if after_episodes < 0 or after_episodes % 1:
            raise ValueError(f"after_episodes must be a whole number >= 0, got {after_episodes}")
        self._powers, self._factor, self._left = parts[part], factor, after_episodes
        self._stepped = self._changed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, on the changed body when its time has come."""
        self._left -= self._stepped
        self._stepped = False
        if self._left <= 0 and not self._changed:
            self._changed = True
            self._change()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take a step, which makes the episode count."""
        self._stepped = True
        return self.env.step(action)

    def _change(self) -> None:
        body: Any = self.env.unwrapped
        for name, power in self._powers.items():
            setattr(body, name, getattr(body, name) * self._factor**power)
        if isinstance(body, CartPoleEnv):  # what its constructor derives from them
            body.total_mass = body.masspole + body.masscart
            body.polemass_length = body.masspole * body.length
