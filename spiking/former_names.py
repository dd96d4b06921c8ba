"""Former names of a layer's parameters, from when all layers of an LSNN were one module."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_FORMER_NAME = re.compile(r"(w_in|w_rec|bias|tau_m|v_th|tau_a|beta|refractory)_(\d+)")


class FormerNames(nn.Module):
    """A module with ``layers``, whose parameters are also found under their former names."""

    def __getattr__(self, name: str) -> Any:
        """Find a layer's parameter by its former name: ``w_in_0`` is ``layers[0].w_in``."""
        former = _FORMER_NAME.fullmatch(name)
        if former and int(former[2]) < len(self.layers):
            return getattr(self.layers[int(former[2])], former[1])
        return super().__getattr__(name)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a state dictionary, also one with former names: ``w_in_0`` is read as ``layers.0.w_in``."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            if former := _FORMER_NAME.fullmatch(key.removeprefix(prefix)):
                state_dict[f"{prefix}layers.{former[2]}.{former[1]}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)
