# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lookup of a release set."""

from __future__ import annotations

DOCUMENTATION = r"""
name: release
author: The mlops.platform contributors (@mlops)
short_description: A release set, validated
version_added: 1.0.0
description:
  - Reads a release set (which versions of the components belong together, and where their files come from) and validates it.
options:
  _terms:
    description:
      - Name of a file in C(releases/) of this collection without C(.yml), or a path.
    required: true
    type: list
    elements: string
  component:
    description:
      - Return only this component.
    type: string
"""

EXAMPLES = r"""
- name: Show the version of Istio in the release set
  ansible.builtin.debug:
    msg: "{{ lookup('mlops.platform.release', platform_release, component='istio').version }}"
"""

RETURN = r"""
_raw:
  description: The release set, or the component, of each term.
  type: list
  elements: dict
"""

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.mlops.platform.plugins.module_utils import releases


class LookupModule(LookupBase):
    """`lookup('mlops.platform.release', name)` → the release set."""

    def run(self, terms, variables=None, **kwargs):
        """Load each release set named."""
        self.set_options(var_options=variables, direct=kwargs)
        component = self.get_option("component")
        try:
            found = [releases.load(str(term)) for term in terms]
            return [releases.component(release, component) for release in found] if component else found
        except releases.ReleaseError as error:
            raise AnsibleLookupError(str(error)) from None
