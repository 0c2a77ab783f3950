"""Which location is chosen for accelerators, and what is said when none fits."""

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.gcp import accelerators, api
from ansible_collections.mlops.platform.plugins.module_utils.gcp.accelerators import NothingFits, Survey, Wanted
from ansible_collections.mlops.platform.plugins.modules import gcp_accelerators
from tests.unit.modules import run

L4 = Wanted("nvidia-l4")
ZONES = ("asia-east1-a", "asia-northeast3-a", "asia-northeast3-b", "europe-west4-a", "us-central1-a", "us-central1-b")


def survey(limits=None, everywhere=(8, 0), offers=None):
    """A project with L4 quota (limit, usage) by region; 1 free where nothing is said."""
    regions = {zone.rpartition("-")[0] for zone in ZONES}
    quotas = {region: {"NVIDIA_L4_GPUS": (1, 0), "PREEMPTIBLE_NVIDIA_L4_GPUS": (0, 0)} for region in regions}
    for region, pair in (limits or {}).items():
        quotas[region]["NVIDIA_L4_GPUS"] = pair
    quotas[""] = {accelerators.GLOBAL: everywhere}
    offers = offers or {"nvidia-l4": {"asia-northeast3-b", "us-central1-a", "asia-east1-a"}}
    return Survey("prj", offers, {zone: zone.rpartition("-")[0] for zone in ZONES}, quotas)


@pytest.mark.parametrize(
    ("accelerator", "spot", "expected"),
    [
        ("nvidia-l4", False, "NVIDIA_L4_GPUS"),
        ("nvidia-l4", True, "PREEMPTIBLE_NVIDIA_L4_GPUS"),
        ("nvidia-tesla-t4", False, "NVIDIA_T4_GPUS"),
        ("nvidia-tesla-t4-vws", False, "NVIDIA_T4_VWS_GPUS"),
        ("nvidia-tesla-a100", False, "NVIDIA_A100_GPUS"),
        ("nvidia-a100-80gb", False, "NVIDIA_A100_80GB_GPUS"),
        ("nvidia-h100-80gb", True, "PREEMPTIBLE_NVIDIA_H100_GPUS"),
    ],
)
def test_quota_metric_of_a_type(accelerator, spot, expected):
    assert accelerators.metric(accelerator, spot) == expected


def test_metrics_exist_in_googles_description():
    from ansible_collections.mlops.platform.plugins.module_utils.gcp.descriptions import description

    known = description("compute")["schemas"]["Quota"]["properties"]["metric"]["enum"]
    types = ["nvidia-l4", "nvidia-a100-80gb", *(f"nvidia-tesla-{name}" for name in ("k80", "p4", "p100", "t4", "v100", "a100", "t4-vws"))]
    assert {accelerators.metric(each, spot) for each in types for spot in (False, True)} <= set(known)


def test_preference_decides():
    chosen = accelerators.choose(survey(), [L4], prefer=["asia-northeast3", "us-central1"])
    assert (chosen.location, chosen.region) == ("asia-northeast3-b", "asia-northeast3")
    assert chosen.reason == (
        "asia-northeast3-b: preferred (asia-northeast3), offers 1 × nvidia-l4 "
        "(NVIDIA_L4_GPUS: 0 of 1 in use, GPUS_ALL_REGIONS: 0 of 8 in use)"
    )


def test_preference_may_be_a_beginning():
    assert accelerators.choose(survey(), [L4], prefer=["us"]).location == "us-central1-a"


def test_next_preference_when_quota_is_used_up():
    chosen = accelerators.choose(survey({"asia-northeast3": (2, 2)}), [L4], prefer=["asia-northeast3", "us-central1"])
    assert chosen.location == "us-central1-a"
    assert chosen.reason.endswith("; not asia-northeast3: NVIDIA_L4_GPUS in asia-northeast3: limit 2, in use 2, wanted 1 more")


def test_same_continent_before_others():
    found = survey({"asia-northeast3": (0, 0)})
    assert accelerators.choose(found, [L4], prefer=["asia-northeast3"]).location == "asia-east1-a"


def test_not_elsewhere_if_told():
    with pytest.raises(NothingFits) as error:
        accelerators.choose(survey({"asia-northeast3": (0, 0)}), [L4], prefer=["asia-northeast3"], elsewhere=False)
    text = str(error.value)
    assert "Nothing in asia-northeast3 fits 1 × nvidia-l4: NVIDIA_L4_GPUS in asia-northeast3: limit 0, in use 0, wanted 1 more." in text
    assert "asia-east1-a, asia-northeast3-b, us-central1-a" in text
    assert "ask for more of NVIDIA_L4_GPUS at https://console.cloud.google.com/iam-admin/quotas?project=prj" in text
    assert error.value.offered == {"nvidia-l4": ["asia-east1-a", "asia-northeast3-b", "us-central1-a"]}


