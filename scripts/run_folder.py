"""What a run folder of RL Zoo holds: `logs/ALGO/ENV_N`."""

CHECKPOINT = "checkpoint.zip"
EPISODES = "learning_curve.csv"
CURVE = "learning_curve.png"
NETWORK = "policy.safetensors"
