# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Helm releases, without running helm where nothing is to be done.

What helm keeps of a release (a Secret a revision) says what was installed. A label that this module gives each revision says from which
chart and values: `mlops.platform/inputs` = digest of both, and the revision. Somebody's own `helm upgrade` or `helm rollback` inherits the
label, but not the revision's number. Drift is found by asking the server what applying the recorded manifest would change, so that defaults
and normalised values are no drift, and neither are fields that a controller has set since.

A run that is killed leaves its revision `pending-…`, which helm then refuses to touch. Such a revision is given the status `failed`, which
is what helm itself writes if it is interrupted in time: the next upgrade starts there, keeps what exists and creates what is missing.
Nothing is deleted (an uninstall would take CRDs, and with them everybody's resources, along).
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import copy
import datetime
import fcntl
import gzip
import hashlib
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

from ansible_collections.mlops.platform.plugins.module_utils import apply as applying
from ansible_collections.mlops.platform.plugins.module_utils import documents as docs_of
from ansible_collections.mlops.platform.plugins.module_utils.client import UnknownKind

INPUTS_LABEL = "mlops.platform/inputs"
HOST_LABEL = "mlops.platform/host"
MANAGER = "mlops-platform-helm"  # compares, and repairs what helm itself would not
UNFINISHED = ("pending-install", "pending-upgrade", "pending-rollback", "uninstalling")


class HelmError(Exception):
    """A release that cannot be brought into its state, with cause and remedy."""


@dataclass
class Wanted:
    """A release as it should be."""

    name: str
    namespace: str
    chart: str
    values: dict = field(default_factory=dict)
    create_namespace: bool = False

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    def digest(self) -> str:
        """Of everything that makes the manifest: the chart's files and the values."""
        digest = hashlib.sha256()
        for path in chart_files(self.chart):
            with open(path, "rb") as stream:
                content = stream.read()
            digest.update(f"{os.path.relpath(path, self.chart)}\0{len(content)}\0".encode() + content)
        digest.update(json.dumps(self.values, sort_keys=True).encode())
        return digest.hexdigest()[:40]  # a label's value has 63 characters at most


@dataclass
class Revision:
    """A revision as helm recorded it."""

    secret: dict

    @property
    def labels(self) -> dict:
        """Of the Secret: what helm looks at, and what this module added."""
        return self.secret["metadata"].get("labels", {})

    @property
    def number(self) -> int:
        """1, 2, …"""
        return int(self.labels["version"])

    @property
    def status(self) -> str:
        """`deployed`, `failed`, `pending-upgrade`…"""
        return self.labels["status"]

    @property
    def inputs(self) -> str | None:
        """The digest of chart and values, if it was this module that made the revision."""
        digest, _dot, number = self.labels.get(INPUTS_LABEL, "").partition(".")
        return digest if number == str(self.number) else None

    @property
    def age(self) -> float:
        """Seconds since helm last wrote it."""
        changed = self.labels.get("modifiedAt") or self.labels.get("createdAt")
        if changed and changed.isdigit():
            return max(0.0, time.time() - int(changed))
        created = datetime.datetime.fromisoformat(self.secret["metadata"]["creationTimestamp"])
        return max(0.0, time.time() - created.timestamp())

    def content(self) -> dict:
        """What helm recorded: info, chart, config, manifest, hooks."""
        return decode(self.secret["data"]["release"])


@dataclass
class Outcome:
    """What was, or in check mode would be, done."""

    name: str
    namespace: str
    action: str  # installed, upgraded, repaired, unchanged
    revision: int
    reason: str = ""
    diff: list[dict] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything is different now."""
        return self.action != "unchanged"


def chart_files(chart: str) -> list[str]:
    """Every file of a chart's directory, sorted."""
    if not os.path.isfile(os.path.join(chart, "Chart.yaml")):
        raise HelmError(f"{chart} is not a chart: it has no Chart.yaml.")
    return sorted(os.path.join(path, name) for path, _directories, names in os.walk(chart) for name in names)


def decode(data: str) -> dict:
    """A Secret's data.release as a dict: base64 of Kubernetes around base64 of helm around gzip around JSON."""
    content = base64.b64decode(base64.b64decode(data))
    return json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)


