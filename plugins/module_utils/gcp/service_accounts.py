# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Service accounts of a project: one request tells which are there, one each makes or repairs what is not as wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api

ID = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]\Z")
LIMITS = {"displayName": 100, "description": 256}  # bytes of UTF-8


@dataclass
class Account:
    """One account: what is wanted (fields of the API, None: whatever it is) and what was found."""

    account_id: str
    project: str
    wanted: dict
    found: dict | None = None
    action: str = "unchanged"  # created | changed | deleted | unchanged

    @property
    def email(self) -> str:
        """Known before the account is there."""
        return f"{self.account_id}@{_domain(self.project)}"

    @property
    def name(self) -> str:
        """The resource's name in the API."""
        return f"projects/{self.project}/serviceAccounts/{self.email}"

    @property
    def differing(self) -> dict:
        """The wanted fields that are different."""
        return {key: value for key, value in self.wanted.items() if (self.found or {}).get(key, "") != value}

    def diff(self) -> dict:
        """Before and after, as Ansible shows them."""
        name = f"service account {self.email}"
        before = {key: self.found.get(key, "") for key in self.wanted} if self.found else None
        after = None if self.action == "deleted" else self.wanted
        return {
            "before_header": name if self.found else "(none)",
            "after_header": "(deleted)" if after is None else name,
            "before": before,
            "after": after,
        }

    def result(self) -> dict:
        """What the module returns about it."""
        found = self.found or {}
        return {
            "email": self.email,
            "unique_id": found.get("uniqueId", ""),
            "action": self.action,
            "disabled": found.get("disabled", False),
        }


def _domain(project: str) -> str:
    """Projects of a domain (example.com:project) have it reversed in their accounts' addresses."""
    return ".".join(reversed(project.split(":"))) + ".iam.gserviceaccount.com"


def problems(accounts: list[dict]) -> list[str]:
    """What is wrong with the options, a line each."""
    wrong = []
    ids = [each["account_id"] for each in accounts]
    for each in accounts:
        name = each["account_id"]
        if not ID.match(name):
            wrong.append(
                f"account_id: {name!r} has {len(name)} characters; write 6 to 30 lower-case letters, digits and hyphens, a letter first "
                "and no hyphen last"
            )
        for option, key in (("display_name", "displayName"), ("description", "description")):
            size = len((each[option] or "").encode())
            if size > LIMITS[key]:
                wrong.append(f"{option} of {name}: is {size} bytes long; write at most {LIMITS[key]}")
    wrong += [f"account_id: {name!r} is given twice; leave one out" for name in sorted({name for name in ids if ids.count(name) > 1})]
    return wrong


def accounts_of(project: str, options: list[dict]) -> list[Account]:
    """The accounts that the module's options describe."""
    fields = (("display_name", "displayName"), ("description", "description"))
    return [
        Account(each["account_id"], project, {key: each[option] for option, key in fields if each[option] is not None}) for each in options
    ]


def look(gcp, accounts: list[Account]) -> None:
    """Find out which are there."""
    listed = gcp.pages("iam.projects.serviceAccounts.list", "accounts", name=f"projects/{gcp.project}", pageSize=100)
    there = {each["email"]: each for each in listed}
    for account in accounts:
        account.found = there.get(account.email)


def plan(accounts: list[Account], absent: bool) -> None:
    """Decide what to do with each."""
    for account in accounts:
        if absent:
            account.action = "deleted" if account.found else "unchanged"
        elif account.found is None:
            account.action = "created"
        else:
            account.action = "changed" if account.differing else "unchanged"


def carry_out(gcp, account: Account) -> None:
    """Do it. Raises a GcpError."""
    if account.action == "created":
        body = {"accountId": account.account_id, "serviceAccount": account.wanted}
        try:
            account.found = gcp.call("iam.projects.serviceAccounts.create", body, name=f"projects/{account.project}")
            return
        except api.AlreadyExists:  # somebody else was faster
            account.found = gcp.call("iam.projects.serviceAccounts.get", name=account.name)
            account.action = "changed" if account.differing else "unchanged"
    if account.action == "changed":
        mask = ",".join(sorted(account.differing))
        changed = gcp.call(
            "iam.projects.serviceAccounts.patch", {"serviceAccount": account.differing, "updateMask": mask}, name=account.name
        )
        account.found = {**(account.found or {}), **changed}
    if account.action == "deleted":
        try:
            gcp.call("iam.projects.serviceAccounts.delete", name=account.name)
        except api.NotFound:
            account.action = "unchanged"
