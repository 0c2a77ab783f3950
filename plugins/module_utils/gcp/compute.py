# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Global addresses, firewall rules and routers with their NATs: what differs from what is wanted, and one call each to repair it.

Only fields that are given are compared. Every kind is read with one request; changes are started one after the other and then waited for
together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api


@dataclass(frozen=True)
class Kind:
    """A kind of resources, and how its fields behave."""

    label: str
    collection: str  # in the API's method ids
    parameter: str  # the name's, in the API's methods
    immutable: dict[str, str]  # field: why it cannot change, and what to do instead
    links: tuple[str, ...] = ()  # fields that hold references to other resources
    sets: tuple[str, ...] = ()  # lists whose order means nothing
    created_with: tuple[str, ...] = ()  # fields that only count when the resource is made
    defaults: dict = field(default_factory=dict)  # what Google stores for a field that a resource was made without


_RENEW_ADDRESS = "an address cannot be changed; release it (another IP address will be given), or use another name"
_RENEW_RULE = "delete the rule first, or use another name"
_RENEW_ROUTER = "a router cannot move; use another name"

ADDRESS = Kind(
    "globalAddress",
    "globalAddresses",
    "address",
    dict.fromkeys(("address", "addressType", "ipVersion", "network", "purpose", "prefixLength"), _RENEW_ADDRESS),
    links=("network",),
    created_with=("description",),
    defaults={"addressType": "EXTERNAL", "ipVersion": "IPV4"},
)
FIREWALL = Kind(
    "firewall",
    "firewalls",
    "firewall",
    dict.fromkeys(("network", "direction"), _RENEW_RULE),
    links=("network",),
    sets=("sourceRanges", "destinationRanges", "sourceTags", "targetTags", "sourceServiceAccounts", "targetServiceAccounts"),
    defaults={"direction": "INGRESS", "priority": 1000, "disabled": False, "logConfig": {"enable": False}},
)
ROUTER = Kind("router", "routers", "router", dict.fromkeys(("network",), _RENEW_ROUTER), links=("network",))
NAT_DEFAULTS = {"natIpAllocateOption": "AUTO_ONLY", "sourceSubnetworkIpRangesToNat": "ALL_SUBNETWORKS_ALL_IP_RANGES"}
NAT_OUTPUT = ("effectiveTcpTimeWaitTimeoutSec",)
NAT = Kind("nat", "", "", {}, sets=("natIps",), defaults={"enableDynamicPortAllocation": False, "logConfig": {"enable": False}})


class Refused(Exception):
    """Differences that cannot be repaired in place; one line each."""


@dataclass
class Resource:
    """One resource: what is wanted, what was found, and what is done about it."""

    kind: Kind
    wanted: dict  # as in the API, without fields that were not given
    place: dict  # the region parameter of a router
    found: dict | None = None
    action: str = "unchanged"  # created | changed | deleted | unchanged
    patch: dict = field(default_factory=dict)
    before: dict = field(default_factory=dict)
    operation: dict | None = None
    error: api.GcpError | None = None

    def __str__(self) -> str:
        return f"{self.kind.label} {self.wanted['name']}{' in ' + self.place['region'] if self.place else ''}"

    def result(self) -> dict:
        """What the module returns about it."""
        found = self.found if self.found and self.action != "deleted" else {}
        about = {"kind": self.kind.label, "name": self.wanted["name"], "action": self.action, "self_link": found.get("selfLink", "")}
        return {**about, **self.place, **({"address": found.get("address", "")} if self.kind is ADDRESS else {})}

    def diff(self) -> dict:
        """Before and after: of something changed the fields that differ, otherwise all that is given."""
        name = str(self)
        if self.action == "created":
            return {"before_header": "(none)", "after_header": name, "before": None, "after": self.wanted}
        if self.action == "deleted":
            return {"before_header": name, "after_header": "(deleted)", "before": self.before, "after": None}
        return {"before_header": name, "after_header": name, "before": self.before, "after": self.patch}


