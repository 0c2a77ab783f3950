# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""GKE clusters and node pools: options in the words of Google's API and back, what differs, and the calls that change it.

Options are compared field by field, under dotted names such as autoscaling.max, and only those that are given.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api

CLUSTERS = "container.projects.locations.clusters"
POOLS = f"{CLUSTERS}.nodePools"
PARALLEL = 5  # operations at once: what GKE has granted each cluster for years
SCOPE = "https://www.googleapis.com/auth/"
EFFECTS = {"NoSchedule": "NO_SCHEDULE", "PreferNoSchedule": "PREFER_NO_SCHEDULE", "NoExecute": "NO_EXECUTE"}
DRIVERS = {"default": "DEFAULT", "latest": "LATEST", "disabled": "INSTALLATION_DISABLED"}
SHARING = {"time-sharing": "TIME_SHARING", "mps": "MPS"}

# Labels and taints that GKE puts there itself; they are nobody's drift, and are kept when others are replaced.
GOOGLES = ("goog-", "cloud.google.com/", "node.gke.io/", "sandbox.gke.io/", "nvidia.com/gpu", "google.com/tpu", "kubernetes.io/arch")

NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
LOCATION = re.compile(r"[a-z]+(-[a-z]+)+[0-9]+(-[a-z])?")

# What to do about a condition of a cluster or node pool, by its code
REMEDIES = {
    "GCE_STOCKOUT": "Google has no such machines left there at the moment: wait, or take other locations or another machine type",
    "GCE_QUOTA_EXCEEDED": "ask for more quota at https://console.cloud.google.com/iam-admin/quotas?project={project}, or use less",
    "GKE_SERVICE_ACCOUNT_DELETED": "give GKE its service agent back: `gcloud beta services identity create "
    "--service=container.googleapis.com --project={project}`, then grant it roles/container.serviceAgent",
    "NODE_SERVICE_ACCOUNT_MISSING_PERMISSIONS": "grant the nodes' service account roles/container.defaultNodeServiceAccount on {project}",
    "CLOUD_KMS_KEY_ERROR": "see that the Cloud KMS key exists, is enabled, and that GKE's service agent may use it",
    "CA_EXPIRING": "rotate the cluster's credentials: `gcloud container clusters update CLUSTER --start-credential-rotation`",
}


def cluster_path(project: str, location: str, name: str = "") -> str:
    """The name of a location, or of a cluster in it, as the API writes it."""
    return f"projects/{project}/locations/{location}" + (f"/clusters/{name}" if name else "")


# -- options --------------------------------------------------------------------------------------------------------------------


def pools_spec() -> dict:
    """The option node_pools; documented in the fragment mlops.platform.gke_node_pools."""
    text, number, flag = {"type": "str"}, {"type": "int"}, {"type": "bool"}
    texts, mapping = {"type": "list", "elements": "str"}, {"type": "dict"}
    taint = {
        "key": {"type": "str", "required": True},
        "value": {"type": "str", "default": ""},
        "effect": {"type": "str", "choices": list(EFFECTS), "default": "NoSchedule"},
    }
    sharing = {
        "strategy": {"type": "str", "choices": list(SHARING), "default": "time-sharing"},
        "max_clients": {"type": "int", "required": True},
    }
    accelerator = {
        "type": {"type": "str", "required": True},
        "count": {"type": "int", "default": 1},
        "driver_version": {"type": "str", "choices": list(DRIVERS)},
        "partition_size": text,
        "sharing": {"type": "dict", "options": sharing},
    }
    autoscaling = {
        "enabled": {"type": "bool", "default": True},
        "min": number,
        "max": number,
        "total_min": number,
        "total_max": number,
        "location_policy": {"type": "str", "choices": ["BALANCED", "ANY"]},
    }
    pool = {
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "machine_type": text,
        "disk_size_gb": number,
        "disk_type": text,
        "image_type": text,
        "locations": texts,
        "count": number,
        "autoscaling": {"type": "dict", "options": autoscaling},
        "accelerator": {"type": "dict", "options": accelerator},
        "spot": flag,
        "labels": mapping,
        "taints": {"type": "list", "elements": "dict", "options": taint},
        "tags": texts,
        "resource_labels": mapping,
        "service_account": text,
        "oauth_scopes": texts,
        "workload_metadata": {"type": "str", "choices": ["GKE_METADATA", "GCE_METADATA"]},
        "management": {"type": "dict", "options": {"auto_repair": flag, "auto_upgrade": flag}},
        "upgrade": {"type": "dict", "options": {"max_surge": number, "max_unavailable": number}},
        "shielded": {"type": "dict", "options": {"secure_boot": flag, "integrity_monitoring": flag}},
    }
    return {"type": "list", "elements": "dict", "options": pool}


def without_empty(options: dict) -> dict:
    """The options, with empty strings as what they are in roles: not given."""
    given = {}
    for name, value in options.items():
        if name == "node_pools" and value:
            value = [without_empty(pool) for pool in value]
        elif isinstance(value, dict) and name not in ("labels", "resource_labels", "limits"):
            value = without_empty(value)
        given[name] = None if value == "" else value
    return given


def check_name(option: str, name: str) -> None:
    """Raise BadRequest unless a cluster or node pool may have this name."""
    if not NAME.fullmatch(name):
        raise api.BadRequest(
            f"{option}: {name!r} is not a name that GKE accepts.",
            "at most 40 lower-case letters, digits and hyphens, a letter first and no hyphen last",
        )


