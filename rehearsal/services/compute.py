# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compute Engine: quotas, regions and zones, accelerator and machine types, networks, addresses, firewalls, routers with NAT."""

from __future__ import annotations

import copy
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from rehearsal import Call, Refused, errors, gke, handles, locations, policies, shapes
from rehearsal.call import now
from rehearsal.state import merge

BASE = "https://www.googleapis.com/compute/v1/projects/"
# Limits of a project that asked Google for a few GPUs. A new one has none: GPUS_ALL_REGIONS is 0.
PROJECT_LIMITS = {
    "CPUS_ALL_REGIONS": 1000.0, "FIREWALLS": 200.0, "GPUS_ALL_REGIONS": 16.0, "NETWORKS": 15.0, "ROUTERS": 20.0, "STATIC_ADDRESSES": 8.0,
    "SUBNETWORKS": 275.0,
}  # fmt: skip
REGION_LIMITS = {
    "CPUS": 500.0, "DISKS_TOTAL_GB": 40960.0, "INSTANCES": 2000.0, "IN_USE_ADDRESSES": 200.0, "SSD_TOTAL_GB": 40960.0,
    "STATIC_ADDRESSES": 8.0,
}  # fmt: skip
GPU_LIMITS = {"NVIDIA_L4_GPUS": 16.0, "NVIDIA_T4_GPUS": 4.0, "NVIDIA_P4_GPUS": 1.0, "NVIDIA_P100_GPUS": 1.0, "NVIDIA_V100_GPUS": 1.0}


# ---- the state of a project


def store(project: dict, kind: str) -> dict:
    """The resources of a kind by name, of a regional kind by region/name."""
    return project.setdefault("compute", {}).setdefault(kind, {})


def networks(project: dict) -> dict:
    """The networks by name. A project comes with `default`, which has a subnetwork in each region."""
    compute = project.setdefault("compute", {})
    if "networks" not in compute:
        description = "Default network for the project"
        compute["networks"] = {"default": _network(project, "default", {"autoCreateSubnetworks": True, "description": description})}
    return compute["networks"]


def subnetworks(project: dict) -> dict:
    """The subnetworks by region/name; those of a network in auto mode follow from it."""
    made: dict[str, dict] = {}
    for name, network in networks(project).items():
        if network.get("autoCreateSubnetworks"):
            for index, region in enumerate(locations.REGIONS):
                body = {"ipCidrRange": f"10.{128 + 2 * index}.0.0/20", "network": network["selfLink"]}
                made[f"{region}/{name}"] = _subnetwork(project, region, name, body)
    return {**made, **store(project, "subnetworks")}


def limits(project: dict, region: str = "") -> dict[str, float]:
    """The quotas of a project ("") or of one of its regions: what the state says in quotas, else what a project usually has."""
    if not region:
        return {**PROJECT_LIMITS, **project.get("quotas", {}).get("global", {})}
    gpus: dict[str, float] = {}
    for accelerator in locations.ACCELERATORS.values():
        if any(locations.region_of(zone) == region for zone in accelerator.zones):
            for metric in filter(None, (accelerator.metric, accelerator.preemptible)):
                gpus[metric] = GPU_LIMITS.get(metric.removeprefix("PREEMPTIBLE_"), 0.0)
    return {**REGION_LIMITS, **gpus, **project.get("quotas", {}).get(region, {})}


def usage(project: dict, region: str = "") -> dict[str, float]:
    """What of the quotas is in use."""
    if region:
        used = _counted(store(project, "addresses"), region, "STATIC_ADDRESSES")
    else:
        used = {
            "FIREWALLS": len(store(project, "firewalls")), "NETWORKS": len(networks(project)), "ROUTERS": len(store(project, "routers")),
            "STATIC_ADDRESSES": len(store(project, "globalAddresses")), "SUBNETWORKS": len(subnetworks(project)),
        }  # fmt: skip
    for cluster in project.get("container", {}).get("clusters", {}).values():
        for pool in cluster["nodePools"].values():
            for (place, metric), amount in taken(project, cluster, pool).items():
                if place == region:
                    used[metric] = used.get(metric, 0) + amount
    return used


