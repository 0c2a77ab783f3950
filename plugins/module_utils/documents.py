# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Kubernetes documents before they reach a cluster: read, check, patch, exclude, order. Nothing here talks to a server."""

from __future__ import annotations

import copy
import fnmatch
import json
from collections.abc import Iterable, Iterator

import yaml

WEBHOOK_KINDS = {"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"}
# What makes pods
RUNNING_KINDS = {"CronJob", "DaemonSet", "Deployment", "Job", "Pod", "ReplicaSet", "StatefulSet"}
# Kubernetes' own groups with a dot in their names; others that end in .k8s.io are of CustomResourceDefinitions (gateway.networking.k8s.io).
OWN_GROUPS = {
    f"{name}.k8s.io"
    for name in (
        "admissionregistration", "apiextensions", "apiregistration", "authentication", "authorization", "certificates", "coordination",
        "discovery", "events", "flowcontrol.apiserver", "internal.apiserver", "metrics", "networking", "node", "rbac.authorization",
        "resource", "scheduling", "storage", "storagemigration",
    )
}  # fmt: skip
PHASES = ("definitions", "namespaces", "workloads", "webhooks", "custom resources")


class DocumentError(Exception):
    """The documents, or what is to be done to them, are wrong. The message names the file or the object."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML as Kubernetes reads it: dates stay text, and a lone `=` (it stands in lists of operators) is text too."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def group_of(doc: dict) -> str:
    """The API group, empty for the core group."""
    return doc["apiVersion"].rpartition("/")[0]


def label(doc: dict) -> str:
    """Such as "Deployment knative-serving/webhook"; kinds of foreign groups with their group."""
    meta, group = doc["metadata"], group_of(doc)
    kind = f"{doc['kind']}.{group}" if is_custom(doc) else doc["kind"]
    return f"{kind} {meta['namespace']}/{meta['name']}" if meta.get("namespace") else f"{kind} {meta['name']}"


def key(doc: dict) -> tuple[str, str, str, str]:
    """What tells objects apart, whatever version of the API they are written in."""
    meta = doc["metadata"]
    return group_of(doc), doc["kind"], meta.get("namespace") or "", meta["name"]


def is_custom(doc: dict) -> bool:
    """Whether the kind is none of Kubernetes' own."""
    group = group_of(doc)
    return "." in group and group not in OWN_GROUPS


def is_crd(doc: dict) -> bool:
    """Whether it is a CustomResourceDefinition."""
    return doc["kind"] == "CustomResourceDefinition" and group_of(doc) == "apiextensions.k8s.io"


def parse(text: str | bytes, origin: str) -> list[dict]:
    """The documents of a YAML (or JSON) text; `origin` names it in errors."""
    if origin.endswith(".json"):  # many times faster, which large definitions make felt
        try:
            return [json.loads(text)]
        except ValueError as error:
            raise DocumentError(f"{origin}: {error}") from error
    try:
        return [doc for doc in yaml.load_all(text, Loader=_Loader) if doc is not None]  # noqa: S506 (a safe loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise DocumentError(f"{origin}: {line}{getattr(error, 'problem', None) or error}") from error


def load(files: Iterable[str] = (), documents: Iterable[dict] = (), namespace: str | None = None) -> list[dict]:
    """Read and check documents: Lists are flattened, every document has apiVersion, kind and name, and no object stands there twice.

    The same object twice is an error that names both places, unless both are equal (releases repeat their CRDs from file to file).
    """
    read: list[tuple[str, dict]] = []
    for path in files:
        try:
            with open(path, "rb") as file:
                text = file.read()
        except OSError as error:
            raise DocumentError(f"{path} cannot be read: {error.strerror}") from error
        read += ((f"{path}, document {index}", doc) for index, doc in enumerate(parse(text, str(path)), 1))
    read += ((f"documents, item {index}", copy.deepcopy(doc)) for index, doc in enumerate(documents, 1))

    seen: dict[tuple, tuple[str, dict]] = {}
    for origin, doc in ((where, item) for place, nested in read for where, item in _flatten(place, nested)):
        group, kind, own, name = key(doc)
        place, first = seen.setdefault((group, kind, own or namespace or "", name), (origin, doc))
        if first is not doc and first != doc:
            raise DocumentError(f"{label(doc)} stands there twice, with different content: {place} and {origin}")
    return [doc for _, doc in seen.values()]


def _flatten(origin: str, doc) -> Iterator[tuple[str, dict]]:
    if not isinstance(doc, dict):
        raise DocumentError(f"{origin} is no object but {type(doc).__name__}")
    kind = doc.get("kind")
    if isinstance(kind, str) and kind.endswith("List") and isinstance(doc.get("items"), list):
        for index, item in enumerate(doc["items"], 1):
            yield from _flatten(f"{origin}, item {index}", item)
        return
    meta = doc.get("metadata") if isinstance(doc.get("metadata"), dict) else {}
    for field, value in (("apiVersion", doc.get("apiVersion")), ("kind", kind), ("metadata.name", meta.get("name"))):
        if not value or not isinstance(value, str):
            hint = " (generateName cannot be applied)" if field == "metadata.name" and meta.get("generateName") else ""
            raise DocumentError(f"{origin} has no {field}{hint}")
    yield origin, doc


