#!/usr/bin/python
# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep global addresses, firewall rules and routers with NAT as described."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_compute
author: The mlops.platform contributors (@mlops)
short_description: Keep global addresses, firewall rules and routers with NAT as described
version_added: 1.0.0
description:
  - Creates what is missing, repairs what differs, and leaves alone what is not given. All kinds in one call - each is read with one
    request, changes are started together and waited for together.
  - A difference that Compute Engine cannot repair in place (the network or direction of a rule, anything of an address) is an error that
    names the field, what it is, what is wanted, and the way out; nothing is changed then.
options:
  addresses:
    description: Global addresses.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name.
        type: str
        required: true
      description:
        description: Description. Only counts when the address is made.
        type: str
      address_type:
        description: Whether it is reached from outside.
        type: str
        choices: [EXTERNAL, INTERNAL]
      ip_version:
        description: IP version.
        type: str
        choices: [IPV4, IPV6]
      address:
        description: The address itself, where it shall be a certain one.
        type: str
      purpose:
        description: Purpose of an internal address, such as V(VPC_PEERING).
        type: str
      prefix_length:
        description: Size of an internal range.
        type: int
      network:
        description: Network of an internal address - its name, or C(projects/P/global/networks/N).
        type: str
  firewalls:
    description: Firewall rules.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name.
        type: str
        required: true
      description:
        description: Description.
        type: str
      network:
        description: Name of the network, or C(projects/P/global/networks/N). Google's default is C(default).
        type: str
      direction:
        description: Direction. Google's default is V(INGRESS).
        type: str
        choices: [INGRESS, EGRESS]
      priority:
        description: Priority, lower wins. Google's default is 1000.
        type: int
      disabled:
        description: Whether the rule is there without taking effect.
        type: bool
      allowed:
        description: What is let through.
        type: list
        elements: dict
        suboptions: &rule
          ip_protocol:
            description: V(tcp), V(udp), V(icmp), V(all)… or a protocol's number.
            type: str
            required: true
          ports:
            description: Ports and ranges such as V(8000-9000). Default is all.
            type: list
            elements: str
      denied:
        description: What is not let through. Instead of O(firewalls[].allowed).
        type: list
        elements: dict
        suboptions: *rule
      source_ranges:
        description: Where from, as address ranges.
        type: list
        elements: str
      destination_ranges:
        description: Where to, as address ranges.
        type: list
        elements: str
      source_tags:
        description: Network tags of machines that it comes from.
        type: list
        elements: str
      target_tags:
        description: Network tags of machines that it applies to.
        type: list
        elements: str
      source_service_accounts:
        description: Service accounts of machines that it comes from.
        type: list
        elements: str
      target_service_accounts:
        description: Service accounts of machines that it applies to.
        type: list
        elements: str
      log_config:
        description: Logging of connections.
        type: dict
        suboptions:
          enable:
            description: Whether they are logged.
            type: bool
            required: true
  routers:
    description: Cloud routers.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name.
        type: str
        required: true
      region:
        description: Region.
        type: str
        required: true
      network:
        description: Name of the network, or C(projects/P/global/networks/N).
        type: str
        required: true
      description:
        description: Description.
        type: str
      nats:
        description: NATs of the router. One that is not named here stays.
        type: list
        elements: dict
        suboptions:
          name:
            description: Name.
            type: str
            required: true
          nat_ips:
            description:
              - Addresses of the region to go out with, as names or C(projects/P/regions/R/addresses/A). Where it is not given, or
                empty, Google allots them.
            type: list
            elements: str
          source_subnetwork_ip_ranges_to_nat:
            description: Whose traffic. A new NAT takes V(ALL_SUBNETWORKS_ALL_IP_RANGES).
            type: str
            choices: [ALL_SUBNETWORKS_ALL_IP_RANGES, ALL_SUBNETWORKS_ALL_PRIMARY_IP_RANGES, LIST_OF_SUBNETWORKS]
          subnetworks:
            description: The subnetworks, for V(LIST_OF_SUBNETWORKS).
            type: list
            elements: dict
            suboptions:
              name:
                description: Name, or C(projects/P/regions/R/subnetworks/S).
                type: str
                required: true
              source_ip_ranges_to_nat:
                description: Which of its ranges.
                type: list
                elements: str
                default: [ALL_IP_RANGES]
              secondary_ip_range_names:
                description: Names of secondary ranges, for V(LIST_OF_SECONDARY_IP_RANGES).
                type: list
                elements: str
          min_ports_per_vm:
            description: Ports that each machine gets at least.
            type: int
          max_ports_per_vm:
            description: Ports that each machine gets at most, with O(routers[].nats[].enable_dynamic_port_allocation).
            type: int
          enable_dynamic_port_allocation:
            description: Whether machines get more ports as they need them.
            type: bool
          log_config:
            description: Logging of translations.
            type: dict
            suboptions:
              enable:
                description: Whether they are logged.
                type: bool
                required: true
              filter:
                description: Which ones.
                type: str
                choices: [ALL, ERRORS_ONLY, TRANSLATIONS_ONLY]
  state:
    description: Whether they shall be there. With V(absent) only names (and regions) count.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - mlops.platform.gcp
attributes:
  check_mode:
    support: full
    description: As long as the Compute Engine API is switched off, everything is predicted as created, with a warning.
  diff_mode:
    support: full
    description: Of a resource that is changed, the fields that differ.
