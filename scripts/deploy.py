"""Compile a trained policy for an emulated chip, run it there, and print what it kept and what it would cost."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloop.agents.registry import ALGOS
from spikeloop.hardware.target import TARGETS
from spikeloop.scripts.bodies import add_body_option, bodies_of, change_bodies
from spikeloop.scripts.cli import TRUST, Parser, UsageError, before_any_work, import_environment, import_modules, run
from spikeloop.scripts.compared import action_agreement, kept, kept_in_words
from spikeloop.scripts.players import Act, Recorded, observations, play, random_player
from spikeloop.scripts.run_folder import NETWORK, cores_picture, deployed_file, need_folder, open_run, report_file
from spikeloop.spiking.extras import install_hint
from spikeloop.spiking.storage import write_atomically

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from spikeloop.hardware.deployed import DeployedPolicy
    from spikeloop.hardware.deployment import Deployment
    from spikeloop.hardware.report import Report
    from spikeloop.spiking.network import Network

CHIP_OPTIONS = ("profile", "neurons")  # of the compilers of some chips
NAMED_RULES = ("rstdp", "perturbation")
CALIBRATION_STEPS = 2000
COMPARED_STEPS = 2000
_NO_SPIKES = "whose policy does not spike: deploy compiles spiking ones, those of spikeloop's own algorithms"
OTHER_SEEDS = 1_000_000  # of calibration, apart from those of the episodes
EPILOG = f"""\
RUN is a run folder of `spikeloop train`, or the file of a network, such as the {NETWORK} in it. Loading a network runs
no code from its file. The model in a run folder is a pickle, which can: a folder that you did not train on this machine
is refused without --trust.
The float network, the chip and random actions play the same episodes; kept is (chip - random) / (float - random).
Leaves {deployed_file("CHIP")}, {report_file("CHIP")} and {cores_picture("CHIP")}.
Energies and times are modelled from published constants, not measured.
"""


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
        network, env, new_body = _load(args)
        from spikeloop.hardware.deployed import DeployedPolicy
        from spikeloop.hardware.report import report
        from spikeloop.spiking.simulator import Simulator

        floating = Simulator(network, np.random.default_rng(args.seed))
        need_folder(f"--out {args.out}", args.out)
        seen = observations(network, env, CALIBRATION_STEPS, args.seed + OTHER_SEEDS)
        deployment = _compile(network, seen, args)
        if args.learn:
            deployment = _taught(deployment, env, args)
        chip = DeployedPolicy(deployment, np.random.default_rng(args.seed))
        new_body()  # what it refuses, it refuses here
    results = _play(network, floating.predict, chip, new_body, args)
    if args.learn:
        learner = DeployedPolicy(deployment, np.random.default_rng(args.seed), learning=True)
        results["returns"]["learning"] = play(
            new_body(), learner.predict, args.n_episodes, args.seed, learner.reinforce
        )
        results["learned"] = learner.changes()
        deployment, chip = learner.learned(), learner
    figures = report(chip, args.control_period or control_period(env))
    results["checked_steps"] = _compare_actions(deployment, seen, args) if args.check_actions else None
    results |= {"seed": args.seed, "report": figures.to_dict()}
    env.close()
    drawn = _save(deployment, results, figures, args.out)
    if args.json:
        print(json.dumps(results))
    else:
        _print(args, results, figures, drawn)
    return 0


def _play(
    network: Network,
    floating: Act,
    chip: DeployedPolicy,
    new_body: Callable[[], VecEnv],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Return the returns of all players on the same episodes, what the chip kept, and how often actions agree."""
    env = new_body()
    recorded = Recorded(floating, COMPARED_STEPS)
    players: dict[str, Act] = {"float": recorded, "chip": chip.predict, "random": random_player(env, args.seed)}
    returns = {name: play(new_body(), act, args.n_episodes, args.seed) for name, act in players.items()}
    agreement = action_agreement(network, chip.deployment, recorded.steps, env.action_space, args.seed)
    return {**kept(returns), "returns": returns, "agreement": agreement}


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "spikeloop deploy", description=__doc__, epilog=EPILOG, formatter_class=formatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="run folder, or file of a network")
    first = next(iter(TARGETS))
    add("--chip", default=first, choices=list(TARGETS), help=f"the chip (default: {first})")
    add("--bits", default=8, type=int, metavar="N", help="bits of a weight, sign included: 2 to 6, or 8 (default: 8)")
    add("--profile", choices=_choices("profile"), help="arithmetic (default: that of the chip)")
    add("--strict", action="store_true", help="refuse what the chip can only approximate")
    add("--neurons", choices=_choices("neurons"), help="program of the neurons, where the chip has several")
    add(
        "--approximate",
        action="store_true",
        help="also compile what is known to cost most of a return: membranes that integrate while refractory",
    )
    add("--ticks-per-tau", default=16, type=int, metavar="T", help="ticks per tau of exact spike times (default: 16)")
    add(
        "--control-period",
        type=float,
        metavar="SECONDS",
        help="time between env steps, for the energy of waiting (default: what the environment says, if it does)",
    )
    add(
        "--learn",
        metavar="RULE",
        help="let the chip go on learning, and play the episodes frozen and learning: 'perturbation', which tries "
        "other sensors and weights once returns fall below those of 20 episodes before, 'rstdp', or a rule such as "
        "'2^-7*u0*r1*t', what is added to each weight at the end of each learning epoch",
    )
    add("--learn-tag", metavar="RULE", default="", help="the same for each synapse's tag, t")
    add(
        "--learn-trace",
        metavar="NAME=IMPULSE,TAU",
        default=[],
        nargs="+",
        help="traces x1, x2, y1, y2, y3 and r1: what a spike, or a reward of 1, adds, and the time constant in ticks",
    )
    add("--learn-projection", metavar="NAME", help="whose synapses learn (default: the readout's)")
    add("--env", metavar="[MODULE:]ID", help="environment id (default: what the network was trained on)")
    add("--gym-packages", default=[], nargs="+", metavar="MODULE", help="modules to import, which register tasks")
    add("--load-best", action="store_true", help="the model that did best in evaluation, not the last")
    add("-n", "--n-episodes", default=20, type=int, metavar="N", help="episodes (default: 20)")
    add_body_option(parser)
    add("--seed", default=0, type=int, help="seed of the first episode, the next have the next (default: 0)")
    add(
        "--check-actions",
        default=0,
        type=int,
        metavar="N",
        help="compare the chip's actions over N steps with those of an interpreter in plain Python, which is slow",
    )
    add("--out", type=Path, metavar="FOLDER", help="where files are left (default: beside the policy)")
    add("--trust", action="store_true", help=TRUST)
    add("--json", action="store_true", help="print JSON")
    return parser


