"""All of Kubeflow on a kind cluster of its own, with the platform below it, in each version that there is a catalog for.

Most of its images cannot be had where only package registries answer: placeholders stand in for them (tests/placeholders). What rolls out
with them shows that the manifests build, apply, are scheduled and roll out, no more; each run says which they are. The source trees are
stored copies: MLOPS_PLATFORM_UPSTREAM names their directory, without it nothing here runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ansible_collections.mlops.platform.plugins.filter.component_plan import component_plan
from ansible_collections.mlops.platform.plugins.module_utils import documents
from ansible_collections.mlops.platform.plugins.module_utils.kustomize import Workshop
from tests import kubeflow
from tests.placeholders import images as placeholders

CLUSTER = os.environ.get("MLOPS_PLATFORM_KUBEFLOW_CLUSTER", "mlops-platform-kubeflow")
PORTS = {"kind_http_port": 31382, "rehearsal_port": 31392}
AIM = 600  # seconds from a fresh cluster to all of Kubeflow
# Real programs in the version that packages have, in place of the one that the manifests name
REAL = {
    "1.8": {
        "gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0": "quay.io/brancz/kube-rbac-proxy:v0.18.0",
        # not Argo's controller: 3.5 refuses the configuration of 3.3; nor the training operator: 1.8 wants a webhook that 1.7 does not have
    },
    "26.03": {
        "quay.io/brancz/kube-rbac-proxy:v0.8.0": "quay.io/brancz/kube-rbac-proxy:v0.18.0",
        "quay.io/brancz/kube-rbac-proxy:v0.13.1": "quay.io/brancz/kube-rbac-proxy:v0.18.0",
        "quay.io/argoproj/workflow-controller:v3.7.3": "quay.io/argoproj/workflow-controller:v3.5.8",
        "quay.io/argoproj/argoexec:v3.7.3": "quay.io/argoproj/argoexec:v3.5.8",
    },
}
# What a program that a placeholder stands in for would make; without it, others do not start
MADE = {"1.8": {"gcr.io/ml-pipeline/cache-deployer:2.0.3": ["webhook-server-tls"]}, "26.03": {}}
# Where the gateway leads, whoever asks (kind's inventory: kubeflow_access none)
PAGES = ("/", "/jupyter/", "/volumes/", "/tensorboards/", "/katib/", "/kserve-endpoints/", "/pipeline/")
PATHS = {"1.8": PAGES, "26.03": (*PAGES, "/model-registry/", "/dex/", "/oauth2/")}
# Kinds that controllers make of the rest
DERIVED = re.compile(
    r"(events|leases|endpoints|endpointslices|ipaddresses|pods|replicasets|controllerrevisions|componentstatuses|certificaterequests)([.]|$)"
)


class Platform:
    """A kind cluster with the platform and a Kubeflow."""

    def __init__(self, run, catalog: dict, version: str, tree: Path, scratch: Path):
        self.run, self.catalog, self.version, self.scratch = run, catalog, version, scratch
        self.kubeconfig = kubeflow.CACHE / "kind" / f"{CLUSTER}.kubeconfig"
        self.trees = {version: tree}
        self.registries: list[str] = []

    def play(self, *playbooks: str, **variables):
        """Run playbooks with the inventory of kind."""
        settings = self.scratch / "variables.json"
        settings.write_text(json.dumps({"kind_cluster_name": CLUSTER, **PORTS, **variables}))
        return self.run(*playbooks, "-i", "inventories/kind", "-e", f"@{settings}", timeout=1200)

    def site(self, version: str = "", **variables):
        """Set the platform up with all of a Kubeflow."""
        version = version or self.version
        return self.play(
            "site.yml",
            **{
                "kubeflow_release": kubeflow.RELEASES[version],
                "kubeflow_manifests": str(self.trees[version]),
                "kubeflow_profile": "full",
                "kubeflow_images": REAL[version],
                "platform_smoke": False,
                **variables,
            },
        )

    def kubectl(self, *arguments: str) -> str:
        """What kubectl prints."""
        command = [kubeflow.kubectl(), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, text=True, capture_output=True, timeout=120)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def offer(self, version: str, docs: list[dict]) -> str:
        """Let the node have placeholders for the images of these documents; says which they are."""
        planned = placeholders.plan(docs, REAL[version], MADE[version])
        services = {f"{doc['metadata']['name']}.{doc['metadata'].get('namespace')}.svc" for doc in docs if doc["kind"] == "Service"}
        target = self.scratch / f"placeholders-{version}"
        layout = placeholders.build(planned, services, kubeflow.CACHE / "mirror/oci", target)
        name = f"{CLUSTER}-placeholders-{version.replace('.', '-')}"
        placeholders.run_registry(name, layout, f"{CLUSTER}-control-plane")
        self.registries.append(name)
        every = {container["image"] for _doc, container in placeholders.containers(docs)}
        lines = [f"{len(planned)} of {len(every)} images are placeholders: manifests build, apply, schedule and roll out, no more"]
        lines += [f"  placeholder: {image} ({', '.join(sorted(entry['workloads']))})" for image, entry in sorted(planned.items())]
        lines += [f"  real, in another version: {image} → {REAL[version][image]}" for image in sorted(every & set(REAL[version]))]
        for image, entry in sorted(planned.items()):
            lines += [f"  made by the placeholder of {image}: Secret {secret}" for secret in entry["secrets"]]
            lines += [f"  trusted by the word of the placeholder of {image}: {kind} {name}" for kind, name in entry["trust"]]
        lines += [f"  empty stand-in in the source tree: {path}" for path in kubeflow.STAND_INS[version]]
        return "\n".join(lines)

    def listed(self) -> dict[tuple, tuple]:
        """All objects that somebody put into the cluster: (kind, namespace, name) → (uid, generation, component)."""
        kinds = [kind for kind in self.kubectl("api-resources", "--verbs=list", "--output=name").split() if not DERIVED.match(kind)]
        items = json.loads(self.kubectl("get", ",".join(kinds), "--all-namespaces", "--output=json", "--show-managed-fields=false"))[
            "items"
        ]
        found = {}
        for item in items:
            meta = item["metadata"]
            component = (meta.get("labels") or {}).get("mlops.platform/component")
            group = item["apiVersion"].rpartition("/")[0]
            found[group, item["kind"], meta.get("namespace"), meta["name"]] = (meta["uid"], meta.get("generation"), component)
        return found

    def listed_when(self, right) -> dict[tuple, tuple]:
        """The same when it is right, or after a minute: controllers clean up a little later."""
        deadline = time.monotonic() + 60
        while not right(found := self.listed()) and time.monotonic() < deadline:
            time.sleep(2)
        return found


@pytest.fixture(scope="module")
def platform(ansible_playbook, kubeflow_version, kubeflow_tree, kubeflow_components, kubeflow_files):
    """A fresh cluster, whose node has placeholders for what cannot be had. Deleted at the end."""
    if placeholders.BASE not in placeholders.Layout(kubeflow.CACHE / "mirror/oci").names():
        pytest.skip("the placeholders are built on an image of the mirror: make up SOURCE=packages")
    catalog = kubeflow_components["__kubeflow_catalogs"][kubeflow_version]
    scratch = Path(tempfile.mkdtemp(prefix="kubeflow-"))  # not pytest's: a registry serves it, and pytest cleans up what is of older runs
    it = Platform(ansible_playbook, catalog, kubeflow_version, kubeflow_tree, scratch)
    try:
        made = it.play("playbooks/kind.yml", "playbooks/rehearsal.yml")
        assert made.code == 0, made.output
        selected = kubeflow_components["__kubeflow_profiles"][kubeflow_version]["full"]
        docs = documents.load([kubeflow_files[name] for name in selected])
        it.said = it.offer(kubeflow_version, docs)
        it.selected = selected
        it.workloads = component_plan(selected, catalog, "kubeflow")["workloads"]
        yield it
    finally:
        if not os.environ.get("MLOPS_PLATFORM_KEEP"):
            for name in it.registries:
                subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=60)
            gone = it.play("playbooks/kind.yml", kind_state="absent")
            assert gone.code == 0, gone.output
            gone = it.play("playbooks/rehearsal.yml", rehearsal_state="absent")
            assert gone.code == 0, gone.output
            shutil.rmtree(scratch)


def test_everything_rolls_out(platform):
    """From a fresh cluster, in time, and nothing is left to do afterwards."""
    first = platform.site()
    assert first.code == 0, first.output
    again = platform.site()
    assert again.code == 0, again.output
    print(
        f"Kubeflow {platform.version}, profile full: {len(platform.workloads)} workloads of {len(platform.selected)} components\n"
        f"site.yml on a fresh cluster {first.seconds:.0f} s, again {again.seconds:.0f} s, changed={again.recap('changed')}\n{platform.said}"
    )
    assert again.recap("changed") == 0, again.output
    assert first.seconds < AIM
    for workload in platform.workloads:
        where = f"--namespace={workload['namespace']}"
        live = json.loads(platform.kubectl("get", workload["kind"], workload["name"], where, "--output=json"))
        assert live["status"]["readyReplicas"] == live["spec"]["replicas"], workload["name"]


def test_the_gateway_leads_to_the_pages(platform):
    """Through the real gateway and the proxies beside the pods: mutual TLS, and policies that know the gateway."""

    def status(path):
        request = urllib.request.Request(f"http://127.0.0.1:{PORTS['kind_http_port']}{path}")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    assert {path: status(path) for path in PATHS[platform.version]} == dict.fromkeys(
        PATHS[platform.version], (200, '{"placeholder": true}')
    )
    # this one is for the dashboard alone; the port of 1.8 is not said to be HTTP, so that its proxy ends the connection
    assert status("/kfam/")[0] == {"1.8": 503, "26.03": 403}[platform.version]
    pods = json.loads(platform.kubectl("get", "pods", "--namespace=kubeflow", "--output=json"))["items"]
    proxied = [pod for pod in pods if "istio-proxy" in json.dumps(pod["spec"])]
    print(f"{len(PATHS[platform.version])} pages answer through the gateway; {len(proxied)} of {len(pods)} pods have Istio's proxy")


def test_katib_goes_and_comes_back(platform):
    """What is no longer in the list is deleted, object by object, and nothing else is touched."""
    before = platform.listed()
    katib = {key for key, (_uid, _generation, component) in before.items() if component == "katib"}
    volumes = {key for key in katib if key[1] == "PersistentVolumeClaim"}
    assert len(katib) > 20 and len(volumes) == 1
    without = platform.site(kubeflow_components=[name for name in platform.selected if name != "katib"])
    assert without.code == 0, without.output
    left = before.keys() - (katib - volumes)
    after = platform.listed_when(lambda found: found.keys() == left)
    assert after.keys() == left
    assert {key: value[:2] for key, value in after.items()} == {key: before[key][:2] for key in after}

    restored = platform.site()
    assert restored.code == 0, restored.output
    last = platform.listed_when(lambda found: found.keys() == before.keys())
    assert last.keys() == before.keys()
    assert {key: last[key][0] for key in last if key not in katib} == {key: before[key][0] for key in before if key not in katib}


# What users have made under 1.8
OF_USERS = """
apiVersion: kubeflow.org/v1
kind: Profile
metadata: {name: team}
spec: {owner: {kind: User, name: user@example.com}}
---
apiVersion: kubeflow.org/v1
kind: Notebook
metadata: {name: notebook, namespace: default}
spec: {template: {spec: {containers: [{name: notebook, image: example.com/notebook:1}]}}}
---
apiVersion: kubeflow.org/v1alpha1
kind: PodDefault
metadata: {name: default, namespace: default}
spec: {selector: {matchLabels: {a: b}}}
---
apiVersion: kubeflow.org/v1
kind: TFJob
metadata: {name: job, namespace: default}
spec:
  runPolicy: {suspend: true}
  tfReplicaSpecs: {Worker: {template: {spec: {containers: [{name: tensorflow, image: example.com/job:1}]}}}}
