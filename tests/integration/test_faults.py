"""Bad input and faults end in a message that names the variable or object, the value and the remedy, as soon as that is known."""

import hashlib
import http.server
import threading

import pytest
import yaml

SITE = ("site.yml", "-i", "inventories/kind", "--skip-tags", "smoke")


@pytest.fixture
def broken_kubeconfig(tmp_path):
    """`broken_kubeconfig(server, context)` → path."""

    def write(server: str = "https://127.0.0.1:1", context: str = "") -> str:
        path = tmp_path / "kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": context,
                    "contexts": [{"name": "there", "context": {"cluster": "there", "user": "me"}}],
                    "clusters": [{"name": "there", "cluster": {"server": server}}],
                    "users": [{"name": "me", "user": {"token": "secret-token"}}],
                }
            )
        )
        return str(path)

    return write


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("platform_release", "serving-9.99", ["serving-9.99", "serving-1.14", "serving-1.15"]),
        ("knative_domain", "-models..example", ["knative_domain", "-models..example"]),
        ("istio_istiod_replicas", -1, ["istio_istiod_replicas", "-1"]),
        ("knative_deployments", {"controller": {"replicas": -2}}, ["knative_deployments", "-2"]),
    ],
)
def test_bad_values_are_named_before_anything_is_touched(play, broken_kubeconfig, variable, value, named):
    run = play(
        *SITE, "-e", yaml.safe_dump({variable: value, "platform_kubeconfig": broken_kubeconfig(context="there")}, default_flow_style=True)
    )
    assert run.code != 0
    assert [part for part in named if part not in run.text] == []
    assert run.recap("changed") == 0
    assert run.seconds < 20


def test_kubeconfig_without_context(play, broken_kubeconfig):
    path = broken_kubeconfig(context="")
    run = play("playbooks/smoke.yml", "-i", "inventories/kind", "-e", f"platform_kubeconfig={path}")
    assert run.code != 0
    assert path in run.text
    assert "context" in run.text
    assert "there" in run.text  # the contexts that it has
    assert "secret-token" not in run.text
    assert run.seconds < 20


def test_unreachable_api_server(play, broken_kubeconfig):
    run = play("playbooks/smoke.yml", "-i", "inventories/kind", "-e", f"platform_kubeconfig={broken_kubeconfig(context='there')}")
    assert run.code != 0
    assert "https://127.0.0.1:1" in run.text
    assert "secret-token" not in run.text
    assert run.seconds < 30


@pytest.fixture
def upstream():
    """URL of a file server that says `content`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.content)))
            self.end_headers()
            self.wfile.write(server.content)

        def log_message(self, *_):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content = b"kind: ConfigMap\n"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def fetch(play, upstream, tmp_path):
    """`fetch(sha256)` → a run that fetches upstream's file into a cache of its own."""

    def run(sha256):
        artifact = {"url": f"http://127.0.0.1:{upstream.server_port}/file.yaml", "sha256": sha256}
        options = {
            "artifacts": {"file": artifact},
            "component": "test",
            "version": "1",
            "cache_dir": str(tmp_path / "cache"),
            "source": "upstream",
        }
        tasks = [{"name": "Fetch", "mlops.platform.artifacts": options}]
        (tmp_path / "fetch.yml").write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
        return play(tmp_path / "fetch.yml", no_proxy="127.0.0.1")

    return run


def test_wrong_sha256(fetch, upstream, tmp_path):
    wanted, got = "0" * 64, hashlib.sha256(upstream.content).hexdigest()
    run = fetch(wanted)
    assert run.code != 0
    assert wanted in run.text
    assert got in run.text
    assert f"{upstream.server_port}/file.yaml" in run.text
    assert list((tmp_path / "cache").rglob("file.yaml")) == []
    assert run.seconds < 20


def test_missing_sha256_is_used_with_a_warning(fetch, upstream):
    run = fetch(None)
    assert run.code == 0
    assert "WARNING" in run.text
    assert f"{upstream.server_port}/file.yaml" in run.text


def test_corrupted_cache_is_fetched_again(fetch, upstream, tmp_path):
    sha256 = hashlib.sha256(upstream.content).hexdigest()
    assert fetch(sha256).code == 0
    (cached,) = (tmp_path / "cache").rglob("file.yaml")
    cached.chmod(0o644)
    cached.write_bytes(b"kind: Se")  # a disk that was full
    assert fetch(sha256).code == 0
    assert cached.read_bytes() == upstream.content


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"smoke_service_image": "docker.io/mlops-platform/no-such-image:1"}, ["no-such-image:1", "ImagePull"]),
        ({"smoke_service_resources": {"requests": {"cpu": "100"}}}, ["Insufficient cpu"]),
    ],
    ids=["image that cannot be pulled", "pod that cannot be scheduled"],
)
def test_cause_is_named_and_nothing_stays(on_cluster, kubectl, variables, named):
    run = on_cluster("playbooks/smoke.yml", "-e", yaml.safe_dump({"smoke_kserve": False, **variables}, default_flow_style=True))
    assert run.code != 0
    assert [part for part in named if part not in run.text] == []
    assert run.seconds < 120
    assert (
        kubectl("get", "ksvc,pods", "--all-namespaces", "--selector=app.kubernetes.io/managed-by=mlops-platform-smoke", "--output=name")
        == ""
    )
