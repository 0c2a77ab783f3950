"""The role oauth_iap and its module on a real API server, against a rehearsal of Google Cloud."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils.gcp import oauth
from ansible_collections.mlops.platform.plugins.modules import oauth_client
from rehearsal.server import Rehearsal
from rehearsal.state import PROJECT, seed
from tests.unit.modules import run as run_module

ID = "123456789012-abc123def456.apps.googleusercontent.com"
SECRET = "GOCSPX-0123456789abcdefghijklmnopqr"
NAMESPACE = "oauth-test"
SERVICES = [f"{name}.googleapis.com" for name in ("cloudresourcemanager", "compute", "iap", "secretmanager", "serviceusage")]


@pytest.fixture
def rehearsal(tmp_path):
    """A rehearsal that knows the client."""
    server = Rehearsal(tmp_path / "rehearsal", operation_seconds=0.05).start()
    client = {"redirectUris": [oauth.redirect_uri(ID)], "private:secret": SECRET}
    with server.lock:
        seed(server.state, {"projects": {PROJECT: {"services": SERVICES}}, "oauthClients": {ID: client}})
    yield server
    server.stop()


@pytest.fixture
def client(rehearsal, api_server, cluster):
    """Runs the module, in a namespace that is not there before."""
    options = {"mode": "custom", "client_id": ID, "client_secret": SECRET, "secret_namespace": NAMESPACE, "kubeconfig": api_server}
    where = SimpleNamespace(project=PROJECT, endpoint=rehearsal.endpoint, credentials_file=str(rehearsal.credentials_file))

    def run(**more):
        result = run_module(oauth_client, where, **{**options, **more})
        assert SECRET not in str(result) and base64.b64encode(SECRET.encode()).decode() not in str(result)
        return result

    yield run
    cluster.delete("v1", "Secret", "kubeflow-oauth", NAMESPACE)


def secret(cluster):
    live = cluster.get("v1", "Secret", "kubeflow-oauth", NAMESPACE)
    return live and {name: base64.b64decode(value).decode() for name, value in live["data"].items()}


def test_the_secret_is_written_once(client, cluster):
    predicted = client(check=True)
    assert predicted["secret"]["action"] == "created" and secret(cluster) is None
    assert client()["changed"] and secret(cluster) == {"client_id": ID, "client_secret": SECRET, "key": SECRET}
    again = client()
    assert not again["changed"] and again["secret"]["action"] == "unchanged"


def test_a_changed_secret_is_repaired_and_neither_value_is_shown(client, cluster):
    client()
    other = base64.b64encode(b"somebody-elses-secret").decode()
    path = cluster.resource("v1", "Secret").path(NAMESPACE, "kubeflow-oauth")
    query = {"fieldManager": "kubectl-patch"}
    cluster.request("PATCH", path, query, {"data": {"client_secret": other}}, "application/merge-patch+json")
    result = client()
    assert result["secret"]["action"] == "configured" and secret(cluster)["client_secret"] == SECRET
    assert other not in str(result) and "(hidden, changed)" in result["diff"][0]["after"]


def test_google_managed_takes_its_own_secret_away(client, cluster):
    client()
    assert client(mode="google_managed")["secret"]["action"] == "deleted" and secret(cluster) is None
    assert client(mode="google_managed")["secret"]["action"] == "absent"


def test_a_secret_of_somebody_else_stays(client, cluster):
    client(mode="google_managed")
    mine = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kubeflow-oauth", "namespace": NAMESPACE}, "data": {"a": "Yg=="}}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, "test")
    cluster.apply(mine, "somebody")
    assert client(mode="google_managed")["secret"]["action"] == "absent" and secret(cluster) == {"a": "b"}


@pytest.fixture
def backend_config(cluster):
    """A BackendConfig with a client, and the Ingress that uses it."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "backendconfigs.cloud.google.com", "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}},
        "spec": {
            "group": "cloud.google.com",
            "names": {"kind": "BackendConfig", "plural": "backendconfigs", "singular": "backendconfig"},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
    from ansible_collections.mlops.platform.plugins.module_utils import apply

    meta = {"namespace": NAMESPACE}
    config = {
        "apiVersion": "cloud.google.com/v1",
        "kind": "BackendConfig",
        "metadata": {"name": "iap-backendconfig", **meta},
        "spec": {"iap": {"enabled": True, "oauthclientCredentials": {"secretName": "kubeflow-oauth"}}},
    }
    ingress = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "envoy-ingress", **meta},
        "spec": {"defaultBackend": {"service": {"name": "istio-ingressgateway", "port": {"number": 80}}}},
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    apply.apply(cluster, [definition, namespace, config, ingress], "test")
    yield
    apply.remove(cluster, [ingress, config, definition], "test")


