"""Compile a trained policy for an emulated chip, run it there, and print what it kept and what it would cost."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloop.hardware.chip import CHIPS, PROFILES
from spikeloop.scripts.cli import Parser, UsageError, before_any_work, import_environment, run
from spikeloop.scripts.run_folder import DEPLOYED, NETWORK, open_run
from spikeloop.spiking.extras import install_hint

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from spikeloop.hardware.deployed import Deployment
    from spikeloop.hardware.report import Report
    from spikeloop.spiking.network import Network

REPORT, PICTURE = "report.json", "cores.png"
CALIBRATION_STEPS = 2000
OTHER_SEEDS = 1_000_000  # of calibration, apart from those of the episodes
EPILOG = f"""\
RUN is a run folder of `spikeloop train`, or the file of a network, such as the {NETWORK} in it. Loading a network runs
no code from its file; the model in a run folder is a pickle, so deploy only those you trust.
The float network, the chip and random actions play the same episodes; kept is (chip - random) / (float - random).
Leaves {DEPLOYED}, {REPORT} and {PICTURE}. Energies and times are modelled from published constants, not measured.
"""
Act = Callable[[np.ndarray, Any, np.ndarray], tuple[np.ndarray, Any]]


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit status."""
    return run("deploy", deploy, argv)


def deploy(argv: list[str]) -> int:
    """Deploy as the arguments say."""
    args = _parser().parse_args(argv)
    _check(args)
    # RL Zoo prints while it loads, and --json must stay alone
    with before_any_work(), contextlib.redirect_stdout(sys.stderr):
        if args.env is not None:
            _, args.env = import_environment(args.env)
        network, env = _load(args)
        from spikeloop.hardware.deployed import DeployedPolicy
        from spikeloop.hardware.report import report
        from spikeloop.scripts.load_policy import NetworkPolicy

        floating = NetworkPolicy(network, args.seed)
        seen = _observations(env, floating.predict, args.seed + OTHER_SEEDS)
        deployment = _compile(network, seen, args)
        chip = DeployedPolicy(deployment, np.random.default_rng(args.seed))
        args.out.mkdir(parents=True, exist_ok=True)
    players: dict[str, Act] = {"float": floating.predict, "chip": _flat(chip), "random": _random(env, args.seed)}
    returns = {name: play(env, act, args.n_episodes, args.seed) for name, act in players.items()}
    figures = report(chip)
    compared = _compare_actions(deployment, seen, args) if args.check_actions else None
    env.close()
    deployment.save(args.out / DEPLOYED)
    results = {**_kept(returns), "checked_steps": compared, "seed": args.seed, "report": figures.to_dict()}
    (args.out / REPORT).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    drawn = _draw(figures, args.out / PICTURE)
    if args.json:
        print(json.dumps(results))
    else:
        _print(args, results, figures, drawn)
    return 0


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "spikeloop deploy", description=__doc__, epilog=EPILOG, formatter_class=formatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="run folder, or file of a network")
    add("--chip", default="loihi1", choices=list(CHIPS), help="the chip (default: loihi1)")
    add("--bits", default=8, type=int, metavar="N", help="bits of a weight, sign included: 2 to 6, or 8 (default: 8)")
    add("--profile", choices=list(PROFILES), help="arithmetic (default: that of the chip)")
    add("--strict", action="store_true", help="refuse what the chip can only approximate")
    add("--env", metavar="[MODULE:]ID", help="environment id (default: what the network was trained on)")
    add("--gym-packages", default=[], nargs="+", metavar="MODULE", help="modules to import, which register tasks")
    add("--load-best", action="store_true", help="the model that did best in evaluation, not the last")
    add("-n", "--n-episodes", default=20, type=int, metavar="N", help="episodes (default: 20)")
    add("--seed", default=0, type=int, help="seed of the first episode, the next have the next (default: 0)")
    add(
        "--check-actions",
        default=0,
        type=int,
        metavar="N",
        help="compare the chip's actions over N steps with those of an interpreter in plain Python, which is slow",
    )
    add("--out", type=Path, metavar="FOLDER", help="where files are left (default: beside the policy)")
    add("--json", action="store_true", help="print JSON")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Refuse what would otherwise fail only after the episodes have run."""
    if args.n_episodes < 1:
        raise UsageError(f"--n-episodes must be at least 1, got {args.n_episodes}")
    if args.check_actions < 0:
        raise UsageError(f"--check-actions must be at least 0, got {args.check_actions}")
    if args.seed < 0:
        raise UsageError(f"--seed must be at least 0, got {args.seed}")
    if args.run.suffix == ".zip":
        raise UsageError(f"{args.run} is a model without its settings, name its run folder instead")
    if args.run.is_dir() and args.env:
        raise UsageError(f"--env goes with the file of a network, {args.run} is a run folder and knows its own")
    if args.out is None:
        args.out = args.run if args.run.is_dir() else args.run.parent
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"--out takes a folder, {args.out} is none")


def _load(args: argparse.Namespace) -> tuple[Network, VecEnv]:
    """Return the network and one environment that shows it raw observations."""
    from stable_baselines3.common.vec_env import VecNormalize

    from spikeloop.scripts.load_policy import load_network, load_run

    for package in args.gym_packages:
        importlib.import_module(package)
    if not args.run.is_dir():
        policy = load_network(args.run, args.env, args.seed, None)
        return policy.network(), policy.env
    policy, found = load_run(args.run, args.load_best, args.seed, None), open_run(args.run, args.load_best)
    metadata = {"env": found.env_id, "env_kwargs": json.dumps(found.env_kwargs)}
    network = replace(policy.network(), metadata=metadata)
    env = policy.env  # the network normalises by itself
    return network, env.venv if isinstance(env, VecNormalize) else env


def _compile(network: Network, seen: np.ndarray, args: argparse.Namespace) -> Deployment:
    from spikeloop.hardware.compiler import compile_network

    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        deployment = compile_network(
            network, args.chip, bits=args.bits, profile=args.profile, calibration=seen, strict=args.strict
        )
    for warning in noted:
        print(f"spikeloop deploy: {warning.message}", file=sys.stderr)
    return deployment


def _flat(policy: Any) -> Act:
    def act(obs: np.ndarray, state: Any, starts: np.ndarray) -> tuple[np.ndarray, Any]:
        return policy.predict(obs.reshape(len(obs), -1), state, starts)

    return act


def _random(env: VecEnv, seed: int) -> Act:
    space = env.action_space
    space.seed(seed)
    return lambda obs, state, starts: (np.stack([space.sample() for _ in obs]), state)


def play(env: VecEnv, act: Act, n_episodes: int, seed: int) -> list[float]:
    """Play episodes, each from a seed of its own, so that every player meets the same ones.

    Args:
        env: One environment.
        act: Observation, state and episode start to actions and new state.
        n_episodes: How many.
        seed: Of the first; the next have the next.

    Returns:
        The returns; those of a ``Monitor`` where the environment has one, as in ``evaluate_policy``.
    """
    returns = []
    for episode in range(n_episodes):
        env.seed(seed + episode)
        obs, state, done, total = env.reset(), None, False, 0.0
        start = np.ones(1, bool)
        while not done:
            actions, state = act(np.asarray(obs), state, start)
            obs, rewards, dones, infos = env.step(actions)
            start, done, total = dones, bool(dones[0]), total + float(rewards[0])
        returns.append(float(infos[0]["episode"]["r"]) if "episode" in infos[0] else total)
    return returns


def _observations(env: VecEnv, act: Act, seed: int) -> np.ndarray:
    """Return raw observations of the float policy's own episodes, shape (CALIBRATION_STEPS, 1, n_obs)."""
    env.seed(seed)
    obs, state, start = np.asarray(env.reset()), None, np.ones(1, bool)
    seen = np.empty((CALIBRATION_STEPS, 1, obs.size))
    for step in range(CALIBRATION_STEPS):
        seen[step] = obs.reshape(1, -1)
        actions, state = act(obs, state, start)
        after, _, start, _ = env.step(actions)
        obs = np.asarray(after)
    return seen


