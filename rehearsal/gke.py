# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What GKE makes of a cluster or node pool that it is asked for: defaults, checks, updates, and the resource that it shows."""

from __future__ import annotations

import base64
import copy
import ipaddress
import re
from datetime import UTC, datetime, timedelta

from rehearsal import errors, locations, shapes
from rehearsal.call import now

CHANNELS = {  # newest first; the first one is the default of the channel
    "RAPID": ("1.36.1-gke.1456000", "1.36.0-gke.2121000", "1.35.4-gke.1188000"),
    "REGULAR": ("1.35.3-gke.1389000", "1.35.2-gke.1269000", "1.34.6-gke.1154000", "1.34.4-gke.1047000"),
    "STABLE": ("1.34.4-gke.1047000", "1.34.3-gke.1093000", "1.33.9-gke.1117000"),
    "EXTENDED": ("1.35.3-gke.1389000", "1.34.4-gke.1047000", "1.33.9-gke.1117000", "1.32.12-gke.1026000"),
}
IMAGE_TYPES = ("COS_CONTAINERD", "UBUNTU_CONTAINERD", "WINDOWS_LTSC_CONTAINERD")
NODE_SCOPES = [
    f"https://www.googleapis.com/auth/{scope}"
    for scope in (
        "devstorage.read_only", "logging.write", "monitoring", "service.management.readonly", "servicecontrol", "trace.append"
    )
]  # fmt: skip
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NO_SCHEDULE"}

# Fields whose default value GKE writes back, because there it tells "unset" from "off".
PRESENT = frozenset(
    (
        "DNSEndpointConfig.allowExternalTraffic", "DNSEndpointConfig.enableK8sTokensViaDns", "DNSEndpointConfig.enableK8sCertsViaDns",
        "IPEndpointsConfig.enabled", "IPEndpointsConfig.enablePublicEndpoint", "IPEndpointsConfig.globalAccess",
        "MasterAuthorizedNetworksConfig.gcpPublicCidrsAccessEnabled", "NetworkConfig.defaultEnablePrivateNodes",
        "NodeNetworkConfig.enablePrivateNodes", "NodeKubeletConfig.insecureKubeletReadonlyPortEnabled",
        "RBACBindingConfig.enableInsecureBindingSystemAuthenticated", "RBACBindingConfig.enableInsecureBindingSystemUnauthenticated",
    )
)  # fmt: skip

_NAME = r"(?:[a-z](?:[-a-z0-9]{0,38}[a-z0-9])?)"
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}\Z")


def read(schema: str, value: dict) -> dict:
    """A body as GKE reads it."""
    return shapes.read("container", schema, value, PRESENT)


# ---- versions


def versions() -> list[str]:
    """Every version that a control plane may have, newest first."""
    return sorted({version for channel in CHANNELS.values() for version in channel}, key=_order, reverse=True)


def server_config() -> dict:
    """The answer of getServerConfig."""
    return {
        "defaultClusterVersion": CHANNELS["REGULAR"][0],
        "defaultImageType": IMAGE_TYPES[0],
        "validImageTypes": list(IMAGE_TYPES),
        "validMasterVersions": versions(),
        "validNodeVersions": versions(),
        "channels": [
            {"channel": channel, "defaultVersion": offered[0], "upgradeTargetVersion": offered[0], "validVersions": list(offered)}
            for channel, offered in CHANNELS.items()
        ],
    }


def _order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _version(wanted: str, channel: str, what: str = "Master") -> str:
    """The version that a request means: itself, `latest`, `-` or nothing for the default, a beginning as 1.34."""
    offered = CHANNELS.get(channel, tuple(versions()))
    if wanted in ("", "-"):
        return CHANNELS.get(channel, CHANNELS["REGULAR"])[0]
    if wanted == "latest":
        return max(offered, key=_order)
    for version in sorted(offered, key=_order, reverse=True):
        if version == wanted or version.startswith((f"{wanted}.", f"{wanted}-")):
            return version
    where = f" for channel {channel}" if channel in CHANNELS else ""
    raise errors.invalid(f'{what} version "{wanted}" is unsupported{where}.')


# ---- clusters


def new_cluster(project: dict, location: str, body: dict) -> dict:
    """The cluster that is stored for a request's `cluster`; its node pools are a dict by name. Refuses what GKE refuses."""
    cluster = read("Cluster", body)
    name = cluster.get("name", "")
    if not re.fullmatch(_NAME, name):
        raise errors.invalid(f'Invalid value for field "cluster.name": "{name}". Must be a match of regex \'{_NAME}\'.')
    if not locations.zones_of(location):
        raise errors.invalid(f'Location "{location}" does not exist.')
    zones = cluster.get("locations") or list(locations.zones_of(location)[:3])
    _check_zones(zones, location)
    cluster["locations"] = zones
    _check_networking(project, cluster, location)
    _check_identity(project, cluster)
    check_labels(cluster.get("resourceLabels", {}))
    check_autoscaling(cluster.get("autoscaling", {}))
    pools = cluster.pop("nodePools", [])
    autopilot = cluster.get("autopilot", {}).get("enabled", False)
    if pools and (cluster.get("nodeConfig") or cluster.get("initialNodeCount")):
        raise errors.invalid("Cluster.initial_node_count and Cluster.node_config must not be set when Cluster.node_pools is specified.")
    if not pools and not autopilot:
        if not cluster.get("initialNodeCount"):
            raise errors.invalid("Cluster.initial_node_count must be greater than zero.")
        pools = [{"name": "default-pool", "initialNodeCount": cluster.pop("initialNodeCount"), "config": cluster.pop("nodeConfig", {})}]
    channel = cluster.setdefault("releaseChannel", {"channel": "REGULAR"}).get("channel", "")
    cluster["initialClusterVersion"] = _version(cluster.get("initialClusterVersion", ""), channel)
    cluster = shapes.merged(_cluster_defaults(project, cluster, location), cluster)
    cluster.update(
        currentMasterVersion=cluster["initialClusterVersion"],
        createTime=now(),
        id=shapes.digest([project["projectId"], location, name, now()]).hex(),
        location=location,
        zone=location,
        status="PROVISIONING",
        nodePools={},
    )
    for pool in pools:
        if pool.get("name") in cluster["nodePools"]:
            raise errors.invalid(f'Node pool name "{pool["name"]}" is not unique.')
        cluster["nodePools"][pool.get("name", "")] = new_pool(project, cluster, pool, others=pools)
    return cluster


