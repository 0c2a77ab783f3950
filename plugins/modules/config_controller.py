#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make, change and remove a Config Controller instance."""

from __future__ import annotations

DOCUMENTATION = r"""
module: config_controller
author: The mlops.platform contributors (@mlops)
short_description: Make, change and remove a Config Controller instance
version_added: 1.0.0
description:
  - Config Controller is a GKE cluster that Google runs, with Config Connector, Config Sync and Policy Controller on it. Making one takes
    up to twenty minutes.
  - An instance that another run is making or changing is waited for and taken over.
options:
  name:
    description:
      - Name, at most 18 characters, since C(NAME-cnrm-system) has to be the name of a service account. The cluster is called
        C(krmapihost-NAME).
    type: str
    required: true
  location:
    description:
      - Region. Config Controller is in few of them, such as V(us-central1), V(europe-west1) and V(asia-northeast1). It may be another
        than that of the clusters that it makes.
    type: str
    required: true
  state:
    description: Whether it exists. With V(absent), what it has made in Google Cloud stays, and is managed by nobody.
    type: str
    choices: [present, absent]
    default: present
  management:
    description: Whether the cluster below is a Standard one, or Autopilot (V(full)). Default of a new one is V(standard).
    type: str
    choices: [standard, full]
  network:
    description: VPC network. Default is V(default).
    type: str
  subnet:
    description: Subnetwork of O(network).
    type: str
  control_plane_cidr:
    description: A V(/28) for the control plane. Default of a new one with O(management=standard) is V(172.16.0.128/28), as gcloud has it.
    type: str
  cluster_cidr:
    description: Addresses of the pods, a CIDR or a size such as V(/20).
    type: str
  services_cidr:
    description: Addresses of the services, a CIDR or a size such as V(/24).
    type: str
  authorized_network:
    description: CIDR that reaches the control plane. Google's default is V(0.0.0.0/0). The only option that can be changed afterwards.
    type: str
  private_endpoint:
    description: Whether the control plane has an internal address only.
    type: bool
extends_documentation_fragment:
  - mlops.platform.gcp
attributes:
  check_mode:
    support: full
    description: Where the API is not switched on yet, the instance is predicted as created, with a warning.
  diff_mode:
    support: full
    description: Shows the options that are given.
notes:
  - O(location), O(management), O(network), O(subnet) and the addresses cannot be changed afterwards.
"""

EXAMPLES = r"""
- name: A management cluster
  mlops.platform.config_controller:
    project: my-project
    location: asia-northeast1
    name: mgt-cluster
"""

RETURN = r"""
action:
  description: V(created), V(changed), V(deleted) or V(unchanged).
  returned: always
  type: str
fields:
  description: The options that differed.
  returned: always
  type: list
  elements: str
instance_state:
  description: What Google says of it, such as V(RUNNING). Empty where it is not there (yet).
  returned: success
  type: str
cluster:
  description: Name of the GKE cluster below, for M(mlops.platform.gke_kubeconfig).
  returned: success
  type: str
cluster_location:
  description: Its region.
  returned: success
  type: str
gke_resource_link:
  description: Its link.
  returned: success
  type: str
"""

import re

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, gke

HOSTS = "krmapihosting.projects.locations.krmApiHosts"
OPERATIONS = "krmapihosting.projects.locations.operations.get"
NAME = re.compile(r"[a-z]([a-z0-9-]{0,16}[a-z0-9])?")
CONTROL_PLANE = "172.16.0.128/28"
# Where gcloud said it was, when this was written
REGIONS = (
    "asia-northeast1", "asia-northeast2", "asia-southeast1", "australia-southeast1", "australia-southeast2", "europe-north1",
    "europe-west1", "europe-west3", "europe-west6", "northamerica-northeast1", "northamerica-northeast2", "us-central1", "us-east1",
    "us-east4", "us-east5", "us-west2",
)  # fmt: skip
# Options by the fields of standardManagementConfig and fullManagementConfig
FIELDS = {
    "network": "network",
    "subnet": "subnet",
    "control_plane_cidr": "masterIpv4CidrBlock",
    "cluster_cidr": "clusterCidrBlock",
    "services_cidr": "servicesCidrBlock",
    "authorized_network": "manBlock",
}
KINDS = {"standard": "standardManagementConfig", "full": "fullManagementConfig"}
STOPPED = {
    "SUSPENDED": "find out why in the console, at https://console.cloud.google.com/welcome?project={project}; Google does so on violations",
    "READ_ONLY": "see that the project's billing account is open: `gcloud billing projects describe {project}`",
}

