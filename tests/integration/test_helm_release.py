"""Helm releases on a real API server, with a real helm and a tiny chart."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils import helm
from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEMPLATES = {
    "config.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}"}
data:
  text: "{{ .Values.text }}"
  {{- if .Values.more }}
  more: "yes"
  {{- end }}
""",
    "secret.yaml": """
apiVersion: v1
kind: Secret
metadata: {name: "{{ .Release.Name }}"}
stringData: {password: "{{ .Values.password }}"}
""",
    "deployment.yaml": """
apiVersion: apps/v1
kind: Deployment
metadata: {name: "{{ .Release.Name }}"}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x}}
    spec:
      containers:
      - {name: x, image: x, resources: {requests: {cpu: 1000m, memory: 1024Mi}}}
""",
    "webhook.yaml": """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: "{{ .Release.Name }}"}
webhooks:
- name: x.example.com
  clientConfig: {service: {name: x, namespace: default, path: /x}}
  rules: [{operations: [CREATE], apiGroups: [x.example.com], apiVersions: ["*"], resources: [xs]}]
  failurePolicy: Ignore
  sideEffects: None
  admissionReviewVersions: [v1]
""",
    "hook.yaml": """
{{- if .Values.hook }}
apiVersion: batch/v1
kind: Job
metadata:
  name: "{{ .Release.Name }}"
  annotations: {helm.sh/hook: "pre-install,pre-upgrade", helm.sh/hook-delete-policy: before-hook-creation}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: x, image: x}]
{{- end }}
""",
}
CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.%(group)s}
spec:
  group: %(group)s
  scope: Namespaced
  names: {kind: Thing, plural: things, singular: thing}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


@pytest.fixture(scope="session")
def helm_binary():
    path = pathlib.Path(os.environ.get("MLOPS_PLATFORM_CACHE") or "~/.cache/mlops-platform").expanduser() / "bin" / "helm"
    if not path.exists():
        pytest.fail(f"{path} is missing. Build it with: make up", pytrace=False)
    return str(path)


@pytest.fixture
def namespace(request):
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower())[:50].strip("-")


@pytest.fixture
def make_chart(tmp_path):
    def make(name="chart", **templates):
        chart = tmp_path / name
        (chart / "templates").mkdir(parents=True, exist_ok=True)
        (chart / "Chart.yaml").write_text("apiVersion: v2\nname: demo\nversion: 1.0.0\n")
        (chart / "values.yaml").write_text("text: a\nmore: false\nreplicas: 1\nhook: false\npassword: first\n")
        for file, text in {**TEMPLATES, **templates}.items():
            (chart / "templates" / file).write_text(text)
        return str(chart)

    return make


@pytest.fixture
def ensure(cluster, helm_binary, namespace, make_chart):
    """Bring the release `r-<namespace>` into its state."""
    chart = make_chart()

    def run(check=False, diff=False, program=helm_binary, timeout=60.0, chart=chart, name=None, **values):
        releases = helm.Releases(cluster, program, timeout)
        wanted = helm.Wanted(name or f"r-{namespace}", namespace, chart, values, create_namespace=True)
        outcome = releases.ensure(wanted, check=check, diff=diff)
        outcome.warnings = releases.warnings
        return outcome

    run.chart = chart
    return run


def change(cluster, api_version, kind, name, namespace, patch, manager):
    """Change an object as `manager` would."""
    path = cluster.resource(api_version, kind).path(namespace, name)
    cluster.request("PATCH", path, {"fieldManager": manager}, patch, "application/strategic-merge-patch+json")


NO_HELM = "/does/not/exist/helm"  # proves that helm is not run


