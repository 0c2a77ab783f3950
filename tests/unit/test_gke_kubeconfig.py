"""Contexts of GKE clusters in a kubeconfig, and the credential plugin that they run."""

from __future__ import annotations

import base64
import datetime
import http.server
import json
import os
import stat
import subprocess
import sys
import threading

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster, ClusterError
from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, gke_credential, kubeconfig
from ansible_collections.mlops.platform.plugins.modules import gke_kubeconfig
from tests.unit.modules import run

CLUSTER = {
    "name": "kubeflow",
    "location": "asia-northeast3-a",
    "status": "RUNNING",
    "endpoint": "203.0.113.5",
    "masterAuth": {"clusterCaCertificate": base64.b64encode(b"a certificate").decode()},
}
OTHERS = """
apiVersion: v1
kind: Config
current-context: work
preferences: {}
clusters:
- name: work
  cluster: {server: 'https://work.example.com', insecure-skip-tls-verify: true}
users:
- name: me
  user: {token: somebody-elses}
contexts:
- name: work
  context: {cluster: work, user: me, namespace: mine}
"""


def entry(context="kubeflow", host="203.0.113.5", **more):
    return kubeconfig.Entry(
        context, kubeconfig.server({**CLUSTER, "endpoint": host}, "public"), kubeconfig.own_plugin("/x/plugin.py", **more)
    )


class Fake:
    """A GKE API with some clusters."""

    project = "prj"

    def __init__(self, *clusters):
        self.clusters = clusters

    def call(self, method, **parameters):
        if method.endswith("list"):
            return {"clusters": list(self.clusters)}
        for cluster in self.clusters:
            if parameters["name"] == f"projects/prj/locations/{cluster['location']}/clusters/{cluster['name']}":
                return cluster
        raise api.NotFound("no such cluster")


# -- clusters


def test_find_needs_no_location_if_the_name_is_unique():
    assert kubeconfig.find(Fake(CLUSTER), "kubeflow") is CLUSTER
    assert kubeconfig.find(Fake(CLUSTER), "kubeflow", "asia-northeast3-a") is CLUSTER


def test_find_says_what_is_there_instead():
    with pytest.raises(kubeconfig.NoCluster, match="has no cluster kubflow, only kubeflow"):
        kubeconfig.find(Fake(CLUSTER), "kubflow")
    with pytest.raises(kubeconfig.NoCluster, match="no cluster kubeflow in us-central1"):
        kubeconfig.find(Fake(CLUSTER), "kubeflow", "us-central1")
    with pytest.raises(kubeconfig.KubeconfigError, match="clusters kubeflow in asia-northeast3-a, us-central1. Remedy: set location"):
        kubeconfig.find(Fake(CLUSTER, {**CLUSTER, "location": "us-central1"}), "kubeflow")


def test_addresses_of_a_control_plane():
    control_plane = {"ipEndpointsConfig": {"privateEndpoint": "10.0.0.2"}, "dnsEndpointConfig": {"endpoint": "gke-1.gke.goog"}}
    cluster = {**CLUSTER, "controlPlaneEndpointsConfig": control_plane}  # as of one that nodes reach privately
    assert kubeconfig.server(cluster, "public")["server"] == "https://203.0.113.5"
    assert kubeconfig.server(cluster, "private")["server"] == "https://10.0.0.2"
    assert kubeconfig.server(cluster, "dns") == {"server": "https://gke-1.gke.goog"}
    with pytest.raises(kubeconfig.KubeconfigError, match="has no private address"):
        kubeconfig.server(CLUSTER, "private")
    with pytest.raises(kubeconfig.NoCluster, match="still being made"):
        kubeconfig.server({"name": "kubeflow", "status": "PROVISIONING"}, "public")


# -- contents


