"""What RL Zoo's callbacks save, saved whole: models every so often, evaluations and the best model."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback

from spikeloop.scripts.run_folder import BEST
from spikeloop.scripts.saving import model_bytes, statistics_bytes, write_together

EVALUATIONS = "evaluations.npz"


class KeepModels(BaseCallback):
    """Saves the model every so many calls, as SB3's ``CheckpointCallback`` does, but each file whole.

    Args:
        like: Whose files and frequency it takes over.
    """

    def __init__(self, like: CheckpointCallback):
        super().__init__(like.verbose)
        self.every, self.folder, self.prefix = like.save_freq, Path(like.save_path), like.name_prefix

    def _on_step(self) -> bool:
        if self.n_calls % self.every == 0:
            name = f"{self.prefix}_{self.num_timesteps}_steps.zip"
            write_together(self.folder, {name: model_bytes(self.model)})
            if self.verbose:
                print(f"Saving model checkpoint to {self.folder / name}")
        return True


class KeepEvaluations(BaseCallback):
    """Saves what each evaluation found, and with it the model and its normalisation if that was the best so far.

    Args:
        evaluations: The callback that evaluates; it leaves the saving to this one.
        folder: The run folder.
    """

    parent: EvalCallback

    def __init__(self, evaluations: EvalCallback, folder: Path):
        super().__init__()
        self.folder = folder
        self._best = evaluations.best_mean_reward
        evaluations.best_model_save_path = evaluations.callback_on_new_best = None
        evaluations.log_path = str(folder / f".{EVALUATIONS.removesuffix('.npz')}")  # hidden; NumPy adds the ending
        evaluations.callback, self.parent = self, evaluations

    def _on_training_start(self) -> None:
        self._best = self.parent.best_mean_reward  # a run that goes on has one already

    def _on_step(self) -> bool:
        hidden = self.folder / f".{EVALUATIONS}"
        files = {EVALUATIONS: hidden.read_bytes()}
        hidden.unlink()
        if self.parent.best_mean_reward > self._best:
            self._best = self.parent.best_mean_reward
            files[f"{BEST}.zip"] = model_bytes(self.model)
            statistics = self.model.get_vec_normalize_env()
            if statistics is not None:
                files[f"{BEST}/vecnormalize.pkl"] = statistics_bytes(statistics)
        write_together(self.folder, files)
        return True


def saved_whole(callbacks: list[BaseCallback], folder: Path) -> list[BaseCallback]:
    """Return RL Zoo's callbacks with those that save replaced, or told to leave it to one that saves whole files."""
    for callback in callbacks:
        if isinstance(callback, EvalCallback):
            KeepEvaluations(callback, folder)
    return [KeepModels(one) if type(one) is CheckpointCallback else one for one in callbacks]