def test_install_then_nothing_then_upgrade_then_history(ensure, cluster, helm_binary, namespace, api_server):
    assert (ensure().action, ensure(program=NO_HELM).action) == ("installed", "unchanged")
    upgraded = ensure(text="b")
    assert (upgraded.action, upgraded.revision, upgraded.reason) == ("upgraded", 2, "the chart or its values are different")
    assert cluster.get("v1", "ConfigMap", f"r-{namespace}", namespace)["data"] == {"text": "b"}
    assert not ensure(program=NO_HELM, text="b").changed
    listed = subprocess.run(
        [helm_binary, "list", "--namespace", namespace, "--output", "json", "--kubeconfig", api_server],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert [(item["name"], item["revision"], item["status"]) for item in json.loads(listed)] == [(f"r-{namespace}", "2", "deployed")]


def test_values_are_not_kept_from_the_last_revision(ensure, cluster, namespace):
    ensure(text="b")
    assert ensure().action == "upgraded"
    assert cluster.get("v1", "ConfigMap", f"r-{namespace}", namespace)["data"] == {"text": "a"}


def test_a_changed_chart_is_an_upgrade(ensure, make_chart):
    ensure()
    make_chart(**{"config.yaml": TEMPLATES["config.yaml"].replace("\ndata:", "\ndata:\n  own: new")})
    assert ensure().action == "upgraded"


def test_rollback_by_somebody_is_undone(ensure, cluster, helm_binary, namespace, api_server):
    ensure()
    ensure(text="b")
    subprocess.run([helm_binary, "rollback", f"r-{namespace}", "1", "--namespace", namespace, "--kubeconfig", api_server], check=True)
    again = ensure(text="b")
    assert (again.action, again.revision) == ("upgraded", 4) and "someone else" in again.reason
    assert cluster.get("v1", "ConfigMap", f"r-{namespace}", namespace)["data"]["text"] == "b"


def test_replicas_edited_by_hand_are_drift(ensure, cluster, namespace):
    ensure()
    change(cluster, "apps/v1", "Deployment", f"r-{namespace}", namespace, {"spec": {"replicas": 3}}, "kubectl-edit")
    predicted = ensure(check=True)
    assert predicted.action == "repaired" and f"r-{namespace}: spec.replicas is 3 instead of 1" in predicted.reason
    assert ensure().action == "repaired"
    assert cluster.get("apps/v1", "Deployment", f"r-{namespace}", namespace)["spec"]["replicas"] == 1
    assert not ensure(program=NO_HELM).changed


def test_a_deleted_object_is_drift(ensure, cluster, namespace):
    ensure()
    cluster.delete("v1", "ConfigMap", f"r-{namespace}", namespace)
    assert "is missing" in ensure().reason
    assert cluster.get("v1", "ConfigMap", f"r-{namespace}", namespace)


def test_what_a_controller_sets_is_left_to_it(ensure, cluster, namespace):
    ensure()
    name = f"r-{namespace}"
    patch = {"webhooks": [{"name": "x.example.com", "failurePolicy": "Fail", "clientConfig": {"caBundle": "LS0tLS0="}}]}
    change(cluster, "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", name, None, patch, "pilot-discovery")
    assert not ensure(program=NO_HELM).changed
    live = cluster.get("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", name)
    assert live["webhooks"][0]["failurePolicy"] == "Fail"


def test_custom_resources_are_repaired_too(ensure, cluster, make_chart, namespace):
    """Helm itself would leave them as they are."""
    group = "repair.example.com"
    ensure(chart=make_chart("crds", **{"crd.yaml": CRD % {"group": group}}), name="crds")
    thing = f"apiVersion: {group}/v1\nkind: Thing\nmetadata: {{name: t}}\nspec: {{size: 1}}\n"
    chart = make_chart("things", **dict.fromkeys(TEMPLATES, ""), **{"thing.yaml": thing})
    ensure(chart=chart, name="things")
    path = cluster.resource(f"{group}/v1", "Thing").path(namespace, "t")
    cluster.request("PATCH", path, {"fieldManager": "kubectl-edit"}, {"spec": {"size": 2}}, "application/merge-patch+json")
    assert "spec.size is 2 instead of 1" in ensure(chart=chart, name="things").reason
    assert cluster.get(f"{group}/v1", "Thing", "t", namespace)["spec"]["size"] == 1
    assert not ensure(chart=chart, name="things", program=NO_HELM).changed


def test_existing_crds_are_taken_over_other_things_are_not(ensure, cluster, make_chart, namespace):
    group = "adopt.example.com"
    cluster.apply(yaml.safe_load(CRD % {"group": group}), "kubectl", force=True)
    chart = make_chart("adopting", **dict.fromkeys(TEMPLATES, ""), **{"crd.yaml": CRD % {"group": group}})
    assert ensure(chart=chart, name="adopting").action == "installed"
    owner = cluster.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"things.{group}")["metadata"]["annotations"]
    assert owner["meta.helm.sh/release-name"] == "adopting"
    with pytest.raises(helm.HelmError, match=rf"belong to other releases: .*things\.{group} \(of release {namespace}/adopting\)"):
        ensure(chart=chart, name="second")
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"r-{namespace}", "namespace": namespace},
        "data": {"text": "mine"},
    }
    cluster.apply(config, "kubectl")
    with pytest.raises(helm.HelmError, match=rf"exist already, and not from Helm: ConfigMap {namespace}/r-{namespace}\..*take_ownership"):
        ensure()
    assert cluster.get("v1", "ConfigMap", f"r-{namespace}", namespace)["data"] == {"text": "mine"}


