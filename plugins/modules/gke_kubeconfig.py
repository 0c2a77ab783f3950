#!/usr/bin/python
# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write the context of a GKE cluster into a kubeconfig."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gke_kubeconfig
author: The mlops.platform contributors (@mlops)
short_description: Write the context of a GKE cluster into a kubeconfig
version_added: 1.0.0
description:
  - Writes cluster, user and context into the kubeconfig, and repairs them. Everything else in the file stays. Its mode becomes 0600.
  - The file never holds a token. The user is a credential plugin, by default a small program of this collection, which is put beside the
    kubeconfig and run by the Python that runs this module. It needs neither C(gcloud) nor C(gke-gcloud-auth-plugin), takes the credentials
    that this module is given - their file's name, the account to act as, or the application default ones - and keeps a token in
    C(~/.cache/mlops-platform/gke-tokens) (mode 0600) until shortly before it expires.
  - With O(access_token) and no O(credentials_file), the plugin takes the token from the environment variable C(GCP_ACCESS_TOKEN).
options:
  cluster:
    description: Name of the cluster. Required unless O(state=absent).
    type: str
  location:
    description: Its zone or region. Without it, the project may have only one cluster of that name.
    type: str
  context:
    description: Name of the context. Default is the cluster's name.
    type: str
  namespace:
    description: Namespace of the context. Without it, one that is set stays.
    type: str
  kubeconfig:
    description: The file, the first of a list. Default is C($KUBECONFIG), else C(~/.kube/config).
    type: str
  current:
    description: Whether to make it the current context. It becomes that anyway where the file has none.
    type: bool
    default: false
  address:
    description:
      - Which address of the control plane to use - the public IP address (the private one, if there is no other), the private one, or the
        DNS name.
    type: str
    choices: [public, private, dns]
    default: public
  auth_plugin:
    description: What fetches tokens - this collection's own program, or Google's, which takes what C(gcloud) is logged in with.
    type: str
    choices: [own, gke-gcloud-auth-plugin]
    default: own
  plugin_path:
    description: Where the own program is put. Default is C(gke-credential.py) beside the kubeconfig.
    type: path
  state:
    description: V(absent) takes the context out, with its cluster and user. Google Cloud is not asked then.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - mlops.platform.gcp
requirements:
  - PyYAML (Python package)
attributes:
  check_mode:
    support: full
    description: A cluster that does not exist yet is predicted as written.
  diff_mode:
    support: full
    description: The context, its cluster and its user, without secrets; of the program the checksum.
"""

EXAMPLES = r"""
- name: Reach the cluster
  mlops.platform.gke_kubeconfig:
    project: my-project
    cluster: kubeflow
    location: asia-northeast3-a
    kubeconfig: ~/.kube/kubeflow
  register: written

- name: Look
  kubernetes.core.k8s_info:
    kubeconfig: "{{ written.kubeconfig }}"
    context: "{{ written.context }}"
    kind: Node
"""

RETURN = r"""
kubeconfig:
  description: The file.
  returned: always
  type: str
context:
  description: The context.
  returned: always
  type: str
  sample: kubeflow
server:
  description: URL of the control plane, empty if there is no cluster (check mode) or with O(state=absent).
  returned: always
  type: str
  sample: https://203.0.113.5
location:
  description: Zone or region of the cluster.
  returned: when it was found
  type: str
