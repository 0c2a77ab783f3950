from __future__ import annotations

import datetime
import http.server
import json
import socket
import threading
import time

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.mlops.platform.plugins.module_utils.client import ApiError, Cluster, ClusterError, UnknownKind


@pytest.fixture
def kubeconfig(api_server, tmp_path):
    """Write a kubeconfig that differs from the server's by what is given; returns its path."""

    def write(cluster=None, user=None, **config):
        with open(api_server) as file:
            base = yaml.safe_load(file)
        base["clusters"][0]["cluster"].update(cluster or {})
        base["users"][0]["user"].update(user or {})
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump({**base, **config}))
        return str(path)

    return write


@pytest.fixture
def fake_server(kubeconfig):
    """Serve fixed answers by path over plain HTTP; yields (function that sets them and returns a Cluster, the paths asked for)."""
    answers, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, body = answers.get(self.path, (404, "404 page not found"))
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_CONNECT = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"

    def start(given):
        answers.update(given)
        return Cluster(kubeconfig(cluster={"server": url}))

    start.url = url
    yield start, asked
    server.shutdown()
    server.server_close()


# -- discovery and objects ----------------------------------------------------------------------------------------------


def test_resources_are_discovered(cluster):
    assert cluster.resource("apps/v1", "Deployment").path("a", "b") == "/apis/apps/v1/namespaces/a/deployments/b"
    assert cluster.resource("v1", "Namespace").path(None, "x") == "/api/v1/namespaces/x"
    assert cluster.resource("rbac.authorization.k8s.io/v1", "ClusterRole").path("ignored", "a:b").endswith("/clusterroles/a%3Ab")
    assert cluster.resource(None, "Service").api_version == "v1"
    with pytest.raises(UnknownKind, match="does not serve Gadget of x.dev/v1"):
        cluster.resource("x.dev/v1", "Gadget")


def test_a_kind_installed_later_is_found(cluster, api_server):
    assert not cluster.serves("later.test/v1", "Late")
    names = {"kind": "Late", "plural": "lates"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "lates.later.test"},
        "spec": {"group": "later.test", "names": names, "scope": "Cluster", "versions": [version]},
    }
    Cluster(api_server).apply(crd, "test")
    deadline = time.monotonic() + 10
    while not cluster.serves("later.test/v1", "Late"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert cluster.get("later.test/v1", "Late", "none") is None


def test_objects_round_trip(cluster):
    doc = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "round-trip", "namespace": "default", "labels": {"t": "rt"}}}
    assert cluster.get("v1", "ConfigMap", "round-trip", "default") is None
    cluster.apply({**doc, "data": {"a": "1"}}, "test", dry_run=True)
    assert cluster.get("v1", "ConfigMap", "round-trip", "default") is None
    cluster.apply({**doc, "data": {"a": "1"}}, "test")
    assert cluster.get("v1", "ConfigMap", "round-trip", "default")["data"] == {"a": "1"}
    listed = cluster.list("v1", "ConfigMap", "default", label_selector="t=rt")
    assert [(item["kind"], item["apiVersion"], item["metadata"]["name"]) for item in listed] == [("ConfigMap", "v1", "round-trip")]
    with pytest.raises(ApiError) as conflict:
        cluster.apply({**doc, "data": {"a": "2"}}, "other")
    assert (conflict.value.status, conflict.value.reason) == (409, "Conflict")
    assert conflict.value.details["causes"][0]["field"] == ".data.a"
    assert cluster.delete("v1", "ConfigMap", "round-trip", "default")
    assert not cluster.delete("v1", "ConfigMap", "round-trip", "default")


def test_lists_are_read_to_their_end(cluster):
    for number in range(3):
        meta = {"name": f"page-{number}", "namespace": "default", "labels": {"t": "pages"}}
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}, "test")
    request = cluster.request
    cluster.request = lambda method, path, query=None, *rest, **more: request(
        method, path, {**query, "limit": 2} if query else query, *rest, **more
    )
    assert len(cluster.list("v1", "ConfigMap", "default", label_selector="t=pages")) == 3


def test_threads_share_a_cluster(cluster):
    problems = []

    def work(number):
        try:
            meta = {"name": f"thread-{number}", "namespace": "default"}
            for _ in range(5):
                cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"n": str(number)}}, "test")
                assert cluster.get("v1", "ConfigMap", meta["name"], "default")["data"] == {"n": str(number)}
        except Exception as error:  # reported by the test's own thread
            problems.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_plain_discovery_of_older_servers(fake_server):
    start, asked = fake_server
    entry = {"name": "lates", "kind": "Late", "namespaced": True}
    cluster = start(
        {
            "/api": (200, {"kind": "APIVersions", "versions": ["v1"]}),
            "/apis": (200, {"kind": "APIGroupList", "groups": [{"name": "x.dev", "versions": [{"groupVersion": "x.dev/v1"}]}]}),
            "/api/v1": (200, {"resources": [{"name": "pods", "kind": "Pod", "namespaced": True}, {**entry, "name": "pods/log"}]}),
            "/apis/x.dev/v1": (200, {"resources": [entry]}),
        }
    )
    assert cluster.resource("x.dev/v1", "Late").path("n", "a") == "/apis/x.dev/v1/namespaces/n/lates/a"
    assert cluster.resource("v1", "Pod").plural == "pods"
    assert len(asked) == 4


