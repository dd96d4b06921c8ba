"""Run a trained policy and print its return; record a video, or a raster of its spikes."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import operator
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloop.scripts.cli import Parser, UsageError, did_you_mean, run
from spikeloop.scripts.run_folder import NETWORK, find_run, open_run

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from spikeloop.spiking.monitor import Monitor
    from spikeloop.spiking.network import Network

VIDEO_PREFIX = "rollout"
EPILOG = f"""\
RUN is a run folder of `spikeloop train`, which `--algo`, `--env`, `--folder` and `--exp-id` name as well, or the file
of a network such as its {NETWORK}. Loading a network runs no code from the file; the model in a run folder is a
pickle, so roll out only those you trust.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit status."""
    return run("rollout", rollout, sys.argv[1:] if argv is None else argv)


def rollout(argv: list[str]) -> int:
    """Roll out as the arguments say."""
    args = _parser().parse_args(argv)
    if args.n_episodes < 1:
        raise UsageError(f"--n-episodes must be at least 1, got {args.n_episodes}")
    _check_outputs(args)
    with tempfile.TemporaryDirectory() as scratch:
        one_video = args.video is not None and args.video.suffix
        recorder = _recorder(Path(scratch) if one_video else args.video, 1 if one_video else args.n_episodes)
        with contextlib.redirect_stdout(sys.stderr):  # RL Zoo prints while it loads, and --json must stay alone
            predictor, env, network, name = _load(args, recorder)
        returns, lengths = _evaluate(predictor, env, args)
        if args.raster:
            assert network is not None
            _draw_raster(network, _record_episode(network, env, args.seed), args.raster)
        env.close()  # which writes the last video
        if one_video:
            shutil.move(f"{scratch}/{VIDEO_PREFIX}-episode-0.mp4", args.video)
    _report(name, returns, lengths, args)
    return 0


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "spikeloop rollout", description=__doc__, epilog=EPILOG, formatter_class=formatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("run", metavar="RUN", nargs="?", type=Path, help="run folder, or file of a network")
    add("--algo", default="spiking_ppo", help="algorithm of the run (default: spiking_ppo)")
    add("--env", help="environment id (default: CartPole-v1, or what the network was trained on)")
    add("-f", "--folder", default="logs", type=Path, help="where runs are kept (default: logs)")
    add("--exp-id", default=0, type=int, metavar="N", help="number of the run (default: 0, the latest)")
    add("--load-best", action="store_true", help="the model that did best in evaluation, not the last")
    add("-n", "--n-episodes", default=10, type=int, metavar="N", help="episodes (default: 10)")
    add("--seed", default=0, type=int, help="seed of the environment and of sampled actions (default: 0)")
    add("--stochastic", action="store_true", help="sample actions instead of taking the most likely")
    add("--video", type=Path, metavar="PATH", help="video of the first episode (FILE.mp4), or of all (a folder)")
    add("--raster", type=Path, metavar="FILE", help="picture of the spikes of one deterministic episode")
    add("--json", action="store_true", help="print JSON")
    return parser


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse what could only fail after the episodes have run."""
    if args.video and not all(map(importlib.util.find_spec, ("pygame", "moviepy"))):
        raise UsageError('videos need pygame and moviepy: pip install "spikeloop[render]"')
    if args.video and args.video.suffix not in ("", ".mp4"):
        raise UsageError(f"--video takes a file ending in .mp4 or a folder, got {args.video}")
    if args.raster and not importlib.util.find_spec("matplotlib"):
        raise UsageError('rasters need matplotlib: pip install "spikeloop[plot]"')
    if args.raster and args.raster.suffix not in (".png", ".pdf", ".svg"):
        raise UsageError(f"--raster takes a file ending in .png, .pdf or .svg, got {args.raster}")
    for path in (args.raster, args.video if args.video and args.video.suffix else None):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent} for {path.name}")


