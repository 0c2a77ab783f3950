"""Artifacts against a local HTTP server: verified, cached, repaired, and errors that say what to do."""

from __future__ import annotations

import hashlib
import http.server
import os
import pathlib
import threading

import pytest

from ansible_collections.mlops.platform.plugins.module_utils import artifacts as module
from ansible_collections.mlops.platform.plugins.module_utils.artifacts import ArtifactError, Store

CONTENT = {"/one.yaml": b"kind: One\n", "/chart/Chart.yaml": b"name: chart\n", "/chart/templates/a.yaml": b"kind: A\n"}


def sha256(path):
    return hashlib.sha256(CONTENT[path]).hexdigest()


def read(*parts):
    return pathlib.Path(*parts).read_bytes()


ONE = {"sha256": sha256("/one.yaml")}
TREE = {"Chart.yaml": sha256("/chart/Chart.yaml"), "templates/a.yaml": sha256("/chart/templates/a.yaml")}


class Upstream(http.server.ThreadingHTTPServer):
    """Serves CONTENT, counts, and fails on request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.failures, self.url = [], [], f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        status = self.server.failures.pop() if self.server.failures else 200 if self.path in CONTENT else 404
        self.send_response(status)
        body = CONTENT.get(self.path, b"") if status == 200 else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Quiet."""


