# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Apply, compare and remove batches of documents: server-side, in phases, in parallel, aware of who owns which field.

`apply` writes (or, with dry_run, predicts), `compare` tells what an apply would change, `remove` deletes. All take documents as
`documents.load` returns them and raise ApplyError, whose `report` holds what was done until then.

A document is applied with the resourceVersion that was read just before, so what differs between both is this apply's doing and
nobody else's; if somebody else was faster, it is read again.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import yaml

from ansible_collections.mlops.platform.plugins.module_utils import capacity
from ansible_collections.mlops.platform.plugins.module_utils.client import ApiError, Cluster, ClusterError, UnknownKind, Unreachable
from ansible_collections.mlops.platform.plugins.module_utils.diagnose import Cause, Patience, Snapshot, causes, condition, remains, shorten
from ansible_collections.mlops.platform.plugins.module_utils.documents import (
    group_of,
    is_applied,
    is_crd,
    key,
    label,
    matches,
    merge,
    phase,
    phases,
    prune_field,
)

WORKERS = 8
ATTEMPTS = 10  # to get a write in between those of others
INVENTORY_LABEL = "mlops.platform/inventory"
# What takes data with it when it goes. keep: none of it is pruned; unused: definitions without objects are; delete: all but namespaces
DEFINITION, NAMESPACE, CLAIM = ("apiextensions.k8s.io", "CustomResourceDefinition"), ("", "Namespace"), ("", "PersistentVolumeClaim")
NEVER_PRUNED = {"keep": {DEFINITION, NAMESPACE, CLAIM}, "unused": {NAMESPACE, CLAIM}, "delete": {NAMESPACE}}

# Field managers (patterns, lower case). People's tools lose a conflict, declarative tools make it an error, controllers win it.
HANDS = ("kubectl*", "k9s*", "*lens*", "node-fetch", "headlamp*", "dashboard*", "octant*", "mozilla", "curl", "before-first-apply")
OWNERS = (
    *("helm*", "argocd*", "argo-cd*", "flux*", "kustomize-controller", "source-controller", "terraform*", "hashicorp*", "opentofu*"),
    *("pulumi*", "kapp*", "configsync*", "ansible*", "skaffold*", "mlops-platform-*"),
)

# how the server says that a field can only be set when an object is made
FIXED = re.compile(r"immutable|cannot change roleRef")
WEBHOOK = re.compile(r'failed calling webhook "(?P<webhook>[^"]+)"|conversion webhook for (?P<conversion>.+?) failed')
SERVICE = re.compile(r"https?://(?P<name>[a-z0-9-]+)\.(?P<namespace>[a-z0-9-]+)\.svc[.:/]")
NO_DRY_RUN = "does not support dry run"


@dataclass
class Outcome:
    """What happened, or would happen, to one object. `before` and `after` are contents without what the server keeps for itself."""

    doc: dict
    action: str  # created | configured | unchanged | deleted
    before: dict | None = None
    after: dict | None = None
    left: list[dict] = field(default_factory=list)  # {object, fields, manager}: what was left to controllers
    live: dict | None = None


@dataclass
class Report:
    """What happened to a batch."""

    outcomes: list[Outcome] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    kept: list[dict] = field(default_factory=list)  # entries of the inventory that are no longer wanted, but stay (prune_keep)

    @property
    def changed(self) -> bool:
        """Whether any object differs from before."""
        return any(outcome.action != "unchanged" for outcome in self.outcomes)

    @property
    def drift(self) -> list[Outcome]:
        """The objects that differ from before."""
        return [outcome for outcome in self.outcomes if outcome.action != "unchanged"]

    def result(self) -> dict:
        """The report as a module returns it."""
        return {
            "changed": self.changed,
            "objects": [{**reference(outcome.doc), "action": outcome.action} for outcome in self.outcomes],
            "left": [left for outcome in self.outcomes for left in outcome.left],
            "kept": [reference(entry) for entry in self.kept],
        }

    def diff(self) -> list[dict]:
        """The differences as Ansible shows them, Secrets masked."""
        return [diff(outcome) for outcome in self.drift]


class ApplyError(Exception):
    """Objects could not be applied or removed; `report` holds what was done before."""

    def __init__(self, message: str, report: Report | None = None):
        super().__init__(message)
        self.report = report or Report()


class NotYet(Exception):
    """An object cannot be written now, but may soon."""

    def __init__(self, message: str, service: tuple[str, str] | None = None):
        super().__init__(message)
        self.service = service  # (namespace, name) of the service that has to answer first