def taken(project: dict, cluster: dict, pool: dict) -> dict[tuple[str, str], float]:
    """What a node pool takes of which quotas: {(region or "", metric): amount}. Spot nodes take the standard quota where theirs is 0."""
    region = locations.region_of(cluster["location"])
    granted, found = limits(project, region), {}
    for metric, amount in gke.needs(pool).items():
        standard = metric.removeprefix("PREEMPTIBLE_")
        name = standard if not granted.get(metric) and standard in granted else metric
        found["" if metric.endswith("_ALL_REGIONS") else region, name] = amount
        if metric == "CPUS":
            found["", "CPUS_ALL_REGIONS"] = amount
    return found


def _counted(stored: dict, region: str, metric: str) -> dict[str, float]:
    return {metric: sum(key.startswith(f"{region}/") for key in stored)}


def _quotas(project: dict, region: str = "") -> list[dict]:
    used = usage(project, region)
    return [
        {"metric": metric, "limit": float(limit), "usage": float(used.get(metric, 0))}
        for metric, limit in sorted(limits(project, region).items())
    ]


def _check_quota(project: dict, metric: str, region: str = "") -> None:
    limit, used = limits(project, region)[metric], usage(project, region).get(metric, 0)
    if used + 1 > limit:
        raise errors.quota(metric, limit, used, region)


# ---- what a project finds there


@handles("compute.projects.get")
def get_project(call: Call) -> dict:
    """The project with its global quotas."""
    project, number = call.project, call.project["projectNumber"]
    return {
        "kind": "compute#project",
        "id": shapes.identifier("project", call.project_id),
        "name": call.project_id,
        "creationTimestamp": project["createTime"],
        "commonInstanceMetadata": {"kind": "compute#metadata", "fingerprint": shapes.etag([])},
        "defaultServiceAccount": f"{number}-compute@developer.gserviceaccount.com",
        "defaultNetworkTier": "PREMIUM",
        "quotas": _quotas(project),
        "selfLink": f"{BASE}{call.project_id}",
    }


def _region(call: Call, region: str) -> dict:
    return {
        "kind": "compute#region",
        "id": shapes.identifier("region", region, digits=4),
        "name": region,
        "description": region,
        "creationTimestamp": call.project["createTime"],
        "status": "UP",
        "zones": [f"{BASE}{call.project_id}/zones/{zone}" for zone in locations.REGIONS[region]],
        "quotas": _quotas(call.project, region),
        "selfLink": f"{BASE}{call.project_id}/regions/{region}",
    }


def _zone(call: Call, zone: str) -> dict:
    return {
        "kind": "compute#zone",
        "id": shapes.identifier("zone", zone, digits=4),
        "name": zone,
        "description": zone,
        "creationTimestamp": call.project["createTime"],
        "status": "UP",
        "region": f"{BASE}{call.project_id}/regions/{locations.region_of(zone)}",
        "selfLink": f"{BASE}{call.project_id}/zones/{zone}",
    }


def _accelerator(call: Call, zone: str, name: str) -> dict:
    accelerator = locations.ACCELERATORS[name]
    return {
        "kind": "compute#acceleratorType",
        "id": shapes.identifier("accelerator", name, digits=5),
        "creationTimestamp": call.project["createTime"],
        "name": name,
        "description": accelerator.description,
        "maximumCardsPerInstance": accelerator.maximum,
        "zone": f"{BASE}{call.project_id}/zones/{zone}",
        "selfLink": f"{BASE}{call.project_id}/zones/{zone}/acceleratorTypes/{name}",
    }


def _one(call: Call, kind: str, found: bool) -> None:
    """Refuses what is not there; kind: its path within the project."""
    call.project  # noqa: B018 - refuses if there is none
    if not found:
        raise errors.not_found(f"projects/{call.project_id}/{kind}")


@handles("compute.regions.get")
def get_region(call: Call) -> dict:
    """One region with its quotas."""
    _one(call, f"regions/{call.location}", call.location in locations.REGIONS)
    return _region(call, call.location)


@handles("compute.regions.list")
def list_regions(call: Call) -> dict:
    """All regions with their quotas."""
    return _list(call, "compute#regionList", "regions", [_region(call, region) for region in locations.REGIONS])


