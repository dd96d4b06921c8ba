"""What `spikeloop train` says when it has trained: the returns, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from spikeloop.agents.episodes import read_episodes
from spikeloop.scripts.pictures import SMOOTHED_OVER
from spikeloop.scripts.run_folder import EPISODES


def print_last_words(run: Path, callbacks: Iterable[BaseCallback], of_episodes: str) -> None:
    """Print the returns of the latest training episodes and of the last evaluation, and a command for the run.

    Args:
        run: The run folder.
        callbacks: Those of the training, in which its evaluations are found.
        of_episodes: What is to be said of how training episodes are played.
    """
    returns = read_episodes(run / EPISODES)[1][-SMOOTHED_OVER:]
    if len(returns):
        print(f"Return {returns.mean():.2f}, mean of the last {len(returns)} training episodes, {of_episodes}")
    else:
        print("No training episode has ended, so there is no return")
    for callback in callbacks:
        if isinstance(callback, EvalCallback) and callback.evaluations_results:
            last, step = callback.evaluations_results[-1], callback.evaluations_timesteps[-1]
            print(f"Return {np.mean(last):.2f}, mean of the {len(last)} episodes of the evaluation at step {step}")
    print(f"Next: spikeloop rollout {shlex.quote(str(run))}")
