"""The services of the rehearsal: the life of each kind of resource, what is refused and how, quotas, and operations over time."""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import requests

from rehearsal import cluster as stand_in
from rehearsal import descriptions, locations
from rehearsal.state import merge

ZONE, REGION = "asia-northeast3-a", "asia-northeast3"


@dataclass
class Refusal(Exception):
    """What a service answered instead of doing it."""

    http: int
    status: str
    message: str
    reason: str = ""
    details: list = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.http} {self.status}: {self.message}"


class Google:
    """Calls by the ids of Google's methods, plain and without retries."""

    def __init__(self, rehearsal):
        self.rehearsal, self.session = rehearsal, requests.Session()
        self.session.headers["Authorization"] = f"Bearer {rehearsal.access_token}"
        self.location = f"projects/{rehearsal.project}/locations/{ZONE}"
        self.cluster = f"{self.location}/clusters/kubeflow"

    def __call__(self, method: str, body: dict | None = None, **parameters) -> dict:
        service = method.split(".")[0]
        description = descriptions.served(service, descriptions.SERVED[service][0])
        described = description.methods[method]
        path = description.document["servicePath"] + described["path"]
        for name in re.findall(r"{\+?(\w+)}", path):
            path = re.sub(rf"{{\+?{name}}}", str(parameters.pop(name, self.rehearsal.project)), path)
        answer = self.session.request(described["httpMethod"], f"{self.rehearsal.endpoint}/{service}/{path}", json=body, params=parameters)
        found = answer.json()
        if answer.status_code != 200:
            error = found["error"]
            reason = error.get("errors", [{}])[0].get("reason", "")
            raise Refusal(answer.status_code, error["status"], error["message"], reason, error.get("details", []))
        return found

    def done(self, operation: dict) -> dict:
        """The operation once it has ended; an error in it is raised."""
        deadline = time.monotonic() + 5
        while operation.get("status") != "DONE" and not operation.get("done"):
            assert time.monotonic() < deadline, operation
            time.sleep(0.02)
            operation = self._again(operation)
        if error := operation.get("error"):
            raise Refusal(200, str(error.get("code", "")), (error.get("errors") or [error])[0]["message"])
        return operation

    def _again(self, operation: dict) -> dict:
        if operation.get("kind") == "compute#operation":
            scope = next((scope for scope in ("zone", "region") if scope in operation), "")
            where = {scope: operation[scope].rpartition("/")[2]} if scope else {}
            return self(f"compute.{scope or 'global'}Operations.get", operation=operation["name"], **where)
        if "operationType" in operation:
            name = f"projects/{self.rehearsal.project}/locations/{operation['location']}/operations/{operation['name']}"
            return self("container.projects.locations.operations.get", name=name)
        if operation["name"].startswith("projects/"):
            return self("krmapihosting.projects.locations.operations.get", name=operation["name"])
        return self("servicemanagement.operations.get", name=operation["name"])

    def make_cluster(self, **more) -> dict:
        """A zonal cluster `kubeflow` with one pool."""
        pool = {"name": "default", "initialNodeCount": 1, "config": {"machineType": "e2-standard-8"}}
        body = {"cluster": {"name": "kubeflow", "nodePools": [pool], **more}}
        self.done(self("container.projects.locations.clusters.create", body, parent=self.location))
        return self("container.projects.locations.clusters.get", name=self.cluster)

    def make_pool(self, name: str = "l4", **pool) -> dict:
        """A node pool of that cluster."""
        self.done(self("container.projects.locations.clusters.nodePools.create", {"nodePool": {"name": name, **pool}}, parent=self.cluster))
        return self.pool(name)

    def pool(self, name: str = "l4") -> dict:
        return self("container.projects.locations.clusters.nodePools.get", name=f"{self.cluster}/nodePools/{name}")

    def change_pool(self, verb: str, body: dict, name: str = "l4") -> dict:
        """After nodePools.<verb>."""
        self.done(self(f"container.projects.locations.clusters.nodePools.{verb}", body, name=f"{self.cluster}/nodePools/{name}"))
        return self.pool(name)

    def change_cluster(self, **change) -> dict:
        """After clusters.update."""
        self.done(self("container.projects.locations.clusters.update", {"update": change}, name=self.cluster))
        return self("container.projects.locations.clusters.get", name=self.cluster)


@pytest.fixture
def google(rehearsal) -> Google:
    return Google(rehearsal)


def refused(call, *arguments, **more) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call(*arguments, **more)
    return caught.value


GPUS = {"acceleratorType": "nvidia-l4", "acceleratorCount": "1"}
L4 = {"config": {"machineType": "g2-standard-8", "accelerators": [GPUS]}}


# ---- compute: what there is


def test_regions_tell_gpu_quotas_where_there_are_gpus(google):
    quotas = {quota["metric"]: quota for quota in google("compute.regions.get", region=REGION)["quotas"]}
    assert quotas["NVIDIA_L4_GPUS"] == {"metric": "NVIDIA_L4_GPUS", "limit": 16.0, "usage": 0.0}
    assert "PREEMPTIBLE_NVIDIA_L4_GPUS" in quotas
    elsewhere = {quota["metric"] for quota in google("compute.regions.get", region="europe-north2")["quotas"]}
    assert "NVIDIA_L4_GPUS" not in elsewhere
    assert {quota["metric"] for quota in google("compute.projects.get")["quotas"]} >= {"GPUS_ALL_REGIONS", "STATIC_ADDRESSES"}


def test_quotas_are_what_the_state_says(google, rehearsal):
    rehearsal.seed({"projects": {rehearsal.project: {"quotas": {"global": {"GPUS_ALL_REGIONS": 0}, REGION: {"NVIDIA_L4_GPUS": 2}}}}})
    limits = {quota["metric"]: quota["limit"] for quota in google("compute.regions.get", region=REGION)["quotas"]}
    assert limits["NVIDIA_L4_GPUS"] == 2
    assert {"metric": "GPUS_ALL_REGIONS", "limit": 0.0, "usage": 0.0} in google("compute.projects.get")["quotas"]


def test_zones_and_regions_belong_together(google):
    zones = google("compute.zones.list")["items"]
    region = next(zone for zone in zones if zone["name"] == ZONE)["region"]
    assert region.endswith(f"/regions/{REGION}")
    assert len(zones) == sum(len(found["zones"]) for found in google("compute.regions.list")["items"])
    assert refused(google, "compute.regions.get", region="mars-north1").http == 404


def test_accelerators_by_zone(google):
    offered = google("compute.acceleratorTypes.aggregatedList", filter='name = "nvidia-l4"')["items"]
    assert {scope.removeprefix("zones/") for scope, found in offered.items() if "acceleratorTypes" in found} == set(
        locations.ACCELERATORS["nvidia-l4"].zones
    )
    assert offered["zones/europe-north2-a"]["warning"]["code"] == "NO_RESULTS_ON_PAGE"
    assert {item["name"] for item in google("compute.acceleratorTypes.list", zone=ZONE)["items"]} == {"nvidia-l4", "nvidia-tesla-a100"}
    assert refused(google, "compute.acceleratorTypes.get", zone=ZONE, acceleratorType="nvidia-tesla-k80").http == 404


