# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of every module that talks to Google Cloud."""

from __future__ import annotations


class ModuleDocFragment:
    """Which project is meant, and on whose behalf."""

    DOCUMENTATION = r"""
options:
  project:
    description: ID of the project.
    type: str
    required: true
  credentials_file:
    description:
      - A file with credentials - the key of a service account, what C(gcloud auth application-default login) writes, or the
        configuration of workload identity federation. Without it and O(access_token), the application default credentials are taken.
    type: path
  impersonate:
    description: E-mail address of a service account to act as. The caller needs C(roles/iam.serviceAccountTokenCreator) on it.
    type: str
  access_token:
    description: An access token. It cannot be renewed, so O(credentials_file) is the better choice for what takes longer than an hour.
    type: str
  endpoint:
    description:
      - Where to ask instead of C(https://SERVICE.googleapis.com), as C(ENDPOINT/SERVICE). Needs O(credentials_file) or O(access_token),
        so that no credentials of Google's get there. Where it is on loopback, no proxy of the environment is used.
    type: str
  timeout:
    description: The longest wait for an operation of Google's, in seconds.
    type: int
    default: 1800
requirements:
  - google-auth (Python package)
  - google-api-python-client (Python package)
  - requests (Python package)
notes:
  - A proxy of the environment (C(HTTPS_PROXY), C(NO_PROXY)) and C(REQUESTS_CA_BUNDLE) are honoured.
  - Calls with a person's credentials are charged to O(project) (the header C(x-goog-user-project)), unless the credentials or
    C(GOOGLE_CLOUD_QUOTA_PROJECT) name another.
"""
