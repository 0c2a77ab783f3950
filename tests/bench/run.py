"""How long site.yml takes on a fresh kind cluster, beside the same steps by hand (kubectl and helm, a script: BENCH_PEER).

Both get the same node with the same images in it, and take turns; the medians and their ratio are printed, as a table for the README.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("MLOPS_PLATFORM_CACHE") or "~/.cache/mlops-platform").expanduser()
NAME = "mlops-platform-bench"
KUBECONFIG = CACHE / "kind" / f"{NAME}.kubeconfig"
VARIABLES = ["-i", "inventories/kind", "-e", f"kind_cluster_name={NAME}", "-e", "kind_http_port=31383"]
# what the peer sets up too: the serving layer
VARIABLES += ["-e", "platform_gcp_project=", "--skip-tags", "kubeflow"]
TIMEOUT = 900
REFERENCE = "org.opencontainers.image.ref.name"


def playbook(*arguments: str) -> float:
    """Run ansible-playbook; return its seconds, or end with its output where it fails."""
    start = time.monotonic()
    done = subprocess.run(
        ["ansible-playbook", *VARIABLES, *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT * 4,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nansible-playbook {' '.join(arguments)} failed")
    return time.monotonic() - start


def on_node(*command: str) -> str:
    """Run a command in the node."""
    return subprocess.run(
        ["docker", "exec", f"{NAME}-control-plane", *command], check=True, text=True, capture_output=True, timeout=TIMEOUT
    ).stdout


def images(peer: Path, release: dict) -> dict[str, str]:
    """The image references that the peer's script and manifests use → the name under which the node can pull the same program."""
    script = peer.read_text()
    upstream = (peer.parent.parent / "upstream").resolve()
    manifests = [path for name in set(re.findall(r'"\$U/([\w./-]+\.yaml)"', script)) for path in upstream.glob(name)]
    used = {
        found for path in manifests for found in re.findall(r"image: *[\"']?([\w./-]+(?::[\w.-]+|@sha256:[0-9a-f]+))", path.read_text())
    }
    hub, tag = re.search(r"hub: ([\w./-]+), tag: ([\w.-]+)", script).groups()
    used |= {f"{hub}/pilot:{tag}", f"{hub}/proxyv2:{tag}"}
    replaced = release["kserve"]["packages"].get("images", {}).get("replace", {}) or release["kserve"]["images"].get("replace", {})
    rules = [
        (r"(.*/net-istio/cmd/[\w-]+)@.*", rf"\1:v{release['knative']['net_istio']['version']}"),
        (r"(.*/serving/cmd/[\w-]+)@.*", rf"\1:v{release['knative']['version']}"),
        (r"(quay.io/jetstack/cert-manager-(?:controller|webhook|cainjector)):.*", rf"\1:v{release['cert_manager']['version']}"),
        (rf"({hub}/\w+):.*", rf"\1:{release['istio']['version']}"),
    ]

    def source(name: str) -> str:
        if name in replaced:
            return replaced[name]
        return next((re.sub(pattern, by, name) for pattern, by in rules if re.fullmatch(pattern, name)), "")

    return {name: source(name) or name for name in used if source(name) or "kserve-controller" in name}


def fresh_cluster(names: dict[str, str]) -> None:
    """A new cluster whose node has every image under both sides' names."""
    playbook("playbooks/kind.yml", "-e", "kind_state=absent")
    playbook("playbooks/kind.yml")
    for name, source in sorted(names.items()):
        on_node("crictl", "pull", source)
        if name != source:
            on_node("ctr", "-n", "k8s.io", "images", "tag", "--force", source, name)


@contextlib.contextmanager
def known_to_registry(names: dict[str, str]):
    """Let the registry answer for the peer's tags meanwhile: a pod with the pull policy Always asks it, whatever the node has."""
    index = CACHE / "mirror" / "oci" / "index.json"
    before = index.read_text()
    content = json.loads(before)
    by_name = {item["annotations"][REFERENCE]: item for item in content["manifests"]}
    for name, source in names.items():
        if "@" not in name and name not in by_name and source in by_name:
            content["manifests"].append({**by_name[source], "annotations": {REFERENCE: name}})
    write_atomic(index, json.dumps(content))
    try:
        yield
    finally:
        write_atomic(index, before)


def write_atomic(path: Path, text: str) -> None:
    """Replace a file at once: the registry reads it at any time."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


def by_hand(peer: Path) -> float:
    """Run the peer until KServe is set up; return its seconds."""
    start = time.monotonic()
    environment = {**os.environ, "KUBECONFIG": str(KUBECONFIG), "PATH": f"{CACHE}/bin:{os.environ['PATH']}"}
    process = subprocess.Popen([peer], env=environment, text=True, stdout=subprocess.PIPE, start_new_session=True)
    try:
        for line in process.stdout:
            if re.fullmatch(r"\s*\d+s\s+kserve\s*", line):
                return time.monotonic() - start
        sys.exit(f"{peer} ended before its line kserve, with code {process.wait()}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--release", default="serving-1.14")
    parser.add_argument("--peer", type=Path, default=Path(os.environ.get("BENCH_PEER", ROOT.parent / "shared/bench/by-hand")))
    options = parser.parse_args()
    release = yaml.safe_load((ROOT / "releases" / f"{options.release}.yml").read_text())
    names = images(options.peer, release) if options.peer.exists() else {}
    if not names:
        print(f"{options.peer} does not exist: nothing to compare with. BENCH_PEER names the script.")
    site = ("site.yml", "--skip-tags", "smoke", "-e", f"platform_release={options.release}")

    seconds: dict[str, list[float]] = {"by hand": [], "site.yml": [], "site.yml again": [], "site.yml --check --diff": []}

    def measured(what: str, value: float) -> None:
        seconds[what].append(value)
        print(f"{what:24} {value:6.1f} s", flush=True)

    for _ in range(options.rounds):
        if names:
            fresh_cluster(names)
            with known_to_registry(names):
                measured("by hand", by_hand(options.peer))
        fresh_cluster(names)
        measured("site.yml", playbook(*site))
        measured("site.yml again", playbook(*site))
        measured("site.yml --check --diff", playbook(*site, "--check", "--diff"))
    playbook("playbooks/kind.yml", "-e", "kind_state=absent")

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"\n{options.release}, {os.cpu_count()} cores, {memory:.0f} GiB, {time.strftime('%Y-%m-%d')}, medians of {options.rounds}\n")
    print("| What | Seconds | By hand = 1 |\n| --- | --- | --- |")
    base = statistics.median(seconds["by hand"]) if names else None
    for what, values in seconds.items():
        if values:
            middle = statistics.median(values)
            print(f"| {what} | {middle:.1f} ({min(values):.1f} to {max(values):.1f}) | {f'{middle / base:.2f}' if base else ''} |")


if __name__ == "__main__":
    main()
