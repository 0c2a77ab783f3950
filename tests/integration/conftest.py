"""Playbooks run as users run them, and the cluster that Molecule left."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils import apply
from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster
from rehearsal.state import PROJECT
from tests import kubeflow
from tests.gke import BACKEND_CONFIGS, MANAGED_CERTIFICATES, LoadBalancers

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
    from ansible_collections.mlops.platform.plugins.module_utils import documents

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


# What fits on the kind node: requests, ports, and what its packages have; files of inventories/kind
SMALL = ("cert_manager", "istio", "knative", "kserve")


@pytest.fixture
def gke(play, kubeconfig, tmp_path, free_port):
    """`gke(playbook, *arguments)` runs a playbook with inventories/gke filled in by `.values`, against a rehearsal of Google Cloud.

    `.requests()` is what the rehearsal was asked, `.knows(id, secret)` lets it have an OAuth client.
    """
    state = tmp_path / "rehearsal"
    command = [sys.executable, "-m", "rehearsal"]
    arguments = ["--state-dir", state, "--port", str(free_port), "--kubeconfig", kubeconfig]
    subprocess.run([*command, "start", *arguments], cwd=ROOT, check=True, timeout=120, capture_output=True)
    endpoint = f"http://127.0.0.1:{free_port}"

    def ask(path, body=None):
        request = urllib.request.Request(f"{endpoint}/rehearsal/{path}", json.dumps(body).encode() if body else None)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.load(answer)

    def knows(client, secret):
        redirect = f"https://iap.googleapis.com/v1/oauth/clientIds/{client}:handleRedirect"
        ask("seed", {"oauthClients": {client: {"redirectUris": [redirect], "private:secret": secret}}})

    filled_in = {
        "platform_gcp_project": "rehearsal-project",
        "platform_admin_email": "engineer@example.com",
        "platform_domain": "gke.example.com",
        # instead of Google, of upstream and of the walk-through's Config Controller, whose resource types are in no package
        "platform_gcp_endpoint": endpoint,
        "platform_gcp_credentials_file": str(state / "credentials.json"),
        "mgmt_cluster_backend": "gke",
        "mgmt_cluster_kubeconfig": str(tmp_path / "kubeconfig"),
        "platform_source": "packages",
        "platform_release": "serving-1.14",
        "gpu_nodes_simulated": 1,  # as Molecule left the node
        "kubeflow_resources": {"requests": {"cpu": "5m", "memory": "32Mi"}},
    }
    values = tmp_path / "values.yml"
    small = [f"-e@inventories/kind/group_vars/all/{name}.yml" for name in SMALL]

    def run(playbook, *more):
        values.write_text(yaml.safe_dump(filled_in))
        return play(playbook, "-i", "inventories/gke", *small, "-e", f"@{values}", *more, timeout=900)

    run.values, run.small, run.knows = filled_in, SMALL, knows

    run.endpoint = endpoint
    run.number = ask("state")["projects"][PROJECT]["projectNumber"]
    run.kubeconfig = tmp_path / "kubeconfig"
    run.requests = lambda since=0: ask(f"requests?since={since}")
    yield run
    subprocess.run([*command, "stop", "--state-dir", state], cwd=ROOT, check=True, timeout=60, capture_output=True)


@pytest.fixture
def balanced(gke, kubeconfig, kubectl):
    """The cluster with GKE's load balancing; afterwards without it and without a login, as Molecule left it."""
    cluster = Cluster(kubeconfig)
    apply.apply(cluster, [BACKEND_CONFIGS, MANAGED_CERTIFICATES], "gke")
    with LoadBalancers(kubeconfig, gke.endpoint, PROJECT, "istio-ingress") as balancers:
        yield balancers
        opened = gke(
            "site.yml",
            "--tags",
            "kubeflow",
            "-e",
            "kubeflow_access=none",
            "-e",
            f"platform_kubeconfig={kubeconfig}",
            "-e",
            "platform_context=",
        )
    kubectl("delete", "secret", "kubeflow-oauth", "--namespace=istio-ingress", "--ignore-not-found")
    apply.remove(cluster, [BACKEND_CONFIGS, MANAGED_CERTIFICATES], "gke")
    assert opened.code == 0, opened.output
    assert kubectl("get", "ingresses,authorizationpolicies", "--namespace=istio-ingress", "--output=name") == ""