@handles("compute.zones.get")
def get_zone(call: Call) -> dict:
    """One zone."""
    _known_zone(call)
    return _zone(call, call.location)


@handles("compute.zones.list")
def list_zones(call: Call) -> dict:
    """All zones."""
    return _list(call, "compute#zoneList", "zones", [_zone(call, zone) for zones in locations.REGIONS.values() for zone in zones])


def _known_zone(call: Call) -> None:
    call.project  # noqa: B018 - refuses if there is none
    if call.location not in locations.zones_of(call.location):
        raise Refused(400, "", f"Invalid value for field 'zone': '{call.location}'. Unknown zone.")


def _known_region(call: Call) -> None:
    call.project  # noqa: B018 - refuses if there is none
    if call.location not in locations.REGIONS:
        raise Refused(400, "", f"Invalid value for field 'region': '{call.location}'. Unknown region.")


@handles("compute.acceleratorTypes.get")
def get_accelerator(call: Call) -> dict:
    """One type of accelerator in a zone."""
    _known_zone(call)
    name = call.params["acceleratorType"]
    offered = call.location in getattr(locations.ACCELERATORS.get(name), "zones", ())
    _one(call, f"zones/{call.location}/acceleratorTypes/{name}", offered)
    return _accelerator(call, call.location, name)


@handles("compute.acceleratorTypes.list")
def list_accelerators(call: Call) -> dict:
    """The types of accelerators that a zone offers."""
    _known_zone(call)
    found = [_accelerator(call, call.location, name) for name, offered in locations.ACCELERATORS.items() if call.location in offered.zones]
    return _list(call, "compute#acceleratorTypeList", f"zones/{call.location}/acceleratorTypes", found)


@handles("compute.acceleratorTypes.aggregatedList")
def all_accelerators(call: Call) -> dict:
    """The types of accelerators by zone; zones that offer none say so, as Google's answer does."""
    scopes = {
        f"zones/{zone}": [_accelerator(call, zone, name) for name, offered in locations.ACCELERATORS.items() if zone in offered.zones]
        for zones in locations.REGIONS.values()
        for zone in zones
    }
    return _aggregated(call, "compute#acceleratorTypeAggregatedList", "acceleratorTypes", scopes)


@handles("compute.machineTypes.get")
def get_machine_type(call: Call) -> dict:
    """One machine type in a zone."""
    _known_zone(call)
    name, zone = call.params["machineType"], call.location
    _one(call, f"zones/{zone}/machineTypes/{name}", locations.offers_machine(name, zone))
    fixed = locations.fixed_accelerator(name)
    return {
        "kind": "compute#machineType",
        "id": shapes.identifier("machine", name, digits=6),
        "creationTimestamp": call.project["createTime"],
        "name": name,
        "guestCpus": locations.cpus(name),
        "zone": zone,
        **({"accelerators": [{"guestAcceleratorType": fixed[0], "guestAcceleratorCount": fixed[1]}]} if fixed else {}),
        "selfLink": f"{BASE}{call.project_id}/zones/{zone}/machineTypes/{name}",
    }


# ---- lists


_TERM = re.compile(r"\s*\(?\s*([A-Za-z][A-Za-z0-9_.]*)\s*(=|!=|:|eq|ne)\s*(\"[^\"]*\"|'[^']*'|[^\s()]+)\s*\)?\s*")


def _filter(call: Call) -> Callable[[dict], bool]:
    """The request's filter: terms as name=x, joined by AND; `eq` and `ne` take regular expressions, `:` a part of the value."""
    terms = []
    for part in re.split(r"\bAND\b|(?<=\))\s*(?=\()", call.params.get("filter", "")):
        if not part.strip():
            continue
        if not (found := _TERM.fullmatch(part)):
            raise Refused(400, "", f"Invalid value for field 'filter': '{call.params['filter']}'. Invalid list filter expression.")
        terms.append((found[1], found[2], found[3].strip("\"'")))

    def matches(item: dict) -> bool:
        for name, operator, wanted in terms:
            value: object = item
            for key in name.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            text = str(value).lower() if isinstance(value, bool) else str(value if value is not None else "")
            right = {
                "=": text == wanted, "!=": text != wanted, ":": wanted.strip("*") in text,
                "eq": re.fullmatch(wanted, text) is not None, "ne": re.fullmatch(wanted, text) is None,
            }[operator]  # fmt: skip
            if not right:
                return False
        return True

    return matches