# -- targets, patches, images -------------------------------------------------------------------------------------------


def matches(doc: dict, target: dict) -> bool:
    """Whether the object is what the target {kind, name, namespace?, apiVersion?} describes; names and namespaces may be patterns."""
    meta = doc["metadata"]
    return (
        doc["kind"] == target["kind"]
        and fnmatch.fnmatchcase(meta["name"], target.get("name") or "*")
        and (not target.get("namespace") or fnmatch.fnmatchcase(meta.get("namespace") or "", target["namespace"]))
        and (not target.get("apiVersion") or doc["apiVersion"] == target["apiVersion"])
    )


def exclude(docs: list[dict], targets: Iterable[dict]) -> list[dict]:
    """The documents without those that a target matches."""
    targets = list(targets or ())
    return [doc for doc in docs if not any(matches(doc, target) for target in targets)]


def patch(docs: list[dict], patches: Iterable[dict]) -> list[dict]:
    """The documents after the patches {target, merge?, json_data?, optional?}; see k8s_apply for their meaning."""
    docs = list(docs)
    for change in patches or ():
        target = change["target"]
        hits = [index for index, doc in enumerate(docs) if matches(doc, target)]
        if not hits and not change.get("optional"):
            kinds = sorted({doc["metadata"]["name"] for doc in docs if doc["kind"] == target["kind"]})
            raise DocumentError(
                f"The patch of {_describe(target)} matches no document. Of this kind there are: {', '.join(kinds) or 'none'}. "
                "Remedy: correct the target, or set optional."
            )
        for index in hits:
            doc = docs[index]
            if change.get("merge"):
                doc = merge(doc, change["merge"])
            if change.get("json_data"):
                doc = _merge_json_data(doc, change["json_data"])
            docs[index] = doc
    return docs


def merge(base, change):
    """JSON merge patch (null deletes), except that lists whose items all have a `name` are merged by name, in the order of `base`."""
    if isinstance(change, dict):
        merged = dict(base) if isinstance(base, dict) else {}
        for field, value in change.items():
            if value is None:
                merged.pop(field, None)
            else:
                merged[field] = merge(merged.get(field), value)
        return merged
    if _named(base) and _named(change):
        merged = {item["name"]: item for item in base}
        for item in change:
            merged[item["name"]] = merge(merged.get(item["name"]), item)
        return list(merged.values())
    return copy.deepcopy(change)


def _named(items) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(item, dict) and "name" in item for item in items)


def _merge_json_data(doc: dict, changes: dict) -> dict:
    data = dict(doc.get("data") or {})
    for field, change in changes.items():
        try:
            base = json.loads(data.get(field) or "{}")
        except ValueError as error:
            raise DocumentError(f"data.{field} of {label(doc)} is not JSON ({error}), so json_data cannot be merged into it") from error
        merged = merge(base, change)
        if merged != base or field not in data:
            data[field] = json.dumps(merged, indent=2)
    return {**doc, "data": data}


def _describe(target: dict) -> str:
    where = f"{target['namespace']}/" if target.get("namespace") else ""
    return f"{target['kind']} {where}{target.get('name') or '*'}"


def replace_images(docs: list[dict], images: dict[str, str]) -> list[dict]:
    """The documents with image references replaced that equal a key of `images`.

    Looked at: `image` fields, arguments, commands and environment values of containers, and values of ConfigMaps, also as a string
    within their JSON.
    """
    return [_replace(doc, images, doc["kind"]) if images and not is_crd(doc) else doc for doc in docs]


def _replace(value, images: dict[str, str], kind: str, parent: str = ""):
    if isinstance(value, dict):
        return {field: _replace(item, images, kind, "data" if parent == "data" else field) for field, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, images, kind, parent) for item in value]
    if not isinstance(value, str):
        return value
    if kind == "ConfigMap" and parent == "data":
        for old, new in images.items():
            value = new if value == old else value.replace(json.dumps(old), json.dumps(new))
        return value
    return images.get(value, value) if parent in ("image", "args", "command", "value") else value


# -- order --------------------------------------------------------------------------------------------------------------


def phase(doc: dict) -> int:
    """When an object is applied, as an index of PHASES.

    Webhook configurations come after everything that makes the webhooks run: the objects of a first installation are then not held up
    by the webhook that they install. Custom resources come last, when their webhooks can already be waited for.
    """
    if is_crd(doc):
        return 0
    if doc["kind"] == "Namespace" and group_of(doc) == "":
        return 1
    if doc["kind"] in WEBHOOK_KINDS:
        return 3
    return 4 if is_custom(doc) else 2


