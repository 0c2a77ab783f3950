"""Pipelines compiled by the real SDK, and run against a stand-in of the API that knows its real models (kfp_api_stand_in.py)."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from ansible_collections.mlops.platform.plugins.module_utils import pipelines
from ansible_collections.mlops.platform.plugins.modules import pipeline_run

ROOT = Path(__file__).parents[2]
FILES = ROOT / "roles/workloads/files"
LOCK = FILES / "kfp-requirements.txt"
USER = {"x-goog-authenticated-user-email": "accounts.google.com:ada@example.com"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of the tests' own: the SDK is installed into it once, from the lock."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def standin(cache, tmp_path_factory):
    """The stand-in's URL, and the file with the requests it got."""
    home = tmp_path_factory.mktemp("kfp")
    python = pipelines.environment(str(LOCK), str(cache)) / "bin/python"
    command = [str(python), str(Path(__file__).parent / "kfp_api_stand_in.py"), str(home / "port"), str(home / "log")]
    with open(home / "output", "wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        deadline = time.monotonic() + 60
        while not (home / "port").exists() or not (home / "port").read_text():
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail((home / "output").read_text())
            time.sleep(0.1)
        yield f"http://127.0.0.1:{(home / 'port').read_text()}/pipeline", home / "log"
        server.kill()


@pytest.fixture
def asked(standin):
    """What the stand-in has been asked during the test."""
    before = len(standin[1].read_text().splitlines()) if standin[1].exists() else 0
    return lambda: [line.replace("/pipeline/apis/v2beta1", "") for line in standin[1].read_text().splitlines()[before:]]


@pytest.fixture(scope="module")
def example(cache):
    """The example, compiled once: the SDK takes seconds to start."""
    file = cache / "example.yaml"
    file.write_text(yaml.safe_dump(pipelines.compiled(str(FILES / "data_passing.py"), str(LOCK), str(cache))))
    return file


@pytest.fixture
def run(standin, cache, example, capsys, monkeypatch):
    """`run(name, …)` → what the module returns."""
    monkeypatch.setattr(pipelines, "PAUSE", 0.05)

    def call(name, file=example, check_mode=False, **options):
        args = {
            "file": str(file), "requirements": str(LOCK), "cache_dir": str(cache), "url": standin[0], "headers": USER,
            "namespace": "ada", "experiment": "tests", "name": name, "timeout": 20, "_ansible_check_mode": check_mode, **options,
        }  # fmt: skip
        with patch_module_args(args), pytest.raises(SystemExit):
            pipeline_run.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


def test_the_example_is_compiled(example):
    spec = pipelines.compiled(str(example), "", "")
    assert spec["pipelineInfo"]["name"] == "data-passing"
    assert set(spec["root"]["dag"]["tasks"]) == {"preprocess", "train"}
    assert spec["root"]["dag"]["tasks"]["train"]["dependentTasks"] == ["preprocess"]
    assert set(spec["root"]["inputDefinitions"]["parameters"]) == {"test_share", "iterations"}
    assert not list(FILES.glob("**/__pycache__"))


def test_the_environment_is_made_once(cache, monkeypatch):
    pipelines.environment(str(LOCK), str(cache))
    monkeypatch.setattr(pipelines, "_call", None)
    assert (pipelines.environment(str(LOCK), str(cache)) / "bin/kfp").exists()


def test_a_run_is_started_once_and_awaited(run, asked):
    predicted = run("first", check_mode=True, experiment="new")
    assert (predicted["changed"], "run_id" in predicted, asked()) == (True, False, ["GET /experiments"])
    first = run("first", experiment="new", arguments={"iterations": 50}, file=FILES / "data_passing.py")
    assert (first["changed"], first["state"]) == (True, "SUCCEEDED"), first
    assert [(task["name"], task["state"]) for task in first["tasks"]] == [("preprocess", "SUCCEEDED"), ("train", "SUCCEEDED")]
    assert asked().count("POST /runs") == asked().count("POST /experiments") == 1
    again = run("first", experiment="new")
    assert (again["changed"], again["run_id"], asked().count("POST /runs")) == (False, first["run_id"], 1)


def test_a_run_is_found_on_a_later_page(run):
    runs = {name: run(name, experiment="pages", wait=False)["run_id"] for name in ("a", "b", "c", "d", "e")}
    assert {name: run(name, experiment="pages", wait=False)["run_id"] for name in runs} == runs


def test_a_failing_task_is_named(run):
    failed = run("fails")
    assert failed["failed"] and failed["state"] == "FAILED"
    assert failed["msg"] == "the run fails has ended as FAILED: task train failed: this step failed with exit code 1"


def test_a_run_that_does_not_end_names_what_it_waits_for(run):
    late = run("stays", timeout=0.3)
    assert late["failed"] and late["run_id"]
    assert (
        "the run stays has not ended within 0.3 s: its state is RUNNING; not ended yet: preprocess (RUNNING), train (RUNNING)"
        in late["msg"]
    )


def test_arguments_that_the_pipeline_does_not_have_are_refused(run):
    assert run("wrong", arguments={"epochs": 1})["msg"] == "POST /runs: Invalid input: the pipeline has no parameter epochs (status 400)"


def test_who_asks_may_be_told_by_a_token_which_is_shown_nowhere(run):
    found = run("by-token", headers={}, token="of-the-test")
    assert found["state"] == "SUCCEEDED" and "of-the-test" not in json.dumps(found)
    refused = run("nobody", headers={}, token="of-somebody")
    assert "status 401" in refused["msg"] and "Remedy: say who asks" in refused["msg"] and "of-somebody" not in json.dumps(refused)


def test_what_is_no_pipeline_is_named(run, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_the_kind\n")
    message = run("broken", file=broken)["msg"]
    assert f"cannot compile {broken}: " in message and "No module named 'nothing_of_the_kind'" in message
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"kind": "Deployment"}))
    assert "other.yaml is not a compiled pipeline. Remedy" in run("other", file=other)["msg"]


def test_an_address_where_nobody_is(run, free_port):
    assert "cannot talk to 127.0.0.1" in run("away", url=f"http://127.0.0.1:{free_port}/pipeline")["msg"]