def apply(
    cluster: Cluster,
    docs: list[dict],
    manager: str,
    *,
    namespace: str | None = None,
    force_managers: Iterable[str] = (),
    timeout: float = 300,
    dry_run: bool = False,
    strict: bool = True,
    inventory: Inventory | None = None,
    prune: bool = False,
    prune_data: str = "keep",
    prune_keep: Iterable[dict] = (),
    owner_annotation: str | None = None,
    capacity_remedy: str = "",
    recreate: Iterable[dict] = (),
) -> Report:
    """Apply the documents as field manager `manager`; with `dry_run` say what that would do.

    `force_managers` are patterns of managers that lose conflicts. `strict` refuses fields that the kind does not have. `prune_data` is a
    key of NEVER_PRUNED; what a target of `prune_keep` matches is not pruned either. `owner_annotation` says whose a namespace is: one that
    is somebody else's is an error before anything is written. With `capacity_remedy` nothing is written if the nodes have too little free;
    it is what the error advises. `recreate` are targets that are deleted and made anew where the server refuses to change what cannot be
    changed.
    """
    batch = _Batch(cluster, manager, tuple(force_managers), timeout, dry_run, strict)
    batch.recreate = list(recreate)
    docs = batch.prepare(docs, namespace, inventory, owner_annotation)
    recorded = inventory.read() if inventory else []
    wanted = {key(doc) for doc in docs}
    dropped = batch.keep([entry for entry in recorded if key(entry) not in wanted], prune_keep) if prune else []
    if capacity_remedy:
        batch.check_capacity(docs, dropped, capacity_remedy)
    home = [doc for doc in docs if inventory and key(doc) == ("", "Namespace", "", inventory.namespace)]
    batch.write(home)
    if inventory and not dry_run:
        # before anything else is created, so that an interrupted run forgets nothing
        inventory.write(recorded, merge_entries(recorded, docs))
    for number, group in enumerate(phases(doc for doc in docs if doc not in home)):
        batch.write(group)
        if number == 0:
            batch.establish()
    if inventory and prune:
        used = batch.prune(inventory, dropped, prune_data)
        if not dry_run:
            inventory.write(merge_entries(recorded, docs), merge_entries(used + batch.report.kept, docs))
    return batch.report


def compare(
    cluster: Cluster,
    docs: list[dict],
    manager: str,
    *,
    namespace: str | None = None,
    force_managers: Iterable[str] = (),
    strict: bool = False,
) -> Report:
    """What the cluster has differently from the documents; nothing is written.

    `report.drift` lists the outcomes that an apply would not leave alone: `created` (is missing) and `configured` (differs), with
    `before` and `after`; `report.changed` says whether there are any. A field that a controller has changed since is no drift (it is
    listed in `left` of its outcome), one that a person has changed is. `manager` need not have applied anything before: to compare
    what another tool installed, name any manager, and that tool in `force_managers` (e.g. `helm`), so that its own fields are no
    conflict. A conflict with a further declarative owner is an ApplyError.
    """
    return apply(cluster, docs, manager, namespace=namespace, force_managers=force_managers, dry_run=True, strict=strict)


def remove(
    cluster: Cluster,
    docs: list[dict],
    manager: str,
    *,
    namespace: str | None = None,
    timeout: float = 300,
    dry_run: bool = False,
    inventory: Inventory | None = None,
    prune: bool = False,
    prune_data: str = "keep",
    prune_keep: Iterable[dict] = (),
    owner_annotation: str | None = None,
) -> Report:
    """Delete the documents' objects and wait until they are gone; with `prune` also what else is in the inventory.

    In reverse order of phases, except that definitions go right after the custom resources: what users made of them goes with
    them, and its finalizers need the controllers, which are deleted later.
    """
    batch = _Batch(cluster, manager, (), timeout, dry_run, strict=False)
    docs = batch.scope(docs, namespace)
    named = {key(doc) for doc in docs}
    recorded = inventory.read() if inventory else []
    if owner_annotation:
        batch.check_owners(docs, batch.namespaces(), owner_annotation)
    if prune:
        dropped = batch.keep([entry for entry in recorded if key(entry) not in named], prune_keep)
        docs = docs + [entry for entry in dropped if _kind(entry) not in NEVER_PRUNED[prune_data]]
    foreign = inventory.foreign() if inventory else {}
    for doc in docs:
        if key(doc) in foreign:
            batch.report.warnings.append(f"{label(doc)} belongs to set {foreign[key(doc)]} too and is not deleted")
    definitions, namespaces, workloads, webhooks, custom = phases(doc for doc in docs if key(doc) not in foreign)
    batch.delete(custom)
    used = [doc for doc in definitions if prune_data == "unused" and key(doc) not in named and not batch.is_unused(doc)]
    for group in ([doc for doc in definitions if doc not in used], webhooks, workloads):
        batch.delete(group)
    if inventory and not dry_run and cluster.get("v1", "ConfigMap", inventory.name, inventory.namespace):
        if used or batch.report.kept:
            inventory.write(recorded, merge_entries(batch.report.kept, used))
        else:
            namespaces = [inventory.document([]), *namespaces]  # last, with its namespace: until then it can still be continued
    batch.delete(namespaces)
    batch.report.outcomes = [outcome for outcome in batch.report.outcomes if not inventory or not inventory.is_own(outcome.doc)]
    return batch.report


