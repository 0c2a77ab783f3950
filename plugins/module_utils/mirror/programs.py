"""Compiles programs out of Go modules, each in the module's own sources and with the dependencies of its own go.mod.

The module cache is not copied and not written to: a copy of go.mod carries what has to differ from the module's.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess

from .engine import Job, StepError, remove_tree, write_atomic

# -trimpath: the same bytes wherever the caches are. Debugging information would cost a tenth of the time and is stripped anyway.
FLAGS = ["-buildvcs=false", "-trimpath", "-gcflags=all=-dwarf=false"]


class GoError(Exception):
    """There is no Go that can build the programs."""


def go_version(binary: str | pathlib.Path, run=subprocess.run) -> tuple[int, ...]:
    """Return the version of a Go installation; () where it does not run."""
    try:
        out = run(
            [str(binary), "env", "GOVERSION"], capture_output=True, text=True, check=True, env={**os.environ, "GOTOOLCHAIN": "local"}
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(int(part) for part in re.findall(r"\d+", out))


def find_go(minimum: str, candidates: list[str | pathlib.Path]) -> str | None:
    """Return the first Go installation that is new enough."""
    wanted = tuple(int(part) for part in minimum.split("."))
    for candidate in candidates:
        found = shutil.which(str(candidate))
        if found and go_version(found) >= wanted:
            return found
    return None


def program_name(package: str, module: str) -> str:
    """Return what Go calls the program of a package: the last element of its path that is not a major version."""
    elements = [element for element in f"{module}/{package}".split("/") if element != "."]
    if re.fullmatch(r"v\d+", elements[-1]):
        elements.pop()
    return elements[-1]


def normalized(programs: list[str | dict], module: str) -> list[dict]:
    """Return the long form of a recipe's programs."""
    result = []
    for program in programs:
        item = {"package": program} if isinstance(program, str) else dict(program)
        result.append({"name": program_name(item["package"], module), "tags": [], **item})
    return result


def own_modfile(text: str, replacement: str) -> str:
    """Return a go.mod whose replacements by local directories are replacements by a published version instead."""
    lines, inside = [], False
    for line in text.splitlines():
        stripped = line.split("//")[0].strip()
        if stripped == "replace (":
            inside = True
        elif inside and stripped == ")":
            inside = False
        match = re.match(r"^(\s*(?:replace\s+)?)(\S+)(?:\s+v\S+)?\s*=>\s*(\.\.?/\S+)", line.split("//")[0])
        if match and (inside or line.lstrip().startswith("replace")):
            # a directory that is only there to forbid a dependency stays as it is: nothing may ask for it
            if "FORBIDDEN" in match[3].upper():
                continue
            line = f"{match[1]}{match[2]} => {match[2]} {replacement}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def kept_imports(text: str, keep: list[str]) -> str:
    """Return a Go file without its imports for effect (`_ "path"`), except those whose last element is in `keep`."""
    found, lines = set(), []
    for line in text.splitlines():
        match = re.match(r'^\s*(?:import\s+)?_ "([^"]+)"', line)
        if match:
            last = match[1].rsplit("/", 1)[-1]
            if last not in keep:
                continue
            found.add(last)
        lines.append(line)
    if missing := sorted(set(keep) - found):
        raise StepError(f"the file imports no {', '.join(missing)}")
    return "\n".join(lines) + "\n"