def _check_zones(zones: list[str], location: str) -> None:
    for zone in zones:
        if zone not in locations.zones_of(locations.region_of(location)):
            region = locations.region_of(location)
            raise errors.invalid(f'Location "{zone}" is not in region "{region}".' if region else f'Location "{zone}" does not exist.')
    if location.count("-") > 1 and location not in zones:
        raise errors.invalid(f'Cluster locations must contain the primary zone "{location}".')


def _check_networking(project: dict, cluster: dict, location: str) -> None:
    from rehearsal.services import compute  # at call time: it imports this module for what the clusters use of its quotas

    network = cluster.get("network", "default").rpartition("/")[2]
    found = compute.networks(project).get(network)
    if found is None:
        raise errors.invalid(f'Project "{project["projectId"]}" has no network named "{network}".')
    subnetwork = cluster.get("subnetwork", "").rpartition("/")[2]
    if not subnetwork and not found.get("autoCreateSubnetworks") and not cluster.get("ipAllocationPolicy", {}).get("createSubnetwork"):
        raise errors.invalid(f'Network "{network}" requires specification of subnet.')
    region = locations.region_of(location)
    if subnetwork and f"{region}/{subnetwork}" not in compute.subnetworks(project):
        raise errors.invalid(f'Subnetwork "projects/{project["projectId"]}/regions/{region}/subnetworks/{subnetwork}" was not found.')
    private = cluster.get("privateClusterConfig", {})
    block = private.get("masterIpv4CidrBlock", "")
    if block:
        try:
            right = ipaddress.ip_network(block).prefixlen == 28
        except ValueError:
            right = False
        if not right:
            raise errors.invalid(
                f'Invalid value for field "cluster.private_cluster_config.master_ipv4_cidr_block": "{block}". It must be a /28.'
            )
    if private.get("enablePrivateEndpoint") and not private.get("enablePrivateNodes"):
        raise errors.invalid("Private endpoint can only be enabled when private nodes are enabled.")
    policy = cluster.get("ipAllocationPolicy", {})
    if policy.get("useRoutes") and (private.get("enablePrivateNodes") or policy.get("useIpAliases")):
        raise errors.invalid("Private nodes and alias IPs need a VPC-native cluster: ip_allocation_policy.use_routes must be false.")


def _check_identity(project: dict, cluster: dict) -> None:
    pool, wanted = f"{project['projectId']}.svc.id.goog", cluster.get("workloadIdentityConfig", {}).get("workloadPool", "")
    if wanted and wanted != pool:
        raise errors.invalid(f'Currently, the only supported workload pool is the project\'s default "{pool}".')


def check_labels(labels: dict) -> None:
    """Refuses resource labels that Google Cloud does not take."""
    for key, value in labels.items():
        if not _LABEL_KEY.match(key) or not _LABEL_VALUE.match(value):
            raise errors.invalid(
                f'Invalid resource label "{key}": "{value}". Keys and values may hold lowercase letters, digits, _ and -, at most 63 '
                "characters; keys begin with a letter."
            )
    if len(labels) > 64:
        raise errors.invalid("A cluster cannot have more than 64 resource labels.")


def check_autoscaling(autoscaling: dict) -> None:
    """Refuses node auto-provisioning without limits for cpu and memory, and limits that contradict themselves."""
    limits = {limit.get("resourceType", ""): limit for limit in autoscaling.get("resourceLimits", [])}
    if autoscaling.get("enableNodeAutoprovisioning") and not {"cpu", "memory"} <= set(limits):
        raise errors.invalid("Both cpu and memory resource limits must be specified when node autoprovisioning is enabled.")
    for kind, limit in limits.items():
        if kind not in ("cpu", "memory") and not re.fullmatch(r"(nvidia|tpu)-[a-z0-9-]+", kind):
            raise errors.invalid(f'Unsupported resource type "{kind}" in cluster.autoscaling.resource_limits.')
        if int(limit.get("minimum", 0)) > int(limit.get("maximum", 0)):
            raise errors.invalid(f'The minimum of resource limit "{kind}" must not be greater than its maximum.')


