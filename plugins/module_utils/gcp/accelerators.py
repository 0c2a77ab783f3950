# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where Google Cloud offers which accelerator, how much of it the project may use, and which zone to take."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

GLOBAL = "GPUS_ALL_REGIONS"
QUOTA_PAGE = "https://console.cloud.google.com/iam-admin/quotas?project={project}"
SHOWN = 10  # zones, quotas in a message
# What Google calls the quota, where that is not the accelerator's own name.
FAMILIES = {"H100_80GB": "H100", "H100_MEGA_80GB": "H100_MEGA", "H200_141GB": "H200"}


class NothingFits(Exception):
    """No location can be chosen. `offered`: zones by accelerator, `quota`: what was looked at; str() names both, and the remedy."""

    def __init__(self, message: str, offered: dict | None = None, quota: list | None = None):
        super().__init__(message)
        self.offered, self.quota = offered or {}, quota or []


@dataclass(frozen=True)
class Wanted:
    """So many accelerators of a type, as Spot VMs or not, in addition to what is in use."""

    type: str
    count: int = 1
    spot: bool = False

    def __str__(self) -> str:
        return f"{self.count} × {self.type}{' (spot)' if self.spot else ''}"


@dataclass(frozen=True)
class Quota:
    """A quota of the project in one region, or in all (region is empty), and how many more are wanted of it."""

    metric: str
    region: str
    limit: float
    usage: float
    wanted: int = 0

    @property
    def enough(self) -> bool:
        """Whether as many as are wanted are free."""
        return self.limit < 0 or self.limit - self.usage >= self.wanted

    def __str__(self) -> str:
        where = f"in {self.region}" if self.region else "over all regions"
        return f"{self.metric} {where}: limit {self.limit:g}, in use {self.usage:g}, wanted {self.wanted} more"

    def result(self) -> dict:
        """As the module returns it."""
        free = -1 if self.limit < 0 else int(self.limit - self.usage)
        return {
            "metric": self.metric,
            "region": self.region,
            "limit": int(self.limit),
            "usage": int(self.usage),
            "free": free,
            "wanted": self.wanted,
            "enough": self.enough,
        }


@dataclass
class Survey:
    """What a project is offered and granted."""

    project: str
    offers: dict[str, set[str]] = field(default_factory=dict)  # zones by accelerator type
    zones: dict[str, str] = field(default_factory=dict)  # region by zone
    quotas: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)  # (limit, usage) by metric by region, "": global
    down: set[str] = field(default_factory=set)  # regions

    def quota(self, region: str, wanted: Iterable[Wanted]) -> list[Quota]:
        """The quotas that a region has for what is wanted. One that Google does not report (newer families) is left out."""
        sums: dict[tuple[str, str], int] = {}
        for each in wanted:
            sums[region, self._metric(region, each)] = sums.get((region, self._metric(region, each)), 0) + each.count
            sums["", GLOBAL] = sums.get(("", GLOBAL), 0) + each.count  # Spot VMs count there, too
        known = [(place, metric, number) for (place, metric), number in sums.items() if metric in self.quotas.get(place, {})]
        return [Quota(metric, place, *self.quotas[place][metric], number) for place, metric, number in known]

    def _metric(self, region: str, wanted: Wanted) -> str:
        """Spot VMs use the standard quota as long as the project has none for them."""
        name = metric(wanted.type, wanted.spot)
        if wanted.spot and self.quotas.get(region, {}).get(name, (0, 0))[0] == 0:
            return metric(wanted.type)
        return name

    def offering(self, wanted: Iterable[Wanted]) -> set[str]:
        """The zones that offer all that is wanted."""
        zones = set(self.zones)
        for each in wanted:
            zones &= self.offers.get(each.type, set())
        return zones

    def matching(self, place: str) -> list[str]:
        """The zones that a zone, a region or the beginning of their names (asia, us-central) stands for. NothingFits if none."""
        found = sorted(zone for zone, region in self.zones.items() if place in (zone, region))
        found = found or sorted(zone for zone in self.zones if place and zone.startswith(place))
        if not found:
            close = difflib.get_close_matches(place, sorted({*self.zones, *self.zones.values()}), n=3)
            hint = f"; close to it: {', '.join(close)}" if close else ""
            raise NothingFits(
                f"{place!r} is not a zone or region of project {self.project}{hint}. Remedy: see `gcloud compute zones list` for the names."
            )
        return found


