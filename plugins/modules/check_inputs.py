# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin check_inputs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_inputs
author: The mlops.platform contributors (@mlops)
short_description: Check what users set, all problems at once
version_added: 1.0.0
description:
  - Checks variables against rules before anything is touched, and fails with every problem in one message. Each line names the variable,
    its value, what is wrong, and what to write instead.
  - Runs on the controller only.
options:
  rules:
    description: The rules, one a variable.
    type: list
    elements: dict
    required: true
    suboptions:
      variable:
        description: Name of the variable.
        type: str
        required: true
      value:
        description: Check this value instead of the variable's.
        type: raw
      type:
        description: What it must be.
        type: str
        default: string
        choices:
          - count
          - port
          - bool
          - string
          - choice
          - dns_label
          - domain
          - quantity
          - quantities
          - resources
          - duration
          - url
          - path_exists
          - labels
          - node_selector
          - tolerations
          - workloads
          - ip
          - cidr
          - email
          - gcp_project
          - gpu_pool
      required:
        description: Whether it must be set. Otherwise null, the empty string and a variable that does not exist are accepted.
        type: bool
        default: false
      min:
        description: The least value (count, port, quantity, duration), or the least length (string).
        type: raw
      max:
        description: The greatest value, or the greatest length.
        type: raw
      choices:
        description: What is accepted (choice, string).
        type: list
        elements: raw
      pattern:
        description: A regular expression that must be found in it (string).
        type: str
      kind:
        description: What a path must be (path_exists).
        type: str
        choices: [any, file, directory]
        default: any
      schemes:
        description: The schemes of a URL that are accepted.
        type: list
        elements: str
        default: [https, http]
      each:
        description: Check each item of a list, or each value of a mapping.
        type: bool
        default: false
      hint:
        description: What to tell users in addition, such as where the value is found.
        type: str
      secret:
        description: Never show the value.
        type: bool
        default: false
attributes:
  check_mode:
    support: full
    description: Changes nothing in either mode.
  diff_mode:
    support: none
    description: Nothing changes.
"""

EXAMPLES = r"""
- name: Check the inputs
  mlops.platform.check_inputs:
    rules:
      - {variable: istio_gateway_replicas, type: count, min: 1}
      - {variable: knative_domain, type: domain}
      - {variable: oauth_client_secret, required: true, secret: true, hint: it is shown in the console under Credentials}
"""

RETURN = r"""
checked:
  description: How many rules were checked.
  returned: always
  type: int
"""
