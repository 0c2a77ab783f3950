"""Identity-Aware Proxy in front of the gateway: what the role applies on a real API server, with strict validation by GKE's definitions.

Google Cloud is rehearsed, and GKE's controllers of load balancers are a stand-in.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils import apply, documents
from rehearsal.server import Rehearsal
from rehearsal.state import PROJECT, seed
from tests.gke import BACKEND_CONFIGS, LoadBalancers

SERVICES = [f"{name}.googleapis.com" for name in ("cloudresourcemanager", "compute", "servicemanagement", "serviceusage")]
NAMESPACE = "iap-gateway"
OBJECTS = {
    "ingress": {
        ("networking.k8s.io/v1", "Ingress", "envoy-ingress"),
        ("cloud.google.com/v1", "BackendConfig", "iap-backendconfig"),
        ("networking.gke.io/v1", "ManagedCertificate", "kubeflow"),
    },
    "gateway_api": {
        ("gateway.networking.k8s.io/v1", "Gateway", "kubeflow"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute", "kubeflow"),
        ("networking.gke.io/v1", "GCPBackendPolicy", "kubeflow"),
        ("networking.gke.io/v1", "HealthCheckPolicy", "kubeflow"),
    },
}


@pytest.fixture(scope="module")
def definitions():
    """The files with the definitions of GKE, Istio and the Gateway API."""
    upstream = Path(os.environ.get("MLOPS_PLATFORM_UPSTREAM") or "/nonexistent")
    cache = Path(os.environ.get("MLOPS_PLATFORM_CACHE") or "~/.cache/mlops-platform").expanduser()
    modules = Path(os.environ.get("GOMODCACHE") or "~/go/pkg/mod").expanduser()
    found = [sorted((upstream / "gke-crds").glob("*.yaml")), sorted(cache.glob("packages/istio-*/**/crd-all.gen.yaml"))[:1]]
    standard = sorted(modules.glob("sigs.k8s.io/gateway-api@*/config/crd/standard"))[-1:]
    found.append([path / f"gateway.networking.k8s.io_{name}.yaml" for path in standard for name in ("gateways", "httproutes")])
    if not all(found):
        pytest.skip("MLOPS_PLATFORM_UPSTREAM names no directory with GKE's definitions, or those of Istio or the Gateway API are not there")
    return [str(path) for paths in found for path in paths]


@pytest.fixture
def gke(cluster, definitions):
    """The API server with what a cluster of GKE has."""
    found = documents.load(definitions, [BACKEND_CONFIGS])
    docs = [doc for doc in found if documents.is_crd(doc)]
    docs.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kubeflow-oauth", "namespace": NAMESPACE}}
    apply.apply(cluster, [*docs, secret], "gke", strict=False)
    yield cluster
    apply.remove(cluster, [doc for doc in docs if documents.is_crd(doc)], "gke")


@pytest.fixture
def rehearsal(tmp_path):
    server = Rehearsal(tmp_path / "rehearsal", operation_seconds=0.05).start()
    with server.lock:
        seed(server.state, {"projects": {PROJECT: {"services": SERVICES}}})
    yield server
    server.stop()


@pytest.fixture
def role(play, tmp_path, rehearsal, api_server):
    """`role(*arguments, **variables)` applies who gets in, without any component."""

    def run(*arguments, **variables):
        given = {
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "platform_gcp_project": PROJECT,
            "platform_gcp_endpoint": rehearsal.endpoint,
            "platform_gcp_credentials_file": str(rehearsal.credentials_file),
            "platform_kubeconfig": api_server,
            "platform_source": "packages",
            "kubeflow_gateway_namespace": NAMESPACE,
            "kubeflow_gateway_name": "gateway",
            "kubeflow_gateway_selector": {"istio": "in"},
            "kubeflow_iap_timeout": 20,
            **variables,
        }
        parts = [{"ansible.builtin.import_role": {"name": "mlops.platform.kubeflow", "tasks_from": part}} for part in PARTS]
        playbook = tmp_path / "role.yml"
        here = {"hosts": "localhost", "connection": "local", "gather_facts": False}
        playbook.write_text(yaml.safe_dump([{**here, "vars": given, "tasks": parts}]))
        return play(playbook, "-i", "localhost,", *arguments, timeout=180)

    return run


PARTS = ("validate", "access", "login")


@pytest.fixture
def audiences(gke):
    def read():
        [rule] = gke.get("security.istio.io/v1", "RequestAuthentication", "kubeflow-login", NAMESPACE)["spec"]["jwtRules"]
        return rule["audiences"]

    return read


def there(cluster):
    """Which load balancer is there."""
    return {frontend: {which for which in objects if cluster.get(*which, NAMESPACE)} for frontend, objects in OBJECTS.items()}


def test_the_audience_follows_the_load_balancer(gke, role, rehearsal, api_server, audiences):
    predicted = role("--check", "--diff")
    assert predicted.code == 0, predicted.output
    assert there(gke) == {"ingress": set(), "gateway_api": set()}

    waited = role(kubeflow_iap_timeout=1)
    assert waited.code == 2 and "GKE has not made its backend service" in waited.text, waited.output
    assert "describe ingress envoy-ingress" in waited.text
    assert audiences() == ["not-known-yet"]  # nobody gets in
    assert there(gke) == {"ingress": OBJECTS["ingress"], "gateway_api": set()}

    project = rehearsal.state["projects"][PROJECT]
    number, address = project["projectNumber"], project["compute"]["globalAddresses"]["kubeflow-ip"]["address"]
    [(name, service)] = project["endpoints"].items()
    [config] = service["configs"].values()
    assert name == f"kubeflow.endpoints.{PROJECT}.cloud.goog" and config["endpoints"] == [{"name": name, "target": address}]

    with LoadBalancers(api_server, rehearsal.endpoint, PROJECT, "gateway") as balancers:
        first = role()
        assert first.code == 0, first.output
        [backend] = balancers.made.values()
        assert audiences() == [f"/projects/{number}/global/backendServices/{balancers.ids[backend]}"]
        again = role("--diff")
        assert again.code == 0 and again.recap("changed") == 0, again.output

        # GKE makes it anew
        gke.delete("networking.k8s.io/v1", "Ingress", "envoy-ingress", NAMESPACE)
        anew = role()
        assert anew.code == 0, anew.output
        [other] = balancers.made.values()
        assert other != backend and audiences() == [f"/projects/{number}/global/backendServices/{balancers.ids[other]}"]

        switched = role(kubeflow_iap_frontend="gateway_api", kubeflow_iap_certificate_map="models", kubeflow_iap_client_id="client")
        assert switched.code == 0, switched.output
        assert there(gke) == {"ingress": set(), "gateway_api": OBJECTS["gateway_api"]}
        newest = list(balancers.ids)[-1]
        assert newest.startswith("gkegw1") and audiences() == [f"/projects/{number}/global/backendServices/{balancers.ids[newest]}"]

    elsewhere = role(kubeflow_iap_frontend="external", kubeflow_iap_audiences=["a"])
    assert elsewhere.code == 0, elsewhere.output
    assert there(gke) == {"ingress": set(), "gateway_api": set()} and audiences() == ["a"]

    refused = role(kubeflow_access="none")
    assert refused.code == 2 and "is for clusters only whose nodes are kind://" in refused.text, refused.output
    assert audiences() == ["a"]


def test_googles_own_client_needs_no_secret(gke, role):
    done = role("--check", oauth_iap_mode="google_managed")
    assert done.code == 0, done.output


def test_inputs(role):
    wrong = role(kubeflow_iap_frontend="external", kubeflow_iap_jwks="keys", kubeflow_users=[{"email": "a@example.com"}])
    assert wrong.code == 2, wrong.output
    for words in ("kubeflow_iap_audiences: is not set", "kubeflow_iap_jwks: 'keys'", "kubeflow_domain: is not set"):
        assert words in wrong.text
    wrong = role(kubeflow_iap_frontend="gateway_api", kubeflow_iap_name="Kubeflow", platform_gcp_project="", kubeflow_access="iap")
    assert wrong.code == 2, wrong.output
    for words in ("kubeflow_iap_certificate_map: is not set", "kubeflow_iap_name: 'Kubeflow'", "kubeflow_iap_project: is not set"):
        assert words in wrong.text


def test_dex_where_there_are_pages(role):
    without = role("--check", platform_gcp_project="")
    assert without.code == 0, without.output  # what source packages have has no page
    wrong = role(platform_gcp_project="", platform_source="upstream", kubeflow_profile="minimal")
    assert wrong.code == 2, wrong.output
    assert "kubeflow_access: dex needs the components dex and oauth2-proxy, and Kubeflow 1.8 has none." in wrong.text