@dataclass
class Choice:
    """A location: a zone, or the region that was asked for, with the zones in it that offer what is wanted."""

    location: str
    region: str
    zones: list[str]
    reason: str
    quota: list[Quota] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def metric(accelerator: str, spot: bool = False) -> str:
    """The regional quota of an accelerator type: nvidia-l4 → NVIDIA_L4_GPUS, nvidia-tesla-t4 as Spot VM → PREEMPTIBLE_NVIDIA_T4_GPUS."""
    name = accelerator.removeprefix("nvidia-").removeprefix("tesla-").upper().replace("-", "_")
    return f"{'PREEMPTIBLE_' if spot else ''}NVIDIA_{FAMILIES.get(name, name)}_GPUS"


def survey(gcp) -> Survey:
    """Ask Google: three requests, whatever the number of types and regions."""
    found = Survey(gcp.project)
    for region in gcp.pages("compute.regions.list", "items", project=gcp.project):
        found.quotas[region["name"]] = _quotas(region)
        found.zones.update({_last(zone): region["name"] for zone in region.get("zones", [])})
        if region.get("status") == "DOWN":
            found.down.add(region["name"])
    found.quotas[""] = _quotas(gcp.call("compute.projects.get", project=gcp.project))
    scopes = gcp.pages("compute.acceleratorTypes.aggregatedList", "items", project=gcp.project)
    for scope, listed in dict(scopes).items():
        for each in listed.get("acceleratorTypes", []):
            if each.get("deprecated", {}).get("state") not in ("OBSOLETE", "DELETED"):
                found.offers.setdefault(each["name"], set()).add(_last(scope))
    return found


def existing(gcp, cluster: str, location: str = "") -> str:
    """Where the project has a GKE cluster of this name, or an empty string. NothingFits if `location` contradicts that."""
    listed = gcp.call("container.projects.locations.clusters.list", parent=f"projects/{gcp.project}/locations/-")
    places = sorted(each["location"] for each in listed.get("clusters", []) if each["name"] == cluster)
    if not places or location in places:
        return location if places else ""
    if location:
        raise NothingFits(
            f"The cluster {cluster} is in {' and '.join(places)}, not in {location}; a cluster cannot be moved. "
            f"Remedy: set the location to {places[0]}, or give the cluster another name."
        )
    if len(places) > 1:
        raise NothingFits(f"There are clusters {cluster} in {' and '.join(places)}. Remedy: set the location to the one that is meant.")
    return places[0]


def _quotas(resource: dict) -> dict[str, tuple[float, float]]:
    return {each["metric"]: (each["limit"], each.get("usage", 0)) for each in resource.get("quotas", [])}


def _last(url: str) -> str:
    return url.rpartition("/")[2]


def choose(
    found: Survey, wanted: list[Wanted], *, location: str = "", decided_by: str = "", prefer: Iterable[str] = (), elsewhere: bool = True
) -> Choice:
    """The location for what is wanted.

    `location` leaves no choice but of being checked; with `decided_by` (what is there already) even that only yields `problems`.
    Otherwise the first zone that fits: of `prefer` in this order, then, if `elsewhere`, of the same continents, then of all others.
    NothingFits says why there is none.
    """
    for each in wanted:
        if each.type not in found.offers:
            close = difflib.get_close_matches(each.type, sorted(found.offers), n=3)
            raise NothingFits(
                f"{each.type} is not an accelerator type that project {found.project} is offered in any zone. Remedy: take "
                f"{'one like ' + ', '.join(close) if close else 'one of ' + ', '.join(sorted(found.offers))}."
            )
    if location:
        return _given(found, wanted, location, decided_by)
    prefer = list(prefer)
    passed: dict[str, str] = {}  # what speaks against it, by preference
    for place in prefer:
        zones = found.matching(place)
        wrong = {zone: _wrong(found, zone, wanted) for zone in zones}
        fitting = [zone for zone in zones if not wrong[zone]]
        if fitting:
            which = "preferred" if place == fitting[0] else f"preferred ({place})"
            return _chosen(found, fitting[0], wanted, which, passed)
        telling = sorted(set(zones) & found.offering(wanted))  # a zone that only lacks quota
        passed[place] = wrong[telling[0]] if telling else f"does not offer {_all(wanted)}"
    if elsewhere or not prefer:
        continents = {place.split("-")[0] for place in prefer}
        for zone in sorted(found.zones, key=lambda zone: (zone.split("-")[0] not in continents, zone)):
            if not _wrong(found, zone, wanted):
                return _chosen(found, zone, wanted, "the first zone that fits" if prefer else "no preference", passed)
    raise _nothing(found, wanted, [] if elsewhere or not prefer else prefer)


