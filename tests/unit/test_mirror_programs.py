import json
import os
import stat

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.mirror import programs
from ansible_collections.mlops.platform.plugins.module_utils.mirror.engine import Engine, Step, StepError

MODULE = {"path": "example.org/m", "version": "v1.0.0", "sum": "h1:right="}


def fake_go(path, version="go1.26.8", answer=None, code=0):
    """A program that answers like Go and records how it was called."""
    binary = path / "go"
    answers = {"env": version, "mod": json.dumps(answer or {})}
    binary.write_text(f"""#!/usr/bin/env python3
import json, os, pathlib, sys
with open({str(path / "calls")!r}, "a") as calls:
    calls.write(json.dumps({{"argv": sys.argv[1:], "cwd": os.getcwd(), "cgo": os.environ.get("CGO_ENABLED")}}) + "\\n")
print({answers!r}.get(sys.argv[1], ""))
if sys.argv[1] == "build":
    out = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
    for package in sys.argv[sys.argv.index("-o") + 2:]:
        out.joinpath(pathlib.PurePath(package).name or "m").write_text(package)
sys.exit({code} if sys.argv[1] != "env" else 0)
""")
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    return str(binary)


def calls(path):
    return [json.loads(line) for line in (path / "calls").read_text().splitlines()]


def run(tmp_path, work):
    results = []
    Engine(tmp_path / "mirror", lambda line: None).run([Step("step", lambda job: results.append(work(job)), present=lambda key: False)])
    return results[0]


def test_module_with_the_right_sum_is_taken(tmp_path):
    go = programs.Go(fake_go(tmp_path, answer={"Sum": "h1:right=", "Dir": "/modules/m", "Version": "v1.0.0"}))
    assert run(tmp_path, lambda job: go.download(job, MODULE))["dir"] == "/modules/m"
    assert calls(tmp_path)[0]["argv"] == ["mod", "download", "-json", "example.org/m@v1.0.0"]


def test_wrong_sum_names_module_and_both_sums(tmp_path):
    go = programs.Go(fake_go(tmp_path, answer={"Sum": "h1:wrong=", "Dir": "/modules/m", "Version": "v1.0.0"}))
    with pytest.raises(StepError, match=r"example.org/m@v1.0.0 has the sum h1:wrong=, expected is h1:right="):
        run(tmp_path, lambda job: go.download(job, MODULE))


def test_module_that_cannot_be_had_says_why(tmp_path):
    go = programs.Go(fake_go(tmp_path, answer={"Error": "404 Not Found"}, code=1))
    with pytest.raises(StepError, match="example.org/m@v1.0.0 cannot be had: 404 Not Found"):
        run(tmp_path, lambda job: go.download(job, MODULE))


def test_go_is_taken_where_it_is_new_enough(tmp_path):
    for name, version in (("old", "go1.21.13"), ("new", "go1.26.8")):
        (tmp_path / name).mkdir()
        fake_go(tmp_path / name, version)
    old, new = tmp_path / "old/go", tmp_path / "new/go"
    assert programs.find_go("1.26", [tmp_path / "none", old, new]) == str(new)
    assert programs.find_go("1.27", [old, new]) is None
    assert programs.find_go("1.21.13", [old, new]) == str(old)


def test_local_replacements_become_published_versions():
    text = """module k8s.io/kubernetes
require k8s.io/api v0.0.0
replace (
\tk8s.io/api => ./staging/src/k8s.io/api
\tgo.etcd.io/etcd/pkg/v3 => ../pkg
\texample.org/x v1.2.3 => example.org/fork v1.2.4 // ./not a directory
)
replace go.etcd.io/etcd => ./FORBIDDEN_DEPENDENCY
replace k8s.io/client-go v1.0.0 => ../client-go
"""
    assert (
        programs.own_modfile(text, "v0.34.4")
        == """module k8s.io/kubernetes
require k8s.io/api v0.0.0
replace (
\tk8s.io/api => k8s.io/api v0.34.4
\tgo.etcd.io/etcd/pkg/v3 => go.etcd.io/etcd/pkg/v3 v0.34.4
\texample.org/x v1.2.3 => example.org/fork v1.2.4 // ./not a directory
)
replace k8s.io/client-go => k8s.io/client-go v0.34.4
"""
    )


