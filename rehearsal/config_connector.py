# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stand-in for Config Connector: reconciles its resources in the cluster against the rehearsal, and says in their conditions how it went.

It works as the real one is seen to work: only where a Config Controller runs, in namespaces with a ConfigConnectorContext, as that one's
service account (which must be lent to the namespace and have a role on the project), with the same reasons, messages and finalizers.
Reconciling anew what is up to date takes place every ten minutes, or as the resource's annotation says.
"""

from __future__ import annotations

import copy
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

_ROOT = Path(__file__).parents[1]  # the checkout, which links to itself in collections, or <path>/ansible_collections/mlops/platform
sys.path.append(str(_ROOT / "collections" if (_ROOT / "collections").is_dir() else _ROOT.parents[2]))

from ansible_collections.mlops.platform.plugins.module_utils.client import ApiError, Cluster, ClusterError  # noqa: E402
from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, gke, iam  # noqa: E402

if TYPE_CHECKING:
    from rehearsal.server import Rehearsal

INTERVAL = 0.5  # seconds between two looks at the cluster
DISCOVERY = 5.0  # seconds between two looks at which kinds it serves
AGAIN, FIRST_RETRY, LAST_RETRY = 600, 1, 30  # seconds until what is up to date, or failed, is reconciled again
ANNOTATION = "cnrm.cloud.google.com/"
FINALIZERS = [f"{ANNOTATION}finalizer", f"{ANNOTATION}deletion-defender"]
MANAGER = {"fieldManager": "cnrm-controller-manager"}
CONTEXT = ("core.cnrm.cloud.google.com/v1beta1", "ConfigConnectorContext")
CONTEXT_NAME = "configconnectorcontext.core.cnrm.cloud.google.com"
HOME = "config-control"  # a Config Controller's own namespace
MERGE = "application/merge-patch+json"


class Unready(Exception):
    """The resource cannot be reconciled now: what its condition says."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason, self.message = reason, message


class Fields:
    """A specification that is used up: what is left at the end is unknown here, and is not passed over in silence."""

    def __init__(self, spec: dict):
        self._left = copy.deepcopy(spec)

    def take(self, path: str, default: object = None) -> object:
        """The value at a dotted path."""
        *parents, last = path.split(".")
        node = self._left
        for name in parents:
            node = node.get(name)
            if not isinstance(node, dict):
                return default
        return node.pop(last, default)

    def finish(self) -> None:
        """Raises Unready if something is left."""
        left = _leaves(self._left)
        if left:
            raise Unready("UpdateFailed", f"Update call failed: this stand-in for Config Connector does not know {', '.join(left)}")


def _leaves(value: object, path: str = "spec") -> list[str]:
    if isinstance(value, dict):
        return [leaf for name, inner in value.items() for leaf in _leaves(inner, f"{path}.{name}")]
    return [path]


def start(server: Rehearsal) -> Controller:
    """Begins to reconcile what is in the rehearsal's cluster."""
    controller = Controller(server)
    controller.start()
    return controller


