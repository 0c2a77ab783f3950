# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module iap_audience, and prints its progress."""

from __future__ import annotations

from ansible_collections.mlops.platform.plugins.plugin_utils.progress import ActionModule  # noqa: F401