"""


@pytest.mark.parametrize("kubeflow_version", ["1.8"], indirect=True, scope="session")
def test_upgrade(platform, kubeflow_components, tmp_path):
    """From 1.8 to 26.03: refused because of the object store, then, when that is accepted, done, with what users have."""
    new = "26.03"
    platform.trees[new] = kubeflow.lay_out(new, kubeflow_components["__kubeflow_archives"][new], tmp_path)
    refused = platform.site(new)
    assert refused.code != 0 and refused.recap("changed") == 0
    assert "Copy the bucket mlpipeline elsewhere first, then set kubeflow_accept_data_loss: true" in refused.text

    catalog, selected = kubeflow_components["__kubeflow_catalogs"][new], kubeflow_components["__kubeflow_profiles"][new]["full"]
    builds = component_plan(selected, catalog, "kubeflow")["builds"]
    files = Workshop(tmp_path / "cache", kubeflow.kubectl()).build({"kubeflow": str(platform.trees[new])}, builds)
    said = platform.offer(new, documents.load(list(files.values())))
    made = tmp_path / "of-users.yaml"
    made.write_text(OF_USERS)
    platform.kubectl("apply", "--server-side", f"--filename={made}")
    kept = {"Profile", "Notebook", "PodDefault", "TFJob", "PersistentVolumeClaim"}
    before = {key: value[0] for key, value in platform.listed().items() if key[1] in kept}
    assert {key[1] for key in before} == kept

    upgraded = platform.site(new, kubeflow_accept_data_loss=True)
    assert upgraded.code == 0, upgraded.output
    after = {key: value[0] for key, value in platform.listed().items() if key[1] in kept}
    assert before.items() <= after.items()
    again = platform.site(new)
    assert again.code == 0, again.output
    print(f"upgrade from 1.8.0 to 26.03.1 {upgraded.seconds:.0f} s, again {again.seconds:.0f} s, changed={again.recap('changed')}\n{said}")
    assert again.recap("changed") == 0, again.output

    back = platform.site()
    assert back.code != 0 and back.recap("changed") == 0
    assert "its databases do not go back" in back.text