class Controller:
    """Looks at the resources again and again, and reconciles those that are due in threads of their own."""

    def __init__(self, server: Rehearsal):
        self.server = server
        self.cluster = Cluster(server.kubeconfig, server.context)
        self.objects: dict[tuple[str, str, str], dict] = {}  # by kind, namespace, name
        self.contexts: dict[str, str] = {}  # service account by namespace
        self._projects: dict[str, str] = {}  # by namespace
        self._kinds: list[type[Kind]] = []
        self._discovered = -DISCOVERY
        self._seen: dict[str, tuple[int, int, float]] = {}  # by UID: generation, failures, when due again (monotonic)
        self._busy: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._pool = ThreadPoolExecutor(max_workers=8)

    def start(self) -> None:
        """Begins in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; what is being reconciled may not be finished."""
        self._stop.set()
        self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self._look()
            except ClusterError as error:  # it is being restarted, or made anew
                print(f"config-connector: {error}", flush=True)
                self._stop.wait(DISCOVERY)

    # -- what is there --------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """One look at everything."""
        controllers = self._controllers()
        now = time.monotonic()
        if now - self._discovered >= DISCOVERY:
            self._discovered = now
            self.cluster.invalidate()
            self._kinds = [kind for kind in KINDS if self.cluster.serves(kind.api_version, kind.__name__)]
        if not controllers or not self._kinds or not self.cluster.serves(*CONTEXT):
            return
        self._look_at_contexts(controllers[0])
        found = [item for kind in self._kinds for item in self.cluster.list(kind.api_version, kind.__name__)]
        self.objects = {(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]): item for item in found}
        for item in found:
            uid = item["metadata"]["uid"]
            if uid not in self._busy and self._due(item):
                self._busy.add(uid)
                self._pool.submit(self._reconcile, item)

    def _controllers(self) -> list[dict]:
        """The projects in which a Config Controller runs."""
        with self.server.lock:
            return [
                {"id": project["projectId"], "number": project["projectNumber"]}
                for project in self.server.state["projects"].values()
                if any(host["state"] == "RUNNING" for host in project.get("krmapihosting", {}).get("hosts", {}).values())
            ]

    def _look_at_contexts(self, project: dict) -> None:
        """Who works in which namespace; a Config Controller brings the first one."""
        contexts = self.cluster.list(*CONTEXT)
        if not any(item["metadata"]["namespace"] == HOME for item in contexts):
            account = f"service-{project['number']}@gcp-sa-yakima.iam.gserviceaccount.com"
            annotations = {f"{ANNOTATION}project-id": project["id"]}
            for document in (
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME, "annotations": annotations}},
                {
                    "apiVersion": CONTEXT[0],
                    "kind": CONTEXT[1],
                    "metadata": {"name": CONTEXT_NAME, "namespace": HOME},
                    "spec": {"googleServiceAccount": account},
                },
            ):
                self.cluster.apply(document, MANAGER["fieldManager"])
        for item in contexts:
            status = {"healthy": True, "observedGeneration": item["metadata"]["generation"]}
            if item.get("status") != status:
                self._patch(item, {"status": status}, "/status")
        self.contexts = {
            item["metadata"]["namespace"]: item["spec"]["googleServiceAccount"]
            for item in contexts
            if item["metadata"]["name"] == CONTEXT_NAME and not item["metadata"].get("deletionTimestamp")
        }
        annotated = self.cluster.list("v1", "Namespace")
        self._projects = {
            item["metadata"]["name"]: (item["metadata"].get("annotations") or {}).get(f"{ANNOTATION}project-id", item["metadata"]["name"])
            for item in annotated
        }

    def _due(self, item: dict) -> bool:
        generation, _failures, due = self._seen.get(item["metadata"]["uid"], (0, 0, 0.0))
        return item["metadata"]["generation"] != generation or time.monotonic() >= due

    # -- one resource ---------------------------------------------------------------------------------------------------------

    def project(self, item: dict) -> str:
        """The project that a resource belongs to."""
        namespace = item["metadata"]["namespace"]
        annotations = item["metadata"].get("annotations") or {}
        return annotations.get(f"{ANNOTATION}project-id") or self._projects.get(namespace, namespace)

    def _reconcile(self, item: dict) -> None:
        meta = item["metadata"]
        _generation, failures, _due = self._seen.get(meta["uid"], (0, 0, 0.0))
        again: float = 0
        try:
            again = self._try(item)
            failures = 0
        except Unready as error:
            # a dependency is looked at anew each time: that costs nothing
            failures = failures + 1 if not error.reason.startswith("Dependency") else 0
            again = min(FIRST_RETRY * 2 ** max(failures - 1, 0), LAST_RETRY) if failures else 0
            self._say(item, False, error.reason, error.message)
        except ApiError as error:
            if error.status not in (404, 409):  # gone, or changed meanwhile: the next look shows it
                print(f"config-connector: {item['kind']} {meta['namespace']}/{meta['name']}: {error}", flush=True)
        except ClusterError as error:
            print(f"config-connector: {error}", flush=True)
        finally:
            self._seen[meta["uid"]] = (meta["generation"], failures, time.monotonic() + again)
            self._busy.discard(meta["uid"])

    def _try(self, item: dict) -> float:
        """Reconcile or delete; seconds until it is due again. Raises Unready."""
        meta = item["metadata"]
        kind = next(kind for kind in self._kinds if kind.__name__ == item["kind"])
        gcp = self._client(item)
        resource = kind(self, gcp, item)
        if meta.get("deletionTimestamp"):
            if (meta.get("annotations") or {}).get(f"{ANNOTATION}deletion-policy") != "abandon":
                self._say(item, False, "Deleting", "Deletion in progress")
                self._google(resource.delete, "Delete")
            kept = [name for name in meta.get("finalizers") or [] if name not in FINALIZERS]
            self._patch(item, {"metadata": {"finalizers": kept or None}})
            return AGAIN
        if not set(FINALIZERS) <= set(meta.get("finalizers") or []):
            patch = {"finalizers": [*(meta.get("finalizers") or []), *FINALIZERS], "resourceVersion": meta["resourceVersion"]}
            self._patch(item, {"metadata": patch})
        resource.resolve()
        if condition(item).get("reason") != "UpdateFailed" and not up_to_date(item):
            self._say(item, False, "Updating", "Update in progress")
        status = self._google(resource.reconcile, "Update")
        self._say(item, True, "UpToDate", "The resource is up to date", status)
        return float((meta.get("annotations") or {}).get(f"{ANNOTATION}reconcile-interval-in-seconds") or AGAIN) or float("inf")

    def _client(self, item: dict) -> api.Gcp:
        """Google Cloud, as the service account of the namespace. Raises Unready if it may not act for it, or may do nothing."""
        namespace, project = item["metadata"]["namespace"], self.project(item)
        account = self.contexts.get(namespace)
        if not account:
            raise Unready(
                "Unmanaged",
                "No controller is managing this resource. Check if a ConfigConnectorContext exists for resource's namespace, "
                f"'{namespace}'",
            )
        with self.server.lock:
            projects = self.server.state["projects"]
            own = projects.get(account.rpartition("@")[2].removesuffix(".iam.gserviceaccount.com"))
            held = (own or {}).get("serviceAccounts", {}).get(account, {}).get("iamPolicy", {})
            lent = f"{project}.svc.id.goog[cnrm-system/cnrm-controller-manager-{namespace}]"
            granted = projects.get(project, {}).get("iamPolicy", {})
        if namespace != HOME and f"serviceAccount:{lent}" not in _members(held, "roles/iam.workloadIdentityUser"):
            raise _denied("iam.serviceAccounts.getAccessToken")
        if f"serviceAccount:{account}" not in _members(granted):
            raise _denied(f"{KIND_PERMISSIONS.get(item['kind'], 'resourcemanager.projects')}.get")
        return api.Gcp(project, access_token=self.server.token(account), endpoint=self.server.endpoint)

    def _google(self, work, verb: str):
        """Do something at Google's, with refusals as Config Connector words them."""
        try:
            return work()
        except api.GcpError as error:
            said = re.sub(r"^[\w.]+: ", "", getattr(error, "cause", error).message)
            said = re.sub(r" \(\d{3}[^()]*\)", "", said)
            where = "error applying desired state: summary: " if verb == "Update" else "error deleting resource: "
            raise Unready(f"{verb}Failed", f"{verb} call failed: {where}googleapi: Error {error.status}: {said}") from error

    def reference(self, item: dict, ref: dict, kind: str) -> dict:
        """The resource that a reference names. Raises Unready unless it is there and up to date."""
        namespace, name = ref.get("namespace") or item["metadata"]["namespace"], ref["name"]
        found = self.objects.get((kind, namespace, name))
        if found is None:
            raise Unready("DependencyNotFound", f"reference {kind} {namespace}/{name} is not found")
        if not up_to_date(found):
            raise Unready("DependencyNotReady", f"reference {kind} {namespace}/{name} is not ready")
        return found

    def account(self, item: dict, ref: dict) -> str:
        """The e-mail of a service account that a reference names."""
        if ref.get("external"):
            return ref["external"].rpartition("/")[2]
        return self.reference(item, ref, "IAMServiceAccount")["status"]["email"]

    def _say(self, item: dict, ready: bool, reason: str, message: str, more: dict | None = None) -> None:
        """The condition Ready, and what else belongs into the status."""
        meta, known = item["metadata"], condition(item)
        word = "True" if ready else "False"
        observed = (item.get("status") or {}).get("observedGeneration")
        new = {"type": "Ready", "status": word, "reason": reason, "message": message}
        if all(known.get(key) == value for key, value in new.items()) and observed == meta["generation"] and not more:
            return
        new["lastTransitionTime"] = known.get("lastTransitionTime") if known.get("status") == word else _now()
        status = {**(more or {}), "conditions": [new], "observedGeneration": meta["generation"]}
        if (item.get("status") or {}).items() >= status.items():
            return
        item["status"] = self._patch(item, {"status": status}, "/status").get("status", {})
        print(f"config-connector: {item['kind']} {meta['namespace']}/{meta['name']}: {reason}: {message}", flush=True)

    def _patch(self, item: dict, patch: dict, below: str = "") -> dict:
        path = self.cluster.resource(item["apiVersion"], item["kind"]).path(item["metadata"].get("namespace"), item["metadata"]["name"])
        return self.cluster.request("PATCH", path + below, MANAGER, patch, MERGE)[1]