def check_location(location: str) -> None:
    """Raise BadRequest unless this looks like a zone or region."""
    if not LOCATION.fullmatch(location):
        raise api.BadRequest(
            f"location: {location!r} is no zone or region.", "write a zone such as asia-northeast3-b, or a region such as asia-northeast3"
        )


def check_pools(pools: list[dict]) -> None:
    """Raise BadRequest where the options of a node pool contradict each other, or GKE would refuse them anyhow."""
    names = [pool["name"] for pool in pools]
    for name in names:
        check_name("node_pools[].name", name)
        if names.count(name) > 1:
            raise api.BadRequest(f"node_pools: {name} is there twice.", "name each node pool once")
    for pool in pools:
        for problem, remedy in _problems(pool):
            raise api.BadRequest(f"node pool {pool['name']}: {problem}", remedy)


def check_cluster(options: dict) -> None:
    """Raise BadRequest where the options of a cluster contradict each other, or GKE would refuse them anyhow."""
    check_name("name", options["name"])
    check_location(options["location"])
    check_pools(options["node_pools"] or [])
    cidr = options["control_plane_cidr"]
    if cidr and not options["private_nodes"]:
        raise api.BadRequest(f"control_plane_cidr: {cidr} is for clusters with private nodes.", "set private_nodes: true, or leave it out")
    networks = [("control_plane_cidr", cidr)] if cidr else []
    networks += [("authorized_networks", network) for network in options["authorized_networks"] or []]
    for option, network in networks:
        try:
            size = ipaddress.ip_network(network).prefixlen
        except ValueError as error:
            raise api.BadRequest(f"{option}: {error}.", "write a network such as 172.16.0.0/28") from error
        if option == "control_plane_cidr" and size != 28:
            raise api.BadRequest(f"control_plane_cidr: {network} is a /{size}.", "GKE wants a /28")
    for name, limit in ((options["autoprovisioning"] or {}).get("limits") or {}).items():
        if not str(limit).isdigit():
            raise api.BadRequest(f"autoprovisioning.limits: {name} is {limit!r}.", "a whole number: cores, GB, or accelerators")


def check_new_cluster(options: dict) -> None:
    """Raise BadRequest where something is missing without which a cluster cannot be made."""
    if not [pool for pool in options["node_pools"] or [] if pool["state"] == "present"]:
        raise api.BadRequest(
            f"cluster {options['name']} is not there, and node_pools names none.", "a new cluster needs at least one node pool; name one"
        )
    scaling = options["autoprovisioning"] or {}
    if scaling.get("enabled") and not {"cpu", "memory"} <= set(scaling.get("limits") or {}):
        raise api.BadRequest("autoprovisioning.limits lacks cpu or memory.", "give both; GKE wants limits for them")


def _problems(pool: dict):
    scaling, accelerator = pool.get("autoscaling") or {}, pool.get("accelerator") or {}
    single, total = (scaling.get("min"), scaling.get("max")), (scaling.get("total_min"), scaling.get("total_max"))
    if scaling.get("enabled", True) and scaling:
        if any(value is not None for value in single) and any(value is not None for value in total):
            yield "autoscaling has limits per zone (min, max) and for all zones (total_min, total_max).", "give one of both pairs"
        for (low, high), names in ((single, ("min", "max")), (total, ("total_min", "total_max"))):
            if high is None and low is not None:
                yield f"autoscaling.{names[0]} is {low}, and autoscaling.{names[1]} is missing.", "give both"
            if high is not None and (high < 1 or (low or 0) > high or (low or 0) < 0):
                yield (
                    f"autoscaling.{names[0]} {low or 0} and autoscaling.{names[1]} {high} are no range.",
                    f"0 ≤ {names[0]} ≤ {names[1]} and {names[1]} ≥ 1",
                )
        if single[1] is None and total[1] is None:
            yield "autoscaling has no upper limit.", "give autoscaling.max, or autoscaling.enabled: false to switch it off"
    if (pool.get("count") or 0) < 0:
        yield f"count is {pool['count']}.", "0 or more nodes in each zone"
    if accelerator and accelerator["count"] < 1:
        yield f"accelerator.count is {accelerator['count']}.", "1 or more, or leave accelerator out"
    clients = (accelerator.get("sharing") or {}).get("max_clients")
    if clients is not None and not 2 <= clients <= 48:
        yield f"accelerator.sharing.max_clients is {clients}.", "GKE shares a GPU among 2 to 48 containers"


# -- node pools -----------------------------------------------------------------------------------------------------------------