def _list(call: Call, kind: str, path: str, items: list[dict]) -> dict:
    call.project  # noqa: B018 - refuses if there is none
    chosen = _filter(call)
    page = call.page("items", copy.deepcopy([item for item in items if chosen(item)]))
    if not page["items"]:
        del page["items"]
    return {"kind": kind, "id": f"projects/{call.project_id}/{path}", "selfLink": f"{BASE}{call.project_id}/{path}", **page}


def _aggregated(call: Call, kind: str, key: str, scopes: dict[str, list[dict]]) -> dict:
    call.project  # noqa: B018 - refuses if there is none
    chosen, items = _filter(call), {}
    size = int(call.params.get("maxResults") or 0) or len(scopes)
    start = int(call.params.get("pageToken") or 0)
    for scope in list(scopes)[start : start + size]:
        found = copy.deepcopy([item for item in scopes[scope] if chosen(item)])
        empty = {
            "code": "NO_RESULTS_ON_PAGE",
            "message": f"There are no results for scope '{scope}' on this page.",
            "data": [{"key": "scope", "value": scope}],
        }
        items[scope] = {key: found} if found else {"warning": empty}
    path = f"projects/{call.project_id}/aggregated/{key}"
    answer = {"kind": kind, "id": path, "items": items, "selfLink": f"{BASE.removesuffix('projects/')}{path}"}
    if start + size < len(scopes):
        answer["nextPageToken"] = str(start + size)
    return answer


# ---- networks, addresses, firewalls, routers, backend services


@dataclass(frozen=True)
class Kind:
    """A kind of resources: `path` within a project or region, `make` checks and completes a body, `immutable` its fixed fields."""

    group: str  # of its methods, e.g. firewalls
    parameter: str  # that names one, e.g. firewall
    path: str
    kind: str  # compute#firewall
    make: Callable[[dict, str, str, dict], dict]
    regional: bool = False
    metric: str = ""  # quota
    immutable: tuple[str, ...] = ()
    check: Callable[[dict, dict], None] = lambda project, resource: None

    def name(self, project: str, region: str, name: str) -> str:
        """Relative name of one of them."""
        return f"projects/{project}/{f'regions/{region}' if self.regional else 'global'}/{self.path}/{name}"


def _link(project: dict, value: str) -> str:
    """The full link that a partial one means, e.g. global/networks/default."""
    return BASE + value.rpartition("projects/")[2] if "projects/" in value else f"{BASE}{project['projectId']}/{value.lstrip('/')}"


def _known_network(project: dict, value: str) -> str:
    link = _link(project, value if "/" in value else f"global/networks/{value}")
    name = link.rpartition("/")[2]
    if link == f"{BASE}{project['projectId']}/global/networks/{name}" and name not in networks(project):
        raise Refused(
            400,
            "",
            f"Invalid value for field 'resource.network': '{link}'. The referenced network resource cannot be found.",
            reason="invalid",
        )
    return link


def _new(project: dict, kind: str, path: str) -> dict:
    return {
        "kind": kind,
        "id": shapes.identifier(path, now()),
        "creationTimestamp": now(),
        "selfLink": f"{BASE}{project['projectId']}/{path}",
    }


def _network(project: dict, name: str, body: dict) -> dict:
    routing = {"routingMode": "REGIONAL", "bgpBestPathSelectionMode": "LEGACY", **body.get("routingConfig", {})}
    return {
        **_new(project, "compute#network", f"global/networks/{name}"),
        "name": name,
        "autoCreateSubnetworks": True,
        "networkFirewallPolicyEnforcementOrder": "AFTER_CLASSIC_FIREWALL",
        **body,
        "routingConfig": routing,
    }


def _make_network(project: dict, region: str, name: str, body: dict) -> dict:
    return _network(project, name, body)