def test_check_mode_on_an_empty_cluster(ensure, cluster, make_chart, namespace):
    """Neither the namespace nor the kind exists."""
    thing = "apiVersion: nowhere.example.com/v1\nkind: Thing\nmetadata: {name: t}\n"
    predicted = ensure(check=True, diff=True, chart=make_chart("unknown", **{"thing.yaml": thing}))
    assert (predicted.action, predicted.revision) == ("installed", 1)
    assert sorted(entry["after_header"].split()[0] for entry in predicted.diff) == [
        "ConfigMap", "Deployment", "Secret", "Thing.nowhere.example.com", "ValidatingWebhookConfiguration",
    ]  # fmt: skip
    assert cluster.get("v1", "Namespace", namespace) is None


def test_check_mode_without_helm_still_predicts(ensure):
    predicted = ensure(check=True, diff=True, program=NO_HELM)
    assert predicted.action == "installed" and "does not exist yet" in predicted.warnings[0]


def test_check_mode_shows_what_is_done_and_hides_secrets(ensure, namespace):
    ensure(more=True, password="old-one")
    predicted = ensure(check=True, diff=True, text="b", password="new-one")
    done = ensure(diff=True, text="b", password="new-one")
    assert done.diff == predicted.diff and done.revision == predicted.revision
    assert sorted(entry["after_header"] for entry in done.diff) == [
        f"ConfigMap {namespace}/r-{namespace}",
        f"Secret {namespace}/r-{namespace}",
    ]
    config = next(entry for entry in done.diff if "ConfigMap" in entry["after_header"])
    assert "text: a" in config["before"] and "text: b" in config["after"]
    assert "more:" in config["before"] and "more:" not in config["after"]  # no longer in the manifest, so helm removes it
    shown = json.dumps(done.diff)
    for password in ("old-one", "new-one"):
        assert password not in shown and base64.b64encode(password.encode()).decode() not in shown


# -- interrupted runs

CHILD = """
import json, sys
from ansible_collections.mlops.platform.plugins.module_utils import helm
from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster
kubeconfig, program, wanted = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
helm.Releases(Cluster(kubeconfig), program, 60).ensure(helm.Wanted(**wanted))
"""


@pytest.fixture
def begin(cluster, api_server, helm_binary, namespace, ensure):
    """Start a run whose hook never ends, and return its process once helm has recorded the pending revision."""
    started = []

    def run(status, revision):
        wanted = {
            "name": f"r-{namespace}",
            "namespace": namespace,
            "chart": ensure.chart,
            "values": {"hook": True},
            "create_namespace": True,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, api_server, helm_binary, json.dumps(wanted)],
            env={**os.environ, "PYTHONPATH": str(ROOT / "collections")}, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        deadline = time.monotonic() + 30
        while True:
            secret = cluster.get("v1", "Secret", f"sh.helm.release.v1.r-{namespace}.v{revision}", namespace)
            if secret and secret["metadata"]["labels"]["status"] == status and cluster.get("batch/v1", "Job", f"r-{namespace}", namespace):
                return process
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)

    yield run
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


