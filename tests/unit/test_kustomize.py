"""Builds of source trees: what is cached, when it is made anew, and what is said where it fails. kustomize is that of kubectl."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.mlops.platform.plugins.module_utils.kustomize import KustomizeError, Workshop, _cause, tree_hash
from ansible_collections.mlops.platform.plugins.modules import kustomize

CACHED = Path(os.environ.get("MLOPS_PLATFORM_CACHE") or "~/.cache/mlops-platform").expanduser() / "bin/kubectl"
KUBECTL = str(CACHED) if CACHED.exists() else shutil.which("kubectl")
needs_kubectl = pytest.mark.skipif(not KUBECTL, reason="there is no kubectl: neither of `make up` nor on PATH")

SETTINGS = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {released: '2024-01-01', operator: '='}\n"
FAKE = """#!/bin/sh
echo "$@" >> {calls}
case $1 in
  version) echo '{{"kustomizeVersion": "{version}"}}' ;;
  kustomize) shift; printf 'kind: ConfigMap\\nmetadata: {{name: %s}}\\n' "$(grep -c . kustomization.yaml)" ;;
esac
"""


@pytest.fixture
def tree(tmp_path):
    base = tmp_path / "source/base"
    base.mkdir(parents=True)
    (base / "kustomization.yaml").write_text("resources: [settings.yaml]\n")
    (base / "settings.yaml").write_text(SETTINGS)
    return tmp_path / "source"


@pytest.fixture
def fake(tmp_path):
    """A kubectl that only writes down what it is asked; `fake(version)` → (its path, what it was asked)."""

    def make(version="v5.7.1"):
        calls, path = tmp_path / "calls", tmp_path / "kubectl"
        path.write_text(FAKE.format(calls=calls, version=version))
        path.chmod(0o755)
        return str(path), lambda: [line.split()[0] for line in calls.read_text().splitlines()]

    return make


def build(**more):
    return {"settings": {"tree": "source", "kustomization": {"resources": ["tree/base"], **more}}}


def documents(path):
    return json.loads(Path(path).read_text())["items"]


def archive(path, files, top="repository-1.0"):
    with tarfile.open(path, "w:gz") as made:
        for name, text in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(text)
            made.addfile(info, io.BytesIO(text.encode()))
    return str(path)


@needs_kubectl
def test_a_tree_is_built_under_an_overlay(tree, tmp_path):
    workshop = Workshop(tmp_path / "cache", KUBECTL)
    overlay = {
        "namespace": "kubeflow",
        "labels": [{"pairs": {"part": "settings"}}],
        "patches": [{"target": {"kind": "ConfigMap"}, "patch": '[{"op": "add", "path": "/data/more", "value": "yes"}]'}],
    }
    [doc] = documents(workshop.build({"source": str(tree)}, build(**overlay))["settings"])
    assert doc["metadata"] == {"name": "settings", "namespace": "kubeflow", "labels": {"part": "settings"}}
    assert doc["data"] == {"released": "2024-01-01", "operator": "=", "more": "yes"}  # text, as Kubernetes reads it


@needs_kubectl
def test_patches_come_out_of_the_tree(tree, tmp_path):
    (tree / "patch.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {operator: '!'}\n")
    built = Workshop(tmp_path / "cache", KUBECTL).build({"source": str(tree)}, build(patches=[{"path": "tree/patch.yaml"}]))
    assert documents(built["settings"])[0]["data"]["operator"] == "!"


@needs_kubectl
def test_a_build_without_a_tree(tmp_path):
    generator = {"name": "made", "literals": ["a=b"], "options": {"disableNameSuffixHash": True}}
    built = Workshop(tmp_path / "cache", KUBECTL).build({}, {"made": {"kustomization": {"configMapGenerator": [generator]}}})
    assert documents(built["made"])[0]["data"] == {"a": "b"}


@needs_kubectl
def test_failures_come_together_with_build_tree_and_innermost_cause(tree, tmp_path):
    (tree / "base/settings.yaml").unlink()
    builds = build() | {"other": {"tree": "source", "kustomization": {"resources": ["tree/nowhere"]}}}
    with pytest.raises(KustomizeError) as error:
        Workshop(tmp_path / "cache", KUBECTL).build({"source": str(tree)}, builds)
    first, second = str(error.value).splitlines()
    assert first.startswith(f"settings of {tree}: {tree}/base: ") and first.endswith("settings.yaml: no such file or directory")
    assert second.startswith(f"other of {tree}: ") and "tree/nowhere" in second


def test_a_build_is_made_once_for_the_same_content(tree, tmp_path, fake):
    kubectl, calls = fake()

    def run(**more):
        workshop = Workshop(tmp_path / "cache", kubectl)
        return workshop.build({"source": str(tree)}, build(**more))["settings"], workshop.built

    first, made = run()
    assert made == ["settings"]
    assert run() == (first, [])
    assert calls().count("kustomize") == 1
    other, made = run(namePrefix="a-")
    assert made == ["settings"] and other != first
    (tree / ".git").mkdir()
    (tree / ".git/HEAD").write_text("moved")
    assert run() == (first, [])
    (tree / "base/settings.yaml").write_text(SETTINGS.replace("=", "~"))
    changed, made = run()
    assert made == ["settings"] and changed not in (first, other)
    (tree / "base/settings.yaml").write_text(SETTINGS)
    assert run() == (first, [])
    fake("v5.9.0")
    assert run()[1] == ["settings"]


@pytest.mark.parametrize("version", ["v4.5.7", "4.5.7"])
def test_an_old_kubectl_is_refused(tree, tmp_path, fake, version):
    with pytest.raises(KustomizeError, match="has kustomize v?4.5.7; v5 is needed. Use kubectl 1.27"):
        Workshop(tmp_path / "cache", fake(version)[0]).build({"source": str(tree)}, build())


def test_a_kubectl_that_is_not_there_is_named(tree, tmp_path):
    with pytest.raises(KustomizeError, match="/none/kubectl cannot be run: No such file.*install one"):
        Workshop(tmp_path / "cache", "/none/kubectl").build({"source": str(tree)}, build())


def test_a_tree_that_is_not_there_is_named(tmp_path, fake):
    workshop = Workshop(tmp_path / "cache", fake()[0])
    with pytest.raises(KustomizeError, match="tree source: /none is not a directory"):
        workshop.build({"source": "/none"}, build())
    with pytest.raises(KustomizeError, match="builds name the trees source, which are not given"):
        workshop.build({}, build())


def test_archives_become_one_tree(tmp_path):
    one = archive(tmp_path / "one.tar.gz", {"kubeflow/apps/a.yaml": "1", "README.md": "", "kubeflow/apps/b.yaml": "old"})
    two = archive(tmp_path / "two.tar.gz", {"manifests/b.yaml": "new", "manifests/c.yaml": "3", "other/d.yaml": ""}, top="two-2")
    archives = [{"file": one, "paths": {"kubeflow": "."}}, {"file": two, "paths": {"manifests": "apps"}}]
    found, content = Workshop(tmp_path / "cache", "kubectl").tree("kubeflow", archives)
    assert {path.name: path.read_text() for path in found.rglob("*.yaml")} == {"a.yaml": "1", "b.yaml": "new", "c.yaml": "3"}
    assert not (found / "README.md").exists()
    assert content == tree_hash(found)
    # as it is kept, unless it was changed
    (found / "apps/a.yaml").write_text("edited")
    again, same = Workshop(tmp_path / "cache", "kubectl").tree("kubeflow", archives)
    assert (again, same) == (found, content) and (found / "apps/a.yaml").read_text() == "1"
    assert [path.name for path in found.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("files", "top", "paths", "message"),
    [
        ({"a": "1"}, "top", {"b": "."}, "has no directory b; it is not the archive"),
        ({"../../outside": "1"}, "top", {}, "cannot be unpacked"),
    ],
)
def test_archives_that_are_not_what_was_expected(tmp_path, files, top, paths, message):
    made = archive(tmp_path / "made.tar.gz", files, top)
    with pytest.raises(KustomizeError, match=f"tree kubeflow: {made} {message}"):
        Workshop(tmp_path / "cache", "kubectl").tree("kubeflow", [{"file": made, "paths": paths}])
    assert not (tmp_path / "outside").exists()


def test_something_else_than_an_archive(tmp_path):
    (tmp_path / "page.html").write_text("<html>")
    with pytest.raises(KustomizeError, match="page.html cannot be unpacked: .* it is fetched again"):
        Workshop(tmp_path / "cache", "kubectl").tree("kubeflow", [{"file": str(tmp_path / "page.html")}])


def test_the_innermost_cause():
    nested = (
        "# Warning: 'bases' is deprecated.\n"
        "error: accumulating resources: accumulation err='accumulating resources from 'tree/a': read /t/a: is a directory': recursed "
        "accumulation of path '/t/a': accumulating resources: accumulation err='accumulating resources from 'b': read /t/a/b: is a "
        "directory': recursed accumulation of path '/t/a/b': loading KV pairs: file sources: [x]: open /t/a/b/x: no such file\n"
    )
    assert _cause(nested) == "/t/a/b: loading KV pairs: file sources: [x]: open /t/a/b/x: no such file"
    assert _cause("error: unable to find a kustomization") == "unable to find a kustomization"
    assert _cause("") == "kustomize failed without a word"


def test_the_module(tree, tmp_path, fake, capsys):
    kubectl, _ = fake()

    def run(**options):
        args = {"cache_dir": str(tmp_path / "cache"), "kubectl": kubectl, "trees": {"source": str(tree)}, **options}
        with patch_module_args({**args, "_ansible_check_mode": True}), pytest.raises(SystemExit):
            kustomize.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    first, second = run(builds=build()), run(builds=build())
    assert (first["changed"], first["built"], second["built"]) == (False, ["settings"], [])
    assert first["files"] == second["files"]
    assert "not a directory" in run(builds=build(), trees={"source": "/none"})["msg"]
