#!/usr/bin/python
# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Provide the files of a component of a release set."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifacts
author: The mlops.platform contributors (@mlops)
short_description: Files of a release set, fetched, verified and cached
version_added: 1.0.0
description:
  - Provides the files that a component of a release set consists of, from upstream or as the mirror generated them out of source packages.
  - Every file is checked against its sha256 each time, also in the cache; a damaged entry of the cache is fetched again.
  - The cache is not part of the cluster, so nothing is ever reported as changed and the module works in check mode as well.
  - Proxies are taken from the environment (C(https_proxy), C(no_proxy)).
options:
  artifacts:
    description:
      - The artifacts by name, as the release set has them. A file has the keys C(url), C(sha256) and C(packages_sha256), a tree
        has C(url) and C(files), a mapping of relative paths to sums.
      - Where a sum is null the file is used with a warning that names it and its sum.
    type: dict
    required: true
  component:
    description: Name of the component in the release set.
    type: str
    required: true
  version:
    description: Version of the component.
    type: str
    required: true
  cache_dir:
    description: The cache. Default is C(MLOPS_PLATFORM_CACHE), else C(~/.cache/mlops-platform).
    type: path
  source:
    description:
      - Where the files come from. V(auto) is what C(source) in the cache says (written by C(make up)), V(upstream) without that file.
    type: str
    choices: [auto, upstream, packages]
    default: auto
  timeout:
    description: How long a server may stay silent, in seconds.
    type: float
    default: 20
attributes:
  check_mode:
    support: full
    description: Fills the cache in check mode too.
  diff_mode:
    support: none
    description: Nothing changes.
"""

EXAMPLES = r"""
- name: Get the charts of Istio
  mlops.platform.artifacts:
    artifacts: "{{ release.istio.artifacts }}"
    component: istio
    version: "{{ release.istio.version }}"
  register: istio_files
"""

RETURN = r"""
paths:
  description: File or directory of each artifact.
  returned: success
  type: dict
source:
  description: Where they came from, V(upstream) or V(packages).
  returned: success
  type: str
fetched:
  description: The artifacts that the cache did not have.
  returned: success
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mlops.platform.plugins.module_utils.artifacts import ArtifactError, Store


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "artifacts": {"type": "dict", "required": True},
            "component": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "cache_dir": {"type": "path"},
            "source": {"type": "str", "choices": ["auto", "upstream", "packages"], "default": "auto"},
            "timeout": {"type": "float", "default": 20},
        },
        supports_check_mode=True,
    )
    options = module.params
    cache_dir = options["cache_dir"] or os.environ.get("MLOPS_PLATFORM_CACHE") or "~/.cache/mlops-platform"
    try:
        store = Store(cache_dir, options["component"], options["version"], options["source"], options["timeout"])
        paths = store.provide(options["artifacts"])
    except ArtifactError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"the cache {cache_dir} cannot be used: {error}. Set platform_cache_dir to a directory that can be written.")
    for warning in store.warnings:
        module.warn(warning)
    module.exit_json(changed=False, paths=paths, source=store.source, fetched=store.fetched)


if __name__ == "__main__":
    main()
