#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The OAuth client of Identity-Aware Proxy: find it, check it with Google, hand it to the ingress."""

from __future__ import annotations

DOCUMENTATION = r"""
module: oauth_client
author: The mlops.platform contributors (@mlops)
short_description: The OAuth client that users of Identity-Aware Proxy sign in with
version_added: 1.0.0
description:
  - Since March 2026 no API of Google's creates OAuth clients. With O(mode=custom), this module finds the ID and the secret of one that was
    made in the console - each in its option, else in the environment, else in Secret Manager. Where one is missing, it fails with the
    steps to take in the console, filled in.
  - It asks Google's authorisation endpoint whether the client exists and has the redirect URI of Identity-Aware Proxy, and the token
    endpoint whether the secret is one of it. Without this, both errors show only when somebody signs in.
  - With O(mode=google_managed) nothing is needed. A backend that has a client of its own keeps it whatever its configuration says
    (https://github.com/kubernetes/ingress-gce/issues/2924), so the module fails while there is one.
  - The client secret is in no output, difference or log.
options:
  mode:
    description: Whose client it is. Google's own lets in accounts of the project's organisation only.
    type: str
    choices: [custom, google_managed]
    required: true
  state:
    description:
      - V(checked) changes nothing. V(present) also writes the Secret of the ingress, or deletes its own one with O(mode=google_managed).
    type: str
    choices: [checked, present]
    default: present
  client_id:
    description: ID of the client, C(NUMBER-LETTERS.apps.googleusercontent.com).
    type: str
  client_secret:
    description: Secret of the client.
    type: str
  environment:
    description: Names of the environment variables that are looked at for what its option does not give.
    type: dict
    default: {client_id: CLIENT_ID, client_secret: CLIENT_SECRET}
    suboptions: &names
      client_id:
        description: Name for the ID.
        type: str
      client_secret:
        description: Name for the secret.
        type: str
  secret_manager:
    description:
      - Names of secrets in Secret Manager, for what neither an option nor the environment gives. C(NAME) is the latest version of a secret
        of O(project), C(projects/PROJECT/secrets/NAME/versions/VERSION) any.
    type: dict
    default: {}
    suboptions: *names
  ask_google:
    description: Whether to ask Google about the client.
    type: bool
    default: true
  application_name:
    description: Name on the consent screen, for the steps in the console.
    type: str
    default: Kubeflow
  support_email:
    description: E-mail address on the consent screen, for the steps in the console.
    type: str
  cluster:
    description: Whether to look at and write to a cluster. With V(auto) if it answers.
    type: str
    choices: [auto, always, never]
    default: always
  secret_name:
    description:
      - Name of the Secret. Its keys are C(client_id) and C(client_secret), which a BackendConfig of GKE reads, and C(key), the client
        secret once more, for a GCPBackendPolicy.
    type: str
    default: kubeflow-oauth
  secret_namespace:
    description: Namespace of the Secret. It is created where it is missing.
    type: str
    default: istio-system
  backend:
    description: Kubernetes service behind Identity-Aware Proxy, in O(secret_namespace).
    type: str
    default: istio-ingressgateway
extends_documentation_fragment:
  - mlops.platform.gcp
  - mlops.platform.cluster
attributes:
  check_mode:
    support: full
    description: Google is asked all the same, which changes nothing.
  diff_mode:
    support: full
    description: Values of the Secret are hidden.
"""

EXAMPLES = r"""
- name: Check a client before anything is built
  mlops.platform.oauth_client:
    project: my-project
    mode: custom
    state: checked
    client_id: 123456789012-abc123def456.apps.googleusercontent.com
    secret_manager: {client_secret: kubeflow-oauth-client-secret}
    support_email: admin@example.com
    cluster: never

- name: Hand it to the ingress
  mlops.platform.oauth_client:
    project: my-project
    mode: custom
    client_id: 123456789012-abc123def456.apps.googleusercontent.com
    client_secret: "{{ vault_client_secret }}"
    ask_google: false
    context: kubeflow
"""

