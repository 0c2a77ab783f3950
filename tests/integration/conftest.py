"""Playbooks run as users run them, and the cluster that Molecule left."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests import kubeflow

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
def ansible_playbook():
    """`ansible_playbook(playbook, *arguments)` → Run."""

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
def play(ansible_playbook):
    """`play(playbook, *arguments)` → Run."""
    return ansible_playbook


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


@pytest.fixture(scope="session")
def kubeflow_1_8(kubeflow_components, tmp_path_factory):
    """The source tree of Kubeflow 1.8."""
    return kubeflow.lay_out("1.8", kubeflow_components["__kubeflow_archives"]["1.8"], tmp_path_factory.mktemp("kubeflow"))


@pytest.fixture
def kubeflow_role(play, api_server, cluster, kubeflow_1_8, tmp_path):
    """`kubeflow_role(*arguments, **variables)` runs the role for Kubeflow 1.8 on the API server. No controllers: nothing is awaited."""
    from ansible_collections.mlops.platform.plugins.module_utils import apply, documents

    upstream = Path(os.environ["MLOPS_PLATFORM_UPSTREAM"])
    files = ("istio-1.30.3/charts/base/files/crd-all.gen.yaml", "cert-manager-1.14.5/cert-manager.yaml")  # other roles install these types
    found = documents.load([str(upstream / file) for file in files])
    gateway = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-ingress"}}
    apply.apply(cluster, [gateway, *(doc for doc in found if documents.is_crd(doc))], "other-roles")

    def run(*arguments, entry: str = "main", **variables) -> Run:
        given = {
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "kubeflow_kubeconfig": api_server,
            "kubeflow_manifests": str(kubeflow_1_8),
            "kubeflow_kubectl": kubeflow.kubectl(),
            "kubeflow_cache_dir": str(tmp_path / "cache"),
            "kubeflow_wait": False,
            "kubeflow_check_capacity": False,
            "kubeflow_access": "iap",
            "kubeflow_iap_frontend": "external",
            "kubeflow_iap_audiences": ["/projects/123456789012/global/backendServices/1234567890123456789"],
            "kubeflow_timeout": 30,
            **variables,
        }
        task = {"ansible.builtin.include_role": {"name": "mlops.platform.kubeflow", "tasks_from": entry}}
        playbook = tmp_path / "role.yml"
        playbook.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "vars": given, "tasks": [task]}]))
        return play(playbook, "-i", "localhost,", "-c", "local", *arguments)

    yield run
    for name, namespace in (("kubeflow-access", "istio-ingress"), ("kubeflow-users", "kubeflow"), ("kubeflow", "kubeflow")):
        inventory = apply.Inventory(cluster, name, namespace)
        apply.remove(cluster, [], inventory.manager, prune=True, prune_data="unused", inventory=inventory)
    # what the controllers do that are not there
    for claim in cluster.list("v1", "PersistentVolumeClaim", "kubeflow"):
        path = cluster.resource("v1", "PersistentVolumeClaim").path("kubeflow", claim["metadata"]["name"])
        cluster.request("PATCH", path, body={"metadata": {"finalizers": None}}, content_type="application/merge-patch+json")
        cluster.delete("v1", "PersistentVolumeClaim", claim["metadata"]["name"], "kubeflow")
    if cluster.delete("v1", "Namespace", "kubeflow"):
        namespace = cluster.get("v1", "Namespace", "kubeflow")
        cluster.request("PUT", "/api/v1/namespaces/kubeflow/finalize", body={**namespace, "spec": {"finalizers": []}})
