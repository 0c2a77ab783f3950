# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The Kubernetes cluster that stands in for every GKE cluster: its address, tokens that it takes, and simulated GPUs on its node."""

from __future__ import annotations

import base64
import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rehearsal.errors import Refused

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, CoreV1Api

NAMESPACE, ACCOUNT = "rehearsal", "google"
GPU = "nvidia.com/gpu"
SIMULATED = "mlops.platform/simulated-gpu"  # label
LABELS = "mlops.platform/rehearsal-labels"  # annotation: names of the labels that are ours, and with that whether the GPUs are
SHORTEST = 600  # seconds, of a token by the API server
TIMEOUT = 10  # seconds


def reached(kubeconfig: str, context: str = "") -> dict[str, str]:
    """The cluster's address as GKE gives it (endpoint, without https://) and its CA (certificate, base64 of PEM). Refused if unreadable."""
    try:
        host, ca = _api(kubeconfig, context).configuration.host, _api(kubeconfig, context).configuration.ssl_ca_cert
        return {"endpoint": host.removeprefix("https://"), "certificate": base64.b64encode(Path(ca).read_bytes()).decode()}
    except OSError as error:
        _unusable(kubeconfig, context, error)


def token(kubeconfig: str, context: str, principal: str, seconds: int) -> str:
    """A token that the cluster takes for a cluster-admin; good for so many seconds, but for ten minutes at least."""
    from kubernetes import client

    core = _core(kubeconfig, context)
    asked = {"spec": {"expirationSeconds": max(int(seconds), SHORTEST)}}
    try:
        try:
            made = core.create_namespaced_service_account_token(ACCOUNT, NAMESPACE, asked, _request_timeout=TIMEOUT)
        except client.ApiException as error:
            if error.status != 404:
                raise
            _make_account(core.api_client)
            made = core.create_namespaced_service_account_token(ACCOUNT, NAMESPACE, asked, _request_timeout=TIMEOUT)
    except Exception as error:
        _unusable(kubeconfig, context, error)
    return made.status.token


def _make_account(api: ApiClient) -> None:
    from kubernetes import client

    core, rbac = client.CoreV1Api(api), client.RbacAuthorizationV1Api(api)
    name = f"{NAMESPACE}-{ACCOUNT}"
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
    }
    for create in (
        lambda: core.create_namespace({"metadata": {"name": NAMESPACE}}, _request_timeout=TIMEOUT),
        lambda: core.create_namespaced_service_account(NAMESPACE, {"metadata": {"name": ACCOUNT}}, _request_timeout=TIMEOUT),
        lambda: rbac.create_cluster_role_binding(binding, _request_timeout=TIMEOUT),
    ):
        try:
            create()
        except client.ApiException as error:
            if error.status != 409:  # made already
                raise


def advertise(kubeconfig: str, context: str, pools: list[dict]) -> None:
    """Makes the node look as if it had the GPUs of all these node pools (as GKE shows them); none: as it was before.

    A pool that is scaled to zero counts as one node if it may grow, since nobody scales it here. GPUs that somebody else put on the
    node are left alone.
    """
    try:
        core = _core(kubeconfig, context)
        node = _node(core)
        mine = json.loads((node.metadata.annotations or {}).get(LABELS, "[]"))
        labels, cards = _labels(pools), sum(_cards(pool) for pool in pools)
        if not mine and (not pools or (node.status.capacity or {}).get(GPU, "0") != "0"):
            return
        changed = {**{label: None for label in mine if label not in labels}, **labels}
        metadata = {"labels": changed, "annotations": {LABELS: json.dumps(sorted(labels)) if labels else None}}
        core.patch_node(node.metadata.name, {"metadata": metadata}, _request_timeout=TIMEOUT)
        amount = {GPU: str(cards) if cards else None}
        core.patch_node_status(node.metadata.name, {"status": {"capacity": amount, "allocatable": amount}}, _request_timeout=TIMEOUT)
    except Exception as error:
        _unusable(kubeconfig, context, error)


def _cards(pool: dict) -> int:
    """GPUs that pods can ask for, in all nodes of a pool; a shared one counts for each of its clients."""
    nodes = pool.get("initialNodeCount", 0) * len(pool["locations"])
    if not nodes and pool.get("autoscaling", {}).get("enabled"):
        nodes = 1
    accelerators = pool["config"]["accelerators"]
    each = sum(int(one["acceleratorCount"]) * int(one.get("gpuSharingConfig", {}).get("maxSharedClientsPerGpu", 1)) for one in accelerators)
    return nodes * each


def _labels(pools: list[dict]) -> dict[str, str]:
    """Labels of a GPU node in GKE. There is one node for all pools, so of different values the last pool's are seen."""
    labels: dict[str, str] = {}
    for pool in pools:
        config = pool["config"]
        accelerator = config["accelerators"][0]
        labels |= {
            **config.get("labels", {}),
            "cloud.google.com/gke-nodepool": pool["name"],
            "cloud.google.com/gke-accelerator": accelerator["acceleratorType"],
            SIMULATED: "true",
        }
        if config.get("spot"):
            labels["cloud.google.com/gke-spot"] = "true"
        if sharing := accelerator.get("gpuSharingConfig"):
            labels["cloud.google.com/gke-gpu-sharing-strategy"] = sharing["gpuSharingStrategy"].lower().replace("_", "-")
            labels["cloud.google.com/gke-max-shared-clients-per-gpu"] = sharing["maxSharedClientsPerGpu"]
    return labels


def _node(core: CoreV1Api):
    """The node that pods run on: the first one without a taint that keeps them off."""
    nodes = sorted(core.list_node(_request_timeout=TIMEOUT).items, key=lambda node: node.metadata.name)
    free = [node for node in nodes if not any(taint.effect in ("NoSchedule", "NoExecute") for taint in node.spec.taints or [])]
    return (free or nodes)[0]


def _core(kubeconfig: str, context: str) -> CoreV1Api:
    from kubernetes import client

    return client.CoreV1Api(_api(kubeconfig, context))


def _api(kubeconfig: str, context: str) -> ApiClient:
    try:
        return _client(kubeconfig, context, os.stat(kubeconfig).st_mtime_ns)
    except Exception as error:
        _unusable(kubeconfig, context, error)


@functools.lru_cache(maxsize=4)
def _client(kubeconfig: str, context: str, changed: int) -> ApiClient:
    """`changed`: when the file was; a recreated cluster has another certificate."""
    from kubernetes import config

    return config.new_client_from_config(kubeconfig, context or None)


def _unusable(kubeconfig: str, context: str, error: BaseException) -> NoReturn:
    if isinstance(error, Refused):
        raise error
    reason = getattr(error, "reason", "") or str(error)
    which = f"context {context} of {kubeconfig}" if context else kubeconfig
    raise Refused(503, "", f"The cluster that stands in for GKE's ({which}) cannot be used: {reason}") from error
