# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a gateway's Service can be reached from outside the cluster."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.mlops.platform.plugins.module_utils.diagnose import Snapshot, condition, label


class NoAddress(Exception):
    """The service has no address from outside. `final`: waiting does not change that."""

    def __init__(self, message: str, final: bool = False):
        super().__init__(message)
        self.final = final


@dataclass(frozen=True)
class Address:
    """Host and port of a gateway, and the URL they make."""

    address: str
    port: int
    scheme: str

    @property
    def url(self) -> str:
        """Without the port if it is the scheme's own."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.scheme}://{host}" + ("" if self.port == {"http": 80, "https": 443}[self.scheme] else f":{self.port}")


def find(cluster, namespace: str, name: str, port: str) -> Address:
    """The address of the service's port of that name (or number)."""
    snapshot = Snapshot(cluster)
    service = snapshot.get("v1", "Service", name, namespace)
    if service is None:
        raise NoAddress(f"Service {namespace}/{name} does not exist")
    spec = service["spec"]
    ports = spec.get("ports") or []
    found = next((p for p in ports if port in (p.get("name"), str(p["port"]))), None)
    if found is None:
        known = ", ".join(f"{p.get('name') or '-'} ({p['port']})" for p in ports) or "none"
        raise NoAddress(f"{label(service)} has no port {port!r}; its ports: {known}", final=True)
    scheme = "https" if found["port"] == 443 or (found.get("name") or "").startswith("https") else "http"
    if spec.get("type") == "LoadBalancer":
        ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        addresses = [i.get("ip") or i.get("hostname") for i in ingress]
        if not any(addresses):
            raise NoAddress(
                f"{label(service)} has no load balancer address. In a cluster without load balancers (kind) make its type NodePort"
            )
        return Address(next(a for a in addresses if a), found["port"], scheme)
    if spec.get("externalIPs"):
        return Address(spec["externalIPs"][0], found["port"], scheme)
    if spec.get("type") == "NodePort":
        return Address(_node(snapshot, service), found["nodePort"], scheme)
    raise NoAddress(f"{label(service)} is of type {spec.get('type')}: only NodePort and LoadBalancer have an address outside", final=True)


def _node(snapshot: Snapshot, service: dict) -> str:
    """The address of a node that answers on the service's node port."""
    nodes = [n for n in snapshot.list("v1", "Node") if condition(n, "Ready").get("status") == "True"]
    if service["spec"].get("externalTrafficPolicy") == "Local":  # only nodes that run one of its pods answer
        slices = snapshot.list("discovery.k8s.io/v1", "EndpointSlice", service["metadata"]["namespace"])
        ours = [s for s in slices if (s["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == service["metadata"]["name"]]
        homes = {e.get("nodeName") for s in ours for e in s.get("endpoints") or [] if (e.get("conditions") or {}).get("ready") is not False}
        nodes = [n for n in nodes if n["metadata"]["name"] in homes]
    for kind in ("ExternalIP", "InternalIP", "Hostname"):
        for node in nodes:
            for address in (node.get("status") or {}).get("addresses") or []:
                if address["type"] == kind:
                    return address["address"]
    raise NoAddress(f"no ready node has an address for the node port of {label(service)}")
