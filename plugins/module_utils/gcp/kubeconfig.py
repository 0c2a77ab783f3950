# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Contexts of GKE clusters in a kubeconfig: cluster, user (a credential plugin, never a token) and context; all others stay as they are."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, gke_credential

OWN = "mlops-platform_"  # what the names of clusters and users of ours begin with
PLUGIN = "gke-credential.py"
SECTIONS = {"clusters": "cluster", "users": "user", "contexts": "context"}
TLS = ("server", "certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify")
TOKEN_VARIABLE = "GCP_ACCESS_TOKEN"
LOCK_SECONDS = 10


class KubeconfigError(Exception):
    """The kubeconfig cannot be used or written; the message names the remedy."""


class NoCluster(Exception):
    """There is no such cluster, or none that can be reached yet."""


@dataclass
class Entry:
    """A cluster, and who talks to it how."""

    context: str
    cluster: dict
    user: dict
    namespace: str = ""

    @property
    def name(self) -> str:
        """The name of its cluster and its user: of its own, so that no other context depends on them."""
        return OWN + self.context


@dataclass
class Change:
    """A kubeconfig before and after."""

    before: dict
    after: dict
    warnings: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether the contents differ."""
        return self.before != self.after


# -- clusters ---------------------------------------------------------------------------------------------------------------------


def find(gcp: api.Gcp, name: str, location: str = "") -> dict:
    """The cluster as GKE describes it. NoCluster if there is none, KubeconfigError if there are several."""
    if location:
        try:
            return gcp.call(
                "container.projects.locations.clusters.get", name=f"projects/{gcp.project}/locations/{location}/clusters/{name}"
            )
        except api.NotFound:
            raise NoCluster(f"The project {gcp.project} has no cluster {name} in {location}. Remedy: create it first.") from None
    listed = gcp.call("container.projects.locations.clusters.list", parent=f"projects/{gcp.project}/locations/-").get("clusters", [])
    found = [cluster for cluster in listed if cluster["name"] == name]
    if len(found) > 1:
        places = ", ".join(sorted(cluster["location"] for cluster in found))
        raise KubeconfigError(f"There are clusters {name} in {places}. Remedy: set location to the one that is meant.")
    if not found:
        others = ", ".join(sorted(cluster["name"] for cluster in listed))
        raise NoCluster(f"The project {gcp.project} has no cluster {name}{f', only {others}' if others else ''}. Remedy: create it first.")
    return found[0]


def server(cluster: dict, address: str) -> dict:
    """The cluster's entry in a kubeconfig, for the address that is wanted (public, private or dns)."""
    control_plane = cluster.get("controlPlaneEndpointsConfig", {})
    ip, private = control_plane.get("ipEndpointsConfig", {}), cluster.get("privateClusterConfig", {})
    dns = control_plane.get("dnsEndpointConfig", {})
    host = {
        "public": cluster.get("endpoint"),  # the private one where there is no other
        "private": ip.get("privateEndpoint") or private.get("privateEndpoint"),
        "dns": dns.get("endpoint"),
    }[address]
    if not host:
        state = cluster.get("status", "")
        if state == "PROVISIONING":
            raise NoCluster(f"The cluster {cluster['name']} is still being made. Remedy: wait until it is RUNNING.")
        raise KubeconfigError(
            f"The cluster {cluster['name']} has no {address} address (state {state}). Remedy: choose another one with the option address, "
            "or switch this one on in the cluster."
        )
    if address == "dns":  # its certificate is of a public authority
        return {"server": f"https://{host}"}
    return {"server": f"https://{host}", "certificate-authority-data": cluster["masterAuth"]["clusterCaCertificate"]}


# -- users ------------------------------------------------------------------------------------------------------------------------


def own_plugin(path: str, credentials_file: str = "", impersonate: str = "", iam_endpoint: str = "", token_variable: str = "") -> dict:
    """The user of a kubeconfig that runs our plugin with this interpreter."""
    options = {
        "--credentials-file": os.path.abspath(os.path.expanduser(credentials_file)) if credentials_file else "",
        "--impersonate": impersonate,
        "--iam-endpoint": iam_endpoint,
        "--access-token-variable": token_variable,
    }
    return {
        "exec": {
            "apiVersion": gke_credential.API,
            "command": sys.executable,
            "args": [path, *(part for name, value in options.items() if value for part in (name, value))],
            "installHint": "Run the playbook again; it puts the program there and names a Python that has google-auth.",
            "interactiveMode": "Never",
            "provideClusterInfo": True,  # a recreated cluster is not given a token that was kept for the earlier one
        }
    }


def googles_plugin(credentials_file: str = "", impersonate: str = "") -> dict:
    """The user of a kubeconfig that runs gke-gcloud-auth-plugin."""
    run = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "gke-gcloud-auth-plugin",
        "installHint": "Install gke-gcloud-auth-plugin (a component of gcloud, or the package google-cloud-cli-gke-gcloud-auth-plugin).",
        "interactiveMode": "IfAvailable",
        "provideClusterInfo": True,
    }
    if credentials_file:
        run["args"] = ["--use_application_default_credentials"]
        run["env"] = [{"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": os.path.abspath(os.path.expanduser(credentials_file))}]
    elif impersonate:
        run["env"] = [{"name": "CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT", "value": impersonate}]
    return {"exec": run}


def plugin_source() -> str:
    """The program, which needs nothing of the collection."""
    return inspect.getsource(gke_credential)


def check_googles_plugin() -> None:
    """KubeconfigError if it is not installed."""
    if not shutil.which("gke-gcloud-auth-plugin"):
        raise KubeconfigError(
            "auth_plugin: gke-gcloud-auth-plugin is not on this machine's PATH. "
            "Remedy: `gcloud components install gke-gcloud-auth-plugin`, or take auth_plugin: own, which needs neither."
        )