def test_quota_over_all_regions_rules_everything_out():
    with pytest.raises(NothingFits, match="fits 2 × nvidia-l4: GPUS_ALL_REGIONS over all regions: limit 1, in use 0"):
        accelerators.choose(survey(everywhere=(1, 0)), [Wanted("nvidia-l4", 2)], prefer=["asia"])


def test_unknown_type_and_place_name_what_is_close():
    with pytest.raises(NothingFits, match="nvidia-l5 is not an accelerator type .* one like nvidia-l4"):
        accelerators.choose(survey(), [Wanted("nvidia-l5")])
    with pytest.raises(NothingFits, match="'asia-nothreast3' is not a zone or region of project prj; close to it: asia-northeast3"):
        accelerators.choose(survey(), [L4], prefer=["asia-nothreast3"])


def test_spot_uses_its_own_quota_once_there_is_one():
    found = survey({"us-central1": (0, 0)})
    with pytest.raises(NothingFits, match="NVIDIA_L4_GPUS in us-central1: limit 0"):
        accelerators.choose(found, [Wanted("nvidia-l4", spot=True)], location="us-central1-a")
    found.quotas["us-central1"]["PREEMPTIBLE_NVIDIA_L4_GPUS"] = (1, 0)
    chosen = accelerators.choose(found, [Wanted("nvidia-l4", spot=True)], location="us-central1-a")
    assert "PREEMPTIBLE_NVIDIA_L4_GPUS: 0 of 1 in use" in chosen.reason


def test_given_zone_without_the_type_names_the_zones_that_have_it():
    with pytest.raises(NothingFits, match="Nothing in europe-west4-a offers 1 × nvidia-l4; it is offered in asia-east1-a, asia-"):
        accelerators.choose(survey(), [L4], location="europe-west4-a")


def test_given_region_keeps_the_region_and_tells_its_zones():
    chosen = accelerators.choose(survey(), [L4], location="asia-northeast3")
    assert (chosen.location, chosen.zones) == ("asia-northeast3", ["asia-northeast3-b"])


def test_given_location_must_be_exact():
    with pytest.raises(NothingFits, match="asia is neither a zone nor a region"):
        accelerators.choose(survey(), [L4], location="asia")


def test_what_is_there_decides_even_when_its_quota_is_used_up():
    chosen = accelerators.choose(survey({"us-central1": (1, 1)}), [L4], location="us-central1", decided_by="the cluster kubeflow is there")
    assert chosen.location == "us-central1"
    assert chosen.reason == "us-central1: the cluster kubeflow is there"
    assert chosen.problems == ["NVIDIA_L4_GPUS in us-central1: limit 1, in use 1, wanted 1 more"]


def test_several_types_must_fit_together():
    found = survey(offers={"nvidia-l4": {"us-central1-a", "us-central1-b"}, "nvidia-tesla-t4": {"us-central1-b"}})
    assert accelerators.choose(found, [L4, Wanted("nvidia-tesla-t4")], prefer=["us-central1"]).location == "us-central1-b"
    with pytest.raises(NothingFits, match="GPUS_ALL_REGIONS over all regions: limit 2, in use 1, wanted 2 more"):
        found.quotas[""][accelerators.GLOBAL] = (2, 1)
        accelerators.choose(found, [L4, Wanted("nvidia-tesla-t4")])


def test_a_family_without_reported_quota_is_not_refused():
    found = survey(offers={"nvidia-b200": {"us-central1-b"}})
    chosen = accelerators.choose(found, [Wanted("nvidia-b200")])
    assert chosen.location == "us-central1-b"
    assert [each.metric for each in chosen.quota] == ["GPUS_ALL_REGIONS"]


def test_no_accelerator_only_needs_a_place():
    chosen = accelerators.choose(survey(), [], prefer=["europe"])
    assert (chosen.location, chosen.reason) == ("europe-west4-a", "europe-west4-a: preferred (europe)")


def test_region_that_is_down_is_passed_over():
    found = survey()
    found.down.add("asia-northeast3")
    chosen = accelerators.choose(found, [L4], prefer=["asia-northeast3"])
    assert chosen.location == "asia-east1-a"
    assert "not asia-northeast3: the region asia-northeast3 is down" in chosen.reason


