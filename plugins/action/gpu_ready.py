# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module gpu_ready slice by slice, and prints in between what is still awaited."""

from __future__ import annotations

from ansible_collections.mlops.platform.plugins.action.k8s_ready import ActionModule as Slices


class ActionModule(Slices):
    """The same as k8s_ready's, around another module."""

    MODULE = "mlops.platform.gpu_ready"
