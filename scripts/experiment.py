"""RL Zoo's experiment, and what it lacks: runs that resume exactly, checks before and during training, our files."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from rl_zoo3 import ALGOS as ZOO_ALGOS
from rl_zoo3 import exp_manager
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import get_wrapper_class
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import HumanOutputFormat, Logger, TensorBoardOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from spikeloop.agents.check_finite import CheckFinite
from spikeloop.agents.checkpoints import Checkpoints, clean_up
from spikeloop.agents.environment import EnvDescription, check_statistics
from spikeloop.agents.episodes import EpisodeLog
from spikeloop.agents.guarded_env import guarded
from spikeloop.agents.local_learning import LocalLearning
from spikeloop.agents.machine import differences
from spikeloop.agents.quantization import QuantizeWeights
from spikeloop.agents.registry import ALGOS, hyperparams_file
from spikeloop.agents.seals import sealed
from spikeloop.agents.workers import GONE, POLITE, close_quietly
from spikeloop.scripts.cli import UsageError
from spikeloop.scripts.exported import network_bytes, playable_environment
from spikeloop.scripts.hyperparameters import check_hyperparameters, chip_ready, fit_normalize
from spikeloop.scripts.last_words import print_last_words
from spikeloop.scripts.pictures import draw_learning_curve
from spikeloop.scripts.run_folder import CHECKPOINT, CURVE, EPISODES, NETWORK, SETTINGS, need_folder, sole_writer
from spikeloop.scripts.saving import model_bytes, monitor_start, statistics_bytes, write_lost, write_together
from spikeloop.scripts.search import WORKER, fail_trials_of_the_dead, need_pandas, over_preset, this_worker, trials_over
from spikeloop.scripts.stoppable import StoppableTraining, answering
from spikeloop.scripts.trust import as_data, need_own
from spikeloop.scripts.zoo_callbacks import saved_whole


def seed_after(seed: int, num_timesteps: int) -> int:
    """Return the seed for the environments of a run that resumes at an env step, which follows from both."""
    return int(np.random.SeedSequence((seed, num_timesteps)).generate_state(1)[0] >> 1)


def _backend_of(settings: Mapping[str, Any]) -> str | None:
    """Return what a local learner runs on; runs of before called it a core."""
    return settings.get("backend", settings.get("core"))


class Experiment(ExperimentManager):
    """One training run.

    Args:
        args: RL Zoo's arguments.
        settings: What the checkpoint keeps to build the run again: its ``argv``, ``checkpoint_freq``,
            ``checkpoint_minutes``, ``chip_ready``, ``quantize`` and ``backend``; this adds ``seed``,
            ``hyperparams`` and ``files``, the texts that the run folder shows of them.
        folder: Run folder to go on with, whose lock is held.
        checkpoint: Its checkpoint, the file and what it holds.
        begin: Called when all checks are over and the work begins (:func:`~spikeloop.scripts.cli.before_any_work`).
        stack: Takes what must be undone when the training ends, whether it succeeds or fails.
        trust: Whether to take files that can run code from others than the user.
        kwargs: RL Zoo's keyword arguments.
    """

    def __init__(
        self,
        *args: Any,
        settings: dict[str, Any],
        folder: Path | None,
        checkpoint: tuple[Path, Mapping[str, Any]] | None,
        begin: Callable[[], None],
        stack: contextlib.ExitStack,
        trust: bool,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.is_preset = not kwargs.get("config") and self.algo in ALGOS
        if self.is_preset:
            self.config = str(hyperparams_file(self.algo + "_chip" * (_backend_of(settings) == "chip")))
            self._is_atari = False  # else RL Zoo reads the entry "atari", which our presets do not have
        if self.trained_agent:
            beside = Path(self.trained_agent).parent
            statistics = beside / self.env_name / "vecnormalize.pkl"
            need_own([Path(self.trained_agent), statistics, beside / "replay_buffer.pkl"], trust)
        else:
            self.trained_agent = os.devnull  # RL Zoo would look for statistics in the working folder
        self.trust = trust
        if folder is not None:
            self.save_path, self.params_path = str(folder), str(folder / self.env_name)
        self.settings = {"seed": self.seed, **settings}
        self.checkpoint: Path | None
        self.state: Mapping[str, Any] | None
        self.checkpoint, self.state = checkpoint or (None, None)
        self.begin, self.stack = begin, stack
        self.folder = Path(self.save_path)
        self.made_folder = False
        self.checkpoints: Checkpoints | None = None
        self.training: StoppableTraining  # while it learns, and afterwards
        self.of_trial: dict[str, Any] = {}  # the policy_kwargs of --trial-id
        self.description: EnvDescription | None = None  # of the environment that a network is saved with

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the hyperparameters to be used and those to be saved; a run that goes on keeps its own."""
        if self.state is not None:
            saved = self.settings["hyperparams"]
            return {**deepcopy(saved), **self._backend()}, saved
        hyperparams, saved = self._read_config()
        check_hyperparameters(ZOO_ALGOS[self.algo], hyperparams, self.settings["quantize"])
        if self.is_preset and "normalize" not in (self.custom_hyperparams or {}):
            self._fit_to_observations(hyperparams, saved)
        if self.settings["chip_ready"]:
            hyperparams = chip_ready(hyperparams)
            saved["policy_kwargs"] = hyperparams["policy_kwargs"]
        self.settings["hyperparams"] = deepcopy(dict(saved))
        return {**hyperparams, **self._backend()}, saved

    def _read_config(self) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            hyperparams, saved = super().read_hyperparameters()
        except Exception as error:
            if self.args.conf_file is None or self.storage or type(error) is ValueError:
                raise
            raise UsageError(
                f"--conf-file {self.config}: expected a YAML file, or a Python file or module with a dict called "
                f"hyperparams, of settings by environment id ({type(error).__name__}: {error})"
            ) from None
        if self.n_timesteps > 0:
            hyperparams.setdefault("n_timesteps", self.n_timesteps)
        if not self.trust and (self.trial_id is not None or str(self.args.conf_file).endswith((".yml", ".yaml"))):
            given = {*(self.custom_hyperparams or ()), *(("env_kwargs",) if self.env_kwargs else ())}
            theirs = {name: value for name, value in hyperparams.items() if name not in given}
            hyperparams |= as_data(theirs, self.args.gym_packages)
        if isinstance(hyperparams.get("policy_kwargs"), str):  # RL Zoo's files hold some as Python
            hyperparams["policy_kwargs"] = eval(hyperparams["policy_kwargs"], vars(exp_manager).copy())
        if self.of_trial and "policy_kwargs" not in (self.custom_hyperparams or {}):
            merged = over_preset(self.of_trial, hyperparams.get("policy_kwargs") or {})["policy_kwargs"]
            hyperparams["policy_kwargs"] = saved["policy_kwargs"] = merged
        return hyperparams, saved

    def load_trial(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return what a study keeps of a trial; of our algorithms the preset's ``policy_kwargs`` stay below its own."""
        found: dict[str, Any] = super().load_trial(*args, **kwargs)
        if self.algo in ALGOS and "policy_kwargs" in found:
            self.of_trial = {"policy_kwargs": found.pop("policy_kwargs")}
        return found

    def _fit_to_observations(self, hyperparams: dict[str, Any], saved: dict[str, Any]) -> None:
        """Make the default preset normalise only what VecNormalize can: vectors, not images or one-hot choices."""
        presets = yaml.safe_load(Path(self.config).read_text("utf-8"))
        if self.env_name.gym_id in presets or "normalize" not in hyperparams:
            return
        env = gym.make(self.env_name.gym_id, **hyperparams.get("env_kwargs", self.env_kwargs))
        wrapper = get_wrapper_class(hyperparams)
        space = (env if wrapper is None else wrapper(env)).observation_space
        env.close()
        fitted = fit_normalize(hyperparams["normalize"], space)
        if fitted != hyperparams["normalize"]:
            print(f"The default preset normalises vectors only: of {space} it leaves the rest as it is, {fitted}")
            hyperparams["normalize"] = saved["normalize"] = fitted

    def _backend(self) -> dict[str, Any]:
        """Return the argument that makes a local learner learn on the emulated chip; none for the float simulator."""
        if _backend_of(self.settings) != "chip":
            return {}
        from spikeloop import hardware

        return {"backend": getattr(hardware, str(ALGOS[self.algo].chip_network))}

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """Build the model and its environments, and put them where the checkpoint was if the run goes on."""
        if self.state is not None:
            clean_up(self.folder, self.state["logs"])
        try:
            results = super().setup_experiment()
            if results is not None:
                self.description = playable_environment(
                    results[0], self.settings["hyperparams"], self.args.gym_packages, self.settings["chip_ready"]
                )
        except BaseException:
            if self.made_folder:  # left empty, it would be taken for the latest run
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        if self.state is not None:
            assert results is not None and self.checkpoints is not None
            model = results[0]
            self.checkpoints.restore(model, self.state, self.checkpoint)
            for callback in self.callbacks:
                callback.n_calls = getattr(model, "n_calls", model.num_timesteps // model.n_envs)
            self._continue_tensorboard(model)
            print(f"Going on from step {model.num_timesteps}{self._what_differs()}")
        return results

    def create_callbacks(self) -> None:
        """Add our callbacks to RL Zoo's."""
        super().create_callbacks()
        if self.optimize_hyperparameters:
            return
        self.callbacks = saved_whole(self.callbacks, self.folder)
        if self.settings["quantize"]:
            from spikeloop.hardware.compile import quantizer

            self.callbacks.append(QuantizeWeights(quantizer(self.settings["quantize"])))
        self.callbacks.append(EpisodeLog(self.folder / EPISODES, resume=self.state is not None))
        if self.algo in ALGOS or issubclass(ZOO_ALGOS[self.algo], OnPolicyAlgorithm):
            self.checkpoints = Checkpoints(
                self.folder / CHECKPOINT,
                self.settings["checkpoint_freq"],
                self.settings,
                evaluations=[callback for callback in self.callbacks if isinstance(callback, EvalCallback)],
                seconds=60 * self.settings["checkpoint_minutes"],
            )
            self.callbacks.append(self.checkpoints)
        else:
            print(f"No {CHECKPOINT}: it would have to hold the replay buffer of {self.algo}; RL Zoo has --save-freq")

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Create the environments; those of a run that goes on continue its monitor files."""
        no_log = no_log or self.optimize_hyperparameters
        logged = not (eval_env or no_log)
        if logged:
            self.monitor_kwargs = {**self.monitor_kwargs, "override_existing": False}
            about = self.env_name.gym_id, self.monitor_kwargs
            starts = [monitor_start(self.folder / f"{i}.monitor.csv", *about) for i in range(n_envs)]
        wrapper = self.env_wrapper
        self.env_wrapper = partial(guarded, wrapper, self.vec_env_class is not DummyVecEnv)
        try:
            env = super().create_envs(n_envs, eval_env, no_log)
            for i in range(n_envs):
                env.set_attr("label", f"{self._name(eval_env)} (env {i})", indices=i)
                for name in ("episode_returns", "episode_lengths", "episode_times"):
                    # SB3's monitors append each episode to lists that nobody reads: bound them
                    env.env_method("set_wrapper_attr", name, deque(maxlen=100), indices=i)
        except GONE:
            raise UsageError(f"{self.env_name.gym_id} could not be made in a worker process, see above") from None
        finally:
            self.env_wrapper = wrapper
        self.stack.callback(close_quietly, env)  # RL Zoo leaves those of evaluations open
        check_statistics(env)  # they would be lost, as evaluations, resumed runs and rollouts make environments anew
        if logged:
            for i, start in enumerate(starts):
                env.env_method("set_wrapper_attr", "t_start", start, indices=i)
        return env

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        return super()._maybe_normalize(CheckFinite(env, self._name(eval_env)), eval_env)

    def _name(self, eval_env: bool) -> str:
        return self.env_name.gym_id + (" (evaluation)" if eval_env else "")

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        """Write the settings as RL Zoo does; a run that goes on writes only those that were lost."""
        files = self.settings.get("files")
        if files is None:
            args = OrderedDict(sorted(vars(self.args).items()))
            shown = {"config.yml": yaml.dump(saved_hyperparams), "args.yml": yaml.dump(args)}
            shown["command.txt"] = " ".join(sys.orig_argv)
            files = self.settings["files"] = {f"{self.env_name}/{name}": text for name, text in shown.items()}
        contents = {name: text.encode() for name, text in files.items()}
        # settings can name code, so they are sealed
        write_lost(self.folder, {n: sealed(d, ".yml") if n.endswith(SETTINGS) else d for n, d in contents.items()})
        print(f"Log path: {self.save_path}")

    def _what_differs(self) -> str:
        """Say why a run that goes on may differ from one that was never interrupted; empty if it will not."""
        assert self.state is not None
        why = []
        if self.state["why_not_exact"]:
            why.append(f"with new episodes: {self.state['why_not_exact']}")
        elsewhere = differences(self.state["machine"])
        if elsewhere:
            why.append(f"its last bits may differ: {', '.join(elsewhere)}")
        return "".join(f"; {reason}" for reason in why)

    def _continue_tensorboard(self, model: BaseAlgorithm) -> None:
        folder = self.state["tensorboard"]  # type: ignore[index]
        if folder is None:
            return
        from torch.utils.tensorboard.writer import SummaryWriter

        tensorboard = TensorBoardOutputFormat(folder)
        tensorboard.writer.close()
        # what an interrupted run logged of later steps is hidden: they will be logged again
        tensorboard.writer = SummaryWriter(folder, purge_step=model.num_timesteps + 1)
        model.set_logger(Logger(folder, [*([HumanOutputFormat(sys.stdout)] if self.verbose else []), tensorboard]))

    def create_log_folder(self) -> None:
        """Make the folders of the run, one that nobody else has, and hold its lock."""
        need_folder(f"--log-folder {self.args.log_folder}", Path(self.log_path))
        if self.optimize_hyperparameters:
            return  # a search leaves a report beside the runs but no run folder
        if self.state is None:
            self._make_folder()
            self.stack.enter_context(sole_writer(self.folder))
        need_folder(f"--log-folder {self.args.log_folder}", Path(self.params_path))
        if self.tensorboard_log:
            need_folder(f"--tensorboard-log {self.args.tensorboard_log}", Path(self.tensorboard_log))

    def _make_folder(self) -> None:
        """Make the run folder under the next free number, as another training may have taken RL Zoo's meanwhile."""
        found = re.fullmatch(rf"({re.escape(str(self.env_name))}_)(\d+)(.*)", self.folder.name)
        assert found is not None  # RL Zoo names it so
        for number in itertools.count(int(found[2])):
            self.folder = Path(self.log_path) / f"{found[1]}{number}{found[3]}"
            with contextlib.suppress(FileExistsError):
                self.folder.mkdir()
                break
        self.made_folder = True
        self.save_path, self.params_path = str(self.folder), f"{self.folder}/{self.env_name}"

    def learn(self, model: BaseAlgorithm) -> None:
        """Train.

        Raises:
            SystemExit: 128 + n after signal n, 1 after a failure.
        """
        self.begin()
        assert model.env is not None
        self.training = StoppableTraining(self.folder, self.checkpoints)
        learn = model.learn
        if self.state is not None:
            self.n_timesteps -= model.num_timesteps
            nothing_left = self._nothing_left(model)
            if nothing_left:
                print(f"Nothing is left to train{nothing_left}")
                close_quietly(model.env)
                return
            learn = partial(model.learn, reset_num_timesteps=False)
        env = SimpleNamespace(close=partial(close_quietly, model.env))
        learner: Any = SimpleNamespace(learn=learn, env=env, policy=model.policy)
        self.stack.enter_context(answering(POLITE, self.training.on_signal))
        self.training.run(partial(super().learn, learner), model, self._draw_learning_curve)

    def _nothing_left(self, model: Any) -> str:
        """Return why a resumed run is at its end already; empty if there is something left to train."""
        if isinstance(model, LocalLearning) and model.budget_is_spent():
            return f": all of n_episodes={model.n_episodes} are done"  # type: ignore[attr-defined]
        more = f"; to extend the run: spikeloop train --resume {self.folder} -n N"
        return more if self.n_timesteps <= 0 else ""

    def hyperparameters_optimization(self) -> None:
        """Search hyperparameters, from the preset's policy on."""
        need_pandas()
        self.begin()
        if self.storage and self.study_name:
            fail_trials_of_the_dead(self.storage, self.study_name)
        with trials_over(self.algo, self._hyperparams.get("policy_kwargs") or {}):
            super().hyperparameters_optimization()

    def objective(self, trial: Any) -> float:
        """Run one trial of a search, marked with the machine and process that run it."""
        trial.set_user_attr(WORKER, this_worker())
        return super().objective(trial)

    def _draw_learning_curve(self) -> None:
        try:
            draw_learning_curve(self.folder / EPISODES, self.folder / CURVE)
        except (ImportError, OSError) as error:  # the picture is not worth the run
            print(f"{CURVE} not drawn: {error}", file=sys.stderr)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """Save the model, its normalisation and, of a spiking policy, the network: all of them or none.

        Raises:
            SystemExit: 128 + n if signal n came meanwhile, 1 if something could not be saved.
        """
        print(f"Saving to {self.save_path}")
        files = {f"{self.env_name}.zip": model_bytes(model)}
        statistics = model.get_vec_normalize_env()
        if statistics is not None:
            files[f"{self.env_name}/vecnormalize.pkl"] = statistics_bytes(statistics)
        if self.description is not None:
            files[NETWORK] = network_bytes(model, self.description, self.algo, self.settings["seed"])
        try:
            write_together(self.folder, files)
            if hasattr(model, "save_replay_buffer") and self.args.save_replay_buffer:
                hidden = self.folder / ".replay_buffer.pkl.00000000"
                model.save_replay_buffer(hidden)
                hidden.replace(self.folder / "replay_buffer.pkl")
        except OSError as error:
            self.training.fail(f"model not saved: {error}")
        self.training.exit_if_incomplete()
        of_episodes = getattr(model, "of_episodes", "actions sampled")
        print_last_words(self.folder, self.callbacks, of_episodes)
