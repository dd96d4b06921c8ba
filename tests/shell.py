"""How tests run commands, as from a shell, and the settings of a training that is over at once."""

ENV = "spikeloop/CartPoleNoVel-v0"
SMALL = ["n_envs:2", "n_steps:32", "batch_size:64", "n_epochs:1", "policy_kwargs:dict(n_neurons=[8])"]


def start(script, *args):
    """Run a script and return its exit status."""
    return script.main([str(arg) for arg in args])


def assert_one_line(capsys, answer):
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    assert len(lines) == 1 and captured.err.endswith(lines[0] + "\n") and answer in lines[0]