def condition(item: dict) -> dict:
    """A resource's condition Ready, {} without one."""
    return next((found for found in (item.get("status") or {}).get("conditions") or [] if found["type"] == "Ready"), {})


def up_to_date(item: dict) -> bool:
    """Whether a resource is reconciled as it is specified now."""
    return condition(item).get("status") == "True" and item["status"].get("observedGeneration") == item["metadata"]["generation"]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _members(policy: dict, role: str = "") -> set[str]:
    return {member for binding in policy.get("bindings", []) if role in ("", binding["role"]) for member in binding["members"]}


def _denied(permission: str) -> Unready:
    return Unready(
        "UpdateFailed",
        "Update call failed: error fetching live state: error reading underlying resource: summary: googleapi: Error 403: "
        f"Permission '{permission}' denied on resource (or it may not exist)., forbidden",
    )


def _word(words: dict[str, str], value: str) -> str:
    """The option's word for a value of the API."""
    return next((word for word, other in words.items() if other == value), value)


# -- kinds ------------------------------------------------------------------------------------------------------------------------


class Kind:
    """One resource. `resolve` looks its references up (Unready); `reconcile` and `delete` act at Google's (GcpError)."""

    api_version = ""

    def __init__(self, controller: Controller, gcp: api.Gcp, item: dict):
        self.controller, self.gcp, self.item = controller, gcp, item
        self.name = item["spec"].get("resourceID") or item["metadata"]["name"]
        self.fields = Fields({key: value for key, value in item["spec"].items() if key != "resourceID"})

    def resolve(self) -> None:
        """Read the specification."""
        self.fields.finish()

    def reconcile(self) -> dict:
        """Make what is missing, change what differs; what to add to the status."""
        raise NotImplementedError

    def delete(self) -> None:
        """Delete it."""
        raise NotImplementedError

    def found(self, method: str, **parameters: str) -> dict | None:
        """What is there, None if nothing is."""
        try:
            return self.gcp.call(method, **parameters)
        except api.NotFound:
            return None

    def gone(self, method: str, **parameters: str) -> None:
        """Delete, unless nothing is there; wait for the operation if there is one."""
        try:
            operation = self.gcp.call(method, retry=True, **parameters)
        except api.NotFound:
            return
        if operation.get("status") or operation.get("kind"):
            self.gcp.wait(operation)


