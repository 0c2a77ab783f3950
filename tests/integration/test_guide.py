"""docs/first-notebook.md: what its commands and files name exists."""

from __future__ import annotations

import re

import yaml

from .conftest import ROOT

GUIDE = (ROOT / "docs/first-notebook.md").read_text()


def steps() -> list[tuple[str, str]]:
    """What the guide says to do: ("run", command) and ("write", "file\ncontent"), in order."""
    found, file = [], ""
    for text, language, block in re.findall(r"(.*?)```(\w+)\n(.*?)```", GUIDE, flags=re.S):
        if names := re.findall(r"`(inventories/mine/[\w/.-]+)`", text):
            file = names[-1]
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