def test_a_configured_ingress_is_not_switched(client, cluster, backend_config):
    client()
    result = client(mode="google_managed")
    assert result["failed"] and f"BackendConfig {NAMESPACE}/iap-backendconfig names one" in result["msg"]
    assert f"kubectl --namespace={NAMESPACE} delete ingress envoy-ingress" in result["msg"]
    assert secret(cluster) is not None
    cluster.delete("networking.k8s.io/v1", "Ingress", "envoy-ingress", NAMESPACE)
    assert client(mode="google_managed")["secret"]["action"] == "deleted"


# -- the role -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def role(play, tmp_path, rehearsal, api_server):
    """`role(*arguments, **variables)` runs it with secrets from files."""

    def run(*arguments, **variables):
        given = {
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "platform_gcp_project": PROJECT,
            "platform_gcp_endpoint": rehearsal.endpoint,
            "platform_kubeconfig": api_server,
            "oauth_iap_namespace": NAMESPACE,
            "oauth_iap_client_id": ID,
            "oauth_iap_users": ["ann@example.com"],
            "oauth_iap_groups": ["ml@example.com"],
            **variables,
        }
        playbook = tmp_path / "role.yml"
        tasks = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": given, "roles": ["mlops.platform.oauth_iap"]}
        playbook.write_text(yaml.safe_dump([tasks]))
        secrets = tmp_path / "secrets.yml"
        token = rehearsal.token()
        secrets.write_text(yaml.safe_dump({"oauth_iap_client_secret": SECRET, "platform_gcp_access_token": token}))
        done = play(playbook, "-i", "localhost,", "-e", f"@{secrets}", *arguments, timeout=180)
        for text in (SECRET, base64.b64encode(SECRET.encode()).decode(), token):
            assert text not in done.output
        return done

    return run


def members(server):
    found = [
        each for each in server.state["projects"][PROJECT]["iamPolicy"]["bindings"] if each["role"] == "roles/iap.httpsResourceAccessor"
    ]
    return sorted(found[0]["members"]) if found else []


def test_no_secret_is_in_the_output(role, rehearsal, cluster):
    first = role("-vvv", "--diff")
    assert first.code == 0, first.output
    assert "(hidden)" in first.output and "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in first.output  # it was so verbose
    assert members(rehearsal) == ["group:ml@example.com", "user:ann@example.com"]
    assert secret(cluster)["client_secret"] == SECRET
    again = role("-vvv", "--diff")
    assert (again.code, again.recap("changed")) == (0, 0), again.output


def test_nor_where_it_fails(role, rehearsal):
    with rehearsal.lock:
        rehearsal.state["oauthClients"][ID]["private:secret"] = "GOCSPX-another"
    wrong = role("-vvv", "--diff")
    assert wrong.code == 2 and "The client secret is none of the OAuth client" in wrong.text, wrong.output
    swapped = role("-vvv", oauth_iap_client_id=SECRET)
    assert swapped.code == 2 and "oauth_iap_client_id: (hidden) is not" in swapped.text, swapped.output
    assert members(rehearsal) == []
