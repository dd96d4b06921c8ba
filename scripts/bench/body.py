"""A deployed PPO policy whose body changes: frozen, learning on, and learning from scratch, all on the emulated chip.

Policies are trained by their presets with --chip-ready, one for each seed, and compiled. Each lives through the
episodes of its record on the old body; then the body changes. Recovered is who has 90 % of the old return less that of
random actions, and keeps it: what counts is what is kept, weights and sensors, frozen, over 20 deterministic episodes
from seeds of their own, whenever it changes. From scratch: the same search and record, from a random readout on a
layer whose weights are shuffled, for three times as many episodes as the policy took to recover; there the first time
counts. A second control has a random readout on the layer as trained. On the old body, the returns of a life of 100
episodes, its trials included, are compared with frozen ones from the same starts. With --weights-alone, sensors are
left as they are; with --without-model, their corrections are drawn. Finished runs are kept in the output folder and
not repeated; no seed is left out.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

from spikeloop.envs import ChangeBody
from spikeloop.hardware import DeployedPolicy, Deployment, compile_network
from spikeloop.hardware.weight_search import WeightSearch
from spikeloop.scripts.bench.tables import each, print_head, print_row
from spikeloop.scripts.bodies import bodies_of
from spikeloop.scripts.kept_results import digest
from spikeloop.scripts.players import observations
from spikeloop.spiking import Network, Normalizer

SEEDS = tuple(range(100, 110))  # never used to choose a setting
EPISODES, LONG_EPISODES, OLD_EPISODES, JUDGED = 50, 100, 100, 20
CODE = ("agents", "envs", "hardware", "spiking", "scripts/bench/body.py")  # that a kept result depends on
SCRATCH = 3  # times the episodes that a learning policy took
RECOVERED, COSTS = 0.9, 0.8  # shares of the old return, less that of random actions
BODIES = {
    "CartPole-v1": (
        "action_sign",
        "sensor_offset=0,0,0.06,0",
        "sensor_offset=0,0,0.1,0",
        "sensor_offset=2,0,0,0",
        "length=0.1",
        "length=10",
        "length=20",
        "mass=30",
        "cart=10",
        "gravity=4",
        "force=0.2",
        "force=5",
        "sensor_noise=0.1",
    ),
    "Acrobot-v1": (
        "action_sign",
        "sensor_offset=0,1,1,0,0,0",
        "force=0.5",
        "length=1.5",
        "mass=3",
        "sensor_noise=0.3",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``spikeloop benchmark body``."""
    add = parser.add_argument
    add("--envs", nargs="+", choices=list(BODIES), default=list(BODIES), metavar="ID", help=f"{list(BODIES)}")
    add("--bodies", nargs="+", default=[], metavar="PART=VALUE", help="only these, as in `spikeloop deploy --body`")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="default 100 ... 109")
    add("--weights-alone", action="store_true", help="the control in which no sensor is corrected")
    add("--without-model", action="store_true", help="the control in which corrections of sensors are drawn")
    add("-o", "--output", type=Path, default=Path("logs/body"), help="default logs/body")