# -- inventory ----------------------------------------------------------------------------------------------------------


class Inventory:
    """The objects that a set has applied, in ConfigMap `mlops-platform-<set>`. Like managedFields, it counts as no change."""

    def __init__(self, cluster: Cluster, name: str, namespace: str):
        self.cluster, self.set, self.namespace = cluster, name, namespace
        self.name = self.manager = f"mlops-platform-{name}"

    def read(self) -> list[dict]:
        """The recorded objects, as documents without content."""
        found = self.cluster.get("v1", "ConfigMap", self.name, self.namespace)
        return self._entries(found) if found else []

    def write(self, before: list[dict], after: list[dict]) -> None:
        """Record `after`, unless it equals `before`, what is recorded now."""
        if before != after:
            self.cluster.apply(self.document(after), self.manager, force=True)

    def document(self, entries: list[dict]) -> dict:
        """The ConfigMap."""
        lines = ",\n".join(json.dumps(reference(entry)) for entry in entries)
        labels = {"app.kubernetes.io/managed-by": "mlops.platform", INVENTORY_LABEL: self.set}
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels},
            "data": {"objects": f"[{lines}]"},
        }

    def is_own(self, doc: dict) -> bool:
        """Whether the document is the inventory itself."""
        return key(doc) == ("", "ConfigMap", self.namespace, self.name)

    def foreign(self) -> dict[tuple, str]:
        """The keys of the objects of all other sets, with the set's name."""
        found = self.cluster.list("v1", "ConfigMap", label_selector=INVENTORY_LABEL)
        others = [item for item in found if not self.is_own(item)]
        return {key(entry): item["metadata"]["labels"][INVENTORY_LABEL] for item in others for entry in self._entries(item)}

    @staticmethod
    def _entries(config_map: dict) -> list[dict]:
        try:
            entries = json.loads((config_map.get("data") or {}).get("objects") or "[]")
            return [_document(entry["apiVersion"], entry["kind"], entry["name"], entry.get("namespace") or None) for entry in entries]
        except (ValueError, TypeError, KeyError) as error:
            raise ApplyError(
                f"{label(config_map)} should list what was applied, but is damaged ({error}). "
                "Remedy: delete it (what an earlier release had and this one lacks then stays), then rerun."
            ) from error


def _document(api_version: str, kind: str, name: str, namespace: str | None) -> dict:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, **({"namespace": namespace} if namespace else {})}}


def _kind(doc: dict) -> tuple[str, str]:
    return group_of(doc), doc["kind"]


def reference(doc: dict) -> dict:
    """apiVersion, kind, namespace and name."""
    meta = doc["metadata"]
    return {"apiVersion": doc["apiVersion"], "kind": doc["kind"], "namespace": meta.get("namespace") or "", "name": meta["name"]}


def merge_entries(recorded: list[dict], docs: list[dict]) -> list[dict]:
    """The inventory's entries of both, those of `docs` winning, sorted."""
    entries = {key(doc): _document(doc["apiVersion"], doc["kind"], doc["metadata"]["name"], doc["metadata"].get("namespace"))
               for doc in (*recorded, *docs)}  # fmt: skip
    return [entries[name] for name in sorted(entries)]


# -- conflicts ----------------------------------------------------------------------------------------------------------


def verdict(manager: str, applies: bool, force_managers: Iterable[str]) -> str:
    """What happens to a field that `manager` owns: `take` it, `leave` it to them, or `refuse` (an error).

    `applies`: the manager itself uses server-side apply, as declarative tools do.
    """
    name = manager.lower()
    if any(fnmatchcase(name, pattern.lower()) for pattern in (*force_managers, *HANDS)):
        return "take"
    return "refuse" if applies or any(fnmatchcase(name, pattern) for pattern in OWNERS) else "leave"


def conflicts(error: ApiError) -> list[tuple[str, bool, str]]:
    """The (manager, whether it applies, field) of a conflict; empty if it is one of resource versions only."""
    found = []
    for cause in error.details.get("causes") or []:
        if cause.get("reason") == "FieldManagerConflict":
            manager, rest = json.JSONDecoder().raw_decode(cause["message"], cause["message"].index('"'))
            # managers that update are named with the API version they used, those that apply are not
            found.append((manager, " using " not in cause["message"][rest:], cause["field"]))
    return found


# -- contents -----------------------------------------------------------------------------------------------------------

