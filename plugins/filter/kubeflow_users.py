# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters for the users of Kubeflow: who they are, what is wrong with the list, and the documents that let them in."""

from __future__ import annotations

DOCUMENTATION = r"""
name: kubeflow_users
author: The mlops.platform contributors (@mlops)
short_description: The users of Kubeflow with everything filled in
version_added: 1.0.0
description:
  - Fills in what the list leaves out. The namespace is derived from the e-mail address as Kubeflow's dashboard does it.
  - A list with problems (see P(mlops.platform.user_problems#filter)) is an error that names all of them.
positional: pod_security
options:
  _input:
    description:
      - Users with C(email) and, if wanted, C(namespace), C(quota) (hard limits of a ResourceQuota), C(contributors) (C(email) and C(role),
        V(edit) or V(view)) and C(pod_security) (V(privileged), V(baseline) or V(restricted)).
    type: list
    elements: dict
    required: true
  pod_security:
    description: The Pod Security Standard of users for whom none is named.
    type: str
    default: baseline
"""

EXAMPLES = r"""
- name: Show whose namespace is which
  ansible.builtin.debug:
    msg: "{{ [{'email': 'Ada.Lovelace@example.com'}] | mlops.platform.kubeflow_users | items2dict('email', 'namespace') }}"
"""