def pool_body(pool: dict) -> dict:
    """A new node pool as the API takes it; what is not given and has no good default there gets today's."""
    accelerator = pool.get("accelerator")
    config = {
        "machineType": pool.get("machine_type"),
        "diskSizeGb": pool.get("disk_size_gb"),
        "diskType": pool.get("disk_type"),
        "imageType": pool.get("image_type"),
        "accelerators": [_accelerator(accelerator)] if accelerator else None,
        "spot": pool.get("spot"),
        "labels": _texts(pool.get("labels")),
        "taints": [_taint(taint) for taint in pool.get("taints") or []] or None,
        "tags": pool.get("tags"),
        "resourceLabels": _texts(pool.get("resource_labels")),
        "serviceAccount": pool.get("service_account"),
        "oauthScopes": _scopes(pool.get("oauth_scopes") or ["cloud-platform"]),
        "workloadMetadataConfig": {"mode": pool["workload_metadata"]} if pool.get("workload_metadata") else None,
        "shieldedInstanceConfig": _given(
            enableSecureBoot=(pool.get("shielded") or {}).get("secure_boot"),
            enableIntegrityMonitoring=(pool.get("shielded") or {}).get("integrity_monitoring"),
        )
        or None,
    }
    scaling = pool.get("autoscaling") or {}
    first = pool.get("count")
    if first is None:
        first = (scaling.get("min") or 0) if scaling.get("enabled") and scaling.get("total_max") is None else 1
    management = {"autoRepair": True, "autoUpgrade": True, **_management(pool)}
    return _given(
        name=pool["name"],
        config=_given(**config),
        initialNodeCount=first,
        autoscaling=_autoscaling(scaling, {}) if scaling.get("enabled") else None,
        management=management,
        upgradeSettings=_upgrade(pool, {}) or None,
        locations=sorted(pool["locations"]) if pool.get("locations") else None,
    )


def pool_wanted(pool: dict) -> dict:
    """The options that are given for a node pool, by dotted name, in a form that can be compared with pool_found."""
    wanted = {}
    for name, value in pool.items():
        if name in ("accelerator", "autoscaling", "management", "upgrade", "shielded"):
            wanted.update(_flat(name, value))
        elif name not in ("name", "state") and value is not None:
            wanted[name] = value
    if wanted.get("autoscaling.enabled"):
        wanted.pop("count", None)  # the autoscaler's business from then on
        if "autoscaling.max" in wanted:
            wanted.setdefault("autoscaling.min", 0)
        if "autoscaling.total_max" in wanted:
            wanted.setdefault("autoscaling.total_min", 0)
    elif "autoscaling.enabled" in wanted:
        wanted = {name: value for name, value in wanted.items() if not name.startswith("autoscaling.") or name == "autoscaling.enabled"}
    for name in ("locations", "tags"):
        if name in wanted:
            wanted[name] = sorted(set(wanted[name]))
    for name in ("labels", "resource_labels"):
        if name in wanted:
            wanted[name] = _texts(wanted[name])
    if "oauth_scopes" in wanted:
        wanted["oauth_scopes"] = _scopes(wanted["oauth_scopes"])
    if "taints" in wanted:
        wanted["taints"] = sorted(f"{taint['key']}={taint['value']}:{taint['effect']}" for taint in wanted["taints"])
    if "image_type" in wanted:
        wanted["image_type"] = wanted["image_type"].upper()
    return wanted


def pool_found(pool: dict, wanted: dict) -> dict:
    """What a node pool of the API has of what is wanted (pool_wanted), under the same names."""
    config = pool.get("config", {})
    scaling, management, upgrade = pool.get("autoscaling", {}), pool.get("management", {}), pool.get("upgradeSettings", {})
    accelerator = (config.get("accelerators") or [{}])[0]
    driver = accelerator.get("gpuDriverInstallationConfig", {}).get("gpuDriverVersion", "INSTALLATION_DISABLED")
    sharing, shielded = accelerator.get("gpuSharingConfig", {}), config.get("shieldedInstanceConfig", {})
    taints = [_taint_text(taint) for taint in config.get("taints", [])]
    found = {
        "machine_type": config.get("machineType"),
        "disk_size_gb": config.get("diskSizeGb"),
        "disk_type": config.get("diskType"),
        "image_type": config.get("imageType", "").upper(),
        "locations": sorted(pool.get("locations", [])),
        "count": pool.get("initialNodeCount", 0),
        "autoscaling.enabled": scaling.get("enabled", False),
        "autoscaling.min": scaling.get("minNodeCount", 0),
        "autoscaling.max": scaling.get("maxNodeCount", 0),
        "autoscaling.total_min": scaling.get("totalMinNodeCount", 0),
        "autoscaling.total_max": scaling.get("totalMaxNodeCount", 0),
        "autoscaling.location_policy": scaling.get("locationPolicy", "BALANCED"),
        "accelerator.type": accelerator.get("acceleratorType", "").rpartition("/")[2] or None,
        "accelerator.count": int(accelerator.get("acceleratorCount", 0)),
        "accelerator.partition_size": accelerator.get("gpuPartitionSize", ""),
        "accelerator.driver_version": _word(DRIVERS, driver),
        "accelerator.sharing.strategy": _word(SHARING, sharing.get("gpuSharingStrategy")),
        "accelerator.sharing.max_clients": int(sharing.get("maxSharedClientsPerGpu", 0)),
        "spot": config.get("spot", False),
        "labels": _not_googles(config.get("labels", {}), wanted.get("labels", {})),
        "taints": sorted(taint for taint in taints if taint in wanted.get("taints", []) or not taint.startswith(GOOGLES)),
        "tags": sorted(config.get("tags", [])),
        "resource_labels": _not_googles(config.get("resourceLabels", {}), wanted.get("resource_labels", {})),
        "service_account": config.get("serviceAccount", "default"),
        "oauth_scopes": _scopes(config.get("oauthScopes", [])),
        "workload_metadata": config.get("workloadMetadataConfig", {}).get("mode", "GCE_METADATA"),
        "management.auto_repair": management.get("autoRepair", False),
        "management.auto_upgrade": management.get("autoUpgrade", False),
        "upgrade.max_surge": upgrade.get("maxSurge", 0),
        "upgrade.max_unavailable": upgrade.get("maxUnavailable", 0),
        "shielded.secure_boot": shielded.get("enableSecureBoot", False),
        "shielded.integrity_monitoring": shielded.get("enableIntegrityMonitoring", False),
    }
    return {name: found[name] for name in wanted}


