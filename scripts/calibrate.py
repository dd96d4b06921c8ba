"""Play an environment at random, print what it shows, and propose the input code of R-STDP for it."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from spikeloop.scripts.cli import Parser, UsageError, before_any_work, did_you_mean, import_environment, run

if TYPE_CHECKING:
    import numpy as np
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnv

    from spikeloop.spiking.encoders.tile_coding import Tiles

EPILOG = """\
The proposed ends are those of the observation space where they are finite. Elsewhere they are the middle 98 % of what
random play shows, and as much again on either side: a policy that has learnt goes where random play does not. An
observation beyond an end is taken for the end. Lines in use are those that spiked in random play; tiles over many
dimensions hardly ever meet again; encoder 'auto' needs no ends.
"""
PRESETS = "rstdp"  # the algorithm that takes the input code
MOST_TILES = 6  # along a dimension, as WtaPolicy has it where nothing is said
MOST_LINES = 400_000  # of the tiles that are proposed
N_GRIDS = 8
LARGEST_END = 1e6  # bounds beyond it stand for none, as they do for WtaPolicy


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit status."""
    return run("calibrate", calibrate, argv)


def calibrate(argv: list[str]) -> int:
    """Print what an environment shows in random play, and the input code that follows from it."""
    args = _parser().parse_args(argv)
    with before_any_work() as begin:
        venv, env_id = _environment(args)
        try:
            reason = _no_vector(venv.observation_space)
            if reason is not None:
                print(f"{env_id} shows {venv.observation_space}: {reason}")
                return 0
            begin()
            seen, n_episodes = play_at_random(venv, args.n_timesteps, args.seed)
        finally:
            venv.close()
    space: Any = venv.observation_space
    print(f"{env_id}: {len(seen):,} observations of random play, {n_episodes:,} episodes, seed {args.seed}")
    for line in (*described(seen, space), *proposed(seen, space)):
        print(line)
    return 0


def play_at_random(venv: VecEnv, n_steps: int, seed: int) -> tuple[np.ndarray, int]:
    """Take random actions.

    Args:
        venv: The environments; they are seeded here.
        n_steps: Env steps, over all environments together, rounded up to a multiple of their number.
        seed: Seed of the environments and of the actions.

    Returns:
        The observations, those that end an episode among them, float64, shape (n, n_obs), and the number of episodes
        that ended.

    >>> from stable_baselines3.common.env_util import make_vec_env
    >>> seen, n_episodes = play_at_random(make_vec_env("MountainCar-v0"), n_steps=400, seed=0)
    >>> seen.shape, n_episodes  # the first observation, one for each step, and the first of the next two episodes
    ((403, 2), 2)
    """
    import numpy as np

    venv.seed(seed)
    venv.action_space.seed(seed)
    seen = list(np.asarray(venv.reset(), np.float64))
    n_episodes = 0
    for _ in range(math.ceil(n_steps / venv.num_envs)):
        actions = np.array([venv.action_space.sample() for _ in range(venv.num_envs)])
        obs, _, dones, infos = venv.step(actions)
        seen += [
            np.asarray(info["terminal_observation"], np.float64) for info in infos if "terminal_observation" in info
        ]
        seen += list(np.asarray(obs, np.float64))
        n_episodes += int(np.sum(dones))
    return np.array(seen), n_episodes


