#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Apply or remove a batch of Kubernetes documents."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_apply
author: The mlops.platform contributors (@mlops)
short_description: Apply a batch of Kubernetes documents server-side, aware of who owns which field
version_added: 1.0.0
description:
  - Applies the documents of manifests in phases - CustomResourceDefinitions (until they are Established), Namespaces, everything else,
    webhook configurations, custom resources - and in parallel within a phase. Kinds, namespaces and conflicts are checked by the server.
  - Before anything is written, every kind and namespace is looked up; a missing one is an error that names the object and the remedy.
  - An object that a webhook refuses because the webhook is still starting is tried again until O(timeout), or until it is known that
    waiting does not help; the error then names the webhook and what is wrong with the pods behind it. Nothing else is retried.
  - Where another field manager has changed a field since, its kind decides. A person's tool (kubectl, k9s, Lens, …) - the field is
    taken back, and reported as a change. A declarative tool (Helm, Argo CD, Flux, Terraform, whatever uses server-side apply) - an
    error that names both managers, the fields and O(force_managers). Any other, that is a controller - the field is left to it, see
    RV(left).
    What somebody added beside the applied fields stays.
  - Only differences of contents count as changes, not those of status or of C(managedFields).
options:
  set:
    description: Name of what is applied. The field manager is C(mlops-platform-<set>).
    type: str
    required: true
  set_namespace:
    description:
      - Namespace of the ConfigMap C(mlops-platform-<set>), which lists what was applied. It may be created by the documents; then it is
        created first, and the list next, so that an interrupted run forgets nothing.
      - Without it there is no list, and nothing can be pruned. Like C(managedFields), the list never counts as a change.
    type: str
  state:
    description:
      - V(absent) deletes the objects and waits until they are gone - custom resources first, then the definitions with everything
        that was made of them, then the rest, namespaces last. A timeout names the finalizers that block.
    type: str
    choices: [present, absent]
    default: present
  files:
    description:
      - Manifests in YAML or JSON. Lists are flattened. The same object twice is an error, unless both are equal.
    type: list
    elements: path
    default: []
  documents:
    description: Further documents. Ansible shows them (C(-vvv)), so Secrets with data are refused here; see O(secrets).
    type: list
    elements: dict
    default: []
  secrets:
    description:
      - Further documents, as JSON text of a list, which is shown nowhere. Meant for Secrets.
    type: str
    default: '[]'
  namespace:
    description: Namespace of namespaced documents that name none.
    type: str
    default: default
  patches:
    description: Changes to the documents, in this order. One that matches no document is an error.
    type: list
    elements: dict
    default: []
    suboptions:
      target:
        description: The documents that are meant.
        type: dict
        required: true
        suboptions: &target
          kind:
            description: Kind.
            type: str
            required: true
          name:
            description: Name, or a pattern such as V(config-*). Without it every object of the kind is meant.
            type: str
          namespace:
            description: Namespace, or a pattern.
            type: str
          apiVersion:
            description: API version.
            type: str
      merge:
        description: JSON merge patch (null deletes), except that lists whose items all have a C(name) are merged by it.
        type: dict
      json_data:
        description: By key of a ConfigMap's data, what is merged into the JSON text under this key.
        type: dict
      optional:
        description: Whether it may match nothing.
        type: bool
        default: false
  images:
    description:
      - Image references, to be replaced where one equals a key - in containers (image, arguments, command, environment) and in the data
        of ConfigMaps, there also as a string within JSON text.
    type: dict
    default: {}
  exclude:
    description: Documents to leave out.
    type: list
    elements: dict
    default: []
    suboptions: *target
  prune:
    description:
      - Whether to delete what an earlier run of the set applied and the documents no longer have.
      - Namespaces are never pruned, nor is what another set lists or what this field manager has no field of any more;
        CustomResourceDefinitions and PersistentVolumeClaims only if O(prune_data) says so. With O(state=absent), what is listed is deleted
        too.
    type: bool
    default: false
  prune_data:
    description:
      - Whether to prune what takes data with it. V(keep) prunes neither CustomResourceDefinitions nor PersistentVolumeClaims. V(unused)
        prunes the CustomResourceDefinitions of which there are no objects; a warning names the objects of the others, which are looked at
        again by later runs. V(delete) prunes both, with all that they hold.
    type: str
    choices: [keep, unused, delete]
    default: keep
  prune_keep:
    description:
      - What is not pruned either. As long as it exists it stays in the list of the set, and every run names it in RV(kept).
    type: list
    elements: dict
    default: []
    suboptions: *target
  owner_annotation:
    description:
      - Annotation that says whose a namespace is, such as V(owner) for Kubeflow's users. A namespace of the cluster that has another value
        than the document, or none and was not made by this set, is an error before anything is written, in check mode too.
      - With O(state=absent), a namespace without it is not deleted.
    type: str
  force_managers:
    description: Field managers (patterns) that lose conflicts, e.g. V(helm) to take over what Helm installed.
    type: list
    elements: str
    default: []
  check_capacity:
    description:
      - Whether to fail, before anything is written, where the nodes together have less free than the workloads request that are new or
        request more than those in the cluster. What the same run prunes counts as free.
      - The sum says what surely does not fit; that everything fits on single nodes is the scheduler's to find. What is added on the way
        (sidecars of a webhook, replicas of an autoscaler) is not known.
    type: bool
    default: false
  capacity_remedy:
    description: What to do then, said in the error.
    type: str
    default: add nodes, or apply less, or lower what the workloads request
  recreate:
    description:
      - Objects that are deleted and made anew where a field has another value that the server does not let anybody change, such as the
        selector of a Deployment. Any other object of this kind is an error that names the field. Their pods go and come again.
    type: list
    elements: dict
    default: []
    suboptions: *target
  timeout:
    description: How long to wait for definitions, webhooks and deletions, in seconds.
    type: float
    default: 300