def _cluster_defaults(project: dict, cluster: dict, location: str) -> dict:
    identity, name = project["projectId"], cluster["name"]
    network = cluster.get("network", "default").rpartition("/")[2]
    subnetwork = cluster.get("subnetwork", "default").rpartition("/")[2]
    number = shapes.digest([identity, location, name])
    pods, services = f"10.{100 + number[0] % 25 * 4}.0.0/14", "34.118.224.0/20"
    policy = cluster.get("ipAllocationPolicy", {})
    pods, services = policy.get("clusterIpv4CidrBlock", pods), policy.get("servicesIpv4CidrBlock", services)
    cluster.update(network=network, subnetwork=subnetwork)
    private = cluster.get("privateClusterConfig", {})
    public = not private.get("enablePrivateEndpoint", False)
    public_address, private_address = (
        f"34.{number[1] % 60 + 64}.{number[2]}.{number[3] % 250 + 2}",
        f"10.128.{number[4]}.{number[5] % 250 + 2}",
    )
    allowed = cluster.get("masterAuthorizedNetworksConfig", {})
    return {
        "addonsConfig": {
            "gcePersistentDiskCsiDriverConfig": {"enabled": True},
            "kubernetesDashboard": {"disabled": True},
            "networkPolicyConfig": {"disabled": True},
        },
        "anonymousAuthenticationConfig": {"mode": "ENABLED"},
        "autopilot": {},
        "autoscaling": {
            "autoprovisioningNodePoolDefaults": {
                "imageType": "COS_CONTAINERD",
                "management": {"autoRepair": True, "autoUpgrade": True},
                "oauthScopes": NODE_SCOPES,
                "serviceAccount": "default",
            },
            "autoscalingProfile": "BALANCED",
        },
        "clusterIpv4Cidr": pods,
        "controlPlaneEndpointsConfig": {
            "dnsEndpointConfig": {
                "allowExternalTraffic": False,
                "endpoint": f"gke-{number.hex()[:12]}-{project['projectNumber']}.{location}.gke.goog",
            },
            "ipEndpointsConfig": {
                "authorizedNetworksConfig": {"gcpPublicCidrsAccessEnabled": True, **allowed},
                "enablePublicEndpoint": public,
                "enabled": True,
                "globalAccess": private.get("masterGlobalAccessConfig", {}).get("enabled", False),
                "privateEndpoint": private_address,
                **({"publicEndpoint": public_address} if public else {}),
            },
        },
        "databaseEncryption": {"currentState": "CURRENT_STATE_DECRYPTED", "state": "DECRYPTED"},
        "defaultMaxPodsConstraint": {"maxPodsPerNode": "110"},
        "endpoint": public_address if public else private_address,
        "enterpriseConfig": {"clusterTier": "STANDARD"},
        "ipAllocationPolicy": {
            "clusterIpv4Cidr": pods,
            "clusterIpv4CidrBlock": pods,
            "podCidrOverprovisionConfig": {},
            "servicesIpv4Cidr": services,
            "servicesIpv4CidrBlock": services,
            "stackType": "IPV4",
            **({} if policy.get("useRoutes") else {"useIpAliases": True}),
        },
        "legacyAbac": {},
        "loggingConfig": {"componentConfig": {"enableComponents": ["SYSTEM_COMPONENTS", "WORKLOADS"]}},
        "loggingService": "logging.googleapis.com/kubernetes",
        "maintenancePolicy": {"resourceVersion": "e3b0c442"},
        "masterAuth": {"clientCertificateConfig": {}, "clusterCaCertificate": _certificate(name)},
        "masterAuthorizedNetworksConfig": {"gcpPublicCidrsAccessEnabled": True},
        "monitoringConfig": {
            "advancedDatapathObservabilityConfig": {},
            "componentConfig": {
                "enableComponents": [
                    "SYSTEM_COMPONENTS", "DAEMONSET", "DEPLOYMENT", "STATEFULSET", "STORAGE", "HPA", "POD", "CADVISOR", "KUBELET", "DCGM",
                    "JOBSET",
                ]
            },
            "managedPrometheusConfig": {"enabled": True},
        },
        "monitoringService": "monitoring.googleapis.com/kubernetes",
        "networkConfig": {
            "network": f"projects/{identity}/global/networks/{network}",
            "subnetwork": f"projects/{identity}/regions/{locations.region_of(location)}/subnetworks/{subnetwork}",
            "serviceExternalIpsConfig": {},
            **({"defaultEnablePrivateNodes": True} if private.get("enablePrivateNodes") else {}),
        },
        "nodePoolAutoConfig": {"nodeKubeletConfig": {"insecureKubeletReadonlyPortEnabled": False}},
        "nodePoolDefaults": {
            "nodeConfigDefaults": {
                "loggingConfig": {"variantConfig": {"variant": "DEFAULT"}},
                "nodeKubeletConfig": {"insecureKubeletReadonlyPortEnabled": False},
            }
        },
        "notificationConfig": {"pubsub": {}},
        "podAutoscaling": {"hpaProfile": "PERFORMANCE"},
        "privateClusterConfig": {"privateEndpoint": private_address, **({"publicEndpoint": public_address} if public else {})},
        "rbacBindingConfig": {
            "enableInsecureBindingSystemAuthenticated": True,
            "enableInsecureBindingSystemUnauthenticated": True,
        },
        "securityPostureConfig": {"mode": "BASIC", "vulnerabilityMode": "VULNERABILITY_MODE_UNSPECIFIED"},
        "servicesIpv4Cidr": services,
        "shieldedNodes": {"enabled": True},
        "userManagedKeysConfig": {},
    }  # fmt: skip


def _certificate(name: str) -> str:
    """A CA certificate, as clusters have one each; nobody has its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name} (rehearsal)")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC))
        .not_valid_after(datetime.now(UTC) + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.PEM)).decode()


def running(project: dict, cluster: dict) -> None:
    """Marks a cluster as made; the project's identity pool comes with the first one that has workload identity."""
    cluster["status"] = "RUNNING"
    if cluster.get("workloadIdentityConfig", {}).get("workloadPool"):
        project["identityPool"] = True


def shown_cluster(project: dict, cluster: dict, reached: dict | None = None) -> dict:
    """The resource, as clusters.get answers it. `reached`: endpoint and certificate of the cluster that stands in for it, if one does."""
    shown = copy.deepcopy(cluster)
    pools = [shown_pool(project, cluster, pool) for pool in cluster["nodePools"].values()]
    running = cluster["status"] != "PROVISIONING"
    if not running:
        for key in ("endpoint", "masterAuth", "privateClusterConfig"):
            shown.pop(key, None)
    elif reached:
        shown["endpoint"] = reached["endpoint"]
        shown["masterAuth"]["clusterCaCertificate"] = reached["certificate"]
    shown["nodePools"] = pools
    standing = (pool for pool in cluster["nodePools"].values() if pool["status"] not in ("ERROR", "PROVISIONING"))
    shown["currentNodeCount"] = sum(map(node_count, standing))
    shown["currentNodeVersion"] = min((pool["version"] for pool in cluster["nodePools"].values()), key=_order, default="")
    shown["labelFingerprint"] = label_fingerprint(cluster)
    shown["instanceGroupUrls"] = [url for pool in pools for url in pool.get("instanceGroupUrls", [])]
    shown["selfLink"] = f"https://container.googleapis.com/v1/{self_path(project, cluster)}"
    if len(pools) and pools[0]["name"] == "default-pool":
        shown["nodeConfig"] = pools[0]["config"]
        shown["initialNodeCount"] = cluster["nodePools"]["default-pool"].get("initialNodeCount", 0)
    for key in ("currentNodeCount", "currentNodeVersion", "instanceGroupUrls", "nodePools", "initialNodeCount", "resourceLabels"):
        if not shown.get(key):
            shown.pop(key, None)
    shown["etag"] = cluster_etag(cluster)
    return shown


