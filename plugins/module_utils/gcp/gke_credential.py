# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Credential plugin of kubectl and other Kubernetes clients for GKE: prints a Google access token as an ExecCredential.

Nothing but google-auth is needed; the module gke_kubeconfig puts a copy of this file beside the kubeconfig. A token is kept until it is
about to expire, readable for its owner only, as clients run this program for every command.
"""

import argparse
import datetime
import hashlib
import json
import os
import sys
import tempfile
import time

API = "client.authentication.k8s.io/v1"
# GKE takes the e-mail address of a service account for the user's name only if the token tells it.
SCOPES = ["https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/userinfo.email"]
FORGOTTEN = 86400  # seconds, after which a kept token has long expired
SPARE = datetime.timedelta(minutes=10)  # clients renew what expires in less than five minutes


class Failed(Exception):
    """No token; the message names the remedy."""


def main(arguments=None) -> int:
    """Print an ExecCredential. Exit status 1, with the reason on stderr, if there is none."""
    parser = argparse.ArgumentParser(description="Prints a Google access token for a GKE cluster as an ExecCredential.")
    parser.add_argument("--credentials-file", help="key of a service account or other credentials; default: the application default ones")
    parser.add_argument("--impersonate", help="e-mail address of a service account to act as")
    parser.add_argument("--iam-endpoint", help="where to ask for the token to act as it, instead of iamcredentials.googleapis.com")
    parser.add_argument("--access-token-variable", help="environment variable that holds an access token")
    options = parser.parse_args(arguments)
    try:
        status = credential(options)
    except Failed as error:
        print(f"gke-credential: {error}", file=sys.stderr)
        return 1
    json.dump({"apiVersion": API, "kind": "ExecCredential", "status": status}, sys.stdout)
    return 0


def credential(options: argparse.Namespace) -> dict:
    """The status of the ExecCredential: token and expirationTimestamp."""
    if options.access_token_variable:
        token = os.environ.get(options.access_token_variable)
        if not token:
            raise Failed(
                f"the environment variable {options.access_token_variable} is not set. "
                f"Remedy: export {options.access_token_variable}=$(gcloud auth print-access-token), or use a credentials file."
            )
        return fresh(options, "", token) if options.impersonate else {"token": token}
    path = source(options)
    cache = cache_of(options, path)
    status = cached(cache)
    if not status:
        status = fresh(options, path)
        keep(cache, status)
    return status


def source(options: argparse.Namespace) -> str:
    """The file with the credentials; empty where only a metadata server can have them."""
    path = options.credentials_file or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if path:
        path = os.path.expanduser(path)
        if not os.path.isfile(path):
            raise Failed(f"the credentials file {path} does not exist. Remedy: put it there, or write the kubeconfig anew.")
        return path
    # google.auth.default() would look there, too, but start gcloud to find out a project, which nobody needs here
    directory = os.environ.get("CLOUDSDK_CONFIG") or os.path.expanduser("~/.config/gcloud")
    path = os.path.join(directory, "application_default_credentials.json")
    return path if os.path.isfile(path) else ""


def fresh(options: argparse.Namespace, path: str, token: str = "") -> dict:
    """A new token: of the file, else of the token that is given, else of the machine."""
    try:
        import google.auth
        import requests
        from google.auth import exceptions, impersonated_credentials
        from google.auth.transport.requests import Request
        from google.oauth2.credentials import Credentials
    except ImportError as error:
        raise Failed(f"{error} for {sys.executable}. Remedy: install google-auth and requests there.") from error
    import warnings

    warnings.simplefilter("ignore")
    ignored = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = f"{ignored},127.0.0.1,localhost,::1"  # a token server on loopback is never behind a proxy
    what = path or ("the access token" if token else "this machine's metadata server")
    try:
        if path:
            credentials, _project = google.auth.load_credentials_from_file(path, scopes=SCOPES)
        elif token:
            credentials = Credentials(token)
        else:
            credentials, _project = google.auth.default(scopes=SCOPES)
        if options.impersonate:
            what += f", acting as {options.impersonate}"
            credentials = impersonated_credentials.Credentials(
                credentials, options.impersonate, SCOPES, iam_endpoint_override=options.iam_endpoint
            )
        credentials.refresh(Request(requests.Session()))
    except exceptions.DefaultCredentialsError as error:
        raise Failed(
            f"no credentials ({_line(error)}). Remedy: `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS."
        ) from error
    except exceptions.TransportError as error:
        raise Failed(f"no answer to {what}: {_line(error)}. Remedy: check network and proxy (HTTPS_PROXY, NO_PROXY).") from error
    except (exceptions.GoogleAuthError, ValueError, OSError) as error:
        raise Failed(
            f"no token from {what}: {_line(error)}. Remedy: log in again, renew the file, or let somebody grant "
            "roles/iam.serviceAccountTokenCreator where a service account is acted as."
        ) from error
    status = {"token": credentials.token}
    if credentials.expiry:
        status["expirationTimestamp"] = credentials.expiry.strftime("%Y-%m-%dT%H:%M:%SZ")
    return status


def cache_of(options: argparse.Namespace, path: str) -> str:
    """The file that keeps the token of these credentials for this cluster."""
    try:
        cluster = json.loads(os.environ.get("KUBERNETES_EXEC_INFO") or "{}").get("spec", {}).get("cluster") or {}
    except ValueError:
        cluster = {}
    known = [sorted(vars(options).items(), key=str), path, os.stat(path).st_mtime_ns if path else 0]
    known += [cluster.get("server"), cluster.get("certificate-authority-data")]
    directory = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(directory, "mlops-platform", "gke-tokens", hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32] + ".json")


def cached(path: str) -> dict:
    """The kept token, or nothing if there is none that is good for a while."""
    try:
        with open(path, encoding="utf-8") as file:
            status = json.load(file)
        left = datetime.datetime.fromisoformat(status["expirationTimestamp"]) - datetime.datetime.now(datetime.UTC)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return status if left > SPARE else {}


def keep(path: str, status: dict) -> None:
    """Keep a token; a place where nothing can be written is no failure."""
    if "expirationTimestamp" not in status:
        return
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        for other in os.scandir(os.path.dirname(path)):
            if other.stat().st_mtime < time.time() - FORGOTTEN:
                os.unlink(other.path)
        handle, draft = tempfile.mkstemp(dir=os.path.dirname(path))  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(status, file)
        os.replace(draft, path)
    except OSError:
        return


def _line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())[:300].rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
