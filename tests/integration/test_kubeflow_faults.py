"""What goes wrong with Kubeflow ends in a message that names it, and a run that was interrupted is continued by the next."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.filter.component_plan import component_plan
from ansible_collections.mlops.platform.plugins.module_utils import apply as logic
from ansible_collections.mlops.platform.plugins.module_utils import documents
from ansible_collections.mlops.platform.plugins.module_utils.kustomize import Workshop
from tests import kubeflow

ROOT = Path(__file__).parents[2]

# -- bad input ------------------------------------------------------------------------------------------------------------------

INPUTS = {
    "an unknown component": ({"kubeflow_components": ["profiles", "katb"]}, ["kubeflow_components[1]: 'katb'", "katib", "pipelines"]),
    "an unknown profile": ({"kubeflow_profile": "everything"}, ["kubeflow_profile: 'everything'", "full, serving, minimal"]),
    "a component without what it needs": (
        {"kubeflow_components": ["katib"]},
        ["kubeflow_components lacks", "katib needs centraldashboard", "Add centraldashboard, ", "kubeflow-config"],
    ),
    "a password that is missing": (
        {"kubeflow_profile": "full", "kubeflow_secrets": {"katib-mysql-secrets": {}}},
        ["kubeflow_secrets has no value for", "katib-mysql-secrets.MYSQL_ROOT_PASSWORD (katib)", "mysql-secret.password (pipelines)"],
    ),
    "settings of an unknown workload": ({"kubeflow_deployments": {"katib-uu": {"replicas": 2}}}, ["kubeflow_deployments", "katib-uu"]),
    "an amount that is none": ({"kubeflow_resources": {"requests": {"memory": "256MB"}}}, ["kubeflow_resources", "'256MB'", "write 256M"]),
    "a source tree that is not there": ({"kubeflow_manifests": "/nowhere/kubeflow"}, ["kubeflow_manifests: '/nowhere/kubeflow'"]),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What the role says to each of the inputs, by name."""
    directory = tmp_path_factory.mktemp("inputs")
    (directory / "tree").mkdir()
    common = {"kubeflow_release": "serving-1.14", "kubeflow_manifests": str(directory / "tree"), "kubeflow_profile": "minimal"}
    keep = {"ansible.builtin.set_fact": {"said": "{{ said | default({}) | combine({case: message}) }}"}}
    tasks = [
        {
            "block": [
                {
                    "ansible.builtin.include_role": {"name": "mlops.platform.kubeflow", "tasks_from": "validate"},
                    "vars": {**common, **variables},
                },
                {**keep, "vars": {"case": name, "message": "(nothing)"}},
            ],
            "rescue": [{**keep, "vars": {"case": name, "message": "{{ ansible_failed_result.msg }}"}}],
        }
        for name, (variables, _parts) in INPUTS.items()
    ]
    tasks.append({"ansible.builtin.copy": {"content": "{{ said | to_json }}", "dest": str(directory / "said.json"), "mode": "0600"}})
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    (directory / "play.yml").write_text(yaml.safe_dump([{**play, "vars": {"ansible_python_interpreter": sys.executable}}]))
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", str(directory / "play.yml")], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((directory / "said.json").read_text())


@pytest.mark.parametrize("case", INPUTS)
def test_bad_input_is_named_with_what_would_be_right(refusals, case):
    text = " ".join(refusals[case].split())
    assert [part for part in INPUTS[case][1] if part not in text] == [], text


# -- an interrupted run ---------------------------------------------------------------------------------------------------------

MODULE = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mlops.platform.plugins.modules import k8s_apply
with patch_module_args(json.loads(sys.stdin.read())):
    k8s_apply.main()
"""


@pytest.fixture
def components(kubeflow_components, kubeflow_1_8, tmp_path, api_server, kubeflow_role):
    """`components(*names)`: the options of k8s_apply that install them. (The role's fixture makes the types that others install.)"""
    catalog = kubeflow_components["__kubeflow_catalogs"]["1.8"]
    secrets = {name: dict.fromkeys(keys, "of-the-test") for part in catalog.values() for name, keys in part.get("secrets", {}).items()}

    def options(*names):
        plan = component_plan(list(names), catalog, "kubeflow", secrets)
        files = Workshop(tmp_path / "cache", kubeflow.kubectl()).build({"kubeflow": str(kubeflow_1_8)}, plan["builds"])
        return {
            "kubeconfig": api_server, "set": "kubeflow", "set_namespace": "kubeflow", "prune": True, "prune_data": "unused", "timeout": 60,
            "files": list(files.values()), "exclude": plan["exclude"], "secrets": json.dumps(plan["secrets"]),
            "documents": [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubeflow"}}],
        }  # fmt: skip

    return options


@pytest.fixture
def start():
    """Begin a run of the module in a process of its own, as Ansible does."""
    begun = []

    def run(options):
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "collections")}
        command = [sys.executable, "-c", MODULE]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        begun.append(process)
        process.stdin.write(json.dumps(options))
        process.stdin.close()
        return process

    yield run
    for process in begun:
        process.kill()
        process.wait()
        process.stdout.close()


