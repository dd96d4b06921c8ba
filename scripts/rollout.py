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

from spikeloop.agents.registry import DEFAULT_ALGO
from spikeloop.hardware.target import TARGETS
from spikeloop.scripts.bodies import add_body_option, bodies_of, change_bodies
from spikeloop.scripts.cli import TRUST, Parser, UsageError, before_any_work, import_environment, import_modules, run
from spikeloop.scripts.run_folder import (
    DEFAULT_ENV,
    NETWORK,
    deployed_file,
    find_deployed,
    find_run,
    need_folder,
    packages_of,
)
from spikeloop.spiking.extras import install_hint

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from spikeloop.scripts.load_policy import Policy
    from spikeloop.spiking.monitor import Monitor
    from spikeloop.spiking.network import Network

VIDEO_PREFIX = "rollout"
EPILOG = f"""\
RUN is a run folder of `spikeloop train`, or the file of a network, such as the {NETWORK} in it. Without RUN,
a run folder is found by --algo, --env, --folder and --exp-id. Loading a network runs no code from its file. The model
in a run folder is a pickle, which can: a folder that you did not train on this machine is refused without --trust.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit status."""
    return run("rollout", rollout, argv)


def rollout(argv: list[str]) -> int:
    """Roll out as the arguments say."""
    args = _parser().parse_args(argv)
    _check(args)
    with tempfile.TemporaryDirectory() as scratch:
        one_video = args.video is not None and args.video.suffix
        videos = Path(scratch, "videos") if one_video else args.video
        # RL Zoo prints while it loads, and --json must stay alone
        with before_any_work(), contextlib.redirect_stdout(sys.stderr):
            policy = _load(args, _video_arguments(videos, 1 if one_video else args.n_episodes))
            _check_rendering(policy.env, args)
            change_bodies(policy.env, args.body)
            network = policy.network() if args.raster and not args.deployed else None
        returns, lengths = _evaluate(policy, args)
        if args.raster:
            _draw(policy, network, args)
        policy.env.close()  # writes the last video
        if one_video:
            shutil.move(videos / f"{VIDEO_PREFIX}-episode-0.mp4", args.video)
    _report(policy, returns, lengths, args)
    return 0


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "spikeloop rollout", description=__doc__, epilog=EPILOG, formatter_class=formatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("run", metavar="RUN", nargs="?", type=Path, help="run folder, or file of a network")
    add("--algo", help=f"algorithm of the run (default: {DEFAULT_ALGO})")
    add("--env", metavar="[MODULE:]ID", help="environment (default: CartPole-v1, or what the network was trained on)")
    add("-f", "--folder", type=Path, help="where runs are kept (default: logs)")
    add("--exp-id", type=int, metavar="N", help="number of the run (default: 0, the latest)")
    add("--gym-packages", default=[], nargs="+", metavar="MODULE", help="modules to import, which register tasks")
    add("--load-best", action="store_true", help="the model that did best in evaluation, not the last")
    add(
        "--deployed",
        action="store_true",
        help=f"what `spikeloop deploy` left: RUN is {deployed_file('CHIP')}, or holds it",
    )
    add("--chip", choices=list(TARGETS), help="with --deployed: for which chip, where RUN holds files for several")
    add("-n", "--n-episodes", default=10, type=int, metavar="N", help="episodes (default: 10)")
    add("--seed", default=0, type=int, help="seed of the environment and of sampled actions (default: 0)")
    add_body_option(parser)
    add("--stochastic", action="store_true", help="sample actions instead of taking the most likely")
    add("--human", action="store_true", help="watch the episodes in a window; `spikeloop enjoy` is short for it")
    add("--video", type=Path, metavar="PATH", help="video of the first episode (FILE.mp4), or of all (a folder)")
    add("--raster", type=Path, metavar="FILE", help="picture of the spikes of one deterministic episode")
    add("--trust", action="store_true", help=TRUST)
    add("--json", action="store_true", help="print JSON")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Refuse what contradicts itself, and what would otherwise fail only after the episodes have run."""
    if args.run is not None:
        _check_run(args)
    if args.exp_id is not None and args.exp_id < 0:
        raise UsageError(f"--exp-id must be at least 0, got {args.exp_id}")
    bodies_of(args.body)
    if args.n_episodes < 1:
        raise UsageError(f"--n-episodes must be at least 1, got {args.n_episodes}")
    if args.deployed and (args.stochastic or args.load_best):
        option = "--stochastic" if args.stochastic else "--load-best"
        raise UsageError(f"--deployed runs one compiled network, remove {option}")
    if args.video and args.human:
        raise UsageError("an environment renders for --human or for --video, remove one of them")
    if args.chip and not args.deployed:
        raise UsageError("--chip goes with --deployed")
    if args.video and not all(map(importlib.util.find_spec, ("pygame", "moviepy"))):
        raise UsageError(f"videos need pygame and moviepy: {install_hint('render')}")
    if args.video and args.video.suffix not in ("", ".mp4"):
        raise UsageError(f"--video takes a file ending in .mp4 or a folder, got {args.video}")
    if args.raster and not importlib.util.find_spec("matplotlib"):
        raise UsageError(f"rasters need matplotlib: {install_hint('plot')}")
    if args.raster and args.raster.suffix not in (".png", ".pdf", ".svg"):
        raise UsageError(f"--raster takes a file ending in .png, .pdf or .svg, got {args.raster}")
    for path in (args.raster, args.video if args.video and args.video.suffix else None):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent} for {path.name}")
    if args.raster:
        need_folder(f"--raster {args.raster}", args.raster.parent)
    if args.video:  # only its parent: RecordVideo makes the folder itself, and warns if there is one
        need_folder(f"--video {args.video}", args.video.parent)


def _check_run(args: argparse.Namespace) -> None:
    """Refuse options that mean nothing for this RUN."""
    for option in ("algo", "exp_id", "folder"):
        if getattr(args, option) is not None:
            name = f"--{option.replace('_', '-')} {getattr(args, option)}"
            raise UsageError(f"{name} is for finding a run, remove it or RUN, which is {args.run}")
    if args.run.is_dir() and args.env is not None:
        raise UsageError(f"--env {args.env} is for the file of a network, the run folder {args.run} knows its own")
    if not args.run.is_dir() and args.load_best:
        raise UsageError(f"--load-best needs a run folder, {args.run} is none")
    if args.run.suffix == ".zip":
        raise UsageError(f"{args.run} is a model without its settings, name its run folder instead")


def _video_arguments(folder: Path | None, n_episodes: int) -> dict[str, Any] | None:
    """Return the arguments of ``RecordVideo`` for the first episodes; None without a folder."""
    if folder is None:
        return None
    first = partial(operator.gt, n_episodes)
    return {"video_folder": str(folder), "name_prefix": VIDEO_PREFIX, "episode_trigger": first}


def _load(args: argparse.Namespace, video: dict[str, Any] | None) -> Policy:
    from spikeloop.scripts.load_policy import Place, load_deployed, load_network, load_run

    import_modules("--gym-packages", args.gym_packages)
    modules, args.env = ([], None) if args.env is None else import_environment(args.env)
    found = args.run or find_run(
        args.folder or Path("logs"), args.algo or DEFAULT_ALGO, args.env or DEFAULT_ENV, args.exp_id or 0
    )
    own = packages_of(found, args.trust) if found.is_dir() else []
    import_modules("--gym-packages", own)
    place = Place(args.env, args.seed, video, args.human, [*args.gym_packages, *modules, *own], args.trust)
    if args.deployed:
        return load_deployed(find_deployed(found, args.chip) if found.is_dir() else found, place)
    if args.run is None or args.run.is_dir():
        return load_run(found, args.load_best, args.seed, video, args.human, args.trust)
    policy = load_network(found, place)
    if args.stochastic and not policy.predictor.network.readout.draws:
        raise UsageError(f"{found} holds no distribution to sample from, --stochastic needs a run folder")
    return policy


def _draw(policy: Policy, network: Network | None, args: argparse.Namespace) -> None:
    """Draw the spikes of an episode of a network, or of a deployed one."""
    from spikeloop.scripts.pictures import draw_raster
    from spikeloop.scripts.players import record_deployed_episode

    if network is None:
        draw_raster(None, record_deployed_episode(policy.predictor.deployment, policy.env, args.seed), args.raster)
    else:
        draw_raster(network, record_episode(network, policy.env, args.seed), args.raster)


def _check_rendering(env: VecEnv, args: argparse.Namespace) -> None:
    """Refuse to show or to film an environment that cannot be, or where there is no display."""
    if not args.human and not args.video:
        return
    option, mode = ("--human", "human") if args.human else ("--video", "rgb_array")
    modes = env.get_attr("metadata")[0].get("render_modes", [])
    if mode not in modes:
        raise UsageError(f"{option} needs an environment with render mode {mode!r}, this one has {modes}")
    if args.human:
        env.reset()  # opens the window
        env.seed(args.seed)  # the reset has used up the seed


def _evaluate(policy: Policy, args: argparse.Namespace) -> tuple[list[float], list[int]]:
    from stable_baselines3.common.evaluation import evaluate_policy

    def reinforce(now: dict[str, Any], _: dict[str, Any]) -> None:
        """Tell a deployed policy that learns what a step of ``evaluate_policy`` was worth."""
        cut = bool(now["info"].get("TimeLimit.truncated", False))
        policy.predictor.reinforce(float(now["reward"]), bool(now["done"]) and not cut, cut)

    returns, lengths = evaluate_policy(
        policy.predictor,
        policy.env,
        args.n_episodes,
        callback=reinforce if getattr(policy.predictor, "learning", False) else None,
        deterministic=not args.stochastic,
        return_episode_rewards=True,
    )
    assert isinstance(returns, list) and isinstance(lengths, list)
    return [float(value) for value in returns], [int(length) for length in lengths]


def record_episode(network: Network, env: VecEnv, seed: int) -> Monitor:
    """Run one deterministic episode of a network and return what its neurons did.

    Args:
        network: The network.
        env: One environment; wrappers of the VecEnv are bypassed, as the network does by itself what they do.
        seed: Seed of the environment and of a ``rate`` encoder.
    """
    from stable_baselines3.common.vec_env import VecEnvWrapper

    from spikeloop.spiking.observation import flatten
    from spikeloop.spiking.simulator import Simulator

    while isinstance(env, VecEnvWrapper):
        env = env.venv
    simulator = Simulator(network, np.random.default_rng(seed))
    start = state = simulator.initial_state()
    seen: list[np.ndarray] = []
    env.seed(seed)
    obs, done = env.reset(), False
    while not done:
        seen.append(flatten(network.parts, obs)[0])
        action, state = simulator.predict(obs, state)
        obs, _, dones, _ = env.step(action)
        done = bool(dones[0])
    return simulator.record(np.stack(seen), start)[2]


def _report(policy: Policy, returns: list[float], lengths: list[int], args: argparse.Namespace) -> None:
    name, firing_rates, decisions = policy.name, policy.firing_rates(), policy.decisions()
    mean, spread = float(np.mean(returns)), float(np.std(returns))
    if args.json:
        figures = {"mean_return": mean, "std_return": spread, "returns": returns, "lengths": lengths}
        figures |= {"firing_rates": firing_rates, **(decisions or {})}
        print(json.dumps({"policy": name, "seed": args.seed, "deterministic": not args.stochastic, **figures}))
        return
    manner = "stochastic" if args.stochastic else "deterministic"
    print(f"{name}, {len(returns)} episodes, {manner}")
    print(f"return {mean:.2f} +/- {spread:.2f} (lowest {min(returns):.2f}, highest {max(returns):.2f})")
    print(f"length {np.mean(lengths):.1f} +/- {np.std(lengths):.1f}")
    if decisions:
        time, share = decisions["decision_time_ms"], decisions["share_before_deadline"]
        print(f"spikes per decision {decisions['spikes_per_decision']:.1f}, at most one per neuron")
        print(f"decision after {time:.2f} ms, {share:.1%} before the deadline")
    elif firing_rates:
        print(f"spikes per neuron and tick, by layer: {', '.join(f'{rate:.3f}' for rate in firing_rates)}")


if __name__ == "__main__":
    sys.exit(main())
