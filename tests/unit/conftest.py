"""The rehearsal of Google Cloud, in this process and on a free port."""

from __future__ import annotations

import pytest

from rehearsal.faults import Faults
from rehearsal.server import Rehearsal
from rehearsal.state import PROJECT, seed

SERVICES = (
    "cloudbilling", "cloudresourcemanager", "compute", "container", "iam", "iamcredentials", "iap", "krmapihosting", "oslogin",
    "secretmanager", "servicemanagement", "serviceusage",
)  # fmt: skip


class Rehearsed:
    """What tests do with a rehearsal."""

    project = PROJECT

    def __init__(self, server: Rehearsal):
        self.server, self.endpoint, self.credentials_file = server, server.endpoint, server.credentials_file
        self.ca_file = str(server.state_dir / "ca.pem")

    @property
    def access_token(self) -> str:
        return self.server.token()

    @property
    def state(self) -> dict:
        return self.server.state

    def seed(self, given: dict) -> None:
        with self.server.lock:
            seed(self.server.state, given)

    def faults(self, *given: dict) -> None:
        with self.server.lock:
            for fault in given:
                Faults.add(self.server.state, fault)

    def requests(self, method: str = "*") -> list[dict]:
        return self.server.log(method)

    def reset(self) -> None:
        """One project, paid for, the APIs on that modules call."""
        self.server.reset()
        self.seed({"projects": {PROJECT: {"services": [f"{name}.googleapis.com" for name in SERVICES]}}})


@pytest.fixture(scope="session")
def rehearsal_server(tmp_path_factory):
    server = Rehearsal(tmp_path_factory.mktemp("rehearsal"), operation_seconds=0.05).start()
    yield server
    server.stop()


@pytest.fixture
def rehearsal(rehearsal_server):
    """A rehearsal as new: .endpoint, .credentials_file, .access_token, .seed(), .faults(), .requests(), .state, .reset()."""
    rehearsed = Rehearsed(rehearsal_server)
    rehearsed.reset()
    return rehearsed
