"""The manifests built out of Go modules: against small made-up modules, and against the released files where they are at hand."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import shutil

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils.mirror import manifests

ROOT = pathlib.Path(__file__).resolve().parents[2]
LABELS = "  labels:\n    app.kubernetes.io/name: knative-serving\n    app.kubernetes.io/version: devel\n"


def document(kind, name, more=""):
    return f"# Copyright\n\napiVersion: v1\nkind: {kind}\nmetadata:\n  name: {name}\n{LABELS}{more}"


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def objects(path):
    found = {}
    for doc in yaml.load_all(pathlib.Path(path).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if doc:
            key = (doc["kind"], doc["metadata"].get("namespace"), doc["metadata"]["name"])
            assert key not in found or found[key] == doc, f"{key} is there twice, and differs"
            found[key] = doc
    return found


@pytest.fixture
def knative(tmp_path, monkeypatch):
    """A small knative.dev/serving with the two modules it links to."""
    serving = write(
        tmp_path / "serving",
        {
            "go.mod": "module knative.dev/serving\n\nrequire (\n\tknative.dev/caching v0.0.0-1\n\tknative.dev/networking v0.0.0-2\n)\n",
            "config/core/100-namespace.yaml": document("Namespace", "knative-serving"),
            "config/core/200-roles/role.yaml": document("ClusterRole", "role"),
            "config/core/200-serviceaccount.yaml": document("ServiceAccount", "controller"),
            "config/core/300-resources/service.yaml": document("CustomResourceDefinition", "services"),
            "config/core/deployments/controller.yaml": document(
                "Deployment", "controller", "spec:\n  image: ko://knative.dev/serving/cmd/controller\n"
            ),
            "config/core/placeholder.go": "package core\n",
            "config/hpa-autoscaling/controller.yaml": document("Deployment", "autoscaler-hpa"),
            "third_party/istio-latest/net-istio.yaml": (
                document("Gateway", "g").replace("devel", '"20240422-f4c55622"') + "\n---\n"
                "kind: Deployment\nmetadata:\n  name: d\n  labels:\n    app.kubernetes.io/component: net-istio\n"
                '    app.kubernetes.io/version: "x"\nspec:\n'
                f"  image: gcr.io/knative-nightly/knative.dev/net-istio/cmd/controller@sha256:{'0' * 64}\n---\n"
                "kind: Certificate\nmetadata:\n  labels:\n    a: b\n  name: c\n"
            ),
        },
    )

    def sources(module, tools):
        asked.append(f"{module['path']}@{module['version']}")
        owned = [file for owner, file in manifests.KNATIVE_LINKS.values() if owner == module["path"]]
        return write(
            tmp_path / module["path"], {f"config/{file}": document("CustomResourceDefinition", file.split(".")[0]) for file in owned}
        )

    asked = []
    monkeypatch.setattr(manifests, "module_sources", sources)
    release = {
        "version": "1.14.1",
        "module": {"path": "knative.dev/serving"},
        "net_istio": {"version": "1.14.2"},
        "packages": {},
        "artifacts": {name: {} for name in ("serving_crds", "serving_core", "serving_hpa", "net_istio")},
    }
    written = manifests.generate("knative", release, str(serving), str(tmp_path / "out"), {})
    assert sorted(asked) == ["knative.dev/caching@v0.0.0-1", "knative.dev/networking@v0.0.0-2"]
    return written, (release, serving)


def names(path):
    return [key[2] for key in objects(path)]


def test_knative_core_holds_what_the_links_point_to(knative):
    written, _arguments = knative
    assert names(written["serving_core"]) == [
        "knative-serving",
        "role",
        "controller",
        "image",
        "certificate",
        "domain-claim",
        "ingress",
        "serverlessservice",
        "services",
        "config-network",
        "controller",
    ]


def test_knative_crds_are_the_definitions_alone(knative):
    assert {key[0] for key in objects(knative[0]["serving_crds"])} == {"CustomResourceDefinition"}
    assert set(names(knative[0]["serving_crds"])) == {"image", "certificate", "domain-claim", "ingress", "serverlessservice", "services"}


def test_knative_images_are_named_by_tag(knative):
    core = objects(knative[0]["serving_core"])
    assert core["Deployment", None, "controller"]["spec"]["image"] == "gcr.io/knative-releases/knative.dev/serving/cmd/controller:v1.14.1"


def test_knative_version_label_is_the_releases(knative):
    for artifact, version in (("serving_core", "1.14.1"), ("serving_hpa", "1.14.1"), ("net_istio", "1.14.2")):
        for doc in objects(knative[0][artifact]).values():
            assert doc["metadata"]["labels"]["app.kubernetes.io/version"] == version


def test_net_istio_is_the_release_and_no_nightly(knative):
    found = objects(knative[0]["net_istio"])
    assert found["Deployment", None, "d"]["spec"]["image"] == "gcr.io/knative-releases/knative.dev/net-istio/cmd/controller:v1.14.2"
    assert found["Certificate", None, "c"]["metadata"]["labels"] == {
        "a": "b",
        "app.kubernetes.io/component": "net-istio",
        "app.kubernetes.io/name": "knative-serving",
        "app.kubernetes.io/version": "1.14.2",
        "networking.knative.dev/ingress-provider": "istio",
    }


def test_same_input_gives_same_bytes(knative, tmp_path):
    written, (release, serving) = knative
    again = manifests.generate("knative", release, str(serving), str(tmp_path / "again"), {})
    for artifact, path in written.items():
        assert pathlib.Path(path).read_bytes() == pathlib.Path(again[artifact]).read_bytes()


def test_a_file_that_the_module_lacks_is_named(knative, tmp_path):
    _written, (release, serving) = knative
    (serving / "third_party/istio-latest/net-istio.yaml").unlink()
    with pytest.raises(manifests.ManifestError, match=r"third_party/istio-latest/net-istio\.yaml is not in the module"):
        manifests.generate("knative", release, str(serving), str(tmp_path / "out"), {})


def test_an_artifact_that_nothing_generates_is_an_error(knative, tmp_path):
    _written, (release, serving) = knative
    release["artifacts"]["post_install"] = {}
    with pytest.raises(manifests.ManifestError, match="no way is known to generate post_install"):
        manifests.generate("knative", release, str(serving), str(tmp_path / "out"), {})


def test_files_and_trees_of_a_module_are_copied(tmp_path):
    module = write(
        tmp_path / "module",
        {
            "install/kserve.yaml": "a: 1\n",
            "charts/base/Chart.yaml": "b: 1\n",
            "charts/base/templates/x.yaml": "c: 1\n",
            "charts/base/README.md": "not listed\n",
        },
    )
    os.chmod(module / "charts/base/Chart.yaml", 0o444)
    release = {
        "version": "1",
        "module": {"path": "m"},
        "artifacts": {"kserve": {}, "base": {"files": {"Chart.yaml": None, "templates/x.yaml": None}}},
        "packages": {"manifests": {"files": {"kserve": "install/kserve.yaml", "base": "charts/base"}}},
    }
    stale = write(tmp_path / "out", {"base/templates/stale.yaml": ""})
    for _run in range(2):
        written = manifests.generate("any", release, str(module), str(stale), {})
    assert pathlib.Path(written["kserve"]).read_text() == "a: 1\n" and written["kserve"].endswith("/kserve.yaml")
    assert sorted(str(path.relative_to(written["base"])) for path in pathlib.Path(written["base"]).rglob("*.yaml")) == [
        "Chart.yaml",
        "templates/x.yaml",
    ]


def test_a_component_without_a_generator_is_an_error(tmp_path):
    with pytest.raises(manifests.ManifestError, match="other: .*no generator"):
        manifests.generate("other", {"version": "1", "artifacts": {}, "module": {}}, str(tmp_path), str(tmp_path), {})


def test_a_module_with_another_checksum_is_refused(tmp_path):
    go = tmp_path / "go"
    go.write_text('#!/bin/sh\necho \'{"Dir": "/nowhere", "Sum": "h1:is"}\'\n')
    go.chmod(0o755)
    module = {"path": "example.org/m", "version": "v1.0.0", "sum": "h1:wanted"}
    with pytest.raises(manifests.ManifestError, match="example.org/m@v1.0.0 has the checksum h1:is, the release set says h1:wanted"):
        manifests.module_sources(module, {"go": str(go)})
    assert manifests.module_sources(module | {"sum": "h1:is"}, {"go": str(go)}) == pathlib.Path("/nowhere")


# ---- against the released files

UPSTREAM = os.environ.get("MLOPS_PLATFORM_UPSTREAM")
HELM = os.environ.get("MLOPS_PLATFORM_HELM") or shutil.which("helm")
RELEASED = {
    "serving_crds": "serving/1-serving-crds.yaml",
    "serving_core": "serving/2-serving-core.yaml",
    "serving_hpa": "serving/3-serving-hpa.yaml",
    "net_istio": "net-istio/net-istio.yaml",
}
needs_upstream = pytest.mark.skipif(
    not UPSTREAM or not os.path.isdir(UPSTREAM), reason="MLOPS_PLATFORM_UPSTREAM names no directory with the released manifests"
)
needs_go = pytest.mark.skipif(not shutil.which("go"), reason="the go command, which downloads the modules, is not on PATH")


def built(release, component, tmp_path):
    entry = yaml.safe_load((ROOT / f"releases/{release}.yml").read_text())[component]
    tools = {"go": "go", "helm": HELM}
    source = manifests.module_sources(entry["module"], tools)
    return entry, manifests.generate(component, entry, str(source), str(tmp_path), tools)


def by_tag(value, tag):
    """Digests of released images as the tags of the same release."""
    if isinstance(value, dict):
        return {key: by_tag(item, tag) for key, item in value.items()}
    if isinstance(value, list):
        return [by_tag(item, tag) for item in value]
    return re.sub(r"@sha256:[0-9a-f]{64}", f":v{tag}", value) if isinstance(value, str) else value


@needs_upstream
@needs_go
@pytest.mark.parametrize("release", ["serving-1.14", "serving-1.15"])
def test_knative_equals_the_release_object_for_object(release, tmp_path):
    entry, written = built(release, "knative", tmp_path)
    for artifact, file in RELEASED.items():
        tag = entry["net_istio"]["version"] if artifact == "net_istio" else entry["version"]
        upstream = objects(pathlib.Path(UPSTREAM, f"knative-{entry['version']}", file))
        assert objects(written[artifact]) == {key: by_tag(doc, tag) for key, doc in upstream.items()}, artifact


@needs_upstream
@needs_go
@pytest.mark.parametrize("release", ["serving-1.14", "serving-1.15"])
def test_kserve_equals_the_release_byte_for_byte(release, tmp_path):
    entry, written = built(release, "kserve", tmp_path)
    files = {"kserve": "kserve.yaml", "runtimes": pathlib.Path(entry["artifacts"]["runtimes"]["url"]).name}
    for artifact, file in files.items():
        assert pathlib.Path(written[artifact]).read_bytes() == pathlib.Path(UPSTREAM, f"kserve-{entry['version']}", file).read_bytes()


@needs_upstream
@needs_go
@pytest.mark.skipif(not HELM, reason="neither MLOPS_PLATFORM_HELM nor PATH names the helm command")
def test_cert_manager_has_the_shape_of_a_release(tmp_path):
    entry, written = built("serving-1.14", "cert_manager", tmp_path)
    ours, theirs = objects(written["manifest"]), objects(pathlib.Path(UPSTREAM, "cert-manager-1.14.5/cert-manager.yaml"))
    # 1.14 added a role that lets any subject of the cluster list cert-manager's kinds, and dropped the webhook's configuration
    assert set(theirs) - set(ours) == {("ClusterRole", None, "cert-manager-cluster-view")}
    assert set(ours) - set(theirs) == {("ConfigMap", "cert-manager", "cert-manager-webhook")}
    assert next(iter(ours)) == ("Namespace", None, "cert-manager")
    for (kind, _namespace, name), doc in ours.items():
        if kind == "Deployment":
            (image,) = (container["image"] for container in doc["spec"]["template"]["spec"]["containers"])
            part = name.removeprefix("cert-manager").lstrip("-") or "controller"
            assert image == f"quay.io/jetstack/cert-manager-{part}:v{entry['version']}"


@needs_go
@pytest.mark.skipif(not os.environ.get("MLOPS_PLATFORM_UPSTREAM"), reason="MLOPS_PLATFORM_UPSTREAM is not set: no downloads of modules")
@pytest.mark.parametrize("release", ["serving-1.14", "serving-1.15"])
@pytest.mark.parametrize("component", ["istio", "cert_manager", "knative", "kserve", "training_operator", "argo_workflows"])
def test_release_sets_name_the_bytes_that_are_generated(release, component, tmp_path):
    if component == "cert_manager" and not HELM:
        pytest.skip("neither MLOPS_PLATFORM_HELM nor PATH names the helm command")
    entry, written = built(release, component, tmp_path)
    for name, artifact in entry["artifacts"].items():
        sums = artifact.get("files") or {"": artifact.get("packages_sha256") or artifact["sha256"]}
        for file, expected in sums.items():
            path = pathlib.Path(written[name], file) if file else pathlib.Path(written[name])
            assert hashlib.sha256(path.read_bytes()).hexdigest() == expected, path
