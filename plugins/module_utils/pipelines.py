# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pipelines of Kubeflow: compiled by the SDK in a virtual environment of its own, run through the API (v2beta1)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

import yaml

from ansible_collections.mlops.platform.plugins.module_utils.http_probe import Request

ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
PAUSE = 2.0  # seconds between looks at a run
PAGE = 100
API = "/apis/v2beta1"


class PipelineError(Exception):
    """A pipeline cannot be compiled or run. The message names the remedy."""


# -- compiling ----------------------------------------------------------------------------------------------------------


def environment(requirements: str, cache_dir: str) -> Path:
    """The virtual environment with exactly these packages, made if it is not there yet. Its name is the hash of what they are."""
    lock = Path(requirements).expanduser()
    home = Path(cache_dir).expanduser() / "kfp" / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    done = home / "complete"
    if done.exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(home.parent / ".lock", "w") as busy:  # two runs at once: the second waits, and finds the work done
        fcntl.flock(busy, fcntl.LOCK_EX)
        if not done.exists():
            uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
            if not uv:
                raise PipelineError("uv is not on PATH. Remedy: install it (pip install uv), or give the pipeline compiled, as .yaml")
            _call([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)], "make a virtual environment")
            _call(
                [uv, "pip", "sync", "--quiet", "--require-hashes", str(lock)],
                "install the SDK of Kubeflow Pipelines",
                VIRTUAL_ENV=str(home),
            )
            done.touch()
    return home


def compiled(file: str, requirements: str, cache_dir: str) -> dict:
    """The specification of the pipeline in a file; one in Python is compiled first."""
    path = Path(file).expanduser()
    text = path.read_text() if path.suffix != ".py" else _compile(path, environment(requirements, cache_dir))
    found = [doc for doc in yaml.safe_load_all(text) if doc]
    if not found or not isinstance(found[0], dict) or "pipelineInfo" not in found[0]:
        raise PipelineError(f"{path} is not a compiled pipeline. Remedy: compile it: kfp dsl compile --py <file>.py --output {path.name}")
    return found[0] if len(found) == 1 else {"pipeline_spec": found[0], "platform_spec": found[1]}


def _compile(path: Path, home: Path) -> str:
    output = home / f"{path.stem}-{os.getpid()}.yaml"
    try:
        command = [str(home / "bin/kfp"), "dsl", "compile", "--py", str(path), "--output", str(output)]
        # modules beside the pipeline are found, and nothing of the environment that runs this is
        _call(command, f"compile {path}", PYTHONPATH=str(path.resolve().parent), PYTHONDONTWRITEBYTECODE="1")
        return output.read_text()
    finally:
        output.unlink(missing_ok=True)


def _call(command: list[str], what: str, **environ: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run(command, env={**kept, "UV_SYSTEM_CERTS": "1", **environ}, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise PipelineError(f"cannot {what}: {' / '.join(said[-3:])}")


# -- the API ------------------------------------------------------------------------------------------------------------


@dataclass
class Pipelines:
    """The API of Kubeflow Pipelines at a URL, for one namespace. `host` and `ca_path` are as for http_probe.Request."""

    url: str
    namespace: str
    headers: dict[str, str] = field(default_factory=dict)
    host: str | None = None
    ca_path: str | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def experiment(self, name: str) -> dict | None:
        """The experiment of that name."""
        return self._named("experiments", name, namespace=self.namespace)

    def create_experiment(self, name: str) -> dict:
        """Make an experiment."""
        return self.request("POST", "/experiments", {"display_name": name, "namespace": self.namespace})

    def run(self, name: str, experiment_id: str) -> dict | None:
        """The latest run of that name."""
        return self._named("runs", name, namespace=self.namespace, experiment_id=experiment_id, sort_by="created_at desc")

    def start(self, name: str, experiment_id: str, spec: dict, arguments: dict) -> dict:
        """Start a run."""
        body = {"display_name": name, "experiment_id": experiment_id, "pipeline_spec": spec, "runtime_config": {"parameters": arguments}}
        return self.request("POST", "/runs", body)

    def wait(self, run: dict, timeout: float) -> dict:
        """The run when it has ended."""
        start = self.clock()
        while True:
            found = self.request("GET", f"/runs/{quote(run['run_id'], safe='')}")
            if found.get("state") in ENDED:
                return found
            if self.clock() - start > timeout:
                busy = [f"{task['name']} ({task['state']})" for task in tasks(found) if task["state"] not in ENDED]
                raise PipelineError(
                    f"the run {found.get('display_name')} has not ended within {timeout:g} s: its state is {found.get('state')}; "
                    f"not ended yet: {', '.join(busy) or 'nothing has started'}"
                )
            self.sleep(PAUSE)

    def request(self, method: str, path: str, body: dict | None = None) -> dict:
        """One request; an answer that is none of the API is an error."""
        headers = {**self.headers, **({"Content-Type": "application/json"} if body is not None else {})}
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url.rstrip('/')}{API}{path}", method, self.host, headers, data, timeout=60, ca_path=self.ca_path)
        answer = request.send()
        if answer.error or answer.status in (301, 302, 303, 307, 401, 403):
            who = f" Remedy: say who asks (headers or token), or ask as somebody who may use {self.namespace}" if not answer.error else ""
            raise PipelineError(f"{method} {self.url}{API}{path.partition('?')[0]}: {answer}.{who}")
        try:
            found = json.loads(answer.body)
        except ValueError:
            raise PipelineError(f"{self.url} is not Kubeflow Pipelines: it answers {answer}. Remedy: check the URL") from None
        if answer.status != 200 or not isinstance(found, dict):
            said = found.get("message") or found.get("error") if isinstance(found, dict) else answer
            raise PipelineError(f"{method} {path.partition('?')[0]}: {said} (status {answer.status})")
        return found

    def _named(self, what: str, name: str, **query: str) -> dict | None:
        page = ""
        while True:
            found = self.request("GET", f"/{what}?{urlencode({**query, 'page_size': PAGE, 'page_token': page})}")
            match = next((item for item in found.get(what) or [] if item.get("display_name") == name), None)
            page = found.get("next_page_token") or ""
            if match or not page:
                return match


def tasks(run: dict) -> list[dict]:
    """{name, state, error, outputs} of each task of a run, in order of their start; without what the system does between them."""
    details = (run.get("run_details") or {}).get("task_details") or []
    return [
        {
            "name": task.get("display_name") or task.get("task_id"),
            "state": task.get("state") or "PENDING",
            "error": (task.get("error") or {}).get("message") or "",
            "outputs": task.get("outputs") or {},
        }
        for task in sorted(details, key=lambda task: task.get("start_time") or "~")
        if not (task.get("display_name") or "").endswith(("-driver", "executor", "root"))
    ]


def failure(run: dict) -> str:
    """Why a run did not succeed: which task failed, and with what."""
    failed = [task for task in tasks(run) if task["state"] == "FAILED"]
    named = "; ".join(f"task {task['name']} failed" + (f": {task['error']}" if task["error"] else "") for task in failed)
    said = (run.get("error") or {}).get("message") or ""
    return f"the run {run.get('display_name')} has ended as {run.get('state')}: {named or said or 'it does not say why'}"
