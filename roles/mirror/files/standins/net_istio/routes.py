"""From KIngress and config-istio to VirtualServices, probe targets and status: no input or output, only values."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json

CLASS = "istio.ingress.networking.knative.dev"
CLASS_ANNOTATION = "networking.knative.dev/ingress.class"
INGRESS_LABEL = "networking.internal.knative.dev/ingress"
HASH_HEADER = "K-Network-Hash"
HASH_OVERRIDE = "override"  # the value that asks the gateway to put the configuration's hash into the header
LOCAL = "ClusterLocal"
WAITING = "Waiting for load balancer to be ready"


class ConfigError(Exception):
    """config-istio or a KIngress asks for what cannot be done; the text goes into the KIngress's status."""


@dataclasses.dataclass(frozen=True)
class Gateway:
    """An Istio Gateway (namespace/name) and the Service in front of its pods (host name)."""

    namespace: str
    name: str
    service: str

    @property
    def qualified(self) -> str:
        """The gateway's name as VirtualServices have it."""
        return f"{self.namespace}/{self.name}"

    @property
    def service_key(self) -> tuple[str, str]:
        """Namespace and name of the Service."""
        name, namespace = self.service.split(".")[:2]
        return namespace, name


@dataclasses.dataclass(frozen=True)
class Gateways:
    """What config-istio says."""

    external: tuple[Gateway, ...]
    local: tuple[Gateway, ...]

    def of(self, host: str, visibility: str, domain: str) -> tuple[Gateway, ...]:
        """The gateways that serve a host; names of the cluster's own domain are never served outside."""
        return self.local if visibility == LOCAL or host.endswith("." + domain) else self.external


# ---- config-istio


def parse_config(data: dict[str, str], domain: str = "cluster.local") -> Gateways:
    """Read config-istio in its two formats: a key for each gateway, or the lists external-gateways and local-gateways."""
    lists = {key: data[key] for key in ("external-gateways", "local-gateways") if key in data}
    legacy = [key for key in sorted(data) if key.startswith(("gateway.", "local-gateway."))]
    if lists and legacy:
        raise ConfigError(f"config-istio has {', '.join(lists)} and the old {', '.join(legacy)}: only one format can be used")
    external = _gateways(lists, legacy, data, "external-gateways", "gateway.")
    local = _gateways(lists, legacy, data, "local-gateways", "local-gateway.")
    return Gateways(
        external or (Gateway("knative-serving", "knative-ingress-gateway", f"istio-ingressgateway.istio-system.svc.{domain}"),),
        local or (Gateway("knative-serving", "knative-local-gateway", f"knative-local-gateway.istio-system.svc.{domain}"),),
    )


def _gateways(lists: dict, legacy: list[str], data: dict, list_key: str, prefix: str) -> tuple[Gateway, ...]:
    found = []
    for key in legacy:
        if key.startswith(prefix):
            namespace, _dot, name = key[len(prefix) :].rpartition(".")
            found.append((key, {"namespace": namespace, "name": name, "service": data[key].strip()}))
    found += [(list_key, entry) for entry in _entries(lists.get(list_key, ""), list_key)]
    for key, entry in found:
        missing = [field for field in ("name", "namespace", "service") if not entry.get(field)]
        if missing:
            raise ConfigError(f"config-istio, {key}: {', '.join(missing)} must be given")
        if "labelSelector" in entry:
            raise ConfigError(f"config-istio, {key}: labelSelector of {entry['name']} is not supported by this stand-in for net-istio")
        if entry["service"].count(".") < 1:
            raise ConfigError(f"config-istio, {key}: {entry['service']!r} is no Service host name (name.namespace.svc…)")
    if list_key in lists and len(found) > 1:
        raise ConfigError(f"config-istio, {list_key}: only one gateway can be without a labelSelector")
    return tuple(Gateway(entry["namespace"], entry["name"], entry["service"].rstrip(".")) for _key, entry in found)


def _entries(text: str, key: str) -> list[dict]:
    """The list of mappings with which config-istio writes gateways: JSON, or YAML in block style with plain values."""
    try:
        return json.loads(text) if text.strip() else []
    except ValueError:
        pass
    entries, indent = [], None
    for number, line in enumerate(text.splitlines(), 1):
        content = line.split(" #")[0].rstrip()
        if not content.strip() or content.lstrip().startswith("#"):
            continue
        stripped = content.lstrip()
        column = len(content) - len(stripped)
        if stripped.startswith("- ") and (indent is None or column < indent):
            entries.append({})
            stripped = stripped[2:].lstrip()
            column = indent = len(content) - len(stripped)
        name, colon, value = stripped.partition(":")
        if indent is None or not colon and column <= indent:
            raise ConfigError(f"config-istio, {key}: line {number} is not understood: {line.strip()!r}")
        if column == indent:  # deeper lines belong to a labelSelector, which is refused by its key
            entries[-1][name.strip()] = value.strip().strip("\"'")
    return entries