def _compare_actions(deployment: Deployment, seen: np.ndarray, args: argparse.Namespace) -> int:
    """Step emulator and interpreter side by side; return over how many steps their actions were the same."""
    from spikeloop.hardware.deployed import DeployedPolicy

    both = [DeployedPolicy(deployment, np.random.default_rng(args.seed), interpreted=slow) for slow in (False, True)]
    states: list[Any] = [policy.initial_state() for policy in both]
    actions: list[Any] = [None, None]
    for step in range(args.check_actions):
        for i, policy in enumerate(both):
            actions[i], states[i] = policy.predict(seen[step % len(seen)], states[i])
        if not np.array_equal(actions[0], actions[1]):
            raise RuntimeError(f"emulator and interpreter chose other actions at step {step}: {actions}")
    return args.check_actions


def _kept(returns: dict[str, list[float]]) -> dict[str, Any]:
    means = {name: float(np.mean(values)) for name, values in returns.items()}
    gained = means["float"] - means["random"]
    kept = (means["chip"] - means["random"]) / gained if gained else None
    return {"kept": kept, "mean_returns": means, "returns": returns}


def _draw(figures: Report, picture: Path) -> bool:
    """Draw the cores where matplotlib is installed, and say whether it is."""
    if not importlib.util.find_spec("matplotlib"):
        return False
    from spikeloop.hardware.report import draw_cores
    from spikeloop.scripts.pictures import save
    from spikeloop.spiking.plotting import new_axes

    save(draw_cores(new_axes(height=3.4)[0], figures), picture)
    return True


def _print(args: argparse.Namespace, results: dict[str, Any], figures: Report, drawn: bool) -> None:
    figures.print()
    print()
    for name, values in results["returns"].items():
        print(f"{name:<8} return {np.mean(values):9.2f} +/- {np.std(values):.2f} over {len(values)} episodes")
    kept = results["kept"]
    print("kept     " + ("undefined: the float network does as well as chance" if kept is None else f"{kept:.1%}"))
    if results["checked_steps"]:
        print(f"actions of the emulator and the plain-Python interpreter: the same on {results['checked_steps']} steps")
    left = [DEPLOYED, REPORT, *([PICTURE] if drawn else [])]
    print(f"left in {args.out}: {', '.join(left)}")
    if not drawn:
        print(f"for a picture: {install_hint('plot')}")


if __name__ == "__main__":
    sys.exit(main())