def test_aggregated_lists_have_pages(google):
    pages, token = [], ""
    while not pages or token:
        page = google("compute.acceleratorTypes.aggregatedList", maxResults=50, **({"pageToken": token} if token else {}))
        pages.append(page["items"])
        token = page.get("nextPageToken", "")
    assert len(pages) == 3
    assert len({scope for page in pages for scope in page}) == len(google("compute.zones.list")["items"])


def test_a_filter_that_is_none_is_refused(google):
    assert refused(google, "compute.acceleratorTypes.aggregatedList", filter="l4!!").http == 400


# ---- compute: addresses, firewalls, routers, networks


def test_an_address_lives(google):
    google.done(google("compute.globalAddresses.insert", {"name": "kubeflow-ip", "labels": {"a": "b"}}))
    address = google("compute.globalAddresses.get", address="kubeflow-ip")
    assert address["status"] == "RESERVED" and address["addressType"] == "EXTERNAL" and address["address"]
    assert "labels" not in address  # the insert ignores them
    stale = refused(google, "compute.globalAddresses.setLabels", {"labels": {"a": "b"}, "labelFingerprint": "AAAA"}, resource="kubeflow-ip")
    assert (stale.http, stale.reason) == (412, "conditionNotMet")
    body = {"labels": {"a": "b"}, "labelFingerprint": address["labelFingerprint"]}
    google.done(google("compute.globalAddresses.setLabels", body, resource="kubeflow-ip"))
    assert google("compute.globalAddresses.get", address="kubeflow-ip")["labels"] == {"a": "b"}
    again = refused(google, "compute.globalAddresses.insert", {"name": "kubeflow-ip"})
    assert (again.http, again.reason) == (409, "alreadyExists")
    google.done(google("compute.globalAddresses.delete", address="kubeflow-ip"))
    assert refused(google, "compute.globalAddresses.get", address="kubeflow-ip").reason == "notFound"


def test_an_address_beyond_the_quota_is_refused_with_the_metric(google, rehearsal):
    rehearsal.seed({"projects": {rehearsal.project: {"quotas": {"global": {"STATIC_ADDRESSES": 1}}}}})
    google.done(google("compute.globalAddresses.insert", {"name": "one"}))
    beyond = refused(google, "compute.globalAddresses.insert", {"name": "two"})
    assert (beyond.http, beyond.reason) == (403, "quotaExceeded")
    assert beyond.message == "Quota 'STATIC_ADDRESSES' exceeded. Limit: 1.0 globally."


def test_an_operation_takes_its_time_and_may_fail(google, rehearsal):
    rehearsal.faults({"kind": "operation_error", "method": "compute.globalAddresses.insert", "message": "no address left"})
    operation = google("compute.globalAddresses.insert", {"name": "kubeflow-ip"})
    assert operation["status"] == "RUNNING" and operation["targetLink"].endswith("/global/addresses/kubeflow-ip")
    failed = refused(google.done, operation)
    assert failed.message == "no address left"
    assert refused(google, "compute.globalAddresses.get", address="kubeflow-ip").http == 404


def test_a_firewall_lives(google):
    body = {"name": "webhooks", "allowed": [{"IPProtocol": "tcp", "ports": ["8443", "15017"]}], "sourceRanges": ["172.16.0.0/28"]}
    google.done(google("compute.firewalls.insert", body))
    firewall = google("compute.firewalls.get", firewall="webhooks")
    assert (firewall["direction"], firewall["priority"], firewall["disabled"]) == ("INGRESS", 1000, False)
    assert firewall["network"].endswith("/global/networks/default")
    google.done(google("compute.firewalls.patch", {"allowed": [{"IPProtocol": "tcp", "ports": ["9443"]}]}, firewall="webhooks"))
    firewall = google("compute.firewalls.get", firewall="webhooks")
    assert firewall["allowed"] == [{"IPProtocol": "tcp", "ports": ["9443"]}] and firewall["sourceRanges"] == ["172.16.0.0/28"]
    assert "direction" in refused(google, "compute.firewalls.patch", {"direction": "EGRESS"}, firewall="webhooks").message
    google.done(google("compute.firewalls.delete", firewall="webhooks"))
    assert "items" not in google("compute.firewalls.list")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"name": "x"}, "Exactly one of allowed and denied"),
        ({"name": "x", "allowed": [{"IPProtocol": "tcp", "ports": ["http"]}]}, "Ports must be integers"),
        ({"name": "x", "allowed": [{"IPProtocol": "tcp"}], "sourceRanges": ["10.0.0.0/33"]}, "CIDR"),
        ({"name": "x", "allowed": [{"IPProtocol": "tcp"}], "targetTags": ["a"], "targetServiceAccounts": ["b"]}, "cannot be used together"),
        ({"name": "x", "allowed": [{"IPProtocol": "tcp"}], "network": "global/networks/nowhere"}, "cannot be found"),
        ({"name": "X_", "allowed": [{"IPProtocol": "tcp"}]}, "Must be a match of regex"),
        ({"name": "x", "allowed": [{"IPProtocol": "tcp"}], "port": 80}, 'Unknown name "port"'),
    ],
)
def test_a_wrong_firewall_is_refused(google, body, what):
    wrong = refused(google, "compute.firewalls.insert", body)
    assert wrong.http == 400 and what in wrong.message


def test_a_router_with_nat_lives(google):
    nat = {"name": "nat", "natIpAllocateOption": "AUTO_ONLY", "sourceSubnetworkIpRangesToNat": "ALL_SUBNETWORKS_ALL_IP_RANGES"}
    google.done(google("compute.routers.insert", {"name": "router", "network": "global/networks/default", "nats": [nat]}, region=REGION))
    router = google("compute.routers.get", region=REGION, router="router")
    assert router["nats"][0]["type"] == "PUBLIC" and router["nats"][0]["endpointTypes"] == ["ENDPOINT_TYPE_VM"]
    manual = {**nat, "natIpAllocateOption": "MANUAL_ONLY"}
    assert "natIps" in refused(google, "compute.routers.patch", {"nats": [manual]}, region=REGION, router="router").message
    google.done(google("compute.routers.patch", {"nats": [{**nat, "minPortsPerVm": 128}]}, region=REGION, router="router"))
    assert google("compute.routers.get", region=REGION, router="router")["nats"][0]["minPortsPerVm"] == 128
    found = google("compute.routers.aggregatedList")["items"]
    assert [router["name"] for router in found[f"regions/{REGION}"]["routers"]] == ["router"]
    google.done(google("compute.routers.delete", region=REGION, router="router"))
    assert refused(google, "compute.routers.get", region=REGION, router="router").http == 404


