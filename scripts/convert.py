"""Turn a policy of Stable-Baselines3 into a spiking network, and print how well the two agree."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spikeloop.scripts.cli import TRUST, Parser, UsageError, before_any_work, import_environment, import_modules, run
from spikeloop.scripts.compared import kept, kept_in_words, measure_of_actions
from spikeloop.scripts.players import Act, Recorded, play, random_player
from spikeloop.scripts.run_folder import NETWORK, need_folder
from spikeloop.spiking.conversion import CLOSEST, PERCENTILE, converted, forward, sample
from spikeloop.spiking.limits import MAX_TICKS
from spikeloop.spiking.observation import flatten
from spikeloop.spiking.refit import STATES_PER_NEURON, refitted
from spikeloop.spiking.simulator import Simulator

if TYPE_CHECKING:
    from spikeloop.scripts.ann_policy import AnnPolicy
    from spikeloop.spiking.network import Network
    from spikeloop.spiking.readout import Dense

_MOST_TICKS = MAX_TICKS // 10  # for --ticks; with --chip-ready the network has one tick more for each layer
CALIBRATION_STEPS = COMPARED_STEPS = 2000
DISTILLED_STEPS = 10_000  # states of the policy, and as many states that the first student visits
DISTILLED_WEIGHTS = 2**18  # most weights of one layer: the student of a CNN would have dense layers
OTHER_SEEDS = 1_000_000  # for the states to convert by: other seeds than those of the played episodes
EPILOG = f"""\
MODEL is a zip that PPO, A2C, DQN, SAC or QRDQN saved, or a run folder of `spikeloop train` with one of them. Both are
pickles, which can run code: those that you did not train on this machine with `spikeloop train` are refused without
--trust. ReLU networks convert as they are; Stable-Baselines3's default for PPO and A2C is tanh, which takes --distil.
The policy, the spiking network and random actions play the same episodes. Leaves {NETWORK}, which rollout and deploy
take as any other network.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the script and return its exit status."""
    return run("convert", convert, argv)


def convert(argv: list[str]) -> int:
    """Convert as the arguments say."""
    args = _parser().parse_args(argv)
    _check(args)
    # RL Zoo prints while it loads, and --json must stay alone
    with before_any_work(), contextlib.redirect_stdout(sys.stderr):
        policy = _load(args)
        need_folder(f"--out {args.out}", args.out)
        _check_policy(policy, args)
    try:
        layers, x, distillation = layers_to_convert(policy, args.seed, args.distil)
        # drawn actions need the right probabilities in all states, not only where choices are close
        options = dict(percentile=args.percentile, closest=1.0 if args.stochastic else CLOSEST)
        close = not args.stochastic
        network = network_of(policy, layers, x, args.ticks, args.chip_ready, args.refit, close, **options)
    except ValueError as error:  # found only once states are visited
        raise UsageError(str(error)) from None
    simulator = Simulator(network, np.random.default_rng(args.seed))
    reference = reference_of(policy, args.n_episodes, args.seed, args.stochastic)
    plays = _drawn(simulator, args.seed) if args.stochastic else None
    results = {
        **compare(policy, reference, simulator.predict, args.seed, plays),
        "spikes_per_decision": spikes_per_decision(simulator),
        "policy": f"{args.model}: {policy.algo} on {policy.description.env_id}",
        "seed": args.seed,
        "neurons": [layer.n_neurons for layer in network.layers],
        "n_ticks": network.n_ticks,
        "distilled": distillation,
        "stochastic": args.stochastic,
    }
    policy.env.close()
    network.save(args.out / NETWORK)
    if args.json:
        print(json.dumps(results))
    else:
        _print(results, args.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "spikeloop convert", description=__doc__, epilog=EPILOG, formatter_class=formatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("model", metavar="MODEL", type=Path, help="a model that Stable-Baselines3 saved, or a run folder")
    add("--env", metavar="[MODULE:]ID", help="environment of the model; a run folder knows its own")
    add("--algo", help="whose model it is, where the file does not show it")
    add("--vec-normalize", type=Path, metavar="FILE", help="the model's VecNormalize, if it was trained behind one")
    add("--ticks", default=16, type=int, metavar="K", help="ticks over which the outputs are read (default: 16)")
    add(
        "--chip-ready",
        action="store_true",
        help="for a chip, where a spike takes a tick to the next layer: one tick more for each layer",
    )
    add("--distil", action="store_true", help="first distil a tanh network into a ReLU network, on its own states")
    add(
        "--percentile",
        default=PERCENTILE,
        type=float,
        metavar="P",
        help=f"neurons count between percentiles 100 - P and P of their activations (default: {PERCENTILE:g})",
    )
    add(
        "--refit",
        action=argparse.BooleanOptionalAction,
        help="fit the last map to the network's own spikes (default: unless outputs are logits, as PPO's and A2C's are "
        "where actions are not Box)",
    )
    add("--gym-packages", default=[], nargs="+", metavar="MODULE", help="modules to import, which register tasks")
    add("--load-best", action="store_true", help="the model that did best in evaluation, not the last")
    add("-n", "--n-episodes", default=20, type=int, metavar="N", help="episodes (default: 20)")
    add("--seed", default=0, type=int, help="seed of the first episode, the next have the next (default: 0)")
    add("--stochastic", action="store_true", help="draw discrete actions from the soft-max of the outputs")
    add("--out", type=Path, metavar="FOLDER", help="where the network is left (default: beside the model)")
    add("--trust", action="store_true", help=TRUST)
    add("--json", action="store_true", help="print JSON")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Refuse what contradicts itself before anything is loaded."""
    if not 1 <= args.ticks <= _MOST_TICKS:
        raise UsageError(f"--ticks must be 1 to {_MOST_TICKS}, got {args.ticks}")
    if args.n_episodes < 1:
        raise UsageError(f"--n-episodes must be at least 1, got {args.n_episodes}")
    if args.seed < 0:
        raise UsageError(f"--seed must be at least 0, got {args.seed}")
    if not 50 < args.percentile <= 100:
        raise UsageError(f"--percentile must be above 50 and at most 100, got {args.percentile:g}")
    is_run = args.model.is_dir()
    if not is_run and not args.model.is_file():
        raise UsageError(f"there is no model {args.model}")
    if is_run:
        for option in ("env", "algo", "vec_normalize"):
            if getattr(args, option) is not None:
                name = option.replace("_", "-")
                raise UsageError(f"--{name} goes with a model, the run folder {args.model} has its own")
    elif args.env is None:
        raise UsageError(f"{args.model} does not say what it was trained on, add --env ID")
    elif args.load_best:
        raise UsageError(f"--load-best needs a run folder, {args.model} is none")
    if args.vec_normalize is not None and not args.vec_normalize.is_file():
        raise UsageError(f"there is no file {args.vec_normalize}")
    if args.out is None:
        args.out = args.model if is_run else args.model.parent
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"--out takes a folder, {args.out} is none")
    _keep_other_network(args.out / NETWORK)


