"""Fixtures for tests against a real API server (kube-apiserver and etcd, nothing else, so no controller interferes) and of manifests."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TOKEN = "admin-of-the-test-server"


def _program(name: str) -> str:
    cache = Path(os.environ.get("MLOPS_PLATFORM_CACHE") or "~/.cache/mlops-platform").expanduser()
    path = cache / "mirror" / "bin" / name
    if not path.exists():
        pytest.fail(f"{path} is missing. Build it with: make up", pytrace=False)
    return str(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    """A port of loopback that nobody listens on."""
    return _free_port()


def _service_account_key(path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )


def _wait_ready(url: str, certificate: Path, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    direct = urllib.request.ProxyHandler({})
    while True:
        try:
            secure = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(certificate)))
            urllib.request.build_opener(direct, secure).open(f"{url}/readyz", timeout=5).close()
            return
        except OSError as error:  # not listening yet, not ready yet, certificate not written yet
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"kube-apiserver is not ready ({error}):\n{log.read_text()[-3000:]}", pytrace=False)
            time.sleep(0.1)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory):
    """Path of the kubeconfig of a running API server."""
    etcd, apiserver = _program("etcd/etcd"), _program("kubernetes/kube-apiserver")
    home = tmp_path_factory.mktemp("api-server")
    _service_account_key(home / "sa.key")
    (home / "tokens").write_text(f"{TOKEN},admin,admin,system:masters\n")
    store, peer, port = (_free_port() for _ in range(3))
    url = f"https://127.0.0.1:{port}"
    commands = {
        "etcd": [
            etcd, "--data-dir", f"{home}/etcd", "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{store}", f"--advertise-client-urls=http://127.0.0.1:{store}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
        ],
        "kube-apiserver": [
            apiserver, f"--etcd-servers=http://127.0.0.1:{store}", f"--secure-port={port}", "--bind-address=127.0.0.1",
            f"--cert-dir={home}/certificates", f"--token-auth-file={home}/tokens", "--authorization-mode=RBAC",
            "--service-account-issuer=https://test", f"--service-account-key-file={home}/sa.key",
            f"--service-account-signing-key-file={home}/sa.key", "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none", "--allow-privileged",
            "--disable-admission-plugins=ServiceAccount",  # nothing creates the accounts that it asks for
        ],
    }  # fmt: skip
    processes = []
    try:
        for name, command in commands.items():
            with open(home / f"{name}.log", "wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=home))
        certificate = home / "certificates" / "apiserver.crt"
        _wait_ready(url, certificate, processes[-1], home / "kube-apiserver.log")
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(certificate)}}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
        }
        (home / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        yield str(home / "kubeconfig")
    finally:
        for process in reversed(processes):  # etcd last, or the server spends its end looking for it
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def cluster(api_server):
    """A client of the API server."""
    from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster

    return Cluster(api_server)


@pytest.fixture(scope="session", params=["1.8", "26.03"])
def kubeflow_version(request):
    """Each catalog of Kubeflow that has a source tree, one after the other."""
    return request.param


@pytest.fixture(scope="session")
def kubeflow_catalogs():
    """`kubeflow_catalogs(**options)`: the catalogs of roles/kubeflow/vars, templated with other options than those of the tests."""
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar

    from ansible_collections.mlops.platform.plugins.module_utils import releases

    loader, role = DataLoader(), ROOT / "roles/kubeflow"
    found = {}
    for file in [role / "vars/main.yml", *sorted((role / "vars/catalogs").glob("*.yml"))]:
        found.update(loader.load_from_file(str(file), trusted_as_template=True))
    options = {
        "kubeflow_user_id_header": "x-user",
        "kubeflow_user_id_prefix": "prefix:",
        "kubeflow_namespace_labels": {"istio-injection": "enabled"},
        "kubeflow_gateway_selector": {"istio": "ingress"},
        "kubeflow_gateway_namespace": "gateways",
        "kubeflow_gateway_service_account": "gateway",
        "kubeflow_database": "in_cluster",
        "kubeflow_object_store": "in_cluster",
        "kubeflow_data_project": "my-project",
        "kubeflow_data_name": "platform",
        "kubeflow_data_location": "asia-northeast3-a",
        "kubeflow_data_bucket": "my-bucket",
        "__kubeflow_release": releases.load("serving-1.14"),
    }

    def templated(**other):
        wanted = {name: found[name] for name in ("__kubeflow_archives", "__kubeflow_catalogs", "__kubeflow_profiles")}
        return json.loads(json.dumps(Templar(loader=loader, variables={**found, **options, **other}).template(wanted)))

    return templated


@pytest.fixture(scope="session")
def kubeflow_components(kubeflow_catalogs):
    """The catalogs of roles/kubeflow/vars, templated."""
    return kubeflow_catalogs()


@pytest.fixture(scope="session")
def kubeflow_tree(kubeflow_components, kubeflow_version, tmp_path_factory):
    """The source tree of a Kubeflow."""
    from tests.kubeflow import lay_out

    return lay_out(kubeflow_version, kubeflow_components["__kubeflow_archives"][kubeflow_version], tmp_path_factory.mktemp("kubeflow"))


@pytest.fixture(scope="session")
def kubeflow_files(kubeflow_components, kubeflow_version, kubeflow_tree, tmp_path_factory):
    """The built documents of each component of a Kubeflow, as files."""
    from ansible_collections.mlops.platform.plugins.filter.component_plan import component_plan
    from ansible_collections.mlops.platform.plugins.module_utils.kustomize import Workshop
    from tests.kubeflow import kubectl

    catalog = kubeflow_components["__kubeflow_catalogs"][kubeflow_version]
    builds = component_plan(catalog, catalog, "kubeflow")["builds"]
    return Workshop(tmp_path_factory.mktemp("cache"), kubectl()).build({"kubeflow": str(kubeflow_tree)}, builds)