def test_a_network_in_use_cannot_be_deleted(google):
    assert google("compute.subnetworks.get", region=REGION, subnetwork="default")["ipCidrRange"].startswith("10.")
    google.done(google("compute.networks.insert", {"name": "kf", "autoCreateSubnetworks": False}))
    body = {"name": "nodes", "ipCidrRange": "10.0.0.0/20", "network": "global/networks/kf"}
    google.done(google("compute.subnetworks.insert", body, region=REGION))
    used = refused(google, "compute.networks.delete", network="kf")
    assert (used.http, used.reason) == (400, "resourceInUseByAnotherResource")
    google.make_cluster(network="kf", subnetwork="nodes")
    assert "clusters/kubeflow" in refused(google, "compute.subnetworks.delete", region=REGION, subnetwork="nodes").message


# ---- container: clusters


def test_a_cluster_is_provisioned_and_then_runs(google):
    pool = {"name": "default", "initialNodeCount": 2}
    operation = google(
        "container.projects.locations.clusters.create", {"cluster": {"name": "kubeflow", "nodePools": [pool]}}, parent=google.location
    )
    assert (operation["status"], operation["operationType"], operation["zone"]) == ("RUNNING", "CREATE_CLUSTER", ZONE)
    number = google.rehearsal.state["projects"][google.rehearsal.project]["projectNumber"]
    assert operation["targetLink"] == f"https://container.googleapis.com/v1/projects/{number}/zones/{ZONE}/clusters/kubeflow"
    cluster = google("container.projects.locations.clusters.get", name=google.cluster)
    assert cluster["status"] == "PROVISIONING" and "endpoint" not in cluster
    google.done(operation)
    cluster = google("container.projects.locations.clusters.get", name=google.cluster)
    assert cluster["status"] == "RUNNING" and cluster["currentNodeCount"] == 2
    assert b"BEGIN CERTIFICATE" in base64.b64decode(cluster["masterAuth"]["clusterCaCertificate"])
    assert cluster["releaseChannel"] == {"channel": "REGULAR"} and cluster["ipAllocationPolicy"]["useIpAliases"]
    assert cluster["nodePools"][0]["config"]["diskType"] == "pd-balanced"
    assert cluster["nodePools"][0]["management"] == {"autoRepair": True, "autoUpgrade": True}
    assert cluster["selfLink"].endswith(f"/zones/{ZONE}/clusters/kubeflow")
    found = google("container.projects.locations.clusters.list", parent=f"projects/{google.rehearsal.project}/locations/-")["clusters"]
    assert found == [cluster]
    assert google("container.projects.zones.clusters.get", zone=ZONE, clusterId="kubeflow") == cluster
    google.done(google("container.projects.locations.clusters.delete", name=google.cluster))
    missing = refused(google, "container.projects.locations.clusters.get", name=google.cluster)
    assert (missing.http, missing.message) == (404, f"Not found: projects/{google.rehearsal.project}/zones/{ZONE}/clusters/kubeflow.")


def test_the_links_of_an_operation_lead_to_it_and_to_its_target(google, rehearsal):
    def follow(link: str) -> dict:
        return google.session.get(re.sub(r"https://(\w+)\.googleapis\.com", rf"{rehearsal.endpoint}/\1", link)).json()

    google.make_cluster()
    create = "container.projects.locations.clusters.nodePools.create"
    operation = google.done(google(create, {"nodePool": {"name": "l4"}}, parent=google.cluster))
    assert follow(operation["selfLink"]) == operation and follow(operation["targetLink"]) == google.pool()
    operation = google.done(google("compute.globalAddresses.insert", {"name": "kubeflow-ip"}))
    assert follow(operation["selfLink"]) == operation and follow(operation["targetLink"])["name"] == "kubeflow-ip"


def test_defaults_and_output_only_fields_are_not_written_back(google):
    cluster = google.make_cluster(
        autopilot={"enabled": False}, legacyAbac={"enabled": False}, endpoint="1.2.3.4", resourceLabels={"mesh_id": "proj-1"}, etag="x"
    )
    assert cluster["autopilot"] == {} and cluster["legacyAbac"] == {} and cluster["resourceLabels"] == {"mesh_id": "proj-1"}
    assert cluster["endpoint"] != "1.2.3.4"


def test_a_regional_cluster_has_nodes_in_three_zones(google):
    parent = f"projects/{google.rehearsal.project}/locations/us-central1"
    body = {"cluster": {"name": "kubeflow", "initialNodeCount": 1, "nodeConfig": {"machineType": "e2-standard-4"}}}
    google.done(google("container.projects.locations.clusters.create", body, parent=parent))
    cluster = google("container.projects.locations.clusters.get", name=f"{parent}/clusters/kubeflow")
    assert cluster["locations"] == ["us-central1-a", "us-central1-b", "us-central1-c"] and cluster["currentNodeCount"] == 3
    assert cluster["nodePools"][0]["name"] == "default-pool" and cluster["nodeConfig"]["machineType"] == "e2-standard-4"
    assert "/locations/us-central1/" in cluster["selfLink"]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"name": "Kubeflow"}, "Must be a match of regex"),
        ({"name": "k" * 41}, "Must be a match of regex"),
        ({"initialNodeCount": 1}, "must not be set when Cluster.node_pools is specified"),
        ({"nodePools": []}, "Cluster.initial_node_count must be greater than zero."),
        ({"initialClusterVersion": "1.20"}, 'Master version "1.20" is unsupported'),
        ({"network": "nowhere"}, 'has no network named "nowhere"'),
        ({"workloadIdentityConfig": {"workloadPool": "other.svc.id.goog"}}, "only supported workload pool"),
        ({"privateClusterConfig": {"enablePrivateNodes": True, "masterIpv4CidrBlock": "172.16.0.0/24"}}, "must be a /28"),
        ({"autoscaling": {"enableNodeAutoprovisioning": True}}, "cpu and memory resource limits"),
        ({"resourceLabels": {"Mesh": "x"}}, "Invalid resource label"),
        ({"locations": ["us-central1-a"]}, "is not in region"),
        ({"releaseChanel": {}}, 'Unknown name "releaseChanel"'),
        ({"releaseChannel": {"channel": "FAST"}}, "an enum"),
    ],
)
def test_a_wrong_cluster_is_refused(google, more, what):
    wrong = refused(google.make_cluster, **more)
    assert (wrong.http, wrong.status) == (400, "INVALID_ARGUMENT") and what in wrong.message
    assert google("container.projects.locations.clusters.list", parent=google.location) == {}


def test_a_location_that_there_is_not(google):
    parent = f"projects/{google.rehearsal.project}/locations/us-central9"
    wrong = refused(
        google, "container.projects.locations.clusters.create", {"cluster": {"name": "x", "initialNodeCount": 1}}, parent=parent
    )
    assert wrong.message == 'Location "us-central9" does not exist.'


def test_what_is_there_is_not_made_again(google):
    google.make_cluster()
    again = refused(google.make_cluster)
    assert (again.http, again.status) == (409, "ALREADY_EXISTS") and again.message.startswith("Already exists: ")