extends_documentation_fragment:
  - mlops.platform.cluster
attributes:
  check_mode:
    support: full
    description: Asks the server (dry run). Objects of kinds and namespaces that do not exist yet are predicted as created.
  diff_mode:
    support: full
    description: Values of Secrets are hidden.
"""

EXAMPLES = r"""
- name: Apply manifests with a change
  mlops.platform.k8s_apply:
    set: web
    set_namespace: web
    prune: true
    files: [/srv/web/web.yaml]
    images: {"docker.io/library/nginx:1.29": "registry.example.com/nginx:1.29"}
    patches:
      - target: {kind: Deployment, name: web}
        merge: {spec: {template: {spec: {containers: [{name: web, resources: {requests: {cpu: 100m}}}]}}}}
      - target: {kind: ConfigMap, name: web-config}
        json_data: {ingress: {domain: example.com}}

- name: Remove it
  mlops.platform.k8s_apply:
    set: web
    set_namespace: web
    state: absent
    prune: true
    files: [/srv/web/web.yaml]
"""

RETURN = r"""
objects:
  description: The objects, and what was done to each.
  returned: always
  type: list
  elements: dict
  contains:
    apiVersion:
      description: API version.
      type: str
    kind:
      description: Kind.
      type: str
    namespace:
      description: Namespace, empty for an object without one.
      type: str
    name:
      description: Name.
      type: str
    action:
      description: V(created), V(configured), V(unchanged) or V(deleted).
      type: str
left:
  description: The fields that were left to controllers.
  returned: always
  type: list
  elements: dict
  sample:
    - object: ValidatingWebhookConfiguration config.webhook.serving.knative.dev
      fields: ['.webhooks[name="config.webhook.serving.knative.dev"].rules']
      manager: webhook
kept:
  description: What the documents no longer have, and O(prune_keep) keeps. Each with apiVersion, kind, namespace and name.
  returned: always
  type: list
  elements: dict
