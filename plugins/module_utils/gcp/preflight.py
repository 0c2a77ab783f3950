# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What can be seen of a project before anything is made in it: every problem at once, each with its remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ansible_collections.mlops.platform.plugins.module_utils.gcp.api import ApiDisabled, BillingDisabled, Denied, GcpError, NotFound

PERMISSIONS_AT_ONCE = 100  # as many as Google tests in one request
SERVICES_AT_ONCE = 30  # as many as Google answers for in one request
ORDER = ("credentials", "project", "billing", "permissions", "services", "network")


@dataclass
class Check:
    """One thing that was looked at. `state`: ok, problem or unchecked."""

    what: str
    state: str
    found: str
    remedy: str = ""


class Preflight:
    """Looks at one project. The methods are independent of each other and may run in threads."""

    def __init__(self, gcp):
        self.gcp = gcp
        self.checks = [Check("credentials", "ok", f"{gcp.principal} has an access token")]
        self.number = ""
        self.missing: list[str] = []
        self.off: list[str] = []

    def result(self) -> dict:
        """What the module returns."""
        return {
            "checks": [asdict(check) for check in sorted(self.checks, key=lambda check: ORDER.index(check.what))],
            "project_number": self.number,
            "principal": self.gcp.principal,
            "missing_permissions": self.missing,
            "services_off": self.off,
        }

    def _add(self, what: str, state: str, found: str, remedy: str = "") -> None:
        self.checks.append(Check(what, state, found.rstrip("."), remedy.rstrip(".")))

    def _failed(self, what: str, error: GcpError) -> None:
        """An error of looking: an API that is still off says nothing about the project."""
        if isinstance(error, ApiDisabled):
            self._add(what, "unchecked", f"{error.service} is off, so it cannot be asked for", error.remedy)
        else:
            self._add(what, "problem", error.message, error.remedy)

    def project(self) -> None:
        """Whether the project exists and is active."""
        name = self.gcp.project
        try:
            found = self.gcp.call("cloudresourcemanager.projects.get", name=f"projects/{name}")
        except (Denied, NotFound) as error:
            if isinstance(error, ApiDisabled):
                return self._failed("project", error)
            # Google answers the same for a project that is not there and for one that the caller may not see
            remedy = "see `gcloud projects list` for the IDs, or grant the caller roles/browser (resourcemanager.projects.get)"
            return self._add("project", "problem", f"{name} does not exist, or {self.gcp.principal} may not see it", remedy)
        except GcpError as error:
            return self._failed("project", error)
        self.number = found.get("name", "").rpartition("/")[2]
        state = found.get("state", "ACTIVE")
        if state != "ACTIVE":
            return self._add("project", "problem", f"{name} is {state}", f"run `gcloud projects undelete {name}`, or use another project")
        return self._add("project", "ok", f"{name} (number {self.number}) is active")

    def billing(self) -> None:
        """Whether an open billing account is linked."""
        name = self.gcp.project
        try:
            found = self.gcp.call("cloudbilling.projects.getBillingInfo", name=f"projects/{name}")
        except (ApiDisabled, BillingDisabled) as error:
            return self._failed("billing", error)
        except Denied as error:
            return self._add("billing", "unchecked", f"it may not be looked at: {error.message}", error.remedy)
        except GcpError as error:
            return self._failed("billing", error)
        if not found.get("billingEnabled"):
            account = found.get("billingAccountName", "").rpartition("/")[2]
            said = f"the billing account {account} is closed" if account else f"{name} has no billing account"
            return self._add("billing", "problem", said, f"run `gcloud billing projects link {name} --billing-account ACCOUNT`")
        return self._add("billing", "ok", f"billed to {found.get('billingAccountName', '').rpartition('/')[2]}")

    def permissions(self, wanted: list[str]) -> None:
        """Whether the caller has the permissions."""
        if not wanted:
            return
        wanted = sorted(set(wanted))
        granted: set[str] = set()
        try:
            for start in range(0, len(wanted), PERMISSIONS_AT_ONCE):
                answer = self.gcp.call(
                    "cloudresourcemanager.projects.testIamPermissions",
                    {"permissions": wanted[start : start + PERMISSIONS_AT_ONCE]},
                    retry=True,
                    resource=f"projects/{self.gcp.project}",
                )
                granted.update(answer.get("permissions", []))
        except (Denied, NotFound) as error:
            if isinstance(error, ApiDisabled):
                return self._failed("permissions", error)
            return self._add("permissions", "unchecked", error.message)
        except GcpError as error:
            return self._failed("permissions", error)
        self.missing = [name for name in wanted if name not in granted]
        if self.missing:
            remedy = "grant the caller a role with them: the README has a custom role that holds exactly what is needed"
            return self._add("permissions", "problem", f"{self.gcp.principal} lacks {', '.join(self.missing)}", remedy)
        return self._add("permissions", "ok", f"{self.gcp.principal} has all {len(wanted)} that are needed")

    def services(self, wanted: list[str]) -> None:
        """Which services are off. Whether they can be switched on is a matter of permissions."""
        if not wanted:
            return
        wanted = list(dict.fromkeys(name if "." in name else f"{name}.googleapis.com" for name in wanted))
        states: dict[str, str] = {}
        parent = f"projects/{self.gcp.project}"
        try:
            for start in range(0, len(wanted), SERVICES_AT_ONCE):
                names = [f"{parent}/services/{name}" for name in wanted[start : start + SERVICES_AT_ONCE]]
                for service in self.gcp.call("serviceusage.services.batchGet", parent=parent, names=names).get("services", []):
                    states[service["name"].rpartition("/")[2]] = service.get("state", "")
        except GcpError as error:
            if isinstance(error, ApiDisabled):  # without this one no other can be switched on
                return self._add("services", "problem", error.message, error.remedy)
            return self._failed("services", error)
        self.off = [name for name in wanted if states.get(name) != "ENABLED"]
        if self.off:
            off = ", ".join(self.off)
            return self._add("services", "ok", f"{len(self.off)} of {len(wanted)} are off, and the role gcp_apis switches them on: {off}")
        return self._add("services", "ok", f"all {len(wanted)} are on")

    def network(self, network: str | None, subnetwork: str | None, region: str | None) -> None:
        """Whether network and subnetwork exist."""
        if not network:
            return
        project = self.gcp.project
        try:
            self.gcp.call("compute.networks.get", project=project, network=network)
            if subnetwork:
                self.gcp.call("compute.subnetworks.get", project=project, region=region, subnetwork=subnetwork)
        except NotFound as error:
            remedy = f"run `gcloud compute networks create {network} --subnet-mode=auto --project {project}`, or name one that is there"
            return self._add("network", "problem", error.message, remedy)
        except GcpError as error:
            return self._failed("network", error)
        within = f" with the subnetwork {subnetwork} in {region}" if subnetwork else ""
        return self._add("network", "ok", f"{network}{within} is there")


def message(gcp, problems: list[dict]) -> str:
    """All problems as one text."""
    many = f"{len(problems)} thing{' is' if len(problems) == 1 else 's are'} not ready in project {gcp.project}:"
    lines = [f"- {check['what']}: {check['found']}." + (f" Remedy: {check['remedy']}." if check["remedy"] else "") for check in problems]
    return "\n".join([many, *lines])
