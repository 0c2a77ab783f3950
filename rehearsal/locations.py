# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Regions and zones of Google Cloud, and which accelerators and machine types they offer (2026, from Google's published lists)."""

from __future__ import annotations

import re
from dataclasses import dataclass


def _zones(text: str) -> tuple[str, ...]:
    """`us-east1:bc` → ("us-east1-b", "us-east1-c")."""
    return tuple(f"{region}-{letter}" for region, _, letters in (part.partition(":") for part in text.split()) for letter in letters)


_EVERYWHERE = _zones(
    "africa-south1:abc asia-east1:abc asia-east2:abc asia-northeast1:abc asia-northeast2:abc asia-northeast3:abc asia-south1:abc"
    " asia-south2:abc asia-southeast1:abc asia-southeast2:abc australia-southeast1:abc australia-southeast2:abc europe-central2:abc"
    " europe-north1:abc europe-north2:abc europe-southwest1:abc europe-west1:bcd europe-west2:abc europe-west3:abc europe-west4:abc"
    " europe-west6:abc europe-west8:abc europe-west9:abc europe-west10:abc europe-west12:abc me-central1:abc me-central2:abc me-west1:abc"
    " northamerica-northeast1:abc northamerica-northeast2:abc northamerica-south1:abc southamerica-east1:abc southamerica-west1:abc"
    " us-central1:abcf us-east1:bcd us-east4:abc us-east5:abc us-south1:abc us-west1:abc us-west2:abc us-west3:abc us-west4:abc"
)


def region_of(location: str) -> str:
    """The region of a zone; a region is its own."""
    return location.rpartition("-")[0] if location.count("-") > 1 else location


REGIONS: dict[str, tuple[str, ...]] = {}
for _zone in _EVERYWHERE:
    REGIONS[region_of(_zone)] = (*REGIONS.get(region_of(_zone), ()), _zone)


def zones_of(location: str) -> tuple[str, ...]:
    """The zones of a region, or the zone itself; empty where there is no such location."""
    if location in REGIONS:
        return REGIONS[location]
    return (location,) if location in _EVERYWHERE else ()


@dataclass(frozen=True)
class Accelerator:
    """A type of GPU: `metric` is its quota, `preemptible` the one for spot nodes ("" where Compute Engine has none)."""

    description: str
    maximum: int
    metric: str
    preemptible: str
    zones: tuple[str, ...]


def _gpu(description: str, maximum: int, quota: str, zones: str, preemptible_only: bool = False) -> Accelerator:
    standard = "" if preemptible_only or not quota else f"NVIDIA_{quota}_GPUS"
    return Accelerator(description, maximum, standard, f"PREEMPTIBLE_NVIDIA_{quota}_GPUS" if quota else "", _zones(zones))


_P4_ZONES = "us-central1:ac us-east4:abc us-west2:bc northamerica-northeast1:abc europe-west4:bc asia-southeast1:bc australia-southeast1:ab"
_P100_ZONES = "us-central1:cf us-east1:bc us-west1:ab europe-west1:bd europe-west4:a asia-east1:ac australia-southeast1:c"
_T4_ZONES = (
    "us-central1:abcf us-east1:cd us-east4:abc us-west1:ab us-west2:bc us-west4:ab northamerica-northeast1:c southamerica-east1:ac"
    " europe-central2:bc europe-west1:bcd europe-west2:ab europe-west3:b europe-west4:abc asia-east1:ac asia-east2:ac asia-northeast1:ac"
    " asia-northeast3:bc asia-south1:ab asia-southeast1:abc asia-southeast2:ab australia-southeast1:ac me-west1:bc"
)