OPTIONS = {
    **api.argument_spec(),
    "name": {"type": "str", "required": True},
    "location": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "management": {"type": "str", "choices": list(KINDS)},
    "network": {"type": "str"},
    "subnet": {"type": "str"},
    "control_plane_cidr": {"type": "str"},
    "cluster_cidr": {"type": "str"},
    "services_cidr": {"type": "str"},
    "authorized_network": {"type": "str"},
    "private_endpoint": {"type": "bool"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True, required_by={"subnet": "network"})
    options = gke.without_empty(module.params)
    try:
        check(options)
    except api.GcpError as error:
        api.fail(module, error)
    gcp = api.connect(module)
    work = Work(gcp, options)
    try:
        try:
            work.plan()
        except api.ApiDisabled as error:
            if not module.check_mode:
                raise
            module.warn(gke.prediction(error, gcp.project))
            work.compare(None)
        if work.action == "created" and options["location"] not in REGIONS:
            module.warn(f"location: {elsewhere(module.params['location'])}")
        if not module.check_mode:
            work.do()
    except api.GcpError as error:
        api.fail(module, error, changed=False, action=work.action, fields=work.fields)
    module.exit_json(changed=work.action != "unchanged", **work.result(), **({"diff": work.diff()} if module._diff else {}))


def check(options: dict) -> None:
    """Raise BadRequest for a name or location that cannot be."""
    name, location = options["name"], options["location"]
    if not NAME.fullmatch(name):
        long = f" It has {len(name)} characters; {name}-cnrm-system would be too long for a service account." if len(name) > 18 else ""
        raise api.BadRequest(
            f"name: {name!r} cannot be the name of a Config Controller.{long}",
            "at most 18 lower-case letters, digits and hyphens, a letter first and no hyphen last",
        )
    gke.check_location(location)
    if re.search(r"[0-9]-[a-z]$", location):
        raise api.BadRequest(f"location: {location} is a zone.", f"Config Controller wants a region, such as {location[:-2]}")


def elsewhere(location: str) -> str:
    """What is to be said about a region that is not known to have Config Controller."""
    return f"{location} is not among the regions that are known to have Config Controller: {', '.join(REGIONS)}"


def wanted_of(options: dict) -> dict:
    """The options that are given and can be compared."""
    return {name: options[name] for name in ("management", *FIELDS, "private_endpoint") if options[name] is not None}


def found_of(host: dict, wanted: dict) -> dict:
    """What an instance has of what is wanted."""
    management = host.get("managementConfig", {})
    kind = "full" if "fullManagementConfig" in management else "standard"
    config = management.get(KINDS[kind], {})
    found = {option: config.get(field, "") for option, field in FIELDS.items()}
    found["authorized_network"] = found["authorized_network"] or "0.0.0.0/0"
    found["network"] = gke.same_end(wanted.get("network"), found["network"] or "default")
    found["subnet"] = gke.same_end(wanted.get("subnet"), found["subnet"])
    found.update(management=kind, private_endpoint=host.get("usePrivateEndpoint", False))
    return {name: found[name] for name in wanted}


def body_of(options: dict) -> dict:
    """A new instance as the API takes it."""
    kind = options["management"] or "standard"
    config = {field: options[option] for option, field in FIELDS.items() if options[option] is not None}
    if kind == "standard":
        config.setdefault("masterIpv4CidrBlock", CONTROL_PLANE)
    body = {"bundlesConfig": {"configControllerConfig": {"enabled": True}}, "managementConfig": {KINDS[kind]: config}}
    return {**body, "usePrivateEndpoint": True} if options["private_endpoint"] else body


class Work:
    """What is to be done to an instance."""

    def __init__(self, gcp: api.Gcp, options: dict):
        self.gcp, self.options = gcp, options
        self.name = f"Config Controller {options['name']}"
        self.parent = gke.cluster_path(gcp.project, options["location"])
        self.path = f"{self.parent}/krmApiHosts/{options['name']}"
        self.wanted = wanted_of(options)
        self.found: dict = {}
        self.host: dict = {}
        self.action, self.fields = "unchanged", []

    def plan(self) -> None:
        """Read and compare. Raises GcpError for what cannot be had."""
        self.compare(self._settled())

    def _settled(self) -> dict | None:
        busy = ("CREATING", "UPDATING", "DELETING")
        return gke.settle(
            self.gcp,
            lambda: self.gcp.call(f"{HOSTS}.get", name=self.path),
            lambda host: host["state"] if host.get("state") in busy else "",
            self.name,
        )

    def compare(self, host: dict | None) -> None:
        """Find out what is to be done. Raises GcpError for what cannot be repaired."""
        self.host, self.action, self.fields, self.found = host or {}, "unchanged", [], {}
        if self.options["state"] == "absent":
            self.action = "deleted" if host else "unchanged"
        elif not host:
            self.action = "created"
        elif host.get("state") in STOPPED:
            remedy = STOPPED[host["state"]].format(project=self.gcp.project)
            raise api.GcpError(f"{self.name} has the state {host['state']}.", remedy, reason=host["state"])
        else:
            self.found = found_of(host, self.wanted)
            self.fields = gke.different(self.wanted, self.found)
            remedy = "set the option to what is there, or remove the instance (state: absent) and make it again; what it has made stays"
            gke.refuse_immutable(self.name, self.fields, ("authorized_network",), self.wanted, self.found, remedy)
            self.action = "changed" if self.fields else "unchanged"

    def do(self) -> None:
        """Run the request, wait, and read what has become of it."""
        if self.action == "unchanged":
            return
        action, fields, before = self.action, self.fields, self.found
        operation = None
        try:
            operation = {"created": self._create, "changed": self._change, "deleted": self._delete}[action]()
        except (api.AlreadyExists, api.Conflict):
            pass  # another run is at it, or an attempt of this one whose answer got lost
        except api.NotFound:
            if action != "deleted":
                raise
        except (api.BadRequest, api.Denied) as error:
            if action == "created" and self.options["location"] not in REGIONS and not isinstance(error, api.ApiDisabled):
                error.args = (f"{error} Note that {elsewhere(self.options['location'])}.",)
            raise
        if operation:
            self.gcp.wait(operation, OPERATIONS, what=f"{self.name}: {action.removesuffix('d')}")
        self.compare(self._settled())
        if self.action != "unchanged":
            doubt = f" ({', '.join(self.fields)})" if self.fields else ""
            raise api.Conflict(f"{self.name} was to be {action}, and is not{doubt}: somebody else is at it.", "run again")
        self.action, self.fields, self.found = action, fields, before

    def _create(self) -> dict:
        return self.gcp.call(f"{HOSTS}.create", body_of(self.options), retry=True, parent=self.parent, krmApiHostId=self.options["name"])

    def _change(self) -> dict:
        kind = "full" if "fullManagementConfig" in self.host.get("managementConfig", {}) else "standard"
        body = {"managementConfig": {KINDS[kind]: {"manBlock": self.options["authorized_network"]}}}
        mask = f"management_config.{kind}_management_config.man_block"
        return self.gcp.call(f"{HOSTS}.patch", body, name=self.path, updateMask=mask)

    def _delete(self) -> dict:
        return self.gcp.call(f"{HOSTS}.delete", retry=True, name=self.path)

    def result(self) -> dict:
        """What the module returns."""
        link = self.host.get("gkeResourceLink", "")
        return {
            "action": self.action,
            "fields": self.fields,
            "instance_state": self.host.get("state", ""),
            "cluster": link.rpartition("/")[2] or f"krmapihost-{self.options['name']}",
            "cluster_location": link.split("/")[-3] if "/clusters/" in link else self.options["location"],
            "gke_resource_link": link,
        }

    def diff(self) -> dict:
        """The given options before and after."""
        if self.action == "deleted":
            return {"before": {"state": "present"}, "after": {"state": "absent"}}
        return {"before": self.found, "after": {"state": "present", **self.wanted} if self.action == "created" else self.wanted}


if __name__ == "__main__":
    main()