def _load(args: argparse.Namespace, recorder: tuple[Any, dict[str, Any]]) -> tuple[Any, VecEnv, Network | None, str]:
    """Return what predicts, its environment, the policy as a network if it is one, and what to call it."""
    if args.run is None or args.run.is_dir():
        return _load_run(args, recorder)
    if args.run.suffix == ".zip":
        raise UsageError(f"{args.run} is a model without its settings, name its run folder instead")
    return _load_network(args, recorder)


def _load_network(args: argparse.Namespace, recorder: tuple[Any, dict[str, Any]]) -> tuple[Any, VecEnv, Network, str]:
    from spikeloop.spiking.network import Network

    try:
        network = Network.load(args.run)
    except (ValueError, OSError) as error:
        raise UsageError(error) from None
    env_id = args.env or network.metadata.get("env")
    if env_id is None:
        raise UsageError(f"{args.run} does not say what it was trained on, add --env ID")
    if args.stochastic:
        raise UsageError(f"{args.run} holds no action distribution to sample from, --stochastic needs a run folder")
    from stable_baselines3.common.env_util import make_vec_env

    spec = _spec(env_id)
    trained_on_it = env_id == network.metadata.get("env")
    env_kwargs = json.loads(network.metadata["env_kwargs"]) if trained_on_it else {}
    wrapper, kwargs = recorder
    env = make_vec_env(
        lambda **options: spec.make(**options),
        seed=args.seed,
        env_kwargs=env_kwargs | ({"render_mode": "rgb_array"} if args.video else {}),
        wrapper_class=wrapper,
        wrapper_kwargs=kwargs,
    )
    _check_spaces(network, env, f"the network of {args.run}", env_id)
    return NetworkPolicy(network), env, network, f"{args.run} on {env_id}"


def _load_run(args: argparse.Namespace, recorder: tuple[Any, dict[str, Any]]) -> tuple[Any, VecEnv, Network | None, str]:
    found = open_run(args.run or find_run(args.folder, args.algo, args.env or "CartPole-v1", args.exp_id), args.load_best)
    try:
        import rl_zoo3
    except ImportError as error:
        raise UsageError(f'rolling out a run needs RL Zoo ({error}): pip install "spikeloop[zoo]"') from None
    from stable_baselines3.common.vec_env import unwrap_vec_normalize

    from spikeloop.agents.policies import LsnnPolicy
    from spikeloop.agents.registry import register_with_zoo

    register_with_zoo()
    _spec(found.env_id)
    hyperparams, stats_path = rl_zoo3.get_saved_hyperparams(str(found.settings), test_mode=True)
    env_kwargs = hyperparams.pop("env_kwargs", None) or found.env_kwargs
    if args.video:
        wrapper, kwargs = recorder
        wrappers = hyperparams.get("env_wrapper") or []
        hyperparams["env_wrapper"] = [*(wrappers if isinstance(wrappers, list) else [wrappers]), {wrapper: kwargs}]
        env_kwargs = {**env_kwargs, "render_mode": "rgb_array"}
    env = rl_zoo3.create_test_env(
        found.env_id,
        stats_path=stats_path,
        seed=args.seed,
        should_render=False,
        hyperparams=hyperparams,
        env_kwargs=env_kwargs,
    )
    schedules = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    try:
        # the seed given here seeds the environment and every generator, as at the start of training
        model = rl_zoo3.ALGOS[found.algo].load(found.model, env=env, seed=args.seed, custom_objects=schedules)
    except (ValueError, OSError) as error:
        raise UsageError(f"{found.model} cannot be loaded: {error}") from None
    network = None
    if args.raster:
        if not isinstance(model.policy, LsnnPolicy):
            raise UsageError(f"--raster shows spikes, and {found.algo} has none")
        try:
            network = model.policy.to_network(unwrap_vec_normalize(env))
        except ValueError as error:
            raise UsageError(error) from None
    return model, env, network, f"{found.algo} on {found.env_id}"


def _spec(env_id: str) -> Any:
    """Return the specification of an environment, ours registered."""
    import gymnasium

    import spikeloop.envs  # noqa: F401

    if env_id not in gymnasium.registry:
        raise UsageError(did_you_mean("environment", env_id, gymnasium.registry))
    return gymnasium.spec(env_id)