BOOKKEEPING = {"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"}


def content(obj: dict) -> dict:
    """The object without its status and what the server keeps for itself."""
    meta = {name: value for name, value in obj["metadata"].items() if name not in BOOKKEEPING}
    return {**{name: value for name, value in obj.items() if name != "status"}, "metadata": meta}


def diff(outcome: Outcome) -> dict:
    """{before_header, after_header, before, after} as YAML text; values of Secrets are hidden."""
    before, after = outcome.before, outcome.after
    if outcome.doc["kind"] == "Secret" and group_of(outcome.doc) == "":
        before, after = _hidden(before, after, ""), _hidden(after, before, ", changed" if before else "")
    name = label(outcome.doc)
    headers = {"created": ("(none)", name), "deleted": (name, "(deleted)")}.get(outcome.action, (name, name))
    return {"before_header": headers[0], "after_header": headers[1], "before": _yaml(before), "after": _yaml(after)}


def _hidden(secret: dict | None, other: dict | None, mark: str) -> dict | None:
    if secret is None:
        return None
    shown = copy.deepcopy(secret)
    (shown["metadata"].get("annotations") or {}).pop("kubectl.kubernetes.io/last-applied-configuration", None)
    for section in ("data", "stringData"):
        for name, value in (secret.get(section) or {}).items():
            same = ((other or {}).get(section) or {}).get(name) == value
            shown[section][name] = "(hidden)" if same else f"(hidden{mark})"
    return shown


def _redacted(text: str, doc: dict) -> str:
    """An error message about a Secret must not repeat what is in it."""
    if doc["kind"] != "Secret":
        return text
    values = [str(value) for section in ("data", "stringData") for value in (doc.get(section) or {}).values() if value]
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "(hidden)")
    return text


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
    """Writes text of several lines as such."""

    def ignore_aliases(self, data):  # noqa: D102
        return True


_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)
)


def _yaml(obj: dict | None) -> str:
    return yaml.dump(obj, Dumper=_Dumper, allow_unicode=True, width=140) if obj else ""


# -- the work -----------------------------------------------------------------------------------------------------------