"""

import hashlib
import os
import stat
import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api

try:
    from ansible_collections.mlops.platform.plugins.module_utils.gcp import kubeconfig

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()

OPTIONS = {
    "cluster": {"type": "str"},
    "location": {"type": "str"},
    "context": {"type": "str"},
    "namespace": {"type": "str"},
    "kubeconfig": {"type": "str"},
    "current": {"type": "bool", "default": False},
    "address": {"type": "str", "choices": ["public", "private", "dns"], "default": "public"},
    "auth_plugin": {"type": "str", "choices": ["own", "gke-gcloud-auth-plugin"], "default": "own"},
    "plugin_path": {"type": "path"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={**api.argument_spec(), **OPTIONS},
        required_if=[("state", "present", ["cluster"]), ("state", "absent", ["context", "cluster"], True)],
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("PyYAML"), exception=MISSING)
    params = module.params
    path = kubeconfig.path_of(params["kubeconfig"] or "")
    context = params["context"] or params["cluster"]
    result = {"kubeconfig": path, "context": context, "server": ""}
    try:
        entry = None
        if params["state"] == "present":
            found = _find(module)
            if found is None:  # check mode
                module.exit_json(changed=True, **result)
            result["location"] = found["location"]
            entry = _entry(module, found, context, path)
            result["server"] = entry.cluster["server"]
        elif not os.path.exists(path):
            module.exit_json(changed=False, **result)
        if module.check_mode:
            change, files = _plan(module, entry, context, path)
        else:
            with kubeconfig.locked(path):
                change, files = _plan(module, entry, context, path)
                _carry_out(path, change, files)
    except api.GcpError as error:
        api.fail(module, error, **result)
    except kubeconfig.KubeconfigError as error:
        module.fail_json(msg=str(error), **result)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or path}: {error.strerror}. Remedy: choose a kubeconfig that can be written.", **result)
    for warning in change.warnings:
        module.warn(warning)
    result["changed"] = change.changed or any(part["before"] != part["after"] for part in files)
    if module._diff:
        result["diff"] = _diff(change, files, context, path)
    module.exit_json(**result)


def _find(module: AnsibleModule) -> dict | None:
    """The cluster; None where it does not exist yet, in check mode."""
    gcp = api.connect(module)
    try:
        found = kubeconfig.find(gcp, module.params["cluster"], module.params["location"] or "")
        kubeconfig.server(found, module.params["address"])
        return found
    except (kubeconfig.NoCluster, api.ApiDisabled) as error:
        if module.check_mode:
            return None
        if isinstance(error, api.ApiDisabled):
            raise
        raise kubeconfig.KubeconfigError(str(error)) from None


def _entry(module: AnsibleModule, found: dict, context: str, path: str):
    """What belongs into the kubeconfig."""
    params = module.params
    credentials_file, impersonate = params["credentials_file"] or "", params["impersonate"] or ""
    by_variable = bool(params["access_token"] and not credentials_file)
    if params["auth_plugin"] == "own":
        endpoint = ""
        if impersonate and params["endpoint"]:
            accounts = f"{params['endpoint'].rstrip('/')}/iamcredentials/v1/projects/-/serviceAccounts"
            endpoint = f"{accounts}/{impersonate}:generateAccessToken"
        variable = kubeconfig.TOKEN_VARIABLE if by_variable else ""
        user = kubeconfig.own_plugin(_plugin_path(params, path), credentials_file, impersonate, endpoint, variable)
        if by_variable and not os.environ.get(variable):
            module.warn(f"The context {context} takes its token from the environment variable {variable}, which is not set.")
    else:
        kubeconfig.check_googles_plugin()
        if credentials_file and impersonate:
            raise kubeconfig.KubeconfigError(
                "gke-gcloud-auth-plugin cannot act as impersonate with credentials_file. Remedy: auth_plugin: own."
            )
        user = kubeconfig.googles_plugin(credentials_file, impersonate)
    return kubeconfig.Entry(context, kubeconfig.server(found, params["address"]), user, params["namespace"] or "")


def _plugin_path(params: dict, path: str) -> str:
    return os.path.abspath(params["plugin_path"] or os.path.join(os.path.dirname(path), kubeconfig.PLUGIN))


def _plan(module: AnsibleModule, entry, context: str, path: str) -> tuple:
    """(the kubeconfig before and after, the state of both files before and after)."""
    params = module.params
    config = kubeconfig.load(path)
    change = kubeconfig.put(config, entry, params["current"]) if entry else kubeconfig.remove(config, context)
    files = [{"path": path, "before": _mode(path), "after": "0600" if entry or os.path.exists(path) else ""}]
    plugin = _plugin_path(params, path)
    if entry and params["auth_plugin"] == "own":
        files.append({"path": plugin, "before": _text(plugin), "after": kubeconfig.plugin_source()})
    elif not entry and not kubeconfig.runs(change.after, plugin):
        files.append({"path": plugin, "before": _text(plugin), "after": ""})
    return change, files


def _carry_out(path: str, change, files: list[dict]) -> None:
    for plugin in files[1:]:
        if plugin["after"] and plugin["before"] != plugin["after"]:
            kubeconfig.write(plugin["path"], plugin["after"])
        elif plugin["before"] and not plugin["after"]:
            os.unlink(plugin["path"])
    if change.changed or files[0]["before"] != files[0]["after"]:
        kubeconfig.write(path, kubeconfig.text_of(change.after))


def _mode(path: str) -> str:
    return f"{stat.S_IMODE(os.stat(path).st_mode):04o}" if os.path.exists(path) else ""


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _digest(program: str) -> dict | None:
    return {"sha256": hashlib.sha256(program.encode()).hexdigest()} if program else None


def _diff(change, files: list[dict], context: str, path: str) -> list[dict]:
    diffs = []
    before, after = (
        {"mode": mode, **kubeconfig.shown(config, context)} if mode else None
        for mode, config in ((files[0]["before"], change.before), (files[0]["after"], change.after))
    )
    if before != after:
        diffs.append({"before_header": path if before else "(none)", "after_header": path, "before": before, "after": after})
    for each in files[1:]:
        if each["before"] != each["after"]:
            headers = {
                "before_header": each["path"] if each["before"] else "(none)",
                "after_header": each["path"] if each["after"] else "(deleted)",
            }
            diffs.append({**headers, "before": _digest(each["before"]), "after": _digest(each["after"])})
    return diffs


if __name__ == "__main__":
    main()