# nvidia-tesla-k80 is not among them: Google withdrew it in 2024.
ACCELERATORS: dict[str, Accelerator] = {
    "nvidia-l4": _gpu(
        "NVIDIA L4", 8, "L4",
        "us-central1:abc us-east1:bcd us-east4:ac us-west1:abc us-west4:ac northamerica-northeast2:ab europe-west1:bc europe-west2:ab"
        " europe-west3:ab europe-west4:abc europe-west6:bc asia-east1:abc asia-northeast1:abc asia-northeast3:ab asia-south1:abc"
        " asia-southeast1:abc me-central2:ac",
    ),
    "nvidia-tesla-t4": _gpu("NVIDIA T4", 4, "T4", _T4_ZONES),
    "nvidia-tesla-t4-vws": _gpu("NVIDIA Tesla T4 Virtual Workstation", 4, "T4_VWS", _T4_ZONES),
    "nvidia-tesla-v100": _gpu(
        "NVIDIA V100", 8, "V100", "us-central1:abcf us-east1:c us-west1:ab europe-west4:abc asia-east1:c"
    ),
    "nvidia-tesla-p100": _gpu("NVIDIA Tesla P100", 4, "P100", _P100_ZONES),
    "nvidia-tesla-p4": _gpu("NVIDIA Tesla P4", 4, "P4", _P4_ZONES),
    "nvidia-tesla-a100": _gpu(
        "NVIDIA A100 40GB", 16, "A100",
        "us-central1:abcf us-east1:b us-west1:b us-west3:b us-west4:b europe-west4:ab asia-northeast1:ac asia-northeast3:ab"
        " asia-southeast1:abc me-west1:ac",
    ),
    "nvidia-a100-80gb": _gpu("NVIDIA A100 80GB", 8, "A100_80GB", "us-central1:ac us-east4:c us-east5:ab europe-west4:a asia-southeast1:c"),
    "nvidia-h100-80gb": _gpu(
        "NVIDIA H100 80GB", 8, "H100",
        "us-central1:abc us-east4:abc us-east5:a us-west1:ab us-west4:a europe-north1:c europe-west1:bc europe-west3:c europe-west4:bc"
        " europe-west8:c europe-west9:c asia-east1:c asia-northeast1:b asia-south1:c asia-south2:b asia-southeast1:bc"
        " australia-southeast1:c",
        preemptible_only=True,
    ),
    "nvidia-h200-141gb": _gpu(
        "NVIDIA H200 141GB", 8, "", "us-central1:b us-east4:b us-east5:a us-west1:c europe-west1:b asia-south1:b", preemptible_only=True
    ),
    "nvidia-b200": _gpu("NVIDIA B200", 8, "", "us-central1:b us-south1:b europe-west4:b asia-southeast1:b", preemptible_only=True),
}  # fmt: skip

# Machine types whose GPUs are part of the machine: pattern → (accelerator, number of cards by size).
_FIXED: tuple[tuple[str, str, dict[str, int]], ...] = (
    (r"g2-standard-(\d+)\Z", "nvidia-l4", {"4": 1, "8": 1, "12": 1, "16": 1, "32": 1, "24": 2, "48": 4, "96": 8}),
    (r"a2-highgpu-(\d+)g\Z", "nvidia-tesla-a100", {"1": 1, "2": 2, "4": 4, "8": 8}),
    (r"a2-megagpu-(\d+)g\Z", "nvidia-tesla-a100", {"16": 16}),
    (r"a2-ultragpu-(\d+)g\Z", "nvidia-a100-80gb", {"1": 1, "2": 2, "4": 4, "8": 8}),
    (r"a3-highgpu-(\d+)g\Z", "nvidia-h100-80gb", {"1": 1, "2": 2, "4": 4, "8": 8}),
    (r"a3-ultragpu-(\d+)g\Z", "nvidia-h200-141gb", {"8": 8}),
    (r"a4-highgpu-(\d+)g\Z", "nvidia-b200", {"8": 8}),
)
_PLAIN = re.compile(
    r"(?:e2-(?:micro|small|medium)|(?:e2|n1|n2|n2d|n4|c2|c2d|c3|c3d|c4|c4a|t2d|t2a)-(?:standard|highmem|highcpu)-\d+"
    r"|(?:e2|n1|n2|n2d|n4)-custom-\d+-\d+)\Z"
)
_CPUS = re.compile(r"-(\d+)g?\Z")
_CPUS_OF_GPU_MACHINES = {"a2-highgpu": 12, "a2-megagpu": 6, "a2-ultragpu": 12, "a3-highgpu": 26, "a3-ultragpu": 28, "a4-highgpu": 28}


def fixed_accelerator(machine: str) -> tuple[str, int] | None:
    """The GPUs that a machine type comes with: (accelerator, cards); None where GPUs are not part of it."""
    for pattern, accelerator, cards in _FIXED:
        found = re.match(pattern, machine)
        if found and found[1] in cards:
            return accelerator, cards[found[1]]
    return None


def offers_machine(machine: str, zone: str) -> bool:
    """Whether the zone has the machine type."""
    fixed = fixed_accelerator(machine)
    return zone in ACCELERATORS[fixed[0]].zones if fixed else zone in _EVERYWHERE and bool(_PLAIN.match(machine))


def cpus(machine: str) -> int:
    """Virtual CPUs of a machine type."""
    if machine.startswith(("e2-micro", "e2-small", "e2-medium")):
        return 2
    if "-custom-" in machine:
        return int(machine.split("-")[2])
    size = int(_CPUS.search(machine)[1])
    return size * _CPUS_OF_GPU_MACHINES.get(machine.rpartition("-")[0], 1)