def phases(docs: Iterable[dict]) -> list[list[dict]]:
    """The documents by phase, in the order of PHASES; phases may be empty.

    Within a phase, what runs pods comes last: pods that find their Secrets, ConfigMaps and accounts need not be tried again.
    """
    ordered: list[list[dict]] = [[] for _ in PHASES]
    for doc in sorted(docs, key=lambda doc: doc["kind"] in RUNNING_KINDS):
        ordered[phase(doc)].append(doc)
    return ordered


# -- fields -------------------------------------------------------------------------------------------------------------


def prune_field(value, path: str) -> bool:
    """Remove a field, named as the API server names it in conflicts, from a document (in place); False if it is not there.

    Paths look like `.metadata.labels.foo`, `.webhooks[name="x"].rules`, `.ports[port=80,protocol="TCP"].name`, `.finalizers[="v"]` or
    `[3]`. Names of fields are not quoted, though they may hold dots and brackets: only the document tells where one ends.
    """
    return _prune(value, path)[0]


def _prune(value, path: str) -> tuple[bool, bool]:
    """(found, whether the container is now empty, so that its owner can drop it too)."""
    if path.startswith(".") and isinstance(value, dict):
        for field in sorted(value, key=len, reverse=True):
            rest = path[1 + len(field) :]
            if not path.startswith(field, 1) or (rest and rest[0] not in ".["):
                continue
            found, empty = (True, True) if not rest else _prune(value[field], rest)
            if found:
                if empty:
                    del value[field]
                return True, not value
    if path.startswith("[") and isinstance(value, list):
        selector, rest = _selector(path)
        for index, item in enumerate(value):
            if not _selects(selector, index, item):
                continue
            found = True if not rest else _prune(item, rest)[0]
            if found:
                if not rest:
                    del value[index]
                return True, not value
    return False, False


def _selector(path: str) -> tuple[dict | int, str]:
    """Split `[name="c",port=1].rest` into ({"name": "c", "port": 1}, ".rest"); a value `[="v"]` gets the key "", an index is a number."""
    decoder = json.JSONDecoder()
    if path[1].isdigit():
        end = path.index("]")
        return int(path[1:end]), path[end + 1 :]
    selector, position = {}, 1
    while True:
        equals = path.index("=", position)
        selector[path[position:equals]], position = decoder.raw_decode(path, equals + 1)
        if path[position] == "]":
            return selector, path[position + 1 :]
        position += 1  # the comma


def _selects(selector: dict | int, index: int, item) -> bool:
    if isinstance(selector, int):
        return selector == index
    if "" in selector:
        return item == selector[""]
    # a key that the document leaves out has its default on the server (protocol: TCP)
    return isinstance(item, dict) and any(name in item for name in selector) and all(item.get(name, v) == v for name, v in selector.items())


def is_applied(doc: dict, live: dict, manager: str) -> bool:
    """Whether applying the document would certainly change nothing; False means no more than that the server has to be asked.

    So it is if every value of the document is in the live object, and the manager owns exactly the document's fields: whoever changes a
    value takes its field (or the whole list, where items are not told apart) away from the manager. It spares the server most of the
    work of a rerun: it takes half a second to validate one big CRD.
    """
    for entry in live["metadata"].get("managedFields") or []:
        if (entry.get("manager"), entry.get("operation"), entry.get("apiVersion")) != (manager, "Apply", doc["apiVersion"]):
            continue
        meta = {name: value for name, value in doc["metadata"].items() if name not in ("name", "namespace")}
        body = {name: value for name, value in doc.items() if name not in ("apiVersion", "kind", "metadata")}
        if not entry.get("subresource"):
            return _within(doc, live) and _owns(entry["fieldsV1"], {**body, **({"metadata": meta} if meta else {})})
    return False


def _within(part, whole) -> bool:
    """Whether `whole` has all of `part`: mappings may have more, lists may not."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and _within(value, whole[name]) for name, value in part.items())
    if isinstance(part, list):
        return isinstance(whole, list) and len(part) == len(whole) and all(map(_within, part, whole))
    return type(part) is type(whole) and part == whole


def _owns(fields: dict, value) -> bool:
    """Whether a node of fieldsV1 stands for exactly the fields of the value."""
    children = {name: node for name, node in fields.items() if name != "."}
    if not children:  # without the dot it stands for all of the value, with it for no more than its presence
        return "." not in fields or not value
    if isinstance(value, dict):
        return children.keys() == {f"f:{name}" for name in value} and all(
            _owns(children[f"f:{name}"], item) for name, item in value.items()
        )
    if not isinstance(value, list) or len(children) != len(value):
        return False
    return all(any(_stands_for(name, node, item) for item in value) for name, node in children.items())


def _stands_for(name: str, node: dict, item) -> bool:
    kind, _, text = name.partition(":")
    if kind == "k":
        return isinstance(item, dict) and all(item.get(field) == value for field, value in json.loads(text).items()) and _owns(node, item)
    return kind == "v" and json.loads(text) == item