def different(wanted: dict, found: dict) -> list[str]:
    """The names of what is not as it is wanted."""
    return [name for name in wanted if wanted[name] != found[name]]


# What can be changed in a pool, in this order: GKE takes one kind of change in a request.
POOL_CHANGES = {
    "machine": ("machine_type", "disk_size_gb", "disk_type"),
    "image": ("image_type",),
    "accelerator": ("accelerator.driver_version", "accelerator.sharing.strategy", "accelerator.sharing.max_clients"),
    "workload_metadata": ("workload_metadata",),
    "labels": ("labels",),
    "taints": ("taints",),
    "tags": ("tags",),
    "resource_labels": ("resource_labels",),
    "upgrade": ("upgrade.max_surge", "upgrade.max_unavailable"),
    "locations": ("locations",),
    "management": ("management.auto_repair", "management.auto_upgrade"),
    "autoscaling": (
        "autoscaling.enabled",
        "autoscaling.min",
        "autoscaling.max",
        "autoscaling.total_min",
        "autoscaling.total_max",
        "autoscaling.location_policy",
    ),
    "count": ("count",),
}


def refuse_immutable(what: str, fields: list[str], changeable, wanted: dict, found: dict, remedy: str) -> None:
    """Raise BadRequest if a field that differs is not among those that can be changed. `what` is the object's name in the message."""
    fixed = [name for name in fields if name not in changeable]
    if fixed:
        values = "; ".join(f"{name} is {_shown(found[name])}, wanted {_shown(wanted[name])}" for name in fixed)
        raise api.BadRequest(f"{what}: {values}. GKE cannot change {'it' if len(fixed) == 1 else 'these'} afterwards.", remedy)


def check_pool_changes(name: str, fields: list[str], wanted: dict, found: dict) -> None:
    """Raise BadRequest if a node pool differs in what GKE cannot change."""
    changeable = {field for group in POOL_CHANGES.values() for field in group}
    remedy = (
        f"give the node pool another name, so that a new one is made, and have {name} removed after it (state: absent); "
        "or set the option to what is there"
    )
    refuse_immutable(f"node pool {name}", fields, changeable, wanted, found, remedy)


def pool_calls(options: dict, pool: dict, fields: list[str]) -> list[tuple[str, str, dict]]:
    """(what it does, method, body) of each request that brings the fields of an existing node pool to what the options say, in order.

    `pool` is what the API answered.
    """
    calls = []
    config = pool.get("config", {})
    for group, members in POOL_CHANGES.items():
        if not set(members) & set(fields):
            continue
        method, body = f"{POOLS}.update", {}
        if group == "machine":
            kept = {"machineType": config.get("machineType"), "diskType": config.get("diskType"), "diskSizeGb": config.get("diskSizeGb")}
            new = _given(machineType=options["machine_type"], diskType=options["disk_type"], diskSizeGb=options["disk_size_gb"])
            body = _given(**{**kept, **new})
            if "diskSizeGb" in body:
                body["diskSizeGb"] = str(body["diskSizeGb"])
        elif group == "image":
            body = _given(imageType=options["image_type"], nodeVersion=pool.get("version"))
        elif group == "accelerator":
            body = {"accelerators": [{**config["accelerators"][0], **_accelerator(options["accelerator"])}]}
        elif group == "workload_metadata":
            body = {"workloadMetadataConfig": {"mode": options["workload_metadata"]}}
        elif group == "labels":
            body = {"labels": {"labels": {**_googles(config.get("labels", {})), **_texts(options["labels"])}}}
        elif group == "resource_labels":
            body = {"resourceLabels": {"labels": {**_googles(config.get("resourceLabels", {})), **_texts(options["resource_labels"])}}}
        elif group == "taints":
            new = [_taint(taint) for taint in options["taints"]]
            named = {(taint["key"], taint["effect"]) for taint in new}
            kept = [taint for taint in config.get("taints", []) if taint["key"].startswith(GOOGLES)]
            body = {"taints": {"taints": [taint for taint in kept if (taint["key"], taint["effect"]) not in named] + new}}
        elif group == "tags":
            body = {"tags": {"tags": options["tags"]}}
        elif group == "upgrade":
            body = {"upgradeSettings": _upgrade(options, pool.get("upgradeSettings", {}))}
        elif group == "locations":
            body = {"locations": sorted(set(options["locations"]))}
        elif group == "management":
            kept = {name: pool.get("management", {}).get(name, False) for name in ("autoRepair", "autoUpgrade")}
            method, body = f"{POOLS}.setManagement", {"management": {**kept, **_management(options)}}
        elif group == "autoscaling":
            method, body = f"{POOLS}.setAutoscaling", {"autoscaling": _autoscaling(options["autoscaling"], pool.get("autoscaling", {}))}
        elif group == "count":
            method, body = f"{POOLS}.setSize", {"nodeCount": options["count"]}
        calls.append((f"change {', '.join(name for name in members if name in fields)}", method, body))
    return calls


