# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter from a selection of components to what there is to do for them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: component_plan
author: The mlops.platform contributors (@mlops)
short_description: What there is to build, apply and await for a selection of components
version_added: 1.0.0
description:
  - Puts together what a catalog says about the selected components.
positional: catalog, namespace, secrets
options:
  _input:
    description: Names of the selected components.
    type: list
    elements: str
    required: true
  catalog:
    description:
      - All components by name. Each may have C(tree) and C(paths) (a source tree, and the directories of it that are built),
        C(kustomization) (more of what its kustomization has), C(needs) (other components), C(workloads) (C(name), C(kind), default
        C(Deployment), and C(containers)) and C(ready) (further objects to wait for).
      - C(secrets) has the keys of its Secrets by name, with a value where it is always the same, else null.
      - C(recreate) has objects, as for M(mlops.platform.k8s_apply), that another version has with fields that cannot be changed.
      - C(namespace) is where its workloads and Secrets are, if not in O(namespace).
    type: dict
    required: true
  namespace:
    description: Namespace of the workloads and Secrets of components that name none.
    type: str
    required: true
  secrets:
    description: Values of the Secrets' keys, by name of the Secret and by key.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Show what is awaited
  ansible.builtin.debug:
    msg: "{{ (['web'] | mlops.platform.component_plan({'web': {'ready': [{'kind': 'Service', 'name': 'web'}]}}, 'default')).ready }}"
"""

RETURN = r"""
_value:
  description:
    - C(problems), a clause for each component that needs others which are not selected, such as C(katib needs profiles), and C(lacking),
      all that is to be selected beside, also for these others.
    - C(trees), the names of the source trees, and C(builds) for M(mlops.platform.kustomize).
    - C(workloads) for the filter P(mlops.platform.workload_patches#filter), C(ready) for M(mlops.platform.k8s_ready) and C(recreate) for
      M(mlops.platform.k8s_apply).
    - C(secrets), the documents of the Secrets, C(exclude), what these replace, and C(missing_secrets), the keys without a value.
    - Every object of a build has the label C(mlops.platform/component), the name of its component.
  type: dict
"""

import base64

LABEL = "mlops.platform/component"


def component_plan(selected, catalog, namespace, secrets=None):
    """Return problems, lacking, trees, builds, workloads, ready, secrets, exclude and missing_secrets of the selected components."""
    chosen = {name: catalog[name] for name in selected if name in catalog}
    values = secrets or {}
    kept = [
        (name, part.get("namespace", namespace), secret, {**keys, **_given(keys, values.get(secret))})
        for name, part in chosen.items()
        for secret, keys in part.get("secrets", {}).items()
    ]
    workloads = [
        {"kind": "Deployment", **workload, "namespace": part.get("namespace", namespace)}
        for part in chosen.values()
        for workload in part.get("workloads", [])
    ]
    return {
        "problems": [f"{name} needs {', '.join(needs)}" for name, needs in _unmet(chosen).items() if needs],
        "lacking": _closure(chosen, catalog),
        "trees": sorted({part["tree"] for part in chosen.values() if part.get("tree")}),
        "builds": {name: _build(name, part) for name, part in chosen.items()},
        "workloads": workloads,
        "ready": [
            *({key: workload[key] for key in ("kind", "namespace", "name")} for workload in workloads),
            *(dict(item) for part in chosen.values() for item in part.get("ready", [])),
        ],
        "recreate": [dict(item) for part in chosen.values() for item in part.get("recreate", [])],
        "secrets": [_secret(*item) for item in kept],
        "exclude": [{"kind": "Secret", "namespace": place, "name": secret} for _name, place, secret, _data in kept],
        "missing_secrets": [f"{secret}.{key} ({name})" for name, _place, secret, data in kept for key, value in data.items() if not value],
    }


def _unmet(chosen):
    return {name: [need for need in part.get("needs", []) if need not in chosen] for name, part in chosen.items()}


def _closure(chosen, catalog):
    found = dict(chosen)
    while needs := sorted({need for unmet in _unmet(found).values() for need in unmet}):
        found.update((need, catalog[need]) for need in needs)
    return [name for name in found if name not in chosen]


def _build(name, part):
    resources = {"resources": [f"tree/{path}" for path in part["paths"]]} if part.get("paths") else {}
    labels = {"labels": [{"pairs": {LABEL: name}}]}
    return {
        **({"tree": part["tree"]} if part.get("tree") else {}),
        "kustomization": {**resources, **labels, **part.get("kustomization", {})},
    }


def _given(keys, values):
    return {key: (values or {}).get(key) for key, value in keys.items() if value is None}


def _secret(name, namespace, secret, data):
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret, "namespace": namespace, "labels": {LABEL: name}},
        "data": {key: base64.b64encode(str(value or "").encode()).decode() for key, value in data.items()},
    }


class FilterModule:
    """The filter under its name."""

    def filters(self):
        """Return the filters of this file."""
        return {"component_plan": component_plan}