# -- files ------------------------------------------------------------------------------------------------------------------------


def path_of(given: str) -> str:
    """The file that is written: the given one, else the first of $KUBECONFIG, else ~/.kube/config."""
    paths = [path for path in (given or os.environ.get("KUBECONFIG") or "").split(os.pathsep) if path]
    return os.path.abspath(os.path.expanduser(paths[0] if paths else "~/.kube/config"))


def load(path: str) -> dict:
    """The kubeconfig, an empty one if there is no file. KubeconfigError if it is something else."""
    try:
        with open(path, encoding="utf-8") as file:
            config = yaml.safe_load(file)
    except FileNotFoundError:
        config = None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "problem", None) or "not YAML"
        raise KubeconfigError(f"The kubeconfig {path} cannot be read: {reason}. Remedy: repair it, or name another file.") from error
    if config is None:
        config = {"apiVersion": "v1", "kind": "Config"}
    if not isinstance(config, dict) or config.get("kind", "Config") != "Config":
        raise KubeconfigError(f"{path} is not a kubeconfig. Remedy: name another file.")
    for section in SECTIONS:
        entries = config.get(section) or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) and "name" in entry for entry in entries):
            raise KubeconfigError(f"The kubeconfig {path} is damaged: {section} is not a list of names. Remedy: repair it.")
        config[section] = entries
    return config


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Keep kubectl, and other runs, from writing the file meanwhile: they respect the same lock."""
    lock = f"{path}.lock"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            break
        except FileExistsError:
            if time.monotonic() > end:
                raise KubeconfigError(
                    f"{lock} is there for more than {LOCK_SECONDS} s. Remedy: remove it if nothing writes the kubeconfig any more."
                ) from None
            time.sleep(0.1)
    try:
        yield
    finally:
        os.unlink(lock)


def write(path: str, text: str, mode: int = 0o600) -> None:
    """Replace a file in one step; a link stays one, and the owner the same."""
    path = os.path.realpath(path)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=os.path.dirname(path), prefix=f".{os.path.basename(path)}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(draft, mode)
        if os.path.exists(path) and os.geteuid() == 0:
            there = os.stat(path)
            os.chown(draft, there.st_uid, there.st_gid)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def text_of(config: dict) -> str:
    """The kubeconfig as YAML."""
    return yaml.safe_dump(config, sort_keys=False)


# -- contents ---------------------------------------------------------------------------------------------------------------------


def put(config: dict, entry: Entry, current: bool) -> Change:
    """Put a context in, with its cluster and user."""
    after, warnings = copy.deepcopy(config), []
    cluster = _get(after, "clusters", entry.name)
    _set(after, "clusters", entry.name, {**{key: value for key, value in cluster.items() if key not in TLS}, **entry.cluster})
    _set(after, "users", entry.name, entry.user)
    context = _get(after, "contexts", entry.context)
    if context and context.get("cluster") != entry.name:
        warnings.append(
            f"The context {entry.context} meant cluster {context.get('cluster')} and user {context.get('user')}, which stay in the file."
        )
    namespace = {"namespace": entry.namespace} if entry.namespace else {}
    _set(after, "contexts", entry.context, {**context, "cluster": entry.name, "user": entry.name, **namespace})
    if current or not after.get("current-context"):
        after["current-context"] = entry.context
    return Change(config, after, warnings)


def remove(config: dict, context: str) -> Change:
    """Take a context out, and its cluster and user if they are ours and of no other context."""
    after = copy.deepcopy(config)
    after["contexts"] = [each for each in after["contexts"] if each["name"] != context]
    if len(after["contexts"]) == len(config["contexts"]):
        return Change(config, config)
    if after.get("current-context") == context:
        after["current-context"] = ""
    for section in ("clusters", "users"):
        _drop_unused(after, section)
    return Change(config, after)


def _drop_unused(config: dict, section: str) -> None:
    used = {(each.get("context") or {}).get(SECTIONS[section]) for each in config["contexts"]}
    config[section] = [each for each in config[section] if each["name"] in used or not str(each["name"]).startswith(OWN)]


def _get(config: dict, section: str, name: str) -> dict:
    return next((each.get(SECTIONS[section]) or {} for each in config[section] if each["name"] == name), {})


def _set(config: dict, section: str, name: str, value: dict) -> None:
    for each in config[section]:
        if each["name"] == name:
            each[SECTIONS[section]] = value
            return
    config[section].append({"name": name, SECTIONS[section]: value})


def shown(config: dict, context: str) -> dict:
    """What a diff shows of a kubeconfig: one context, its cluster and its user, without anything secret."""
    found = _get(config, "contexts", context)
    if not found:
        return {}
    cluster = dict(_get(config, "clusters", found.get("cluster", "")))
    if "certificate-authority-data" in cluster:
        digest = hashlib.sha256(str(cluster["certificate-authority-data"]).encode()).hexdigest()
        cluster["certificate-authority-data"] = f"(sha256 {digest[:16]}…)"
    user = {key: value if key == "exec" else "(hidden)" for key, value in _get(config, "users", found.get("user", "")).items()}
    if isinstance(user.get("exec"), dict):
        user["exec"] = {key: value for key, value in user["exec"].items() if key != "env"}
        user["exec"]["env"] = [each.get("name") for each in _get(config, "users", found["user"])["exec"].get("env") or []]
    return {"context": found, "cluster": cluster, "user": user, "current-context": config.get("current-context", "")}


def runs(config: dict, plugin: str) -> bool:
    """Whether a user of the kubeconfig runs this program."""
    programs = [(each.get("user") or {}).get("exec") or {} for each in config["users"]]
    return any(plugin in (program.get("args") or []) for program in programs)