def test_one_operation_at_a_time(google, rehearsal):
    google.make_cluster()
    rehearsal.faults({"kind": "operation_slow", "method": "*.clusters.update", "seconds": 0.4})
    first = google(
        "container.projects.locations.clusters.update", {"update": {"desiredShieldedNodes": {"enabled": True}}}, name=google.cluster
    )
    assert google("container.projects.locations.clusters.get", name=google.cluster)["status"] == "RECONCILING"
    busy = refused(google.make_pool)
    assert (busy.http, busy.status) == (400, "FAILED_PRECONDITION")
    assert busy.message == f"Cluster is running incompatible operation {first['name']}."
    google.done(first)
    assert google.make_pool()["status"] == "RUNNING"


def test_several_node_pools_at_a_time_where_the_state_says_so(google, rehearsal):
    google.make_cluster()
    rehearsal.seed({"projects": {rehearsal.project: {"container": {"parallelNodePools": 2}}}})
    create = "container.projects.locations.clusters.nodePools.create"
    rehearsal.faults({"kind": "operation_slow", "method": create, "seconds": 1, "times": 2})
    running = [google(create, {"nodePool": {"name": name}}, parent=google.cluster) for name in ("one", "two")]
    assert refused(google, create, {"nodePool": {"name": "three"}}, parent=google.cluster).status == "FAILED_PRECONDITION"
    for operation in running:
        google.done(operation)
    assert google("container.projects.locations.clusters.get", name=google.cluster)["status"] == "RUNNING"


def test_a_cluster_that_cannot_be_made_stays_with_the_reason(google, rehearsal):
    rehearsal.faults({"kind": "operation_error", "method": "*.clusters.create", "status": "RESOURCE_EXHAUSTED", "message": "out of stock"})
    assert refused(google.make_cluster).message == "out of stock"
    cluster = google("container.projects.locations.clusters.get", name=google.cluster)
    assert cluster["status"] == "ERROR" and cluster["statusMessage"] == "out of stock"
    assert cluster["conditions"] == [{"canonicalCode": "RESOURCE_EXHAUSTED", "message": "out of stock"}]
    assert refused(google.make_pool).status == "FAILED_PRECONDITION"
    google.done(google("container.projects.locations.clusters.delete", name=google.cluster))


def test_a_cluster_that_cannot_be_deleted_runs_on(google, rehearsal):
    google.make_cluster()
    rehearsal.faults({"kind": "operation_error", "method": "*.clusters.delete"})
    refused(google.done, google("container.projects.locations.clusters.delete", name=google.cluster))
    cluster = google("container.projects.locations.clusters.get", name=google.cluster)
    assert (cluster["status"], cluster["nodePools"][0]["status"]) == ("RUNNING", "RUNNING")


def test_an_update_changes_one_thing(google):
    before = google.make_cluster()
    after = google.change_cluster(desiredReleaseChannel={"channel": "STABLE"})
    assert after["releaseChannel"] == {"channel": "STABLE"} and after["etag"] != before["etag"]
    several = {"desiredReleaseChannel": {"channel": "RAPID"}, "desiredShieldedNodes": {"enabled": True}}
    assert "Exactly one update" in refused(google.change_cluster, **several).message
    assert refused(google.change_cluster).message.startswith("Required field")
    stale = refused(google.change_cluster, desiredShieldedNodes={"enabled": True}, etag="old")
    assert (stale.http, stale.status) == (409, "ABORTED")
    assert google.change_cluster(desiredShieldedNodes={"enabled": True}, etag=after["etag"])["shieldedNodes"] == {"enabled": True}


def test_updates_reach_their_fields(google):
    google.make_cluster()
    pool = f"{google.rehearsal.project}.svc.id.goog"
    assert google.change_cluster(desiredWorkloadIdentityConfig={"workloadPool": pool})["workloadIdentityConfig"] == {"workloadPool": pool}
    assert google.change_cluster(desiredDefaultEnablePrivateNodes=True)["networkConfig"]["defaultEnablePrivateNodes"] is True
    assert google.change_cluster(desiredDefaultEnablePrivateNodes=False)["networkConfig"]["defaultEnablePrivateNodes"] is False
    assert google.change_cluster(desiredIntraNodeVisibilityConfig={"enabled": True})["networkConfig"]["enableIntraNodeVisibility"] is True
    assert google.change_cluster(desiredShieldedNodes={"enabled": False})["shieldedNodes"] == {}
    networks = {"enabled": True, "cidrBlocks": [{"cidrBlock": "10.0.0.0/8"}]}
    cluster = google.change_cluster(desiredMasterAuthorizedNetworksConfig=networks)
    shared = cluster["controlPlaneEndpointsConfig"]["ipEndpointsConfig"]["authorizedNetworksConfig"]
    assert shared == cluster["masterAuthorizedNetworksConfig"] and shared["cidrBlocks"] == networks["cidrBlocks"]
    limits = [{"resourceType": "cpu", "maximum": "128"}, {"resourceType": "memory", "maximum": 2000}]
    scaling = google.change_cluster(desiredClusterAutoscaling={"enableNodeAutoprovisioning": True, "resourceLimits": limits})["autoscaling"]
    assert scaling["resourceLimits"][1] == {"resourceType": "memory", "maximum": "2000"} and scaling["autoscalingProfile"] == "BALANCED"
    addons = google.change_cluster(desiredAddonsConfig={"gcsFuseCsiDriverConfig": {"enabled": True}})["addonsConfig"]
    assert addons["gcsFuseCsiDriverConfig"] == {"enabled": True} and addons["kubernetesDashboard"] == {"disabled": True}
    assert "not supported" in refused(google.change_cluster, desiredDatapathProvider="ADVANCED_DATAPATH").message


def test_labels_need_the_fingerprint_of_those_that_are_there(google):
    cluster = google.make_cluster(resourceLabels={"a": "1"})
    method = "container.projects.locations.clusters.setResourceLabels"
    body = {"resourceLabels": {"b": "2"}, "labelFingerprint": cluster["labelFingerprint"]}
    google.done(google(method, body, name=google.cluster))
    after = google("container.projects.locations.clusters.get", name=google.cluster)
    assert after["resourceLabels"] == {"b": "2"} and after["labelFingerprint"] != cluster["labelFingerprint"]
    assert refused(google, method, body, name=google.cluster).status == "FAILED_PRECONDITION"


def test_drift_made_in_the_state_is_seen(google, rehearsal):
    before = google.make_cluster()
    change = {"releaseChannel": {"channel": "RAPID"}, "nodePools": {"default": {"autoscaling": {"enabled": True, "maxNodeCount": 9}}}}
    rehearsal.seed({"projects": {rehearsal.project: {"container": {"clusters": {f"{ZONE}/kubeflow": change}}}}})
    after = google("container.projects.locations.clusters.get", name=google.cluster)
    assert after["releaseChannel"] == {"channel": "RAPID"} and after["nodePools"][0]["autoscaling"]["maxNodeCount"] == 9
    assert after["etag"] != before["etag"]


