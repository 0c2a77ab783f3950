"""Turns the mirror's data (release sets, recipes, bases) into the steps that build it.

Steps are listed by priority: the engine starts the first one that is ready. What a node needs comes first, because making and
loading the node image then overlaps with compiling the platform.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pathlib
import re

from . import docker, node, rootfs
from .engine import Job, Step, StepError, remove_tree
from .oci import Entry, Layout, file_entries, tree_entries
from .programs import Go, find_go, normalized

REGISTRY = "mlops-platform-registry"
NODE_IMAGE = "mlops-platform/node"
NETWORK = "kind"


class DataError(Exception):
    """The release sets or recipes do not fit together."""


def plain(version: str) -> str:
    """Return a version without a leading v."""
    return str(version).removeprefix("v")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", plain(version)))


def for_version(recipe: dict, version: str) -> dict:
    """Return a recipe as it is for one version: without what only later versions have, with {version} filled in."""

    def kept(items):
        return [item for item in items or [] if isinstance(item, str) or _numbers(version) >= _numbers(item.get("since", "0"))]

    images = []
    for image in kept(recipe.get("images")):
        image = {key: value for key, value in image.items() if key not in ("since", "stand_in")}
        images.append({**image, "names": [name.format(version=plain(version)) for name in image["names"]]})
    ldflags = {"ldflags": recipe["ldflags"].format(version=plain(version))} if recipe.get("ldflags") else {}
    return {**recipe, **ldflags, "version": str(version), "images": images, "programs": kept(recipe.get("programs"))}


def content_hash(path: pathlib.Path) -> str:
    """Return the hash of a file, or of the files below a directory with their names."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(path)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