def _given(found: Survey, wanted: list[Wanted], location: str, decided_by: str) -> Choice:
    zones = found.matching(location)
    region = found.zones[zones[0]]
    if location not in (zones[0], region):
        raise NothingFits(f"{location} is neither a zone nor a region. Remedy: write one of {', '.join(zones[:4])}, or prefer it only.")
    fitting = sorted(set(zones) & found.offering(wanted))
    quota = found.quota(region, wanted)
    problems = [] if fitting else [f"{location} does not offer {_all(wanted)}; {_offers(found, wanted)}"]
    problems += [str(each) for each in quota if not each.enough]
    if problems and not decided_by:
        raise _nothing(found, wanted, [location])
    reason = f"{location}: {decided_by or 'given'}{_has(wanted, quota) if not problems else ''}"
    return Choice(location, region, fitting or zones, reason, quota, problems)


def _chosen(found: Survey, zone: str, wanted: list[Wanted], which: str, passed: dict[str, str]) -> Choice:
    quota = found.quota(found.zones[zone], wanted)
    but = "".join(f"; not {place}: {wrong}" for place, wrong in passed.items())
    return Choice(zone, found.zones[zone], [zone], f"{zone}: {which}{_has(wanted, quota)}{but}", quota)


def _wrong(found: Survey, zone: str, wanted: list[Wanted]) -> str:
    """What speaks against a zone."""
    region = found.zones[zone]
    if region in found.down:
        return f"the region {region} is down"
    if zone not in found.offering(wanted):
        return f"{zone} does not offer {_all(wanted)}"
    return "; ".join(str(each) for each in found.quota(region, wanted) if not each.enough)


def _nothing(found: Survey, wanted: list[Wanted], places: list[str]) -> NothingFits:
    """What is wrong with these places, or with all of them."""
    asked = {zone for place in places for zone in found.matching(place)} or set(found.zones)
    where = ", ".join(places) or "Google Cloud"
    offered = {each.type: sorted(found.offers[each.type]) for each in wanted}
    fitting = asked & found.offering(wanted)
    if not fitting:
        return NothingFits(
            f"Nothing in {where} offers {_all(wanted)}; {_offers(found, wanted)}. Remedy: choose another location or type.",
            offered,
        )
    regions = sorted({found.zones[zone] for zone in fitting})
    quota = list(dict.fromkeys(each for region in regions for each in found.quota(region, wanted)))
    small = sorted((each for each in quota if not each.enough), key=lambda each: each.region)  # over all regions first
    wrong = [str(each) for each in small[:SHOWN]]
    if len(small) > SHOWN:
        wrong.append(f"and in {len(small) - SHOWN} more regions")
    wrong += [f"the region {region} is down" for region in regions if region in found.down]
    metrics = " and ".join(dict.fromkeys(each.metric for each in small))
    more = f"ask for more of {metrics} at {QUOTA_PAGE.format(project=found.project)}, or " if small else ""
    return NothingFits(
        f"Nothing in {where} fits {_all(wanted)}: {'; '.join(wrong)}. {_offers(found, wanted).capitalize()}. "
        f"Remedy: {more}choose another location, another type or fewer.",
        offered,
        quota,
    )


def _offers(found: Survey, wanted: list[Wanted]) -> str:
    zones = sorted(found.offering(wanted))
    more = f" and {len(zones) - SHOWN} more zones" if len(zones) > SHOWN else ""
    return f"it is offered in {', '.join(zones[:SHOWN])}{more}" if zones else "no zone offers all of it"


def _all(wanted: list[Wanted]) -> str:
    return " and ".join(str(each) for each in wanted)


def _has(wanted: list[Wanted], quota: list[Quota]) -> str:
    if not wanted:
        return ""
    used = ", ".join(f"{each.metric}: {each.usage:g} of {each.limit:g} in use" for each in quota)
    return f", offers {_all(wanted)} ({used or 'Google reports no quota for it'})"
