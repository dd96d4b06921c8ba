"""Train a policy with RL Zoo, resume a training that was interrupted, or extend a finished one."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spikeloop.agents.registry import ALGOS, DEFAULT_ALGO, register_with_zoo
from spikeloop.hardware.target import TARGETS
from spikeloop.scripts.cli import (
    TRUST,
    Parser,
    UsageError,
    before_any_work,
    did_you_mean,
    import_environment,
    import_modules,
    run,
)
from spikeloop.scripts.run_folder import CHECKPOINT, DEFAULT_ENV, PREVIOUS, sole_writer

LEARN_ON_CHIP = [name for name, algorithm in ALGOS.items() if algorithm.chip_network]
EPILOG = """\
Every other option is RL Zoo's and means what it means there (`python -m rl_zoo3.train --help` lists all), such as
  --seed N                   seed of all random numbers
  --hyperparams NAME:VALUE   overwrite hyperparameters, for example n_envs:4 "policy_kwargs:dict(tau_m=8)"
  --conf-file FILE           hyperparameters of your own, in RL Zoo's format; a .py file is run
  -f, --log-folder FOLDER    where runs are kept (default: logs)
  --eval-freq N              env steps between evaluations (default: 25000)
  --tensorboard-log FOLDER   log to TensorBoard
  --progress                 progress bar
Schedules run over the whole budget. Extended to N env steps, a rate that falls from X to 0 continues at
X * (1 - steps done / N), which is above where the shorter training had ended.
A wrong setting is answered in one line; `python -X dev scripts/train.py` shows where it was found.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit status."""
    return run("train", train, argv)


def train(argv: list[str]) -> int:
    """Train as the arguments say."""
    args, zoo_argv = _parser().parse_known_args(argv)
    if args.resume is not None:
        _check_resume(args, zoo_argv)
    with before_any_work() as begin, contextlib.ExitStack() as stack:
        register_with_zoo()
        import rl_zoo3.train

        import spikeloop.envs  # noqa: F401  registers our tasks

        checkpoint = None
        if args.resume is None:
            settings, zoo_argv = _new_run(args, zoo_argv, rl_zoo3.train.ALGOS)
        else:
            stack.enter_context(sole_writer(args.resume))
            settings, zoo_argv, checkpoint = _resumed_run(args)
        own = {"settings": settings, "folder": args.resume, "checkpoint": checkpoint, "trust": args.trust}
        _train(rl_zoo3.train, zoo_argv, **own, begin=begin, stack=stack)
    return 0


def _check_resume(args: argparse.Namespace, zoo_argv: list[str]) -> None:
    """Refuse options that contradict the run, all but a new budget."""
    names = ("algo", "env", "gym_packages", "chip_ready", "quantize", "backend")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]
    if given or zoo_argv:
        raise UsageError(f"--resume takes all settings but -n from the run, remove {[*given, *zoo_argv][0]!r}")
    if not any((args.resume / name).is_file() for name in (CHECKPOINT, PREVIOUS)):
        raise UsageError(f"{args.resume} holds no {CHECKPOINT} to go on from")


def _new_run(args: argparse.Namespace, zoo_argv: list[str], known: Mapping[str, type]) -> tuple[Any, list[str]]:
    """Return what the checkpoints of a new run keep, and RL Zoo's arguments."""
    import gymnasium as gym
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    algo = args.algo or DEFAULT_ALGO
    if algo not in known:
        raise UsageError(did_you_mean("algorithm", algo, known))
    if args.backend and algo not in LEARN_ON_CHIP:
        raise UsageError(
            f"--backend is for --algo {' or '.join(LEARN_ON_CHIP)}, which learns where it runs, not {algo}"
        )
    if args.checkpoint_freq and algo not in ALGOS and not issubclass(known[algo], OnPolicyAlgorithm):
        raise UsageError(f"--checkpoint-freq: {algo} has no checkpoints, they would hold its replay buffer")
    import_modules("--gym-packages", args.gym_packages)
    modules, env_id = import_environment(args.env or DEFAULT_ENV)
    if env_id not in gym.registry:
        raise UsageError(did_you_mean("environment", env_id, gym.registry))
    modules = [*args.gym_packages, *modules]
    argv = ["--algo", algo, "--env", env_id, *(["--gym-packages", *modules] if modules else [])]
    argv += [*(["-n", str(args.n_timesteps)] if args.n_timesteps else []), *zoo_argv]
    settings = {
        "argv": argv,
        "checkpoint_freq": args.checkpoint_freq or 10_000,
        "checkpoint_minutes": args.checkpoint_minutes or math.inf,
        "chip_ready": args.chip_ready or args.quantize is not None,
        "quantize": args.quantize,
        "backend": args.backend,
    }
    return settings, argv