def _choices(option: str) -> list[str]:
    """Return the choices that targets have for an option of their own."""
    return list(dict.fromkeys(choice for target in TARGETS.values() for choice in target.options.get(option, ())))


def _options(args: argparse.Namespace) -> dict[str, str]:
    """Return the options that are the chip's own.

    Raises:
        UsageError: If the chip does not have one of them.
    """
    given = {name: value for name in CHIP_OPTIONS if (value := getattr(args, name)) is not None}
    for name, value in given.items():
        if value not in TARGETS[args.chip].options.get(name, ()):
            raise UsageError(f"--{name} {value} is nothing that {args.chip} has")
    return given


def _check(args: argparse.Namespace) -> None:
    """Refuse what would otherwise fail only after the episodes have run."""
    if args.n_episodes < 1:
        raise UsageError(f"--n-episodes must be at least 1, got {args.n_episodes}")
    if args.check_actions < 0:
        raise UsageError(f"--check-actions must be at least 0, got {args.check_actions}")
    _options(args)
    bodies_of(args.body)
    try:
        TARGETS[args.chip].quantizer(args.bits)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    if args.control_period is not None and not 0 < args.control_period < math.inf:
        raise UsageError(f"--control-period must be a number > 0 in seconds, got {args.control_period:g}")
    if not args.learn and (args.learn_tag or args.learn_trace or args.learn_projection):
        raise UsageError("--learn-tag, --learn-trace and --learn-projection go with --learn")
    if args.learn in NAMED_RULES and (args.learn_tag or args.learn_trace):
        raise UsageError(f"--learn {args.learn} has tags and traces of its own, remove --learn-tag and --learn-trace")
    _check_rule(args)
    if args.strict and args.approximate:
        raise UsageError("--strict refuses what --approximate asks for, remove one")
    if args.seed < 0:
        raise UsageError(f"--seed must be at least 0, got {args.seed}")
    if args.run.suffix == ".zip":
        raise UsageError(f"{args.run} is a model without its settings, name its run folder instead")
    if not args.run.is_dir() and args.load_best:
        raise UsageError(f"--load-best needs a run folder, {args.run} is none")
    if args.run.is_dir() and args.env:
        raise UsageError(f"--env goes with the file of a network, {args.run} is a run folder and knows its own")
    if args.out is None:
        args.out = args.run if args.run.is_dir() else args.run.parent
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"--out takes a folder, {args.out} is none")


