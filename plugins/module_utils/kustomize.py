# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Source trees of manifests, and kustomize builds of them: in parallel, kept under the hash of what they are made of.

A tree is a directory, or is unpacked once out of archives. A build is a kustomization that names parts of its tree below `tree/`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.mlops.platform.plugins.module_utils.documents import DocumentError, parse

TIMEOUT = 300  # seconds of one build; the largest known takes two
KUSTOMIZE_MINIMUM = 5
# Part of every key: a change of how builds are made makes them anew.
FORM = 1


class KustomizeError(Exception):
    """A tree that cannot be had, or builds that fail; with the remedy."""


def file_hash(path: str | os.PathLike) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_hash(directory: pathlib.Path) -> str:
    """The sha256 of what is below a directory: paths, contents and the targets of symbolic links. Dot directories do not count."""
    lines = []
    for place, directories, files in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted([*files, *(entry for entry in directories if os.path.islink(os.path.join(place, entry)))]):
            path = os.path.join(place, name)
            content = f"-> {os.readlink(path)}" if os.path.islink(path) else file_hash(path)
            lines.append(f"{content}  {os.path.relpath(path, directory)}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Workshop:
    """Trees and builds in one cache, made with one kubectl."""

    def __init__(self, cache_dir: str, kubectl: str):
        self.cache = pathlib.Path(cache_dir).expanduser().absolute()
        self.kubectl = kubectl
        self.built: list[str] = []  # what the cache did not have

    # -- trees

    def tree(self, name: str, source: str | list[dict]) -> tuple[pathlib.Path, str]:
        """The directory of a tree, and its hash; `source` is the directory, or the archives [{file, paths}] that it is unpacked from."""
        if not isinstance(source, str):
            return self._unpacked(name, source)
        directory = pathlib.Path(source).expanduser().absolute()
        if not directory.is_dir():
            raise KustomizeError(f"tree {name}: {directory} is not a directory. Name the directory of an unpacked source tree.")
        return directory, tree_hash(directory)

    def _unpacked(self, name: str, archives: list[dict]) -> tuple[pathlib.Path, str]:
        made_of = [[file_hash(archive["file"]), archive.get("paths") or {".": "."}] for archive in archives]
        key = hashlib.sha256(json.dumps([FORM, made_of]).encode()).hexdigest()
        target = self.cache / "trees" / f"{name}-{key[:16]}"
        recorded = target.with_name(f"{target.name}.sha256")
        if target.is_dir() and recorded.is_file():
            there = tree_hash(target)
            if recorded.read_text(encoding="utf-8") == there:
                return target, there
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=target.parent) as scratch:
            new = pathlib.Path(scratch, "tree")
            for number, archive in enumerate(archives):
                self._unpack(name, archive, pathlib.Path(scratch, str(number)), new)
            there = tree_hash(new)
            if target.exists():  # damaged, or somebody changed it
                shutil.rmtree(target)
            new.rename(target)
            recorded.write_text(there, encoding="utf-8")
        return target, there

    @staticmethod
    def _unpack(name: str, archive: dict, scratch: pathlib.Path, target: pathlib.Path) -> None:
        """Put the directories `paths` {in the archive: in the tree} of an archive, whose own top directory does not count, into place."""
        try:
            with tarfile.open(archive["file"]) as opened:
                opened.extractall(scratch, filter="data")
        except (OSError, tarfile.TarError) as error:
            cause = "; ".join(str(error).splitlines())
            raise KustomizeError(f"tree {name}: {archive['file']} cannot be unpacked: {cause}. Delete it; it is fetched again.") from error
        tops = list(scratch.iterdir())
        if len(tops) != 1 or not tops[0].is_dir():
            raise KustomizeError(f"tree {name}: {archive['file']} has not one directory at its top, as archives of repositories have")
        for source, place in (archive.get("paths") or {".": "."}).items():
            if not (tops[0] / source).is_dir():
                raise KustomizeError(f"tree {name}: {archive['file']} has no directory {source}; it is not the archive that is expected")
            shutil.copytree(tops[0] / source, target / place, symlinks=True, dirs_exist_ok=True)

    # -- builds

    def build(self, trees: dict[str, str | list[dict]], builds: dict[str, dict]) -> dict[str, str]:
        """Files with the documents of each build {tree, kustomization}, a JSON List; what fails is named together."""
        used = {spec["tree"] for spec in builds.values() if spec.get("tree")}
        unknown = sorted(used - set(trees))
        if unknown:
            raise KustomizeError(f"builds name the trees {', '.join(unknown)}, which are not given")
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            # hashing and unpacking are the disk's and zlib's work: threads do run side by side
            found = dict(zip(sorted(used), pool.map(lambda name: self.tree(name, trees[name]), sorted(used)), strict=True))
            identity = self._identity() if builds else ""
            done = {name: pool.submit(self._build, name, spec, found.get(spec.get("tree")), identity) for name, spec in builds.items()}
        problems = [str(future.exception()) for future in done.values() if future.exception()]
        if problems:
            raise KustomizeError("\n".join(problems))
        return {name: future.result() for name, future in done.items()}

    def _identity(self) -> str:
        """What this kubectl says it is; raises KustomizeError where its kustomize is too old."""
        said = self._run([self.kubectl, "version", "--client", "--output=json"], None)
        if said.returncode:
            raise KustomizeError(f"{self.kubectl} does not run: {said.stderr.strip()}")
        version = json.loads(said.stdout).get("kustomizeVersion") or ""
        major = re.match(r"v?(\d+)\.", version)
        if major and int(major[1]) < KUSTOMIZE_MINIMUM:
            raise KustomizeError(f"{self.kubectl} has kustomize {version}; v{KUSTOMIZE_MINIMUM} is needed. Use kubectl 1.27 or later.")
        return said.stdout

    def _run(self, command: list[str], directory: str | None) -> subprocess.CompletedProcess:
        try:
            return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=TIMEOUT)
        except OSError as error:
            raise KustomizeError(f"{command[0]} cannot be run: {error.strerror}. Name another kubectl, or install one.") from error
        except subprocess.TimeoutExpired:
            raise KustomizeError(f"`{' '.join(command[:2])}` has not ended within {TIMEOUT} s") from None

    def _build(self, name: str, spec: dict, tree: tuple[pathlib.Path, str] | None, identity: str) -> str:
        directory, content = tree or (None, "")
        kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **spec["kustomization"]}
        key = hashlib.sha256(json.dumps([FORM, identity, content, kustomization], sort_keys=True).encode()).hexdigest()
        target = self.cache / "kustomize" / f"{name}-{key[:16]}.json"
        if not target.exists():
            self._write(target, self._documents(name, kustomization, directory))
            self.built.append(name)
        return str(target)

    def _documents(self, name: str, kustomization: dict, directory: pathlib.Path | None) -> list[dict]:
        with tempfile.TemporaryDirectory(prefix="kustomize-") as scratch:
            pathlib.Path(scratch, "kustomization.yaml").write_text(json.dumps(kustomization), encoding="utf-8")
            if directory:
                pathlib.Path(scratch, "tree").symlink_to(directory)
            # overlays take patches out of the tree, which is beside them, not below them
            done = self._run([self.kubectl, "kustomize", "--load-restrictor=LoadRestrictionsNone", scratch], scratch)
            if done.returncode:
                where = f" of {directory}" if directory else ""
                raise KustomizeError(f"{name}{where}: {_cause(done.stderr).replace(f'{scratch}/', '')}")
        try:
            return parse(done.stdout, name)
        except DocumentError as error:
            raise KustomizeError(f"{name}: kustomize wrote what is not YAML: {error}") from error

    @staticmethod
    def _write(target: pathlib.Path, docs: list[dict]) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=".", delete=False, encoding="utf-8") as stream:
            json.dump({"apiVersion": "v1", "kind": "List", "items": docs}, stream, separators=(",", ":"))
        os.replace(stream.name, target)


def _cause(text: str) -> str:
    """What kustomize says last. Each level of a kustomization quotes all of the one below it: only the innermost tells what is wrong."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    message = (lines[-1] if lines else "kustomize failed without a word").removeprefix("error: ")
    parts = re.split(r"recursed accumulation of path '([^']+)': ", message)
    innermost, place = parts[-1], parts[-2] if len(parts) > 1 else ""
    missing = re.search(r"evalsymlink failure on '([^']+)' : .*?: (no such file or directory)", innermost)
    cause = f"{missing[1]}: {missing[2]}" if missing else innermost.removeprefix("accumulating resources: ")
    return f"{place}: {cause}" if place else cause