def _subnetwork(project: dict, region: str, name: str, body: dict) -> dict:
    path = f"regions/{region}/subnetworks/{name}"
    return {
        "kind": "compute#subnetwork",
        "id": shapes.identifier(project["projectId"], path),
        "creationTimestamp": project["createTime"],
        "selfLink": f"{BASE}{project['projectId']}/{path}",
        "privateIpGoogleAccess": False,
        "purpose": "PRIVATE",
        "stackType": "IPV4_ONLY",
        **body,
        "name": name,
        "gatewayAddress": str(next(ipaddress.ip_network(body["ipCidrRange"]).hosts())),
        "region": f"{BASE}{project['projectId']}/regions/{region}",
    }


def _make_subnetwork(project: dict, region: str, name: str, body: dict) -> dict:
    try:
        ipaddress.ip_network(body.get("ipCidrRange", ""))
    except ValueError:
        text = f"Invalid value for field 'resource.ipCidrRange': '{body.get('ipCidrRange', '')}'. Must be a CIDR address range."
        raise Refused(400, "", text) from None
    body = {**body, "network": _known_network(project, body.get("network", ""))}
    return {**_subnetwork(project, region, name, body), "creationTimestamp": now()}


def _make_address(project: dict, region: str, name: str, body: dict) -> dict:
    path = f"regions/{region}/addresses/{name}" if region else f"global/addresses/{name}"
    kind = body.get("addressType", "EXTERNAL")
    number = shapes.digest([project["projectId"], path, now()])
    version = body.get("ipVersion", "IPV4")
    external = f"34.{number[0] % 60 + 64}.{number[1]}.{number[2] % 250 + 2}" if version == "IPV4" else f"2600:1901:0:{number[:2].hex()}::"
    answer = {
        **_new(project, "compute#address", path),
        "address": external if kind == "EXTERNAL" else f"10.{number[0] % 100}.0.0",
        "addressType": kind,
        "description": "",
        "status": "RESERVED",
        **({"ipVersion": version} if not region and kind == "EXTERNAL" else {}),
        **({"networkTier": "PREMIUM"} if kind == "EXTERNAL" else {}),
        **{key: value for key, value in body.items() if key != "labels"},  # only setLabels sets them
        "labelFingerprint": shapes.etag({}),
    }
    if region:
        answer["region"] = f"{BASE}{project['projectId']}/regions/{region}"
    if body.get("network"):
        answer["network"] = _known_network(project, body["network"])
    return answer


def _make_firewall(project: dict, region: str, name: str, body: dict) -> dict:
    direction = body.get("direction", "INGRESS")
    answer = {
        **_new(project, "compute#firewall", f"global/firewalls/{name}"),
        "description": "",
        "direction": direction,
        "disabled": False,
        "logConfig": {"enable": False},
        "priority": 1000,
        **copy.deepcopy(body),
        "network": _known_network(project, body.get("network") or "global/networks/default"),
    }
    sources = ("sourceRanges", "sourceTags", "sourceServiceAccounts")
    if direction == "INGRESS" and not any(body.get(key) for key in sources):
        answer["sourceRanges"] = ["0.0.0.0/0"]
    if direction == "EGRESS" and not body.get("destinationRanges"):
        answer["destinationRanges"] = ["0.0.0.0/0"]
    return answer


def _check_firewall(project: dict, firewall: dict) -> None:
    """What holds for a new firewall and for a changed one."""

    def wrong(field: str, value: object, what: str) -> Refused:
        return Refused(400, "", f"Invalid value for field 'resource.{field}': '{value}'. {what}")

    rules = [*firewall.get("allowed", []), *firewall.get("denied", [])]
    if bool(firewall.get("allowed")) == bool(firewall.get("denied")):
        raise wrong("allowed", firewall.get("allowed", ""), "Exactly one of allowed and denied must be specified.")
    for index, rule in enumerate(rules):
        if not rule.get("IPProtocol"):
            raise Refused(400, "", f"Required field 'resource.allowed[{index}].IPProtocol' not specified", reason="required")
        for port in rule.get("ports", []):
            if not re.fullmatch(r"\d{1,5}(-\d{1,5})?", port) or any(int(part) > 65535 for part in port.split("-")):
                raise wrong(f"allowed[{index}].ports[0]", port, "Ports must be integers from 0 to 65535, or ranges of them.")
    for field in ("sourceRanges", "destinationRanges"):
        for value in firewall.get(field, []):
            try:
                ipaddress.ip_network(value)
            except ValueError:
                raise wrong(f"{field}[0]", value, "Must be a valid CIDR address range.") from None
    tags = [key for key in ("sourceTags", "targetTags") if firewall.get(key)]
    accounts = [key for key in ("sourceServiceAccounts", "targetServiceAccounts") if firewall.get(key)]
    if tags and accounts:
        raise wrong(accounts[0], firewall[accounts[0]], f"{accounts[0]} cannot be used together with {tags[0]}.")
    if not 0 <= firewall["priority"] <= 65535:
        raise wrong("priority", firewall["priority"], "Must be between 0 and 65535.")