def _keep_other_network(path: Path) -> None:
    """Refuse to overwrite a network that is not a conversion: it may be all that is left of a training."""
    from spikeloop.spiking.network import Network

    if path.exists():
        try:
            ours = "converted" in Network.load(path).metadata
        except ValueError:
            ours = False
        if not ours:
            raise UsageError(f"{path} is there already and is no converted network: name another folder with --out")


def _load(args: argparse.Namespace) -> AnnPolicy:
    from stable_baselines3.common.utils import set_random_seed

    from spikeloop.scripts.ann_policy import load
    from spikeloop.scripts.load_policy import Place

    import_modules("--gym-packages", args.gym_packages)
    modules, env_id = ([], None) if args.env is None else import_environment(args.env)
    place = Place(env_id, args.seed, packages=[*args.gym_packages, *modules], trust=args.trust)
    policy = load(args.model, place, args.algo, args.vec_normalize, args.load_best)
    set_random_seed(args.seed)
    return policy


def _check_policy(policy: AnnPolicy, args: argparse.Namespace) -> None:
    if not policy.ann.convertible and not args.distil:
        raise UsageError(
            f"{args.model} has tanh layers, which do not convert: distil them into ReLU layers with --distil, or train "
            "with policy_kwargs=dict(activation_fn=torch.nn.ReLU)"
        )
    if policy.ann.convertible and args.distil:
        raise UsageError(f"{args.model} has ReLU layers, which convert as they are: remove --distil")
    largest = max(layer.w.size for layer in policy.ann.layers)
    if args.distil and largest > DISTILLED_WEIGHTS:
        raise UsageError(f"--distil trains dense layers of at most {DISTILLED_WEIGHTS:,} weights, one has {largest:,}")
    if args.stochastic and not (policy.ann.soft and policy.ann.head.kind == "discrete"):
        raise UsageError(
            f"--stochastic draws Discrete actions of PPO and A2C, {args.model} is a {policy.algo} of others"
        )