def cluster_etag(cluster: dict) -> str:
    """The etag of a cluster: changes with any of its own fields, not with its node pools."""
    return shapes.etag({key: value for key, value in cluster.items() if key not in ("nodePools", "status", "statusMessage", "conditions")})


def label_fingerprint(cluster: dict) -> str:
    """Fingerprint of the resource labels, which setResourceLabels wants to see."""
    return shapes.digest(cluster.get("resourceLabels", {})).hex()[:8]


def self_path(project: dict, cluster: dict) -> str:
    """projects/p/zones/z/clusters/c, or locations for a regional cluster, as GKE writes links."""
    kind = "zones" if cluster["location"].count("-") > 1 else "locations"
    return f"projects/{project['projectId']}/{kind}/{cluster['location']}/clusters/{cluster['name']}"


# ---- updates of clusters

_TOGETHER = (  # fields of ClusterUpdate that belong to one update
    {"desiredNodePoolId", "desiredNodeVersion"},
    {"desiredNodePoolId", "desiredNodePoolAutoscaling"},
    {"desiredNodePoolId", "desiredImageType", "desiredImage", "desiredImageProject"},
    {"desiredLoggingService", "desiredMonitoringService"},
    {"desiredLoggingConfig", "desiredMonitoringConfig"},
)
_NETWORK = {  # where a field of ClusterUpdate lands in networkConfig, and the field of it that holds the value
    "desiredDefaultEnablePrivateNodes": ("defaultEnablePrivateNodes", ""),
    "desiredDefaultSnatStatus": ("defaultSnatStatus", ""),
    "desiredDnsConfig": ("dnsConfig", ""),
    "desiredDisableL4LbFirewallReconciliation": ("disableL4LbFirewallReconciliation", ""),
    "desiredEnableCiliumClusterwideNetworkPolicy": ("enableCiliumClusterwideNetworkPolicy", ""),
    "desiredEnableFqdnNetworkPolicy": ("enableFqdnNetworkPolicy", ""),
    "desiredEnableMultiNetworking": ("enableMultiNetworking", ""),
    "desiredGatewayApiConfig": ("gatewayApiConfig", ""),
    "desiredInTransitEncryptionConfig": ("inTransitEncryptionConfig", ""),
    "desiredIntraNodeVisibilityConfig": ("enableIntraNodeVisibility", "enabled"),
    "desiredL4ilbSubsettingConfig": ("enableL4ilbSubsetting", "enabled"),
    "desiredNetworkPerformanceConfig": ("networkPerformanceConfig", ""),
    "desiredPrivateIpv6GoogleAccess": ("privateIpv6GoogleAccess", ""),
    "desiredServiceExternalIpsConfig": ("serviceExternalIpsConfig", ""),
}
_REPLACED = frozenset(  # fields of ClusterUpdate that replace the cluster's field of that name
    (
        "AnonymousAuthenticationConfig", "AuthenticatorGroupsConfig", "BinaryAuthorization", "CostManagementConfig", "DatabaseEncryption",
        "Fleet", "IdentityServiceConfig", "LoggingConfig", "LoggingService", "MeshCertificates", "MonitoringConfig", "MonitoringService",
        "NotificationConfig", "PodAutoscaling", "RbacBindingConfig", "ResourceUsageExportConfig", "SecretManagerConfig",
        "SecurityPostureConfig", "ShieldedNodes", "VerticalPodAutoscaling",
    )
)  # fmt: skip


def updated_cluster(project: dict, cluster: dict, sent: dict) -> dict:
    """A copy of the cluster after clusters.update with this `update`. Refuses what GKE refuses."""
    update = {key: value for key, value in sent.items() if value is not None}
    if update.pop("etag", cluster_etag(cluster)) != cluster_etag(cluster):
        raise errors.aborted("The cluster etag does not match the current one: the cluster was changed since it was read.")
    if not update:
        raise errors.invalid("Must specify a field to update.")
    if len(update) > 1 and not any(set(update) <= together for together in _TOGETHER):
        raise errors.invalid(f"Exactly one update can be applied to a cluster with each request; this one has {', '.join(sorted(update))}.")
    values = read("ClusterUpdate", update)
    result = copy.deepcopy(cluster)
    pool = update.get("desiredNodePoolId", "")
    for field in update:
        if field != "desiredNodePoolId":
            # `false` is a value here, though GKE would not write it back
            _update_field(project, result, field, values.get(field, update[field]), pool)
    return result


def _update_field(project: dict, cluster: dict, field: str, value: object, pool: str) -> None:
    name = field.removeprefix("desired")
    if field in _NETWORK:
        key, inner = _NETWORK[field]
        found = value.get(inner, False) if inner else value
        cluster["networkConfig"][key] = found
        if found is False and f"NetworkConfig.{key}" not in PRESENT:
            del cluster["networkConfig"][key]
    elif name in _REPLACED:
        cluster[name[0].lower() + name[1:]] = value
    elif field in _SPECIAL:
        _SPECIAL[field](project, cluster, value, pool)
    else:
        raise errors.Refused(501, "", f"The rehearsal does not know how GKE applies the update of {field}.")


def _update_autoscaling(project: dict, cluster: dict, value: dict, pool: str) -> None:
    check_autoscaling(value)
    defaults = _cluster_defaults(project, dict(cluster), cluster["location"])["autoscaling"]
    given = value.get("autoprovisioningNodePoolDefaults") or cluster["autoscaling"].get("autoprovisioningNodePoolDefaults", {})
    cluster["autoscaling"] = shapes.merged(defaults, {**value, "autoprovisioningNodePoolDefaults": given})


def _update_channel(project: dict, cluster: dict, value: dict, pool: str) -> None:
    if value.get("channel") in CHANNELS:
        for each in cluster["nodePools"].values():
            _check_management(cluster | {"releaseChannel": value}, each.get("management", {}))
    cluster["releaseChannel"] = value


def _update_workload_identity(project: dict, cluster: dict, value: dict, pool: str) -> None:
    _check_identity(project, {"workloadIdentityConfig": value})
    if value:
        cluster["workloadIdentityConfig"] = value
    else:
        cluster.pop("workloadIdentityConfig", None)