class Go:
    """A Go installation and the caches that it works with."""

    def __init__(self, binary: str, environment: dict[str, str] | None = None):
        self.binary = binary
        self.env = {
            **os.environ,
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "CGO_ENABLED": "0",
            "GOOS": "linux",
            "GOARCH": "amd64",
            "GOFLAGS": "",
            **(environment or {}),
        }

    def download(self, job: Job, module: dict) -> dict:
        """Fetch a module into Go's cache and verify its sum; return {dir, sum, version}."""
        name = f"{module['path']}@{module['version']}"
        out = job.call([self.binary, "mod", "download", "-json", name], capture=True, check=False, cwd="/", env=self.env)
        answer = json.loads(out) if out.strip() else {}
        if answer.get("Error") or "Dir" not in answer:
            raise StepError(f"Go module {name} cannot be had: {answer.get('Error') or 'go mod download says nothing'}")
        if answer["Sum"] != module["sum"]:
            raise StepError(
                f"Go module {name} has the sum {answer['Sum']}, expected is {module['sum']}: it is not the module that was verified; "
                "compare both with the checksum database before changing the release set or roles/mirror/vars"
            )
        return {"dir": answer["Dir"], "sum": answer["Sum"], "version": answer["Version"]}

    def arguments(self, module_dir: pathlib.Path, work: pathlib.Path, recipe: dict) -> tuple[pathlib.Path, list[str]]:
        """Write what has to differ from the module's own files; return where to build and the arguments that make Go use it."""
        if recipe.get("keep_imports") or recipe.get("links"):
            # Go refuses to overlay files of its module cache: these few modules are copied
            copy = work / "src"
            remove_tree(copy)
            shutil.copytree(module_dir, copy, copy_function=shutil.copyfile)
            for name, keep in (recipe.get("keep_imports") or {}).items():
                (copy / name).parent.chmod(0o755)
                write_atomic(copy / name, kept_imports((module_dir / name).read_text(), keep))
            for name, target in (recipe.get("links") or {}).items():
                (copy / name).parent.chmod(0o755)
                write_atomic(copy / name, (copy / name).parent.joinpath(target).read_bytes())
            module_dir = copy
        if not recipe.get("local_replaces"):
            return module_dir, ["-mod=readonly"]
        modfile = work / "go.mod"
        write_atomic(modfile, own_modfile((module_dir / "go.mod").read_text(), recipe["local_replaces"]))
        if not (work / "go.sum").exists():
            shutil.copyfile(module_dir / "go.sum", work / "go.sum")
        # the sums of the published versions are not in the module's go.sum: Go adds them, checked by the checksum database
        return module_dir, [f"-modfile={modfile}", "-mod=mod"]

    def sources(self, job: Job, module_dir: str, work: pathlib.Path, recipe: dict) -> None:
        """Fetch the modules that the programs need, and no others."""
        directory, arguments = self.arguments(pathlib.Path(module_dir), work, recipe)
        for tags, packages in _by_tags(recipe):
            job.call(
                [
                    self.binary,
                    "list",
                    *arguments,
                    f"-tags={tags}",
                    "-deps",
                    "-f",
                    "{{with .Error}}{{.}}{{end}}",
                    *(f"./{program['package']}" for program in packages),
                ],
                cwd=directory,
                env=self.env,
            )

    def build(self, job: Job, module_dir: str, work: pathlib.Path, recipe: dict, target: pathlib.Path) -> None:
        """Compile a recipe's programs into a directory."""
        directory, arguments = self.arguments(pathlib.Path(module_dir), work, recipe)
        target.mkdir(parents=True, exist_ok=True)
        new = work / "bin"
        for tags, packages in _by_tags(recipe):
            new.mkdir(parents=True, exist_ok=True)
            named = {program_name(program["package"], recipe["module"]["path"]): program["name"] for program in packages}
            job.call(
                [
                    self.binary,
                    "build",
                    *FLAGS,
                    *arguments,
                    f"-tags={tags}",
                    f"-ldflags=-s -w {recipe.get('ldflags') or ''}".strip(),
                    "-o",
                    f"{new}/",
                    *(f"./{program['package']}" for program in packages),
                ],
                cwd=directory,
                env=self.env,
            )
            for built, name in named.items():
                (new / built).replace(target / name)
        for program in recipe.get("c_programs") or []:
            job.call(["gcc", "-Os", "-static", "-o", new / program["name"], pathlib.Path(module_dir, program["source"])])
            (new / program["name"]).replace(target / program["name"])


def _by_tags(recipe: dict) -> list[tuple[str, list[dict]]]:
    groups: dict[str, list[dict]] = {}
    for program in recipe["programs"]:
        groups.setdefault(",".join(program["tags"]), []).append(program)
    return sorted(groups.items())
