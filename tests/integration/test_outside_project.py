"""A project that knows only the installed collection sets up Istio and Knative with an inventory of its own."""

import os
import subprocess

import pytest
import yaml

from .conftest import ROOT

INVENTORY = """
all:
  hosts:
    serving:
      ansible_connection: local
      ansible_python_interpreter: "{{ ansible_playbook_python }}"
      platform_release: serving-1.14
      istio_gateway_service_type: NodePort
      istio_gateway_service_ports:
        - {name: status-port, port: 15021, protocol: TCP, targetPort: 15021}
        - {name: http2, port: 80, protocol: TCP, targetPort: 80, nodePort: 31380}
        - {name: https, port: 443, protocol: TCP, targetPort: 443}
      istio_istiod_resources: {requests: {cpu: 50m, memory: 128Mi}}
      istio_gateway_resources: {requests: {cpu: 50m, memory: 64Mi}}
      knative_resources: {requests: {cpu: 25m, memory: 32Mi}}
      knative_domain: outside.example.com
      knative_registries_skipping_tag_resolving: [gcr.io, docker.io, index.docker.io]
"""
PLAYBOOK = """
- hosts: serving
  gather_facts: false
  roles:
    - role: mlops.platform.istio
    - role: mlops.platform.knative
"""
CLOUD_PLAYBOOK = """
- hosts: serving
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: "mlops.platform.{{ role }}"}
"""
CLIENT = "123456789012-outside.apps.googleusercontent.com"


@pytest.fixture
def project(tmp_path):
    """A project with the collection installed from its archive."""
    galaxy = ["ansible-galaxy", "collection"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
    (tmp_path / "ansible.cfg").write_text("[defaults]\ncollections_path = collections\ninventory = inventory.yml\n")
    (tmp_path / "inventory.yml").write_text(INVENTORY)
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    subprocess.run([*galaxy, "build", "--output-path", tmp_path, ROOT], cwd=tmp_path, env=environment, check=True, timeout=120)
    (archive,) = tmp_path.glob("mlops-platform-*.tar.gz")
    subprocess.run([*galaxy, "install", "--offline", "-p", "collections", archive], cwd=tmp_path, env=environment, check=True, timeout=120)
    return tmp_path


def test_archive_has_what_is_needed_and_no_more(project):
    installed = project / "collections/ansible_collections/mlops/platform"
    there = {path.name for path in installed.iterdir()}
    assert {"roles", "plugins", "playbooks", "releases", "meta", "README.md"} <= there
    assert there & {".venv", "tests", "molecule", "collections", ".ci", ".config"} == set()


def test_playbook_is_found_by_its_name(play, project):
    run = play("mlops.platform.site", "--syntax-check", directory=project)
    assert run.code == 0, run.output


@pytest.mark.cluster
def test_roles_work_by_their_names(play, project, kubeconfig):
    arguments = ("play.yml", "-e", f"platform_kubeconfig={kubeconfig}")
    predicted = play(*arguments, "--check", "--diff", directory=project)
    assert predicted.code == 0, predicted.output
    assert "outside.example.com" in predicted.text
    first = play(*arguments, directory=project)
    assert first.code == 0, first.output
    again = play(*arguments, directory=project)
    assert again.code == 0, again.output
    assert again.recap("changed") == 0, again.output


@pytest.mark.cluster
def test_cloud_roles_work_alone(play, project, kubeconfig, free_port, tmp_path):
    redirect = f"https://iap.googleapis.com/v1/oauth/clientIds/{CLIENT}:handleRedirect"
    secret = "GOCSPX-of-the-outside-project"
    (project / "role.yml").write_text(CLOUD_PLAYBOOK)
    (project / "values.yml").write_text(
        yaml.safe_dump(
            {
                "platform_kubeconfig": kubeconfig,
                "platform_gcp_project": "rehearsal-project",
                "platform_gcp_endpoint": f"http://127.0.0.1:{free_port}",
                "platform_gcp_credentials_file": str(tmp_path / "cache/rehearsal/outside/credentials.json"),
                "rehearsal_cache_dir": str(tmp_path / "cache"),
                "rehearsal_name": "outside",
                "rehearsal_port": free_port,
                "rehearsal_kubeconfig": "",
                "rehearsal_seed": {"oauthClients": {CLIENT: {"redirectUris": [redirect], "private:secret": secret}}},
                "oauth_iap_client_id": CLIENT,
                "oauth_iap_client_secret": secret,
                "oauth_iap_users": ["engineer@example.com"],
                "mgmt_cluster_backend": "gke",
                "mgmt_cluster_kubeconfig": str(tmp_path / "gke-kubeconfig"),
                "gpu_nodes_simulated": 1,
            }
        )
    )

    def run(role, *more):
        return play("role.yml", "-e", "@values.yml", "-e", f"role={role}", *more, directory=project)

    try:
        for role in ("rehearsal", "gcp_apis", "oauth_iap", "mgmt_cluster", "gpu_nodes"):
            first = run(role)
            assert first.code == 0, first.output
            again = run(role, "-vvv", "--diff")
            assert again.code == 0, again.output
            assert again.recap("changed") == 0, again.output
            assert secret not in first.output + again.output
    finally:
        assert run("rehearsal", "-e", "rehearsal_state=absent").code == 0