def layers_to_convert(
    policy: AnnPolicy, seed: int, distil: bool
) -> tuple[tuple[Dense, ...], np.ndarray, dict[str, Any] | None]:
    """Return ReLU layers, inputs of the first one in visited states, and the agreement of a distillation, if any.

    Raises:
        ValueError: If in a visited state the policy's outputs are not those of its layers.
    """
    ann = policy.ann
    to_fit = STATES_PER_NEURON * ann.layers[-1].w.shape[1]  # the last map of a wide network needs more states
    seen = policy.visited(DISTILLED_STEPS if distil else max(CALIBRATION_STEPS, to_fit), seed + OTHER_SEEDS)
    policy.check(seen)
    x = policy.first_inputs(seen)
    if not distil:
        return ann.layers, x, None
    from spikeloop.agents.distillation import distilled

    widths = [len(layer.b) for layer in ann.layers[:-1]]
    first = distilled(x, forward(ann.layers, x)[-1], widths, ann.head, ann.soft, seed)
    # a student also visits states that the policy does not, and is taught there too (Ross et al. 2011, DAgger)
    strayed = policy.visited(DISTILLED_STEPS, seed + 2 * OTHER_SEEDS, policy.player_of(first))
    met = np.concatenate((x, policy.first_inputs(strayed)))
    layers = distilled(met, forward(ann.layers, met)[-1], widths, ann.head, ann.soft, seed)
    fresh = policy.first_inputs(policy.visited(COMPARED_STEPS, seed + 3 * OTHER_SEEDS, policy.player()))
    mine, theirs = (ann.head(forward(one, fresh)[-1]).reshape(len(fresh), -1) for one in (layers, ann.layers))
    measure, difference = measure_of_actions(ann.head, policy.env.action_space)
    return layers, met, {"measure": measure, "agreement": difference(mine, theirs), "steps": len(fresh)}


def network_of(
    policy: AnnPolicy,
    layers: tuple[Dense, ...],
    x: np.ndarray,
    n_ticks: int,
    chip_ready: bool,
    refit: bool | None = None,
    close: bool = True,
    **options: Any,
) -> Network:
    """Return the spiking network of a policy's layers; the options are those of the conversion.

    If ``refit`` is None, the last map is fitted to the network's own spikes unless the outputs are logits: on the seeds
    with which settings were chosen, it cost these some of the agreement. ``close`` says whether close choices count
    most in the fit.
    """
    network = converted(
        layers,
        x,
        n_ticks,
        latency=int(chip_ready),
        head=policy.ann.head,
        metadata={**policy.description.to_metadata(), "converted": policy.algo},
        preprocessing=policy.steps,
        observation=policy.parts,
        **options,
    )
    wanted = not policy.ann.soft if refit is None else refit
    return refitted(network, layers, x, close=close) if wanted else network


class Reference(NamedTuple):
    """Returns, observations and actions of a policy, with which its networks are compared.

    Args:
        returns: Returns of the policy, ``"ann"``, and of ``"random"`` actions.
        steps: Observations of the policy, and whether an episode began there.
        actions: The policy's deterministic actions for these observations, shape (L, n).
    """

    returns: dict[str, list[float]]
    steps: list[tuple[Any, np.ndarray]]
    actions: np.ndarray