def _recorder(folder: Path | None, n_episodes: int) -> tuple[Any, dict[str, Any]]:
    """Return the wrapper that records the first episodes, and its arguments; no wrapper without a folder."""
    if folder is None:
        return None, {}
    from gymnasium.wrappers import RecordVideo

    trigger = partial(operator.gt, n_episodes)
    return RecordVideo, {"video_folder": str(folder), "name_prefix": VIDEO_PREFIX, "episode_trigger": trigger}


def _check_spaces(network: Network, env: VecEnv, name: str, env_id: str) -> None:
    from gymnasium import spaces

    kinds = {
        "discrete": spaces.Discrete,
        "multi_discrete": spaces.MultiDiscrete,
        "multi_binary": spaces.MultiBinary,
        "box": spaces.Box,
    }
    obs, actions, head = env.observation_space, env.action_space, network.head
    if not isinstance(obs, spaces.Box) or spaces.flatdim(obs) != network.encoder.n_obs:
        raise UsageError(f"{name} observes {network.encoder.n_obs} numbers, {env_id} shows {obs}")
    if head is None:
        raise UsageError(f"{name} has no action head, it is no policy")
    fits = isinstance(actions, kinds[head.kind]) and spaces.flatdim(actions) == head.n_outputs
    if not fits or actions.shape != head.shape:
        raise UsageError(f"{name} chooses {head.kind} actions {head.sizes}, {env_id} takes {actions}")


class NetworkPolicy:
    """A network with the ``predict`` of an SB3 policy.

    Args:
        network: The network.
    """

    def __init__(self, network: Network):
        from spikeloop.spiking.simulator import Simulator

        self.simulator = Simulator(network)

    def predict(
        self, observation: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """Return the actions for a batch of observations, and the new state."""
        return self.simulator.predict(observation.reshape(len(observation), -1), state, episode_start)


def _evaluate(predictor: Any, env: VecEnv, args: argparse.Namespace) -> tuple[list[float], list[int]]:
    from stable_baselines3.common.evaluation import evaluate_policy

    return evaluate_policy(  # type: ignore[return-value]
        predictor, env, args.n_episodes, deterministic=not args.stochastic, return_episode_rewards=True
    )


def _record_episode(network: Network, env: VecEnv, seed: int) -> Monitor:
    """Run one episode and return what its spikes were."""
    from stable_baselines3.common.vec_env import unwrap_vec_normalize

    from spikeloop.spiking.simulator import Simulator

    simulator, normalize = Simulator(network), unwrap_vec_normalize(env)
    start = state = simulator.initial_state(1)
    seen: list[np.ndarray] = []
    env.seed(seed)
    obs, done = env.reset(), False
    while not done:
        raw = np.asarray(obs if normalize is None else normalize.get_original_obs())  # the network normalises itself
        seen.append(raw.reshape(1, -1))
        action, state = simulator.predict(seen[-1], state)
        obs, _, dones, _ = env.step(action)
        done = bool(dones[0])
    return simulator.record(np.stack(seen), start)[2]


def _draw_raster(network: Network, monitor: Monitor, path: Path) -> None:
    from spikeloop.spiking.plotting import new_axes, raster

    ax = new_axes(height=4.0)[0]
    raster(ax, monitor, network.layers)
    ax.figure.savefig(path)


def _report(name: str, returns: list[float], lengths: list[int], args: argparse.Namespace) -> None:
    mean, spread = float(np.mean(returns)), float(np.std(returns))
    if args.json:
        figures = {"mean_return": mean, "std_return": spread, "returns": returns, "lengths": lengths}
        print(json.dumps({"policy": name, "seed": args.seed, "deterministic": not args.stochastic, **figures}))
        return
    manner = "stochastic" if args.stochastic else "deterministic"
    print(f"{name}, {len(returns)} episodes, {manner}")
    print(f"return {mean:.2f} +/- {spread:.2f} (lowest {min(returns):.2f}, highest {max(returns):.2f})")
    print(f"length {np.mean(lengths):.1f} +/- {np.std(lengths):.1f}")


if __name__ == "__main__":
    sys.exit(main())
