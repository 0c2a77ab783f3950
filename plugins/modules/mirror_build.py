#!/usr/bin/python
"""Documentation of the action plugin of the same name, which does the work."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_build
short_description: Build programs, images and manifests of release sets from packages
description:
  - Builds what release sets name from Go modules, PyPI and Debian, for machines that reach package registries only. The result is a cache
    directory with tools, manifests and an image layout, a kind node image in Docker, and a registry container that serves the layout.
  - Runs on the controller and prints each step as it finishes. Steps whose inputs have not changed are not run again; a run that was
    interrupted continues where it stopped.
  - Called by the role P(mlops.platform.mirror#role), which holds the recipes and describes their format.
options:
  releases: {description: Release sets as P(mlops.platform.release#lookup) loads them., type: list, elements: dict, required: true}
  components: {description: Recipes of the release sets' components., type: dict, required: true}
  kubernetes: {description: Recipes of the node's parts by Kubernetes version., type: dict, required: true}
  tools: {description: Recipes of the tools., type: dict, required: true}
  registry: {description: Recipe of the registry's image., type: dict, required: true}
  bases: {description: What images stand on., type: dict, required: true}
  wheels: {description: 'Locks of packages that carry programs, by name.', type: dict, required: true}
  node_packages: {description: Debian packages of the node., type: list, elements: str, required: true}
  suite: {description: Debian suite., type: str, required: true}
  python: {description: Version of that suite's Python., type: str, required: true}
  go_minimum: {description: Oldest Go that builds everything., type: str, required: true}
  files: {description: Directory of the files that recipes name., type: path, required: true}
  cache_dir: {description: Where everything is kept., type: path, required: true}
  debian_mirror: {description: 'Debian mirror; default: that of debootstrap.', type: str}
  environment: {description: 'Environment of Go, for instance GOPROXY or GOCACHE.', type: dict}
  workers: {description: How many compilations run side by side., type: int, default: 2}
attributes:
  check_mode: {support: full, description: Says what would be built.}
author: [mlops.platform]
"""
EXAMPLES = r"""
- name: Build the mirror
  ansible.builtin.import_role:
    name: mlops.platform.mirror
"""
RETURN = r"""
steps: {description: The steps that ran (or would run) with the seconds that each took., type: list, elements: dict, returned: success}
images: {description: Names that the registry answers for., type: list, elements: str, returned: success}
node_images: {description: kind node images in Docker., type: list, elements: str, returned: success}
registry: {description: Name of the registry's container., type: str, returned: success}
"""