def test_put_into_a_new_file():
    change = kubeconfig.put(kubeconfig.load("/does/not/exist"), entry(), current=False)
    assert change.changed
    assert change.after["current-context"] == "kubeflow"
    assert change.after["contexts"] == [
        {"name": "kubeflow", "context": {"cluster": "mlops-platform_kubeflow", "user": "mlops-platform_kubeflow"}}
    ]
    run = change.after["users"][0]["user"]["exec"]
    assert (run["command"], run["args"]) == (sys.executable, ["/x/plugin.py"])
    assert not kubeconfig.put(change.after, entry(), current=False).changed


def test_put_leaves_others_alone():
    config = yaml.safe_load(OTHERS)
    after = kubeconfig.put(config, entry(), current=False).after
    for section in ("clusters", "users", "contexts"):
        assert after[section][0] == config[section][0]
    assert after["current-context"] == "work"
    assert kubeconfig.put(config, entry(), current=True).after["current-context"] == "kubeflow"


def test_put_repairs_drift_and_keeps_what_was_added():
    config = kubeconfig.put(yaml.safe_load(OTHERS), entry(), current=False).after
    cluster, user, context = config["clusters"][1]["cluster"], config["users"][1], config["contexts"][1]["context"]
    cluster |= {"server": "https://192.0.2.1", "insecure-skip-tls-verify": True, "proxy-url": "http://proxy.example.com:3128"}
    user["user"] = {"token": "pasted"}
    context |= {"user": "me", "namespace": "kubeflow"}
    change = kubeconfig.put(config, entry(), current=False)
    assert change.changed
    repaired = change.after["clusters"][1]["cluster"]
    assert repaired == {**entry().cluster, "proxy-url": "http://proxy.example.com:3128"}
    assert change.after["users"][1]["user"] == entry().user
    assert change.after["contexts"][1]["context"] == {
        "cluster": "mlops-platform_kubeflow",
        "user": "mlops-platform_kubeflow",
        "namespace": "kubeflow",
    }


def test_put_over_somebody_elses_context_tells_so_and_keeps_its_cluster():
    change = kubeconfig.put(yaml.safe_load(OTHERS), entry("work"), current=False)
    assert change.warnings == ["The context work meant cluster work and user me, which stay in the file."]
    assert [each["name"] for each in change.after["clusters"]] == ["work", "mlops-platform_work"]
    assert change.after["contexts"][0]["context"]["namespace"] == "mine"


def test_remove_takes_out_only_ours():
    config = yaml.safe_load(OTHERS)
    with_ours = kubeconfig.put(config, entry(), current=True).after
    assert kubeconfig.remove(with_ours, "kubeflow").after == {**config, "current-context": ""}
    assert not kubeconfig.remove(config, "kubeflow").changed
    left = kubeconfig.remove(config, "work").after
    assert left["contexts"] == [] and left["clusters"] == config["clusters"] and left["users"] == config["users"]


def test_diff_holds_no_secret():
    config = kubeconfig.put(yaml.safe_load(OTHERS), entry(), current=False).after
    config["users"][1]["user"] = {"token": "s3cret", "exec": {"command": "x", "env": [{"name": "PASSWORD", "value": "s3cret"}]}}
    text = json.dumps(kubeconfig.shown(config, "kubeflow"))
    assert "s3cret" not in text
    assert "PASSWORD" in text and "203.0.113.5" in text
    assert CLUSTER["masterAuth"]["clusterCaCertificate"] not in text


def test_users_of_googles_plugin():
    user = kubeconfig.googles_plugin(credentials_file="/k.json")["exec"]
    assert user["command"] == "gke-gcloud-auth-plugin"
    assert user["args"] == ["--use_application_default_credentials"]
    assert kubeconfig.googles_plugin()["exec"].get("args") is None