def _make_router(project: dict, region: str, name: str, body: dict) -> dict:
    return {
        **_new(project, "compute#router", f"regions/{region}/routers/{name}"),
        "encryptedInterconnectRouter": False,
        **copy.deepcopy(body),
        "network": _known_network(project, body.get("network", "")),
        "region": f"{BASE}{project['projectId']}/regions/{region}",
    }


def _check_router(project: dict, router: dict) -> None:
    """Completes the NATs of a router, as Google does, and refuses wrong ones."""
    names = [nat.get("name") for nat in router.get("nats", [])]
    for index, nat in enumerate(router.get("nats", [])):
        at = f"resource.nats[{index}]"
        for field in ("name", "natIpAllocateOption", "sourceSubnetworkIpRangesToNat"):
            if not nat.get(field):
                raise Refused(400, "", f"Required field '{at}.{field}' not specified", reason="required")
        if names.count(nat["name"]) > 1:
            raise Refused(400, "", f"Invalid value for field '{at}.name': '{nat['name']}'. Names of NATs must be unique within a router.")
        if (nat["natIpAllocateOption"] == "MANUAL_ONLY") != bool(nat.get("natIps")):
            raise Refused(
                400,
                "",
                f"Invalid value for field '{at}.natIps': '{nat.get('natIps', '')}'. MANUAL_ONLY needs addresses, AUTO_ONLY takes none.",
            )
        if (nat["sourceSubnetworkIpRangesToNat"] == "LIST_OF_SUBNETWORKS") != bool(nat.get("subnetworks")):
            raise Refused(400, "", f"Invalid value for field '{at}.subnetworks': they belong to LIST_OF_SUBNETWORKS, and only to it.")
        nat.setdefault("type", "PUBLIC")
        nat.setdefault("endpointTypes", ["ENDPOINT_TYPE_VM"])
        nat.setdefault("enableEndpointIndependentMapping", False)
        nat.setdefault("autoNetworkTier", "PREMIUM")
        nat.setdefault("logConfig", {"enable": False, "filter": "ALL"})


def _make_backend_service(project: dict, region: str, name: str, body: dict) -> dict:
    return {
        **_new(project, "compute#backendService", f"global/backendServices/{name}"),
        "affinityCookieTtlSec": 0,
        "connectionDraining": {"drainingTimeoutSec": 0},
        "description": "",
        "loadBalancingScheme": "EXTERNAL",
        "port": 80,
        "portName": "http",
        "protocol": "HTTP",
        "sessionAffinity": "NONE",
        "timeoutSec": 30,
        **copy.deepcopy(body),
    }


KINDS = (
    Kind("networks", "network", "networks", "compute#network", _make_network, metric="NETWORKS", immutable=("name",)),
    Kind(
        "subnetworks", "subnetwork", "subnetworks", "compute#subnetwork", _make_subnetwork, True,
        immutable=("name", "network", "region", "ipCidrRange"),
    ),
    Kind("globalAddresses", "address", "addresses", "compute#address", _make_address, metric="STATIC_ADDRESSES"),
    Kind("addresses", "address", "addresses", "compute#address", _make_address, True, metric="STATIC_ADDRESSES"),
    Kind(
        "firewalls", "firewall", "firewalls", "compute#firewall", _make_firewall, metric="FIREWALLS",
        immutable=("name", "network", "direction"), check=_check_firewall,
    ),
    Kind(
        "routers", "router", "routers", "compute#router", _make_router, True, metric="ROUTERS", immutable=("name", "network", "region"),
        check=_check_router,
    ),
    Kind("backendServices", "backendService", "backendServices", "compute#backendService", _make_backend_service, immutable=("name",)),
)  # fmt: skip
_BY_GROUP = {kind.group: kind for kind in KINDS}