def described(seen: np.ndarray, space: spaces.Box) -> list[str]:
    """Return a table, a row for each number of the observation.

    Args:
        seen: Observations, shape (n, n_obs).
        space: Their space.
    """
    import numpy as np

    ends = ends_for(seen, space)
    rows = [("number", "bounds of the space", "seen", "mean", "sd", "proposed ends", "clipped")]
    for i, values in enumerate(seen.T):
        clipped = np.mean((values < ends.low[i]) | (values > ends.high[i]))
        rows.append(
            (
                f"{i}",
                _span(space.low[i], space.high[i]),
                _span(values.min(), values.max()),
                f"{values.mean():.3g}",
                f"{values.std():.3g}",
                _span(ends.low[i], ends.high[i]),
                f"{clipped:.2%}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


class Ends(NamedTuple):
    """Lower and upper ends of each number of the observation."""

    low: list[float]
    high: list[float]


def ends_for(seen: np.ndarray, space: spaces.Box) -> Ends:
    """Return the proposed ends: the space's own, or those of what was seen with as much again on either side.

    >>> import numpy as np
    >>> from gymnasium import spaces
    >>> seen = np.stack([np.linspace(0, 1, 101), np.linspace(-1, 1, 101)], axis=1)
    >>> ends_for(seen, spaces.Box(np.array([0.0, -np.inf]), np.array([4.0, np.inf]), dtype=np.float64))
    Ends(low=[0.0, -2.94], high=[4.0, 2.94])
    """
    import numpy as np

    low, high = np.quantile(seen, [0.01, 0.99], axis=0)
    low, high = np.where(high > low, [low, high], [low - 1.0, high + 1.0])  # what never changes has no range
    width = high - low
    bounded = [np.abs(bound) <= LARGEST_END for bound in (space.low, space.high)]
    lowest, highest = np.where(bounded[0], space.low, low - width), np.where(bounded[1], space.high, high + width)
    digits = (2 - np.floor(np.log10(highest - lowest))).astype(int)  # of the width three, however far from 0 it lies
    proposals = ((lowest, space.low, bounded[0]), (highest, space.high, bounded[1]))
    return Ends(
        *(
            [_short(end) if own else round(float(value), n) for value, end, own, n in zip(*of_all, digits, strict=True)]
            for of_all in proposals
        )
    )


def _short(end: np.floating) -> float:
    """Return an end of a space with as few digits as name it in its own precision."""
    return float(str(end))


def proposed(seen: np.ndarray, space: spaces.Box) -> list[str]:
    """Return the proposal, and what of it was in use: lines of text that can be copied into a command or a file."""
    import numpy as np

    ends = ends_for(seen, space)
    auto = "policy_kwargs:dict(encoder='auto')"
    tiles = tiles_for(ends)
    if tiles is None:
        return [
            f"tiles over {len(ends.low)} dimensions are more than {MOST_LINES:,} lines, even with one along each",
            f'without tiles: --hyperparams "{auto}"',
        ]
    in_use = np.unique([tiles.lines(obs) for obs in seen]).size
    n = tiles.n_tiles[0]
    arguments = {"n_tiles": list(tiles.n_tiles), "low": ends.low, "high": ends.high}
    return [
        f"tiles, {n} along each of {len(ends.low)} dimensions in {N_GRIDS} grids: {in_use:,} of "
        f"{tiles.n_channels:,} lines in use",
        f'command line: --hyperparams "policy_kwargs:dict(encoder_kwargs={arguments})"',
        f"YAML: policy_kwargs: {{encoder_kwargs: {{{', '.join(f'{k}: {v}' for k, v in arguments.items())}}}}}",
        f'without tiles: --hyperparams "{auto}"',
    ]


def tiles_for(ends: Ends) -> Tiles | None:
    """Return tiles between ends, as many along each dimension as make no more than so many lines; None if none do.

    >>> tiles_for(Ends([0.0] * 6, [1.0] * 6)).n_tiles
    (5, 5, 5, 5, 5, 5)
    """
    import numpy as np

    from spikeloop.spiking.encoders.tile_coding import Tiles

    n_dims = len(ends.low)
    fitting = [n for n in range(1, MOST_TILES + 1) if N_GRIDS * (n + 1) ** n_dims <= MOST_LINES]
    if not fitting:
        return None
    return Tiles.over(np.array(ends.low), np.array(ends.high), n_tiles=fitting[-1], n_grids=N_GRIDS)


def _span(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def _no_vector(space: spaces.Space) -> str | None:
    """Say why there is nothing to calibrate; None if there is."""
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        if len(space.shape) == 1 and space.shape[0] > 0:
            return None
        return f"only vectors have ranges to calibrate, its shape is {space.shape}"
    if isinstance(space, spaces.Dict):
        return "only vectors have ranges to calibrate, not a Dict; each of its vectors takes ends of its own"
    return "these are choices, not quantities; they have no ranges to calibrate"


def _environment(args: argparse.Namespace) -> tuple[VecEnv, str]:
    """Return the environments with the wrappers of the preset, and their id."""
    import gymnasium as gym
    import yaml
    from rl_zoo3.utils import get_wrapper_class
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

    import spikeloop.envs  # noqa: F401  registers our tasks
    from spikeloop.agents.guarded_env import GuardedEnv
    from spikeloop.agents.registry import hyperparams_file

    _, env_id = import_environment(args.env)
    if env_id not in gym.registry:
        raise UsageError(did_you_mean("environment", env_id, gym.registry))
    presets = yaml.safe_load(hyperparams_file(PRESETS).read_text("utf-8"))
    preset = presets.get(env_id, presets["default"])
    wrapper = get_wrapper_class(preset)

    def make(**kwargs: Any) -> gym.Env:
        env = gym.make(env_id, **kwargs)
        return GuardedEnv(env if wrapper is None else wrapper(env))

    venv: VecEnv = make_vec_env(make, args.n_envs, env_kwargs=preset.get("env_kwargs"))
    normalize = preset.get("normalize")
    if normalize:
        venv = VecNormalize(venv, **(normalize if isinstance(normalize, dict) else {}))
    return (VecFrameStack(venv, preset["frame_stack"]) if "frame_stack" in preset else venv), env_id


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "spikeloop calibrate",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("env", metavar="[MODULE:]ENV", help="environment id")
    parser.add_argument("-n", "--n-timesteps", type=_positive, default=10_000, metavar="N", help="env steps (10000)")
    parser.add_argument("--n-envs", type=_positive, default=4, metavar="N", help="environments played at once (4)")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of environments and actions (0)")
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed, a whole number >= 0 and < 2^31")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
