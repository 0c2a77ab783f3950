# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The backend services that GKE makes for an Ingress or a Gateway, and for whom the tokens of Identity-Aware Proxy are, which follows."""

from __future__ import annotations

import json

# Where GKE's controllers write which backend services they made
ANNOTATIONS = {"Ingress": "ingress.kubernetes.io/backends", "Gateway": "networking.gke.io/backend-services"}
VERSIONS = {"Ingress": "networking.k8s.io/v1", "Gateway": "gateway.networking.k8s.io/v1"}
# What answers for a Gateway where no route does
UNROUTED = "-gw-serve"


class NotYet(Exception):
    """The audience is not known yet. The message says what is awaited."""


def names(kind: str, live: dict | None) -> list[str]:
    """The names of the backend services of an Ingress or a Gateway. NotYet as long as there are none."""
    if live is None:
        raise NotYet(f"there is no such {kind}")
    annotation = ANNOTATIONS[kind]
    text = (live["metadata"].get("annotations") or {}).get(annotation) or ""
    try:
        found = list(json.loads(text or "{}")) if kind == "Ingress" else [part.strip().rpartition("/")[2] for part in text.split(",")]
    except ValueError:
        raise NotYet(f"its annotation {annotation} is not JSON: {text!r}") from None
    found = [name for name in found if name and UNROUTED not in name]
    if not found:
        raise NotYet(f"GKE has not made its backend service (the annotation {annotation})")
    return found


def protected(named: list[str], listed: list[dict], service: str) -> list[dict]:
    """The backend services of these names that stand for the Kubernetes service `namespace/name` and that IAP is switched on for.

    Of an Ingress GKE writes the service into the description; one that has a default backend of GKE's as well is told apart by it.
    """
    mine = [each for each in listed if each["name"] in named and _service(each) in ("", service)]
    if not mine:
        raise NotYet(f"Compute Engine has no backend service for {service} yet")
    found = [each for each in mine if (each.get("iap") or {}).get("enabled")]
    if not found:
        raise NotYet(f"Identity-Aware Proxy is not switched on yet for {', '.join(each['name'] for each in mine)}")
    return found


def _service(backend: dict) -> str:
    try:
        described = json.loads(backend.get("description") or "{}")
    except ValueError:
        return ""
    return str(described.get("kubernetes.io/service-name", "")) if isinstance(described, dict) else ""


def audience(number: str, backend: dict) -> str:
    """Whom a token is for that IAP makes for a backend service."""
    return f"/projects/{number}/global/backendServices/{backend['id']}"