# -- what goes wrong ----------------------------------------------------------------------------------------------------


def test_missing_kubeconfig(tmp_path):
    with pytest.raises(ClusterError, match=r"/none does not exist \(wanted context: dev\)\. Remedy: "):
        Cluster(str(tmp_path / "none"), "dev")


def test_unknown_context_lists_those_there_are(api_server):
    with pytest.raises(ClusterError) as error:
        Cluster(api_server, "production")
    assert all(word in str(error.value) for word in (api_server, "production", "its contexts are test", "Remedy"))


def test_no_current_context(kubeconfig):
    with pytest.raises(ClusterError, match="names no usable current context .* its contexts are test. Remedy: set context"):
        Cluster(kubeconfig(**{"current-context": ""}))


def test_damaged_kubeconfig(tmp_path):
    (tmp_path / "config").write_text("apiVersion: [")
    with pytest.raises(ClusterError, match=f"kubeconfig {tmp_path}/config"):
        Cluster(str(tmp_path / "config"), "dev")


def test_missing_certificate_is_named(kubeconfig):
    with pytest.raises(ClusterError, match="File does not exist: /none/ca.crt"):
        Cluster(kubeconfig(cluster={"certificate-authority": "/none/ca.crt"}))


def test_refused_credentials(kubeconfig):
    path = kubeconfig(user={"token": "wrong"})
    with pytest.raises(ClusterError, match=r"context 'test' of kubeconfig .*server https://.*refused \(401.*Remedy: log in") as error:
        Cluster(path).version()
    assert path in str(error.value)
    assert "wrong" not in str(error.value)


def test_failing_credential_plugin_is_quoted(kubeconfig):
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/none/gke-auth", "interactiveMode": "Never"}
    with pytest.raises(ClusterError, match=r"No credentials for context .*/none/gke-auth.*Remedy: repair the credential plugin"):
        Cluster(kubeconfig(users=[{"name": "admin", "user": {"exec": command}}]))


def test_closed_port_is_reported_soon(kubeconfig):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(ClusterError, match=f"server https://127.0.0.1:{port}.*cannot be reached.*Remedy: check that the cluster"):
        Cluster(kubeconfig(cluster={"server": f"https://127.0.0.1:{port}"})).resource("v1", "Pod")
    assert time.monotonic() - start < 3


def test_server_that_never_answers_is_reported_within_five_seconds(kubeconfig):
    with socket.socket() as full:  # its backlog is full, so further connections hang like those to an address that nobody has
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        start = time.monotonic()
        with pytest.raises(ClusterError, match="cannot be reached"):
            Cluster(kubeconfig(cluster={"server": f"https://127.0.0.1:{address[1]}"})).version()
        assert time.monotonic() - start < 6
        for filler in fillers:
            filler.close()


def test_other_authority(kubeconfig, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another cluster")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    certificate = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    (tmp_path / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(ClusterError, match="TLS failed.*export the kubeconfig anew"):
        Cluster(kubeconfig(cluster={"certificate-authority": str(tmp_path / "ca.crt")})).version()


def test_what_is_no_api_server_is_not_taken_for_an_empty_one(fake_server):
    start, _ = fake_server
    with pytest.raises(ClusterError, match="not a Kubernetes API server"):
        start({"/api": (200, {"resources": []})}).list("v1", "Pod")


# -- proxies ------------------------------------------------------------------------------------------------------------


def test_a_proxy_of_the_environment_is_not_used_for_loopback(api_server, monkeypatch):
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert Cluster(api_server).git_version.startswith("v1.")


def test_a_proxy_of_the_environment_is_used_for_others_unless_no_proxy_names_them(kubeconfig, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    path = kubeconfig(cluster={"server": "https://10.9.8.7:6443"})
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "example.com")
    assert Cluster(path)._pool.proxy.host == "proxy.test"
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "10.0.0.0/8")
    assert getattr(Cluster(path)._pool, "proxy", None) is None


def test_the_proxy_of_the_kubeconfig_is_always_used_and_named_when_it_fails(fake_server, kubeconfig, monkeypatch):
    start, asked = fake_server
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ClusterError, match=f"through the proxy {start.url}.*the proxy failed.*NO_PROXY"):
        Cluster(kubeconfig(cluster={"proxy-url": start.url})).version()
    assert asked
