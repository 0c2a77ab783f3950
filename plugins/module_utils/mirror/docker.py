"""The few things that the mirror asks of Docker: load images, and keep the registry's container running."""

from __future__ import annotations

import json
import subprocess
import time

from .engine import Job, StepError
from .oci import Layout

KEY = "mlops.platform.key"  # label: the hash of what an image or a container was made from


def _ask(*argv: str) -> str | None:
    try:
        run = subprocess.run(["docker", *argv], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return run.stdout.strip() if run.returncode == 0 else None


def has_image(name: str, key: str) -> bool:
    """Return whether Docker has the image that was made from these inputs."""
    return _ask("image", "inspect", "-f", f'{{{{index .Config.Labels "{KEY}"}}}}', name) == key


def container_runs(name: str, key: str) -> bool:
    """Return whether the container that was made from these inputs is running."""
    return _ask("container", "inspect", "-f", f'{{{{.State.Running}}}} {{{{index .Config.Labels "{KEY}"}}}}', name) == f"true {key}"


def load(job: Job, layout: Layout, name: str, descriptor: dict) -> None:
    """Give Docker an image of a layout."""
    job.call(["docker", "load", "--quiet"], stdin=layout.archive({name: descriptor}, docker=True))


def run_registry(job: Job, name: str, image: str, network: str, layout: Layout, timeout: float = 60) -> None:
    """(Re)create the registry's container and wait until it answers."""
    if _ask("network", "inspect", network) is None:
        job.call(["docker", "network", "create", network])
    if _ask("container", "inspect", name) is not None:
        job.call(["docker", "rm", "--force", name])
    job.call(
        [
            "docker",
            "run",
            "--detach",
            "--name",
            name,
            "--network",
            network,
            "--restart",
            "unless-stopped",
            "--label",
            f"{KEY}={job.key}",
            "--volume",
            f"{layout.directory}:/layout:ro",
            image,
            "--layout",
            "/layout",
        ]
    )
    check = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/v2/', timeout=5)"
    deadline = time.monotonic() + timeout
    while _ask("exec", name, "python3", "-c", check) is None:
        if time.monotonic() > deadline:
            state = json.loads(_ask("container", "inspect", name) or "[{}]")[0].get("State", {})
            logs = _ask("logs", "--tail", "5", name)
            raise StepError(f"the registry's container {name} does not answer after {timeout:.0f} s: {state.get('Status')}, {logs}")
        time.sleep(0.5)