def _accelerator(options: dict) -> dict:
    sharing = options.get("sharing")
    return _given(
        acceleratorType=options["type"],
        acceleratorCount=str(options["count"]),
        gpuPartitionSize=options.get("partition_size"),
        gpuDriverInstallationConfig={"gpuDriverVersion": DRIVERS[options["driver_version"]]} if options.get("driver_version") else None,
        gpuSharingConfig={"gpuSharingStrategy": SHARING[sharing["strategy"]], "maxSharedClientsPerGpu": str(sharing["max_clients"])}
        if sharing
        else None,
    )


def _autoscaling(options: dict, found: dict) -> dict:
    """GKE replaces the whole: what is not given stays, except that limits per zone and in total exclude each other."""
    if not options.get("enabled"):
        return {"enabled": False}
    policy = _given(locationPolicy=options.get("location_policy") or found.get("locationPolicy"))
    if options.get("total_max") is not None:
        limits = {"totalMinNodeCount": options.get("total_min") or 0, "totalMaxNodeCount": options["total_max"]}
    else:
        limits = {"minNodeCount": options.get("min") or 0, "maxNodeCount": options["max"]}
    return {"enabled": True, **limits, **policy}


def _management(pool: dict) -> dict:
    management = pool.get("management") or {}
    return _given(autoRepair=management.get("auto_repair"), autoUpgrade=management.get("auto_upgrade"))


def _upgrade(pool: dict, found: dict) -> dict:
    upgrade = pool.get("upgrade") or {}
    return {**found, **_given(maxSurge=upgrade.get("max_surge"), maxUnavailable=upgrade.get("max_unavailable"))}


def _taint(taint: dict) -> dict:
    return {"key": taint["key"], "value": taint["value"], "effect": EFFECTS[taint["effect"]]}


def _taint_text(taint: dict) -> str:
    return f"{taint.get('key')}={taint.get('value', '')}:{_word(EFFECTS, taint.get('effect'))}"


# -- clusters -------------------------------------------------------------------------------------------------------------------


def cluster_body(options: dict, project: str) -> dict:
    """A new cluster as the API takes it, with its node pools, and so without a default pool."""
    private = _given(enablePrivateNodes=options["private_nodes"], masterIpv4CidrBlock=options["control_plane_cidr"])
    if private.get("enablePrivateNodes") is False:
        private.pop("masterIpv4CidrBlock", None)
    networks = options["authorized_networks"]
    return _given(
        name=options["name"],
        releaseChannel={"channel": options["release_channel"]} if options["release_channel"] else None,
        network=options["network"],
        subnetwork=options["subnetwork"],
        locations=sorted(options["node_locations"]) if options["node_locations"] else None,
        ipAllocationPolicy={
            "useIpAliases": True,
            **_range("cluster", options["pods_range"]),
            **_range("services", options["services_range"]),
        },
        privateClusterConfig=private or None,
        masterAuthorizedNetworksConfig=_authorized(networks) if networks else None,
        networkConfig={"datapathProvider": "ADVANCED_DATAPATH"} if options["dataplane_v2"] else None,
        shieldedNodes={"enabled": options["shielded_nodes"]} if options["shielded_nodes"] is not None else None,
        workloadIdentityConfig={"workloadPool": f"{project}.svc.id.goog"} if options["workload_identity"] else None,
        autoscaling=_autoprovisioning(options["autoprovisioning"], {}) if options["autoprovisioning"] else None,
        resourceLabels=_texts(options["labels"]) or None,
        nodePools=[pool_body(pool) for pool in options["node_pools"] or [] if pool["state"] == "present"],
    )


def cluster_wanted(options: dict) -> dict:
    """The options that are given for a cluster, by dotted name, in a form that can be compared with cluster_found."""
    plain = (
        "release_channel",
        "network",
        "subnetwork",
        "node_locations",
        "private_nodes",
        "control_plane_cidr",
        "pods_range",
        "services_range",
        "authorized_networks",
        "dataplane_v2",
        "shielded_nodes",
        "workload_identity",
        "labels",
    )
    wanted = {name: options[name] for name in plain if options[name] is not None}
    wanted.update(_flat("autoprovisioning", options["autoprovisioning"]))
    if wanted.get("autoprovisioning.enabled") is False:
        wanted = {name: value for name, value in wanted.items() if not name.startswith("autoprovisioning.") or name.endswith(".enabled")}
    if wanted.get("private_nodes") is False:
        wanted.pop("control_plane_cidr", None)
    for name in ("node_locations", "authorized_networks"):
        if name in wanted:
            wanted[name] = sorted(set(wanted[name]))
    if "labels" in wanted:
        wanted["labels"] = _texts(wanted["labels"])
    if "autoprovisioning.oauth_scopes" in wanted:
        wanted["autoprovisioning.oauth_scopes"] = _scopes(wanted["autoprovisioning.oauth_scopes"])
    if "autoprovisioning.limits" in wanted:
        wanted["autoprovisioning.limits"] = {name: int(value) for name, value in wanted["autoprovisioning.limits"].items()}
    return wanted