def _of(call: Call) -> tuple[Kind, str, dict]:
    """Kind, region ("" for a global one), and the resources that are there."""
    kind = _BY_GROUP[call.method.split(".")[1]]
    if kind.regional:
        _known_region(call)
    region = call.location if kind.regional else ""
    stored = {"networks": networks, "subnetworks": subnetworks}.get(kind.group, lambda project: store(project, kind.group))(call.project)
    return kind, region, stored


def _key(region: str, name: str) -> str:
    return f"{region}/{name}" if region else name


def _found(call: Call) -> tuple[Kind, str, dict, dict]:
    """Kind, region, name, and the resource that the request names."""
    kind, region, stored = _of(call)
    name = call.params.get(kind.parameter) or call.params["resource"]
    if _key(region, name) not in stored:
        raise errors.not_found(kind.name(call.project_id, region, name))
    return kind, region, name, stored[_key(region, name)]


@handles(*(f"compute.{kind.group}.get" for kind in KINDS))
def get(call: Call) -> dict:
    """One resource."""
    return copy.deepcopy(_found(call)[3])


@handles(*(f"compute.{kind.group}.list" for kind in KINDS))
def listed(call: Call) -> dict:
    """The resources of a kind in the project or region."""
    kind, region, stored = _of(call)
    found = [item for key, item in stored.items() if not region or key.startswith(f"{region}/")]
    path = f"regions/{region}/{kind.path}" if region else f"global/{kind.path}"
    return _list(call, f"{kind.kind}List", path, found)


@handles(*(f"compute.{group}.aggregatedList" for group in ("addresses", "backendServices", "routers", "subnetworks")))
def aggregated(call: Call) -> dict:
    """The resources of a kind by region."""
    kind = _BY_GROUP[call.method.split(".")[1]]
    stored = subnetworks(call.project) if kind.group == "subnetworks" else store(call.project, kind.group)
    scopes = {f"regions/{region}": [item for key, item in stored.items() if key.startswith(f"{region}/")] for region in locations.REGIONS}
    if not kind.regional:
        scopes = {"global": list(stored.values())}
    elif kind.group == "addresses":
        scopes = {"global": list(store(call.project, "globalAddresses").values()), **scopes}
    return _aggregated(call, f"{kind.kind}AggregatedList", kind.path, scopes)


@handles(*(f"compute.{kind.group}.insert" for kind in KINDS))
def insert(call: Call) -> dict:
    """Makes a resource; it can be seen at once, and used once the operation is done."""
    kind, region, stored = _of(call)
    name = call.body.get("name")
    if not name:
        raise Refused(400, "", "Required field 'resource.name' not specified", reason="required")
    if _key(region, name) in stored:
        raise errors.exists(kind.name(call.project_id, region, name))
    body = {key: copy.deepcopy(value) for key, value in call.body.items() if value is not None and key not in _OUTPUT}
    resource = kind.make(call.project, region, name, body)
    kind.check(call.project, resource)
    if kind.metric:
        _check_quota(call.project, kind.metric, region if kind.group == "addresses" else "")
    store(call.project, kind.group)[_key(region, name)] = resource
    target = kind.name(call.project_id, region, name)
    arguments = {"project": call.project_id, "group": kind.group, "key": _key(region, name)}
    return call.operation("insert", target, failed=undone, arguments=arguments)


_OUTPUT = ("kind", "id", "creationTimestamp", "selfLink", "status", "users", "region", "labelFingerprint")


def undone(server: object, operation: dict, project: str, group: str, key: str) -> None:
    """What could not be made is not there."""
    store(server.state["projects"][project], group).pop(key, None)


@handles(*(f"compute.{group}.{verb}" for group in ("networks", "firewalls", "routers", "backendServices") for verb in ("patch", "update")
           if (group, verb) != ("networks", "update")), "compute.subnetworks.patch")  # fmt: skip
