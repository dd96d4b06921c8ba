"""What is installed is whole: versions, types, lazy imports, and a README whose examples run."""

import importlib
import importlib.metadata
import importlib.resources
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import spikeloop
from spikeloop.scripts import cli

ROOT = Path(__file__).parent.parent
TOPS = ("agents", "envs", "hardware", "scripts", "spiking")
PACKAGES = [
    "spikeloop",
    "spikeloop.agents",
    "spikeloop.envs",
    "spikeloop.hardware",
    "spikeloop.scripts",
    "spikeloop.spiking",
]
README = (ROOT / "README.md").read_text("utf-8")
README_EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_version_is_that_of_pyproject_and_has_a_changelog_entry():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert importlib.metadata.version("spikeloop") == spikeloop.__version__ == project["version"]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_wheel_lists_every_package_and_its_folder():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    inits = [path for top in TOPS for path in (ROOT / top).rglob("__init__.py")]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in inits}
    assert set(setuptools["packages"]) == {"spikeloop", *(f"spikeloop.{folder}" for folder in folders)}
    for package in setuptools["packages"]:
        assert (ROOT / setuptools["package-dir"][package] / "__init__.py").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_typed(package):
    assert importlib.resources.files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_resolve(package):
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None


@pytest.mark.parametrize(
    ("package", "heavy"),
    [
        ("spikeloop", {"torch", "numba", "numpy", "gymnasium", "stable_baselines3"}),
        ("spikeloop.agents", {"torch", "numba", "gymnasium", "stable_baselines3", "sb3_contrib"}),
        ("spikeloop.envs", {"torch", "stable_baselines3", "pygame"}),
        ("spikeloop.hardware", {"torch", "numba", "gymnasium", "stable_baselines3"}),
        ("spikeloop.spiking", {"torch", "numba", "gymnasium", "stable_baselines3"}),
    ],
)
def test_import_loads_nothing_heavy(package, heavy):
    assert modules_loaded_by(package) & heavy == set()


TORCH_HALF = (  # and all gradients
    *(
        "constrained_weights",
        "equilibrium_module",
        "event_prop_module",
        "fixed_encoder_core",
        "former_names",
        "initial",
    ),
    *("input_core", "module", "row_linear", "spike_time_module", "spiking_layer", "tensor_checks", "threads"),
    "tick_readout",
)


def test_only_the_torch_half_of_spiking_loads_torch():
    """The simulator and the chip run without torch, whose import alone takes seconds."""
    modules = [
        "spikeloop." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("spiking", "hardware")
        for path in sorted((ROOT / folder).rglob("[!_]*.py"))
        if "gradients" not in path.parts and path.stem not in TORCH_HALF
    ]
    assert "torch" not in modules_loaded_by(*modules)


@pytest.mark.parametrize("example", README_EXAMPLES)
def test_readme_example_runs(example, tmp_path):
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, check=True)


def test_readme_takes_an_own_environment_to_the_chip(tmp_path, monkeypatch):
    """Module and commands as they stand, with small budgets."""
    for needed in ("rl_zoo3", "matplotlib"):
        pytest.importorskip(needed)
    section = README.partition("## Your own environment\n")[2].partition("\n## ")[0]
    (module,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    (commands,) = re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    (tmp_path / "my_task.py").write_text(module, "utf-8")
    monkeypatch.chdir(tmp_path)
    for command in commands.replace("-n 20000", "-n 1024").replace("-n 20 ", "-n 1 ").splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(command, comments=True))
        assert cli.main() == 0
    run = tmp_path / "logs" / "spiking_ppo" / "Reach-v0_1"
    assert {"policy.safetensors", "learning_curve.png"} <= {path.name for path in run.iterdir()}
    assert list(run.glob("report*.json"))
    assert (tmp_path / "spikes.png").stat().st_size > 1000


def modules_loaded_by(*modules: str) -> set[str]:
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())