def cluster_found(cluster: dict, wanted: dict) -> dict:
    """What a cluster of the API has of what is wanted (cluster_wanted), under the same names. Of its labels, those that are named."""
    network, private = cluster.get("networkConfig", {}), cluster.get("privateClusterConfig", {})
    ranges, scaling = cluster.get("ipAllocationPolicy", {}), cluster.get("autoscaling", {})
    defaults = scaling.get("autoprovisioningNodePoolDefaults", {})
    authorized = cluster.get("masterAuthorizedNetworksConfig", {})
    if not authorized:
        authorized = cluster.get("controlPlaneEndpointsConfig", {}).get("ipEndpointsConfig", {}).get("authorizedNetworksConfig", {})
    blocks = [block["cidrBlock"] for block in authorized.get("cidrBlocks", [])] if authorized.get("enabled") else []
    found = {
        "release_channel": cluster.get("releaseChannel", {}).get("channel", "UNSPECIFIED"),
        "network": same_end(wanted.get("network"), network.get("network") or cluster.get("network", "default")),
        "subnetwork": same_end(wanted.get("subnetwork"), network.get("subnetwork") or cluster.get("subnetwork", "default")),
        "node_locations": sorted(cluster.get("locations", [])),
        "private_nodes": bool(network.get("defaultEnablePrivateNodes", private.get("enablePrivateNodes", False))),
        "control_plane_cidr": private.get("masterIpv4CidrBlock", ""),
        "pods_range": _range_found(wanted.get("pods_range"), ranges, "cluster"),
        "services_range": _range_found(wanted.get("services_range"), ranges, "services"),
        "authorized_networks": sorted(blocks),
        "dataplane_v2": network.get("datapathProvider") == "ADVANCED_DATAPATH",
        "shielded_nodes": cluster.get("shieldedNodes", {}).get("enabled", False),
        "workload_identity": bool(cluster.get("workloadIdentityConfig", {}).get("workloadPool")),
        "labels": {name: value for name, value in cluster.get("resourceLabels", {}).items() if name in wanted.get("labels", {})},
        "autoprovisioning.enabled": scaling.get("enableNodeAutoprovisioning", False),
        "autoprovisioning.limits": {limit["resourceType"]: int(limit.get("maximum", 0)) for limit in scaling.get("resourceLimits", [])},
        "autoprovisioning.service_account": defaults.get("serviceAccount", "default"),
        "autoprovisioning.oauth_scopes": _scopes(defaults.get("oauthScopes", [])),
    }
    return {name: found[name] for name in wanted}


CLUSTER_CHANGES = {
    "release_channel": ("release_channel",),
    "workload_identity": ("workload_identity",),
    "shielded_nodes": ("shielded_nodes",),
    "authorized_networks": ("authorized_networks",),
    "private_nodes": ("private_nodes",),
    "node_locations": ("node_locations",),
    "autoprovisioning": (
        "autoprovisioning.enabled",
        "autoprovisioning.limits",
        "autoprovisioning.service_account",
        "autoprovisioning.oauth_scopes",
    ),
    "labels": ("labels",),
}


def check_cluster_changes(name: str, fields: list[str], wanted: dict, found: dict) -> None:
    """Raise BadRequest if a cluster differs in what GKE cannot change."""
    changeable = {field for group in CLUSTER_CHANGES.values() for field in group}
    remedy = "set the option to what is there, or make a cluster with another name and move to it"
    refuse_immutable(f"cluster {name}", fields, changeable, wanted, found, remedy)


def cluster_calls(options: dict, cluster: dict, fields: list[str], project: str) -> list[tuple[str, str, dict]]:
    """(what it does, method, body) of each request that brings the fields of an existing cluster to what the options say, in order."""
    calls = []
    for group, members in CLUSTER_CHANGES.items():
        if not set(members) & set(fields):
            continue
        doing = f"change {', '.join(name for name in members if name in fields)}"
        if group == "labels":
            labels = {**cluster.get("resourceLabels", {}), **_texts(options["labels"])}
            body = _given(resourceLabels=labels, labelFingerprint=cluster.get("labelFingerprint"))
            calls.append((doing, f"{CLUSTERS}.setResourceLabels", body))
            continue
        update = {
            "release_channel": lambda: {"desiredReleaseChannel": {"channel": options["release_channel"]}},
            "workload_identity": lambda: {
                "desiredWorkloadIdentityConfig": {"workloadPool": f"{project}.svc.id.goog" if options["workload_identity"] else ""}
            },
            "shielded_nodes": lambda: {"desiredShieldedNodes": {"enabled": options["shielded_nodes"]}},
            "authorized_networks": lambda: {"desiredMasterAuthorizedNetworksConfig": _authorized(options["authorized_networks"])},
            "private_nodes": lambda: {"desiredDefaultEnablePrivateNodes": options["private_nodes"]},
            "node_locations": lambda: {"desiredLocations": sorted(set(options["node_locations"]))},
            "autoprovisioning": lambda: {
                "desiredClusterAutoscaling": _autoprovisioning(options["autoprovisioning"], cluster.get("autoscaling", {}))
            },
        }[group]()
        calls.append((doing, f"{CLUSTERS}.update", {"update": update}))
    return calls


def _autoprovisioning(options: dict, found: dict) -> dict:
    """GKE replaces the whole: what is not given stays."""
    profile = _given(autoscalingProfile=found.get("autoscalingProfile"))
    if not options["enabled"]:
        return {"enableNodeAutoprovisioning": False, **profile}
    limits = found.get("resourceLimits", [])
    if options.get("limits") is not None:
        limits = [{"resourceType": name, "maximum": str(value)} for name, value in options["limits"].items()]
    defaults = {"management": {"autoRepair": True, "autoUpgrade": True}, **found.get("autoprovisioningNodePoolDefaults", {})}
    defaults.update(_given(serviceAccount=options.get("service_account"), oauthScopes=_scopes(options.get("oauth_scopes"))))
    defaults.setdefault("oauthScopes", _scopes(["cloud-platform"]))
    places = _given(autoprovisioningLocations=found.get("autoprovisioningLocations"))
    return {
        "enableNodeAutoprovisioning": True,
        "resourceLimits": limits,
        "autoprovisioningNodePoolDefaults": defaults,
        **places,
        **profile,
    }