RETURN = r"""
_value:
  description: C(email), C(namespace), C(quota), C(contributors) and C(pod_security) of each user.
  type: list
  elements: dict
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

from ansible.errors import AnsibleFilterError

from ansible_collections.mlops.platform.plugins.module_utils.inputs import TYPES, Wrong, quantity

KEYS = ("email", "namespace", "quota", "contributors", "pod_security")
ROLES = ("edit", "view")
LEVELS = ("privileged", "baseline", "restricted")
# namespaces of the platform and of Kubernetes itself, as patterns
RESERVED = (
    *("default", "kube-*", "kubeflow", "istio-system", "istio-ingress", "knative-*", "kserve", "cert-manager", "auth", "oauth2-proxy"),
    *("gke-*", "gmp-*", "cnrm-system", "config-*", "local-path-storage", "metacontroller"),
)
QUOTA = "kf-resource-quota"  # as the controller of profiles names it


def kubeflow_users(users, pod_security="baseline"):
    """Return the users with everything filled in."""
    problems = user_problems(users, pod_security=pod_security)
    if problems:
        raise AnsibleFilterError("\n".join(problems))
    return [
        {
            "email": user["email"],
            "namespace": _namespace(user),
            "quota": {name: str(amount) for name, amount in (user.get("quota") or {}).items()},
            "contributors": [{"email": entry["email"], "role": entry["role"]} for entry in user.get("contributors") or []],
            "pod_security": user.get("pod_security") or pod_security,
        }
        for user in users
    ]


def _namespace(user):
    return user.get("namespace") or re.sub(r"[^a-z0-9-]", "-", user["email"].rpartition("@")[0].lower())


# -- what is wrong ------------------------------------------------------------------------------------------------------


def user_problems(users, delete=(), pod_security="baseline"):
    """Return what is wrong with kubeflow_users and kubeflow_delete_users, a line each."""
    problems, owners = [], {}
    if pod_security not in LEVELS:
        problems.append(f"kubeflow_user_pod_security: {pod_security!r} is no Pod Security Standard; write {_choice(LEVELS)}")
    for number, user in enumerate(users):
        where = f"kubeflow_users[{number}]"
        found = _user(where, user)
        problems += found
        if found:
            continue
        namespace = _namespace(user)
        other, email = owners.setdefault(namespace, (where, user["email"]))
        if other != where:
            problems.append(
                f"{where} ({user['email']}) and {other} ({email}) both have the namespace {namespace}; give one another by `namespace`"
            )
    for number, name in enumerate(delete or ()):
        where = f"kubeflow_delete_users[{number}]"
        if name in owners:
            problems.append(
                f"{where}: {name} is the namespace of {owners[name][1]}; take this user out of kubeflow_users, or it out of here"
            )
        elif _reserved(name):
            problems.append(f"{where}: {name} is a namespace of the platform; write the namespaces of users only")
    return problems


def _user(where, user):
    if not isinstance(user, Mapping):
        return [f"{where}: {user!r} is not a mapping; write {{email: name@example.com}}"]
    unknown = [key for key in user if key not in KEYS]
    if unknown:
        return [f"{where}: has the unknown key {unknown[0]!r}; known are {', '.join(KEYS)}"]
    problems = _email(f"{where}.email", user.get("email"))
    if not problems:
        problems += _owned(where, user)
    if user.get("pod_security") and user["pod_security"] not in LEVELS:
        problems.append(f"{where}.pod_security: {user['pod_security']!r} is no Pod Security Standard; write {_choice(LEVELS)}")
    return problems + _quota(f"{where}.quota", user.get("quota") or {})


def _owned(where, user):
    """The problems of the namespace and of those who share it."""
    problems, name, seen = [], _namespace(user), {user["email"].lower()}
    derived = "" if user.get("namespace") else f" (derived from {user['email']})"
    try:
        TYPES["dns_label"][0](name, {})
    except Wrong as wrong:
        problems.append(f"{where}.namespace: {name!r}{derived} {wrong.what}; {wrong.instead}")
    if _reserved(name):
        problems.append(f"{where}.namespace: {name!r}{derived} is a namespace of the platform; write another")
    for number, entry in enumerate(user.get("contributors") or []):
        place = f"{where}.contributors[{number}]"
        if not isinstance(entry, Mapping) or set(entry) != {"email", "role"}:
            problems.append(f"{place}: {entry!r} is not what is expected; write {{email: name@example.com, role: edit}}")
            continue
        wrong = _email(f"{place}.email", entry["email"])
        problems += wrong
        if entry["role"] not in ROLES:
            problems.append(f"{place}.role: {entry['role']!r} is not a known role; write {_choice(ROLES)}")
        if wrong:
            continue
        if entry["email"].lower() == user["email"].lower():
            problems.append(f"{place}: {entry['email']} owns this namespace already; leave this contributor out")
        elif entry["email"].lower() in seen:
            problems.append(f"{place}: {entry['email']} is there twice; leave one out")
        seen.add(entry["email"].lower())
    return problems


def _email(where, value):
    try:
        if not value:
            raise Wrong("is not set", "write an e-mail address such as name@example.com")
        TYPES["email"][0](value, {})
    except Wrong as wrong:
        return [f"{where}: {'' if not value else repr(str(value)) + ' '}{wrong.what}; {wrong.instead}"]
    return []


def _quota(where, hard):
    if not isinstance(hard, Mapping):
        return [f"{where}: {hard!r} is not a mapping; write {{cpu: '4', memory: 8Gi}}"]
    problems = []
    for name, amount in hard.items():
        try:
            quantity(amount)
            if "/" in name and "." in name.partition("/")[0] and not name.startswith(("requests.", "count/")):
                raise Wrong(f"is a limit of {name}, which no quota counts", f"write requests.{name}")
        except Wrong as wrong:
            problems.append(f"{where}.{name}: {str(amount)!r} {wrong.what}; {wrong.instead}")
    return problems


def _reserved(name):
    return any(fnmatchcase(name, pattern) for pattern in RESERVED)


def _choice(names):
    return f"{', '.join(names[:-1])} or {names[-1]}"


# -- documents ----------------------------------------------------------------------------------------------------------


def user_documents(
    users, profiles=True, labels=None, roles=None, default_requests=None, user_id_header="", user_id_prefix="", principals=()
):
    """Return the documents of the namespaces of users, as kubeflow_users returns them."""
    roles = roles or {name: f"kubeflow-{name}" for name in ("admin", *ROLES)}
    docs = []
    for user in users:
        name = user["namespace"]
        docs.append(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {
                    "name": name,
                    "annotations": {"owner": user["email"]},
                    "labels": {**(labels or {}), "pod-security.kubernetes.io/enforce": user["pod_security"]},
                },
            }
        )
        docs += [_profile(user)] if profiles else _account(user, roles)
        counted = {key.removeprefix("requests.") for key in user["quota"]} & set(default_requests or {})
        if counted:  # or pods are refused whose containers say nothing, as those that Argo and Knative add
            requests = {key: default_requests[key] for key in sorted(counted)}
            docs.append(
                _namespaced(
                    "v1", "LimitRange", name, "default-requests", spec={"limits": [{"type": "Container", "defaultRequest": requests}]}
                )
            )
        for entry in user["contributors"]:
            binding = re.sub(r"[^a-z0-9]+", "-", f"user-{entry['email']}-clusterrole-{entry['role']}".lower())
            annotations = {"user": entry["email"], "role": entry["role"]}
            docs.append(_binding(name, binding, roles[entry["role"]], _person(entry["email"]), annotations))
            if profiles:
                rule = {"when": [{"key": f"request.headers[{user_id_header}]", "values": [user_id_prefix + entry["email"]]}]}
                if principals:
                    rule["from"] = [{"source": {"principals": list(principals)}}]
                policy = _namespaced("security.istio.io/v1beta1", "AuthorizationPolicy", name, binding, annotations, spec={"rules": [rule]})
                docs.append(policy)
    return docs + ([] if profiles or not users else _rights())


def deleted_user_documents(namespaces):
    """Return the documents that name what is to be deleted of users, by their namespaces."""
    return [
        {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}}
        for name in namespaces
        for api_version, kind in (("kubeflow.org/v1", "Profile"), ("v1", "Namespace"))
    ]


def _profile(user):
    quota = {"resourceQuotaSpec": {"hard": user["quota"]}} if user["quota"] else {}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "Profile",
        "metadata": {"name": user["namespace"]},
        "spec": {"owner": {"kind": "User", "name": user["email"]}, **quota},
    }


def _account(user, roles):
    """What the controller of profiles would make."""
    name, email = user["namespace"], user["email"]
    docs = [_namespaced("v1", "ResourceQuota", name, QUOTA, spec={"hard": user["quota"]})] if user["quota"] else []
    for account, role in (("default-editor", "edit"), ("default-viewer", "view")):
        docs.append(_namespaced("v1", "ServiceAccount", name, account))
        docs.append(_binding(name, account, roles[role], {"kind": "ServiceAccount", "name": account, "namespace": name}))
    docs.append(_binding(name, "namespaceAdmin", roles["admin"], _person(email), {"user": email, "role": "admin"}))
    return docs


def _rights():
    """Lets the roles of Kubernetes have what Kubeflow's components give to Kubeflow's own, and workflows tell their results."""
    group = "rbac.authorization.k8s.io"
    docs = []
    for role, into in (("edit", ("edit", "admin")), ("view", ("view",))):
        selector = {"matchLabels": {f"rbac.authorization.kubeflow.org/aggregate-to-kubeflow-{role}": "true"}}
        labels = {f"{group}/aggregate-to-{name}": "true" for name in into}
        docs.append(_cluster_role(f"kubeflow-users-{role}", labels, aggregationRule={"clusterRoleSelectors": [selector]}))
    rule = {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}
    labels = {f"{group}/aggregate-to-{name}": "true" for name in ("edit", "admin")}
    return [*docs, _cluster_role("kubeflow-users-workflows", labels, rules=[rule])]


def _cluster_role(name, labels, **content):
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name, "labels": labels}, **content}


def _namespaced(api_version, kind, namespace, name, annotations=None, **content):
    meta = {"namespace": namespace, "name": name, **({"annotations": annotations} if annotations else {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, **content}


def _binding(namespace, name, role, subject, annotations=None):
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    api_version = "rbac.authorization.k8s.io/v1"
    return _namespaced(api_version, "RoleBinding", namespace, name, annotations, roleRef=reference, subjects=[subject])


def _person(email):
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": email}


class FilterModule:
    """The filters under their names."""

    def filters(self):
        """Return the filters of this file."""
        return {
            "kubeflow_users": kubeflow_users,
            "user_problems": user_problems,
            "user_documents": user_documents,
            "deleted_user_documents": deleted_user_documents,
        }