def encode(release: dict) -> str:
    """The opposite of decode."""
    return base64.b64encode(base64.b64encode(gzip.compress(json.dumps(release, separators=(",", ":")).encode()))).decode()


def manifest_documents(manifest: str, wanted: Wanted, cluster) -> list[dict]:
    """The objects of a manifest as helm writes them: with namespaces, and with helm's own label and annotations."""
    found = docs_of.load(documents=docs_of.parse(manifest, f"the manifest of Helm release {wanted}"), namespace=wanted.namespace)
    for doc in found:
        meta = doc["metadata"]
        with contextlib.suppress(UnknownKind):  # what defines it is yet to come; whether it has a namespace is not known then
            if cluster.resource(doc["apiVersion"], doc["kind"]).namespaced:
                meta.setdefault("namespace", wanted.namespace)
        meta["labels"] = {**(meta.get("labels") or {}), "app.kubernetes.io/managed-by": "Helm"}
        owner = {"meta.helm.sh/release-name": wanted.name, "meta.helm.sh/release-namespace": wanted.namespace}
        meta["annotations"] = {**(meta.get("annotations") or {}), **owner}
    return found


class Releases:
    """Releases of one cluster."""

    def __init__(self, cluster, helm: str = "helm", timeout: float = 300, take_ownership: bool = False) -> None:
        self.cluster, self.helm, self.timeout, self.take_ownership = cluster, helm, timeout, take_ownership
        self.host = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())[:63].strip("-") or "localhost"
        self.warnings: list[str] = []
        self._capabilities: list[str] | None = None

    def ensure(self, wanted: Wanted, check: bool = False, diff: bool = False) -> Outcome:
        """Bring one release into its state."""
        digest = wanted.digest()
        with self._lock(wanted, check) as lock:
            last = self._last(wanted)
            if last and last.status in UNFINISHED:
                last = self._recover(wanted, last, check)
            drifted: list[applying.Outcome] = []
            action, reason = self._compare(last, digest)
            if action == "unchanged":
                drifted = self._drift(wanted, last)
                if drifted:
                    action, reason = "repaired", "drift: " + "; ".join(_drift_text(item) for item in drifted[:5])
            revision = last.number if last else 0
            outcome = Outcome(wanted.name, wanted.namespace, action, revision + (action != "unchanged"), reason)
            if diff and outcome.changed:
                outcome.diff = self._diff(wanted, last)
            if outcome.changed and not check:
                self._repair_custom_resources(drifted)
                self._upgrade(wanted, f"{digest}.{revision + 1}", lock)
                outcome.revision = getattr(self._last(wanted), "number", outcome.revision)
            return outcome

    @staticmethod
    def _compare(last: Revision | None, digest: str) -> tuple[str, str]:
        if last is None or last.status == "uninstalled":
            return "installed", "it is not installed"
        if last.status != "deployed":
            return "upgraded", f"revision {last.number} is {last.status}"
        if last.inputs is None:
            return "upgraded", f"revision {last.number} was made by someone else"
        if last.inputs != digest:
            return "upgraded", "the chart or its values are different"
        return "unchanged", ""

    def _last(self, wanted: Wanted) -> Revision | None:
        """The newest revision, or None where the release (or its namespace) does not exist."""
        secrets = self.cluster.list("v1", "Secret", wanted.namespace, label_selector=f"owner=helm,name={wanted.name}")
        return max(
            (Revision(secret) for secret in secrets if secret.get("type") == "helm.sh/release.v1"),
            key=lambda item: item.number,
            default=None,
        )

    # -- runs that were killed, and runs that are still alive

    @contextlib.contextmanager
    def _lock(self, wanted: Wanted, check: bool):
        """Held by this process and by the helm that it starts: as long as either is alive, its revision is being worked on."""
        key = hashlib.sha256(f"{self.cluster.server} {wanted.namespace} {wanted.name}".encode()).hexdigest()[:16]
        path = os.path.join(tempfile.gettempdir(), f"mlops-platform-helm-{os.getuid()}-{key}.lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        patience = time.monotonic() + self.timeout
        try:
            while not check:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > patience:
                        raise HelmError(
                            f"Helm release {wanted}: another run on this machine has been working on it for more than {self.timeout:g} s "
                            f"(it holds {path}). Wait for it to end, or stop it, and run this again."
                        ) from None
                    time.sleep(0.2)
            yield descriptor
        finally:
            os.close(descriptor)

    def _recover(self, wanted: Wanted, last: Revision, check: bool) -> Revision:
        """A revision that is not finished: wait for whoever works on it, or make it one that helm continues from."""
        patience = time.monotonic() + self.timeout
        while last is not None and last.status in UNFINISHED:
            ours = HOST_LABEL in last.labels
            # The lock is held, so whoever of this machine began it is gone. Elsewhere nothing of ours takes longer than the time-out.
            if ours and (last.labels[HOST_LABEL] == self.host or last.age > self.timeout):
                break
            if check or time.monotonic() > patience:
                raise HelmError(
                    f"Helm release {wanted}: revision {last.number} has been {last.status} for {last.age:.0f} s, not from this machine. "
                    f"If nobody works on it any more: helm rollback {wanted.name} --namespace {wanted.namespace} "
                    "(helm uninstall, if it is the first revision), then run this again."
                )
            time.sleep(1)
            last = self._last(wanted)
        if last is None or last.status not in UNFINISHED:
            return last
        self.warnings.append(
            f"Helm release {wanted}: an earlier run was interrupted (revision {last.number} is {last.status}); "
            "it is marked as failed, and the release is upgraded from there."
        )
        content = last.content()
        content["info"].update(status="failed", description=f"Interrupted (was {last.status})")
        secret = copy.deepcopy(last.secret)
        secret["metadata"]["labels"]["status"] = "failed"
        secret["data"]["release"] = encode(content)
        if not check:
            # A PUT with the resourceVersion that was read: should the other run finish now after all, this fails.
            path = self.cluster.resource("v1", "Secret").path(wanted.namespace, secret["metadata"]["name"])
            self.cluster.request("PUT", path, {"fieldManager": "helm"}, secret)
        return Revision(secret)

    # -- drift

    def _drift(self, wanted: Wanted, last: Revision) -> list[applying.Outcome]:
        """The objects that are not what the recorded manifest says."""
        docs = manifest_documents(last.content()["manifest"], wanted, self.cluster)
        # Most objects contain their document word for word; the server is asked about the others only. That saves two thirds of the time.
        with concurrent.futures.ThreadPoolExecutor(applying.WORKERS) as pool:
            lives = list(pool.map(self._live, docs))
        doubtful = [doc for doc, live in zip(docs, lives, strict=True) if not contains(live, doc)]
        return self._compared(doubtful).drift if doubtful else []

    def _compared(self, docs: list[dict]) -> applying.Report:
        try:
            return applying.compare(self.cluster, docs, MANAGER, force_managers=["helm"])
        except applying.ApplyError as error:
            raise HelmError(str(error)) from None

    def _live(self, doc: dict) -> dict | None:
        try:
            return self.cluster.get(doc["apiVersion"], doc["kind"], doc["metadata"]["name"], doc["metadata"].get("namespace"))
        except UnknownKind:
            return None

    def _repair_custom_resources(self, drifted: list[applying.Outcome]) -> None:
        """Helm compares custom resources with its last manifest only, and would leave what was changed in the cluster."""
        docs = [outcome.doc for outcome in drifted if outcome.action == "configured" and docs_of.is_custom(outcome.doc)]
        if docs:
            try:
                applying.apply(self.cluster, docs, MANAGER, force_managers=["helm"], timeout=self.timeout, strict=False)
            except applying.ApplyError as error:
                raise HelmError(str(error)) from None

    # -- changes

    def _diff(self, wanted: Wanted, last: Revision | None) -> list[dict]:
        """What the upgrade changes in the cluster, an entry an object."""
        if not self._has_helm():
            self.warnings.append(f"{self.helm} does not exist yet: the changes of Helm release {wanted} cannot be shown.")
            return []
        new = manifest_documents(self._render(wanted, last), wanted, self.cluster)
        old = manifest_documents(last.content()["manifest"], wanted, self.cluster) if last else []
        previous, kept = {docs_of.key(doc): doc for doc in old}, {docs_of.key(doc) for doc in new}
        report = self._compared(new)
        for outcome in report.outcomes:
            before = previous.get(docs_of.key(outcome.doc))
            if before and outcome.before is not None:
                # what only the old manifest has: helm removes it, applying alone would not
                outcome.after = without_removed(outcome.after, before, outcome.doc)
                outcome.action = "unchanged" if outcome.after == outcome.before else "configured"
        for doc in old:
            if docs_of.key(doc) not in kept and doc["metadata"]["annotations"].get("helm.sh/resource-policy") != "keep":
                live = self._live(doc)
                if live:
                    report.outcomes.append(applying.Outcome(doc, "deleted", applying.content(live), None))
        return report.diff()

    def _render(self, wanted: Wanted, last: Revision | None) -> str:
        """The manifest, by helm, without needing the cluster to know every kind already."""
        if self._capabilities is None:
            _status, groups = self.cluster.request("GET", "/apis")
            versions = [version["groupVersion"] for group in groups["groups"] for version in group["versions"]]
            self._capabilities = ["--kube-version", self.cluster.git_version] + [
                part for name in versions for part in ("--api-versions", name)
            ]
        arguments = ["template", wanted.name, wanted.chart, *self._capabilities, "--no-hooks"]
        return self._run(wanted, [*arguments, "--is-upgrade" if last else "--include-crds"])

    def _upgrade(self, wanted: Wanted, inputs: str, lock: int) -> None:
        arguments = [
            "upgrade", "--install", wanted.name, wanted.chart, "--reset-values", "--hide-notes",
            "--labels", f"{INPUTS_LABEL}={inputs},{HOST_LABEL}={self.host}", "--timeout", f"{max(1, int(self.timeout))}s",
        ]  # fmt: skip
        if wanted.create_namespace:
            arguments.append("--create-namespace")
        try:
            self._run(wanted, arguments, lock)
        except _OwnershipError:
            self._check_adoption(wanted)
            self._run(wanted, [*arguments, "--take-ownership"], lock)

    def _check_adoption(self, wanted: Wanted) -> None:
        """Objects exist that this release would have to take over. CRDs may be: they come without an owner from older charts."""
        others, unowned = [], []
        for doc in manifest_documents(self._render(wanted, None), wanted, self.cluster):
            live = self._live(doc)
            annotations = (live or {}).get("metadata", {}).get("annotations") or {}
            owner = (annotations.get("meta.helm.sh/release-namespace"), annotations.get("meta.helm.sh/release-name"))
            if live is None or owner == (wanted.namespace, wanted.name):
                continue
            if owner[1]:
                others.append(f"{docs_of.label(doc)} (of release {owner[0]}/{owner[1]})")
            elif doc["kind"] != "CustomResourceDefinition" and not self.take_ownership:
                unowned.append(docs_of.label(doc))
        if others:
            raise HelmError(
                f"Helm release {wanted}: these objects belong to other releases: {', '.join(others)}. "
                "Use the names of the existing releases, or uninstall them first."
            )
        if unowned:
            raise HelmError(
                f"Helm release {wanted}: these objects exist already, and not from Helm: {', '.join(unowned)}. "
                "Remove them, or keep what is installed (istio_manage: false for Istio), or take them over (take_ownership: true)."
            )

    def _has_helm(self) -> bool:
        return any(os.access(os.path.join(path, self.helm), os.X_OK) for path in ["", *os.get_exec_path()])

    def _run(self, wanted: Wanted, arguments: list[str], lock: int | None = None) -> str:
        """Run helm. The values go in by standard input: they are in no file and in no list of processes."""
        command = [self.helm, *arguments, "--namespace", wanted.namespace, "--values", "-"]
        if self.cluster.context:
            command += ["--kube-context", self.cluster.context]
        environment = {**os.environ, "KUBECONFIG": self.cluster.kubeconfig}
        try:
            done = subprocess.run(
                command, input=json.dumps(wanted.values), env=environment, capture_output=True, text=True, check=False,
                timeout=self.timeout + 60, pass_fds=[] if lock is None else [lock],
            )  # fmt: skip
        except OSError as error:
            raise HelmError(
                f"helm cannot be run: {error}. `make up` installs it into the cache; else set the path of helm 3.17 or later."
            ) from None
        except subprocess.TimeoutExpired:
            raise HelmError(
                f"Helm release {wanted}: helm did not end within {self.timeout + 60:g} s. Raise the timeout, or see what it waits for."
            ) from None
        if done.returncode == 0:
            return done.stdout
        error = done.stderr.strip() or done.stdout.strip()
        if "invalid ownership metadata" in error and "--take-ownership" not in arguments:
            raise _OwnershipError(error)
        shown = " ".join(part for part in command[:4] if part)
        raise HelmError(f"Helm release {wanted}: `{shown}` failed: {error[-2000:]}")


class _OwnershipError(HelmError):
    """Helm refuses to take over what it did not make."""


# -- objects


def contains(live: object, doc: object) -> bool:
    """Whether the object has everything in the document as it is written. (If not, the server may know it to be the same.)"""
    if isinstance(doc, dict):
        return isinstance(live, dict) and all(key in live and contains(live[key], value) for key, value in doc.items())
    if isinstance(doc, list):
        return isinstance(live, list) and len(live) == len(doc) and all(map(contains, live, doc))
    return type(live) is type(doc) and live == doc


def without_removed(predicted: object, old: object, new: object) -> object:
    """The prediction without what the old manifest has and the new one does not: helm removes it, a patch alone would not."""
    if isinstance(predicted, dict) and isinstance(old, dict) and isinstance(new, dict):
        return {
            key: without_removed(value, old[key], new[key]) if key in old and key in new else value
            for key, value in predicted.items()
            if not (key in old and key not in new)
        }
    if (
        isinstance(predicted, list)
        and isinstance(old, list)
        and isinstance(new, list)
        and all(_name(item) for item in [*predicted, *old, *new])
    ):
        before, after = {_name(item): item for item in old}, {_name(item): item for item in new}
        return [
            without_removed(item, before[_name(item)], after[_name(item)]) if _name(item) in before and _name(item) in after else item
            for item in predicted
            if not (_name(item) in before and _name(item) not in after)
        ]
    return predicted


def _name(item: object) -> str | None:
    return item.get("name") if isinstance(item, dict) else None


def _drift_text(outcome: applying.Outcome) -> str:
    name = docs_of.label(outcome.doc)
    if outcome.before is None:
        return f"{name} is missing"
    path, before, after = _first_difference(outcome.before, outcome.after)
    return f"{name}: {path}" + ("" if outcome.doc["kind"] == "Secret" else f" is {_short(before)} instead of {_short(after)}")


def _first_difference(live: object, predicted: object, path: str = "") -> tuple[str, object, object]:
    if isinstance(live, dict) and isinstance(predicted, dict):
        for key in [*predicted, *live]:
            if live.get(key) != predicted.get(key):
                return _first_difference(live.get(key), predicted.get(key), f"{path}.{key}" if path else str(key))
    if isinstance(live, list) and isinstance(predicted, list) and len(live) == len(predicted):
        for number, (one, other) in enumerate(zip(live, predicted, strict=True)):
            if one != other:
                return _first_difference(one, other, f"{path}[{number}]")
    return path, live, predicted


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