@dataclass(frozen=True)
class Subject:
    """A deployed policy, and where what becomes of it is kept.

    Args:
        env_id: Its task.
        seed: That of its training, its life and what it is judged on.
        output: Folder of finished runs and trained policies.
        weights_alone: Whether no sensor is corrected.
        without_model: Whether corrections of sensors are drawn.
    """

    env_id: str
    seed: int
    output: Path
    weights_alone: bool = False
    without_model: bool = False

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what ``make()`` returned with this code, now or in an earlier run."""
        budgets = [EPISODES, LONG_EPISODES, OLD_EPISODES, JUDGED]
        made_by = digest([self.env_id, self.seed, name, budgets], CODE)
        path = self.output / f"{self.env_id}-{name}-seed{self.seed}-{made_by}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(make()), "utf-8")
        return json.loads(path.read_text("utf-8"))

    @property
    def control(self) -> str:
        """What is left out, as the names of its files say."""
        return "-weights" * self.weights_alone + "-drawn" * self.without_model

    def deployment(self) -> Deployment:
        """Return the trained policy on the chip."""
        from spikeloop.scripts.train import main as train

        folder = self.output / f"s{self.seed}"
        file = folder / "spiking_ppo" / f"{self.env_id}_1" / "policy.safetensors"
        if not file.is_file():
            run = ["--algo", "spiking_ppo", "--env", self.env_id, "--chip-ready", "--seed", str(self.seed)]
            if train([*run, "-f", str(folder), "--eval-freq", "-1", "--verbose", "0"]):
                raise RuntimeError(f"training of {self.env_id} with seed {self.seed} failed")
        network = Network.load(file)
        seen = observations(network, DummyVecEnv([lambda: gym.make(self.env_id)]), 1000, 1_000_000 + self.seed)
        return compile_network(network, "loihi1", calibration=seen)

    def body(self, text: str = "") -> gym.Env:
        """Return the task, on another body from the start if a text says so."""
        env = gym.make(self.env_id)
        for arguments in bodies_of([text] if text else []):
            env = ChangeBody(env, **arguments)
        return env

    def search(self) -> WeightSearch:
        """Return a search before its first episode."""
        return WeightSearch(seed=self.seed, n_sensors=0 if self.weights_alone else None, model=not self.without_model)

    def old(self) -> dict[str, Any]:
        """Return what is known on the old body: old and random return, the record, and a life without a change."""

        def live() -> dict[str, Any]:
            plain = self.deployment()
            search, env = self.search(), self.body()
            policy = DeployedPolicy(plain.taught("perturbation", reinforcement=search, seed=self.seed), learning=True)
            life = [episode(policy, env, self.seed, i) for i in range(search.n_record + OLD_EPISODES)]
            frozen = DeployedPolicy(plain)
            same = [episode(frozen, self.body(), self.seed, i) for i in range(search.n_record, len(life))]
            chance = [random_episode(self.body(), self.seed, i) for i in range(JUDGED)]
            return {
                "record": life[: search.n_record],
                "life": life[search.n_record :],
                "frozen": same,
                "chance": chance,
            }

        return self.kept(f"old{self.control}", live)

    def share(self, mean: float) -> float:
        """Return a mean return as a share of the old one, both less that of random actions."""
        old, chance = (float(np.mean(self.old()[name])) for name in ("frozen", "chance"))
        return (mean - chance) / (old - chance)

    def frozen(self, text: str) -> float:
        """Return the return of the frozen policy on another body."""
        return self.kept(f"frozen-{text}", lambda: judged(self.deployment(), self, text))

    def life(self, text: str, scratch: int = 0, hidden: bool = False) -> list[tuple[int, float]]:
        """Return after which episodes on another body what is kept changed, and its return; first the frozen one's.

        Who learns on and has not recovered in time goes on, to show who would in a longer life.

        Args:
            text: The body.
            scratch: Episodes of learning from scratch; 0: the policy learns on.
            hidden: Whether the hidden layer of who learns from scratch is random, too.
        """

        def live() -> list[tuple[int, float]]:
            deployment = self.deployment()
            search = self.search()
            for episode_return in self.old()["record"]:
                search, _ = search.after(episode_return)
            if scratch:
                search = replace(search, surprise=100.0)  # there is nothing to be surprised at
            taught = deployment.taught("perturbation", reinforcement=search, seed=self.seed)
            if scratch:
                taught = from_scratch(taught, self.seed, hidden)
            policy, env = DeployedPolicy(taught, learning=True), self.body(text)
            changes, before = [(0, judged(taught, self, text))], kept(taught)
            for i in range(scratch or LONG_EPISODES):
                if (scratch or i >= EPISODES) and self.share(changes[-1][1]) >= RECOVERED:
                    break
                episode(policy, env, self.seed + 500, i)
                now = policy.learned()
                if not np.array_equal(kept(now), before):
                    before = kept(now)
                    changes.append((i + 1, judged(now, self, text)))
            return changes

        how = f"{'shuffled' if hidden else 'scratch'}{scratch}" if scratch else "learning"
        return self.kept(f"{how}{self.control}-{text}", live)


def kept(deployment: Deployment) -> np.ndarray:
    """Return what a search keeps, weights and the correction of sensors, flat."""
    steps = [step for step in deployment.host.preprocessing if isinstance(step, Normalizer)]
    return np.concatenate([weights(deployment), *(values for step in steps for values in (step.mean, step.std))])


def weights(deployment: Deployment) -> np.ndarray:
    """Return the weights that learn, flat."""
    return np.concatenate([p.weights.ravel() for p in deployment.program.projections if p.learning is not None])


def from_scratch(deployment: Deployment, seed: int, hidden: bool = False) -> Deployment:
    """Return a deployment whose plastic weights are uniform within a quarter of their range.

    Args:
        deployment: With a rule.
        seed: Of the random weights.
        hidden: Whether input and recurrent weights are shuffled, too: the same numbers in random places, none of which
            is a synapse of a neuron onto itself.

    Raises:
        ValueError: If ``hidden`` would leave some weights as trained.
    """
    rng = np.random.default_rng(seed)
    projections = []
    for p in deployment.program.projections:
        weights = p.weights.copy()
        if p.learning is not None:
            weights[:] = 2 * rng.integers(-32, 33, weights.shape)
        elif hidden and p.name.endswith(" recurrent"):
            others = ~np.eye(len(weights), dtype=bool)
            weights[others] = rng.permuted(weights[others])
        elif hidden and not p.name.endswith((" adaptation", " reset")):  # which are parts of neurons
            raise ValueError(f"weights can be shuffled in one recurrent layer, got a projection {p.name!r}")
        projections.append(replace(p, weights=weights))
    host = deployment.host
    if hidden:
        if host.w_in is None:
            raise ValueError("weights can be shuffled where the host writes inputs as currents, got spikes")
        host = replace(host, w_in=rng.permuted(host.w_in.ravel()).reshape(host.w_in.shape))
    return replace(deployment, host=host, program=replace(deployment.program, projections=tuple(projections)))


def episode(policy: DeployedPolicy, env: gym.Env, seed: int, number: int) -> float:
    """Play an episode, learning if the policy learns, and return its return."""
    obs, _ = env.reset(seed=1000 * seed + number)
    state, start, total, ended = None, np.ones(1, bool), 0.0, False
    while not ended:
        action, state = policy.predict(obs, state, start)
        obs, reward, terminated, truncated, _ = env.step(int(action))
        if policy.learning:
            policy.reinforce(float(reward), terminated, truncated)
        start, total, ended = np.zeros(1, bool), total + float(reward), terminated or truncated
    return total


def random_episode(env: gym.Env, seed: int, number: int) -> float:
    """Return the return of an episode of random actions."""
    env.reset(seed=1000 * seed + number)
    env.action_space.seed(1000 * seed + number)
    total, ended = 0.0, False
    while not ended:
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        total, ended = total + float(reward), terminated or truncated
    return total


def judged(deployment: Deployment, subject: Subject, text: str) -> float:
    """Return the mean return of a frozen deployment over episodes that are played side by side."""
    policy, envs = DeployedPolicy(deployment), [subject.body(text) for _ in range(JUDGED)]
    obs = np.stack([env.reset(seed=10_000_000 + 1000 * subject.seed + i)[0] for i, env in enumerate(envs)])
    state, start, going, total = None, np.ones(JUDGED, bool), np.ones(JUDGED, bool), 0.0
    while going.any():
        actions, state = policy.predict(obs, state, start)
        start = np.zeros(JUDGED, bool)
        for i in np.flatnonzero(going):
            obs[i], reward, terminated, truncated, _ = envs[i].step(int(actions[i]))
            total, going[i] = total + float(reward), not (terminated or truncated)
    return total / JUDGED


def run(args: argparse.Namespace) -> None:
    """Run what is missing, and print the table of each task."""
    for env_id in args.envs:
        subjects = [Subject(env_id, seed, args.output, args.weights_alone, args.without_model) for seed in args.seeds]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values leave their range where bodies do what no calibration has seen
            _unchanged(env_id, subjects)
            _changed(env_id, subjects, [text for text in BODIES[env_id] if text in (args.bodies or BODIES[env_id])])


def _unchanged(env_id: str, subjects: Sequence[Subject]) -> None:
    """Print what it costs to be able to learn where nothing changes."""
    old = [subject.old() for subject in subjects]
    lost = [1 - subject.share(float(np.mean(known["life"]))) for subject, known in zip(subjects, old, strict=True)]
    print(f"\n{env_id}, seeds {[subject.seed for subject in subjects]}; the old body, {OLD_EPISODES} episodes")
    print_head(["frozen", "learning", "random", "lost, mean", "lost, each seed"])
    means = [f"{np.mean([np.mean(known[name]) for known in old]):.1f}" for name in ("frozen", "life", "chance")]
    print_row([*means, f"{np.mean(lost):.1%}", each([100 * x for x in lost]) + " %"])


def _changed(env_id: str, subjects: Sequence[Subject], texts: Sequence[str]) -> None:
    """Print what frozen policies are worth on other bodies, and how those learn that lose by it."""
    print(
        f"\n{env_id}, other bodies; episodes until recovered: of learning within {EPISODES}, of scratch within "
        f"{SCRATCH} times as many"
    )
    titles = [
        "body",
        "frozen, each seed",
        f"keep less than {COSTS:.0%}: these learn",
        f"learning, {EPISODES} episodes",
        "recovered",
        "in a third of scratch's",
        "worse than frozen",
        f"recovered in {LONG_EPISODES}",
        "learning: episodes, return of each seed",
        "scratch: recovered, episodes of each seed",
        "random readout: recovered, episodes of each seed",
    ]
    print_head(titles)
    for text in texts:
        frozen = [subject.frozen(text) for subject in subjects]
        hurt = [subject for subject, mean in zip(subjects, frozen, strict=True) if subject.share(mean) < COSTS]
        cells = [text, each(frozen), f"{len(hurt)}/{len(subjects)}"]
        print_row(cells + (_learned(hurt, text) if hurt else ["" for _ in titles[3:]]))


def _learned(subjects: Sequence[Subject], text: str) -> list[str]:
    lives = [subject.life(text) for subject in subjects]
    until = np.array([_recovered(s, life, EPISODES) for s, life in zip(subjects, lives, strict=True)])
    long = np.array([_recovered(s, life, LONG_EPISODES) for s, life in zip(subjects, lives, strict=True)])
    budgets = [SCRATCH * int(n) if np.isfinite(n) else 0 for n in until]
    scratch, readout = (
        np.array([_first(s, s.life(text, n, hidden)) if n else np.inf for s, n in zip(subjects, budgets, strict=True)])
        for hidden in (True, False)
    )
    ends = [_end(life, EPISODES) for life in lives]
    seeds = ", ".join(f"{_episodes(n)}: {end:.0f}" for n, end in zip(until, ends, strict=True))
    worse = sum(end < life[0][1] for end, life in zip(ends, lives, strict=True))
    counts = [
        np.isfinite(until).sum(),
        (np.isfinite(until) & ~(scratch < SCRATCH * until)).sum(),
        worse,
        np.isfinite(long).sum(),
    ]
    cells = [f"{count}/{len(subjects)}" for count in counts]
    of_scratch = [  # who has not recovered has no scratch
        f"{np.isfinite(found).sum()}/{np.isfinite(until).sum()}: "
        + ", ".join(_episodes(n) if budget else "not run" for n, budget in zip(found, budgets, strict=True))
        for found in (scratch, readout)
    ]
    return [f"{np.mean(ends):.1f}", *cells, seeds, *of_scratch]


def _end(life: Sequence[Sequence[float]], within: int) -> float:
    """Return the return of what is kept after some episodes."""
    return [mean for n, mean in life if n <= within][-1]


def _first(subject: Subject, life: Sequence[Sequence[float]]) -> float:
    """Return after how many episodes what is kept first was as good as on the old body, infinite if never."""
    return next((n for n, mean in life if subject.share(mean) >= RECOVERED), np.inf)


def _recovered(subject: Subject, life: Sequence[Sequence[float]], within: int) -> float:
    """Return after how many episodes what is kept was as good as on the old body and stayed so, infinite if never."""
    lived = [change for change in life if change[0] <= within]
    bad = [i for i, (_, mean) in enumerate(lived) if subject.share(mean) < RECOVERED]
    back = bad[-1] + 1 if bad else 0
    return lived[back][0] if back < len(lived) else np.inf


def _episodes(n: float) -> str:
    return f"{n:.0f}" if np.isfinite(n) else "-"
