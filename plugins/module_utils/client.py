# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A small Kubernetes client: raw dicts, discovery from the server itself, and the `kubernetes` package's authentication, TLS and proxies.

Threads may share a `Cluster`. Nothing is cached on disk, so a recreated cluster is never mistaken for the earlier one.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import threading
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies

import urllib3

from ansible_collections.mlops.platform.plugins.module_utils import kubeconfig as kubeconfig_file

CONNECT_TIMEOUT = 2.5  # seconds; tried twice, so that an unreachable server is reported within five
READ_TIMEOUT = 60.0  # a write may wait for a chain of admission webhooks, each allowed up to 30 s
POOL_SIZE = 32
APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML
DISCOVERY_ACCEPT = ",".join(
    [f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList" for version in ("v2", "v2beta1")] + ["application/json"]
)


class ClusterError(Exception):
    """The cluster cannot be used: kubeconfig, network, TLS, authentication. The message names the remedy."""


class Unreachable(ClusterError):
    """The server does not answer; it may again, e.g. while a control plane is replaced."""


class UnknownKind(ClusterError):
    """The server does not serve this kind."""


class ApiError(ClusterError):
    """The API server answered with a failure; `details` is what the Status object says in addition."""

    def __init__(self, status: int, reason: str = "", message: str = "", details: dict | None = None):
        super().__init__(message or f"{status} {reason}")
        self.status, self.reason, self.message, self.details = status, reason, message or f"{status} {reason}", details or {}


@dataclass(frozen=True)
class Resource:
    """Where the objects of one kind live in the API."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """The path of one object, or of the collection if no name is given (over all namespaces without a namespace)."""
        parts = ["apis" if "/" in self.api_version else "api", self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))  # RBAC names may hold colons, even slashes
        return "/" + "/".join(parts)


class Cluster:
    """One cluster: `context` (default: the current one) of `kubeconfig` (default: $KUBECONFIG, else ~/.kube/config)."""

    def __init__(self, kubeconfig: str | None = None, context: str | None = None):
        self.kubeconfig = os.path.expanduser(str(kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"))
        self.context = context or None
        self.server = ""
        self._auth_lock = threading.Lock()
        self._discovery_lock = threading.Lock()
        self._resources: dict[tuple[str, str], Resource] | None = None
        self._learned: dict[tuple[str, str], Resource] = {}
        plain = kubeconfig_file.read(self.kubeconfig, self.context)
        if plain and not self._proxied(plain.server):
            self.context, self.server = plain.context, plain.server
            self._config = None
            self._authorization = f"Bearer {plain.token}" if plain.token else ""
            self._pool = urllib3.PoolManager(num_pools=POOL_SIZE, maxsize=POOL_SIZE, ssl_context=plain.tls)
        else:
            self._config = self._load()
            self._pool = self._connect()

    def __str__(self) -> str:
        return f"context {self.context!r} of kubeconfig {self.kubeconfig} (server {self.server or 'unknown'})"

    # -- connection -------------------------------------------------------------------------------------------------------------

    def _load(self):
        """Read the kubeconfig with the kubernetes package, which also runs credential plugins and reads tokens and certificates."""
        from kubernetes import config as loader
        from kubernetes.client import Configuration

        remedy = "Remedy: create the cluster, or set kubeconfig (platform_kubeconfig, $KUBECONFIG) and context (platform_context)."
        paths = [os.path.expanduser(path) for path in self.kubeconfig.split(os.pathsep) if path]
        if not any(os.path.exists(path) for path in paths):
            raise ClusterError(
                f"The kubeconfig {self.kubeconfig} does not exist (wanted context: {self.context or 'the current one'}). {remedy}"
            )
        # An empty proxy keeps the package from taking one from the environment: _connect decides about that.
        configuration = Configuration(proxy="")
        configuration.connection_pool_maxsize = POOL_SIZE
        complaints = _Complaints()
        logging.getLogger().addHandler(complaints)  # a failing credential plugin is only logged by the package
        try:
            if not self.context:
                self.context = self._current_context(loader)
            loader.load_kube_config(self.kubeconfig, self.context, configuration, persist_config=False)
        except ClusterError:
            raise
        except Exception as error:  # ConfigException, YAML errors, missing certificate files, wrong types…
            raise ClusterError(
                f"The kubeconfig {self.kubeconfig} cannot be used with context {self.context or '(current)'}: "
                f"{error}{self._known_contexts()}. {remedy}"
            ) from error
        finally:
            logging.getLogger().removeHandler(complaints)
        self.server = configuration.host
        if complaints.lines and not configuration.api_key and not configuration.cert_file:
            raise ClusterError(
                f"No credentials for {self}: {'; '.join(complaints.lines)}. Remedy: repair the credential plugin or log in again."
            )
        return configuration

    def _current_context(self, loader) -> str:
        try:
            return loader.list_kube_config_contexts(self.kubeconfig)[1]["name"]
        except loader.ConfigException as error:
            raise ClusterError(
                f"The kubeconfig {self.kubeconfig} names no usable current context ({error}){self._known_contexts()}. "
                "Remedy: set context (platform_context), or run `kubectl config use-context`."
            ) from error

    def _known_contexts(self) -> str:
        from kubernetes.config.kube_config import KubeConfigMerger

        try:
            names = sorted(context["name"] for context in KubeConfigMerger(self.kubeconfig).config.value["contexts"])
        except Exception:  # the file is unreadable, and that is what the caller reports
            return ""
        return f"; its contexts are {', '.join(names)}" if names else "; it has no contexts"

    def _connect(self):
        """The connection pool, with the proxy that kubectl would use, and no other.

        `proxy-url` of the kubeconfig holds always. Otherwise HTTPS_PROXY (HTTP_PROXY for a plain server) holds unless NO_PROXY names
        the server or the server is on loopback: the API of a kind cluster is never asked for through a company's proxy, which would
        answer for it, or refuse. ALL_PROXY is not looked at.
        """
        from kubernetes.client import ApiClient

        if self._config.proxy:
            self._config.no_proxy = ""
        else:
            self._config.proxy = self._proxied(self.server)
        return ApiClient(self._config).rest_client.pool_manager

    @staticmethod
    def _proxied(server: str) -> str | None:
        """The proxy that the environment has for a server, which NO_PROXY may still exempt."""
        url = urlsplit(server)
        return None if _is_loopback(url.hostname or "") else getproxies().get(url.scheme)

    def _credentials(self) -> str:
        """What belongs into the header Authorization, if anything does."""
        if not self._config:
            return self._authorization
        with self._auth_lock:  # the package renews expired tokens in here
            return self._config.get_api_key_with_prefix("BearerToken", "authorization")

    def _trouble(self, what: str, remedy: str, kind: type[ClusterError] = ClusterError) -> ClusterError:
        proxy = getattr(self._pool, "proxy", None)
        through = f" through the proxy {proxy.scheme}://{proxy.host}:{proxy.port} (NO_PROXY={self._config.no_proxy or ''})" if proxy else ""
        if through:
            remedy += ", and whether the server's host belongs into NO_PROXY"
        return kind(f"{self}{through}: {what}. Remedy: {remedy}.")

    # -- requests ---------------------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        query: dict | None = None,
        body=None,
        content_type: str | None = None,
        headers: dict | None = None,
        timeout: float = READ_TIMEOUT,
    ) -> tuple[int, object]:
        """Send one request and return (status, parsed body; text if it is not JSON). `body` is sent as JSON unless it is bytes or str.

        A failure is an ApiError; if the server cannot be talked to at all, or refuses the credentials, a ClusterError.
        """
        sent = {"Accept": "application/json", "User-Agent": "mlops.platform"}
        if body is not None:
            sent["Content-Type"] = content_type or "application/json"
            if not isinstance(body, (bytes, str)):
                body = json.dumps(body, separators=(",", ":"))
        if credentials := self._credentials():
            sent["Authorization"] = credentials
        sent.update(headers or {})
        url = self.server + path
        if query:
            url += "?" + urlencode({key: _query_value(value) for key, value in query.items() if value is not None})
        # Everything but POST may be sent again after a lost answer; 429 and 503 are repeated when the server says when.
        retries = urllib3.Retry(
            connect=1, read=2, status=5, redirect=0, other=0, backoff_factor=0.2, raise_on_status=False,
            allowed_methods={"GET", "PUT", "PATCH", "DELETE"},
        )  # fmt: skip
        try:
            response = self._pool.request(
                method, url, body=body, headers=sent, retries=retries, timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=timeout)
            )
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        return response.status, self._parse(method, path, response)

    def _unreachable(self, error: Exception) -> ClusterError:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, urllib3.exceptions.SSLError) or isinstance(error, urllib3.exceptions.SSLError):
            return self._trouble(
                f"TLS failed: {reason}", "export the kubeconfig anew, it may belong to an earlier cluster at the same address"
            )
        if isinstance(reason, urllib3.exceptions.ProxyError):
            return self._trouble(f"the proxy failed: {reason}", "check the proxy")
        if isinstance(reason, urllib3.exceptions.ReadTimeoutError):
            what, remedy = "the server accepted the request but did not answer in time", "check the load of the control plane, then rerun"
        else:
            what, remedy = f"the server cannot be reached: {reason}", "check that the cluster is running and the context the right one"
        return self._trouble(what, remedy, Unreachable)

    def _parse(self, method: str, path: str, response) -> object:
        data = response.data
        try:
            parsed = json.loads(data) if data else {}
        except ValueError:
            parsed = data.decode(errors="replace")
        if response.status < 400:
            return parsed
        status = parsed if isinstance(parsed, dict) and parsed.get("kind") == "Status" else {}
        message = status.get("message") or (parsed if isinstance(parsed, str) else json.dumps(parsed)).strip()[:500]
        if response.status == 401:
            raise self._trouble(f"the credentials are refused (401 {message})", "log in again, or export the kubeconfig anew")
        if response.status == 403 and status and "system:anonymous" in message:
            raise self._trouble(f"no credentials were sent ({message})", "check the user of this context in the kubeconfig")
        raise ApiError(response.status, status.get("reason") or response.reason or "", message or f"{method} {path}", status.get("details"))

    # -- discovery --------------------------------------------------------------------------------------------------------------

    def resource(self, api_version: str | None, kind: str) -> Resource:
        """Where this kind lives. Without api_version a kind of Kubernetes itself wins, else the only group that has it."""
        for attempt in (1, 2):
            known = self._discovered()
            found = _look_up(known, api_version, kind)
            if found:
                return found
            if attempt == 1:  # a CRD may have been installed since
                self.invalidate(known)
        raise UnknownKind(f"{self} does not serve {kind} of {api_version or 'any group'}. Remedy: install what defines it first (its CRD).")

    def named(self, plural: str, group: str) -> Resource | None:
        """Where the kind lives that the API calls by this plural, in its preferred version."""
        found = (entry for entry in self._discovered().values() if entry.plural == plural)
        return next((entry for entry in found if entry.api_version.rpartition("/")[0] == group), None)

    def invalidate(self, seen: dict | None = None) -> None:
        """Forget what was discovered. (`seen`: only if nobody has discovered anew since.)"""
        with self._discovery_lock:
            if seen is None or seen is self._resources:
                self._resources = None

    def serves(self, api_version: str, kind: str) -> bool:
        """Whether the server has this kind."""
        try:
            self.resource(api_version, kind)
        except UnknownKind:
            return False
        return True

    def learn(self, crd: dict) -> None:
        """Take over what an established CRD serves: discovery lags behind it by up to some seconds."""
        spec = crd["spec"]
        for version in spec["versions"]:
            if version.get("served", True):
                resource = Resource(
                    f"{spec['group']}/{version['name']}", spec["names"]["kind"], spec["names"]["plural"], spec["scope"] == "Namespaced"
                )
                self._learned[resource.api_version, resource.kind] = resource
        with self._discovery_lock:
            if self._resources is not None:
                self._resources.update(self._learned)

    def forget(self, crd: dict) -> None:
        """Undo `learn`: the CRD is gone."""
        for version in crd["spec"]["versions"]:
            self._learned.pop((f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]), None)
        self.invalidate()

    def _discovered(self) -> dict[tuple[str, str], Resource]:
        with self._discovery_lock:
            if self._resources is None:
                self._resources = dict(self._discover())
                self._resources.update(self._learned)
            return self._resources

    def _discover(self):
        """Yield ((apiVersion, kind), Resource), Kubernetes' own groups first, preferred versions first."""
        groups = []
        for path in ("/api", "/apis"):
            _, answer = self.request("GET", path, headers={"Accept": DISCOVERY_ACCEPT})
            answered = answer.get("kind") if isinstance(answer, dict) else None
            if answered == "APIGroupDiscoveryList":
                groups += answer["items"]
            elif answered in ("APIVersions", "APIGroupList"):  # servers before 1.26
                groups += self._plain_groups(answer)
            else:
                raise self._trouble("what answers there is not a Kubernetes API server", "check the server's address in the kubeconfig")
        for group in sorted(groups, key=lambda group: not _is_builtin(group.get("metadata", {}).get("name") or "")):
            name = group.get("metadata", {}).get("name")
            for version in group["versions"]:
                api_version = f"{name}/{version['version']}" if name else version["version"]
                for entry in version.get("resources", []):
                    kind = entry.get("responseKind", {}).get("kind")
                    if kind:
                        yield (api_version, kind), Resource(api_version, kind, entry["resource"], entry["scope"] == "Namespaced")

    def _plain_groups(self, answer: dict) -> list[dict]:
        """The plain discovery documents in the form of the aggregated one."""
        if answer["kind"] == "APIVersions":
            named = [("", answer["versions"])]
        else:
            named = [(group["name"], [version["groupVersion"] for version in group["versions"]]) for group in answer["groups"]]
        return [
            {
                "metadata": {"name": name},
                "versions": [{"version": v.rpartition("/")[2], "resources": self._plain_resources(v)} for v in versions],
            }
            for name, versions in named
        ]

    def _plain_resources(self, api_version: str) -> list[dict]:
        try:
            _, answer = self.request("GET", ("/apis/" if "/" in api_version else "/api/") + api_version)
        except ApiError as error:
            if error.status not in (404, 503):  # the group went away, or its aggregated server is down
                raise
            return []
        return [
            {
                "resource": entry["name"],
                "responseKind": {"kind": entry["kind"]},
                "scope": "Namespaced" if entry["namespaced"] else "Cluster",
            }
            for entry in answer["resources"]
            if "/" not in entry["name"]
        ]

    # -- objects ----------------------------------------------------------------------------------------------------------------

    def get(self, api_version: str | None, kind: str, name: str, namespace: str | None = None) -> dict | None:
        """The object, or None if it does not exist."""
        try:
            return self.request("GET", self.resource(api_version, kind).path(namespace, name))[1]
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self,
        api_version: str | None,
        kind: str,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> list[dict]:
        """All objects of a kind, in one namespace or in all of them."""
        resource = self.resource(api_version, kind)
        query = {"labelSelector": label_selector, "fieldSelector": field_selector, "limit": 500}
        items = []
        while True:
            _, answer = self.request("GET", resource.path(namespace), query)
            items += answer["items"] or []
            query["continue"] = answer["metadata"].get("continue")
            if not query["continue"]:
                break
        for item in items:  # lists leave these out
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return items

    def apply(self, doc: dict, manager: str, force: bool = False, dry_run: bool = False, strict: bool = True) -> dict:
        """Server-side apply of one document; returns the object as the server has (or, dry, would have) it."""
        path = self.resource(doc["apiVersion"], doc["kind"]).path(doc["metadata"].get("namespace"), doc["metadata"]["name"])
        query = {"fieldManager": manager, "force": force, "fieldValidation": "Strict" if strict else "Ignore"}
        if dry_run:
            query["dryRun"] = "All"
        return self.request("PATCH", path, query, doc, APPLY_PATCH)[1]

    def delete(
        self,
        api_version: str | None,
        kind: str,
        name: str,
        namespace: str | None = None,
        uid: str | None = None,
        dry_run: bool = False,
    ) -> bool:
        """Ask for the deletion of an object (only if it is the one with that uid); False if it does not exist."""
        # dryRun too belongs into the body: with one, the server does not look at the query
        options = {
            "propagationPolicy": "Background",
            "dryRun": ["All"] if dry_run else None,
            "preconditions": {"uid": uid} if uid else None,
        }
        try:
            path = self.resource(api_version, kind).path(namespace, name)
            self.request("DELETE", path, body={name: value for name, value in options.items() if value})
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def version(self) -> dict:
        """What the server says about itself (gitVersion, major, minor…)."""
        return self.request("GET", "/version")[1]

    @cached_property
    def git_version(self) -> str:
        """Such as v1.34.4."""
        return self.version()["gitVersion"]


class _Complaints(logging.Handler):
    """Collects what a library logs as an error."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _look_up(known: dict[tuple[str, str], Resource], api_version: str | None, kind: str) -> Resource | None:
    if api_version:
        return known.get((api_version, kind))
    found = [resource for (_, name), resource in known.items() if name == kind]
    groups = {resource.api_version.rpartition("/")[0] for resource in found}
    if len(groups) > 1 and not _is_builtin(found[0].api_version.rpartition("/")[0]):
        raise UnknownKind(f"More than one group has a kind {kind}: {', '.join(sorted(groups))}. Remedy: say which with apiVersion.")
    return found[0] if found else None


def _is_builtin(group: str) -> bool:
    return "." not in group or group.endswith(".k8s.io")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _query_value(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