class _Batch:
    """One run over a batch: what all of its steps need, and its report."""

    def __init__(self, cluster: Cluster, manager: str, force_managers: tuple[str, ...], timeout: float, dry_run: bool, strict: bool):
        self.cluster, self.manager, self.force_managers, self.dry_run, self.strict = cluster, manager, force_managers, dry_run, strict
        self.timeout, self.deadline = timeout, time.monotonic() + timeout
        self.report = Report()
        self.recreate: list[dict] = []  # targets that may be deleted, to be made anew
        self.defined: dict[tuple[str, str], dict] = {}  # (group, kind) → CRD of the batch
        self.changing: set[tuple[str, str]] = set()  # those of them whose CRD this run changes
        self.absent: set[tuple] = set()  # keys of objects that cannot exist yet, since their kind or namespace does not

    # preparation

    def scope(self, docs: list[dict], namespace: str | None) -> list[dict]:
        """The documents with the namespace they need, or without one if their kind has none; without what controllers write."""
        self.defined = {(doc["spec"]["group"], doc["spec"]["names"]["kind"]): doc for doc in docs if is_crd(doc)}
        scoped = []
        for doc in docs:
            meta = {name: value for name, value in doc["metadata"].items() if name not in BOOKKEEPING}
            if self._namespaced(doc):
                meta["namespace"] = meta.get("namespace") or namespace or "default"
            else:
                meta.pop("namespace", None)
            # the rules of an aggregated ClusterRole are its controller's, whatever the document says ([] in many releases)
            written = {"status", "rules"} if doc.get("aggregationRule") else {"status"}
            scoped.append({**{name: value for name, value in doc.items() if name not in written}, "metadata": meta})
        return scoped

    def _namespaced(self, doc: dict) -> bool:
        definition = self.defined.get((group_of(doc), doc["kind"]))
        if definition:
            return definition["spec"]["scope"] == "Namespaced"
        try:
            return self.cluster.resource(doc["apiVersion"], doc["kind"]).namespaced
        except UnknownKind:
            return bool(doc["metadata"].get("namespace"))

    def prepare(
        self, docs: list[dict], namespace: str | None, inventory: Inventory | None, owner_annotation: str | None = None
    ) -> list[dict]:
        """Scope the documents, and find the kinds and namespaces that neither the cluster nor the batch has before anything is written."""
        docs = self.scope(docs, namespace)
        # what the batch defines itself matters in check mode only: otherwise it is there when its turn comes
        asked = {(doc["apiVersion"], doc["kind"]) for doc in docs if self.dry_run or (group_of(doc), doc["kind"]) not in self.defined}
        served = {kind: self.cluster.serves(*kind) for kind in asked}
        found = self.namespaces()
        self.check_owners(docs, found, owner_annotation)
        existing = _Everything() if found is None else {name for name in found if not found[name]["metadata"].get("deletionTimestamp")}
        created = {doc["metadata"]["name"] for doc in docs if phase(doc) == 1}
        problems, create = [], "Remedy: create it first, or add it to the documents."
        for doc in docs:
            kind, own = doc["kind"], doc["metadata"].get("namespace")
            if not served.get((doc["apiVersion"], kind), True):
                self.absent.add(key(doc))
                if (group_of(doc), kind) not in self.defined:
                    problems.append(
                        f"{label(doc)}: the cluster does not serve {kind} of {doc['apiVersion']}. Remedy: install its CRD first."
                    )
            if own and own not in existing:
                self.absent.add(key(doc))
                if own not in created:
                    problems.append(f"{label(doc)}: the namespace {own} does not exist (or is being deleted). {create}")
        if inventory and inventory.namespace not in existing and inventory.namespace not in created:
            problems.append(f"set_namespace {inventory.namespace} does not exist. {create}")
        if problems and not self.dry_run:
            raise ApplyError(_joined(problems), self.report)
        self.report.warnings += problems
        return docs

    def namespaces(self) -> dict[str, dict] | None:
        """All namespaces by name; None if they may not be listed: whatever is missing shows when it is used."""
        try:
            return {item["metadata"]["name"]: item for item in self.cluster.list("v1", "Namespace")}
        except ApiError as error:
            if error.status != 403:
                raise
            return None

    def check_owners(self, docs: list[dict], found: dict[str, dict] | None, annotation: str | None) -> None:
        """Refuse namespaces that are somebody else's, by their annotation. One to be deleted must have an owner at all."""
        problems = []
        for doc in docs if annotation else ():
            name, wanted = doc["metadata"]["name"], (doc["metadata"].get("annotations") or {}).get(annotation)
            live = (found or {}).get(name)
            if _kind(doc) != NAMESPACE or not live:
                continue
            owner = (live["metadata"].get("annotations") or {}).get(annotation)
            if wanted and owner and owner != wanted:
                problems.append(
                    f"Namespace {name} belongs to {owner} (annotation {annotation}), not to {wanted}. Remedy: choose another namespace, "
                    f"or hand it over: kubectl annotate --overwrite namespace {name} {annotation}={wanted}"
                )
            elif wanted and not owner and not self._applied(live):
                problems.append(
                    f"Namespace {name} exists and is nobody's (it has no annotation {annotation}). Remedy: choose another namespace, "
                    f"or hand it over: kubectl annotate namespace {name} {annotation}={wanted}"
                )
            elif not wanted and not owner:
                problems.append(
                    f"Namespace {name} is nobody's (it has no annotation {annotation}) and is not deleted. Remedy: delete it with kubectl"
                )
        if problems:
            raise ApplyError(_joined(problems), self.report)

    def _applied(self, live: dict) -> bool:
        """Whether this manager has a field of it."""
        return any(part.get("manager") == self.manager for part in live["metadata"].get("managedFields") or [])

    def check_capacity(self, docs: list[dict], dropped: list[dict], remedy: str) -> None:
        """Refuse workloads that the nodes have no room for, before anything is written. `dropped` is what this run will prune."""
        try:
            problems = capacity.shortage(self.cluster, docs, dropped)
        except ValueError as error:
            raise ApplyError(str(error), self.report) from error
        except ApiError as error:
            if error.status != 403:
                raise
            self.report.warnings.append(f"whether the nodes have room is not checked: {shorten(error.message, 300)}")
            return
        if problems:
            lacking = "; ".join(problems)
            raise ApplyError(f"does not fit on {self.cluster}: {lacking}. Nothing of it was applied. Remedy: {remedy}", self.report)

    # writing

    def write(self, docs: list[dict]) -> None:
        """Apply the documents of one phase."""
        self._rounds(docs, self._write)
        self.changing = {
            (doc["spec"]["group"], doc["spec"]["names"]["kind"]) for doc in (found.doc for found in self.report.drift) if is_crd(doc)
        }

    def _write(self, doc: dict) -> Outcome:
        if self.dry_run and key(doc) in self.absent:
            return Outcome(doc, "created", None, doc)
        live = self._read(doc)
        if live and is_applied(doc, live, self.manager):
            return Outcome(doc, "unchanged", live=live)
        sent, force, left = doc, False, []
        for _attempt in range(ATTEMPTS):
            version = {"resourceVersion": live["metadata"]["resourceVersion"]} if live else {}
            body = {**sent, "metadata": {**sent["metadata"], **version}}
            try:
                after = self.cluster.apply(body, self.manager, force=force, dry_run=self.dry_run, strict=self.strict)
                return self._outcome(doc, live, after, left)
            except ApiError as error:
                if self._unpredictable(doc, error):
                    self.report.warnings.append(f"{label(doc)}: predicted without the server, which answers: {shorten(error.message, 300)}")
                    return self._outcome(doc, live, merge(live, doc), left)
                if live and error.status == 422 and FIXED.search(error.message) and any(matches(doc, target) for target in self.recreate):
                    return self._make_way(doc, live)
                if error.status != 409:
                    raise
                contested = conflicts(error)
            if contested:
                sent, forced = self._give_way(sent, contested, left)
                force = force or forced
            else:  # somebody else wrote in between
                live, sent, force, left = self._read(doc), doc, False, []
        raise NotYet("somebody else keeps changing it")

    def _make_way(self, doc: dict, live: dict) -> Outcome:
        """Delete an object that cannot be changed into what it is to be; the next round makes it anew."""
        meta = live["metadata"]
        if self.dry_run:
            return self._outcome(doc, live, doc, [])
        self.cluster.delete(doc["apiVersion"], doc["kind"], meta["name"], meta.get("namespace"), uid=meta["uid"])
        raise NotYet("was deleted, to be made anew")

    def _unpredictable(self, doc: dict, error: ApiError) -> bool:
        """Whether the server cannot tell in check mode what an apply would do: webhooks, definitions about to change."""
        if not self.dry_run:
            return False
        changing = (group_of(doc), doc["kind"]) in self.changing and error.status in (400, 422, 500)
        return changing or NO_DRY_RUN in error.message or bool(WEBHOOK.search(error.message))

    def _read(self, doc: dict) -> dict | None:
        live = self.cluster.get(doc["apiVersion"], doc["kind"], doc["metadata"]["name"], doc["metadata"].get("namespace"))
        if live and live["metadata"].get("deletionTimestamp"):
            if self.dry_run:
                return None
            raise NotYet(self._held(live))
        return live

    def _outcome(self, doc: dict, live: dict | None, after: dict, left: list[dict]) -> Outcome:
        if live is None:
            # the document itself: what the server adds (addresses, defaults) is another each time, or unknown in check mode
            return Outcome(doc, "created", None, doc, left, after)
        was, is_now = content(live), content(after)
        return Outcome(doc, "unchanged" if was == is_now else "configured", was, is_now, left, after)

    def _give_way(self, sent: dict, contested: list[tuple[str, bool, str]], left: list[dict]) -> tuple[dict, bool]:
        """(the document without the fields that belong to controllers, whether the others are to be taken)."""
        fields: dict[tuple[str, str], list[str]] = {}
        for manager, applies, path in contested:
            fields.setdefault((verdict(manager, applies, self.force_managers), manager), []).append(path)
        refused = [f"{manager} owns {', '.join(paths)}" for (decision, manager), paths in fields.items() if decision == "refuse"]
        if refused:
            names = ", ".join(sorted({manager for decision, manager in fields if decision == "refuse"}))
            raise ApplyError(
                f"conflict of field managers: {self.manager} wants to change what others declare: {'; '.join(refused)}. "
                f"Remedy: change it there, or take it over with force_managers: [{names}]"
            )
        sent = copy.deepcopy(sent)
        for (decision, manager), paths in fields.items():
            if decision == "leave":
                progress = [prune_field(sent, path) for path in paths]
                if not any(progress) and not left:
                    raise ApplyError(f"conflict of field managers: {manager} owns {', '.join(paths)}, which cannot be left to it alone")
                left.append({"object": label(sent), "fields": paths, "manager": manager})
        return sent, any(decision == "take" for decision, _ in fields)

    def establish(self) -> None:
        """Wait until the definitions that were just applied are served."""
        if self.dry_run:
            return
        waiting = [outcome for outcome in self.report.outcomes if is_crd(outcome.doc)]
        pause = 0.05
        while True:
            for outcome in waiting:
                rejected = condition(outcome.live, "NamesAccepted")
                if rejected.get("status") == "False":
                    raise ApplyError(f"{label(outcome.doc)}: its names are not accepted: {rejected.get('message')}", self.report)
            for outcome in waiting:
                if _established(outcome.live) and outcome.action != "unchanged":
                    self.cluster.learn(outcome.doc)
            waiting = [outcome for outcome in waiting if not _established(outcome.live)]
            if not waiting:
                return
            if time.monotonic() > self.deadline:
                names = ", ".join(outcome.doc["metadata"]["name"] for outcome in waiting)
                raise ApplyError(f"not Established within {self.timeout:g} s: {names}. Remedy: look at their conditions.", self.report)
            time.sleep(pause)
            pause = min(pause * 2, 1)
            for outcome in waiting:
                outcome.live = (
                    self.cluster.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", outcome.doc["metadata"]["name"]) or {}
                )

    # deleting

    def keep(self, entries: list[dict], targets: Iterable[dict]) -> list[dict]:
        """Note the entries that a target keeps, as far as they still exist and are this set's; returns the others."""
        targets = list(targets or ())
        matched = [entry for entry in entries if any(matches(entry, target) for target in targets)]
        found = [(entry, self._find(entry)) for entry in matched]
        self.report.kept = [
            entry for entry, live in found if live and not live["metadata"].get("deletionTimestamp") and self._is_ours(live)
        ]
        return [entry for entry in entries if entry not in matched]

    def prune(self, inventory: Inventory, entries: list[dict], data: str) -> list[dict]:
        """Delete what an earlier run applied and this one does not have, as far as it is still this set's.

        In the order of `remove`. Returns the definitions that stay because there are objects of them: they are still this set's.
        """
        entries = [entry for entry in entries if _kind(entry) not in NEVER_PRUNED[data]]
        if not entries:
            return []
        foreign = inventory.foreign()
        definitions, _namespaces, workloads, webhooks, custom = phases(entry for entry in entries if key(entry) not in foreign)
        self._prune_all(custom, wait=True)
        unused = [entry for entry in definitions if data == "delete" or self.is_unused(entry)]
        self._prune_all(unused, wait=True)
        self._prune_all(webhooks)
        self._prune_all(workloads)
        return [entry for entry in definitions if entry not in unused]

    def _prune_all(self, entries: list[dict], wait: bool = False) -> None:
        done = len(self.report.outcomes)
        self._rounds(entries, self._prune)
        if wait:
            self._await_gone(self.report.outcomes[done:])

    def is_unused(self, definition: dict) -> bool:
        """Whether there are no objects of a CustomResourceDefinition besides those that this run deletes; a warning names them."""
        live = self._find(definition)
        served = next((version["name"] for version in live["spec"]["versions"] if version.get("served")), None) if live else None
        if not served:
            return True
        spec = live["spec"]
        try:
            found = self.cluster.list(f"{spec['group']}/{served}", spec["names"]["kind"])
        except UnknownKind:  # it was never established
            return True
        gone = {key(outcome.doc) for outcome in self.report.outcomes if outcome.action == "deleted"}
        left = ["/".join(part for part in key(item)[2:] if part) for item in found if key(item) not in gone]
        if left:
            shown = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
            self.report.warnings.append(
                f"{label(definition)} is kept, because there are objects of it: {shown}. "
                "Remedy: delete them, then rerun; or have them deleted with it (prune_data: delete)"
            )
        return not left

    def _prune(self, entry: dict) -> Outcome | None:
        live = self._find(entry)
        return self._delete_live(entry, live) if live and self._is_ours(live) else None

    def _is_ours(self, live: dict) -> bool:
        """Whether this manager still has a field of it. One that sets no field has none; then nobody but controllers may have any."""
        managers = [(part.get("manager") or "", part.get("operation") == "Apply") for part in live["metadata"].get("managedFields") or []]
        others = [name for name, applies in managers if verdict(name, applies, ()) != "leave"]
        return self.manager in others or not others

    def delete(self, docs: list[dict]) -> None:
        """Delete the objects and wait until they are gone."""
        done = len(self.report.outcomes)
        self._rounds(docs, self._delete)
        self._await_gone(self.report.outcomes[done:])

    def _await_gone(self, outcomes: list[Outcome]) -> None:
        if self.dry_run:
            return
        self._rounds(outcomes, self._gone, record=False)
        for outcome in outcomes:
            if is_crd(outcome.doc):
                self.cluster.forget(outcome.before)

    def _delete(self, doc: dict) -> Outcome | None:
        live = self._find(doc)
        return self._delete_live(doc, live) if live else None

    def _delete_live(self, doc: dict, live: dict) -> Outcome:
        meta = live["metadata"]
        if not meta.get("deletionTimestamp"):
            self.cluster.delete(doc["apiVersion"], doc["kind"], meta["name"], meta.get("namespace"), uid=meta["uid"], dry_run=self.dry_run)
        return Outcome(doc, "deleted", content(live), None, live=live)

    def _find(self, doc: dict) -> dict | None:
        meta = doc["metadata"]
        try:
            return self.cluster.get(doc["apiVersion"], doc["kind"], meta["name"], meta.get("namespace"))
        except UnknownKind:  # then there are no objects of it
            return None

    def _gone(self, outcome: Outcome) -> None:
        live = self._find(outcome.doc)
        if live and live["metadata"]["uid"] == outcome.live["metadata"]["uid"]:
            raise NotYet(self._held(live))

    def _held(self, live: dict) -> str:
        """Why an object that is being deleted still exists."""
        if _kind(live) == NAMESPACE:
            reasons = remains(Snapshot(self.cluster), live)
            return f"is Terminating since {live['metadata']['deletionTimestamp']}: {'; '.join(reasons) or 'it is being emptied'}"
        finalizers = ", ".join(live["metadata"].get("finalizers") or [])
        return "is still being deleted" + (f", held by finalizers: {finalizers}" if finalizers else "")

    # rounds

    def _rounds(self, items: list, work: Callable, record: bool = True) -> None:
        """Do the work for all items in parallel; those that answer NotYet again and again, until the timeout.

        Round by round: what a refusing webhook waits for may be among the other items.
        """
        if not items:
            return
        patience, pause = Patience(), 0.25
        pending, outcomes = list(enumerate(items)), {}
        with ThreadPoolExecutor(WORKERS) as pool:
            while pending:
                late, failures = {}, []
                for (number, item), (outcome, error) in zip(
                    pending, pool.map(lambda entry: self._try(entry[1], work), pending), strict=True
                ):
                    if isinstance(error, ClusterError):
                        failures.append(str(error))
                    elif isinstance(error, NotYet):
                        late[number] = (item, error)
                    elif error:
                        failures.append(f"{label(_doc(item))}: {error}")
                    elif outcome:
                        outcomes[number] = outcome
                pending = [(number, item) for number, (item, _) in late.items()]
                if pending and not failures:
                    failures = self._give_up(list(late.values()), patience)
                if failures:
                    self._record(outcomes, record)
                    raise ApplyError(_joined(list(dict.fromkeys(failures))), self.report)
                if pending:
                    time.sleep(max(min(pause, self.deadline - time.monotonic()), 0))
                    pause = min(pause * 1.5, 3)
        self._record(outcomes, record)

    def _record(self, outcomes: dict[int, Outcome], record: bool) -> None:
        if record:
            self.report.outcomes += [outcomes[number] for number in sorted(outcomes)]

    def _try(self, item, work: Callable) -> tuple[Outcome | None, Exception | None]:
        doc = _doc(item)
        try:
            return work(item), None
        except (NotYet, ApplyError) as error:
            return None, error
        except ApiError as error:
            message = _redacted(error.message, doc)
            refused = WEBHOOK.search(message)
            if refused:
                service = SERVICE.search(message)
                return None, NotYet(shorten(message), (service["namespace"], service["name"]) if service else None)
            if error.status == 404 and key(doc)[:2] in self.defined:  # a definition is served a moment after it is established
                return None, NotYet(shorten(message))
            if FIXED.search(message):
                message += ". Remedy: delete the object, then rerun; it is created anew"
            return None, ApplyError(shorten(message, 2000))
        except Unreachable as error:  # it was reachable when the run began
            return None, NotYet(str(error))
        except ClusterError as error:
            return None, error

    def _give_up(self, late: list[tuple[object, NotYet]], patience: Patience) -> list[str]:
        """The failures, if there is no point in trying any longer."""
        services = list(dict.fromkeys(error.service for _, error in late if error.service))
        found = [cause for service in services for cause in self._diagnose(*service)]
        hopeless = patience.exhausted(found, time.monotonic())
        if hopeless:
            verb = "waiting longer does not help"
        elif self.dry_run:
            verb = "check mode does not wait"
        elif time.monotonic() >= self.deadline:
            verb = f"given up after {self.timeout:g} s"
        else:
            return []
        awaited = "".join(f"; awaited was Service {namespace}/{name}" for namespace, name in services)
        because = "".join(f"; {cause}" for cause in dict.fromkeys(hopeless or found))
        return [f"{label(_doc(item))}: {error}" for item, error in late] + [f"{verb}{awaited}{because}"]

    def _diagnose(self, namespace: str, name: str) -> list[Cause]:
        """Why the service behind a refusing webhook does not answer."""
        try:
            service = self.cluster.get("v1", "Service", name, namespace)
            if service:
                return causes(self.cluster, service)
            return [Cause(f"Service {namespace}/{name}", "NotFound", "does not exist", lasting=True)]
        except ClusterError:  # a diagnosis with a gap is better than none
            return []


class _Everything:
    def __contains__(self, item) -> bool:
        return True


def _doc(item: dict | Outcome) -> dict:
    return item.doc if isinstance(item, Outcome) else item


def _established(crd: dict) -> bool:
    return condition(crd, "Established").get("status") == "True"


def _joined(problems: list[str], limit: int = 8) -> str:
    """Problems as one text; of many only the first, and the last, which may be about all of them."""
    if len(problems) > limit:
        problems = [*problems[: limit - 1], f"… {len(problems) - limit} more …", problems[-1]]
    return problems[0] if len(problems) == 1 else "\n".join(f"- {problem}" for problem in problems)