def test_versions(google):
    config = google("container.projects.locations.getServerConfig", name=google.location)
    assert config["defaultClusterVersion"] in config["validMasterVersions"]
    assert {channel["channel"] for channel in config["channels"]} == {"RAPID", "REGULAR", "STABLE", "EXTENDED"}
    stable = next(channel for channel in config["channels"] if channel["channel"] == "STABLE")
    cluster = google.make_cluster(releaseChannel={"channel": "STABLE"}, initialClusterVersion="1.34")
    assert cluster["currentMasterVersion"] in stable["validVersions"] and cluster["currentMasterVersion"].startswith("1.34.")
    assert "downgraded" in refused(google.change_cluster, desiredMasterVersion="1.33").message


# ---- container: node pools


def test_a_gpu_pool_lives(google):
    google.make_cluster()
    pool = google.make_pool(**L4, autoscaling={"enabled": True, "maxNodeCount": 2}, locations=[ZONE], initialNodeCount=0)
    config = pool["config"]
    assert config["accelerators"] == [{**GPUS, "gpuDriverInstallationConfig": {"gpuDriverVersion": "DEFAULT"}}]
    assert config["taints"] == [{"key": "nvidia.com/gpu", "value": "present", "effect": "NO_SCHEDULE"}]
    assert config["resourceLabels"]["goog-gke-accelerator-type"] == "nvidia-l4"
    assert pool["autoscaling"] == {"enabled": True, "maxNodeCount": 2, "locationPolicy": "BALANCED"} and "initialNodeCount" not in pool
    assert (
        pool["status"] == "RUNNING"
        and pool["version"] == google("container.projects.locations.clusters.get", name=google.cluster)["currentMasterVersion"]
    )
    google.done(google("container.projects.locations.clusters.nodePools.delete", name=f"{google.cluster}/nodePools/l4"))
    assert refused(google.pool).http == 404
    assert [
        pool["name"] for pool in google("container.projects.locations.clusters.nodePools.list", parent=google.cluster)["nodePools"]
    ] == ["default"]


def test_gpu_nodes_alone_in_a_cluster_are_not_tainted(google):
    pools = [{"name": "l4", "initialNodeCount": 1, **L4}]
    assert "taints" not in google.make_cluster(nodePools=pools)["nodePools"][0]["config"]


@pytest.mark.parametrize(
    ("pool", "what"),
    [
        ({"name": "L4"}, "Must be a match of regex"),
        ({"config": {"machineType": "e2-mega-1"}}, "Machine type with name 'e2-mega-1' does not exist in zone"),
        ({"config": {"machineType": "n1-standard-8", "accelerators": [{"acceleratorType": "nvidia-tesla-t4", "acceleratorCount": 1}]}},
         'Accelerator type "nvidia-tesla-t4" does not exist in zone asia-northeast3-a.'),
        ({"config": {"machineType": "n1-standard-8", "accelerators": [{"acceleratorType": "nvidia-tesla-k80", "acceleratorCount": 1}]}},
         'Accelerator type "nvidia-tesla-k80" does not exist in zone asia-northeast3-a.'),
        ({**L4, "locations": ["asia-northeast3-c"]}, 'Accelerator type "nvidia-l4" does not exist in zone asia-northeast3-c.'),
        ({"config": {"accelerators": [GPUS]}}, "Cannot use default machine type (e2-medium) with GPUs"),
        ({"config": {"machineType": "e2-standard-8", "accelerators": [GPUS]}}, "features are not compatible for creating instance"),
        ({"config": {"machineType": "g2-standard-24", "accelerators": [GPUS]}}, "has 2 accelerators"),
        ({"config": {"machineType": "g2-standard-8"}}, "needs accelerators"),
        ({"config": {**L4["config"], "accelerators": [{**GPUS, "gpuSharingConfig": {"gpuSharingStrategy": "TIME_SHARING"}}]}},
         "max_shared_clients_per_gpu between 2 and 48"),
        ({"config": {"diskSizeGb": 5}}, "disk_size_gb must be at least"),
        ({"config": {"spot": True, "preemptible": True}}, "Only one of spot and preemptible"),
        ({"autoscaling": {"enabled": True, "minNodeCount": 3, "maxNodeCount": 2}}, "must not be greater than max_node_count"),
        ({"autoscaling": {"enabled": True, "maxNodeCount": 2, "totalMaxNodeCount": 3}}, "cannot be set together"),
        ({"management": {"autoUpgrade": False, "autoRepair": True}}, "cannot be false when release_channel REGULAR is set"),
        ({"locations": ["us-central1-a"]}, "is not in region"),
        ({"config": {"serviceAccount": "nobody@rehearsal-project.iam.gserviceaccount.com"}}, "does not have access to service account"),
        ({"config": {"taints": [{"key": "a", "effect": "NEVER"}]}}, "an enum"),
    ],
)  # fmt: skip
def test_a_wrong_node_pool_is_refused(google, pool, what):
    google.make_cluster()
    wrong = refused(google.make_pool, **pool)
    assert wrong.http == 400 and what in wrong.message
    assert refused(google.pool).http == 404


def test_gpus_beyond_the_quota_are_refused_with_metric_limit_and_what_is_left(google, rehearsal):
    rehearsal.seed({"projects": {rehearsal.project: {"quotas": {REGION: {"NVIDIA_L4_GPUS": 2}}}}})
    google.make_cluster()
    google.make_pool(**L4, initialNodeCount=1)
    beyond = refused(google.make_pool, "more", **L4, initialNodeCount=3)
    assert (beyond.http, beyond.status) == (403, "PERMISSION_DENIED")
    assert beyond.message == (
        "Insufficient regional quota to satisfy request: resource \"NVIDIA_L4_GPUS\": request requires '3.0' and is short '2.0'. project "
        "has a quota of '2.0' with '1.0' available. View and manage quotas at https://console.cloud.google.com/iam-admin/quotas?usage=USED&project="
        f"{rehearsal.project}."
    )
    google.make_pool("later", **L4, autoscaling={"enabled": True, "maxNodeCount": 8})  # nothing is taken before it grows
    assert refused(google.change_pool, "setSize", {"nodeCount": 2}, "later").http == 403
    google.change_pool("setSize", {"nodeCount": 2})
    used = {quota["metric"]: quota["usage"] for quota in google("compute.regions.get", region=REGION)["quotas"]}
    assert used["NVIDIA_L4_GPUS"] == 2 and used["CPUS"] == 24
    rehearsal.seed({"projects": {rehearsal.project: {"quotas": {"global": {"GPUS_ALL_REGIONS": 2}, REGION: {"NVIDIA_L4_GPUS": 2}}}}})
    both = refused(google.make_pool, "both", **L4, initialNodeCount=1)
    assert "(1) insufficient project quota" in both.message and "(2) insufficient regional quota" in both.message