@pytest.fixture
def upstream(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Upstream()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(tmp_path):
    return lambda **options: Store(str(tmp_path), "demo", "1.0", **options)


def leftovers(tmp_path):
    """What is in the cache beside the lock."""
    root = tmp_path / "artifacts"
    return sorted(name for name in os.listdir(root) if name != ".lock") if root.is_dir() else []


def test_file_and_tree_are_fetched_once(store, upstream, tmp_path):
    wanted = {"one": {"url": f"{upstream.url}/one.yaml", **ONE}, "chart": {"url": f"{upstream.url}/chart", "files": TREE}}
    first = store()
    paths = first.provide(wanted)
    assert paths["one"] == str(tmp_path / "artifacts" / ONE["sha256"] / "one.yaml")
    assert read(paths["one"]) == CONTENT["/one.yaml"]
    assert read(paths["chart"], "templates", "a.yaml") == CONTENT["/chart/templates/a.yaml"]
    assert first.fetched == ["one", "chart"] and first.warnings == []
    assert sorted(upstream.requests) == sorted(CONTENT)
    second = store()
    assert second.provide(wanted) == paths and second.fetched == []
    assert len(upstream.requests) == 3
    assert leftovers(tmp_path) == sorted([ONE["sha256"], module.tree_sum(TREE)])


def test_wrong_sum_keeps_nothing(store, upstream, tmp_path):
    wrong = "0" * 64
    with pytest.raises(ArtifactError) as error:
        store().provide({"one": {"url": f"{upstream.url}/one.yaml", "sha256": wrong}})
    for part in (f"{upstream.url}/one.yaml", wrong, ONE["sha256"], "Nothing was kept"):
        assert part in str(error.value)
    assert leftovers(tmp_path) == []


def test_one_wrong_file_keeps_nothing_of_a_tree(store, upstream, tmp_path):
    with pytest.raises(ArtifactError, match="chart/Chart.yaml has the wrong content"):
        store().provide({"chart": {"url": f"{upstream.url}/chart", "files": {**TREE, "Chart.yaml": "0" * 64}}})
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("damage", [lambda path: pathlib.Path(path).write_text("other"), os.remove])
def test_damaged_cache_is_repaired_and_reported(store, upstream, damage):
    wanted = {"one": {"url": f"{upstream.url}/one.yaml", **ONE}}
    path = store().provide(wanted)["one"]
    damage(path)
    again = store()
    assert again.provide(wanted)["one"] == path
    assert read(path) == CONTENT["/one.yaml"]
    assert len(again.warnings) == 1 and path in again.warnings[0] and "fetched again" in again.warnings[0]


def test_file_that_does_not_belong_to_a_tree(store, upstream):
    """Helm would load it with the chart."""
    wanted = {"chart": {"url": f"{upstream.url}/chart", "files": TREE}}
    path = store().provide(wanted)["chart"]
    extra = pathlib.Path(path, "templates", "extra.yaml")
    extra.touch()
    again = store()
    again.provide(wanted)
    assert not extra.exists() and len(again.warnings) == 1


def test_unverified_is_usable_and_named(store, upstream):
    wanted = {"one": {"url": f"{upstream.url}/one.yaml", "sha256": None}}
    for _run in range(2):
        run = store()
        assert read(run.provide(wanted)["one"]) == CONTENT["/one.yaml"]
        assert len(run.warnings) == 1
        for part in ("one", f"{upstream.url}/one.yaml", ONE["sha256"], "not verified"):
            assert part in run.warnings[0]
    assert len(upstream.requests) == 1


def test_unverified_file_of_a_tree(store, upstream):
    run = store()
    run.provide({"chart": {"url": f"{upstream.url}/chart", "files": {**TREE, "Chart.yaml": None}}})
    assert len(run.warnings) == 1 and TREE["Chart.yaml"] in run.warnings[0]


def test_missing_upstream(store, upstream):
    with pytest.raises(ArtifactError, match=r"/none\.yaml cannot be fetched: the server answers 404 .*address in the release set is wrong"):
        store().provide({"one": {"url": f"{upstream.url}/none.yaml", "sha256": None}})


def test_unreachable_names_cause_and_remedies(store):
    with pytest.raises(ArtifactError, match=r"(?i)127\.0\.0\.1:1/x.*refused.*https_proxy.*platform_source=packages.*make up"):
        store().provide({"one": {"url": "http://127.0.0.1:1/x", "sha256": None}})


def test_silent_server_is_given_up_after_the_timeout(store):
    # nobody serves: the connection is accepted by the kernel only
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as silent, pytest.raises(ArtifactError, match=r"no answer within 0\.2 s"):
        store(timeout=0.2).provide({"one": {"url": f"http://127.0.0.1:{silent.server_port}/x", "sha256": None}})


def test_busy_server_is_asked_again(store, upstream):
    upstream.failures = [503]
    assert store().provide({"one": {"url": f"{upstream.url}/one.yaml", **ONE}})
    assert len(upstream.requests) == 2


def test_proxy_is_honoured(store, upstream, monkeypatch):
    """The proxy is asked for an address that nobody else could answer."""
    monkeypatch.setenv("http_proxy", upstream.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setitem(CONTENT, "http://upstream.invalid/one.yaml", CONTENT["/one.yaml"])
    assert store().provide({"one": {"url": "http://upstream.invalid/one.yaml", **ONE}})
    assert upstream.requests == ["http://upstream.invalid/one.yaml"]


def test_password_of_a_proxy_is_not_shown(store, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:hidden@127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ArtifactError, match="The proxy http://127.0.0.1:1 is in use") as error:
        store().provide({"one": {"url": "http://upstream.invalid/x", "sha256": None}})
    assert "hidden" not in str(error.value)


def test_what_a_killed_run_left_is_removed(store, upstream, tmp_path):
    left = tmp_path / "artifacts" / ".fetch-killed"
    left.mkdir(parents=True)
    store().provide({"one": {"url": f"{upstream.url}/one.yaml", **ONE}})
    assert not left.exists()


def test_two_runs_at_once_fetch_once(store, upstream):
    wanted = {"one": {"url": f"{upstream.url}/one.yaml", **ONE}, "chart": {"url": f"{upstream.url}/chart", "files": TREE}}
    results, threads = [], []
    for _run in range(4):
        threads.append(threading.Thread(target=lambda: results.append(store().provide(wanted))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(result == results[0] for result in results)
    assert len(upstream.requests) == 3


# -- from packages


def generated(tmp_path):
    base = tmp_path / "packages" / "demo-1.0"
    (base / "chart" / "templates").mkdir(parents=True)
    (base / "one.yaml").write_bytes(CONTENT["/one.yaml"])
    (base / "chart" / "Chart.yaml").write_bytes(CONTENT["/chart/Chart.yaml"])
    (base / "chart" / "templates" / "a.yaml").write_bytes(CONTENT["/chart/templates/a.yaml"])
    (base / "chart" / "README.md").write_text("not in the list, so not in the result")
    return base


def test_packages_are_verified_and_used(store, tmp_path):
    generated(tmp_path)
    (tmp_path / "source").write_text("packages\n")
    run = store()
    paths = run.provide(
        {
            "one": {"url": "https://upstream.invalid/release.yaml", "sha256": "0" * 64, "packages_sha256": ONE["sha256"]},
            "chart": {"url": "https://upstream.invalid/chart", "files": TREE},
        }
    )
    assert run.source == "packages" and run.warnings == []
    assert read(paths["one"]) == CONTENT["/one.yaml"]
    assert sorted(os.listdir(paths["chart"])) == ["Chart.yaml", "templates"]


def test_packages_with_other_bytes(store, tmp_path):
    (generated(tmp_path) / "one.yaml").write_text("other")
    with pytest.raises(ArtifactError, match=r"packages/demo-1\.0/one\.yaml has the wrong content(.|\n)*make mirror"):
        store(source="packages").provide({"one": {"url": "https://upstream.invalid/x", **ONE}})


def test_packages_unverified_follow_what_is_generated(store, tmp_path):
    base = generated(tmp_path)
    for text in ("first", "second"):
        (base / "one.yaml").write_text(text)
        run = store(source="packages")
        assert read(run.provide({"one": {"url": "https://upstream.invalid/x", "sha256": None}})["one"]) == text.encode()
        assert len(run.warnings) == 1 and "one.yaml" in run.warnings[0]


def test_packages_that_are_missing_name_the_mirror(store):
    with pytest.raises(ArtifactError, match=r"demo 1\.0: .*/demo-1\.0/one\.yaml does not exist.*make mirror.*playbooks/mirror"):
        store(source="packages").provide({"one": {"url": "https://upstream.invalid/x", "sha256": None}})


def test_source_file_with_nonsense(store, tmp_path):
    (tmp_path / "source").write_text("elsewhere")
    with pytest.raises(ArtifactError, match="'elsewhere'.*make up"):
        store()
