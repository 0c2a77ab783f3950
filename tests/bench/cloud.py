"""How many requests 40 APIs, 50 IAM members and 10 node pools take on Google Cloud, beside the fewest possible, and how long a rerun takes.

Against a rehearsal of its own. Tokens and polls of operations are left out of the counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PORT = 31395
ENDPOINT = f"http://127.0.0.1:{PORT}"
PROJECT = "rehearsal-project"
CATALOG = """
    compute container iam cloudresourcemanager cloudbilling iap servicecontrol endpoints cloudbuild krmapihosting sqladmin
    meshconfig anthos ml dns redis file run pubsub spanner bigtableadmin dataflow dataproc composer
    artifactregistry secretmanager cloudkms cloudscheduler cloudtasks
    workflows eventarc vpcaccess networkmanagement osconfig oslogin recommender notebooks aiplatform iamcredentials cloudfunctions
"""
SERVICES = [f"{name}.googleapis.com" for name in CATALOG.split()]
MEMBERS = [f"user:engineer{number}@example.com" for number in range(50)]
POOLS = [{"name": f"pool-{number}", "machine_type": "e2-standard-4", "autoscaling": {"min": 0, "max": 3}} for number in range(10)]
# APIs are read by 30 and switched on by 20; a policy is read and written; a cluster is made with one pool, then nine more; again: reads
FEWEST = {"first run": (2 + 2) + (1 + 1) + (1 + 1) + (1 + 9), "run again": 2 + 1 + 1 + 1}
PLAY = [
    {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "module_defaults": {
            "group/mlops.platform.gcp": {"project": PROJECT, "endpoint": ENDPOINT, "credentials_file": "{{ credentials }}"}
        },
        "tasks": [
            {"name": "APIs", "mlops.platform.gcp_services": {"services": SERVICES, "billing": "unchecked"}},
            {"name": "Members", "mlops.platform.gcp_iam_members": {"bindings": [{"role": "roles/viewer", "members": MEMBERS}]}},
            {
                "name": "Cluster",
                "mlops.platform.gke_cluster": {"name": "bench", "location": "us-central1-a", "node_pools": POOLS[:1]},
            },
            {
                "name": "Node pools",
                "mlops.platform.gke_node_pools": {"cluster": "bench", "location": "us-central1-a", "node_pools": POOLS},
            },
        ],
    }
]


def requests(since: int) -> list[dict]:
    """What the rehearsal was asked after a number of requests."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{ENDPOINT}/rehearsal/requests?since={since}", timeout=30) as answer:
        return json.load(answer)


def counted(record: dict) -> bool:
    """Whether a request is one for something: neither for a token nor for the state of an operation."""
    return bool(record["project"]) and ".operations." not in record["method"]


def main() -> None:
    """Run it twice and print a table for the README."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        state, play = Path(directory) / "state", Path(directory) / "play.yml"
        play.write_text(yaml.safe_dump(PLAY, sort_keys=False))
        rehearsal = [sys.executable, "-m", "rehearsal"]
        subprocess.run([*rehearsal, "start", "--state-dir", state, "--port", str(PORT)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        try:
            print("| 40 APIs, 50 IAM members, 10 node pools | Requests | Fewest possible | Seconds |\n| --- | --- | --- | --- |")
            seen = 0
            for name, fewest in FEWEST.items():
                start = time.monotonic()
                command = ["ansible-playbook", "-i", "localhost,", "-c", "local", play, "-e", f"credentials={state}/credentials.json"]
                done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
                seconds = time.monotonic() - start
                if done.returncode:
                    sys.exit(done.stdout + done.stderr)
                asked = requests(seen)
                seen = max(record["number"] for record in asked)
                number = sum(map(counted, asked))
                print(f"| {name} | {number} | {fewest} | {seconds:.1f} |", flush=True)
        finally:
            subprocess.run([*rehearsal, "stop", "--state-dir", state], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


main()
