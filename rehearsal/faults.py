# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Faults on request: what goes wrong with which calls, and how often. They are part of the state, so they survive a restart."""

from __future__ import annotations

import secrets
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from rehearsal import errors
from rehearsal.errors import Refused
from rehearsal.state import merge

if TYPE_CHECKING:
    from rehearsal.call import Call

# Kind → options beside those that every fault has.
KINDS = {
    "denied": {"permission"}, "quota": {"metric", "limit", "usage", "region"}, "rate": {"metric", "limit"}, "unavailable": set(),
    "slow": {"seconds"}, "cut": {"when"}, "token_expired": set(), "service_disabled": set(), "billing_disabled": set(), "conflict": set(),
    "refused": {"http", "status", "message", "details"}, "change": {"state"},
    "operation_error": {"status", "message", "details", "seconds"}, "operation_slow": {"seconds"},
}  # fmt: skip
COMMON = {"kind", "method", "project", "principal", "times", "after"}
# What method names mean as permissions, where they are not the same word.
VERBS = {"insert": "create", "patch": "update", "search": "get", "batchEnable": "enable", "batchGet": "get", "aggregatedList": "list"}


class Cut(Exception):
    """The connection ends without an answer."""


def permission(method: str) -> str:
    """Permission that a method needs: container.projects.locations.clusters.create → container.clusters.create."""
    service, *_, resource, verb = method.split(".")
    pool_changed = resource == "nodePools" and verb not in ("get", "list")
    if service == "container" and (pool_changed or verb.startswith(("set", "complete", "start"))):
        return "container.clusters.update"
    if method.startswith("cloudbilling.projects.getBillingInfo"):
        return "resourcemanager.projects.get"
    return f"{service.removeprefix('cloud') if service == 'cloudresourcemanager' else service}.{resource}.{VERBS.get(verb, verb)}"


class Faults:
    """The faults in a state."""

    @staticmethod
    def add(state: dict, given: dict) -> dict:
        """Registers a fault; ValueError if it is not well formed."""
        kind = given.get("kind")
        if kind not in KINDS:
            raise ValueError(f"kind: {kind!r} is none of {', '.join(KINDS)}")
        if unknown := sorted(set(given) - COMMON - KINDS[kind]):
            raise ValueError(f"{kind}: unknown {', '.join(unknown)}; there are {', '.join(sorted(COMMON | KINDS[kind]))}")
        fault = {"id": secrets.token_hex(4), "method": "*", "project": "*", "principal": "*", "times": 1, "after": 0, "hits": 0, **given}
        state["faults"].append(fault)
        return fault

    @staticmethod
    def _active(fault: dict) -> bool:
        return fault["times"] is None or fault["hits"] < fault["times"]

    @staticmethod
    def _meant(fault: dict, call: Call) -> bool:
        wanted = fault.get("permission")
        return (
            Faults._active(fault)
            and fnmatchcase(call.method, fault["method"])
            and fnmatchcase(call.project_id, fault["project"])
            and fnmatchcase(call.principal, fault["principal"])
            and (not wanted or fnmatchcase(permission(call.method), wanted))
        )

    @staticmethod
    def take(call: Call, *kinds: str, when: str = "") -> dict | None:
        """The first fault of these kinds that this call shall have; counts it. when: the moment that a cut shall come at."""
        for fault in call.state["faults"]:
            if fault["kind"] not in kinds or not Faults._meant(fault, call) or (when and fault.get("when", "before") != when):
                continue
            if fault["after"]:
                fault["after"] -= 1
                continue
            fault["hits"] += 1
            return fault
        return None

    @staticmethod
    def lacking(call: Call, asked: list[str]) -> set[str]:
        """Permissions among those asked for that faults take from the caller."""
        lacking = set()
        for fault in call.state["faults"]:
            if fault["kind"] != "denied" or not Faults._active(fault):
                continue
            if not fnmatchcase(call.project_id, fault["project"]) or not fnmatchcase(call.principal, fault["principal"]):
                continue
            method = fault["method"]
            wanted = fault.get("permission") or (permission(method) if method.count(".") > 1 else method)
            lacking |= {name for name in asked if fnmatchcase(name, wanted)}
        return lacking

    @staticmethod
    def before(call: Call) -> None:
        """Everything that goes wrong before a call does anything."""
        while fault := Faults.take(call, "slow", "change"):
            if fault["kind"] == "slow":
                call.server.pause(fault.get("seconds", 5))
            else:
                merge(call.state, fault["state"])
        if Faults.take(call, "cut", when="before"):
            raise Cut
        if fault := Faults.take(call, "denied"):
            name = fault.get("permission", "")
            name = permission(call.method) if not name or "*" in name else name
            raise errors.denied(name, f"{call.service}.googleapis.com/projects/{call.project_id}")
        number = call.state["projects"].get(call.project_id, {}).get("projectNumber", "0")
        kinds = ("quota", "rate", "unavailable", "service_disabled", "billing_disabled", "conflict", "refused")
        if not (fault := Faults.take(call, *kinds)):
            return
        match fault["kind"]:
            case "quota":
                region = fault.get("region", "")
                raise errors.quota(fault.get("metric", "CPUS"), fault.get("limit", 0), fault.get("usage", 0), region)
            case "rate":
                raise errors.rate(call.service, number, fault.get("metric", "Requests"), fault.get("limit", 60))
            case "unavailable":
                raise Refused(503, "", "The service is currently unavailable.")
            case "service_disabled":
                raise errors.service_disabled(call.service, call.server.title(call), number)
            case "billing_disabled":
                raise errors.billing_disabled(call.service, number)
            case "conflict":
                raise errors.aborted("There were concurrent changes. Please retry the whole read-modify-write with exponential backoff.")
            case "refused":
                http, status = fault.get("http", 400), fault.get("status", "")
                raise Refused(http, status, fault.get("message", "Refused on request."), fault.get("details", []))