# -- the module, against the rehearsal


def wanted(count=1, name="nvidia-l4", **more):
    return [{"type": name, "count": count, **more}]


def seed_cluster(rehearsal, location, name="kubeflow"):
    gcp = api.Gcp(rehearsal.project, credentials_file=rehearsal.credentials_file, endpoint=rehearsal.endpoint)
    body = {"cluster": {"name": name, "initialNodeCount": 1}}
    gcp.wait(gcp.call("container.projects.locations.clusters.create", body, parent=f"projects/{rehearsal.project}/locations/{location}"))


def test_module_finds_the_walk_throughs_place_with_three_requests(rehearsal):
    result = run(gcp_accelerators, rehearsal, accelerators=wanted(), prefer=["asia-northeast3"])
    assert not result["failed"] and not result["changed"]
    assert (result["location"], result["region"]) == ("asia-northeast3-a", "asia-northeast3")
    assert set(result["offered"]["nvidia-l4"]) > {"asia-northeast3-a", "asia-northeast3-b"}
    assert [each["metric"] for each in result["quota"]] == ["NVIDIA_L4_GPUS", "GPUS_ALL_REGIONS"]
    assert len(rehearsal.requests("compute.*")) == 3 and len(rehearsal.requests()) == 4  # and one for the token


def test_module_fails_where_a_new_project_has_no_gpu_quota(rehearsal):
    rehearsal.seed({"projects": {rehearsal.project: {"quotas": {"global": {"GPUS_ALL_REGIONS": 0}}}}})
    result = run(gcp_accelerators, rehearsal, accelerators=wanted(), prefer=["asia-northeast3"])
    assert result["failed"]
    assert "GPUS_ALL_REGIONS over all regions: limit 0, in use 0, wanted 1 more" in result["msg"]
    assert (
        "ask for more of GPUS_ALL_REGIONS at https://console.cloud.google.com/iam-admin/quotas?project=rehearsal-project" in result["msg"]
    )
    assert len(result["offered"]["nvidia-l4"]) > 30


def test_module_leaves_a_cluster_where_it_is(rehearsal):
    seed_cluster(rehearsal, "europe-west9-a")
    result = run(gcp_accelerators, rehearsal, accelerators=wanted(), prefer=["asia-northeast3"], cluster="kubeflow")
    assert (result["location"], result["cluster_exists"]) == ("europe-west9-a", True)
    assert "europe-west9-a does not offer 1 × nvidia-l4" in result["problems"][0]
    result = run(gcp_accelerators, rehearsal, accelerators=wanted(), location="asia-northeast3", cluster="kubeflow")
    assert "The cluster kubeflow is in europe-west9-a, not in asia-northeast3; a cluster cannot be moved." in result["msg"]
    result = run(gcp_accelerators, rehearsal, accelerators=wanted(), prefer=["asia-northeast3"], cluster="another")
    assert (result["location"], result["cluster_exists"]) == ("asia-northeast3-a", False)


def test_module_names_the_api_that_is_off_and_predicts_without_it(rehearsal):
    rehearsal.seed({"projects": {rehearsal.project: {"services": ["serviceusage.googleapis.com"]}}})
    options = {"accelerators": wanted(), "prefer": ["asia-northeast3-b", "us"], "cluster": "kubeflow"}
    result = run(gcp_accelerators, rehearsal, **options)
    assert result["failed"] and "gcloud services enable container.googleapis.com --project" in result["msg"]
    result = run(gcp_accelerators, rehearsal, check=True, **options)
    assert (result["location"], result["region"], result["checked"]) == ("asia-northeast3-b", "asia-northeast3", False)
    assert "taken unchecked: container.googleapis.com is not switched on yet" in result["warnings"][0]


def test_module_names_the_missing_permission(rehearsal):
    rehearsal.faults({"kind": "denied", "method": "compute.regions.list", "times": None})
    result = run(gcp_accelerators, rehearsal, accelerators=wanted())
    assert result["failed"] and result["permission"] == "compute.regions.list"
    assert "rehearsal@rehearsal-project.iam.gserviceaccount.com lacks compute.regions.list" in result["msg"]


def test_module_refuses_a_number_that_is_none(rehearsal):
    assert "0 of nvidia-l4 is not a number of accelerators" in run(gcp_accelerators, rehearsal, accelerators=wanted(0))["msg"]
