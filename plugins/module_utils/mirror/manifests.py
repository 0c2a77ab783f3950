"""Builds a component's manifests out of the sources of its Go module, for machines that cannot fetch the released files.

The same module gives the same bytes every time, so that a release set can name their sha256 (`packages_sha256`).
Three kinds of sources:
- files and directories that the module carries as they are released (Istio's charts, KServe's install/): copied;
- Knative: the files of its config/ put together as its release script does. Its images are named by tag, because the
  digest of a released image cannot be had by building it;
- cert-manager: its chart rendered by Helm as its release script does.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

KNATIVE_IMAGES = "gcr.io/knative-releases"
# Symbolic links of knative.dev/serving's config/core into the two modules below, which module archives leave out.
KNATIVE_LINKS = {
    "300-imagecache.yaml": ("knative.dev/caching", "image.yaml"),
    "300-resources/certificate.yaml": ("knative.dev/networking", "certificate.yaml"),
    "300-resources/domain-claim.yaml": ("knative.dev/networking", "domain-claim.yaml"),
    "300-resources/ingress.yaml": ("knative.dev/networking", "ingress.yaml"),
    "300-resources/serverlessservice.yaml": ("knative.dev/networking", "serverlessservice.yaml"),
    "configmaps/network.yaml": ("knative.dev/networking", "config-network.yaml"),
}


class ManifestError(Exception):
    """The module does not hold what its manifests are made of."""


def generate(component: str, release_component: dict, module_dir: str, out_dir: str, tools: dict) -> dict[str, str]:
    """Write every artifact of a component under out_dir: <artifact>.yaml, or the directory <artifact>.

    :param component: name of the component in the release set
    :param release_component: its entry there
    :param module_dir: directory of the sources of its `module`
    :param tools: {go: path, helm: path, env: environment of both commands}
    :return: artifact → path written
    """
    out = pathlib.Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    source = pathlib.Path(module_dir)
    carried = (release_component.get("packages") or {}).get("manifests")
    if carried:
        if carried.get("module", release_component["module"]) != release_component["module"]:
            source = module_sources(carried["module"], tools)
        return _copy(source, carried["files"], release_component["artifacts"], out)
    generators = {"knative": _knative, "cert_manager": _cert_manager}
    if component not in generators:
        raise ManifestError(f"{component}: the release set names no packages.manifests, and there is no generator for this component")
    written = {}
    for name, text in generators[component](release_component, source, tools).items():
        path = out / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        written[name] = str(path)
    missing = sorted(set(release_component["artifacts"]) - set(written))
    if missing:
        raise ManifestError(f"{component} {release_component['version']}: no way is known to generate {', '.join(missing)} from packages")
    return written


def module_sources(module: dict, tools: dict) -> pathlib.Path:
    """Download a Go module ({path, version, sum}) into Go's module cache and return its directory."""
    name = f"{module['path']}@{module['version']}"
    # away from any go.mod, whose own requirements would have a say
    command = [tools["go"], "mod", "download", "-json", name]
    run = subprocess.run(command, cwd=tempfile.gettempdir(), env=tools.get("env"), capture_output=True, text=True, check=False)
    answer = json.loads(run.stdout) if run.stdout.strip() else {}
    if run.returncode or answer.get("Error"):
        raise ManifestError(f"Go module {name} cannot be downloaded: {answer.get('Error') or run.stderr.strip()}")
    if module.get("sum") and module["sum"] != answer["Sum"]:
        raise ManifestError(f"Go module {name} has the checksum {answer['Sum']}, the release set says {module['sum']}")
    return pathlib.Path(answer["Dir"])


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(f"{path} is not in the module's archive") from None


def _copy(source: pathlib.Path, files: dict, artifacts: dict, out: pathlib.Path) -> dict[str, str]:
    written = {}
    for name, relative in files.items():
        listed = artifacts[name].get("files")
        target = out / name if listed else out / f"{name}.yaml"
        if target.is_dir():
            shutil.rmtree(target)
        for file in listed or [""]:
            origin = source / relative / file if file else source / relative
            if not origin.is_file():
                raise ManifestError(f"{origin} is not in the module's archive")
            copy = target / file if file else target
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin, copy)  # the bytes only: files of Go's module cache are read-only
        written[name] = str(target)
    return written