def test_spot_gpus_take_the_standard_quota_where_theirs_is_none(google, rehearsal):
    rehearsal.seed({"projects": {rehearsal.project: {"quotas": {REGION: {"PREEMPTIBLE_NVIDIA_L4_GPUS": 0, "NVIDIA_L4_GPUS": 1}}}}})
    google.make_cluster()
    spot = {"config": {**L4["config"], "spot": True}}
    assert "NVIDIA_L4_GPUS" in refused(google.make_pool, **spot, initialNodeCount=2).message
    assert google.make_pool(**spot, initialNodeCount=1)["config"]["resourceLabels"]["goog-gke-node-pool-provisioning-model"] == "spot"
    used = {quota["metric"]: quota["usage"] for quota in google("compute.regions.get", region=REGION)["quotas"]}
    assert used["NVIDIA_L4_GPUS"] == 1 and used["PREEMPTIBLE_NVIDIA_L4_GPUS"] == 0


def test_each_change_of_a_pool_has_its_method(google):
    google.make_cluster()
    google.make_pool(**L4, initialNodeCount=1)
    assert google.change_pool("setSize", {"nodeCount": 2})["initialNodeCount"] == 2
    scaling = google.change_pool("setAutoscaling", {"autoscaling": {"enabled": True, "minNodeCount": 0, "maxNodeCount": 4}})["autoscaling"]
    assert scaling == {"enabled": True, "maxNodeCount": 4, "locationPolicy": "BALANCED"}
    assert "autoscaling" not in google.change_pool("setAutoscaling", {"autoscaling": {"enabled": False}})
    wrong = refused(google.change_pool, "setManagement", {"management": {"autoUpgrade": False, "autoRepair": True}})
    assert "release_channel" in wrong.message
    pool = google.change_pool("update", {"labels": {"labels": {"team": "ml"}}, "taints": {"taints": []}})
    assert pool["config"]["labels"] == {"team": "ml"} and "taints" not in pool["config"]
    pool = google.change_pool("update", {"diskSizeGb": "200", "diskType": "pd-ssd"})
    assert (pool["config"]["diskSizeGb"], pool["config"]["bootDisk"]) == (200, {"sizeGb": "200", "diskType": "pd-ssd"})
    assert google.change_pool("update", {"upgradeSettings": {"maxSurge": 0, "maxUnavailable": 1}})["upgradeSettings"] == {
        "strategy": "SURGE",
        "maxUnavailable": 1,
    }
    newest = {**GPUS, "gpuDriverInstallationConfig": {"gpuDriverVersion": "LATEST"}}
    assert google.change_pool("update", {"accelerators": [newest]})["config"]["accelerators"] == [newest]
    more = refused(google.change_pool, "update", {"accelerators": [{**GPUS, "acceleratorCount": 2}]})
    assert "cannot be changed" in more.message
    assert refused(google.change_pool, "update", {"spot": True}).message.startswith("Invalid JSON payload received. Unknown name")
    assert refused(google.change_pool, "update", {}).http == 400
    assert (
        google.change_cluster(desiredNodePoolId="l4", desiredNodePoolAutoscaling={"enabled": True, "maxNodeCount": 3})["status"]
        == "RUNNING"
    )
    assert google.pool()["autoscaling"]["maxNodeCount"] == 3


def test_a_pool_that_cannot_be_changed_is_as_it_was(google, rehearsal):
    google.make_cluster()
    google.make_pool()
    rehearsal.faults({"kind": "operation_error", "method": "*.nodePools.setAutoscaling"})
    refused(google.change_pool, "setAutoscaling", {"autoscaling": {"enabled": True, "maxNodeCount": 4}})
    assert google.pool()["status"] == "RUNNING" and "autoscaling" not in google.pool()
    rehearsal.faults({"kind": "operation_error", "method": "*.nodePools.create", "message": "GCE_STOCKOUT"})
    refused(google.make_pool, "gone")
    broken = google.pool("gone")
    assert (broken["status"], broken["statusMessage"]) == ("ERROR", "GCE_STOCKOUT")
    google.done(google("container.projects.locations.clusters.nodePools.delete", name=f"{google.cluster}/nodePools/gone"))


# ---- the cluster that stands in


def test_gpus_that_pools_advertise():
    config = {"accelerators": [{**GPUS, "acceleratorCount": "2"}], "labels": {"team": "ml"}, "spot": True}
    pool = {"name": "l4", "config": config, "locations": [ZONE]}
    assert stand_in._cards({**pool, "initialNodeCount": 3}) == 6
    assert stand_in._cards(pool) == 0
    assert stand_in._cards({**pool, "autoscaling": {"enabled": True, "maxNodeCount": 4}}) == 2
    shared = {**GPUS, "gpuSharingConfig": {"gpuSharingStrategy": "TIME_SHARING", "maxSharedClientsPerGpu": "4"}}
    assert stand_in._cards({"config": {"accelerators": [shared]}, "locations": [ZONE], "initialNodeCount": 1}) == 4
    labels = stand_in._labels([pool, {"name": "shared", "config": {"accelerators": [shared]}, "locations": [ZONE]}])
    assert labels["cloud.google.com/gke-accelerator"] == "nvidia-l4" and labels["mlops.platform/simulated-gpu"] == "true"
    assert labels["cloud.google.com/gke-nodepool"] == "shared"
    assert labels["cloud.google.com/gke-gpu-sharing-strategy"] == "time-sharing" and labels["team"] == "ml"


class Node:
    """The node of a cluster, and as much of the API as changes it."""

    def __init__(self, **capacity: str):
        self.labels, self.annotations, self.capacity = {"kubernetes.io/os": "linux"}, {}, capacity

    def list_node(self, **_):
        metadata = SimpleNamespace(name="node", labels=self.labels, annotations=self.annotations)
        status = SimpleNamespace(capacity=self.capacity)
        return SimpleNamespace(items=[SimpleNamespace(metadata=metadata, status=status, spec=SimpleNamespace(taints=None))])

    def patch_node(self, name, body, **_):
        merge(self.labels, body["metadata"]["labels"])
        merge(self.annotations, body["metadata"]["annotations"])

    def patch_node_status(self, name, body, **_):
        merge(self.capacity, body["status"]["capacity"])


POOL = {"name": "l4", "config": {"accelerators": [GPUS], "labels": {"team": "ml"}}, "locations": [ZONE], "initialNodeCount": 2}


def test_gpus_come_and_go_with_the_pools(monkeypatch):
    node = Node(cpu="2")
    monkeypatch.setattr(stand_in, "_core", lambda kubeconfig, context: node)
    stand_in.advertise("", "", [POOL])
    assert node.capacity == {"cpu": "2", "nvidia.com/gpu": "2"} and node.labels["team"] == "ml"
    stand_in.advertise("", "", [{**POOL, "config": {"accelerators": [GPUS]}, "initialNodeCount": 1}])
    assert node.capacity["nvidia.com/gpu"] == "1" and "team" not in node.labels
    stand_in.advertise("", "", [])
    assert (node.labels, node.annotations, node.capacity) == ({"kubernetes.io/os": "linux"}, {}, {"cpu": "2"})


