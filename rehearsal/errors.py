# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Refusals, in the words and shapes of Google's services."""

from __future__ import annotations

import traceback

STATUS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE",
}  # fmt: skip
CODES = {  # google.rpc.Code, the number in the error of an operation
    "CANCELLED": 1, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5, "ALREADY_EXISTS": 6, "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "ABORTED": 10, "UNIMPLEMENTED": 12, "INTERNAL": 13, "UNAVAILABLE": 14,
    "UNAUTHENTICATED": 16,
}  # fmt: skip
REASON = {  # the older word for it, which compute still sends in errors[]
    400: "invalid", 401: "authError", 403: "forbidden", 404: "notFound", 409: "alreadyExists", 412: "conditionNotMet",
    429: "rateLimitExceeded", 503: "backendError",
}  # fmt: skip


def where(error: BaseException) -> str:
    """Kind and place of an error, without its text: that may hold values of a request."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.filename}:{frame.lineno}"


class Refused(Exception):
    """A request that Google would refuse. status: google.rpc.Code by name ("" = the usual one of the HTTP code); details: typed objects."""

    def __init__(self, http: int, status: str, message: str, details: list | None = None, reason: str = ""):
        super().__init__(message)
        self.http, self.status, self.message, self.details = http, status or STATUS.get(http, "UNKNOWN"), message, details or []
        self.reason = reason or REASON.get(http, "backendError")

    def body(self, service: str = "") -> dict:
        """The answer's body; compute adds the older errors[]."""
        error: dict = {"code": self.http, "message": self.message, "status": self.status}
        if service == "compute":
            error["errors"] = [{"message": self.message, "domain": "global", "reason": self.reason}]
        if self.details:
            error["details"] = self.details
        return {"error": error}


def info(reason: str, domain: str = "googleapis.com", **metadata: str) -> dict:
    """The detail from which programs read why (google.rpc.ErrorInfo)."""
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": domain, "metadata": metadata}


def violations(found: list[tuple[str, str]]) -> Refused:
    """400 for fields that are not as Google's description says; found: field and what is wrong with it."""
    listed = [{**({"field": field} if field else {}), "description": text} for field, text in found]
    detail = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": listed}
    return Refused(400, "", "\n".join(text for _, text in found), [detail])


def invalid(message: str) -> Refused:
    """400 INVALID_ARGUMENT."""
    return Refused(400, "", message)


def precondition(message: str) -> Refused:
    """400 FAILED_PRECONDITION: right in itself, but not now (another operation runs, a cluster in the wrong state)."""
    return Refused(400, "FAILED_PRECONDITION", message, reason="failedPrecondition")


def not_found(resource: str) -> Refused:
    """404; resource: its name as in the request, e.g. projects/p/locations/l/clusters/c."""
    return Refused(404, "", f"The resource '{resource}' was not found")


def exists(resource: str) -> Refused:
    """409 ALREADY_EXISTS."""
    return Refused(409, "", f"The resource '{resource}' already exists")


def aborted(message: str) -> Refused:
    """409 ABORTED: someone else changed it since it was read."""
    return Refused(409, "ABORTED", message, reason="conflict")


def denied(permission: str, resource: str) -> Refused:
    """403 for a missing permission; resource without the leading //."""
    message = f"Permission '{permission}' denied on resource '//{resource}' (or it may not exist)."
    return Refused(403, "", message, [info("IAM_PERMISSION_DENIED", "iam.googleapis.com", permission=permission, resource=resource)])


def no_project(service: str, project: str) -> Refused:
    """A project that is not there is mostly answered as one that may not be seen."""
    if service == "compute":
        return not_found(f"projects/{project}")
    if service == "cloudresourcemanager":
        return denied("resourcemanager.projects.get", f"cloudresourcemanager.googleapis.com/projects/{project}")
    if service == "cloudbilling":
        return Refused(403, "", "The caller does not have permission")
    detail = info("CONSUMER_INVALID", service=f"{service}.googleapis.com", consumer=f"projects/{project}")
    return Refused(403, "", f"Permission denied on resource project {project}.", [detail])


def service_disabled(service: str, title: str, number: str) -> Refused:
    """403 for an API that is off in the project with this number."""
    url = f"https://console.developers.google.com/apis/api/{service}.googleapis.com/overview?project={number}"
    message = (
        f"{title} has not been used in project {number} before or it is disabled. Enable it by visiting {url} then retry. If you enabled "
        "this API recently, wait a few minutes for the action to propagate to our systems and retry."
    )
    metadata = {"service": f"{service}.googleapis.com", "consumer": f"projects/{number}", "serviceTitle": title, "activationUrl": url}
    return Refused(403, "", message, [info("SERVICE_DISABLED", **metadata)], reason="accessNotConfigured")


def billing_disabled(service: str, number: str) -> Refused:
    """403 for a service that costs, in a project without billing."""
    message = (
        f"This API method requires billing to be enabled. Please enable billing on project #{number} by visiting "
        f"https://console.developers.google.com/billing/enable?project={number} then retry. If you enabled billing for this project "
        "recently, wait a few minutes for the action to propagate to our systems and retry."
    )
    return Refused(403, "", message, [info("BILLING_DISABLED", service=f"{service}.googleapis.com", consumer=f"projects/{number}")])


def quota(metric: str, limit: float, usage: float, region: str = "") -> Refused:
    """403 for a quota that the request would exceed, as compute words it; metric as in compute's quotas, e.g. NVIDIA_L4_GPUS."""
    message = f"Quota '{metric}' exceeded. Limit: {float(limit)} {f'in region {region}' if region else 'globally'}."
    metadata = {"quota_metric": f"compute.googleapis.com/{metric.lower()}", "quota_limit_value": str(limit), "usage": str(usage)}
    return Refused(403, "RESOURCE_EXHAUSTED", message, [info("QUOTA_EXCEEDED", **metadata, region=region)], reason="quotaExceeded")


def rate(service: str, number: str, metric: str, limit: int) -> Refused:
    """429: too many requests in a minute."""
    message = (
        f"Quota exceeded for quota metric '{metric}' and limit '{metric} per minute' of service '{service}.googleapis.com' "
        f"for consumer 'project_number:{number}'."
    )
    metadata = {
        "service": f"{service}.googleapis.com", "consumer": f"projects/{number}", "quota_metric": metric, "quota_limit_value": str(limit),
        "quota_unit": "1/min/{project}",
    }  # fmt: skip
    return Refused(429, "", message, [info("RATE_LIMIT_EXCEEDED", **metadata)])