def _update_addons(project: dict, cluster: dict, value: dict, pool: str) -> None:
    cluster["addonsConfig"] = {**cluster["addonsConfig"], **value}


def _update_networks(project: dict, cluster: dict, value: dict, pool: str) -> None:
    allowed = {"gcpPublicCidrsAccessEnabled": True, **value}
    cluster["masterAuthorizedNetworksConfig"] = allowed
    cluster["controlPlaneEndpointsConfig"]["ipEndpointsConfig"]["authorizedNetworksConfig"] = copy.deepcopy(allowed)


def _update_endpoints(project: dict, cluster: dict, value: dict, pool: str) -> None:
    cluster["controlPlaneEndpointsConfig"] = shapes.merged(cluster["controlPlaneEndpointsConfig"], value)
    ip = value.get("ipEndpointsConfig", {})
    if "authorizedNetworksConfig" in ip:
        _update_networks(project, cluster, ip["authorizedNetworksConfig"], pool)
    if "enablePublicEndpoint" in ip:
        _update_private_endpoint(project, cluster, not ip["enablePublicEndpoint"], pool)


def _update_private_endpoint(project: dict, cluster: dict, value: bool, pool: str) -> None:
    if value:
        cluster["privateClusterConfig"]["enablePrivateEndpoint"] = True
    else:
        cluster["privateClusterConfig"].pop("enablePrivateEndpoint", None)
    cluster["controlPlaneEndpointsConfig"]["ipEndpointsConfig"]["enablePublicEndpoint"] = not value
    private = cluster["privateClusterConfig"]
    cluster["endpoint"] = private["privateEndpoint"] if value else private.get("publicEndpoint", cluster["endpoint"])


def _update_private_cluster(project: dict, cluster: dict, value: dict, pool: str) -> None:
    if set(value) - {"masterGlobalAccessConfig"}:
        raise errors.invalid("Only master_global_access_config can be changed in private_cluster_config.")
    cluster["privateClusterConfig"]["masterGlobalAccessConfig"] = value.get("masterGlobalAccessConfig", {})


def _update_locations(project: dict, cluster: dict, value: list, pool: str) -> None:
    _check_zones(value, cluster["location"])
    cluster["locations"] = value


def _update_master(project: dict, cluster: dict, value: str, pool: str) -> None:
    version = _version(value, cluster["releaseChannel"].get("channel", ""))
    if _order(version)[:2] < _order(cluster["currentMasterVersion"])[:2]:
        raise errors.invalid(f'Master cannot be downgraded from "{cluster["currentMasterVersion"]}" to "{version}".')
    if _order(version)[1] > _order(cluster["currentMasterVersion"])[1] + 1:
        raise errors.invalid(
            f'Master cannot be upgraded to "{version}": cannot upgrade the control plane more than a minor version at a time.'
        )
    cluster["currentMasterVersion"] = version


def _update_nodes(project: dict, cluster: dict, value: str, pool: str) -> None:
    found = _pool_of(cluster, pool)
    found["version"] = _node_version(cluster, value)


def _update_image(project: dict, cluster: dict, value: str, pool: str) -> None:
    _pool_of(cluster, pool)["config"]["imageType"] = _image(value)


def _update_pool_autoscaling(project: dict, cluster: dict, value: dict, pool: str) -> None:
    _pool_of(cluster, pool)["autoscaling"] = checked_pool_autoscaling(value)


def _update_datapath(project: dict, cluster: dict, value: str, pool: str) -> None:
    raise errors.invalid("Changing the datapath provider of an existing cluster is not supported.")


_SPECIAL = {
    "desiredAddonsConfig": _update_addons,
    "desiredClusterAutoscaling": _update_autoscaling,
    "desiredControlPlaneEndpointsConfig": _update_endpoints,
    "desiredDatapathProvider": _update_datapath,
    "desiredEnablePrivateEndpoint": _update_private_endpoint,
    "desiredImageType": _update_image,
    "desiredLocations": _update_locations,
    "desiredMasterAuthorizedNetworksConfig": _update_networks,
    "desiredMasterVersion": _update_master,
    "desiredNodePoolAutoscaling": _update_pool_autoscaling,
    "desiredNodeVersion": _update_nodes,
    "desiredPrivateClusterConfig": _update_private_cluster,
    "desiredReleaseChannel": _update_channel,
    "desiredWorkloadIdentityConfig": _update_workload_identity,
}


def _pool_of(cluster: dict, name: str) -> dict:
    if not name and len(cluster["nodePools"]) == 1:
        return next(iter(cluster["nodePools"].values()))
    if not name:
        raise errors.invalid("desired_node_pool_id must be specified: the cluster has more than one node pool.")
    if name not in cluster["nodePools"]:
        raise errors.Refused(404, "", f'Node pool "{name}" not found.')
    return cluster["nodePools"][name]


# ---- node pools


