"""`spikeloop benchmark NAME`: measures the library beside what else one could use, in one run.

Every contender runs in the same process, in alternating blocks, and the figures are medians over blocks: a ratio then
holds on a busy machine too, a time alone does not. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from spikeloop.scripts.cli import Parser
from spikeloop.scripts.cli import run as run_script

BENCHMARKS = {
    "sequence": "a sequence forward and backward through one recurrent layer",
    "step": "one policy step for one environment",
    "train": "env steps per second of whole trainings",
    "returns": "returns after training, against other algorithms",
    "methods": "every way to train a spiking policy beside the others, on CartPole",
    "learning": "learning epochs of the emulated chip per second",
    "chip": "the emulated chip beside other emulators of it, and its cost as a network grows",
    "convert": "returns and actions that policies of Stable-Baselines3 keep as spiking networks",
    "deploy": "returns that trained policies keep on the emulated chips",
    "local": "R-STDP that solves tasks: returns, env steps until solved, speed",
    "local-peers": "our local learners beside others on the same tasks, in one table",
    "spaces": "R-STDP in continuous and in tabular tasks, in float and on the chip, with its controls",
    "plasticity": "R-STDP on spike trains, ticks per second beside BindsNET and Brian2",
    "chip-learning": "R-STDP on the emulated chip's learning engine: returns, what breaks, adaptation",
    "chip-populations": "R-STDP of spiking populations on the chip's learning engines: returns, and its controls",
    "chip-lsnn": "an LSNN whose synapses all learn on the emulated chip: returns, with its controls",
    "chip-glm": "probabilistic neurons that draw and learn on the emulated chip: returns, with their controls",
    "body": "deployed policies whose bodies change: frozen, learning on the chip, from scratch",
    "auto": "R-STDP without hand-made tiles: one setting of encoder 'auto' on several tasks, and its controls",
    "tmaze": "e-prop on the noisy-cue T-maze, with its controls",
    "memory": "SpikingPPO where only a memory helps, beside LSTMs, and what its memory lies in",
    "local-lsnn": "e-prop in control tasks: a hidden LSNN layer that learns by local rules alone, with its controls",
    "glm": "probabilistic spiking networks that are the policy: returns, with their controls",
    "evolution": "evolution of spiking networks: returns, and fine-tuning through the chip, with their controls",
    "readouts": "the largest membrane, the first spike and other readouts, trained by PPO: returns, patterns, controls",
    "constraints": "sparse recurrent weights that rewire, and binary weights: returns, memory on the chip, controls",
    "guard": "every table of speed for seconds, beside an earlier commit",
    "spike-time": "policies of exact spike times trained by PPO: returns, spikes, decision times, and controls",
    "equilibrium": "policies trained by equilibrium propagation, actor and critic: returns, spikes, and controls",
    "spike-order": "R-STDP of spiking populations where only the order of spikes tells, with its controls",
}


def _run(argv: list[str]) -> int:
    parser = Parser(prog="spikeloop benchmark", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, text in BENCHMARKS.items():
        command = commands.add_parser(name, help=text)
        if argv[:1] == [name]:  # the others would load torch and the algorithms for nothing
            module = importlib.import_module(f"spikeloop.scripts.bench.{name.replace('-', '_')}")
            command.description = module.__doc__
            module.add_arguments(command)
            if hasattr(module, "cases"):
                text = "another source tree of spikeloop: compare the speed of this one with it, of our rows alone"
                command.add_argument("--against", type=Path, metavar="TREE", help=text)
            command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    if getattr(args, "against", None) is None:
        args.run(args)
    else:
        from spikeloop.scripts.bench.against import compare

        compare(args.name, argv[1:], args.against, args.blocks)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark that the first argument names and return the exit status."""
    return run_script("benchmark", _run, argv)


if __name__ == "__main__":
    sys.exit(main())