class Builder:
    """Lists the steps for a configuration.

    configuration: releases (loaded release sets), components, kubernetes, tools, registry (recipes), bases, wheels, node_packages, suite,
    python, go_minimum, debian_mirror, files (directory of the role's files), cache_dir, environment (for Go)
    """

    def __init__(self, configuration: dict):
        self.c = configuration
        self.cache = pathlib.Path(configuration["cache_dir"])
        self.mirror = self.cache / "mirror"
        self.files = pathlib.Path(configuration["files"])
        self.layout = Layout(self.mirror / "oci")
        self.node_layout = Layout(self.mirror / "node")
        self.steps: list[Step] = []
        self.known: dict[str, Step] = {}
        self.images: dict[str, str] = {}  # name → its step

    def step(self, name: str, *arguments, **options) -> str:
        """Add a step unless it is there; return its name."""
        step = Step(name, *arguments, **options)
        if name in self.known:
            if self.known[name].inputs != step.inputs:
                raise DataError(f"{name} is asked for in two ways: {self.known[name].inputs} and {step.inputs}")
        else:
            self.known[name] = step
            self.steps.append(step)
        return name

    # the whole

    def plan(self) -> list[Step]:
        """Return all steps."""
        self._go()
        versions = list(dict.fromkeys(plain(release["kubernetes"]["version"]) for release in self.c["releases"]))
        nodes = {version: self._kubernetes(version) for version in versions}
        # sources of the node's programs first, so that compiling starts at once; trees and the other downloads overlap with it
        first = [recipe for recipes in nodes.values() for recipe in recipes.items()]
        platform = self._platform()
        tools = [(name, for_version(recipe, recipe["version"])) for name, recipe in self.c["tools"].items()]
        for index, (component, recipe) in enumerate([*first, *tools, *platform]):
            self._programs(component, recipe)
            if index == 0:
                for base in self.c["bases"]:
                    self._tree_of(base)
                self._node_tree()
        for component, recipe in [*first, *platform]:
            for image in recipe["images"]:
                self._image(component, recipe, image)
        for version, recipes in nodes.items():
            self._node_image(version, recipes)
        registry = for_version(self.c["registry"], self.c["registry"]["version"])
        registry_image = self._image("registry", registry, registry["images"][0])
        for component, recipe in platform:
            self._manifests(component, recipe)
        self._index()
        self._registry(registry["images"][0]["names"][0], registry_image)
        return self.steps

    def _kubernetes(self, version: str) -> dict[str, dict]:
        if version not in self.c["kubernetes"]:
            known = ", ".join(self.c["kubernetes"])
            raise DataError(
                f"mirror_kubernetes (roles/mirror/vars/main.yml) does not say how to build Kubernetes {version}; it knows {known}"
            )
        return {name: for_version(recipe, recipe["version"]) for name, recipe in self.c["kubernetes"][version].items()}

    def _platform(self) -> list[tuple[str, dict]]:
        found: dict[str, tuple[str, dict]] = {}
        for release in self.c["releases"]:
            for component, recipe in self.c["components"].items():
                if component not in release:
                    continue
                part = release[component]
                if not part.get("module"):
                    raise DataError(f"release set {release['name']} names no module for {component}: it cannot be built from packages")
                merged = for_version({**recipe, "module": part["module"], "release": part}, part["version"])
                found[f"{component}-{plain(part['version'])}"] = (component, merged)
        return list(found.values())

    # programs

    def _go(self) -> None:
        lock = self.files / self.c["wheels"]["go"]

        def run(job: Job) -> str:
            target = self.mirror / "wheels/go"
            found = find_go(self.c["go_minimum"], ["go", "/usr/local/go/bin/go", target / "go/bin/go"])
            if not found:
                rootfs.install_packages(job, target, lock)
                for path in (*(target / "go/bin").iterdir(), *(path for path in (target / "go/pkg/tool").rglob("*") if path.is_file())):
                    path.chmod(0o755)
                found = find_go(self.c["go_minimum"], [target / "go/bin/go"])
            if not found:
                raise StepError(f"the Go of {lock} does not run, or is older than {self.c['go_minimum']}")
            return found

        self.step("go", run, [self.c["go_minimum"], content_hash(lock)], outputs=lambda path: [pathlib.Path(path)], slot="net", lazy=True)

    def _use_go(self, job: Job) -> Go:
        return Go(job.result("go"), self.c.get("environment"))

    def _name(self, component: str, recipe: dict) -> str:
        return f"{component}-{plain(recipe['version'])}"

    def _module(self, module: dict) -> str:
        return self.step(
            f"module {module['path']}@{module['version']}",
            lambda job: self._use_go(job).download(job, module),
            module,
            after=("go",),
            outputs=lambda result: [pathlib.Path(result["dir"])],
            slot="net",
            lazy=True,
        )

    def _programs(self, component: str, recipe: dict) -> None:
        """Add the steps that compile a recipe's programs: one for its own module, one for each other."""
        name = self._name(component, recipe)
        for extra in [recipe, *(recipe.get("extra_modules") or [])]:
            if not (extra.get("programs") or extra.get("c_programs")):
                if extra is recipe and recipe.get("module"):
                    self._module(recipe["module"])
                continue
            module = extra["module"] if extra is recipe else {key: extra[key] for key in ("path", "version", "sum")}
            small = {
                "module": module,
                "programs": normalized(extra["programs"], module["path"]),
                **{key: extra[key] for key in ("local_replaces", "keep_imports", "links", "ldflags", "c_programs") if extra.get(key)},
            }
            title = name if extra is recipe else f"{name} {module['path']}"
            self._compile(title, component, name, small, recipe.get("install") or [] if extra is recipe else [])

    def _compile(self, title: str, component: str, name: str, recipe: dict, links: list[str]) -> None:
        fetched = self._module(recipe["module"])
        work, target = self.mirror / "build" / title.replace("/", "_").replace(" ", "-"), self.mirror / "bin" / name
        short = self.mirror / "bin" / component
        built = [program["name"] for program in [*recipe["programs"], *(recipe.get("c_programs") or [])]]

        def sources(job: Job) -> None:
            remove_tree(work)
            work.mkdir(parents=True)
            self._use_go(job).sources(job, job.result(fetched)["dir"], work, recipe)

        def build(job: Job) -> list[str]:
            self._use_go(job).build(job, job.result(fetched)["dir"], work, recipe, target)
            for program in built:
                _link(short / program, target / program)
            for link in links:
                _link(self.cache / "bin" / link, target / link)
            return built

        fetched_all = self.step(f"sources {title}", sources, recipe, after=("go", fetched), outputs=(work,), slot="net", lazy=True)
        self.step(
            f"programs {title}",
            build,
            recipe,
            after=("go", fetched, fetched_all),
            outputs=(*(place / program for place in (target, short) for program in built), *(self.cache / "bin" / link for link in links)),
        )

    def _programs_of(self, component: str, recipe: dict) -> tuple[str, ...]:
        name = self._name(component, recipe)
        return tuple(step.name for step in self.steps if step.name == f"programs {name}" or step.name.startswith(f"programs {name} "))

    # layers

    def _layer(self, name: str, entries, inputs: object, after: tuple[str, ...], layout: Layout | None = None) -> str:
        """Add a step that stores a layer; `entries` makes its entries from the job."""
        layout = layout or self.layout
        return self.step(
            f"layer {name}",
            lambda job: layout.add_layer(entries(job)),
            inputs,
            after=after,
            slot="io",
            lazy=True,
            outputs=lambda descriptor: [layout.blob(descriptor["digest"])],
        )

    def _tree(self, name: str) -> pathlib.Path:
        return self.mirror / "trees" / name

    def _tree_of(self, base: str) -> str:
        """Add the step that makes the Debian tree below a base; return its name, '' for none."""
        recipe = self.c["bases"][base]
        if recipe.get("base") or recipe.get("ca_certificates"):
            return self._tree_of(recipe.get("base") or recipe["ca_certificates"])
        if not recipe.get("rootfs"):
            return ""
        return self._debian(base, recipe["rootfs"])

    def _debian(self, name: str, packages: list[str], also=None, inputs: object = None, after: tuple[str, ...] = ()) -> str:
        packages = sorted(packages)

        def run(job: Job) -> None:
            with job.fresh(self._tree(name)) as work:
                rootfs.debian_tree(job, work, self.c["suite"], packages, self.c.get("debian_mirror") or "", self.mirror / "debian")
                if also:
                    also(job, work)

        return self.step(
            f"tree {name}",
            run,
            [self.c["suite"], packages, self.c.get("debian_mirror") or "", inputs],
            after=after,
            outputs=(self._tree(name),),
            slot="net",
            lazy=True,
        )

    def _wheel(self, name: str) -> str:
        lock = self.files / self.c["wheels"][name]
        target = self.mirror / "wheels" / name
        return self.step(
            f"wheel {name}",
            lambda job: rootfs.install_packages(job, target, lock),
            content_hash(lock),
            outputs=(target,),
            slot="net",
            lazy=True,
        )

    def _files(self, recipe: dict, files: list[dict]) -> tuple[object, list[str], object]:
        """Return what a list of files depends on, the steps it needs, and the function that makes its entries."""
        inputs, after, makers = [], [], []
        for file in files:
            mode = int(str(file.get("mode", "0644")), 8)
            if "src" in file:
                path = self.files / file["src"]
                if not path.exists():
                    raise DataError(f"roles/mirror/files/{file['src']} does not exist")
                inputs.append([file, content_hash(path)])
                makers.append(
                    lambda job, path=path, file=file, mode=mode: [
                        entry for entry in file_entries(path, file["dest"], mode) if "__pycache__" not in entry.name
                    ]
                )
            elif "module" in file:
                step = self._module(recipe["module"])
                after.append(step)
                inputs.append(file)
                makers.append(
                    lambda job, step=step, file=file, mode=mode: file_entries(
                        pathlib.Path(job.result(step)["dir"], file["module"]), file["dest"], mode
                    )
                )
            elif "wheel" in file:
                after.append(self._wheel(file["wheel"]))
                inputs.append(file)
                makers.append(
                    lambda job, file=file, mode=mode: file_entries(
                        self.mirror / "wheels" / file["wheel"] / file["member"], file["dest"], mode
                    )
                )
            else:
                inputs.append(file)
                makers.append(lambda job, file=file, mode=mode: [Entry(file["dest"].strip("/"), file["content"].encode(), mode)])
        return inputs, after, lambda job: [entry for maker in makers for entry in maker(job)]

    def _base_layers(self, base: str) -> list[str]:
        if base not in self.c["bases"]:
            raise DataError(f"there is no base {base}; mirror_bases has {', '.join(self.c['bases'])}")
        recipe = self.c["bases"][base]
        layers = self._base_layers(recipe["base"]) if recipe.get("base") else []
        if recipe.get("ca_certificates"):
            tree = self._tree_of(recipe["ca_certificates"])
            bundle = "etc/ssl/certs/ca-certificates.crt"
            layers.append(
                self._layer(
                    base,
                    lambda job: [*file_entries(self._tree(recipe["ca_certificates"]) / bundle, bundle), Entry("tmp", None, 0o1777, b"5")],
                    bundle,
                    (tree,),
                )
            )
        if recipe.get("rootfs"):
            layers.append(self._layer(base, lambda job: tree_entries(self._tree(base)), None, (self._tree_of(base),)))
        if recipe.get("files"):
            inputs, after, entries = self._files({}, recipe["files"])
            layers.append(self._layer(f"{base} files", entries, inputs, tuple(after)))
        return layers

    def _python_layer(self, lock_name: str, base: str) -> str:
        lock, tree = self.files / lock_name, self._tree_of(base)
        if not tree:
            raise DataError(f"Python packages need a base with Python, not {base}")
        name = tree.removeprefix("tree ")
        target = self.mirror / "packages" / lock_name.replace("/", "_")
        installed = self.step(
            f"packages {lock_name}",
            lambda job: rootfs.install_packages(job, target, lock, self.c["python"]),
            [content_hash(lock), self.c["python"]],
            outputs=(target,),
            slot="net",
            lazy=True,
        )
        return self._layer(f"packages {lock_name}", lambda job: rootfs.python_layer(job, self._tree(name), target), None, (installed, tree))

    # images

    def _image(self, component: str, recipe: dict, image: dict) -> str:
        layers = self._base_layers(image.get("base", "scratch"))
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **(image.get("env") or {})}
        if image.get("python"):
            layers.append(self._python_layer(image["python"], image.get("base", "scratch")))
            environment.setdefault("PYTHONPATH", f"/{rootfs.PYTHON_PACKAGES}")
        inputs, after, entries = self._files(recipe, image.get("files") or [])
        programs = self._programs_of(component, recipe) if image.get("program") else ()
        if image.get("program") and not any(image["program"] in self._built(step) for step in programs):
            raise DataError(f"{component} has no program {image['program']} for {image['names'][0]}")
        binary = self.mirror / "bin" / self._name(component, recipe) / image.get("program", "")
        entrypoint = image.get("entrypoint") or ([image["path"]] if image.get("path") else [])
        config = {
            "Env": [f"{key}={value}" for key, value in environment.items()],
            "User": str(image.get("user", "")),
            "WorkingDir": image.get("workdir", "/"),
            **({"Entrypoint": entrypoint} if entrypoint else {}),
            **({"Cmd": image["cmd"]} if image.get("cmd") else {}),
        }

        def run(job: Job) -> dict:
            own = [*entries(job), *(file_entries(binary, image["path"], 0o755) if image.get("program") else [])]
            stored = [job.result(layer) for layer in layers]
            if own:
                stored.append(self.layout.add_layer(own))
            return self.layout.add_image(stored, config)

        def outputs(descriptor: dict) -> list[pathlib.Path]:
            if not self.layout.blob(descriptor["digest"]).exists():
                return [self.layout.blob(descriptor["digest"])]
            return [self.layout.blob(digest) for digest in self.layout.referenced([descriptor["digest"]])]

        step = self.step(
            f"image {image['names'][0]}",
            run,
            [config, inputs, image.get("program"), image.get("path"), image["names"]],
            after=tuple(dict.fromkeys([*layers, *programs, *after])),
            outputs=outputs,
            slot="io",
        )
        for name in image["names"]:
            if self.images.setdefault(name, step) != step:
                raise DataError(f"{name} is the name of two images")
        return step

    def _built(self, step: str) -> list[str]:
        recipe = self.known[step].inputs
        return [program["name"] for program in [*recipe["programs"], *(recipe.get("c_programs") or [])]]

    def _index(self) -> None:
        steps = tuple(dict.fromkeys(self.images.values()))

        def run(job: Job) -> dict:
            images = {name: job.result(step) for name, step in self.images.items()}
            self.layout.name(images)
            self.layout.prune()
            return {name: descriptor["digest"] for name, descriptor in images.items()}

        self.step(
            "index",
            run,
            sorted(self.images),
            after=steps,
            outputs=(self.layout.directory / "index.json",),
            slot="io",
            present=lambda _key: set(self.images) <= set(self.layout.names()),
        )

    def _registry(self, image: str, step: str) -> None:
        name = image.removeprefix("docker.io/")

        def run(job: Job) -> None:
            docker.load(job, self.layout, name, job.result(step))
            docker.run_registry(job, REGISTRY, name, NETWORK, self.layout)

        self.step(
            "registry",
            run,
            [str(self.layout.directory), REGISTRY, NETWORK],
            after=(step, "index"),
            slot="io",
            present=lambda key: docker.container_runs(REGISTRY, key),
        )

    # the node

    def _node_tree(self) -> str:
        own = self.files / "node"
        fetched = self._module(self.c["tools"]["kind"]["module"])
        return self._debian(
            "node",
            self.c["node_packages"],
            lambda job, work: node.system(job, work, pathlib.Path(job.result(fetched)["dir"]), own),
            [content_hash(own), content_hash(pathlib.Path(node.__file__))],
            ("go", fetched),
        )

    def _node_image(self, version: str, recipes: dict[str, dict]) -> None:
        tree = self._node_tree()
        own = [image for recipe in recipes.values() for image in recipe["images"] if image.get("node")]
        names = {name: self.images[name] for image in own for name in image["names"]}
        programs = tuple(step for component in ("kubernetes", "crictl") for step in self._programs_of(component, recipes[component]))
        places = {component: self.mirror / "bin" / self._name(component, recipes[component]) for component in ("kubernetes", "crictl")}

        def store(job: Job) -> list[Entry]:
            work = self.mirror / "build/node-store"
            remove_tree(work)
            work.mkdir(parents=True)
            return node.image_store(job, self._tree("node"), work, self.layout, {name: job.result(step) for name, step in names.items()})

        layers = [
            self._layer("node", lambda job: tree_entries(self._tree("node")), None, (tree,), self.node_layout),
            self._layer(
                f"node {version} programs",
                lambda job: node.kubernetes_entries(version, places["kubernetes"], places["crictl"] / "crictl"),
                version,
                programs,
                self.node_layout,
            ),
            self._layer(f"node {version} images", store, sorted(names), tuple(dict.fromkeys([tree, *names.values()])), self.node_layout),
        ]
        target = f"{NODE_IMAGE}:v{version}"
        config = {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "container=docker"],
            "StopSignal": "SIGRTMIN+3",
            "Entrypoint": ["/usr/local/bin/entrypoint", "/sbin/init"],
            "WorkingDir": "/",
        }

        def run(job: Job) -> str:
            stored = [job.result(layer) for layer in layers]
            descriptor = self.node_layout.add_image(stored, config, {docker.KEY: job.key})
            docker.load(job, self.node_layout, target, descriptor)
            remove_tree(self.mirror / "build/node-store")
            # Docker has the image now: only the system's layer, which the next Kubernetes version shares, is worth its space
            self.node_layout.prune([stored[0]["digest"]])
            return target

        self.step(f"node image {target}", run, config, after=tuple(layers), slot="io", present=lambda key: docker.has_image(target, key))

    # manifests

    def _manifests(self, component: str, recipe: dict) -> None:
        if not recipe.get("manifests"):
            return
        name, fetched = self._name(component, recipe), self._module(recipe["module"])
        target = self.cache / "packages" / name
        helm = next(iter(self._programs_of("helm", self.c["tools"]["helm"])))
        generator = importlib.import_module(f"{__package__}.manifests")

        def run(job: Job) -> dict[str, str]:
            go = self._use_go(job)
            with job.fresh(target) as work:
                tools = {"go": go.binary, "helm": str(self.cache / "bin/helm"), "env": go.env}
                written = generator.generate(component, recipe["release"], job.result(fetched)["dir"], str(work), tools)
            return {artifact: str(target / pathlib.Path(path).relative_to(work)) for artifact, path in written.items()}

        self.step(
            f"manifests {name}",
            run,
            [recipe["release"], content_hash(pathlib.Path(generator.__file__))],
            after=("go", fetched, helm),
            slot="io",
            outputs=lambda written: [pathlib.Path(path) for path in written.values()],
        )


def _link(link: pathlib.Path, target: pathlib.Path) -> None:
    """Make (or turn) a relative symbolic link, at once."""
    link.parent.mkdir(parents=True, exist_ok=True)
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(target, link.parent))
    new.replace(link)