def test_gpus_of_others_are_left_alone(monkeypatch):
    node = Node(**{"nvidia.com/gpu": "4"})
    monkeypatch.setattr(stand_in, "_core", lambda kubeconfig, context: node)
    for pools in ([POOL], []):
        stand_in.advertise("", "", pools)
        assert (node.labels, node.annotations, node.capacity) == ({"kubernetes.io/os": "linux"}, {}, {"nvidia.com/gpu": "4"})


def test_a_cluster_that_cannot_be_used_is_named(tmp_path):
    from rehearsal import Refused

    with pytest.raises(Refused, match="cannot be used"):
        stand_in.reached(str(tmp_path / "none"))


# ---- Config Controller


def test_a_config_controller_lives_with_its_cluster(google):
    parent = f"projects/{google.rehearsal.project}/locations/us-central1"
    body = {
        "bundlesConfig": {"configControllerConfig": {"enabled": True}},
        "managementConfig": {"standardManagementConfig": {"network": "default"}},
    }
    create = "krmapihosting.projects.locations.krmApiHosts.create"
    operation = google(create, body, parent=parent, krmApiHostId="mgt-cluster")
    assert "done" not in operation and operation["metadata"]["target"] == f"{parent}/krmApiHosts/mgt-cluster"
    host = google("krmapihosting.projects.locations.krmApiHosts.get", name=f"{parent}/krmApiHosts/mgt-cluster")
    assert host["state"] == "CREATING"
    assert google.done(operation)["response"]["state"] == "RUNNING"
    cluster = google("container.projects.locations.clusters.get", name=f"{parent}/clusters/krmapihost-mgt-cluster")
    assert cluster["status"] == "RUNNING" and cluster["addonsConfig"]["configConnectorConfig"] == {"enabled": True}
    assert host["gkeResourceLink"] == f"//container.googleapis.com/{parent}/clusters/krmapihost-mgt-cluster"
    assert refused(google, create, body, parent=parent, krmApiHostId="mgt-cluster").http == 409
    everywhere = parent.replace("us-central1", "-")
    assert len(google("krmapihosting.projects.locations.krmApiHosts.list", parent=everywhere)["krmApiHosts"]) == 1
    google.done(google("krmapihosting.projects.locations.krmApiHosts.delete", name=f"{parent}/krmApiHosts/mgt-cluster"))
    assert refused(google, "krmapihosting.projects.locations.krmApiHosts.get", name=f"{parent}/krmApiHosts/mgt-cluster").http == 404
    assert refused(google, "container.projects.locations.clusters.get", name=f"{parent}/clusters/krmapihost-mgt-cluster").http == 404


def test_a_config_controller_that_fails_leaves_nothing(google, rehearsal):
    parent = f"projects/{google.rehearsal.project}/locations/us-central1"
    body = {"bundlesConfig": {"configControllerConfig": {"enabled": True}}, "managementConfig": {"standardManagementConfig": {}}}
    create = "krmapihosting.projects.locations.krmApiHosts.create"
    assert refused(google, create, body, parent=parent, krmApiHostId="Mgt").http == 400
    assert "Required field" in refused(google, create, {**body, "managementConfig": {}}, parent=parent, krmApiHostId="mgt").message
    assert refused(google, create, body, parent=google.location, krmApiHostId="mgt").http == 403  # a zone
    rehearsal.faults({"kind": "operation_error", "method": create, "message": "no room"})
    assert refused(google.done, google(create, body, parent=parent, krmApiHostId="mgt")).message == "no room"
    assert refused(google, "krmapihosting.projects.locations.krmApiHosts.get", name=f"{parent}/krmApiHosts/mgt").http == 404


# ---- IAM


def test_a_service_account_lives(google):
    project = f"projects/{google.rehearsal.project}"
    account = google(
        "iam.projects.serviceAccounts.create", {"accountId": "kubeflow-admin", "serviceAccount": {"displayName": "Admin"}}, name=project
    )
    email = f"kubeflow-admin@{google.rehearsal.project}.iam.gserviceaccount.com"
    assert (account["email"], account["displayName"]) == (email, "Admin") and "disabled" not in account
    assert google("iam.projects.serviceAccounts.get", name=f"{project}/serviceAccounts/{email}") == account
    assert google("iam.projects.serviceAccounts.get", name=f"projects/-/serviceAccounts/{email}") == account
    again = refused(google, "iam.projects.serviceAccounts.create", {"accountId": "kubeflow-admin"}, name=project)
    assert (again.http, again.status) == (409, "ALREADY_EXISTS")
    change = {"serviceAccount": {"displayName": "Kubeflow"}, "updateMask": "displayName"}
    assert google("iam.projects.serviceAccounts.patch", change, name=account["name"])["displayName"] == "Kubeflow"
    assert refused(google, "iam.projects.serviceAccounts.patch", {"serviceAccount": {}}, name=account["name"]).http == 400
    google("iam.projects.serviceAccounts.disable", {}, name=account["name"])
    assert google("iam.projects.serviceAccounts.get", name=account["name"])["disabled"] is True
    google("iam.projects.serviceAccounts.delete", name=account["name"])
    assert refused(google, "iam.projects.serviceAccounts.get", name=account["name"]).http == 404


@pytest.mark.parametrize(
    ("identity", "what"), [("short", "length between 6 and 30"), ("x" * 31, "length"), ("Kubeflow", "regex"), ("", "Required")]
)
def test_a_wrong_account_id_is_refused(google, identity, what):
    wrong = refused(google, "iam.projects.serviceAccounts.create", {"accountId": identity}, name=f"projects/{google.rehearsal.project}")
    assert wrong.http == 400 and what in wrong.message


def test_service_accounts_come_in_pages(google, rehearsal):
    project = f"projects/{rehearsal.project}"
    for number in range(25):
        google("iam.projects.serviceAccounts.create", {"accountId": f"account-{number}"}, name=project)
    first = google("iam.projects.serviceAccounts.list", name=project)
    rest = google("iam.projects.serviceAccounts.list", name=project, pageToken=first["nextPageToken"])
    assert (len(first["accounts"]), len(rest["accounts"])) == (20, 5) and "nextPageToken" not in rest


def test_who_may_use_a_service_account(google):
    project = f"projects/{google.rehearsal.project}"
    account = google("iam.projects.serviceAccounts.create", {"accountId": "kubeflow-admin"}, name=project)
    policy = google("iam.projects.serviceAccounts.getIamPolicy", {}, resource=account["name"])
    member = f"serviceAccount:{google.rehearsal.project}.svc.id.goog[kubeflow/profiles-controller-service-account]"
    binding = {"role": "roles/iam.workloadIdentityUser", "members": [member]}
    body = {"policy": {"etag": policy["etag"], "bindings": [binding]}}
    early = refused(google, "iam.projects.serviceAccounts.setIamPolicy", body, resource=account["name"])
    assert "Identity Pool does not exist" in early.message
    google.make_cluster(workloadIdentityConfig={"workloadPool": f"{google.rehearsal.project}.svc.id.goog"})
    after = google("iam.projects.serviceAccounts.setIamPolicy", body, resource=account["name"])
    assert after["bindings"] == [binding] and after["etag"] != policy["etag"]
    stale = refused(google, "iam.projects.serviceAccounts.setIamPolicy", body, resource=account["name"])
    assert (stale.http, stale.status) == (409, "ABORTED")