# ---- VirtualService


def ours(ingress: dict) -> bool:
    """Whether a KIngress is for Istio and not on its way out."""
    metadata = ingress["metadata"]
    return (metadata.get("annotations") or {}).get(CLASS_ANNOTATION, CLASS) == CLASS and not metadata.get("deletionTimestamp")


def spec_hash(ingress: dict) -> str:
    """A hash of what the gateways are to be configured with."""
    metadata = ingress["metadata"]
    text = json.dumps(ingress["spec"], sort_keys=True) + metadata["namespace"] + metadata["name"]
    return hashlib.sha256(text.encode()).hexdigest()


def expanded(hosts, domain: str = "cluster.local") -> list[str]:
    """Hosts with the short forms of those in the cluster's domain."""
    found = set()
    for host in hosts:
        for suffix in ("", f".{domain}", f".svc.{domain}"):
            if host.endswith(suffix):
                short = host[: len(host) - len(suffix)]
                top = short.rpartition(".")[2]
                if len(top) <= 63 and not top.isdigit():
                    found.add(short)
    return sorted(found)


def virtual_service(ingress: dict, gateways: Gateways, domain: str = "cluster.local") -> dict:
    """The VirtualService of a KIngress: for each path first the route that answers probes with the hash, then the path's own."""
    refuse_unsupported(ingress)
    metadata, marker = ingress["metadata"], spec_hash(ingress)
    routes, hosts, names = [], set(), set()
    for rule in ingress["spec"].get("rules") or []:
        hosts.update(rule["hosts"])
        visibility = rule.get("visibility") or "ExternalIP"
        for gateway in (gateway for host in rule["hosts"] for gateway in gateways.of(host, visibility, domain)):
            names.add(gateway.qualified)
        paths = rule["http"]["paths"]
        probed = [
            {
                **path,
                "headers": {**(path.get("headers") or {}), HASH_HEADER: {"exact": HASH_OVERRIDE}},
                "appendHeaders": {**(path.get("appendHeaders") or {}), HASH_HEADER: marker},
            }
            for path in paths
        ]
        routes += [_route(sorted(rule["hosts"]), visibility, path, gateways, domain) for path in probed + paths]
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "VirtualService",
        "metadata": {
            "name": metadata["name"] + "-ingress",
            "namespace": metadata["namespace"],
            "labels": {**(metadata.get("labels") or {}), INGRESS_LABEL: metadata["name"]},
            "ownerReferences": [
                {
                    "apiVersion": ingress["apiVersion"],
                    "kind": ingress["kind"],
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {"hosts": expanded(hosts, domain), "gateways": sorted(names), "http": routes},
    }


def refuse_unsupported(ingress: dict) -> None:
    """Raise ConfigError for what this stand-in leaves out: better no route than one that is not what was asked for."""
    if ingress["spec"].get("tls"):
        raise ConfigError("this stand-in for net-istio serves no TLS: spec.tls is not supported")
    if ingress["spec"].get("httpOption") == "Redirected":
        raise ConfigError("this stand-in for net-istio serves no TLS: httpOption Redirected is not supported")


def _route(hosts: list[str], visibility: str, path: dict, gateways: Gateways, domain: str) -> dict:
    matches = []
    for host in hosts:
        # a prefix, because clients may add a port to the host; of a cluster-local host the part that its short forms share
        match = {
            "gateways": sorted(gateway.qualified for gateway in gateways.of(host, visibility, domain)),
            "authority": {"prefix": host.removesuffix(f".svc.{domain}")},
        }
        if path.get("path"):
            match["uri"] = {"prefix": path["path"]}
        if path.get("headers"):
            match["headers"] = {name.lower(): {"exact": value["exact"]} for name, value in sorted(path["headers"].items())}
        if match not in matches:  # a host and its short form share one
            matches.append(match)
    # the empty retries keep Istio from retrying by its default: Knative's data path retries by itself
    route = {"match": matches, "route": [_destination(split, path["splits"], domain) for split in path["splits"]], "retries": {}}
    if path.get("appendHeaders"):
        route["headers"] = {"request": {"set": dict(path["appendHeaders"])}}
    if path.get("rewriteHost"):
        route["rewrite"] = {"authority": path["rewriteHost"]}
    return route


def _destination(split: dict, splits: list, domain: str) -> dict:
    port = split["servicePort"]
    destination = {
        "destination": {
            "host": f"{split['serviceName']}.{split['serviceNamespace']}.svc.{domain}",
            "port": {"number": port} if isinstance(port, int) else {"name": port},
        },
        "weight": split.get("percent") or (100 if len(splits) == 1 else 0),
    }
    if split.get("appendHeaders"):
        destination["headers"] = {"request": {"set": dict(split["appendHeaders"])}}
    return destination


def drifted(live: dict, wanted: dict) -> bool:
    """Whether a live VirtualService is not what it should be; labels that others added do not count."""
    labels = live["metadata"].get("labels") or {}
    return (
        live.get("spec") != wanted["spec"]
        or live["metadata"].get("ownerReferences") != wanted["metadata"]["ownerReferences"]
        or any(labels.get(key) != value for key, value in wanted["metadata"]["labels"].items())
    )


# ---- what is probed


def hosts_by_gateway(ingress: dict, gateways: Gateways, domain: str = "cluster.local") -> dict[Gateway, list[str]]:
    """Gateway → hosts that it serves for a KIngress."""
    found: dict[Gateway, set] = {}
    for rule in ingress["spec"].get("rules") or []:
        for host in rule["hosts"]:
            for gateway in gateways.of(host, rule.get("visibility") or "ExternalIP", domain):
                found.setdefault(gateway, set()).update(expanded([host], domain))
    return {gateway: sorted(hosts) for gateway, hosts in found.items()}


def pod_addresses(gateway: dict, service: dict, endpoints: dict) -> list[tuple[str, int]]:
    """IP and port of every ready gateway pod, for each server of the Gateway that takes plain HTTP.

    A server's port is a port of the Service, which names the pods' port; or the pods' port itself, as with
    knative-local-gateway, whose Service has port 80 in front of 8081.
    """
    found = set()
    for server in gateway["spec"].get("servers") or []:
        number = server["port"]["number"]
        if server["port"]["protocol"].upper() not in ("HTTP", "HTTP2") or (server.get("tls") or {}).get("httpsRedirect"):
            continue
        names = [port.get("name") for port in service["spec"].get("ports") or [] if port["port"] == number]
        for subset in endpoints.get("subsets") or []:
            ports = [port["port"] for port in subset.get("ports") or [] if (port.get("name") in names if names else port["port"] == number)]
            found.update((address["ip"], port) for address in subset.get("addresses") or [] for port in ports)
    return sorted(found)


def verdict(status: int, answered: str | None, wanted: str) -> str:
    """What is wrong with a probe's answer: empty where nothing is, or where the answer tells nothing (a redirect, a login page…)."""
    if status in (404, 503):
        return f"{status}"
    if status == 200 and answered and answered != wanted:
        return f"with an older configuration ({answered[:8]}, not {wanted[:8]})"
    return ""


# ---- status


def is_ready(ingress: dict) -> bool:
    """Whether the present generation was found ready before: it is not probed again."""
    status = ingress.get("status") or {}
    return status.get("observedGeneration") == ingress["metadata"].get("generation") and any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in status.get("conditions") or []
    )


def status_of(ingress: dict, gateways: Gateways | None, now: str, waiting: str = "", error: str = "") -> dict:
    """The status of a KIngress.

    :param waiting: why the load balancer is not ready yet; empty: it is
    :param error: why nothing was configured at all
    """
    old = {condition["type"]: condition for condition in (ingress.get("status") or {}).get("conditions") or []}
    if error:
        wanted = {
            "LoadBalancerReady": ("Unknown", "Uninitialized", WAITING),
            "NetworkConfigured": ("False", "ReconcileVirtualServiceFailed", error),
            "Ready": ("False", "ReconcileVirtualServiceFailed", error),
        }
    elif waiting:
        text = f"{WAITING}: {waiting}"
        wanted = {
            "LoadBalancerReady": ("Unknown", "Uninitialized", text),
            "NetworkConfigured": ("True", "", ""),
            "Ready": ("Unknown", "Uninitialized", text),
        }
    else:
        wanted = dict.fromkeys(("LoadBalancerReady", "NetworkConfigured", "Ready"), ("True", "", ""))
    conditions = []
    for name, (state, reason, message) in sorted(wanted.items()):
        before = old.get(name) or {}
        condition = {
            "type": name,
            "status": state,
            "lastTransitionTime": before["lastTransitionTime"]
            if before.get("status") == state and before.get("lastTransitionTime")
            else now,
        }
        condition |= {key: value for key, value in (("reason", reason), ("message", message)) if value}
        conditions.append(condition)
    status = copy.deepcopy(ingress.get("status") or {})
    status |= {"observedGeneration": ingress["metadata"].get("generation", 0), "conditions": conditions}
    if gateways and not waiting and not error:
        for field, chosen in (("publicLoadBalancer", gateways.external), ("privateLoadBalancer", gateways.local)):
            status[field] = {"ingress": [{"domainInternal": gateway.service} for gateway in chosen]}
    return status