def _knative(release: dict, serving: pathlib.Path, tools: dict) -> dict[str, str]:
    version = release["version"]
    required = dict(re.findall(r"^\s*(knative\.dev/\S+) (v\S+)", _read(serving / "go.mod"), re.MULTILINE))
    linked = {
        path: module_sources({"path": path, "version": required[path]}, tools) for path in {path for path, _ in KNATIVE_LINKS.values()}
    }
    core = {path.relative_to(serving / "config/core").as_posix(): path for path in (serving / "config/core").rglob("*.yaml")}
    core |= {name: linked[module] / "config" / file for name, (module, file) in KNATIVE_LINKS.items()}
    hpa = {path.name: path for path in (serving / "config/hpa-autoscaling").glob("*.yaml")}

    def joined(files: dict) -> str:
        # ko, which puts the release together, walks directories in the order of their entries' names
        text = "\n---\n".join(_read(files[name]).rstrip("\n") for name in sorted(files, key=lambda name: name.split("/"))) + "\n"
        text = re.sub(r"ko://(\S+)", rf"{KNATIVE_IMAGES}/\1:v{version}", text)
        return text.replace("app.kubernetes.io/version: devel", f'app.kubernetes.io/version: "{version}"')

    return {
        "serving_crds": joined(
            {name: path for name, path in core.items() if name.startswith("300-resources/") or name == "300-imagecache.yaml"}
        ),
        "serving_core": joined(core),
        "serving_hpa": joined(hpa),
        "net_istio": _net_istio(_read(serving / "third_party/istio-latest/net-istio.yaml"), release["net_istio"]["version"]),
    }


def _net_istio(text: str, version: str) -> str:
    """Knative Serving carries the net-istio of the day it was tagged: its objects are the release's, its labels and images a nightly's."""
    text = re.sub(r"gcr\.io/knative-nightly/(\S+?)@sha256:[0-9a-f]{64}", rf"{KNATIVE_IMAGES}/\1:v{version}", text)
    text = re.sub(r"app\.kubernetes\.io/version: .*", f'app.kubernetes.io/version: "{version}"', text)
    labels = (
        "app.kubernetes.io/component: net-istio",
        "app.kubernetes.io/name: knative-serving",
        f'app.kubernetes.io/version: "{version}"',
        "networking.knative.dev/ingress-provider: istio",
    )
    documents = text.split("\n---\n")
    for number, document in enumerate(documents):
        # one object of 1.14 got the labels that all others have only in the release
        if "\n  labels:\n" in document and labels[2] not in document:
            lines = "".join(f"    {label}\n" for label in labels if label not in document)
            documents[number] = document.replace("\n  labels:\n", "\n  labels:\n" + lines, 1)
    return "\n---\n".join(documents)


def _cert_manager(release: dict, source: pathlib.Path, tools: dict) -> dict[str, str]:
    version = "v" + release["version"]
    with tempfile.TemporaryDirectory() as scratch:
        chart = pathlib.Path(scratch, "cert-manager")
        shutil.copytree(source / "deploy/charts/cert-manager", chart, copy_function=shutil.copyfile)
        for directory in (chart, *chart.rglob("*/")):
            directory.chmod(0o755)  # directories of Go's module cache are read-only
        meta = _read(chart / "Chart.template.yaml")
        (chart / "Chart.yaml").write_text(
            re.sub(r"^(version|appVersion): .*$", rf"\1: {version}", meta, flags=re.MULTILINE), encoding="utf-8"
        )
        crds = "\n---\n".join(_read(path).rstrip("\n") for path in sorted((source / "deploy/crds").glob("*.yaml")))
        (chart / "templates/crds.yaml").write_text("{{- if .Values.installCRDs }}\n" + crds + "\n{{- end }}\n", encoding="utf-8")
        rendered = _helm_template(chart, scratch, tools)
    documents = [document.strip("\n") for document in re.split(r"^---$", rendered, flags=re.MULTILINE) if document.strip()]
    # the released file has the namespace first, then the definitions, then the rest
    documents.sort(key=lambda document: "\nkind: CustomResourceDefinition\n" not in document)
    namespace = _read(source / "deploy/manifests/namespace.yaml").strip("\n")
    return {"manifest": "\n---\n".join([namespace, *documents]) + "\n"}


def _helm_template(chart: pathlib.Path, scratch: str, tools: dict) -> str:
    # nothing of this machine's Helm configuration or cluster takes part: the same chart gives the same text everywhere
    environment = {**(tools.get("env") or os.environ), **{f"HELM_{kind}_HOME": scratch for kind in ("CACHE", "CONFIG", "DATA")}}
    command = [
        tools["helm"],
        "template",
        "cert-manager",
        str(chart),
        "--namespace=cert-manager",
        "--kube-version=v1.29.0",
        "--set=installCRDs=true,creator=static,startupapicheck.enabled=false",
    ]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise ManifestError(f"helm cannot render cert-manager's chart: {run.stderr.strip()}")
    return run.stdout
