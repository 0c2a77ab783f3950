# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The option node_pools of the modules that make node pools."""

from __future__ import annotations


class ModuleDocFragment:
    """What a node pool consists of."""

    DOCUMENTATION = r"""
options:
  node_pools:
    description: Node pools of the cluster. Only what is given is compared with what is there.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the node pool.
        type: str
        required: true
      state:
        description: Whether it exists.
        type: str
        choices: [present, absent]
        default: present
      machine_type:
        description: Machine type, such as V(e2-standard-8). Changing it replaces the nodes one after the other, as do the disk options.
        type: str
      disk_size_gb:
        description: Size of the boot disk in GB.
        type: int
      disk_type:
        description: Type of the boot disk, such as V(pd-balanced).
        type: str
      image_type:
        description: Image of the nodes, such as V(COS_CONTAINERD).
        type: str
      locations:
        description: Zones of the nodes. Default are the cluster's.
        type: list
        elements: str
      count:
        description:
          - Number of nodes in each zone. With autoscaling, only of a new node pool.
          - Default for a new one is O(node_pools[].autoscaling.min), without autoscaling V(1).
        type: int
      autoscaling:
        description: Autoscaling. Limits are given per zone, or for all zones together, not both.
        type: dict
        suboptions:
          enabled:
            description: Whether the number of nodes is adapted.
            type: bool
            default: true
          min:
            description: Least number of nodes in each zone, may be V(0).
            type: int
          max:
            description: Greatest number of nodes in each zone.
            type: int
          total_min:
            description: Least number of nodes in all zones.
            type: int
          total_max:
            description: Greatest number of nodes in all zones.
            type: int
          location_policy:
            description: Whether zones are filled evenly, or wherever there are machines, which is better for Spot VMs and GPUs.
            type: str
            choices: [BALANCED, ANY]
      accelerator:
        description: Accelerators of each node. Type, count and partition size cannot be changed afterwards.
        type: dict
        suboptions:
          type:
            description: Type, such as V(nvidia-l4).
            type: str
            required: true
          count:
            description: Number on each node.
            type: int
            default: 1
          driver_version:
            description: Which NVIDIA driver GKE installs.
            type: str
            choices: [default, latest, disabled]
          partition_size:
            description: Size of the partitions of a multi-instance GPU, such as V(1g.5gb).
            type: str
          sharing:
            description: Shares each GPU among containers.
            type: dict
            suboptions:
              strategy:
                description: How.
                type: str
                choices: [time-sharing, mps]
                default: time-sharing
              max_clients:
                description: Number of containers on a GPU, 2 to 48.
                type: int
                required: true
      spot:
        description: Whether the nodes are Spot VMs. Cannot be changed afterwards.
        type: bool
      labels:
        description: Kubernetes labels of the nodes. They replace those of the node pool; GKE's own are left alone.
        type: dict
      taints:
        description:
          - Taints of the nodes. They replace those of the node pool; GKE's own, such as V(nvidia.com/gpu=present:NoSchedule), which it
            puts on nodes with GPUs, are left alone.
        type: list
        elements: dict
        suboptions:
          key:
            description: Key.
            type: str
            required: true
          value:
            description: Value.
            type: str
            default: ""
          effect:
            description: Effect.
            type: str
            choices: [NoSchedule, PreferNoSchedule, NoExecute]
            default: NoSchedule
      tags:
        description: Network tags of the nodes, which firewall rules refer to.
        type: list
        elements: str
      resource_labels:
        description: Labels of the virtual machines and disks, for billing and search. GKE's own are left alone.
        type: dict
      service_account:
        description: E-mail address of the nodes' service account. Cannot be changed afterwards.
        type: str
      oauth_scopes:
        description:
          - OAuth scopes of the nodes, in full or from C(https://www.googleapis.com/auth/) on. Cannot be changed afterwards.
          - Default for a new node pool is V(cloud-platform), so that the roles of its service account decide.
        type: list
        elements: str
      workload_metadata:
        description: What pods see of the metadata server. V(GKE_METADATA) is for workload identity, and what new node pools have with it.
        type: str
        choices: [GKE_METADATA, GCE_METADATA]
      management:
        description: What GKE does to nodes by itself. A new node pool has both, unless told otherwise.
        type: dict
        suboptions:
          auto_repair:
            description: Whether broken nodes are replaced.
            type: bool
          auto_upgrade:
            description: Whether nodes follow the version of the control plane. A cluster in a release channel wants it.
            type: bool
      upgrade:
        description: How nodes are replaced.
        type: dict
        suboptions:
          max_surge:
            description: Number of additional nodes meanwhile.
            type: int
          max_unavailable:
            description: Number of nodes that may be missing meanwhile.
            type: int
      shielded:
        description: Options of shielded nodes. Cannot be changed afterwards.
        type: dict
        suboptions:
          secure_boot:
            description: Whether only signed kernel modules are loaded.
            type: bool
          integrity_monitoring:
            description: Whether the boot is measured.
            type: bool
"""