def _resumed_run(args: argparse.Namespace) -> tuple[Any, list[str], Any]:
    """Return what the checkpoints of a run keep, RL Zoo's arguments, and its checkpoint."""
    from spikeloop.agents.checkpoints import newest_checkpoint
    from spikeloop.agents.seals import is_sealed
    from spikeloop.scripts.experiment import seed_after
    from spikeloop.scripts.saving import sweep
    from spikeloop.scripts.trust import need_own

    path, previous = args.resume / CHECKPOINT, args.resume / PREVIOUS
    if not args.trust and not is_sealed(path) and is_sealed(previous):
        print(
            f"{path} is damaged, or not of a training of yours: going on from the checkpoint before it", file=sys.stderr
        )
        path = previous
    need_own([path], args.trust)
    sweep(args.resume)
    path, state = newest_checkpoint(path)
    settings, done = state["run"], state["num_timesteps"]
    for name in ("checkpoint_freq", "checkpoint_minutes"):
        settings[name] = getattr(args, name) or settings[name]
    if args.n_timesteps is not None:
        if args.n_timesteps <= done:
            raise UsageError(f"-n {args.n_timesteps}: {args.resume} has done {done} env steps, N must be more")
        settings["argv"] = [*settings["argv"], "-n", str(args.n_timesteps)]  # RL Zoo takes the last
    return settings, [*settings["argv"], "--seed", str(seed_after(settings["seed"], done))], (path, state)


def _train(zoo: Any, zoo_argv: list[str], **experiment: Any) -> None:
    """Run RL Zoo's training script with our experiment and our parsers in place of its own."""
    from spikeloop.scripts.experiment import Experiment
    from spikeloop.scripts.zoo_options import StorePairs, ZooParser

    zoo.ExperimentManager = partial(Experiment, **experiment)
    zoo.argparse = SimpleNamespace(ArgumentParser=ZooParser)
    zoo.StoreDict = StorePairs
    argv = sys.argv
    sys.argv = ["spikeloop train", *zoo_argv]  # where RL Zoo looks for its options
    try:
        zoo.train()
    finally:
        sys.argv = argv  # of whoever calls main()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "spikeloop train",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = ", ".join(ALGOS)
    parser.add_argument("--algo", help=f"{names} (default: {DEFAULT_ALGO}), or any of RL Zoo's")
    parser.add_argument("--env", metavar="[MODULE:]ID", help=f"environment id (default: {DEFAULT_ENV})")
    parser.add_argument("--gym-packages", default=[], nargs="+", metavar="MODULE", help="modules that register tasks")
    parser.add_argument(
        "-n", "--n-timesteps", type=_positive, metavar="N", help="training budget in env steps (default: the preset's)"
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        type=Path,
        help="go on with the run in this folder from its last checkpoint; with -n N, to a budget of N in all",
    )
    parser.add_argument(
        "--checkpoint-freq", metavar="N", type=_positive, help="env steps between checkpoints (default: 10000)"
    )
    parser.add_argument(
        "--checkpoint-minutes", metavar="M", type=_minutes, help="minutes after which a checkpoint is also due"
    )
    parser.add_argument(
        "--chip-ready",
        action="store_true",
        help="train a spiking policy with the semantics of the emulated chip: what `spikeloop deploy` runs best",
    )
    parser.add_argument(
        "--quantize",
        metavar="CHIP",
        choices=list(TARGETS),
        help=f"train chip-ready, with the weights that the chip can hold: {', '.join(TARGETS)}",
    )
    parser.add_argument(
        "--backend",
        "--core",  # its former name
        choices=("float", "chip"),
        help=f"where {' or '.join(LEARN_ON_CHIP)} learns (default: float); chip: on an emulated chip",
    )
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of minutes")
    return minutes


if __name__ == "__main__":
    sys.exit(main())