def camel(options: dict) -> dict:
    """Options as fields of the API: ip_protocol → IPProtocol, source_ranges → sourceRanges. What is not given (None) is left out."""
    fields = {}
    for name, value in options.items():
        first, *rest = name.split("_")
        key = "IPProtocol" if name == "ip_protocol" else first + "".join(part.capitalize() for part in rest)
        if isinstance(value, dict):
            fields[key] = camel(value)
        elif isinstance(value, list):
            fields[key] = [camel(item) if isinstance(item, dict) else item for item in value]
        elif value is not None:
            fields[key] = value
    return fields


def link(value: str, project: str, collection: str = "global/networks") -> str:
    """A reference in the form projects/P/global/networks/N, whether it was given as a name, in this form or as a URL."""
    if "projects/" in value:
        return "projects/" + value.partition("projects/")[2]
    return f"projects/{project}/{value.strip('/') if '/' in value else f'{collection}/{value}'}"


def wanted(project: str, addresses: list[dict], firewalls: list[dict], routers: list[dict]) -> list[Resource]:
    """The resources that the module's options describe."""
    resources = [Resource(ADDRESS, camel(each), {}) for each in addresses]
    resources += [Resource(FIREWALL, camel(each), {}) for each in firewalls]
    for each in routers:
        spec = camel(each)
        place = {"region": spec.pop("region")}
        for nat in spec.get("nats", []):
            region = f"regions/{place['region']}"
            if "natIps" in nat:
                nat["natIpAllocateOption"] = "MANUAL_ONLY" if nat["natIps"] else "AUTO_ONLY"
                nat["natIps"] = [link(ip, project, f"{region}/addresses") for ip in nat["natIps"]]
            for subnetwork in nat.get("subnetworks", []):
                subnetwork["name"] = link(subnetwork["name"], project, f"{region}/subnetworks")
        resources.append(Resource(ROUTER, spec, place))
    for resource in resources:
        for name in resource.kind.links:
            if name in resource.wanted:
                resource.wanted[name] = link(resource.wanted[name], project)
    names = [str(resource) for resource in resources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Refused(f"given twice: {', '.join(twice)}. Remedy: leave one out.")
    return resources


def look(gcp, resources: list[Resource]) -> None:
    """Find out what is there: one request for each kind (and region)."""
    for kind, place in dict.fromkeys((each.kind.collection, tuple(each.place.items())) for each in resources):
        there = {each["name"]: each for each in gcp.pages(f"compute.{kind}.list", "items", project=gcp.project, **dict(place))}
        for resource in resources:
            if resource.kind.collection == kind and tuple(resource.place.items()) == place:
                resource.found = there.get(resource.wanted["name"])


def plan(resources: list[Resource], absent: bool = False) -> None:
    """Decide what to do with each. Refused if something differs that cannot be changed in place."""
    refused = []
    for resource in resources:
        if absent:
            resource.action = "deleted" if resource.found else "unchanged"
            resource.before = _common(resource.found or {}, resource.wanted)
        elif resource.found is None:
            resource.action = "created"
        else:
            refused += _compare(resource)
    if refused:
        raise Refused("\n".join(refused))


def _compare(resource: Resource) -> list[str]:
    """Set what to patch; return what cannot be."""
    kind, found, refused = resource.kind, resource.found or {}, []
    resource.action, resource.patch, resource.before = "unchanged", {}, {}
    for name, value in resource.wanted.items():
        if name in ("name", *kind.created_with):
            continue
        if name == "nats":
            merged = _merged_nats(found.get("nats", []), value)
            if merged is not None:
                resource.patch["nats"], resource.before["nats"] = merged, found.get("nats", [])
        elif not _same(kind, name, value, found.get(name, kind.defaults.get(name))):
            if name in kind.immutable:
                refused.append(
                    f"{resource}: {name} is {found.get(name, '(not set)')!r}, wanted {value!r}, and cannot be changed. "
                    f"Remedy: {kind.immutable[name]}."
                )
            resource.patch[name], resource.before[name] = value, found.get(name)
    if resource.patch:
        resource.action = "changed"
    return refused


def _merged_nats(found: list[dict], given: list[dict]) -> list[dict] | None:
    """The router's NATs with what is given put in by name; None if that changes nothing. NATs of others stay."""
    merged, changed = [{key: value for key, value in nat.items() if key not in NAT_OUTPUT} for nat in copy.deepcopy(found)], False
    by_name = {nat["name"]: nat for nat in merged}
    for nat in given:
        there = by_name.get(nat["name"])
        if there is None:
            merged.append({**NAT_DEFAULTS, **nat})
            changed = True
            continue
        differing = {name: value for name, value in nat.items() if not _same(NAT, name, value, there.get(name, NAT.defaults.get(name)))}
        there.update(differing)
        if there.get("natIpAllocateOption") == "AUTO_ONLY":
            there.pop("natIps", None)
        changed = changed or bool(differing)
    return merged if changed else None


def _same(kind: Kind, name: str, given: object, found: object) -> bool:
    if name in kind.links:
        return found is not None and link(str(found), "") == given
    if name in kind.sets:
        return sorted(_plain(item) for item in given) == sorted(_plain(item) for item in found or [])
    if name in ("allowed", "denied"):
        return _rules(given) == _rules(found or [])
    if name == "subnetworks":
        return _subnetworks(given) == _subnetworks(found or [])
    if isinstance(given, dict):
        return all(_same(kind, key, value, (found or {}).get(key)) for key, value in given.items())
    return given == found


def _plain(item: str) -> str:
    """A list's item; a reference without the host in front."""
    return link(item, "") if "projects/" in item else item


def _rules(rules: list[dict]) -> list:
    return sorted((str(rule["IPProtocol"]).lower(), sorted(map(str, rule.get("ports") or []))) for rule in rules)


def _subnetworks(given: list[dict]) -> list:
    return sorted(
        (
            _plain(each["name"]),
            sorted(each.get("sourceIpRangesToNat") or ["ALL_IP_RANGES"]),
            sorted(each.get("secondaryIpRangeNames") or []),
        )
        for each in given
    )


def _common(found: dict, given: dict) -> dict:
    return {name: found[name] for name in ("name", *given) if name in found}


def carry_out(gcp, resources: list[Resource]) -> None:
    """Start all changes, then wait for all of them. What fails is kept in `error`; the rest is done nevertheless."""
    for resource in resources:
        if resource.action != "unchanged":
            _attempt(resource, lambda resource=resource: _start(gcp, resource))
    for resource in resources:
        if resource.operation:
            _attempt(resource, lambda resource=resource: gcp.wait(resource.operation, what=f"{resource}: {resource.action}"))
    made = [resource for resource in resources if resource.action == "created" and not resource.error]
    if made:
        look(gcp, made)  # addresses are known only now


def _attempt(resource: Resource, do: Callable[[], object]) -> None:
    try:
        do()
    except api.GcpError as error:
        resource.error = error


def _start(gcp, resource: Resource) -> None:
    kind, place = f"compute.{resource.kind.collection}", {"project": gcp.project, **resource.place}
    name = {resource.kind.parameter: resource.wanted["name"]}
    try:
        if resource.action == "created":
            resource.operation = gcp.call(f"{kind}.insert", _body(resource), **place)
        elif resource.action == "changed":
            resource.operation = gcp.call(f"{kind}.patch", resource.patch, **place, **name)
        else:
            resource.operation = gcp.call(f"{kind}.delete", **place, **name)
    except api.NotFound:
        if resource.action != "deleted":
            raise
        resource.action = "unchanged"  # somebody else was faster
    except api.AlreadyExists:
        if resource.action != "created":
            raise
        resource.found = gcp.call(f"{kind}.get", **place, **name)
        try:
            plan([resource])
        except Refused as error:
            raise api.BadRequest(str(error)) from error
        if resource.action == "changed":
            resource.operation = gcp.call(f"{kind}.patch", resource.patch, **place, **name)


def _body(resource: Resource) -> dict:
    body = copy.deepcopy(resource.wanted)
    for number, nat in enumerate(body.get("nats", [])):
        body["nats"][number] = {**NAT_DEFAULTS, **nat}
    if "nats" in body and not body["nats"]:
        del body["nats"]
    return body
