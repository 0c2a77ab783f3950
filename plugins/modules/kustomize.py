#!/usr/bin/python
# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Build manifests with kustomize."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kustomize
author: The mlops.platform contributors (@mlops)
short_description: Manifests built with kustomize, cached
version_added: 1.0.0
description:
  - Builds kustomizations on top of source trees with the kustomize of kubectl, in parallel.
  - A build is kept under the hash of its tree, its kustomization and kubectl, and is not made again as long as these are the same.
  - The cache is not part of the cluster, so nothing is ever reported as changed and the module works in check mode as well.
options:
  builds:
    description:
      - The builds by name. Each is a mapping of C(kustomization), the content of its C(kustomization.yaml) without apiVersion and kind, and
        C(tree), the name of the source tree that the kustomization reaches as C(tree/), if it needs one.
    type: dict
    required: true
  trees:
    description:
      - The source trees by name. Each is a directory, or a list of tar archives of repositories that are unpacked into one tree.
      - An archive is a mapping of C(file) and C(paths). The latter says what is taken from it, by directories in the archive (whose one
        directory at the top does not count) the directories of the tree; by default everything, where it is.
    type: dict
    default: {}
  kubectl:
    description: The kubectl, 1.27 or later.
    type: path
    default: kubectl
  cache_dir:
    description: The cache. Default is C(MLOPS_PLATFORM_CACHE), else C(~/.cache/mlops-platform).
    type: path
attributes:
  check_mode:
    support: full
    description: Fills the cache in check mode too.
  diff_mode:
    support: none
    description: Nothing changes.
"""

EXAMPLES = r"""
- name: Build the training operator into a namespace of our own
  mlops.platform.kustomize:
    trees:
      training: /srv/training-operator/manifests
    builds:
      training-operator:
        tree: training
        kustomization:
          namespace: training
          resources: [tree/overlays/kubeflow]
  register: built

- name: Apply it
  mlops.platform.k8s_apply:
    set: training
    files: "{{ built.files.values() }}"
"""

RETURN = r"""
files:
  description: File of each build, a List in JSON.
  returned: success
  type: dict
built:
  description: The builds that the cache did not have.
  returned: success
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.mlops.platform.plugins.module_utils.kustomize import KustomizeError, Workshop

    MISSING = None
except ImportError as error:  # PyYAML, which the documents are read with
    MISSING = error


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "builds": {"type": "dict", "required": True},
            "trees": {"type": "dict", "default": {}},
            "kubectl": {"type": "path", "default": "kubectl"},
            "cache_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("PyYAML"), exception=str(MISSING))
    options = module.params
    cache_dir = options["cache_dir"] or os.environ.get("MLOPS_PLATFORM_CACHE") or "~/.cache/mlops-platform"
    try:
        workshop = Workshop(cache_dir, options["kubectl"])
        files = workshop.build(options["trees"], options["builds"])
    except KustomizeError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"the cache {cache_dir} cannot be used: {error}. Set platform_cache_dir to a directory that can be written.")
    module.exit_json(changed=False, files=files, built=sorted(workshop.built))


if __name__ == "__main__":
    main()
