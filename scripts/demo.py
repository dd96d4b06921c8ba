"""The first five minutes: train a spiking policy on CartPole-v1, roll it out, and leave pictures of both in ``demo/``."""

from __future__ import annotations

import sys
from pathlib import Path

from spikeloop.scripts import rollout, train

FOLDER = Path("demo")


def main() -> int:
    """Train with the preset, evaluate over 20 episodes, draw the raster above the learning curve."""
    seed, n_timesteps = 0, 50_000
    print(f"Training a recurrent spiking policy on CartPole-v1 for {n_timesteps:,} env steps (seed {seed}) ...", flush=True)
    options = ["--seed", str(seed), "-n", str(n_timesteps), "-f", str(FOLDER), "--eval-freq", "-1", "--num-threads", "1"]
    status = train.main(["--algo", "spiking_ppo", "--env", "CartPole-v1", "--verbose", "0", *options])
    if status:
        return status
    run = max((FOLDER / "spiking_ppo").glob("CartPole-v1_*"), key=lambda path: int(path.name.rpartition("_")[2]))
    network = run / "policy.safetensors"
    print("\nRolling out the trained network, state carried from step to step:")
    status = rollout.main([str(network), "-n", "20", "--seed", "1000"])
    if status:
        return status
    picture = draw(network, run / "learning_curve.csv")
    print(f"\npolicy          {network}\nlearning curve  {run / 'learning_curve.png'}\nraster          {picture}")
    return 0


def draw(network_file: Path, curve_file: Path) -> Path:
    """Draw one episode's spikes above the learning curve and return the path of the picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from spikeloop.spiking import Network, plotting

    network = Network.load(network_file)
    monitor = rollout.record_episode(network, "CartPole-v1", seed=1000)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), layout="constrained", height_ratios=(3, 2))
    plotting.raster(top, monitor, network)
    plotting.learning_curve(bottom, curve_file)
    path = FOLDER / "demo.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


if __name__ == "__main__":
    sys.exit(main())