class IAMServiceAccount(Kind):
    """A service account."""

    api_version = "iam.cnrm.cloud.google.com/v1beta1"

    @property
    def path(self) -> str:
        """Its name at Google's."""
        return f"projects/{self.gcp.project}/serviceAccounts/{self.name}@{self.gcp.project}.iam.gserviceaccount.com"

    def resolve(self) -> None:
        """Read the specification."""
        self.wanted = {key: self.fields.take(key, "") for key in ("displayName", "description")}
        self.fields.finish()

    def reconcile(self) -> dict:
        """Create it, or change its texts."""
        found = self.found("iam.projects.serviceAccounts.get", name=self.path)
        if found is None:
            body = {"accountId": self.name, "serviceAccount": {key: value for key, value in self.wanted.items() if value}}
            found = self.gcp.call("iam.projects.serviceAccounts.create", body, name=f"projects/{self.gcp.project}")
        changed = [key for key, value in self.wanted.items() if found.get(key, "") != value]
        if changed:
            body = {"serviceAccount": self.wanted, "updateMask": ",".join(changed)}
            found = self.gcp.call("iam.projects.serviceAccounts.patch", body, name=self.path)
        return {"email": found["email"], "member": f"serviceAccount:{found['email']}", "name": found["name"], "uniqueId": found["uniqueId"]}

    def delete(self) -> None:
        """Delete it."""
        self.gone("iam.projects.serviceAccounts.delete", name=self.path)