def change(call: Call) -> dict:
    """Changes a resource once the operation is done; update replaces all that can be changed."""
    kind, region, name, resource = _found(call)
    verb = call.method.rpartition(".")[2]
    body = {key: copy.deepcopy(value) for key, value in call.body.items() if key not in _OUTPUT}
    for field in kind.immutable:
        wanted = body.pop(field, None)
        if wanted is not None and field == "network":
            wanted = _known_network(call.project, wanted)
        if wanted is not None and wanted != resource.get(field):
            text = f"Invalid value for field 'resource.{field}': '{wanted}'. The {field} of an existing {kind.parameter} cannot be changed."
            raise Refused(400, "", text)
    if verb == "update":
        fixed = {field: resource[field] for field in kind.immutable if field in resource}
        region_of = call.location if kind.regional else ""
        changed = {
            **kind.make(call.project, region_of, name, {**body, **fixed}),
            **{key: resource[key] for key in _OUTPUT if key in resource},
        }
    else:
        changed = merge(copy.deepcopy(resource), body)
    kind.check(call.project, changed)
    target = kind.name(call.project_id, region, name)
    arguments = {"project": call.project_id, "group": kind.group, "key": _key(region, name), "resource": changed}
    return call.operation(verb, target, finish=stored_anew, arguments=arguments)


def stored_anew(server: object, operation: dict, project: str, group: str, key: str, resource: dict) -> None:
    """The changed resource takes the place of the old one, if that is still there."""
    stored = networks(server.state["projects"][project]) if group == "networks" else store(server.state["projects"][project], group)
    if key in stored or group == "subnetworks":
        stored[key] = resource


@handles(*(f"compute.{kind.group}.delete" for kind in KINDS))
def delete(call: Call) -> dict:
    """Deletes a resource that nothing uses; it is gone once the operation is done."""
    kind, region, name, resource = _found(call)
    target = kind.name(call.project_id, region, name)
    users = _users(call.project, kind, region, name, resource)
    if users:
        text = f"The {kind.parameter} resource '{target}' is already being used by '{users[0]}'"
        raise Refused(400, "", text, reason="resourceInUseByAnotherResource")
    arguments = {"project": call.project_id, "group": kind.group, "key": _key(region, name)}
    return call.operation("delete", target, finish=undone, arguments=arguments)


def _users(project: dict, kind: Kind, region: str, name: str, resource: dict) -> list[str]:
    users = list(resource.get("users", []))
    if kind.group == "networks":
        for group in ("firewalls", "routers", "subnetworks"):
            users += [
                item["selfLink"].split("/v1/")[1] for item in store(project, group).values() if item.get("network") == resource["selfLink"]
            ]
    if kind.group in ("networks", "subnetworks"):
        for cluster in project.get("container", {}).get("clusters", {}).values():
            same = locations.region_of(cluster["location"]) == region or kind.group == "networks"
            if same and cluster[kind.parameter] == name:
                users.append(gke.self_path(project, cluster))
    return users


@handles("compute.globalAddresses.setLabels", "compute.addresses.setLabels")
def set_labels(call: Call) -> dict:
    """Replaces the labels of an address, if the request knows the present ones."""
    kind, region, name, resource = _found(call)
    if call.body.get("labelFingerprint") != resource["labelFingerprint"]:
        raise Refused(412, "", "Labels fingerprint either invalid or resource labels have changed", reason="conditionNotMet")
    labels = call.body.get("labels", {})
    changed = {key: value for key, value in resource.items() if key != "labels"} | {"labelFingerprint": shapes.etag(labels)}
    if labels:
        changed["labels"] = labels
    arguments = {"project": call.project_id, "group": kind.group, "key": _key(region, name), "resource": changed}
    return call.operation("setLabels", kind.name(call.project_id, region, name), finish=stored_anew, arguments=arguments)


@handles("compute.backendServices.getIamPolicy")
def get_policy(call: Call) -> dict:
    """The IAM policy of a backend service."""
    return policies.read(call, store(call.project, "policies").setdefault(_found(call)[2], {}))


@handles("compute.backendServices.setIamPolicy")
def set_policy(call: Call) -> dict:
    """Sets the IAM policy of a backend service."""
    return policies.write(call, store(call.project, "policies").setdefault(_found(call)[2], {}))