@pytest.mark.parametrize("text", ["a: [", "- 1", "kind: Pod", "clusters: {a: b}"])
def test_damaged_files_are_not_touched(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(kubeconfig.KubeconfigError, match="Remedy"):
        kubeconfig.load(str(path))


def test_path_is_the_first_of_a_list(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/one{os.pathsep}{tmp_path}/two")
    assert kubeconfig.path_of("") == f"{tmp_path}/one"
    assert kubeconfig.path_of("/given") == "/given"
    monkeypatch.delenv("KUBECONFIG")
    assert kubeconfig.path_of("") == os.path.expanduser("~/.kube/config")


def test_write_is_private_and_follows_a_link(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o644)
    link.symlink_to(real)
    kubeconfig.write(str(link), "new")
    assert link.is_symlink() and real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_lock_is_respected_and_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(kubeconfig, "LOCK_SECONDS", 0.2)
    path = str(tmp_path / "config")
    with kubeconfig.locked(path), pytest.raises(kubeconfig.KubeconfigError, match="config.lock is there"), kubeconfig.locked(path):
        pass
    with kubeconfig.locked(path):
        pass
    assert not os.path.exists(f"{path}.lock")


# -- the plugin


class Google:
    """Issues tokens, and is an API server that knows them."""

    def __init__(self, lifetime=3600):
        self.issued, self.lifetime, self.refuse = 0, lifetime, False
        self.asked_scopes, self.impersonated = [], []
        google = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                if google.refuse:
                    return self.answer(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
                google.issued += 1
                if "generateAccessToken" in self.path:
                    google.impersonated.append((self.path.rpartition("/")[2], self.headers["Authorization"]))
                    expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=google.lifetime)
                    return self.answer(200, {"accessToken": f"t{google.issued}", "expireTime": expiry.strftime("%Y-%m-%dT%H:%M:%SZ")})
                claims = body.partition("assertion=")[2].split(".")[1]
                google.asked_scopes.append(json.loads(base64.urlsafe_b64decode(claims + "=="))["scope"])
                return self.answer(200, {"access_token": f"t{google.issued}", "expires_in": google.lifetime, "token_type": "Bearer"})

            def do_GET(self):
                if self.headers.get("Authorization") != f"Bearer t{google.issued}":
                    return self.answer(401, {"kind": "Status", "message": "Unauthorized"})
                return self.answer(200, {"gitVersion": "v1.34.4-gke.1"})

            def answer(self, status, body):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def google():
    google = Google()
    yield google
    google.server.shutdown()
    google.server.server_close()


@pytest.fixture(scope="module")
def private_key():
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, *form).decode()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Nothing of this machine's: no caches, no credentials, and a proxy that would break everything."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "KUBECONFIG", "KUBERNETES_EXEC_INFO", "NO_PROXY", "no_proxy", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return tmp_path


@pytest.fixture
def key_file(home, google, private_key):
    path = home / "key.json"
    info = {
        "type": "service_account",
        "client_email": "me@prj.iam.gserviceaccount.com",
        "private_key": private_key,
        "private_key_id": "1",
        "token_uri": f"{google.url}/token",
        "project_id": "prj",
    }
    path.write_text(json.dumps(info))
    return str(path)


def plugin(*arguments, **environment):
    """Run the plugin as kubectl does; (exit status, the ExecCredential or what it complains about)."""
    done = subprocess.run(
        [sys.executable, gke_credential.__file__, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=60,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr


def kept(home):
    return list((home / ".cache/mlops-platform/gke-tokens").glob("*"))


def test_plugin_prints_a_credential_and_keeps_it_private(key_file, google, home):
    status, credential = plugin("--credentials-file", key_file)
    assert status == 0
    assert (credential["apiVersion"], credential["kind"]) == ("client.authentication.k8s.io/v1", "ExecCredential")
    assert credential["status"]["token"] == "t1"
    expiry = datetime.datetime.fromisoformat(credential["status"]["expirationTimestamp"])
    assert 3500 < (expiry - datetime.datetime.now(datetime.UTC)).total_seconds() <= 3600
    assert google.asked_scopes[0].split() == gke_credential.SCOPES
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept(home)] == [0o600]
    assert plugin("--credentials-file", key_file)[1] == credential
    assert google.issued == 1


def test_plugin_does_not_keep_a_token_over_clusters_or_keys(key_file, google):
    plugin("--credentials-file", key_file)
    info = {"spec": {"cluster": {"server": "https://192.0.2.1", "certificate-authority-data": "QQ=="}}}
    plugin("--credentials-file", key_file, KUBERNETES_EXEC_INFO=json.dumps(info))
    assert google.issued == 2
    os.utime(key_file, (1, 1))
    plugin("--credentials-file", key_file)
    assert google.issued == 3


def test_plugin_forgets_old_tokens(key_file, home):
    plugin("--credentials-file", key_file)
    os.utime(kept(home)[0], (1, 1))
    os.utime(key_file, (1, 1))
    plugin("--credentials-file", key_file)
    assert len(kept(home)) == 1


def test_plugin_renews_what_expires_soon(key_file, google):
    google.lifetime = 300
    plugin("--credentials-file", key_file)
    assert plugin("--credentials-file", key_file)[1]["status"]["token"] == "t2"


def test_plugin_finds_application_default_credentials(key_file, google, home):
    assert plugin(GOOGLE_APPLICATION_CREDENTIALS=key_file)[1]["status"]["token"] == "t1"
    (home / "gcloud").mkdir()
    os.rename(key_file, home / "gcloud/application_default_credentials.json")
    assert plugin()[1]["status"]["token"] == "t2"


def test_plugin_acts_as_another_account(key_file, google):
    email = "admin@prj.iam.gserviceaccount.com"
    endpoint = f"{google.url}/iamcredentials/v1/projects/-/serviceAccounts/{email}:generateAccessToken"
    _, credential = plugin("--credentials-file", key_file, "--impersonate", email, "--iam-endpoint", endpoint)
    assert credential["status"]["token"] == "t2"
    assert google.impersonated == [(f"{email}:generateAccessToken", "Bearer t1")]


def test_plugin_takes_a_token_of_the_environment(home):
    assert plugin("--access-token-variable", "GCP_ACCESS_TOKEN", GCP_ACCESS_TOKEN="abc")[1]["status"] == {"token": "abc"}
    status, complaint = plugin("--access-token-variable", "GCP_ACCESS_TOKEN", GCP_ACCESS_TOKEN="")
    assert status == 1 and "GCP_ACCESS_TOKEN is not set. Remedy: export" in complaint
    assert kept(home) == []


def test_plugin_names_cause_and_remedy(key_file, google, home):
    google.refuse = True
    status, complaint = plugin("--credentials-file", key_file)
    assert status == 1
    assert f"no token from {key_file}: invalid_grant: Invalid JWT Signature. Remedy: log in again" in complaint
    assert "Traceback" not in complaint
    assert "PRIVATE KEY" not in complaint
    (home / "broken.json").write_text("{}")
    assert "broken.json" in plugin("--credentials-file", str(home / "broken.json"))[1]
    assert "does not exist. Remedy" in plugin("--credentials-file", "/no/such/key.json")[1]
    google.server.shutdown()
    google.server.server_close()
    assert "Remedy: check network and proxy" in plugin("--credentials-file", key_file)[1]


# -- this collection's client with such a kubeconfig


@pytest.fixture
def reachable(home, google, key_file):
    """A kubeconfig whose cluster is the test's API server."""
    path, program = str(home / "kube/config"), str(home / "kube/gke-credential.py")
    with kubeconfig.locked(path):
        kubeconfig.write(program, kubeconfig.plugin_source())
        ours = kubeconfig.Entry("kubeflow", {"server": google.url}, kubeconfig.own_plugin(program, key_file))
        kubeconfig.write(path, kubeconfig.text_of(kubeconfig.put(kubeconfig.load(path), ours, current=False).after))
    return path


def test_client_uses_the_plugin(reachable, google):
    cluster = Cluster(reachable)
    assert cluster.git_version == "v1.34.4-gke.1"
    assert google.issued == 1
    with open(reachable, encoding="utf-8") as file:
        assert "t1" not in [line.split()[-1] for line in file]


def test_client_renews_an_expired_token(reachable, google):
    google.lifetime = 60  # less than what the kubernetes package takes for expired
    cluster = Cluster(reachable)
    issued = google.issued
    cluster.version()
    cluster.version()
    assert google.issued > issued


def test_client_says_why_there_are_no_credentials(reachable, google):
    google.refuse = True
    with pytest.raises(ClusterError) as error:
        Cluster(reachable)
    assert "gke-credential: no token from" in str(error.value)
    assert "Invalid JWT Signature" in str(error.value)


def test_the_copy_runs_without_the_collection(reachable):
    with open(reachable, encoding="utf-8") as file:
        run = yaml.safe_load(file)["users"][0]["user"]["exec"]
    done = subprocess.run([run["command"], "-I", *run["args"]], capture_output=True, text=True, check=True, cwd="/", timeout=60)
    assert json.loads(done.stdout)["apiVersion"] == run["apiVersion"]
    assert "import ansible" not in kubeconfig.plugin_source() and "from ansible" not in kubeconfig.plugin_source()


# -- the module, against the rehearsal


@pytest.fixture
def made(rehearsal, home):
    """The rehearsal with a cluster; the options that write its context."""
    gcp = api.Gcp(rehearsal.project, credentials_file=rehearsal.credentials_file, endpoint=rehearsal.endpoint)
    body = {"cluster": {"name": "kubeflow", "initialNodeCount": 1}}
    parent = f"projects/{rehearsal.project}/locations/asia-northeast3-a"
    gcp.wait(gcp.call("container.projects.locations.clusters.create", body, parent=parent))
    return {"cluster": "kubeflow", "kubeconfig": str(home / "kube/config")}


def content(options):
    with open(options["kubeconfig"], encoding="utf-8") as file:
        return yaml.safe_load(file)


def test_module_writes_once(rehearsal, made, home):
    predicted = run(gke_kubeconfig, rehearsal, check=True, **made)
    assert predicted["changed"] and not os.path.exists(made["kubeconfig"])
    result = run(gke_kubeconfig, rehearsal, **made)
    assert not result["failed"], result["msg"]
    assert result["diff"] == predicted["diff"]
    assert (result["context"], result["location"]) == ("kubeflow", "asia-northeast3-a")
    assert content(made)["clusters"][0]["cluster"]["server"] == result["server"]
    assert stat.S_IMODE(os.stat(made["kubeconfig"]).st_mode) == 0o600
    assert sorted(os.listdir(home / "kube")) == ["config", "gke-credential.py"]
    again = run(gke_kubeconfig, rehearsal, **made, location="asia-northeast3-a")
    assert not again["changed"] and not again.get("diff")


def test_module_needs_nothing_for_a_token_but_what_it_wrote(rehearsal, made):
    run(gke_kubeconfig, rehearsal, **made)
    run_it = content(made)["users"][0]["user"]["exec"]
    done = subprocess.run([run_it["command"], *run_it["args"]], capture_output=True, text=True, check=True, timeout=60)
    token = json.loads(done.stdout)["status"]["token"]
    gcp = api.Gcp(rehearsal.project, access_token=token, endpoint=rehearsal.endpoint)
    assert gcp.call("compute.projects.get")["name"] == rehearsal.project
    with open(made["kubeconfig"], encoding="utf-8") as file:
        assert token not in file.read()


@pytest.mark.parametrize("what", ["mode", "server", "plugin", "user"])
def test_module_repairs_drift(rehearsal, made, home, what):
    run(gke_kubeconfig, rehearsal, **made)
    config, program = content(made), home / "kube/gke-credential.py"
    match what:
        case "mode":
            os.chmod(made["kubeconfig"], 0o644)
        case "server":
            config["clusters"][0]["cluster"]["server"] = "https://192.0.2.1"
        case "plugin":
            program.write_text("print('{}')\n")
        case "user":
            config["users"][0]["user"] = {"token": "pasted"}
    if what in ("server", "user"):
        kubeconfig.write(made["kubeconfig"], kubeconfig.text_of(config))
    shown = run(gke_kubeconfig, rehearsal, check=True, **made)
    assert shown["changed"] and len(shown["diff"]) == 1
    assert "pasted" not in json.dumps(shown)
    assert run(gke_kubeconfig, rehearsal, **made)["diff"] == shown["diff"]
    assert not run(gke_kubeconfig, rehearsal, **made)["changed"]
    assert program.read_text() == kubeconfig.plugin_source()


def test_module_leaves_other_contexts(rehearsal, made, home):
    (home / "kube").mkdir()
    (home / "kube/config").write_text(OTHERS)
    run(gke_kubeconfig, rehearsal, **made)
    assert content(made)["users"][0] == {"name": "me", "user": {"token": "somebody-elses"}}
    assert content(made)["current-context"] == "work"
    assert run(gke_kubeconfig, rehearsal, **made, current=True)["changed"]
    removed = run(gke_kubeconfig, rehearsal, **made, state="absent")
    assert removed["changed"] and not (home / "kube/gke-credential.py").exists()
    assert content(made) == {**yaml.safe_load(OTHERS), "current-context": ""}
    assert not run(gke_kubeconfig, rehearsal, **made, state="absent")["changed"]


def test_module_without_a_cluster(rehearsal, made):
    options = {**made, "cluster": "other"}
    assert run(gke_kubeconfig, rehearsal, check=True, **options)["changed"]
    result = run(gke_kubeconfig, rehearsal, **options)
    assert "The project rehearsal-project has no cluster other, only kubeflow. Remedy: create it first." in result["msg"]
    assert not os.path.exists(made["kubeconfig"])


def test_module_takes_an_access_token_only_from_the_environment(rehearsal, made):
    result = run(gke_kubeconfig, rehearsal, **made, credentials_file=None, access_token=rehearsal.access_token)
    assert not result["failed"], result["msg"]
    assert content(made)["users"][0]["user"]["exec"]["args"][1:] == ["--access-token-variable", "GCP_ACCESS_TOKEN"]
    assert "takes its token from the environment variable GCP_ACCESS_TOKEN, which is not set" in result["warnings"][0]
    with open(made["kubeconfig"], encoding="utf-8") as file:
        assert rehearsal.access_token not in file.read()


def test_module_with_googles_plugin(rehearsal, made, home, monkeypatch):
    monkeypatch.setenv("PATH", str(home))
    options = {**made, "auth_plugin": "gke-gcloud-auth-plugin"}
    assert "gke-gcloud-auth-plugin is not on this machine's PATH" in run(gke_kubeconfig, rehearsal, **options)["msg"]
    (home / "gke-gcloud-auth-plugin").write_text("#!/bin/sh\n")
    (home / "gke-gcloud-auth-plugin").chmod(0o755)
    assert not run(gke_kubeconfig, rehearsal, **options)["failed"]
    assert content(made)["users"][0]["user"]["exec"]["command"] == "gke-gcloud-auth-plugin"
    assert os.listdir(home / "kube") == ["config"]


def test_module_does_not_touch_a_damaged_file(rehearsal, made, home):
    (home / "kube").mkdir()
    (home / "kube/config").write_text("clusters: [")
    assert "cannot be read" in run(gke_kubeconfig, rehearsal, **made)["msg"]
    assert (home / "kube/config").read_text() == "clusters: ["
