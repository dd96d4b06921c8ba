"""Files that former versions wrote go on loading, and act as they did."""

import json
from pathlib import Path

import numpy as np
import pytest
from deployable import observations

from spikeloop.hardware import DeployedPolicy, Program
from spikeloop.hardware.deployment import Deployment
from spikeloop.spiking import Network, Simulator

FORMER = Path(__file__).parent / "golden" / "former"
ACTIONS = json.loads((FORMER / "actions.json").read_text())
LOADERS = {"network": Network.load, "deployment": Deployment.load, "program": Program.load}


def load(path):
    return LOADERS[path.name.split("-")[0]](path)


def played(value):
    """Return the actions on the observations that the actions of the file were recorded with."""
    policy, state, actions = (DeployedPolicy if isinstance(value, Deployment) else Simulator)(value), None, []
    for x in observations(n_envs=1)[0][:, 0]:
        parts = {"a": x[0], "b": x[1:2, None]}  # of the network whose observation has two parts
        action, state = policy.predict(parts if len(getattr(value, "parts", "x")) == 2 else x, state)
        actions.append(action)
    return np.array(actions)


def without_checksum(data):
    """Return the file as the version before wrote it, which had no checksum."""
    end = 8 + int.from_bytes(data[:8], "little")
    outer = json.loads(data[8:end])
    header = json.loads(outer["__metadata__"]["spikeloop"])
    del header["sha256"]
    header["format_version"] -= 1
    text = json.dumps({**outer, "__metadata__": {"spikeloop": json.dumps(header)}}).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "checksum"),
    [(name, checksum) for name in ACTIONS for checksum in ([True, False] if "-3-" in name else [True])],
)
def test_a_former_policy_acts_as_it_did(name, checksum, tmp_path):
    path = FORMER / f"{name}.safetensors"
    if not checksum:
        (tmp_path / path.name).write_bytes(without_checksum(path.read_bytes()))
        path = tmp_path / path.name
    value = load(path)
    np.testing.assert_allclose(played(value), ACTIONS[name], rtol=1e-6)
    value.save(tmp_path / path.name)
    np.testing.assert_array_equal(played(load(tmp_path / path.name)), played(value))


@pytest.mark.parametrize("name", sorted(path.stem for path in FORMER.glob("program-*")))
def test_a_former_program_is_that_of_its_deployment(name, tmp_path):
    program = Program.load(FORMER / f"{name}.safetensors")
    program.save(tmp_path / "a")
    Deployment.load(FORMER / f"deployment-3-{name[10:]}.safetensors").program.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    (tmp_path / "old").write_bytes(without_checksum((FORMER / f"{name}.safetensors").read_bytes()))
    with pytest.warns(UserWarning, match="without a checksum"):
        Program.load(tmp_path / "old").save(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()


def test_a_network_of_version_1_computes_what_it_did():
    """Its normaliser has a variance, and is a field of the network."""
    recorded = np.load(FORMER / "network-1-normalized.npz")
    with pytest.warns(UserWarning, match="without a checksum"):
        network = Network.load(FORMER / "network-1-normalized.safetensors")
    outputs = Simulator(network).run(recorded["obs"])[0]
    np.testing.assert_allclose(outputs, recorded["outputs"], rtol=1e-6)
    assert abs(outputs).max() > 0.1