class IAMPartialPolicy(Kind):
    """Members of roles beside others; those that it added and no longer has are taken out."""

    api_version = "iam.cnrm.cloud.google.com/v1beta1"

    def resolve(self) -> None:
        """Read the specification."""
        self.resource = self._resource(self.fields.take("resourceRef"))
        self.wanted = [
            {"role": binding["role"], "members": [self._member(each) for each in binding.get("members") or []]}
            for binding in self.fields.take("bindings") or []
        ]
        self.fields.finish()

    def _resource(self, ref: dict) -> str:
        if ref["kind"] == "Project":
            named = (ref.get("external") or self.gcp.project).removeprefix("projects/")
            self.gcp.project = named
            return "project"
        if ref["kind"] == "IAMServiceAccount":
            return f"service_account:{self.controller.account(self.item, ref)}"
        raise Unready("UpdateFailed", f"Update call failed: this stand-in for Config Connector does not know policies of {ref['kind']}")

    def _member(self, member: dict) -> str:
        source = member.get("memberFrom") or {}
        if source:
            return f"serviceAccount:{self.controller.account(self.item, source['serviceAccountRef'])}"
        return member["member"]

    def _applied(self) -> list[dict]:
        return (self.item.get("status") or {}).get("lastAppliedBindings") or []

    def reconcile(self) -> dict:
        """Take out what is no longer wanted, add what is missing."""
        kept = {(binding["role"], member) for binding in self.wanted for member in binding["members"]}
        gone = [
            {"role": binding["role"], "members": [each for each in binding["members"] if (binding["role"], each) not in kept]}
            for binding in self._applied()
        ]
        self._ensure([binding for binding in gone if binding["members"]], absent=True)
        self._ensure(self.wanted)
        return {"lastAppliedBindings": self.wanted}

    def delete(self) -> None:
        """Take out what it added, unless what it is about is gone too."""
        try:
            self.resource = self._resource(self.item["spec"]["resourceRef"])
        except Unready:
            return
        self._ensure(self._applied(), absent=True)

    def _ensure(self, bindings: list[dict], absent: bool = False) -> None:
        _changes, error = iam.ensure(self.gcp, {self.resource: bindings}, absent=absent) if bindings else ([], None)
        if error and not (absent and isinstance(error, api.NotFound)):
            raise error