def _load(args: argparse.Namespace) -> tuple[Network, VecEnv, Callable[[], VecEnv]]:
    """Return the network, an environment that shows it raw observations, and what makes one with a body to be changed.

    Every player gets a body of its own: a change stays.
    """
    from spikeloop.scripts.load_policy import Place, environment_of, load_network, network_of_run

    import_modules("--gym-packages", args.gym_packages)
    modules, args.env = ([], None) if args.env is None else import_environment(args.env)
    place = Place(args.env, args.seed, packages=[*args.gym_packages, *modules], trust=args.trust)
    if args.run.is_dir():
        run_folder = open_run(args.run, args.load_best, args.trust)
        if run_folder.algo not in ALGOS:
            raise UsageError(f"{args.run} is a run of {run_folder.algo}, {_NO_SPIKES}")
        policy = network_of_run(args.run, args.load_best, place)
        place = place._replace(packages=[*run_folder.gym_packages, *place.packages], trust=True)
    else:
        policy = load_network(args.run, place)
    network = policy.network()

    def new_body() -> VecEnv:
        if not args.body:
            return policy.env
        env, _ = environment_of(f"{args.run}", network, place)
        change_bodies(env, args.body)
        return env

    return network, policy.env, new_body


def _compile(network: Network, seen: np.ndarray, args: argparse.Namespace) -> Deployment:
    from spikeloop.hardware.compile import compile_network

    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        deployment = compile_network(
            network,
            args.chip,
            bits=args.bits,
            calibration=seen,
            strict=args.strict,
            approximate=args.approximate,
            ticks_per_tau=args.ticks_per_tau,
            **_options(args),
        )
    for warning in noted:
        print(f"spikeloop deploy: {warning.message}", file=sys.stderr)
    return deployment


def _taught(deployment: Deployment, env: VecEnv, args: argparse.Namespace) -> Deployment:
    """Return the deployment with a learning rule, and a record of its returns where the rule goes by that."""
    options: dict[str, Any] = _traces(args) | ({"dt": args.learn_tag} if args.learn_tag else {})
    try:
        taught = deployment.taught(args.learn, args.learn_projection, seed=args.seed, **options)
    except ValueError as error:
        raise UsageError(f"--learn {args.learn}: {error}") from None
    return _recorded(taught, env, args.seed) if args.learn == "perturbation" else taught


def _recorded(deployment: Deployment, env: VecEnv, seed: int) -> Deployment:
    """Return a deployment whose search has on record what the policy returns as it is, on the body it was made for."""
    from spikeloop.hardware.deployed import DeployedPolicy

    search: Any = replace(deployment.reinforcement, seed=seed)  # type: ignore[type-var]
    frozen = DeployedPolicy(deployment, np.random.default_rng(seed))
    for episode_return in play(env, frozen.predict, search.n_record, seed + OTHER_SEEDS):
        search, _ = search.after(episode_return)
    return replace(deployment, reinforcement=search)