def test_policies_keep_deleted_accounts_as_such(google, rehearsal):
    account = google("iam.projects.serviceAccounts.create", {"accountId": "kubeflow-vm"}, name=f"projects/{rehearsal.project}")
    bindings = rehearsal.state["projects"][rehearsal.project]["iamPolicy"]["bindings"]
    bindings.append({"role": "roles/viewer", "members": [f"serviceAccount:{account['email']}"]})
    google("iam.projects.serviceAccounts.delete", name=account["name"])
    assert bindings[-1]["members"] == [f"deleted:serviceAccount:{account['email']}?uid={account['uniqueId']}"]


# ---- IAP


def test_policies_of_what_is_behind_the_proxy(google):
    resource = f"projects/{google.rehearsal.project}/iap_web/compute/services/42"
    policy = google("iap.getIamPolicy", {}, resource=resource)
    binding = {"role": "roles/iap.httpsResourceAccessor", "members": ["user:alice@example.com"]}
    google("iap.setIamPolicy", {"policy": {"etag": policy["etag"], "bindings": [binding]}}, resource=resource)
    assert google("iap.getIamPolicy", {}, resource=resource)["bindings"] == [binding]
    number = google.rehearsal.state["projects"][google.rehearsal.project]["projectNumber"]
    assert google("iap.getIamPolicy", {}, resource=f"projects/{number}/iap_web/compute/services/42")["bindings"] == [binding]
    assert (
        "bindings" not in google("iap.getIamPolicy", {}, resource=f"projects/{number}/iap_web")
        or not google("iap.getIamPolicy", {}, resource=f"projects/{number}/iap_web")["bindings"]
    )


def test_settings_of_what_is_behind_the_proxy(google):
    name = f"projects/{google.rehearsal.project}/iap_web"
    change = {"accessSettings": {"oauthSettings": {"clientId": "x"}}}
    assert (
        google("iap.updateIapSettings", change, name=name, updateMask="accessSettings.oauthSettings")["accessSettings"]
        == change["accessSettings"]
    )
    assert google("iap.getIapSettings", name=name) == {"name": name, **change}


def test_oauth_clients_are_not_made_by_api(google):
    shut = refused(google, "iap.projects.brands.list", parent=f"projects/{google.rehearsal.project}")
    assert "shut down" in shut.message


# ---- Cloud Endpoints

HOST = "kubeflow.endpoints.rehearsal-project.cloud.goog"


def document(**changes) -> dict:
    given = {
        "swagger": "2.0",
        "info": {"title": HOST, "version": "1.0.0"},
        "host": HOST,
        "x-google-endpoints": [{"name": HOST, "target": "34.64.1.2"}],
        "paths": {"/**": {"get": {"operationId": "all", "responses": {"200": {"description": "ok"}}}}},
        **changes,
    }
    text = json.dumps({key: value for key, value in given.items() if value is not None})
    file = {"filePath": "openapi.json", "fileContents": base64.b64encode(text.encode()).decode(), "fileType": "OPEN_API_JSON"}
    return {"configSource": {"files": [file]}}


def make_service(google: Google) -> None:
    google.done(google("servicemanagement.services.create", {"serviceName": HOST, "producerProjectId": google.rehearsal.project}))


def test_a_name_under_cloud_goog_points_to_an_address(google):
    make_service(google)
    assert google("servicemanagement.services.get", serviceName=HOST)["producerProjectId"] == google.rehearsal.project
    missing = refused(google, "servicemanagement.services.getConfig", serviceName=HOST)
    assert missing.http == 404
    submitted = google.done(google("servicemanagement.services.configs.submit", document(), serviceName=HOST))
    config = submitted["response"]["serviceConfig"]
    assert config["endpoints"] == [{"name": HOST, "target": "34.64.1.2"}] and config["name"] == HOST
    assert refused(google, "servicemanagement.services.getConfig", serviceName=HOST).http == 404  # not rolled out
    body = {"trafficPercentStrategy": {"percentages": {config["id"]: 100}}}
    google.done(google("servicemanagement.services.rollouts.create", body, serviceName=HOST))
    used = google("servicemanagement.services.getConfig", serviceName=HOST, view="FULL")
    assert used["id"] == config["id"] and used["sourceInfo"]["sourceFiles"][0]["filePath"] == "openapi.json"
    second = google.done(google("servicemanagement.services.configs.submit", document(), serviceName=HOST))["response"]["serviceConfig"]
    assert [one["id"] for one in google("servicemanagement.services.configs.list", serviceName=HOST)["serviceConfigs"]] == [
        second["id"],
        config["id"],
    ]
    rollouts = google("servicemanagement.services.rollouts.list", serviceName=HOST, filter="status=SUCCESS")["rollouts"]
    assert [list(one["trafficPercentStrategy"]["percentages"]) for one in rollouts] == [[config["id"]]]


def test_a_deleted_service_keeps_its_name(google):
    make_service(google)
    google.done(google("servicemanagement.services.delete", serviceName=HOST))
    assert refused(google, "servicemanagement.services.get", serviceName=HOST).http == 403
    assert "undelete" in refused(make_service, google).message
    google.done(google("servicemanagement.services.undelete", serviceName=HOST))
    assert google("servicemanagement.services.get", serviceName=HOST)["serviceName"] == HOST
    assert refused(make_service, google).http == 409


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"swagger": "3.0"}, "OpenAPI document of version 2.0"),
        ({"host": "other.example.com"}, "is not the name of the service"),
        ({"paths": {}}, "paths is missing"),
        ({"paths": {"/": {"get": {"responses": {"200": {}}}}}}, "operationId"),
        ({"x-google-endpoints": [{"name": HOST, "target": "http://34.64.1.2/"}]}, "is no IP address"),
        ({"info": {"title": "x"}}, "info.version is missing"),
    ],
)
def test_a_wrong_document_is_refused(google, changes, what):
    make_service(google)
    wrong = refused(google, "servicemanagement.services.configs.submit", document(**changes), serviceName=HOST)
    assert wrong.http == 400 and "Cannot convert to service config" in wrong.message and what in wrong.message


def test_a_name_of_another_project_is_refused(google):
    body = {"serviceName": "kubeflow.endpoints.other-project.cloud.goog", "producerProjectId": google.rehearsal.project}
    assert "Ownership verification failed" in refused(google, "servicemanagement.services.create", body).message
    body["serviceName"] = f"{'k' * 40}.endpoints.rehearsal-project.cloud.goog"
    assert "62 characters" in refused(google, "servicemanagement.services.create", body).message


def test_a_rollout_of_what_is_not_there_is_refused(google):
    make_service(google)
    for percentages in ({}, {"2026-01-01r0": 100}, {"2026-01-01r0": 50}):
        body = {"trafficPercentStrategy": {"percentages": percentages}}
        assert refused(google, "servicemanagement.services.rollouts.create", body, serviceName=HOST).http == 400