class IAMPolicyMember(IAMPartialPolicy):
    """One member of one role."""

    def resolve(self) -> None:
        """Read the specification."""
        self.resource = self._resource(self.fields.take("resourceRef"))
        member = {"member": self.fields.take("member"), "memberFrom": self.fields.take("memberFrom")}
        self.wanted = [{"role": self.fields.take("role"), "members": [self._member(member)]}]
        self.fields.finish()

    def reconcile(self) -> dict:
        """Add it if it is missing."""
        self._ensure(self.wanted)
        return {}

    def delete(self) -> None:
        """Take it out."""
        try:
            self.resolve()
        except Unready:
            return
        self._ensure(self.wanted, absent=True)


class ComputeAddress(Kind):
    """A global address."""

    api_version = "compute.cnrm.cloud.google.com/v1beta1"

    def resolve(self) -> None:
        """Read the specification."""
        if self.item["spec"]["location"] == "global":
            self.fields.take("location")
        self.wanted = {key: value for key in ("addressType", "description", "ipVersion", "address") if (value := self.fields.take(key))}
        self.fields.finish()

    def reconcile(self) -> dict:
        """Create it; nothing of it can be changed."""
        found = self.found("compute.globalAddresses.get", address=self.name)
        if found is None:
            self.gcp.wait(self.gcp.call("compute.globalAddresses.insert", {"name": self.name, **self.wanted}))
            found = self.gcp.call("compute.globalAddresses.get", address=self.name)
        fixed = [key for key, value in self.wanted.items() if key != "description" and found.get(key) != value]
        if fixed:
            raise _immutable(fixed)
        made = {"selfLink": found["selfLink"], "creationTimestamp": found["creationTimestamp"]}
        return {**made, "observedState": {"address": found["address"]}}

    def delete(self) -> None:
        """Delete it."""
        self.gone("compute.globalAddresses.delete", address=self.name)


