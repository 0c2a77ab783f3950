#!/usr/bin/python
# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Choose a location where a project gets the accelerators it wants."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_accelerators
author: The mlops.platform contributors (@mlops)
short_description: Choose a location that offers accelerators, with quota left for them
version_added: 1.0.0
description:
  - Finds the zones that offer the wanted accelerators, compares the project's quotas - of the region, for Spot VMs, over all regions - and
    chooses the first zone that fits, with the reason in a sentence.
  - Where nothing fits, the error tells what is offered where, which quotas are too small, and where to ask for more.
  - A quota that Google does not report by region (newer families such as B200) is not looked at.
  - Never changes anything.
options:
  accelerators:
    description: What is wanted together in one location, in addition to what is in use. Without any, only a location is chosen.
    type: list
    elements: dict
    default: []
    suboptions:
      type:
        description: Accelerator type, such as V(nvidia-l4).
        type: str
        required: true
      count:
        description: How many.
        type: int
        default: 1
      spot:
        description: Whether on Spot VMs. These use a quota of their own once the project has one, and the standard quota before.
        type: bool
        default: false
  location:
    description: The zone or region to take. It is only checked then.
    type: str
  prefer:
    description: Zones, regions or beginnings of their names (V(asia), V(us-central)), the best first.
    type: list
    elements: str
    default: []
  elsewhere:
    description: Whether, where no preference fits, any other zone will do, those of the same continents first.
    type: bool
    default: true
  cluster:
    description:
      - Name of a GKE cluster. Where the project has it already, its location is taken, so that a cluster never moves; what speaks against
        that location is returned in RV(problems) instead of being an error, as the cluster's own nodes use the quota.
    type: str
extends_documentation_fragment:
  - mlops.platform.gcp
attributes:
  check_mode:
    support: full
    description:
      - Where an API that is needed is still switched off, O(location), or else the first of O(prefer), is taken unchecked, with a warning.
  diff_mode:
    support: none
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Choose where the GPUs are
  mlops.platform.gcp_accelerators:
    project: my-project
    accelerators: [{type: nvidia-l4, count: 1}]
    prefer: [asia-northeast3, us-central1]
  register: place

- name: See whether two more fit where the cluster is
  mlops.platform.gcp_accelerators:
    project: my-project
    accelerators: [{type: nvidia-l4, count: 2, spot: true}]
    location: asia-northeast3
"""

RETURN = r"""
location:
  description: The chosen zone, or the region that was asked for.
  returned: success
  type: str
  sample: asia-northeast3-b
region:
  description: The region of it.
  returned: success
  type: str
  sample: asia-northeast3
zones:
  description: The zones in RV(location) that offer all that is wanted.
  returned: success
  type: list
  elements: str
  sample: [asia-northeast3-b]
reason:
  description: Why this location.
  returned: success
  type: str
  sample: "asia-northeast3-b: preferred (asia-northeast3), offers 1 × nvidia-l4 (NVIDIA_L4_GPUS: 0 of 1 in use)"
problems:
  description: What speaks against the location that O(cluster) is in.
  returned: success
  type: list
  elements: str
cluster_exists:
  description: Whether the project has O(cluster).
  returned: success
  type: bool
checked:
  description: Whether Google was asked. Only in check mode, with an API switched off, it was not.
  returned: success
  type: bool
offered:
  description: By accelerator type, the zones that offer it.
  returned: when it was looked up
  type: dict
  sample: {nvidia-l4: [asia-northeast3-a, asia-northeast3-b]}
quota:
  description: The quotas of the location, or, where nothing fits, of all regions that offer what is wanted.
  returned: when it was looked up
  type: list
  elements: dict
  contains:
    metric:
      description: Name of the quota.
      type: str
    region:
      description: Region, empty for a quota over all regions.
      type: str
    limit:
      description: Limit, -1 for none.
      type: int
    usage:
      description: How many are in use.
      type: int
    free:
      description: How many are left, -1 without a limit.
      type: int
    wanted:
      description: How many are wanted.
      type: int
    enough:
      description: Whether that is enough.
      type: bool
"""

import re

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mlops.platform.plugins.module_utils.gcp import accelerators, api

OPTIONS = {
    "accelerators": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "type": {"type": "str", "required": True},
            "count": {"type": "int", "default": 1},
            "spot": {"type": "bool", "default": False},
        },
    },
    "location": {"type": "str"},
    "prefer": {"type": "list", "elements": "str", "default": []},
    "elsewhere": {"type": "bool", "default": True},
    "cluster": {"type": "str"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={**api.argument_spec(), **OPTIONS}, supports_check_mode=True)
    wanted = [accelerators.Wanted(**each) for each in module.params["accelerators"]]
    for each in wanted:
        if each.count < 1:
            module.fail_json(msg=f"accelerators: {each.count} of {each.type} is not a number of accelerators; write 1 or more")
    gcp = api.connect(module)
    try:
        result = run(gcp, wanted, module.params)
    except accelerators.NothingFits as error:
        module.fail_json(msg=str(error), offered=error.offered, quota=[each.result() for each in error.quota])
    except api.ApiDisabled as error:
        places = [place for place in (module.params["location"], *module.params["prefer"]) if place]
        if not module.check_mode or not places:
            api.fail(module, error)
        module.warn(f"{places[0]} is taken unchecked: {error.service} is not switched on yet in {gcp.project}.")
        reason = f"{places[0]}: not checked, {error.service} is not switched on yet"
        region = re.sub(r"(\d)-[a-z]$", r"\1", places[0])
        result = {"location": places[0], "region": region, "zones": [], "reason": reason}
        result |= {"problems": [], "cluster_exists": False, "checked": False}
    except api.GcpError as error:
        api.fail(module, error)
    module.exit_json(changed=False, **result)


def run(gcp: api.Gcp, wanted: list, params: dict) -> dict:
    """Ask and choose."""
    location = params["location"] or ""
    there = accelerators.existing(gcp, params["cluster"], location) if params["cluster"] else ""
    found = accelerators.survey(gcp)
    chosen = accelerators.choose(
        found,
        wanted,
        location=there or location,
        decided_by=f"the cluster {params['cluster']} is there" if there else "",
        prefer=params["prefer"],
        elsewhere=params["elsewhere"],
    )
    return {
        "location": chosen.location,
        "region": chosen.region,
        "zones": chosen.zones,
        "reason": chosen.reason,
        "problems": chosen.problems,
        "cluster_exists": bool(there),
        "checked": True,
        "offered": {each.type: sorted(found.offers.get(each.type, ())) for each in wanted},
        "quota": [each.result() for each in chosen.quota],
    }


if __name__ == "__main__":
    main()
