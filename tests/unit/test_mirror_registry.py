import hashlib
import importlib.util
import json
import pathlib
import threading
import urllib.error
import urllib.request

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.mirror.oci import MANIFEST, Entry, Layout

SOURCE = pathlib.Path(__file__).parents[2] / "roles/mirror/files/registry/serve.py"


@pytest.fixture(scope="module")
def serve():
    spec = importlib.util.spec_from_file_location("mirror_registry_serve", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def registry(serve, tmp_path):
    server = serve.server(str(tmp_path), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Layout(tmp_path), f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def add(layout, name):
    descriptor = layout.add_image([layout.add_layer([Entry("file", name.encode())])], {})
    layout.name({name: descriptor})
    return descriptor


def get(url, method="GET"):
    with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
        return answer.status, dict(answer.headers), answer.read()


def test_image_is_found_without_its_registry_and_whatever_containerd_adds(registry):
    layout, url = registry
    descriptor = add(layout, "docker.io/kserve/agent:v0.8.0")
    status, headers, body = get(f"{url}/v2/kserve/agent/manifests/v0.8.0?ns=docker.io")
    assert (status, headers["Content-Type"], headers["Docker-Content-Digest"]) == (200, MANIFEST, descriptor["digest"])
    assert f"sha256:{hashlib.sha256(body).hexdigest()}" == descriptor["digest"]
    for part in [json.loads(body)["config"], *json.loads(body)["layers"]]:
        content = get(f"{url}/v2/kserve/agent/blobs/{part['digest']}")[2]
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == part["digest"] and len(content) == part["size"]
    assert get(f"{url}/v2/kserve/agent/manifests/{descriptor['digest']}")[2] == body


def test_head_says_size_and_digest_without_content(registry):
    layout, url = registry
    descriptor = add(layout, "quay.io/a/b:1")
    _, headers, body = get(f"{url}/v2/a/b/manifests/1", "HEAD")
    assert (headers["Content-Length"], headers["Docker-Content-Digest"], body) == (str(descriptor["size"]), descriptor["digest"], b"")


def test_new_images_appear_without_restart(registry):
    layout, url = registry
    for name in ("a/b:1", "a/b:2"):
        with pytest.raises(urllib.error.HTTPError):
            get(f"{url}/v2/{name.replace(':', '/manifests/')}")
        add(layout, f"gcr.io/{name}")
        assert get(f"{url}/v2/{name.replace(':', '/manifests/')}")[0] == 200


@pytest.mark.parametrize(
    "path", ["/v2/a/b/manifests/1", "/v2/a/b/blobs/sha256:" + "0" * 64, "/v2/a/b/blobs/..%2Findex.json", "/v2/a/b/blobs/..", "/else"]
)
def test_unknown_is_404_with_a_reason(registry, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(registry[1] + path)
    assert refused.value.code == 404
    assert json.load(refused.value)["errors"][0]["message"]


def test_version_check_answers(registry):
    assert get(registry[1] + "/v2/")[0] == 200


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("docker.io/kserve/agent:1", "kserve/agent:1"),
        ("localhost/a:1", "a:1"),
        ("host:5000/a/b:1", "a/b:1"),
        ("a/b:1", "a/b:1"),
        ("a:1", "a:1"),
    ],
)
def test_without_registry(serve, reference, name):
    assert serve.without_registry(reference) == name
