"""RL Zoo's experiment, with what it lacks: exact resuming, checks before and during training, and its outputs."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
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
from rl_zoo3.callbacks import SaveVecNormalizeCallback
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import get_wrapper_class
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.logger import HumanOutputFormat, Logger, TensorBoardOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from spikeloop.agents.callbacks import Checkpoints, EpisodeLog, TrainingStopped, clean_up
from spikeloop.agents.check_finite import CheckFinite
from spikeloop.agents.environment import EnvDescription, check_statistics, describe, with_zoo_settings
from spikeloop.agents.export import why_no_network
from spikeloop.agents.failures import EnvironmentFailed, NonFiniteError
from spikeloop.agents.guarded_env import guarded
from spikeloop.agents.quantization import QuantizeWeights
from spikeloop.agents.registry import ALGOS, hyperparams_file
from spikeloop.agents.seals import seal
from spikeloop.agents.workers import GONE, close_quietly
from spikeloop.scripts.cli import UsageError
from spikeloop.scripts.hyperparameters import check_hyperparameters, chip_ready, fit_normalize
from spikeloop.scripts.last_words import print_last_words
from spikeloop.scripts.pictures import draw_learning_curve
from spikeloop.scripts.run_folder import BEST, CHECKPOINT, CURVE, EPISODES, NETWORK, SETTINGS, need_folder
from spikeloop.scripts.trust import as_data, need_own


def seed_after(seed: int, num_timesteps: int) -> int:
    """Return the seed of the environments of a run that resumes: always the same, never one already used."""
    return int(np.random.SeedSequence((seed, num_timesteps)).generate_state(1)[0] >> 1)


class Experiment(ExperimentManager):
    """One training run.

    Args:
        args: RL Zoo's arguments.
        settings: What the checkpoint keeps to build the run again: its ``argv``, ``checkpoint_freq``, ``chip_ready``,
            ``quantize`` and ``core``; this adds ``seed`` and ``hyperparams``.
        folder: Run folder to go on with.
        state: Its checkpoint.
        begin: Called when everything is in order and the work begins.
        trust: Whether to take files that can run code from others than the user.
        kwargs: RL Zoo's keyword arguments.
    """

    def __init__(
        self,
        *args: Any,
        settings: dict[str, Any],
        folder: Path | None,
        state: Mapping[str, Any] | None,
        begin: Callable[[], None],
        trust: bool,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.is_preset = not kwargs.get("config") and self.algo in ALGOS
        if self.is_preset:
            self.config = str(hyperparams_file(self.algo + "_chip" * (settings.get("core") == "chip")))
            self._is_atari = False  # for which RL Zoo's own files have an entry: ours use the default
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
        self.state = state
        self.begin = begin
        self.folder = Path(self.save_path)
        self.checkpoints: Checkpoints | None = None
        self.interrupts = 0
        self.saved = True
        self.description: EnvDescription | None = None  # of the environment that a network is saved with

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the hyperparameters twice, to be used and to be saved; those of the run if it goes on."""
        if self.state is not None:
            saved = self.settings["hyperparams"]
            return {**deepcopy(saved), **self._core()}, saved
        hyperparams, saved = self._read_config()
        check_hyperparameters(ZOO_ALGOS[self.algo], hyperparams)
        if self.is_preset and "normalize" not in (self.custom_hyperparams or {}):
            self._fit_to_observations(hyperparams, saved)
        if self.settings["chip_ready"]:
            hyperparams = chip_ready(hyperparams)
            saved["policy_kwargs"] = hyperparams["policy_kwargs"]
        self.settings["hyperparams"] = deepcopy(dict(saved))
        return {**hyperparams, **self._core()}, saved

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
        return hyperparams, saved

    def _fit_to_observations(self, hyperparams: dict[str, Any], saved: dict[str, Any]) -> None:
        """With the preset for any environment, normalise only those observations that VecNormalize can take."""
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

    def _core(self) -> dict[str, Any]:
        """Return what a local learner runs on, if that is not its own float simulator."""
        if self.settings.get("core") != "chip":
            return {}
        from spikeloop.hardware.plastic_chip import ChipWinnerTakeAll

        return {"core": ChipWinnerTakeAll}

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """Build the model and its environments, and put them where the checkpoint was if the run goes on."""
        if self.state is not None:
            clean_up(self.folder / CHECKPOINT, self.state)
        is_new = not self.folder.exists()
        try:
            results = super().setup_experiment()
            if results is not None:
                self._check_export(results[0])
        except BaseException:
            if is_new:  # an empty run would be taken for the latest
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        if self.state is not None:
            assert results is not None and self.checkpoints is not None
            model = results[0]
            self.checkpoints.restore(model, self.state)
            self._continue_tensorboard(model)
            print(f"Going on from step {model.num_timesteps}")
        return results

    def create_callbacks(self) -> None:
        """Add our callbacks to RL Zoo's."""
        super().create_callbacks()
        if self.optimize_hyperparameters:
            return
        for callback in self.callbacks:
            if isinstance(callback, EvalCallback) and isinstance(
                callback.callback_on_new_best, SaveVecNormalizeCallback
            ):
                # beside the settings they would be written over by those of the last model
                callback.callback_on_new_best.save_path = str(self.folder / BEST)
                best = [self.folder / f"{BEST}.zip", *[self.folder / BEST / "vecnormalize.pkl"] * self.normalize]
                callback.callback_on_new_best = CallbackList([callback.callback_on_new_best, _SealBest(best)])
        if self.settings["quantize"]:
            from spikeloop.hardware.compiler import quantizer

            self.callbacks.append(QuantizeWeights(quantizer(self.settings["quantize"])))
        self.callbacks.append(EpisodeLog(self.folder / EPISODES, resume=self.state is not None))
        if self.algo in ALGOS or issubclass(ZOO_ALGOS[self.algo], OnPolicyAlgorithm):
            self.checkpoints = _SealedCheckpoints(
                self.folder / CHECKPOINT,
                self.settings["checkpoint_freq"],
                self.settings,
                evaluations=[callback for callback in self.callbacks if isinstance(callback, EvalCallback)],
            )
            self.callbacks.append(self.checkpoints)
        else:
            print(f"No {CHECKPOINT}: it would have to hold the replay buffer of {self.algo}; RL Zoo has --save-freq")

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Create the environments; those of a run that goes on continue its monitor files."""
        goes_on = self.state is not None and not eval_env
        if goes_on:
            self.monitor_kwargs = {**self.monitor_kwargs, "override_existing": False}
            starts = [_monitor_start(self.folder / f"{i}.monitor.csv") for i in range(n_envs)]
        # Ctrl-C reaches the whole process group, but worker processes must live until the checkpoint is taken.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        wrapper = self.env_wrapper
        self.env_wrapper = partial(guarded, wrapper, self.vec_env_class is not DummyVecEnv)
        try:
            env = super().create_envs(n_envs, eval_env, no_log)
            for i in range(n_envs):
                env.set_attr("label", f"{self._name(eval_env)} (env {i})", indices=i)
        except GONE:
            raise UsageError(f"{self.env_name.gym_id} could not be made in a worker process, see above") from None
        finally:
            self.env_wrapper = wrapper
            signal.signal(signal.SIGINT, handler)
        check_statistics(env)  # evaluations, a run that goes on and rollouts make their environments again
        if goes_on:
            for i, start in enumerate(starts):
                env.env_method("set_wrapper_attr", "t_start", start, indices=i)
        return env

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        return super()._maybe_normalize(CheckFinite(env, self._name(eval_env)), eval_env)

    def _name(self, eval_env: bool) -> str:
        return self.env_name.gym_id + (" (evaluation)" if eval_env else "")

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        if self.state is None:
            super()._save_config(saved_hyperparams)
            for name in SETTINGS:
                seal(Path(self.params_path, name))

    def _continue_tensorboard(self, model: BaseAlgorithm) -> None:
        folder = self.state["tensorboard"]  # type: ignore[index]
        if folder is None:
            return
        from torch.utils.tensorboard.writer import SummaryWriter

        tensorboard = TensorBoardOutputFormat(folder)
        tensorboard.writer.close()
        tensorboard.writer = SummaryWriter(folder, purge_step=model.num_timesteps + 1)  # hides what comes again
        model.set_logger(Logger(folder, [*([HumanOutputFormat(sys.stdout)] if self.verbose else []), tensorboard]))

    def create_log_folder(self) -> None:
        """Make the folders of the run, whose names the user may have chosen."""
        need_folder(f"--log-folder {self.args.log_folder}", Path(self.params_path))
        if self.tensorboard_log:
            need_folder(f"--tensorboard-log {self.args.tensorboard_log}", Path(self.tensorboard_log))

    def learn(self, model: BaseAlgorithm) -> None:
        """Train.

        Raises:
            SystemExit: 130 after Ctrl-C, 1 after a failure.
        """
        self.begin()
        assert model.env is not None
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
        handler = signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            super().learn(learner)
        except TrainingStopped:
            pass
        except NonFiniteError as error:
            self._fail(f"{error} at step {model.num_timesteps + model.n_envs}")
        except (EnvironmentFailed, OSError, MemoryError) as error:
            if sys.flags.dev_mode:
                raise
            stopped = "" if isinstance(error, EnvironmentFailed) else "training stopped: "
            self._fail(f"{stopped}{str(error) or 'no memory is left'}")
        finally:
            signal.signal(signal.SIGINT, handler)
            self._draw_learning_curve()
        if self.checkpoints is None:
            return
        if self.interrupts:
            print(f"interrupted at step {model.num_timesteps}; {self._kept()}", file=sys.stderr)
            raise SystemExit(130)
        self.saved = self.checkpoints.save()

    def _nothing_left(self, model: Any) -> str:
        """Return why a resumed run is at its end already; empty if there is something left to train."""
        n_episodes = model.n_episodes if self.algo == "rstdp" else None
        if n_episodes is not None and model._episode_num >= n_episodes:
            return f": all of n_episodes={n_episodes} are done"
        more = f"; to extend the run: spikeloop train --resume {self.folder} -n N"
        return more if self.n_timesteps <= 0 else ""

    def hyperparameters_optimization(self) -> None:
        """Search hyperparameters.

        Raises:
            ImportError: If pandas is missing, without which RL Zoo could not report what it found.
        """
        try:
            importlib.import_module("pandas")
        except ImportError:
            raise ImportError("RL Zoo reports on the search with pandas: pip install pandas") from None
        self.begin()
        super().hyperparameters_optimization()

    def _on_interrupt(self, signum: int, frame: Any) -> None:
        self.interrupts += 1
        if self.checkpoints is None or self.interrupts > 1:
            raise KeyboardInterrupt
        self.checkpoints.stop_requested = True
        print("finishing this update, then saving; Ctrl-C again stops at once", file=sys.stderr)

    def _fail(self, message: str) -> None:
        raise SystemExit(f"{message}; {self._kept()}")

    def _kept(self) -> str:
        if self.checkpoints is None or self.checkpoints.saved_at is None:
            return "there is no checkpoint"
        step = self.checkpoints.saved_at
        return f"{self.checkpoints.path} holds step {step}, go on with: spikeloop train --resume {self.folder}"

    def _draw_learning_curve(self) -> None:
        try:
            draw_learning_curve(self.folder / EPISODES, self.folder / CURVE)
        except (ImportError, OSError) as error:  # the picture is not worth the run
            print(f"{CURVE} not drawn: {error}", file=sys.stderr)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """Save the model and, of a spiking policy, the network.

        Raises:
            SystemExit: 130 after Ctrl-C, 1 if something could not be saved.
        """
        try:
            super().save_trained_model(model)
            seal(self.folder / f"{self.env_name}.zip")
            if self.normalize:
                seal(Path(self.params_path, "vecnormalize.pkl"))
            self._save_network(model)
        except OSError as error:
            self._fail(f"model not saved: {error}")
        if self.interrupts or not self.saved:
            raise SystemExit(130 if self.interrupts else 1)
        print_last_words(self.folder, self.callbacks)

    def _check_export(self, model: Any) -> None:
        """Say before the training, not after it, if its policy cannot become a network or its file not be played."""
        if not hasattr(model, "to_network"):
            return
        reason, lost = why_no_network(model), "be written"
        if reason is None:
            description = describe(model.get_env())  # now: RL Zoo closes the environments when training ends
            assert description is not None  # RL Zoo makes registered environments
            settings = self.settings["hyperparams"], self.args.gym_packages
            self.description = with_zoo_settings(description, *settings)
            reason, lost = self.description.missing(), "be playable"
        if reason is None:
            return
        if self.settings["chip_ready"]:
            raise ValueError(f"a chip-ready policy is to be deployed, and this one could not be: {reason}")
        print(f"{NETWORK} will not {lost}: {reason}", file=sys.stderr)

    def _save_network(self, model: Any) -> None:
        if self.description is None:
            return
        metadata = {
            **self.description.to_metadata(),
            "algo": self.algo,
            "seed": str(self.settings["seed"]),
            "num_timesteps": str(model.num_timesteps),
        }
        model.to_network(metadata).save(self.folder / NETWORK)


class _SealedCheckpoints(Checkpoints):
    def save(self) -> bool:
        saved = super().save()
        if saved:
            seal(self.path)
        return saved


class _SealBest(BaseCallback):
    """Seals the best model so far and the statistics of its time, where they have just been saved."""

    def __init__(self, files: list[Path]):
        super().__init__()
        self.files = files

    def _on_step(self) -> bool:
        for file in self.files:
            seal(file)
        return True


def _monitor_start(path: Path) -> float:
    """Return the time a monitor file counts from."""
    with path.open(encoding="utf-8") as file:
        return json.loads(file.readline().lstrip("#"))["t_start"]
