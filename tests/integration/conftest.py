"""Playbooks run as users run them, and the cluster that Molecule left."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MOLECULE_VARIABLES = ROOT / ".config/molecule/host_vars/localhost.yml"


@dataclass
class Run:
    """How a playbook ended."""

    code: int
    output: str
    seconds: float

    @property
    def text(self) -> str:
        """Its output in one line, without the breaks of the display."""
        return " ".join(self.output.split())

    def recap(self, what: str) -> int:
        """A number of the play recap, as `changed`."""
        return int(self.text.rpartition(f"{what}=")[2].split()[0])


@pytest.fixture(scope="session")
def play():
    """`play(playbook, *arguments)` → Run."""

    def run(*arguments, directory: Path = ROOT, timeout: float = 600, **environment: str) -> Run:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        start = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", *map(str, arguments)],
            cwd=directory,
            env={**inherited, "ANSIBLE_NOCOLOR": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
        )
        return Run(done.returncode, done.stdout, time.monotonic() - start)

    return run


@pytest.fixture(scope="session")
def on_cluster(play, kubeconfig):
    """`on_cluster(playbook, *arguments)` runs a playbook of this project on Molecule's cluster."""

    def run(playbook: str, *arguments) -> Run:
        return play(
            playbook, "-i", "inventories/kind", "-e", f"@{MOLECULE_VARIABLES}", "-e", f"platform_kubeconfig={kubeconfig}", *arguments
        )

    return run


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """The kubeconfig of Molecule's cluster."""
    path = os.environ.get("MLOPS_PLATFORM_TEST_KUBECONFIG")
    if not path:
        pytest.skip("MLOPS_PLATFORM_TEST_KUBECONFIG names no cluster (make molecule leaves one, make cluster tests on it)")
    assert Path(path).exists(), f"{path} does not exist: make molecule"
    return path


@pytest.fixture(scope="session")
def gateway() -> str:
    """Where Molecule's cluster answers."""
    return f"127.0.0.1:{yaml.safe_load(MOLECULE_VARIABLES.read_text())['kind_http_port']}"


@pytest.fixture(scope="session")
def kubectl(kubeconfig):
    """`kubectl(*arguments, given=text)` → what it printed."""
    cache = Path(os.environ.get("MLOPS_PLATFORM_CACHE") or "~/.cache/mlops-platform").expanduser()

    def run(*arguments: str, given: str = "") -> str:
        command = [cache / "bin/kubectl", f"--kubeconfig={kubeconfig}", *arguments]
        return subprocess.run(command, input=given, check=True, text=True, capture_output=True, timeout=120).stdout

    return run