class ContainerCluster(Kind):
    """A cluster, without the pool that it is born with if its annotation says so."""

    api_version = "container.cnrm.cloud.google.com/v1beta1"

    @property
    def path(self) -> str:
        """Its name at Google's."""
        return gke.cluster_path(self.gcp.project, self.item["spec"]["location"], self.name)

    def resolve(self) -> None:
        """Read the specification, in the words of gke_cluster's options."""
        take, scaling = self.fields.take, "clusterAutoscaling."
        options: dict = dict.fromkeys(
            ("node_locations", "pods_range", "services_range", "authorized_networks", "node_pools", "private_nodes", "control_plane_cidr")
        )
        options.update(
            name=self.name,
            location=take("location"),
            release_channel=take("releaseChannel.channel"),
            network=take("networkRef.external"),
            subnetwork=take("subnetworkRef.external"),
            dataplane_v2=take("datapathProvider") == "ADVANCED_DATAPATH" or None,
            shielded_nodes=take("enableShieldedNodes"),
            workload_identity=bool(take("workloadIdentityConfig.workloadPool")) or None,
            private_nodes=take("privateClusterConfig.enablePrivateNodes"),
            control_plane_cidr=take("privateClusterConfig.masterIpv4CidrBlock"),
            labels={**(self.item["metadata"].get("labels") or {}), "managed-by-cnrm": "true"},
            autoprovisioning=None,
        )
        if take(f"{scaling}enabled"):
            limits = {each["resourceType"]: each["maximum"] for each in take(f"{scaling}resourceLimits", [])}
            options["autoprovisioning"] = {
                "enabled": True,
                "limits": limits,
                "service_account": self._account(f"{scaling}autoProvisioningDefaults."),
                "oauth_scopes": take(f"{scaling}autoProvisioningDefaults.oauthScopes"),
            }
        self.first = {
            "initialNodeCount": take("initialNodeCount", 1),
            "nodeConfig": {"serviceAccount": self._account("nodeConfig."), "oauthScopes": take("nodeConfig.oauthScopes")},
        }
        # what is so in any cluster that is made here
        for path, value in (
            ("networkingMode", "VPC_NATIVE"),
            ("ipAllocationPolicy.stackType", "IPV4"),
            ("privateClusterConfig.enablePrivateEndpoint", False),
            (f"{scaling}autoProvisioningDefaults.management", {"autoRepair": True, "autoUpgrade": True}),
        ):
            if (asked := take(path, value)) != value:
                raise Unready("UpdateFailed", f"Update call failed: this stand-in for Config Connector does not know spec.{path} {asked}")
        self.fields.finish()
        self.options = options

    def _account(self, prefix: str) -> str | None:
        ref = self.fields.take(f"{prefix}serviceAccountRef")
        return self.controller.account(self.item, ref) if ref else None

    def reconcile(self) -> dict:
        """Create it, or change what differs."""
        found = self.found(f"{gke.CLUSTERS}.get", name=self.path)
        if found is None:
            body = {key: value for key, value in gke.cluster_body(self.options, self.gcp.project).items() if key != "nodePools"}
            first = {**self.first, "nodeConfig": {key: value for key, value in self.first["nodeConfig"].items() if value}}
            parent = gke.cluster_path(self.gcp.project, self.options["location"])
            self._run("create", f"{gke.CLUSTERS}.create", {"cluster": {**body, **first}}, parent=parent)
        elif found["status"] == "PROVISIONING":
            gke.settle(self.gcp, lambda: self.gcp.call(f"{gke.CLUSTERS}.get", name=self.path), _provisioning, self.name)
        else:
            self._change(found)
        found = self.gcp.call(f"{gke.CLUSTERS}.get", name=self.path)
        annotations = self.item["metadata"].get("annotations") or {}
        if annotations.get(f"{ANNOTATION}remove-default-node-pool") == "true" and "default-pool" in _pools(found):
            self._run("remove default-pool", f"{gke.POOLS}.delete", None, name=f"{self.path}/nodePools/default-pool")
        return {"endpoint": found.get("endpoint", ""), "masterVersion": found["currentMasterVersion"], "selfLink": found["selfLink"]}

    def _change(self, found: dict) -> None:
        wanted = gke.cluster_wanted(self.options)
        has = gke.cluster_found(found, wanted)
        fields = gke.different(wanted, has)
        fixed = [name for name in fields if name not in {field for group in gke.CLUSTER_CHANGES.values() for field in group}]
        if fixed:
            raise _immutable(fixed)
        for doing, method, body in gke.cluster_calls(self.options, found, fields, self.gcp.project):
            self._run(doing, method, body, name=self.path)

    def _run(self, doing: str, method: str, body: dict | None, **parameters: str) -> None:
        _run(self.gcp, self.item["spec"]["location"], self.name, doing, method, body, parameters)

    def delete(self) -> None:
        """Delete it, with all its node pools."""
        self.gone(f"{gke.CLUSTERS}.delete", name=self.path)


