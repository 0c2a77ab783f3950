"""Kubeflow's source trees, laid out as the role lays its archives out, from stored copies of them.

The copies have data files only. What their kustomizations name besides is an empty stand-in here, so what is built is not quite what
the role builds of the archives. What a tree names by URL comes from the Go modules of the same tag.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("MLOPS_PLATFORM_CACHE") or "~/.cache/mlops-platform").expanduser()
# by catalog, the release set that has this Kubeflow
RELEASES = {"1.8": "serving-1.14", "26.03": "serving-1.15"}
STAND_INS = {
    "1.8": ["apps/pipelines/upstream/base/installs/multi-user/pipelines-profile-controller/sync.py"],
    "26.03": [
        "applications/pipeline/upstream/base/installs/multi-user/pipelines-profile-controller/sync.py",
        "common/oauth2-proxy/base/kubeflow-logo.svg",
    ],
}
MODULES = {"argo": "github.com/argoproj/argo-workflows/v3@v3.7.3", "jobset": "sigs.k8s.io/jobset@v0.11.0"}


def upstream() -> Path:
    """The directory with the copies; without it the test is skipped."""
    directory = Path(os.environ.get("MLOPS_PLATFORM_UPSTREAM") or "/nonexistent")
    if not (directory / "kubeflow-distribution-1.8.0").is_dir():
        pytest.skip("MLOPS_PLATFORM_UPSTREAM names no directory with Kubeflow's source trees")
    return directory


def kubectl() -> str:
    """The cache's kubectl, or the one of the machine."""
    found = shutil.which(str(CACHE / "bin/kubectl")) or shutil.which("kubectl")
    if not found:
        pytest.skip("there is no kubectl: make up")
    return found


def lay_out(catalog: str, archives: dict[str, dict[str, str]], target: Path) -> Path:
    """Make the source tree of a catalog in an empty directory; returns what `kubeflow_manifests` names."""
    copies = upstream()
    if catalog == "1.8":
        tree = target / "kubeflow"
        shutil.copytree(copies / "kubeflow-distribution-1.8.0/kubeflow", tree)
        with tarfile.open(copies / "kubeflow-distribution-1.8.0-pulled-upstream.tar.gz") as archive:
            archive.extractall(target, filter="data")
    else:
        tree = target
        with tarfile.open(copies / "kubeflow-community-distribution-f09f3eea.tar.gz") as archive:
            wanted = tuple(f"{path}/" for path in archives["manifests"])
            members = [member for member in archive if member.name.removeprefix("./").startswith(wanted)]
            archive.extractall(tree, members=members, filter="data")
        for name, module in MODULES.items():
            for source, place in archives[name].items():
                shutil.copytree(_module(module) / source, tree / place, copy_function=shutil.copyfile)
                for directory in [tree / place, *(path for path in (tree / place).rglob("*") if path.is_dir())]:
                    directory.chmod(0o755)  # Go's are read-only
    for path in STAND_INS[catalog]:
        (tree / path).touch(exist_ok=False)
    return tree


def _module(name: str) -> Path:
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go") or shutil.which(str(CACHE / "mirror/wheels/go/go/bin/go"))
    if not go:
        pytest.skip("there is no Go to fetch modules with: make up")
    done = subprocess.run([go, "mod", "download", "-json", name], capture_output=True, text=True, timeout=300, cwd="/")
    assert done.returncode == 0, f"{name} cannot be fetched: {done.stdout}{done.stderr}"
    return Path(json.loads(done.stdout)["Dir"])
