"""docs/first-notebook.md, done as it says: its commands in its order, in a copy of the checkout, against the rehearsal and the cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from .conftest import ROOT

GUIDE = (ROOT / "docs/first-notebook.md").read_text()
CLIENT, SECRET = "123456789012-abc.apps.googleusercontent.com", "GOCSPX-of-the-guide"
# What a reader has that the test has not
REPLACED = {"my-project": "rehearsal-project", "GOCSPX-…": SECRET, "you@example.com": "engineer@example.com"}


def steps() -> list[tuple[str, str]]:
    """What the guide says to do: ("run", command) and ("write", "file\ncontent"), in order."""
    found, file = [], ""
    for text, language, block in re.findall(r"(.*?)```(\w+)\n(.*?)```", GUIDE, flags=re.S):
        if names := re.findall(r"`(inventories/mine/[\w/.-]+)`", text):
            file = names[-1]
        for before, after in REPLACED.items():
            block = block.replace(before, after)
        if language == "console":
            found += [("run", line.removeprefix("$ ")) for line in block.splitlines()]
        else:
            found.append(("write", f"{file}\n{block}"))
    return found


def test_the_guide_names_what_exists():
    commands = [text for what, text in steps() if what == "run"]
    assert len(commands) > 8
    for command in commands:
        for name in re.findall(r"\S+\.yml\b", command):
            assert (ROOT / name).exists(), command
    for link in re.findall(r"\]\(([^)#:]+)\)", GUIDE):
        assert (ROOT / "docs" / link).exists(), link
    written = [text.partition("\n") for what, text in steps() if what == "write"]
    known = {name for path in ROOT.glob("roles/*/meta/argument_specs.yml") for name in re.findall(r"^      (\w+):", path.read_text(), re.M)}
    for file, _, content in written:
        assert file.startswith("inventories/mine/group_vars/all/")
        assert {name for name in yaml.safe_load(content) if not name.startswith("platform_")} <= known


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the checkout, with its virtual environment."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, files):
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    (tmp_path / "checkout/.venv").symlink_to(ROOT / ".venv")
    return tmp_path / "checkout"


@pytest.mark.cluster
def test_the_guide_leads_to_a_namespace_for_the_colleague(checkout, gke, balanced, kubectl):
    environment = {name: value for name, value in os.environ.items() if name not in ("CLIENT_ID", "CLIENT_SECRET", "VIRTUAL_ENV")}
    mine = checkout / "inventories/mine/group_vars/all"
    gke.knows(CLIENT, SECRET)
    failed = []

    def run(command: str) -> tuple[int, str]:
        """Run a command as in one shell; what it exports or activates holds for the next."""
        script = f"set -e\n. ./.shell\n{command}\nexport -p > ./.shell"
        done = subprocess.run(
            ["bash", "-c", script], cwd=checkout, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1200
        )
        return done.returncode, done.stdout

    (checkout / ".shell").touch()
    for what, text in steps():
        if what == "write":
            file, _, content = text.partition("\n")
            (checkout / file).write_text(content)
            continue
        code, output = run(text)
        if text.startswith("cp "):
            # the rehearsal in place of Google, and what fits on the kind node
            answered = {name: value for name, value in gke.values.items() if not name.startswith("oauth_iap_client")}
            (mine / "zz-rehearsal.yml").write_text(yaml.safe_dump({**answered, "platform_kubeconfig": str(gke.kubeconfig)}))
            for name in gke.small:
                shutil.copy(checkout / f"inventories/kind/group_vars/all/{name}.yml", mine / f"zz-{name}.yml")
        if code:
            failed.append(" ".join(output.split()))
            assert len(failed) <= 2, f"{text}\n{output}"
        assert SECRET not in output, text
    # what the guide says of the first look, and what source packages have no controller for
    assert len(failed) == 2, failed
    assert "OAuth client" in failed[0] and "console" in failed[0], failed[0]
    assert "Notebook" in failed[1], failed[1]
    assert kubectl("get", "namespace", "colleague", "--output=jsonpath={.metadata.annotations.owner}") == "colleague@example.com"
    kubectl("delete", "namespace", "colleague")