"""

EXAMPLES = r"""
- name: An address for the ingress, ports of webhooks open, and a way out for private nodes
  mlops.platform.gcp_compute:
    project: my-project
    addresses:
      - name: kubeflow-ip
    firewalls:
      - name: kubeflow-webhooks
        network: default
        source_ranges: [172.16.0.0/28]
        target_service_accounts: [kubeflow-vm@my-project.iam.gserviceaccount.com]
        allowed: [{ip_protocol: tcp, ports: ['8443', '9443', '15017']}]
    routers:
      - name: kubeflow
        region: asia-northeast3
        network: default
        nats: [{name: kubeflow}]
  register: net

- name: Where the ingress is
  ansible.builtin.debug:
    var: net.addresses['kubeflow-ip']
"""

RETURN = r"""
addresses:
  description: The IP addresses by name. Empty where an address would only be made (check mode) or was removed.
  returned: always
  type: dict
  sample: {kubeflow-ip: 203.0.113.7}
resources:
  description: The resources, and what was done to each.
  returned: always
  type: list
  elements: dict
  contains:
    kind:
      description: V(globalAddress), V(firewall) or V(router).
      type: str
    name:
      description: Name.
      type: str
    region:
      description: Region of a router.
      type: str
    action:
      description: V(created), V(changed), V(deleted), V(unchanged) or V(failed).
      type: str
    self_link:
      description: URL of it.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, compute

NAME = {"type": "str", "required": True}
TEXT = {"type": "str"}
TEXTS = {"type": "list", "elements": "str"}
RULES = {"type": "list", "elements": "dict", "options": {"ip_protocol": NAME, "ports": TEXTS}}
ADDRESS = {
    "name": NAME,
    "description": TEXT,
    "address_type": {"type": "str", "choices": ["EXTERNAL", "INTERNAL"]},
    "ip_version": {"type": "str", "choices": ["IPV4", "IPV6"]},
    "address": TEXT,
    "purpose": TEXT,
    "prefix_length": {"type": "int"},
    "network": TEXT,
}
FIREWALL = {
    "name": NAME,
    "description": TEXT,
    "network": TEXT,
    "direction": {"type": "str", "choices": ["INGRESS", "EGRESS"]},
    "priority": {"type": "int"},
    "disabled": {"type": "bool"},
    "allowed": RULES,
    "denied": RULES,
    "source_ranges": TEXTS,
    "destination_ranges": TEXTS,
    "source_tags": TEXTS,
    "target_tags": TEXTS,
    "source_service_accounts": TEXTS,
    "target_service_accounts": TEXTS,
    "log_config": {"type": "dict", "options": {"enable": {"type": "bool", "required": True}}},
}
SUBNETWORK = {
    "name": NAME,
    "source_ip_ranges_to_nat": {"type": "list", "elements": "str", "default": ["ALL_IP_RANGES"]},
    "secondary_ip_range_names": TEXTS,
}
NAT = {
    "name": NAME,
    "nat_ips": TEXTS,
    "source_subnetwork_ip_ranges_to_nat": {
        "type": "str",
        "choices": ["ALL_SUBNETWORKS_ALL_IP_RANGES", "ALL_SUBNETWORKS_ALL_PRIMARY_IP_RANGES", "LIST_OF_SUBNETWORKS"],
    },
    "subnetworks": {"type": "list", "elements": "dict", "options": SUBNETWORK},
    "min_ports_per_vm": {"type": "int"},
    "max_ports_per_vm": {"type": "int"},
    "enable_dynamic_port_allocation": {"type": "bool"},
    "log_config": {
        "type": "dict",
        "options": {
            "enable": {"type": "bool", "required": True},
            "filter": {"type": "str", "choices": ["ALL", "ERRORS_ONLY", "TRANSLATIONS_ONLY"]},
        },
    },
}
ROUTER = {
    "name": NAME,
    "region": NAME,
    "network": NAME,
    "description": TEXT,
    "nats": {"type": "list", "elements": "dict", "options": NAT},
}
OPTIONS = {
    "addresses": {"type": "list", "elements": "dict", "default": [], "options": ADDRESS},
    "firewalls": {
        "type": "list", "elements": "dict", "default": [], "options": FIREWALL, "mutually_exclusive": [("allowed", "denied")],
    },
    "routers": {"type": "list", "elements": "dict", "default": [], "options": ROUTER},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}  # fmt: skip


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={**api.argument_spec(), **OPTIONS}, supports_check_mode=True)
    params = module.params
    gcp = api.connect(module)
    try:
        resources = compute.wanted(gcp.project, params["addresses"], params["firewalls"], params["routers"])
        _look(module, gcp, resources)
        compute.plan(resources, params["state"] == "absent")
    except compute.Refused as error:
        module.fail_json(msg=str(error))
    except api.GcpError as error:
        api.fail(module, error)
    planned = {id(each): each.diff() for each in resources if each.action != "unchanged"} if module._diff else {}
    if not module.check_mode:
        compute.carry_out(gcp, resources)
    result = {
        "changed": any(each.action != "unchanged" and not each.error for each in resources),
        "resources": [{**each.result(), **({"action": "failed"} if each.error else {})} for each in resources],
        "addresses": {each.wanted["name"]: each.result()["address"] for each in resources if each.kind is compute.ADDRESS},
    }
    if module._diff:
        result["diff"] = [planned[id(each)] for each in resources if id(each) in planned and not each.error]
    failed = [each for each in resources if each.error]
    if len(failed) == 1:
        api.fail(module, failed[0].error, **result)
    if failed:
        module.fail_json(msg="\n".join(str(each.error) for each in failed), **result)
    module.exit_json(**result)


def _look(module: AnsibleModule, gcp: api.Gcp, resources: list) -> None:
    try:
        compute.look(gcp, resources)
    except api.ApiDisabled as error:
        if not module.check_mode:
            raise
        module.warn(f"Nothing can be there yet: {error.service} is not switched on in {gcp.project}.")


if __name__ == "__main__":
    main()
