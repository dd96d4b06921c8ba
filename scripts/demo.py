"""The first five minutes: train a spiking policy on CartPole-v1, roll it out, deploy it; pictures go to ``demo/``."""

from __future__ import annotations

import sys
from pathlib import Path

from spikeloop.hardware.target import TARGETS
from spikeloop.scripts import deploy, rollout, train
from spikeloop.scripts.run_folder import cores_picture, deployed_file, find_run, report_file

FOLDER = Path("demo")
SEED = 0


def main() -> int:
    """Train with the preset, evaluate over 20 episodes, draw the spikes of one above the learning curve, deploy."""
    print("Training a recurrent spiking policy on CartPole-v1 for 50,000 env steps ...", flush=True)
    options = ["-n", "50000", "--seed", str(SEED), "-f", str(FOLDER), "--eval-freq", "-1", "--num-threads", "1"]
    policy = ["--algo", "spiking_ppo", "--env", "CartPole-v1", "--chip-ready"]
    status = train.main([*policy, "--verbose", "0", *options])
    if status:
        return status
    run = find_run(FOLDER, "spiking_ppo", "CartPole-v1", exp_id=0)
    print("\nRolling out the network it became:")
    status = rollout.main([str(run / "policy.safetensors"), "-n", "20", "--seed", "1000"])
    if status:
        return status
    _draw(run)
    print("\nDeploying it to the emulated chip:")
    status = deploy.main([str(run / "policy.safetensors"), "--seed", "1000"])
    if status:
        return status
    print(f"\npolicy          {run / 'policy.safetensors'}")
    print(f"learning curve  {run / 'learning_curve.png'}")
    print(f"both            {FOLDER / 'demo.png'}")
    left = (deployed_file, report_file, cores_picture)
    print(f"on the chip     {', '.join(str(run / name(next(iter(TARGETS)))) for name in left)}")
    return 0


def _draw(run: Path) -> None:
    from stable_baselines3.common.env_util import make_vec_env

    from spikeloop.scripts.pictures import draw_raster_above_curve
    from spikeloop.spiking import Network

    network = Network.load(run / "policy.safetensors")
    monitor = rollout.record_episode(network, make_vec_env("CartPole-v1"), seed=1000)
    draw_raster_above_curve(network, monitor, run / "learning_curve.csv", FOLDER / "demo.png")


if __name__ == "__main__":
    sys.exit(main())
