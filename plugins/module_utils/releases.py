# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Release sets: which version of every component belongs together, and where its files come from."""

from __future__ import annotations

import os
import re

import yaml

DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "releases")
GENERAL = ("name", "description", "verified_on", "kubernetes")
KNOWN_COMPONENTS = ("istio", "cert_manager", "knative", "kserve")

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_MODULE_SUM = re.compile(r"h1:[0-9A-Za-z+/]{43}=\Z")
_MINOR = re.compile(r"\d+\.\d+\Z")
_COMPONENT = re.compile(r"[a-z][a-z0-9_]*\Z")


class ReleaseError(Exception):
    """A release set that does not exist or is not one."""


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """A loader that refuses a key written twice: YAML would silently keep the last one."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _value in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is written twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def known(directory: str = DIRECTORY) -> list[str]:
    """The names of the release sets in a directory."""
    if not os.path.isdir(directory):
        return []
    return sorted(name[: -len(".yml")] for name in os.listdir(directory) if name.endswith(".yml"))


def find(name: str, directory: str = DIRECTORY) -> str:
    """The file of a release set, given by its name or by a path."""
    path = os.path.expanduser(name)
    if os.sep not in path and not path.endswith((".yml", ".yaml")):
        path = os.path.join(directory, f"{name}.yml")
    if not os.path.isfile(path):
        raise ReleaseError(
            f"there is no release set {name!r} ({path} does not exist). Known: {', '.join(known(directory)) or 'none'}. "
            "Set platform_release to one of them or to the path of a file of your own."
        )
    return path


def load(name: str, directory: str = DIRECTORY) -> dict:
    """Read and validate a release set; every fault is named at once, with file and key."""
    path = find(name, directory)
    try:
        with open(path, encoding="utf-8") as stream:
            release = yaml.load(stream, Loader=_UniqueKeys)  # a safe loader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ReleaseError(f"{path} cannot be read: {error}") from error
    problems = validate(release)
    if os.path.dirname(os.path.abspath(path)) == os.path.abspath(directory) and isinstance(release, dict):
        stem = os.path.splitext(os.path.basename(path))[0]
        if release.get("name") != stem:
            problems.append(f"name: is {release.get('name')!r}, but the file is named {stem!r}")
    if problems:
        raise ReleaseError("\n".join([f"{path} is not a valid release set:"] + [f"  {problem}" for problem in problems]))
    return release


def component(release: dict, name: str) -> dict:
    """One component of a release set."""
    names = [key for key in release if key not in GENERAL]
    if name not in names:
        raise ReleaseError(
            f"the release set {release.get('name')!r} has no component {name!r}; it has: {', '.join(names)}. "
            "Choose another release set with platform_release."
        )
    return release[name]


def artifacts(release: dict) -> dict[str, dict]:
    """Every artifact of a release set by `component.artifact`."""
    return {
        f"{name}.{key}": artifact
        for name, part in release.items()
        if name not in GENERAL
        for key, artifact in part.get("artifacts", {}).items()
    }


def validate(release: object) -> list[str]:
    """What is wrong with a release set, a line each: key, fault."""
    if not isinstance(release, dict):
        return [f"must be a mapping, is {_kind(release)}"]
    problems: list[str] = []
    _text(release, "name", "", problems)
    _text(release, "description", "", problems)
    verified = release.get("verified_on")
    if not isinstance(verified, list) or not all(isinstance(item, str) for item in verified):
        problems.append("verified_on: must be a list of strings (empty where the set was never tried)")
    _kubernetes(release.get("kubernetes"), problems)
    names = [key for key in release if key not in GENERAL]
    if not names:
        problems.append(f"has no component (known: {', '.join(KNOWN_COMPONENTS)})")
    for name in names:
        if not isinstance(name, str) or not _COMPONENT.match(name):
            problems.append(f"{name}: a component's name consists of small letters, digits and _")
        else:
            _component(name, release[name], problems)
    return problems


def _kubernetes(value: object, problems: list[str]) -> None:
    where = "kubernetes"
    if not isinstance(value, dict):
        problems.append(f"{where}: must be a mapping with version, min and max")
        return
    _unknown(value, ("version", "min", "max", "node_image", "node_image_digest", "module"), where, problems)
    _text(value, "version", where, problems)
    for key in ("min", "max"):
        if not isinstance(value.get(key), str) or not _MINOR.match(value[key]):
            problems.append(f"{where}.{key}: must be a minor version in quotes such as '1.34', is {value.get(key)!r}")
    if "node_image" in value:
        _text(value, "node_image", where, problems)
    digest = value.get("node_image_digest")
    if digest is not None and not (isinstance(digest, str) and digest.startswith("sha256:") and _SHA256.match(digest[7:])):
        problems.append(f"{where}.node_image_digest: must be sha256:<64 hex digits> or null, is {digest!r}")
    if "module" in value:
        _module(value["module"], f"{where}.module", problems)


def _component(where: str, value: object, problems: list[str]) -> None:
    if not isinstance(value, dict):
        problems.append(f"{where}: must be a mapping with version and artifacts, is {_kind(value)}")
        return
    # Keys beside these are the component's own (knative: net_istio).
    _text(value, "version", where, problems)
    if "module" in value:
        _module(value["module"], f"{where}.module", problems)
    for key in ("images", "packages"):
        if not isinstance(value.get(key, {}), dict):
            problems.append(f"{where}.{key}: must be a mapping, is {_kind(value[key])}")
    packages = value.get("packages")
    if isinstance(packages, dict):
        for key in ("values", "images", "manifests"):
            if not isinstance(packages.get(key, {}), dict):
                problems.append(f"{where}.packages.{key}: must be a mapping, is {_kind(packages[key])}")
    items = value.get("artifacts")
    if not isinstance(items, dict):
        problems.append(f"{where}.artifacts: must be a mapping of artifacts, is {_kind(items)}")
        return
    for name, artifact in items.items():
        _artifact(f"{where}.artifacts.{name}", artifact, problems)


def _module(value: object, where: str, problems: list[str]) -> None:
    if not isinstance(value, dict):
        problems.append(f"{where}: must be a mapping with path, version and sum, is {_kind(value)}")
        return
    _unknown(value, ("path", "version", "sum"), where, problems)
    _text(value, "path", where, problems)
    _text(value, "version", where, problems)
    if not isinstance(value.get("sum"), str) or not _MODULE_SUM.match(value["sum"]):
        problems.append(f"{where}.sum: must be a Go module sum (h1:…), is {value.get('sum')!r}")


def _artifact(where: str, value: object, problems: list[str]) -> None:
    if not isinstance(value, dict):
        problems.append(f"{where}: must be a mapping with url and sha256 or files, is {_kind(value)}")
        return
    _unknown(value, ("url", "sha256", "packages_sha256", "files"), where, problems)
    url = value.get("url")
    if not isinstance(url, str) or not url.startswith("https://"):
        problems.append(f"{where}.url: must be an https:// address, is {url!r}")
    if "files" in value:
        for key in ("sha256", "packages_sha256"):
            if key in value:
                problems.append(f"{where}.{key}: a tree has a sum a file, under files")
        if not isinstance(value["files"], dict) or not value["files"]:
            problems.append(f"{where}.files: must be a mapping of relative paths to sums, is {_kind(value['files'])}")
            return
        for path, sha256 in value["files"].items():
            if not isinstance(path, str) or os.path.isabs(path) or os.path.normpath(path) != path or path.startswith(".."):
                problems.append(f"{where}.files: {path!r} is not a plain relative path")
            _sum(sha256, f"{where}.files.{path}", problems)
        return
    if "sha256" not in value:
        problems.append(f"{where}: needs sha256 (null where it is not known yet) or, for a tree, files")
    for key in ("sha256", "packages_sha256"):
        _sum(value.get(key), f"{where}.{key}", problems)


def _sum(value: object, where: str, problems: list[str]) -> None:
    if value is not None and not (isinstance(value, str) and _SHA256.match(value)):
        problems.append(f"{where}: must be 64 small hex digits or null (not yet verified), is {value!r}")


def _text(value: dict, key: str, where: str, problems: list[str]) -> None:
    name = f"{where}.{key}" if where else key
    if key not in value:
        problems.append(f"{name}: is missing")
    elif not isinstance(value[key], str) or not value[key]:
        hint = f"; write it in quotes: '{value[key]}'" if isinstance(value[key], (int, float)) else ""
        problems.append(f"{name}: must be a string, is {_kind(value[key])}{hint}")


def _unknown(value: dict, allowed: tuple[str, ...], where: str, problems: list[str]) -> None:
    problems.extend(f"{where}.{key}: is not a known key (known: {', '.join(allowed)})" for key in value if key not in allowed)


def _kind(value: object) -> str:
    names = {dict: "a mapping", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "missing" if value is None else names.get(type(value), type(value).__name__)