def test_killed_installation_converges(ensure, begin, cluster, namespace):
    os.killpg(begin("pending-install", 1).pid, signal.SIGKILL)
    predicted = ensure(check=True)
    assert (predicted.action, predicted.revision) == ("upgraded", 2)
    again = ensure()
    assert (again.action, again.revision) == ("upgraded", 2)
    assert "interrupted (revision 1 is pending-install)" in again.warnings[0]
    assert cluster.get("v1", "ConfigMap", f"r-{namespace}", namespace)
    assert not ensure(program=NO_HELM).changed


def test_killed_upgrade_converges(ensure, begin, cluster, namespace):
    ensure(text="b")
    uid = cluster.get("v1", "ConfigMap", f"r-{namespace}", namespace)["metadata"]["uid"]
    os.killpg(begin("pending-upgrade", 2).pid, signal.SIGKILL)
    again = ensure()
    assert (again.action, again.revision) == ("upgraded", 3)
    live = cluster.get("v1", "ConfigMap", f"r-{namespace}", namespace)
    assert live["data"] == {"text": "a"} and live["metadata"]["uid"] == uid  # nothing was deleted
    assert not ensure(program=NO_HELM).changed


def test_helm_that_outlives_its_module_is_not_disturbed(ensure, begin):
    """Only the module is killed: its helm goes on, and holds the lock."""
    process = begin("pending-install", 1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(helm.HelmError, match="another run on this machine"):
        ensure(timeout=1.0)


def test_pending_revision_of_somebody_else_is_not_touched(ensure, cluster, namespace):
    ensure()
    path = cluster.resource("v1", "Secret").path(namespace, f"sh.helm.release.v1.r-{namespace}.v1")
    cluster.request(
        "PATCH", path, None, {"metadata": {"labels": {"status": "pending-upgrade", helm.HOST_LABEL: None}}}, "application/merge-patch+json"
    )
    with pytest.raises(helm.HelmError, match=r"pending-upgrade for .* not from this machine.*helm rollback"):
        ensure(timeout=1.0)


# -- errors


def test_helm_is_missing(ensure):
    with pytest.raises(helm.HelmError, match=r"helm cannot be run: .*make up"):
        ensure(program=NO_HELM)


def test_refusal_of_the_server_is_shown(ensure, make_chart):
    wrong = TEMPLATES["deployment.yaml"].replace("matchLabels: {app: x}", "matchLabels: {app: y}")
    with pytest.raises(helm.HelmError, match=r"(?s)`.*helm upgrade --install r-.*` failed: .*selector"):
        ensure(chart=make_chart("wrong", **{"deployment.yaml": wrong}))
    assert ensure().action == "upgraded"  # the failed revision does not stand in the way


def test_module(api_server, helm_binary, make_chart, namespace, tmp_path):
    """Through Ansible: idempotent, helm is found below the home directory, and the values reach it with their types."""
    (tmp_path / "helm").symlink_to(helm_binary)
    task = {
        "kubeconfig": api_server,
        "helm": "~/helm",
        "releases": [
            {"name": f"r-{namespace}", "namespace": namespace, "chart": make_chart(), "values": {"replicas": 2}, "create_namespace": True}
        ],
    }
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [{"mlops.platform.helm_release": task, "register": "x"}, {
        "ansible.builtin.copy": {"content": "{{ x | to_json }}", "dest": str(tmp_path / "result"), "mode": "0600"}}]}  # fmt: skip
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "HOME": str(tmp_path),
    }
    results = []
    for _run in range(2):
        command = [
            sys.executable,
            "-m",
            "ansible",
            "playbook",
            "-i",
            "localhost,",
            "-c",
            "local",
            "-e",
            f"ansible_python_interpreter={sys.executable}",
        ]
        done = subprocess.run([*command, str(tmp_path / "play.yml")], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        results.append(json.loads((tmp_path / "result").read_text()))
    assert [(result["changed"], result["releases"][0]["action"]) for result in results] == [(True, "installed"), (False, "unchanged")]
    assert Cluster(api_server).get("apps/v1", "Deployment", f"r-{namespace}", namespace)["spec"]["replicas"] == 2