def _check_rule(args: argparse.Namespace) -> None:
    """Refuse texts that are no learning rule of any chip."""
    from spikeloop.hardware.learning.rule_text import parse

    _traces(args)
    try:
        if args.learn not in (None, *NAMED_RULES):
            parse(args.learn, "w")
            parse(args.learn_tag, "t")
    except ValueError as error:
        raise UsageError(f"--learn {args.learn}: {error}") from None


def _traces(args: argparse.Namespace) -> dict[str, Any]:
    from spikeloop.hardware.learning.rule import TRACES, Trace

    traces = {}
    for text in args.learn_trace:
        name, _, numbers = text.partition("=")
        try:
            impulse, tau = map(float, numbers.split(","))
            if name not in (*TRACES, "r1"):
                raise ValueError
        except ValueError:
            raise UsageError(f"--learn-trace takes NAME=IMPULSE,TAU, such as x1=32,4, got {text}") from None
        traces[name] = Trace(impulse, tau)
    return traces


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


def control_period(env: VecEnv) -> float | None:
    """Return an environment's time between steps in s: its ``dt``, its ``tau``, or from its frames per second."""
    task = env.get_attr("unwrapped")[0]
    fps = (getattr(task, "metadata", None) or {}).get("render_fps")
    for seconds in (getattr(task, "dt", None), getattr(task, "tau", None), 1 / fps if fps else None):
        if isinstance(seconds, (int, float, np.number)) and 0 < seconds < math.inf:
            return float(seconds)
    return None


def _save(deployment: Deployment, results: dict[str, Any], figures: Report, folder: Path) -> bool:
    """Write the files of a chip; return whether a picture of the cores is among them, which needs matplotlib."""
    chip = figures.chip
    deployment.save(folder / deployed_file(chip))
    write_atomically(folder / report_file(chip), (json.dumps(results, indent=1) + "\n").encode())
    if not importlib.util.find_spec("matplotlib"):
        return False
    from spikeloop.hardware.draw import draw_cores
    from spikeloop.scripts.pictures import save
    from spikeloop.spiking.plotting import new_axes

    save(draw_cores(new_axes(height=3.4)[0], figures), folder / cores_picture(chip))
    return True


def _print(args: argparse.Namespace, results: dict[str, Any], figures: Report, drawn: bool) -> None:
    figures.print()
    print()
    for name, values in results["returns"].items():
        print(f"{name:<8} return {np.mean(values):9.2f} +/- {np.std(values):.2f} over {len(values)} episodes")
    for name, change in results.get("learned", {}).items():
        what = "offsets and gains of sensors" if name == "sensors" else f"weights of {name}"
        changed = f"{change['changed']} of {change['weights']} {what}"
        print(f"learned  {changed}, by {change['mean']:.{2 if name == 'sensors' else 1}f} on average")
    print(f"kept     {kept_in_words(results)}")
    agreement = results["agreement"]
    baseline = agreement["baseline"]
    disturbed = "" if baseline is None else f", the float network slightly disturbed {baseline:.2%}"
    print(
        f"actions  {agreement['measure']}, over {agreement['steps']} steps of the float network: chip "
        f"{agreement['chip']:.2%}{disturbed}"
    )
    print(f"modelled {figures.energy()}")
    if results["checked_steps"]:
        print(f"actions of the emulator and the plain-Python interpreter: the same on {results['checked_steps']} steps")
    chip = figures.chip
    left = [deployed_file(chip), report_file(chip), *([cores_picture(chip)] if drawn else [])]
    print(f"left in {args.out}: {', '.join(left)}")
    if not drawn:
        print(f"for a picture: {install_hint('plot')}")


if __name__ == "__main__":
    sys.exit(main())