def new_pool(project: dict, cluster: dict, body: dict, others: list[dict] | None = None) -> dict:
    """The node pool that is stored for a request's `nodePool`. `others`: the pools made with it, in clusters.create."""
    pool = read("NodePool", body)
    name = pool.get("name", "")
    if not re.fullmatch(_NAME, name):
        raise errors.invalid(f'Invalid value for field "node_pool.name": "{name}". Must be a match of regex \'{_NAME}\'.')
    pool["locations"] = pool.get("locations") or list(cluster["locations"])
    for zone in pool["locations"]:
        if zone not in locations.zones_of(locations.region_of(cluster["location"])):
            raise errors.invalid(f'Location "{zone}" is not in region "{locations.region_of(cluster["location"])}".')
    config = pool.setdefault("config", {})
    _check_machine(config, pool["locations"])
    _check_disk(config)
    _check_service_account(project, config.get("serviceAccount", "default"))
    if config.get("spot") and config.get("preemptible"):
        raise errors.invalid("Only one of spot and preemptible can be set.")
    if pool.get("autoscaling"):
        pool["autoscaling"] = checked_pool_autoscaling(pool["autoscaling"])
        scaling = pool["autoscaling"]
        if not pool.get("initialNodeCount"):
            pool["initialNodeCount"] = scaling.get("minNodeCount") or -(-scaling.get("totalMinNodeCount", 0) // len(pool["locations"]))
    if int(pool.get("maxPodsConstraint", {}).get("maxPodsPerNode", 110)) not in range(8, 257):
        raise errors.invalid("max_pods_per_node must be between 8 and 256.")
    _check_management(cluster, pool.get("management", {"autoUpgrade": True, "autoRepair": True}))
    pool["version"] = _node_version(cluster, pool.get("version", ""))
    _tainted(config, any(not other.get("config", {}).get("accelerators") for other in _others(cluster, name, others)))
    pool = shapes.merged(_pool_defaults(cluster, config), pool)
    pool["config"] = shapes.merged(_config_defaults(config), config)
    pool["status"] = "PROVISIONING"
    if not pool.get("initialNodeCount"):
        pool.pop("initialNodeCount", None)
    return pool


def _others(cluster: dict, name: str, others: list[dict] | None) -> list[dict]:
    return [other for other in (others if others is not None else cluster["nodePools"].values()) if other.get("name") != name]


def _tainted(config: dict, plain_nodes: bool) -> None:
    """GKE keeps pods without GPU off GPU nodes, as long as there are other nodes for them."""
    taints = config.get("taints", [])
    if config.get("accelerators") and plain_nodes and not any(taint.get("key") == GPU_TAINT["key"] for taint in taints):
        config["taints"] = [*taints, dict(GPU_TAINT)]


def _pool_defaults(cluster: dict, config: dict) -> dict:
    private = cluster["networkConfig"].get("defaultEnablePrivateNodes")
    return {
        "management": {"autoRepair": True, "autoUpgrade": True},
        "maxPodsConstraint": {"maxPodsPerNode": "110"},
        "networkConfig": {
            **({} if private is None else {"enablePrivateNodes": private}),
            "podIpv4CidrBlock": cluster["clusterIpv4Cidr"],
            "podIpv4RangeUtilization": 0.001,
            "podRange": f"gke-{cluster['name']}-pods-{cluster['id'][:8]}",
            "subnetwork": cluster["networkConfig"]["subnetwork"],
        },
        "podIpv4CidrSize": 24,
        "queuedProvisioning": {},
        "upgradeSettings": {"maxSurge": 1, "strategy": "SURGE"},
    }


def _config_defaults(config: dict) -> dict:
    machine = config.get("machineType", "e2-medium")
    disk = config.get("bootDisk", {})
    size = config.get("diskSizeGb") or int(disk.get("sizeGb", 100))
    kind = (
        config.get("diskType")
        or disk.get("diskType")
        or ("hyperdisk-balanced" if machine.startswith(("n4-", "c4-", "a4-")) else "pd-balanced")
    )
    model = "spot" if config.get("spot") else "preemptible" if config.get("preemptible") else "on-demand"
    labels = {"goog-gke-node-pool-provisioning-model": model}
    for accelerator in config.get("accelerators", []):
        accelerator.setdefault("gpuDriverInstallationConfig", {"gpuDriverVersion": "DEFAULT"})
        labels["goog-gke-accelerator-type"] = accelerator["acceleratorType"]
    return {
        "bootDisk": {"diskType": kind, "sizeGb": str(size)},
        "diskSizeGb": size,
        "diskType": kind,
        "effectiveCgroupMode": "EFFECTIVE_CGROUP_MODE_V2",
        "imageType": "COS_CONTAINERD",
        "kubeletConfig": {"insecureKubeletReadonlyPortEnabled": False, "maxParallelImagePulls": 2},
        "machineType": machine,
        "metadata": {"disable-legacy-endpoints": "true"},
        "oauthScopes": NODE_SCOPES,
        "resourceLabels": labels,
        "serviceAccount": "default",
        "shieldedInstanceConfig": {"enableIntegrityMonitoring": True},
        "windowsNodeConfig": {},
    }


def _check_machine(config: dict, zones: list[str]) -> None:
    accelerators, machine = config.get("accelerators", []), config.get("machineType", "e2-medium")
    for accelerator in accelerators:
        kind = accelerator.get("acceleratorType", "").rpartition("/")[2]
        for zone in zones:
            if zone not in getattr(locations.ACCELERATORS.get(kind), "zones", ()):
                raise errors.invalid(f'Accelerator type "{kind}" does not exist in zone {zone}.')
        accelerator["acceleratorType"] = kind
        _check_accelerator(accelerator)
    if accelerators and not config.get("machineType"):
        raise errors.invalid("Cannot use default machine type (e2-medium) with GPUs; choose a different machine type.")
    for zone in zones:
        if not locations.offers_machine(machine, zone):
            raise errors.invalid(f"Machine type with name '{machine}' does not exist in zone '{zone}'.")
    fixed = locations.fixed_accelerator(machine)
    if fixed and not accelerators:
        raise errors.invalid(f'Machine type "{machine}" needs accelerators: {fixed[1]} of type "{fixed[0]}".')
    for accelerator in accelerators:
        kind, count = accelerator["acceleratorType"], int(accelerator["acceleratorCount"])
        right = (
            fixed == (kind, count)
            if fixed
            else machine.startswith("n1-") and kind.startswith("nvidia-tesla-") and kind != "nvidia-tesla-a100"
        )
        if not right and fixed and fixed[0] == kind:
            raise errors.invalid(f'Machine type "{machine}" has {fixed[1]} accelerators of type "{kind}", not {count}.')
        if not right:
            raise errors.invalid(f"[{', '.join(sorted((kind, machine)))}] features are not compatible for creating instance.")
        if count > locations.ACCELERATORS[kind].maximum or count & (count - 1):
            raise errors.invalid(
                f'The number of GPU cards of type "{kind}" must be a power of two up to {locations.ACCELERATORS[kind].maximum}.'
            )


def _check_accelerator(accelerator: dict) -> None:
    if int(accelerator.get("acceleratorCount", 0)) < 1:
        raise errors.invalid("accelerator_count must be greater than zero.")
    sharing = accelerator.get("gpuSharingConfig", {})
    if sharing and not (sharing.get("gpuSharingStrategy") and 2 <= int(sharing.get("maxSharedClientsPerGpu", 0)) <= 48):
        raise errors.invalid("GPU sharing needs gpu_sharing_strategy and max_shared_clients_per_gpu between 2 and 48.")


def _check_disk(config: dict) -> None:
    size = config.get("diskSizeGb") or int(config.get("bootDisk", {}).get("sizeGb", 100))
    if size < 12:
        raise errors.invalid(f"disk_size_gb must be at least 12, is {size}.")


def _check_service_account(project: dict, account: str) -> None:
    if account.endswith(f"@{project['projectId']}.iam.gserviceaccount.com") and account not in project.get("serviceAccounts", {}):
        raise errors.invalid(
            f'The user does not have access to service account "{account}". Ask a project owner to grant you the '
            "iam.serviceAccountUser role on the service account."
        )


def _check_management(cluster: dict, management: dict) -> None:
    channel = cluster["releaseChannel"].get("channel", "")
    if channel in CHANNELS and not (management.get("autoUpgrade") and management.get("autoRepair")):
        raise errors.invalid(f"Auto_upgrade and auto_repair cannot be false when release_channel {channel} is set.")


def _node_version(cluster: dict, wanted: str) -> str:
    master = cluster["currentMasterVersion"] if "currentMasterVersion" in cluster else cluster["initialClusterVersion"]
    if wanted in ("", "-", master):
        return master
    version = _version(wanted, cluster["releaseChannel"].get("channel", ""), "Node")
    if _order(version) > _order(master):
        raise errors.invalid(f'Node version "{version}" must not be greater than the master version "{master}".')
    return version


def _image(wanted: str) -> str:
    if wanted.upper() not in IMAGE_TYPES:
        raise errors.invalid(f'Image type "{wanted}" is not supported.')
    return wanted.upper()


def checked_pool_autoscaling(value: dict) -> dict:
    """A pool's autoscaling as GKE keeps it; refuses limits that contradict each other."""
    scaling = read("NodePoolAutoscaling", value)
    if not scaling.get("enabled"):
        return {}
    each, total = ("minNodeCount", "maxNodeCount"), ("totalMinNodeCount", "totalMaxNodeCount")
    if any(scaling.get(key) for key in each) and any(scaling.get(key) for key in total):
        raise errors.invalid("min_node_count and max_node_count cannot be set together with total_min_node_count and total_max_node_count.")
    low, high = each if not any(scaling.get(key) for key in total) else total
    if not scaling.get(high):
        raise errors.invalid("Autoscaling max_node_count must be greater than zero.")
    if scaling.get(low, 0) > scaling[high]:
        raise errors.invalid("Autoscaling min_node_count must not be greater than max_node_count.")
    return {"locationPolicy": "BALANCED", **scaling}


def managed(cluster: dict, value: dict) -> dict:
    """A pool's management, checked against the cluster's channel."""
    management = read("NodeManagement", value)
    _check_management(cluster, management)
    return management


def shown_pool(project: dict, cluster: dict, pool: dict) -> dict:
    """The resource, as nodePools.get answers it."""
    shown = copy.deepcopy(pool)
    shown["selfLink"] = f"https://container.googleapis.com/v1/{self_path(project, cluster)}/nodePools/{pool['name']}"
    short = shapes.digest([cluster["id"], pool["name"]]).hex()[:8]
    group = f"gke-{cluster['name'][:16]}-{pool['name'][:16]}-{short}-grp"
    shown["instanceGroupUrls"] = [
        f"https://www.googleapis.com/compute/v1/projects/{project['projectId']}/zones/{zone}/instanceGroupManagers/{group}"
        for zone in pool["locations"]
    ]
    for key in ("initialNodeCount", "autoscaling"):
        if not shown.get(key):
            shown.pop(key, None)
    shown["etag"] = pool_etag(pool)
    return shown


def pool_etag(pool: dict) -> str:
    """The etag of a node pool."""
    return shapes.etag({key: value for key, value in pool.items() if key not in ("status", "statusMessage", "conditions")})


def node_count(pool: dict) -> int:
    """How many nodes a pool has, over all its zones."""
    return pool.get("initialNodeCount", 0) * len(pool["locations"])


# ---- updates of node pools

_POOL_REPLACED = {  # field of UpdateNodePoolRequest → where it lands in the node pool
    "confidentialNodes": ("config", "confidentialNodes"),
    "consolidationDelay": ("config", "consolidationDelay"),
    "containerdConfig": ("config", "containerdConfig"),
    "fastSocket": ("config", "fastSocket"),
    "flexStart": ("config", "flexStart"),
    "gcfsConfig": ("config", "gcfsConfig"),
    "gvnic": ("config", "gvnic"),
    "linuxNodeConfig": ("config", "linuxNodeConfig"),
    "loggingConfig": ("config", "loggingConfig"),
    "maintenancePolicy": ("maintenancePolicy",),
    "maxRunDuration": ("config", "maxRunDuration"),
    "nodeDrainConfig": ("nodeDrainConfig",),
    "queuedProvisioning": ("queuedProvisioning",),
    "resourceManagerTags": ("config", "resourceManagerTags"),
    "storagePools": ("config", "storagePools"),
    "windowsNodeConfig": ("config", "windowsNodeConfig"),
    "workloadMetadataConfig": ("config", "workloadMetadataConfig"),
}
_ADDRESSED = ("name", "projectId", "zone", "clusterId", "nodePoolId", "nodeConfigUpdateMode")


def updated_pool(project: dict, cluster: dict, pool: dict, body: dict) -> dict:
    """A copy of the pool after nodePools.update with this request. Refuses what GKE refuses."""
    sent = {key: value for key, value in body.items() if key not in _ADDRESSED and value is not None}
    if sent.pop("etag", pool_etag(pool)) != pool_etag(pool):
        raise errors.aborted("The node pool etag does not match the current one: the node pool was changed since it was read.")
    if not sent:
        raise errors.invalid("Must specify a field to update.")
    values, result = read("UpdateNodePoolRequest", sent), copy.deepcopy(pool)
    for field in sent:
        value = values.get(field, sent[field])
        if field in _POOL_REPLACED:
            *path, last = _POOL_REPLACED[field]
            (result[path[0]] if path else result)[last] = value
        elif field in _POOL_SPECIAL:
            _POOL_SPECIAL[field](project, cluster, result, value)
        else:
            raise errors.Refused(501, "", f"The rehearsal does not know how GKE applies the update of {field}.")
    _check_machine(result["config"], result["locations"])
    return result


def _set_version(project: dict, cluster: dict, pool: dict, value: str) -> None:
    pool["version"] = _node_version(cluster, value)


def _set_image(project: dict, cluster: dict, pool: dict, value: str) -> None:
    pool["config"]["imageType"] = _image(value)


def _set_locations(project: dict, cluster: dict, pool: dict, value: list) -> None:
    for zone in value:
        if zone not in locations.zones_of(locations.region_of(cluster["location"])):
            raise errors.invalid(f'Location "{zone}" is not in region "{locations.region_of(cluster["location"])}".')
    pool["locations"] = value


def _set_machine(project: dict, cluster: dict, pool: dict, value: str) -> None:
    pool["config"]["machineType"] = value


def _set_disk(project: dict, cluster: dict, pool: dict, value: dict) -> None:
    disk = {**pool["config"]["bootDisk"], **value}
    _check_disk({"bootDisk": disk})
    pool["config"].update(bootDisk=disk, diskSizeGb=int(disk["sizeGb"]), diskType=disk["diskType"])


def _set_disk_size(project: dict, cluster: dict, pool: dict, value: str) -> None:
    _set_disk(project, cluster, pool, {"sizeGb": str(value)})


def _set_disk_type(project: dict, cluster: dict, pool: dict, value: str) -> None:
    _set_disk(project, cluster, pool, {"diskType": value})


def _set_labels(project: dict, cluster: dict, pool: dict, value: dict) -> None:
    _replace(pool["config"], "labels", value.get("labels", {}))


def _set_taints(project: dict, cluster: dict, pool: dict, value: dict) -> None:
    _replace(pool["config"], "taints", value.get("taints", []))


def _set_tags(project: dict, cluster: dict, pool: dict, value: dict) -> None:
    _replace(pool["config"], "tags", value.get("tags", []))


def _set_resource_labels(project: dict, cluster: dict, pool: dict, value: dict) -> None:
    check_labels(value.get("labels", {}))
    kept = {key: text for key, text in pool["config"]["resourceLabels"].items() if key.startswith("goog-gke-")}
    pool["config"]["resourceLabels"] = {**value.get("labels", {}), **kept}


def _replace(config: dict, key: str, value: object) -> None:
    """Google leaves out what is empty."""
    if value:
        config[key] = value
    else:
        config.pop(key, None)


def _set_upgrade(project: dict, cluster: dict, pool: dict, value: dict) -> None:
    pool["upgradeSettings"] = {"strategy": "SURGE", **value}


def _set_kubelet(project: dict, cluster: dict, pool: dict, value: dict) -> None:
    pool["config"]["kubeletConfig"] = {"insecureKubeletReadonlyPortEnabled": False, "maxParallelImagePulls": 2, **value}


def _set_network(project: dict, cluster: dict, pool: dict, value: dict) -> None:
    if set(value) - {"enablePrivateNodes", "networkPerformanceConfig"}:
        raise errors.invalid("Only enable_private_nodes and network_performance_config can be changed in node_network_config.")
    pool["networkConfig"].update(value)


def _set_accelerators(project: dict, cluster: dict, pool: dict, value: list) -> None:
    """Driver and sharing of the GPUs can be changed; which GPUs and how many belongs to the machine."""

    def cards(accelerators: list) -> list:
        return sorted((each.get("acceleratorType", "").rpartition("/")[2], str(each.get("acceleratorCount", ""))) for each in accelerators)

    if cards(value) != cards(pool["config"].get("accelerators", [])):
        raise errors.invalid("Accelerator type and count of an existing node pool cannot be changed.")
    for accelerator in value:
        accelerator["acceleratorType"] = accelerator["acceleratorType"].rpartition("/")[2]
        accelerator.setdefault("gpuDriverInstallationConfig", {"gpuDriverVersion": "DEFAULT"})
    pool["config"]["accelerators"] = value


_POOL_SPECIAL = {
    "accelerators": _set_accelerators,
    "bootDisk": _set_disk,
    "diskSizeGb": _set_disk_size,
    "diskType": _set_disk_type,
    "imageType": _set_image,
    "kubeletConfig": _set_kubelet,
    "labels": _set_labels,
    "locations": _set_locations,
    "machineType": _set_machine,
    "nodeNetworkConfig": _set_network,
    "nodeVersion": _set_version,
    "resourceLabels": _set_resource_labels,
    "tags": _set_tags,
    "taints": _set_taints,
    "upgradeSettings": _set_upgrade,
}


# ---- quotas


def needs(pool: dict, nodes: int | None = None) -> dict[str, float]:
    """What a pool takes of its region's quotas, and of the project's (GPUS_ALL_REGIONS); nodes: other than it has now."""
    nodes, config = node_count(pool) if nodes is None else nodes, pool["config"]
    cheap = bool(config.get("spot") or config.get("preemptible"))
    taken: dict[str, float] = {"CPUS": locations.cpus(config["machineType"]) * nodes, "INSTANCES": nodes}
    taken["SSD_TOTAL_GB" if config["diskType"] in ("pd-balanced", "pd-ssd") else "DISKS_TOTAL_GB"] = config["diskSizeGb"] * nodes
    if not pool.get("networkConfig", {}).get("enablePrivateNodes"):
        taken["IN_USE_ADDRESSES"] = nodes
    for accelerator in config.get("accelerators", []):
        known = locations.ACCELERATORS[accelerator["acceleratorType"]]
        cards = int(accelerator["acceleratorCount"]) * nodes
        metric = known.preemptible if cheap else known.metric
        if metric:
            taken[metric] = taken.get(metric, 0) + cards
        taken["GPUS_ALL_REGIONS"] = taken.get("GPUS_ALL_REGIONS", 0) + cards
    return {metric: amount for metric, amount in taken.items() if amount}