def result_of(process):
    return json.loads(process.stdout.read().splitlines()[-1])


def finished(process):
    result = result_of(process)
    assert not result.get("failed"), result["msg"]
    return result


def existing(cluster, objects):
    """Kind and name of those that are there."""
    names = [(item["apiVersion"], item["kind"], item["name"], item["namespace"] or None) for item in objects]
    return {name[1:3] for name in names if cluster.serves(*name[:2]) and cluster.get(*name)}


def named(objects, *actions):
    return {(item["kind"], item["name"]) for item in objects if item["action"] in actions}


BASE = ("kubeflow-config", "kubeflow-roles", "kubeflow-istio-resources", "profiles", "centraldashboard")
MORE = ("katib", "training-operator", "tensorboard", "jupyter", "volumes-web-app")
THERE = ("created", "configured", "unchanged")


@pytest.mark.parametrize("first", ["CustomResourceDefinition", "Deployment"], ids=["among the definitions", "among the workloads"])
def test_a_killed_run_is_continued_and_pruned_right(components, start, cluster, first):
    version = {"CustomResourceDefinition": "apiextensions.k8s.io/v1", "Deployment": "apps/v1"}[first]
    everything, less = components(*BASE, *MORE), components(*BASE)

    def names():
        return {item["metadata"]["name"] for item in cluster.list(version, first)}

    before, process, deadline = names(), start(everything), time.monotonic() + 60
    while not names() - before:
        assert process.poll() is None and time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    recorded = [logic.reference(entry) for entry in logic.Inventory(cluster, "kubeflow", "kubeflow").read()]
    begun = existing(cluster, recorded)
    assert 0 < len(begun) < len(recorded)  # it was in the middle, and what it would have done is known

    # somebody decides for less: what was begun of the rest goes, also definitions, and nothing else; volumes stay as ever
    result = finished(start(less))["objects"]
    kept = named(result, *THERE) | {(kind, name) for kind, name in begun if kind == "PersistentVolumeClaim"}
    assert existing(cluster, [*recorded, *result]) == kept
    assert named(result, "deleted") == begun - kept

    # or for all of it
    result = finished(start(everything))["objects"]
    assert existing(cluster, recorded) == named(result, *THERE)
    assert not finished(start(everything))["changed"]


# -- a webhook that is down -----------------------------------------------------------------------------------------------------


@pytest.fixture
def broken_webhook(cluster):
    """A webhook for Istio's types, as istiod has, whose service has no pods."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "istiod", "namespace": "istio-system"},
        "spec": {"selector": {"app": "istiod"}, "ports": [{"name": "https-webhook", "port": 443, "targetPort": 15017}]},
    }
    hook = {
        "name": "validation.istio.io", "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 2,
        "clientConfig": {"service": {"name": "istiod", "namespace": "istio-system", "path": "/validate"}, "caBundle": ""},
        "rules": [{"apiGroups": ["networking.istio.io"], "apiVersions": ["*"], "resources": ["*"], "operations": ["CREATE", "UPDATE"]}],
    }  # fmt: skip
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "istio-validator"},
        "webhooks": [hook],
    }
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}}, "test")
    for doc in (service, configuration):
        cluster.apply(doc, "test")
    yield
    for doc in (configuration, service):
        cluster.delete(doc["apiVersion"], doc["kind"], doc["metadata"]["name"], doc["metadata"].get("namespace"))


def test_a_webhook_that_is_down_is_named_with_its_service_and_why(components, start, broken_webhook, cluster):
    begun = time.monotonic()
    result = result_of(start({**components(*BASE), "timeout": 300}))
    assert result["failed"]
    for part in ('webhook "validation.istio.io"', "Service istio-system/istiod", "no pod of namespace istio-system", "app=istiod"):
        assert part in result["msg"], result["msg"]
    assert time.monotonic() - begun < 200  # of 300: it ends once the cause has lasted
    # what needs no webhook is there, a later run does the rest
    assert {item["metadata"]["name"] for item in cluster.list("apps/v1", "Deployment", "kubeflow")} == {
        "centraldashboard",
        "profiles-deployment",
    }


def test_no_component_has_a_secret_that_ansible_would_show(components):
    options = components(*BASE, "katib", "metacontroller", "pipelines")
    assert [doc["kind"] for doc in options["documents"]] == ["Namespace"]
    kept = documents.exclude(documents.load(options["files"]), options["exclude"])
    assert [doc["metadata"]["name"] for doc in kept if doc["kind"] == "Secret" and (doc.get("data") or doc.get("stringData"))] == []