def _authorized(networks: list[str]) -> dict:
    blocks = [{"cidrBlock": network} for network in sorted(set(networks))]
    return {"enabled": True, "cidrBlocks": blocks} if blocks else {"enabled": False}


def _range(kind: str, value: str | None) -> dict:
    """Addresses of pods (cluster) or services: a CIDR, a size such as /17, or the name of a secondary range of the subnetwork."""
    if not value:
        return {}
    return {f"{kind}Ipv4CidrBlock": value} if "/" in value else {f"{kind}SecondaryRangeName": value}


def _range_found(wanted: str | None, ranges: dict, kind: str) -> str:
    if wanted and "/" not in wanted:
        return ranges.get(f"{kind}SecondaryRangeName", "")
    block = ranges.get(f"{kind}Ipv4CidrBlock") or ranges.get(f"{kind}Ipv4Cidr", "")
    return "/" + block.partition("/")[2] if wanted and wanted.startswith("/") else block


def same_end(wanted: str | None, found: str) -> str:
    """As much of a resource's path as is wanted: my-network of projects/p/global/networks/my-network."""
    parts = (wanted or "").strip("/").count("/") + 1
    return "/".join(found.split("/")[-parts:])


# -- states ---------------------------------------------------------------------------------------------------------------------


def conditions(resource: dict) -> str:
    """What GKE says about the state of a cluster or node pool, in one line."""
    said = [f"{item.get('canonicalCode') or item.get('code', '')}: {item.get('message', '')}" for item in resource.get("conditions", [])]
    return "; ".join(said) or resource.get("statusMessage", "") or "no reason given"


def broken(what: str, resource: dict, project: str, remedy: str) -> api.GcpError:
    """The error for a cluster or node pool with the status ERROR. `remedy` is what follows once the cause is gone."""
    codes = [item.get("code") for item in resource.get("conditions", [])]
    first = next((REMEDIES[code].format(project=project) for code in codes if code in REMEDIES), "")
    return api.GcpError(
        f"{what} has the status ERROR: {conditions(resource)}.", f"{first}; then {remedy}" if first else remedy, reason="ERROR"
    )


def prediction(error: api.GcpError, project: str) -> str:
    """Why check mode takes something for not there (yet), for a warning."""
    if isinstance(error, api.ApiDisabled):
        return f"Nothing can be there yet: {error.service} is not switched on in {project}."
    return f"{error.message} What is asked for is predicted as new."


def settle(gcp: api.Gcp, read: Callable[[], dict], busy: Callable[[dict], str], what: str) -> dict | None:
    """Read something until it is not busy any more. None once it is gone.

    `busy` answers with a word for progress, such as its status, or with nothing. Raises OperationTimeout after the client's timeout.
    """
    started = time.monotonic()
    pause, said, said_at = api.POLL_FIRST, "", started
    while True:
        try:
            resource = read()
        except api.NotFound:
            return None
        state = busy(resource)
        if not state:
            return resource
        now = time.monotonic()
        if now - started >= gcp.timeout:
            raise api.OperationTimeout(
                f"{what} is still {state} after {now - started:.0f} s.",
                "it goes on without this run; run again later to continue, or raise the timeout",
            )
        if now - started >= api.REPORT_FROM and (state != said or now - said_at >= api.REPORT_EVERY):
            gcp.report(f"{what}: {state.lower()}, {now - started:.0f} s")
            said, said_at = state, now
        time.sleep(min(pause, max(gcp.timeout - (now - started), 0.01)))
        pause = min(pause * 1.5, api.POLL_LAST)


# -- calls ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Step:
    """One request that starts an operation. `target` names what it is about; the steps of one target wait for each other."""

    target: str
    doing: str
    method: str
    body: dict | None
    parameters: dict
    again: bool = False  # whether it may be sent twice
    accelerators: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.target}: {self.doing}"