RETURN = r"""
client_id:
  description: ID of the client; empty with O(mode=google_managed).
  returned: success
  type: str
redirect_uri:
  description: The redirect URI that the client has to have.
  returned: with O(mode=custom)
  type: str
sources:
  description: Where ID and secret were found.
  returned: with O(mode=custom)
  type: dict
  sample: {client_id: the option client_id, client_secret: CLIENT_SECRET in the environment}
checked:
  description: What Google says about the redirect URI and about the secret, V(accepted) or V(unclear). Empty where it was not asked.
  returned: success
  type: dict
  sample: {redirect_uri: accepted, secret: accepted}
secret:
  description:
    - What happened to the Secret, V(created), V(configured), V(unchanged), V(deleted), V(absent) or V(skipped), and why it was skipped.
  returned: success
  type: dict
  sample: {action: created, reason: ""}
"""

import base64
import os
import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.mlops.platform.plugins.module_utils import apply
    from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster, ClusterError

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()
from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, oauth

NAMES = {"client_id": {"type": "str"}, "client_secret": {"type": "str", "no_log": False}}  # names of secrets, not secrets
OPTIONS = {
    **api.argument_spec(),
    "mode": {"type": "str", "choices": ["custom", "google_managed"], "required": True},
    "state": {"type": "str", "choices": ["checked", "present"], "default": "present"},
    "client_id": {"type": "str"},
    "client_secret": {"type": "str", "no_log": True},
    "environment": {"type": "dict", "default": {"client_id": "CLIENT_ID", "client_secret": "CLIENT_SECRET"}, "options": NAMES},
    "secret_manager": {"type": "dict", "default": {}, "options": NAMES, "no_log": False},
    "ask_google": {"type": "bool", "default": True},
    "application_name": {"type": "str", "default": "Kubeflow"},
    "support_email": {"type": "str"},
    "cluster": {"type": "str", "choices": ["auto", "always", "never"], "default": "always"},
    "secret_name": {"type": "str", "default": "kubeflow-oauth", "no_log": False},
    "secret_namespace": {"type": "str", "default": "istio-system", "no_log": False},
    "backend": {"type": "str", "default": "istio-ingressgateway"},
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
}
MANAGER = "mlops-platform-oauth-iap"
WORDS = {"client_id": "client ID", "client_secret": "client secret"}


class Failure(Exception):
    """Ends the module with this message."""


