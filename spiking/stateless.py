"""Says once when a policy whose state has to be carried is stepped as if it had none."""

from __future__ import annotations

import warnings


class StatelessWarning:
    """Warns once, on the second of two calls in a row with neither state nor episode start.

    Args:
        name: What users call the object whose ``predict`` it watches.
    """

    def __init__(self, name: str):
        self.name = name
        self._was_stateless = self._warned = False

    def __call__(self, stateless: bool) -> None:
        """Note one call of ``predict``, which must be the caller of this."""
        if stateless and self._was_stateless and not self._warned:
            self._warned = True
            warnings.warn(
                "predict() was called again with neither state nor episode_start: every call starts from rest. "
                f"Pass the returned state back, as in `action, state = {self.name}.predict(obs, state, episode_start)`",
                stacklevel=3,
            )
        self._was_stateless = stateless
