"""Train a policy with RL Zoo; a run that was cut short goes on from its last checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spikeloop.agents.registry import ALGOS, register_with_zoo
from spikeloop.scripts.cli import Parser, UsageError, before_any_work, did_you_mean, run
from spikeloop.scripts.run_folder import CHECKPOINT

CHIP_NAMES = ("loihi1", "loihi2")
EPILOG = """\
Every other option is RL Zoo's and means what it means there (`python -m rl_zoo3.train --help` lists all), such as
  --env ID                   environment id (default: CartPole-v1)
  -n, --n-timesteps N        training budget in env steps
  --seed N                   seed of all random numbers
  --hyperparams NAME:VALUE   overwrite hyperparameters, for example n_envs:4 "policy_kwargs:dict(tau_m=8)"
  --conf-file FILE           hyperparameters of your own, in RL Zoo's format
  -f, --log-folder FOLDER    where runs are kept (default: logs)
  --eval-freq N              env steps between evaluations (default: 25000)
  --tensorboard-log FOLDER   log to TensorBoard
  --progress                 progress bar
A wrong setting is answered in one line; `python -X dev scripts/train.py` shows where it was found.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit status."""
    return run("train", train, argv)


def train(argv: list[str]) -> int:
    """Train as the arguments say."""
    args, zoo_argv = _parser().parse_known_args(argv)
    if args.resume is not None:
        given = {"--chip-ready": args.chip_ready, "--quantize": args.quantize, "--core": args.core}
        own = [args.algo or "", *(name for name, value in given.items() if value), *zoo_argv]
        if any(own):
            raise UsageError(f"--resume takes all settings from the run, remove {next(filter(None, own))!r}")
        if not (args.resume / CHECKPOINT).is_file():
            raise UsageError(f"{args.resume} holds no {CHECKPOINT} to go on from")
    with before_any_work() as begin:
        register_with_zoo()
        import rl_zoo3.train

        import spikeloop.envs  # noqa: F401  registers our tasks

        _train(args, zoo_argv, rl_zoo3.train, begin)
    return 0


def _train(args: argparse.Namespace, zoo_argv: list[str], zoo: Any, begin: Callable[[], None]) -> None:
    from spikeloop.agents.callbacks import read_checkpoint
    from spikeloop.scripts.experiment import Experiment, seed_after

    if args.resume is None:
        algo = args.algo or next(iter(ALGOS))
        if algo not in zoo.ALGOS:
            raise UsageError(did_you_mean("algorithm", algo, zoo.ALGOS))
        if args.core and algo != "rstdp":
            raise UsageError(f"--core is for --algo rstdp, which learns where it runs, not {algo}")
        state = None
        zoo_argv = ["--algo", algo, *zoo_argv]
        settings = {
            "argv": zoo_argv,
            "checkpoint_freq": args.checkpoint_freq or 10_000,
            "chip_ready": args.chip_ready or args.quantize is not None,
            "quantize": args.quantize,
            "core": args.core,
        }
    else:
        state = read_checkpoint(args.resume / CHECKPOINT)
        settings = state["run"]
        settings["checkpoint_freq"] = args.checkpoint_freq or settings["checkpoint_freq"]
        zoo_argv = [*settings["argv"], "--seed", str(seed_after(settings["seed"], state["num_timesteps"]))]
    zoo.ExperimentManager = partial(Experiment, settings=settings, folder=args.resume, state=state, begin=begin)
    zoo.argparse = SimpleNamespace(ArgumentParser=Parser)
    sys.argv = ["spikeloop train", *zoo_argv]  # where RL Zoo looks for its options
    zoo.train()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "spikeloop train",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = ", ".join(ALGOS)
    parser.add_argument("--algo", help=f"{names} (default: {next(iter(ALGOS))}), or any of RL Zoo's")
    parser.add_argument("--resume", metavar="RUN", type=Path, help="go on with the run in this folder")
    parser.add_argument(
        "--checkpoint-freq", metavar="N", type=_positive, help="env steps between checkpoints (default: 10000)"
    )
    parser.add_argument(
        "--chip-ready",
        action="store_true",
        help="train a spiking policy with the semantics of the emulated chip: what `spikeloop deploy` runs best",
    )
    parser.add_argument(
        "--quantize",
        metavar="CHIP",
        choices=CHIP_NAMES,
        help=f"train chip-ready, with the weights that the chip can hold: {', '.join(CHIP_NAMES)}",
    )
    parser.add_argument(
        "--core",
        choices=("float", "chip"),
        help="where rstdp learns (default: float); chip: on the emulated chip's learning engine",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