class Task:
    """One run of the module."""

    def __init__(self, module: AnsibleModule):
        self.module, self.params = module, module.params
        self.project = self.params["project"]
        self.result: dict = {"changed": False, "client_id": "", "checked": {}}
        self._gcp: api.Gcp | None = None

    @property
    def gcp(self) -> api.Gcp:
        """The connection to Google Cloud, made when it is first needed: a client given in options needs none."""
        if self._gcp is None:
            self._gcp = api.connect(self.module)
        return self._gcp

    def run(self) -> dict:
        """Find and check the client, then see to the Secret."""
        cluster, unavailable = self._cluster()
        if self.params["mode"] == "custom":
            client = self._find()
            self.result.update(client_id=client["client_id"], redirect_uri=oauth.redirect_uri(client["client_id"]))
            if self.params["ask_google"]:
                self._ask_google(**client)
            # a BackendConfig of GKE reads client_id and client_secret, a GCPBackendPolicy reads the secret as `key`
            named = {**client, "key": client["client_secret"]}
            contents = {name: base64.b64encode(value.encode()).decode() for name, value in named.items()}
            self.module.no_log_values.add(contents["client_secret"])
        else:
            self._refuse_switching(cluster)
            contents = None
        self.result["secret"] = {"action": "skipped", "reason": unavailable or "state is checked"}
        if cluster and self.params["state"] == "present":
            self._see_to_secret(cluster, contents)
        return self.result

    # -- the client -------------------------------------------------------------------------------------------------------------

    def _find(self) -> dict[str, str]:
        """client_id and client_secret."""
        found, sources = {}, {}
        for name in WORDS:
            found[name], sources[name] = self._look_up(name)
        secret = found["client_secret"]
        if secret:
            self.module.no_log_values.add(secret)
        if found["client_id"].startswith(oauth.SECRET_PREFIX):
            self.module.no_log_values.add(found["client_id"])
        wrong = oauth.faults(**found)
        if wrong:
            given = "; ".join(f"the {WORDS[name]} is from {source}" for name, source in sources.items() if source)
            raise Failure("\n".join(f"{line}." for line in [*wrong, given.capitalize()]))
        missing = [WORDS[name] for name, value in found.items() if not value]
        if missing:
            raise Failure(self._how_to_get_one(missing, found["client_id"]))
        self.result["sources"] = sources
        return found

    def _look_up(self, name: str) -> tuple[str, str]:
        """(value, where it is from), both empty if it is nowhere."""
        value = (self.params[name] or "").strip()
        if value:
            return value, f"the option {name}"
        variable = self.params["environment"].get(name)
        value = os.environ.get(variable, "").strip() if variable else ""
        if value:
            return value, f"{variable} in the environment"
        secret = self.params["secret_manager"].get(name)
        return self._from_secret_manager(secret) if secret else ("", "")

    def _from_secret_manager(self, name: str) -> tuple[str, str]:
        path = name if "/" in name else f"projects/{self.project}/secrets/{name}"
        path = path if "/versions/" in path else f"{path}/versions/latest"
        try:
            answer = self.gcp.call("secretmanager.projects.secrets.versions.access", name=path)
        except api.NotFound as error:
            raise Failure(
                f"Secret Manager has no {path}. Remedy: correct secret_manager, or create the secret: "
                f"`gcloud secrets create {path.split('/')[3]} --project={path.split('/')[1]} --data-file=FILE`."
            ) from error
        data = base64.b64decode((answer.get("payload") or {}).get("data") or "")
        self.module.no_log_values.add((answer.get("payload") or {}).get("data") or "")
        return data.decode(errors="replace").strip(), f"Secret Manager: {path}"

    def _how_to_get_one(self, missing: list[str], client_id: str) -> str:
        environment, stored = self.params["environment"], self.params["secret_manager"]
        nowhere = [
            "oauth_iap_client_id and oauth_iap_client_secret",
            " and ".join(name for name in environment.values() if name) + " in the environment",
            f"Secret Manager ({', '.join(name for name in stored.values() if name) or 'oauth_iap_secret_manager names no secret'})",
        ]
        steps = oauth.console_steps(self.project, self.params["application_name"], self.params["support_email"] or "", client_id)
        return (
            f"The {' and the '.join(missing)} of the OAuth client for Identity-Aware Proxy {'is' if len(missing) == 1 else 'are'} missing: "
            f"looked for in {'; '.join(nowhere)}. No API creates such a client; it is made in the console of Google Cloud:\n{steps}\n"
            "Then set oauth_iap_client_id and oauth_iap_client_secret (the latter in a file encrypted by ansible-vault), the environment, "
            "or put them into Secret Manager (oauth_iap_secret_manager). Without a client of your own, for accounts of the project's "
            "organisation only: oauth_iap_mode: google_managed."
        )

    # -- Google's answer --------------------------------------------------------------------------------------------------------

    def _ask_google(self, client_id: str, client_secret: str) -> None:
        """Fail if Google refuses the client; warn if it cannot be told."""
        moved = self.params["endpoint"] or ""
        about = oauth.endpoint(oauth.AUTHORISATION, moved), oauth.endpoint(oauth.TOKEN, moved)
        with _session(moved) as session:
            response = _answer(session, "GET", about[0], params=oauth.authorisation_request(client_id))
            if isinstance(response, str):
                answer = oauth.Answer(oauth.UNCLEAR, text=response)
            else:
                answer = oauth.authorisation_answer(response.status_code, response.headers.get("Location", ""), response.text, client_id)
            self._judge_client(client_id, answer)
            response = _answer(session, "POST", about[1], data=oauth.token_request(client_id, client_secret))
            if isinstance(response, str):
                answer = oauth.Answer(oauth.UNCLEAR, text=response)
            else:
                answer = oauth.token_answer(response.status_code, response.text)
            self._judge_secret(client_id, answer)

    def _judge_client(self, client_id: str, answer: oauth.Answer) -> None:
        uri, said = oauth.redirect_uri(client_id), _said(answer)
        page = f"https://console.cloud.google.com/auth/clients/{client_id}?project={client_id.partition('-')[0]}"
        listed = f"https://console.cloud.google.com/auth/clients?project={self.project}"
        if answer.kind == oauth.MISMATCH:
            raise Failure(
                f"The OAuth client {client_id} does not have the redirect URI of Identity-Aware Proxy{said}. Remedy: open {page}, add "
                f"exactly {uri} under Authorised redirect URIs, and run again after some minutes."
            )
        if answer.kind == oauth.UNKNOWN:
            raise Failure(f"Google knows no OAuth client {client_id}{said}. Remedy: compare it with those at {listed}, or create one.")
        if answer.kind == oauth.DELETED:
            raise Failure(
                f"The OAuth client {client_id} was deleted{said}. Remedy: restore it within 30 days at {listed}, or create another."
            )
        if answer.kind == oauth.REFUSED:
            raise Failure(f"Google refuses sign-ins by the OAuth client {client_id}{said}. Remedy: see the client at {page}.")
        if answer.kind == oauth.UNCLEAR:
            self.module.warn(
                f"Whether the OAuth client {client_id} has the redirect URI {uri} could not be found out{said}. Remedy: see it at {page}, "
                "or let this machine reach https://accounts.google.com; oauth_iap_check: false does not ask."
            )
        self.result["checked"]["redirect_uri"] = answer.kind

    def _judge_secret(self, client_id: str, answer: oauth.Answer) -> None:
        said = _said(answer)
        if answer.kind == oauth.REFUSED:
            raise Failure(
                f"The client secret is none of the OAuth client {client_id}{said}. Remedy: add a secret to the client at "
                f"https://console.cloud.google.com/auth/clients/{client_id}?project={client_id.partition('-')[0]} and use that one."
            )
        if answer.kind == oauth.UNCLEAR:
            self.module.warn(f"Whether the client secret is one of the OAuth client {client_id} could not be found out{said}.")
        self.result["checked"]["secret"] = answer.kind

    # -- the cluster ------------------------------------------------------------------------------------------------------------

    def _cluster(self) -> tuple[Cluster | None, str]:
        """The cluster, or None and why not."""
        if self.params["cluster"] == "never":
            return None, "cluster is never"
        if MISSING:
            self.module.fail_json(msg=missing_required_lib("kubernetes"), exception=MISSING)
        try:
            cluster = Cluster(self.params["kubeconfig"], self.params["context"])
            cluster.version()
        except ClusterError as error:
            if self.params["cluster"] == "always":
                raise
            return None, f"no cluster answers: {error}"
        return cluster, ""

    def _refuse_switching(self, cluster: Cluster | None) -> None:
        """Fail while a backend has a client of its own."""
        service = f"{self.params['secret_namespace']}/{self.params['backend']}"
        found = []
        try:
            listed = self.gcp.pages("compute.backendServices.list", "items")
            found += [f"backend service {name} has the client {client}" for name, client in oauth.custom_backends(listed, service).items()]
        except api.ApiDisabled:  # then there is no backend
            pass
        except api.Denied as error:
            self.module.warn(f"Whether a backend has a client of its own could not be seen at Compute Engine: {error}")
        if cluster:
            found += self._configured(cluster)
        if found:
            namespace = self.params["secret_namespace"]
            ingresses = cluster.list("networking.k8s.io/v1", "Ingress", namespace) if cluster else []
            names = " ".join(item["metadata"]["name"] for item in ingresses) or "NAME"
            raise Failure(
                f"{service} has a custom OAuth client: {'; '.join(found)}. A backend that had one keeps it, whatever its configuration "
                "says later, so it cannot be switched to Google's client in place. Remedy: keep oauth_iap_mode: custom; or have the "
                "backend made anew, which interrupts the service for some minutes: "
                f"`kubectl --namespace={namespace} delete ingress {names}`, wait until `gcloud compute backend-services list "
                f"--project={self.project}` no longer shows it, then run everything again. Addresses and certificates stay."
            )

    def _configured(self, cluster: Cluster) -> list[str]:
        """The BackendConfigs that give an existing Ingress a client."""
        namespace = self.params["secret_namespace"]
        version = next((v for v in ("cloud.google.com/v1", "cloud.google.com/v1beta1") if cluster.serves(v, "BackendConfig")), None)
        if version is None or not cluster.list("networking.k8s.io/v1", "Ingress", namespace):
            return []
        return [
            f"BackendConfig {namespace}/{item['metadata']['name']} names one"
            for item in cluster.list(version, "BackendConfig", namespace)
            if ((item.get("spec") or {}).get("iap") or {}).get("oauthclientCredentials")
        ]

    def _see_to_secret(self, cluster: Cluster, contents: dict | None) -> None:
        name, namespace = self.params["secret_name"], self.params["secret_namespace"]
        metadata = {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "mlops.platform"}}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"}
        dry_run = self.module.check_mode
        if contents is None:
            live = cluster.get("v1", "Secret", name, namespace)
            ours = live and any(part.get("manager") == MANAGER for part in live["metadata"].get("managedFields") or [])
            report = apply.remove(cluster, [secret], MANAGER, dry_run=dry_run) if ours else apply.Report()
            action = "deleted" if ours else "absent"
        else:
            docs = [{**secret, "data": contents}]
            if cluster.get("v1", "Namespace", namespace) is None:
                docs.insert(0, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            report = apply.apply(cluster, docs, MANAGER, dry_run=dry_run, timeout=60)
            action = report.outcomes[-1].action
        self.result.update(changed=report.changed, secret={"action": action, "reason": ""})
        if self.module._diff:
            self.result["diff"] = report.diff()


def _session(moved_to: str):
    """A session; what stands in for Google on this machine is asked without a proxy."""
    import requests
    import urllib3

    session = requests.Session()
    session.trust_env = not moved_to
    retries = urllib3.Retry(
        total=2, connect=1, redirect=0, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False,
        allowed_methods=None,
    )  # fmt: skip
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retries))
    return session


def _answer(session, method: str, url: str, **request):
    """The response, or in words why there is none."""
    import requests

    try:
        return session.request(method, url, allow_redirects=False, timeout=(5, 15), **request)
    except requests.RequestException as error:
        return f"{url} does not answer ({type(error).__name__})"


def _said(answer: oauth.Answer) -> str:
    words = ": ".join(part for part in (answer.code, answer.text) if part)
    return f" (Google: {words})" if words else ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    for name in ("environment", "secret_manager"):
        module.params[name] = {key: value for key, value in (module.params[name] or {}).items() if value}
    task = Task(module)
    try:
        module.exit_json(**task.run())
    except api.GcpError as error:
        api.fail(module, error)
    except Failure as error:
        module.fail_json(msg=str(error))
    except Exception as error:
        if MISSING or not isinstance(error, (ClusterError, apply.ApplyError)):
            raise
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
