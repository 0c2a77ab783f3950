"""The small stand-ins of the mirror's images: the sample service, the storage initializer."""

from __future__ import annotations

import http.client
import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

FILES = pathlib.Path(__file__).resolve().parents[2] / "roles/mirror/files"


def load(path, monkeypatch):
    """Import a stand-in by its path, beside the files that its image has beside it."""
    monkeypatch.syspath_prepend(str((FILES / path).parent))
    spec = importlib.util.spec_from_file_location(f"standin_{path.stem}", FILES / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hello():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"TARGET": "Go Sample v1", "PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-B", "-S", str(FILES / "standins/helloworld.py")], env=environment)
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.01)
    yield port, process
    process.kill()
    process.wait()


def test_helloworld_answers_every_request_of_a_connection(hello):
    connection = http.client.HTTPConnection("127.0.0.1", hello[0], timeout=5)
    for method, body in (("GET", None), ("POST", b"x" * 100_000), ("HEAD", None), ("GET", None)):
        connection.request(method, "/any/path", body)
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"" if method == "HEAD" else b"Hello Go Sample v1!\n")


def test_helloworld_ends_on_sigterm(hello):
    hello[1].send_signal(signal.SIGTERM)
    assert hello[1].wait(5) == 0


def test_storage_initializer_copies_from_volumes(tmp_path, monkeypatch):
    initializer = load(pathlib.Path("sklearnserver/storage_initializer.py"), monkeypatch)
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/model.joblib").write_bytes(b"model")
    for number, source in enumerate((str(tmp_path / "volume"), f"file://{tmp_path}/volume/model.joblib")):
        initializer.initialize(source, str(tmp_path / f"mnt{number}"))
        assert (tmp_path / f"mnt{number}/model.joblib").read_bytes() == b"model"


def test_storage_initializer_says_what_it_cannot_read(tmp_path, monkeypatch):
    initializer = load(pathlib.Path("sklearnserver/storage_initializer.py"), monkeypatch)
    with pytest.raises(SystemExit, match="cannot read s3://bucket/model: it knows gs://kfserving-examples"):
        initializer.initialize("s3://bucket/model", str(tmp_path))


def test_storage_initializer_trains_the_tutorials_model(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn, which the image has, is not installed here")
    joblib = pytest.importorskip("joblib", reason="joblib, which the image has, is not installed here")
    initializer = load(pathlib.Path("sklearnserver/storage_initializer.py"), monkeypatch)
    initializer.initialize("gs://kfserving-examples/models/sklearn/1.0/model", str(tmp_path))
    model = joblib.load(tmp_path / "model.joblib")
    assert model.predict([[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]).tolist() == [1, 1]