@dataclass
class Runner:
    """Runs steps on one cluster, as many at once as GKE lets.

    GKE takes several operations on a cluster at once where they are compatible, and answers the others with 400 FAILED_PRECONDITION. After
    the first such answer no more are started at once than it bore with. Other people's operations are waited for.
    """

    gcp: api.Gcp
    location: str
    done: list[Step] = field(default_factory=list)
    running: list[tuple[Step, dict]] = field(default_factory=list)
    failures: list[api.GcpError] = field(default_factory=list)
    limit: int = PARALLEL

    def run(self, *batches: list[Step]) -> None:
        """Run the steps, a batch after the one before is done.

        After the first failure none is begun any more, but those that run are waited for; then the failure is raised.
        """
        left = [step for batch in batches for step in batch]
        for batch in batches:
            for step in batch:
                while not self.failures and (len(self.running) >= self.limit or self._runs(step.target)):
                    self._finish()
                try:
                    if not self._start(step):
                        break
                except api.GcpError as error:
                    self.failures.append(explained(self.gcp, error, step, self.location))
                left.remove(step)
            while self.running:
                self._finish()
        if self.failures:
            raise self._summed(left)

    def _runs(self, target: str) -> bool:
        return any(step.target == target for step, _operation in self.running)

    def _start(self, step: Step) -> bool:
        """Begin a step. False if one that had to be waited for failed meanwhile."""
        deadline = time.monotonic() + self.gcp.timeout
        while not self.failures:
            try:
                operation = self.gcp.call(step.method, step.body, retry=True if step.again else None, **step.parameters)
            except (api.AlreadyExists, api.NotFound) as error:
                if not step.again or isinstance(error, api.NotFound) != step.method.endswith(".delete"):
                    raise
                self.done.append(step)  # an earlier attempt, or somebody else, has done it
                return True
            except (api.BadRequest, api.QuotaExceeded) as error:
                others = _operation_in_the_way(error)
                if others is None or time.monotonic() > deadline:
                    raise
                if self.running:
                    self.limit = len(self.running)
                    self._finish()
                else:
                    self._wait_for_others(others, error)
                continue
            self.running.append((step, operation))
            return True
        return False

    def _wait_for_others(self, name: str, error: api.GcpError) -> None:
        if not name:
            raise error
        self.gcp.report(f"waiting for operation {name}, which is not of this run")
        with contextlib.suppress(api.OperationFailed):  # theirs
            self.gcp.wait({"name": name, "status": "RUNNING", "location": self.location}, what=f"operation {name} of somebody else")

    def _finish(self) -> None:
        step, operation = self.running.pop(0)
        try:
            self.gcp.wait(operation, what=str(step))
        except api.GcpError as error:
            self.failures.append(explained(self.gcp, error, step, self.location))
        else:
            self.done.append(step)

    def _summed(self, left: list[Step]) -> api.GcpError:
        first = self.failures[0]
        notes = [str(error) for error in self.failures[1:]]
        if self.done:
            notes.append(f"Done: {', '.join(str(step) for step in self.done)}.")
        if left:
            notes.append(f"Not begun: {', '.join(str(step) for step in left)}.")
        first.args = (" ".join([str(first), *notes]),)
        return first


def _operation_in_the_way(error: api.GcpError) -> str | None:
    """The operation because of which GKE takes no other now, "" if it names none; None if the error means something else."""
    named = re.search(r"\boperation-[0-9a-z-]*[0-9a-z]", error.message)
    if isinstance(error, api.QuotaExceeded):
        return "" if "concurrent operations" in error.message else None
    busy = error.reason == "CLUSTER_ALREADY_HAS_OPERATION" or "incompatible operation" in error.message
    busy = busy or (error.code == "FAILED_PRECONDITION" and named is not None)
    return (named[0] if named else "") if busy else None


def explained(gcp: api.Gcp, error: api.GcpError, step: Step, location: str) -> api.GcpError:
    """The same error, with what it happened to, and with the zones that have the accelerator where that is what is wrong."""
    about_quota = isinstance(getattr(error, "cause", error), api.QuotaExceeded)
    if step.accelerators and "accelerator" in error.message.lower() and not about_quota:
        accelerator = next((name for name in step.accelerators if name in error.message), step.accelerators[0])
        zones = offering(gcp, accelerator)
        near = [zone for zone in zones or [] if zone.rpartition("-")[0] == re.sub(r"(\d)-[a-z]$", r"\1", location)]
        if zones:
            error.remedy = f"{accelerator} is offered in {', '.join(near or zones)}; take a location, or the option locations, from these"
        elif zones is not None:
            error.remedy = f"no zone offers {accelerator} to this project; see `gcloud compute accelerator-types list` for the names"
        error.args = (f"{error.message} Remedy: {error.remedy}." if error.remedy else error.message,)
    error.args = (f"{step}: {error}",)
    return error


def offering(gcp: api.Gcp, accelerator: str) -> list[str] | None:
    """The zones that offer an accelerator, or None where that cannot be asked."""
    try:
        scopes = gcp.pages("compute.acceleratorTypes.aggregatedList", "items", filter=f'name = "{accelerator}"')
    except api.GcpError:
        return None
    return sorted(scope.removeprefix("zones/") for scope, listed in dict(scopes).items() if listed.get("acceleratorTypes"))


# -- small things ---------------------------------------------------------------------------------------------------------------


def _given(**values) -> dict:
    return {name: value for name, value in values.items() if value is not None}


def _flat(prefix: str, value) -> dict:
    """Nested options under dotted names, those that are given."""
    if not isinstance(value, dict):
        return {} if value is None else {prefix: value}
    if prefix == "autoprovisioning.limits":
        return {prefix: value}
    return {name: item for key, inner in value.items() for name, item in _flat(f"{prefix}.{key}", inner).items()}


def _texts(labels: dict | None) -> dict | None:
    return None if labels is None else {str(name): str(value) for name, value in labels.items()}


def _scopes(scopes: list[str] | None) -> list[str] | None:
    if scopes is None:
        return None
    return sorted({scope if scope.startswith("https://") else SCOPE + scope for scope in scopes})


def _googles(labels: dict) -> dict:
    return {name: value for name, value in labels.items() if name.startswith(GOOGLES)}


def _not_googles(labels: dict, wanted: dict) -> dict:
    return {name: value for name, value in labels.items() if name in wanted or not name.startswith(GOOGLES)}


def _word(words: dict, value: str | None) -> str | None:
    """The option's word for a value of the API, or the value where there is none."""
    return next((word for word, other in words.items() if other == value), value)


def _shown(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) or "empty" if isinstance(value, list) else "empty" if value in (None, "", {}) else str(value)
