"""For whom the tokens of Identity-Aware Proxy are, found out from what GKE and Compute Engine say."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.gcp import backends


def balanced(kind, value):
    return {"metadata": {"annotations": {backends.ANNOTATIONS[kind]: value}}}


def backend(name, number="1", iap=True, service="in/gateway"):
    description = {"kubernetes.io/service-name": service, "kubernetes.io/service-port": "80", "x-features": ["NEG"]}
    return {
        "name": name,
        "id": number,
        "description": json.dumps(description) if service else "",
        "iap": {"enabled": iap, "oauth2ClientId": "c"},
    }


def test_names_of_an_ingress():
    assert backends.names("Ingress", balanced("Ingress", '{"k8s1-a-in-gateway-80-b": "HEALTHY"}')) == ["k8s1-a-in-gateway-80-b"]


def test_names_of_a_gateway_are_those_of_its_routes():
    one, other = (f"/projects/1/global/backendServices/gkegw1-a-{name}" for name in ("in-gateway-80-b", "in-gw-serve404-80-c"))
    assert backends.names("Gateway", balanced("Gateway", f"{other}, {one}")) == ["gkegw1-a-in-gateway-80-b"]


@pytest.mark.parametrize(
    "kind, live, words",
    [
        ("Ingress", None, "there is no such Ingress"),
        ("Ingress", {"metadata": {}}, "GKE has not made its backend service"),
        ("Ingress", balanced("Ingress", "{}"), "GKE has not made its backend service"),
        ("Ingress", balanced("Ingress", "HEALTHY"), "is not JSON"),
        ("Gateway", {"metadata": {"annotations": None}}, "GKE has not made its backend service"),
    ],
)
def test_not_balanced_yet(kind, live, words):
    with pytest.raises(backends.NotYet, match=words):
        backends.names(kind, live)


def test_only_backend_services_of_the_gateway_that_are_protected_count():
    other = backend("b", "2", service="kube-system/default-http-backend")
    listed = [backend("a", "1"), other, backend("c", "3"), backend("d", "4", iap=False)]
    assert [each["id"] for each in backends.protected(["a", "b", "d"], listed, "in/gateway")] == ["1"]
    assert [each["id"] for each in backends.protected(["e"], [backend("e", "5", service="")], "in/gateway")] == ["5"]
    with pytest.raises(backends.NotYet, match="not switched on yet for d"):
        backends.protected(["d"], listed, "in/gateway")
    with pytest.raises(backends.NotYet, match="no backend service for in/gateway"):
        backends.protected(["b"], listed, "in/gateway")


def test_audience():
    assert backends.audience("123", backend("a", "456")) == "/projects/123/global/backendServices/456"