class ContainerNodePool(Kind):
    """A node pool."""

    api_version = "container.cnrm.cloud.google.com/v1beta1"

    @property
    def path(self) -> str:
        """Its name at Google's."""
        return f"{self.cluster}/nodePools/{self.name}"

    def _cluster(self) -> str:
        ref = self.item["spec"]["clusterRef"]
        live = self.controller.reference(self.item, ref, "ContainerCluster")
        named = live["spec"].get("resourceID") or live["metadata"]["name"]
        return gke.cluster_path(self.gcp.project, self.item["spec"]["location"], named)

    def resolve(self) -> None:
        """Read the specification, in the words of gke_node_pools' options."""
        self.cluster = self._cluster()
        take, config = self.fields.take, "nodeConfig."
        take("clusterRef")
        take("location")
        account = take(f"{config}serviceAccountRef")
        cards = take(f"{config}guestAccelerator") or []
        taints = [{**each, "effect": _word(gke.EFFECTS, each["effect"])} for each in take(f"{config}taint") or []]
        scaling = {
            "min": take("autoscaling.minNodeCount"),
            "max": take("autoscaling.maxNodeCount"),
            "total_min": take("autoscaling.totalMinNodeCount"),
            "total_max": take("autoscaling.totalMaxNodeCount"),
            "location_policy": take("autoscaling.locationPolicy"),
        }
        options: dict = dict.fromkeys(gke.pools_spec()["options"])
        options.update(
            name=self.name,
            state="present",
            count=take("initialNodeCount"),
            locations=take("nodeLocations"),
            autoscaling={"enabled": True, **scaling} if any(value is not None for value in scaling.values()) else None,
            management={"auto_repair": take("management.autoRepair"), "auto_upgrade": take("management.autoUpgrade")},
            machine_type=take(f"{config}machineType"),
            disk_size_gb=take(f"{config}diskSizeGb"),
            disk_type=take(f"{config}diskType"),
            image_type=take(f"{config}imageType"),
            spot=take(f"{config}spot"),
            labels=take(f"{config}labels"),
            tags=take(f"{config}tags"),
            taints=taints or None,
            oauth_scopes=take(f"{config}oauthScopes"),
            workload_metadata=take(f"{config}workloadMetadataConfig.mode"),
            accelerator=_accelerator(cards[0]) if cards else None,
            service_account=self.controller.account(self.item, account) if account else None,
        )
        self.fields.finish()
        self.options = options

    def reconcile(self) -> dict:
        """Create it, or change what differs."""
        location = self.item["spec"]["location"]
        found = self.found(f"{gke.POOLS}.get", name=self.path)
        if found is None:
            body = {"nodePool": gke.pool_body(self.options)}
            _run(self.gcp, location, self.name, "create", f"{gke.POOLS}.create", body, {"parent": self.cluster})
        else:
            wanted = gke.pool_wanted(self.options)
            fields = gke.different(wanted, gke.pool_found(found, wanted))
            fixed = [name for name in fields if name not in {field for group in gke.POOL_CHANGES.values() for field in group}]
            if fixed:
                raise _immutable(fixed)
            for doing, method, body in gke.pool_calls(self.options, found, fields):
                _run(self.gcp, location, self.name, doing, method, body, {"name": self.path})
        found = self.gcp.call(f"{gke.POOLS}.get", name=self.path)
        return {"observedState": {"version": found["version"]}}

    def delete(self) -> None:
        """Delete it, unless its cluster is gone with it."""
        try:
            self.cluster = self._cluster()
        except Unready:
            return
        self.gone(f"{gke.POOLS}.delete", name=self.path)


def _accelerator(card: dict) -> dict:
    sharing = card.get("gpuSharingConfig")
    driver = (card.get("gpuDriverInstallationConfig") or {}).get("gpuDriverVersion")
    return {
        "type": card["type"],
        "count": card["count"],
        "partition_size": card.get("gpuPartitionSize"),
        "driver_version": _word(gke.DRIVERS, driver) if driver else None,
        "sharing": sharing
        and {"strategy": _word(gke.SHARING, sharing["gpuSharingStrategy"]), "max_clients": sharing["maxSharedClientsPerGpu"]},
    }


def _run(gcp: api.Gcp, location: str, target: str, doing: str, method: str, body: dict | None, parameters: dict) -> None:
    """One change of a cluster; others that run on it are waited for."""
    gke.Runner(gcp, location).run([gke.Step(target, doing, method, body, parameters)])


def _provisioning(cluster: dict) -> str:
    return cluster["status"] if cluster["status"] in ("PROVISIONING", "STOPPING") else ""


def _pools(cluster: dict) -> set[str]:
    return {pool["name"] for pool in cluster.get("nodePools", [])}


def _immutable(fields: list[str]) -> Unready:
    return Unready(
        "UpdateFailed",
        f"Update call failed: cannot make changes to immutable field(s): [{' '.join(fields)}]; please refer to our troubleshooting doc: "
        "https://cloud.google.com/config-connector/docs/troubleshooting",
    )


KINDS: tuple[type[Kind], ...] = (IAMServiceAccount, IAMPartialPolicy, IAMPolicyMember, ComputeAddress, ContainerCluster, ContainerNodePool)
KIND_PERMISSIONS = {
    "IAMServiceAccount": "iam.serviceAccounts",
    "ComputeAddress": "compute.globalAddresses",
    "ContainerCluster": "container.clusters",
    "ContainerNodePool": "container.clusters",
}
