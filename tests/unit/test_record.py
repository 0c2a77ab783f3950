"""releases/record.py against a local HTTP server: fills in what is null, keeps everything else, never replaces a sum."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
import pathlib
import threading

import pytest

PATH = pathlib.Path(__file__).resolve().parents[2] / "releases" / "record.py"
SPEC = importlib.util.spec_from_file_location("record", PATH)
record = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(record)

ONE, TWO = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"two").hexdigest()
RELEASE = """---
name: x  # a comment
kubernetes:
  node_image_digest: null  # not yet verified
istio:
  artifacts:
    one:
      url: {url}/one.yaml
      sha256: null  # not yet verified
      packages_sha256: null  # another matter
    empty:
      url: {url}/one.yaml
      sha256:
    tree:
      url: {url}/tree
      files:
        two.yaml: ~
        known.yaml: {known}
"""


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """The address of a server, and the directory that it serves."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "upstream"
    (root / "tree").mkdir(parents=True)
    (root / "one.yaml").write_text("one")
    (root / "tree" / "two.yaml").write_text("two")
    (root / "tree" / "known.yaml").write_text("two")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    thread.join()
    server.server_close()


def expected(url, known):
    text = RELEASE.format(url=url, known=known).replace("null  # not yet verified\n      packages", f"{ONE}\n      packages")
    return text.replace("sha256:\n", f"sha256: {ONE}\n").replace("two.yaml: ~", f"two.yaml: {TWO}")


@pytest.fixture
def release(upstream, tmp_path):
    path = tmp_path / "x.yml"
    path.write_text(RELEASE.format(url=upstream[0], known=TWO))
    return path


def test_fills_in_and_keeps_the_rest(upstream, release, capsys):
    assert record.main(["--release", str(release)]) == 0
    assert release.read_text() == expected(upstream[0], TWO)
    assert "3 recorded" in capsys.readouterr().out
    assert record.main(["--release", str(release)]) == 0
    assert "0 recorded" in capsys.readouterr().out


def test_from_files(tmp_path, upstream):
    path = tmp_path / "x.yml"
    path.write_text(RELEASE.format(url="https://upstream.invalid/a", known=TWO))
    assert record.main(["--release", str(path), "--from", f"https://upstream.invalid/a={upstream[1]}"]) == 0
    assert path.read_text() == expected("https://upstream.invalid/a", TWO)


def test_a_recorded_sum_is_never_replaced(upstream, release, capsys):
    release.write_text(RELEASE.format(url=upstream[0], known=ONE))
    assert record.main(["--release", str(release)]) == 0  # it is not even looked at
    assert record.main(["--release", str(release), "--check"]) == 1
    assert release.read_text() == expected(upstream[0], ONE)
    error = capsys.readouterr().err
    assert f"known.yaml: recorded is {ONE}, but it has {TWO}" in error


def test_what_cannot_be_had_is_named_and_the_rest_recorded(upstream, release, capsys):
    (upstream[1] / "one.yaml").unlink()
    assert record.main(["--release", str(release)]) == 1
    assert f"two.yaml: {TWO}" in release.read_text() and "one.yaml cannot be fetched" in capsys.readouterr().err


def test_unknown_release(capsys):
    assert record.main(["--release", "nonsense"]) == 1
    assert "nonsense.yml" in capsys.readouterr().err