def test_kept_imports():
    text = 'package plugin\n\nimport (\n\t// all\n\t_ "x/plugin/acl"\n\t_ "x/plugin/cache"\n\t"fmt"\n)\n'
    assert programs.kept_imports(text, ["cache"]) == 'package plugin\n\nimport (\n\t// all\n\t_ "x/plugin/cache"\n\t"fmt"\n)\n'
    with pytest.raises(StepError, match="imports no forward"):
        programs.kept_imports(text, ["cache", "forward"])


@pytest.mark.parametrize(
    ("package", "module", "name"),
    [("cmd/helm", "helm.sh/helm/v3", "helm"), (".", "sigs.k8s.io/kind", "kind"), (".", "go.etcd.io/etcd/server/v3", "server")],
)
def test_program_name(package, module, name):
    assert programs.program_name(package, module) == name


def sources(tmp_path):
    module = tmp_path / "module"
    (module / "core").mkdir(parents=True)
    (module / "go.mod").write_text("module example.org/m\nreplace example.org/a => ./a\n")
    (module / "go.sum").write_text("sums\n")
    (module / "core/z.go").write_text('import (\n\t_ "x/one"\n\t_ "x/two"\n)\n')
    (module / "core/z_darwin.go").write_text("package core\n")
    os.chmod(module / "core", 0o555)
    return module


def test_build_uses_the_modules_own_files_and_renames(tmp_path):
    go, module = programs.Go(fake_go(tmp_path)), sources(tmp_path)
    recipe = {
        "module": MODULE,
        "programs": programs.normalized(["cmd/a", {"package": "cmd/manager", "name": "kserve-manager"}], "example.org/m"),
        "ldflags": "-X v=1",
    }
    run(tmp_path, lambda job: go.build(job, str(module), tmp_path / "work", recipe, tmp_path / "bin"))
    assert {path.name: path.read_text() for path in (tmp_path / "bin").iterdir()} == {"a": "./cmd/a", "kserve-manager": "./cmd/manager"}
    [call] = calls(tmp_path)
    assert call["cwd"] == str(module) and call["cgo"] == "0"
    assert {"-mod=readonly", "-trimpath", "-ldflags=-s -w -X v=1"} <= set(call["argv"])


def test_build_with_changed_files_leaves_the_module_alone(tmp_path):
    go, module = programs.Go(fake_go(tmp_path)), sources(tmp_path)
    recipe = {
        "module": MODULE,
        "programs": programs.normalized(["."], "example.org/m"),
        "local_replaces": "v0.1.0",
        "keep_imports": {"core/z.go": ["two"]},
        "links": {"core/z_linux.go": "z_darwin.go"},
    }
    work = tmp_path / "work"
    for _ in range(2):  # again over what an interrupted build has left
        run(tmp_path, lambda job: go.sources(job, str(module), work, recipe))
    [call, _] = calls(tmp_path)
    assert call["cwd"] == str(work / "src") and {"-mod=mod", f"-modfile={work / 'go.mod'}"} <= set(call["argv"])
    assert "x/one" not in (work / "src/core/z.go").read_text() and "x/one" in (module / "core/z.go").read_text()
    assert (work / "src/core/z_linux.go").read_text() == "package core\n" and not (module / "core/z_linux.go").exists()
    assert "example.org/a => example.org/a v0.1.0" in (work / "go.mod").read_text()
    assert "./a" in (module / "go.mod").read_text() and (work / "go.sum").read_text() == "sums\n"