def reference_of(policy: AnnPolicy, n_episodes: int, seed: int, stochastic: bool = False) -> Reference:
    """Play a policy's episodes, and those of random actions."""
    ann = Recorded(policy.player(not stochastic), COMPARED_STEPS)
    players: dict[str, Act] = {"ann": ann, "random": random_player(policy.env, seed)}
    returns = {name: play(policy.env, act, n_episodes, seed) for name, act in players.items()}
    return Reference(returns, ann.steps, chosen(policy.player(), ann.steps))


def compare(
    policy: AnnPolicy, reference: Reference, chooses: Act, seed: int, plays: Act | None = None
) -> dict[str, Any]:
    """Return the returns of a player on the same episodes, what it kept, and how often it agrees with the policy.

    Args:
        policy: The policy.
        reference: Its returns, observations and actions.
        chooses: The player with deterministic actions, for the agreement.
        seed: Seed of the first episode.
        plays: The player that plays the episodes, if they are played with drawn actions.
    """
    ann, random = reference.returns["ann"], reference.returns["random"]
    returns = {"ann": ann, "snn": play(policy.env, plays or chooses, len(ann), seed), "random": random}
    figures = kept({"float": ann, "chip": returns["snn"], "random": random})
    figures["mean_returns"] = {name: float(np.mean(values)) for name, values in returns.items()}
    return {**figures, "returns": returns, "agreement": agreement_with(policy, reference, chooses)}


def agreement_with(policy: AnnPolicy, reference: Reference, chooses: Act) -> dict[str, Any]:
    """Return how often a player takes the policy's actions in the policy's states, or how far apart actions are."""
    measure, difference = measure_of_actions(policy.ann.head, policy.env.action_space)
    agreement = difference(chosen(chooses, reference.steps), reference.actions)
    return {"measure": measure, "snn": agreement, "steps": len(reference.steps)}


def spikes_per_decision(simulator: Simulator) -> float:
    """Return the number of spikes of all neurons per env step so far."""
    n_decisions = simulator.n_counted / simulator.network.n_ticks
    return sum(int(count.sum()) for count in simulator.spike_counts) / n_decisions


def chosen(act: Act, steps: list[tuple[Any, np.ndarray]]) -> np.ndarray:
    """Return a player's actions in the states of a policy, shape (L, n)."""
    actions, state = [], None
    for obs, start in steps:
        action, state = act(obs, None if start[0] else state, start)
        actions.append(np.reshape(action, -1))
    return np.array(actions)


def _drawn(simulator: Simulator, seed: int) -> Act:
    """Return a player that draws the network's actions from the soft-max of its outputs."""
    network, rng = simulator.network, np.random.default_rng(seed)

    def act(obs: Any, state: Any, starts: np.ndarray) -> tuple[np.ndarray, Any]:
        outputs, state = simulator.run(flatten(network.parts, obs)[0][None], state, starts[None])
        return sample(outputs[0], rng), state

    return act


def _print(results: dict[str, Any], folder: Path) -> None:
    neurons = ", ".join(map(str, results["neurons"]))
    print(f"{results['policy']}: layers of {neurons} neurons, {results['n_ticks']} ticks")
    if results["distilled"] is not None:
        print(f"{'distilled':<9} {_in_words(results['distilled'], 'agreement')} of the policy, tanh beside ReLU")
    for name, values in results["returns"].items():
        print(f"{name:<9} return {np.mean(values):9.2f} +/- {np.std(values):.2f} over {len(values)} episodes")
    print(f"kept      {kept_in_words(results)}")
    print(f"actions   {_in_words(results['agreement'], 'snn')} of the policy")
    print(f"spikes    {results['spikes_per_decision']:.1f} per decision")
    print(f"left in {folder}: {NETWORK}")


def _in_words(agreement: dict[str, Any], name: str) -> str:
    return f"{agreement['measure']}: {agreement[name]:.2%}, over {agreement['steps']} steps"


if __name__ == "__main__":
    sys.exit(main())
