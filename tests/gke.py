"""What of GKE's load balancing the tests need: a stand-in for its controllers, and the resource types that only GKE has."""

from __future__ import annotations

import json
import threading
import urllib.request
import uuid

from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster, UnknownKind
from ansible_collections.mlops.platform.plugins.module_utils.gcp import backends

# BackendConfig's definition is in no file of Google's that can be had: the fields are those of its types (kubernetes/ingress-gce,
# pkg/apis/backendconfig/v1/types.go), as far as the role has to do with them.
INTEGER, TEXT = {"type": "integer"}, {"type": "string"}
BACKEND_CONFIG = {
    "timeoutSec": INTEGER,
    "healthCheck": {
        "type": "object",
        "properties": {
            **dict.fromkeys(("checkIntervalSec", "timeoutSec", "healthyThreshold", "unhealthyThreshold", "port"), INTEGER),
            **dict.fromkeys(("type", "requestPath"), TEXT),
        },
    },
    "iap": {
        "type": "object",
        "required": ["enabled"],
        "properties": {
            "enabled": {"type": "boolean"},
            "oauthclientCredentials": {
                "type": "object",
                "required": ["secretName"],
                "properties": dict.fromkeys(("secretName", "clientID", "clientSecret"), TEXT),
            },
        },
    },
}
MANAGED_CERTIFICATE = {"domains": {"type": "array", "maxItems": 100, "items": {"type": "string", "maxLength": 63}}}


def definition(group: str, kind: str, plural: str, spec: dict) -> dict:
    """A CustomResourceDefinition of version v1 whose spec has these fields."""
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": spec}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


BACKEND_CONFIGS = definition("cloud.google.com", "BackendConfig", "backendconfigs", BACKEND_CONFIG)
MANAGED_CERTIFICATES = definition("networking.gke.io", "ManagedCertificate", "managedcertificates", MANAGED_CERTIFICATE)
# What says of a load balancer that Identity-Aware Proxy is to be switched on, where in it, and which Secret has the OAuth client
IAP = {
    "Ingress": ("cloud.google.com/v1", "BackendConfig", "iap-backendconfig", (), "oauthclientCredentials", "secretName"),
    "Gateway": ("networking.gke.io/v1", "GCPBackendPolicy", "kubeflow", ("default",), "oauth2ClientSecret", "name"),
}


class LoadBalancers(threading.Thread):
    """Stands in for GKE's controllers of Ingresses and Gateways: a backend service in a rehearsal of Google Cloud for each, and the
    annotation that names it. As GKE does, it makes none as long as the Secret with the OAuth client is missing.
    """

    def __init__(self, kubeconfig: str, endpoint: str, project: str, service: str):
        super().__init__(daemon=True)
        self.cluster, self.endpoint, self.project, self.service = Cluster(kubeconfig), endpoint, project, service
        self.made: dict[tuple, str] = {}
        self.ids: dict[str, str] = {}
        self.ended, self.error = threading.Event(), None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join(30)
        assert self.error is None, self.error

    def run(self):
        try:
            while not self.ended.wait(0.3):
                self.reconcile()
        except Exception as error:
            self.error = error

    def reconcile(self):
        found = {}
        for kind, version in backends.VERSIONS.items():
            try:
                listed = self.cluster.list(version, kind)
            except UnknownKind:
                continue
            found |= {(kind, live["metadata"]["namespace"], live["metadata"]["name"], live["metadata"]["uid"]): live for live in listed}
        for key in set(self.made) - set(found):
            self.tell(self.made.pop(key), None)
        for key in set(found) - set(self.made):
            self.make(key)

    def make(self, key: tuple):
        kind, namespace, name, _ = key
        version, policy, named, within, credentials, field = IAP[kind]
        wanted = self.cluster.get(version, policy, named, namespace)
        if wanted is None:
            return
        spec = wanted["spec"]
        for part in (*within, "iap"):
            spec = spec[part]
        secret = spec.get(credentials, {}).get(field)
        if secret and self.cluster.get("v1", "Secret", secret, namespace) is None:
            return
        backend = f"{'k8s1' if kind == 'Ingress' else 'gkegw1'}-{uuid.uuid4().hex[:8]}-{namespace}-{self.service}-80"
        self.ids[backend] = str(uuid.uuid4().int % 10**18 + 10**18)
        described = {"kubernetes.io/service-name": f"{namespace}/{self.service}"} if kind == "Ingress" else {}
        self.tell(
            backend,
            {
                "kind": "compute#backendService",
                "name": backend,
                "id": self.ids[backend],
                "description": json.dumps(described),
                "iap": {"enabled": spec["enabled"]},
            },
        )
        value = json.dumps({backend: "HEALTHY"}) if kind == "Ingress" else f"/projects/1/global/backendServices/{backend}"
        path = self.cluster.resource(backends.VERSIONS[kind], kind).path(namespace, name)
        change = {"metadata": {"annotations": {backends.ANNOTATIONS[kind]: value}}}
        self.cluster.request("PATCH", path, {"fieldManager": "glbc"}, change, "application/merge-patch+json")
        self.made[key] = backend

    def tell(self, name: str, backend: dict | None):
        """Let the rehearsal have the backend service, or not any more."""
        change = {"projects": {self.project: {"compute": {"backendServices": {name: backend}}}}}
        request = urllib.request.Request(f"{self.endpoint}/rehearsal/state", json.dumps(change).encode(), method="PATCH")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30):
            pass