"""

import json
import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.mlops.platform.plugins.module_utils import apply, documents
    from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster, ClusterError

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()

TARGET = {
    "kind": {"type": "str", "required": True},
    "name": {"type": "str"},
    "namespace": {"type": "str"},
    "apiVersion": {"type": "str"},
}
PATCH = {
    "target": {"type": "dict", "required": True, "options": TARGET},
    "merge": {"type": "dict"},
    "json_data": {"type": "dict"},
    "optional": {"type": "bool", "default": False},
}
PRUNE_DATA = ("keep", "unused", "delete")
OPTIONS = {
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
    "set": {"type": "str", "required": True},
    "set_namespace": {"type": "str"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "files": {"type": "list", "elements": "path", "default": []},
    "documents": {"type": "list", "elements": "dict", "default": []},
    "secrets": {"type": "str", "default": "[]", "no_log": True},
    "namespace": {"type": "str", "default": "default"},
    "patches": {"type": "list", "elements": "dict", "default": [], "options": PATCH},
    "images": {"type": "dict", "default": {}},
    "exclude": {"type": "list", "elements": "dict", "default": [], "options": TARGET},
    "prune": {"type": "bool", "default": False},
    "prune_data": {"type": "str", "choices": list(PRUNE_DATA), "default": "keep"},
    "prune_keep": {"type": "list", "elements": "dict", "default": [], "options": TARGET},
    "owner_annotation": {"type": "str"},
    "force_managers": {"type": "list", "elements": "str", "default": []},
    "check_capacity": {"type": "bool", "default": False},
    "capacity_remedy": {"type": "str", "default": "add nodes, or apply less, or lower what the workloads request"},
    "recreate": {"type": "list", "elements": "dict", "default": [], "options": TARGET},
    "timeout": {"type": "float", "default": 300},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    if MISSING:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=MISSING)
    params = module.params
    exposed = _exposed(params["documents"])
    if exposed:
        module.no_log_values.update(exposed)  # this very error would show them
        module.fail_json(msg="documents has a Secret with data, which Ansible would show. Remedy: give it by the option secrets instead")
    if params["prune"] and not params["set_namespace"]:
        module.fail_json(msg="prune needs set_namespace: only the list kept there tells what an earlier run applied")
    try:
        report, failure = run(params, module.check_mode), ""
    except apply.ApplyError as error:
        report, failure = error.report, str(error)
    except (documents.DocumentError, ClusterError) as error:
        module.fail_json(msg=str(error))
    for warning in sorted(report.warnings):
        module.warn(warning)
    result = report.result()
    if module._diff:
        result["diff"] = report.diff()
    if failure:
        module.fail_json(msg=failure, **result)
    module.exit_json(**result)


def run(params: dict, check_mode: bool) -> apply.Report:
    """Do what the parameters say."""
    docs = documents.load(params["files"], params["documents"], params["namespace"])
    docs = documents.exclude(docs, params["exclude"])
    docs += _secrets(params["secrets"], params["namespace"], {documents.key(doc) for doc in docs})
    docs = documents.replace_images(docs, params["images"])
    docs = documents.patch(docs, params["patches"])
    cluster = Cluster(params["kubeconfig"], params["context"])
    inventory = apply.Inventory(cluster, params["set"], params["set_namespace"]) if params["set_namespace"] else None
    common = {
        "namespace": params["namespace"],
        "timeout": params["timeout"],
        "dry_run": check_mode,
        "inventory": inventory,
        "prune": params["prune"],
        "prune_data": params["prune_data"],
        "prune_keep": params["prune_keep"],
        "owner_annotation": params["owner_annotation"],
    }
    manager = f"mlops-platform-{params['set']}"
    if params["state"] == "absent":
        return apply.remove(cluster, docs, manager, **common)
    common["capacity_remedy"] = params["capacity_remedy"] if params["check_capacity"] else ""
    return apply.apply(cluster, docs, manager, force_managers=params["force_managers"], recreate=params["recreate"], **common)


def _exposed(docs: list[dict]) -> set[str]:
    """The values of Secrets among documents that are no secret to Ansible."""
    items = [item for doc in docs for item in (doc.get("items") or [doc]) if isinstance(item, dict) and item.get("kind") == "Secret"]
    sections = [section for item in items for name in ("data", "stringData") if isinstance(section := item.get(name), dict)]
    return {str(value) for section in sections for value in section.values() if value}


def _secrets(text: str, namespace: str, taken: set[tuple]) -> list[dict]:
    """The documents of the option `secrets`; none may be among the others, too."""
    try:
        docs = documents.load(documents=json.loads(text), namespace=namespace)
    except ValueError:
        raise documents.DocumentError("secrets is not JSON text. Remedy: write a list of documents through the filter to_json") from None
    twice = ", ".join(documents.label(doc) for doc in docs if documents.key(doc) in taken)
    if twice:
        raise documents.DocumentError(f"both in secrets and among the other documents: {twice}. Remedy: exclude it there")
    return docs


if __name__ == "__main__":
    main()
