# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of every module that talks to a Kubernetes cluster."""

from __future__ import annotations


class ModuleDocFragment:
    """Which cluster is meant."""

    DOCUMENTATION = r"""
options:
  kubeconfig:
    description:
      - The kubeconfig file. Default is C($KUBECONFIG), else C(~/.kube/config).
      - As with kubectl, a proxy is used if the kubeconfig names one (C(proxy-url)) or if C(HTTPS_PROXY) is set, unless C(NO_PROXY) names
        the server. A server on loopback is never asked through a proxy of the environment.
    type: path
  context:
    description: The context of the kubeconfig. Default is its current context.
    type: str
requirements:
  - kubernetes (Python package)
"""
