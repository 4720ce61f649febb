from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.fair_share import (
    Allotment,
    Demand,
    Neighbour,
    allot,
    allotment_text,
    num_fitting,
)

CORES = {"cpu": 8.0, "gpu": 0.0}
MACHINES = {"cpu": 64.0, "gpu": 8.0}


def demand(
    study: str = "a",
    *,
    priority: int = 0,
    cpu: float = 1,
    gpu: float = 0,
    num_wanted: int = 100,
    quota: dict[str, float] | None = None,
) -> Demand:
    return Demand(
        study=study,
        priority=priority,
        share={"cpu": cpu, "gpu": gpu},
        quota=quota or {},
        num_wanted=num_wanted,
    )


def slots(*demands: Demand, total: dict[str, float] = CORES) -> list[int]:
    return [each.num_slots for each in allot(demands, total=total)]


def test_study_alone_may_use_all_whatever_it_wants_now() -> None:
    """If it wants more a moment later, it need not wait for a report."""
    assert slots(demand()) == slots(demand(num_wanted=0)) == [8]


def test_equals_share_alike_and_the_first_has_the_odd_slot() -> None:
    """The order of arrival decides who gets the odd slot."""
    assert slots(demand("a"), demand("b")) == [4, 4]
    assert slots(demand("b"), demand("a"), demand("c")) == [3, 3, 2]


def test_slots_that_one_study_does_not_need_go_to_others() -> None:
    """Slots that no study needs are open to both."""
    assert slots(demand(num_wanted=1), demand()) == [1, 7]
    assert slots(demand(num_wanted=1), demand(num_wanted=2)) == [6, 7]


def test_higher_priority_takes_all_that_it_can_use() -> None:
    """The lower one gets the rest, if there is any."""
    assert slots(demand(), demand(priority=5)) == [0, 8]
    assert slots(demand(), demand(priority=5, num_wanted=6)) == [2, 6]
    assert slots(demand(priority=-1), demand(), demand(priority=5, num_wanted=4)) == [0, 4, 4]


def test_quota_bounds_a_study_and_leaves_the_rest() -> None:
    """A quota also bounds a study that is alone, by the resource that it reaches first."""
    limited = demand(priority=5, quota={"cpu": 3})
    assert slots(limited) == [3]
    assert slots(limited, demand()) == [3, 5]
    by_gpu = demand(cpu=2, gpu=0.5, quota={"cpu": 16, "gpu": 1})
    assert slots(by_gpu, total=MACHINES) == [2]


def test_resources_are_shared_by_what_is_dominant() -> None:
    """In the paper's example, 9 cores and 18 GB give 3 tasks of (1, 4) and 2 of (3, 1)."""
    total = {"cpu": 9.0, "gpu": 18.0}
    assert slots(demand("a", cpu=1, gpu=4), demand("b", cpu=3, gpu=1), total=total) == [3, 2]


def test_fractions_of_a_gpu_add_up() -> None:
    """Ten tenths are one GPU."""
    share = {"cpu": 1.0, "gpu": 0.1}
    assert num_fitting(share, within={"gpu": 0.3}) == 3
    assert num_fitting(share, within={}) is None
    assert slots(demand("a", gpu=0.1), demand("b", gpu=0.1), total=MACHINES) == [32, 32]


def test_share_larger_than_the_cluster_counts_as_all_of_it() -> None:
    """One worker is planned, as for a study alone."""
    assert slots(demand(cpu=16)) == [1]
    assert slots(demand(cpu=16), demand()) == [1, 0]


def test_text_says_who_shares_and_whom_a_study_waits_for() -> None:
    """It is empty for a study alone; studies without slots are not waited for."""
    assert allotment_text(Allotment(num_slots=8), max_slots=8) == ""
    high = Neighbour(study="deep", priority=5, num_slots=5)
    low = Neighbour(study="wide", priority=0, num_slots=0)
    assert allotment_text(Allotment(num_slots=3, neighbours=(high,)), max_slots=8) == (
        "shares the cluster with deep (priority 5): may use 3 of 8 slots"
    )
    waiting = allotment_text(Allotment(num_slots=0, neighbours=(high, low)), max_slots=8)
    assert waiting == "waits for deep (priority 5), no slot of the cluster is left"


demands = st.lists(
    st.builds(
        Demand,
        study=st.sampled_from("abc"),
        priority=st.integers(-1, 1),
        share=st.fixed_dictionaries(
            {"cpu": st.sampled_from([0.5, 1, 2, 3]), "gpu": st.sampled_from([0, 0.1, 0.25, 1])}
        ),
        quota=st.dictionaries(st.sampled_from(["cpu", "gpu"]), st.integers(3, 40), max_size=2),
        num_wanted=st.integers(0, 70),
    ),
    min_size=1,
    max_size=5,
)
totals = st.fixed_dictionaries({"cpu": st.integers(3, 40), "gpu": st.integers(1, 8)})


def wanted_slots(demands: Sequence[Demand], *, total: dict[str, float]) -> list[int]:
    """Returns the slots that each study was given of those it wants."""
    found = allot(demands, total=total)
    if len(demands) == 1:
        return [min(found[0].num_slots, demands[0].num_wanted)]
    own = found[1].neighbours[0].num_slots
    return [own, *(each.num_slots for each in found[0].neighbours)]


def left(
    demands: Sequence[Demand], held: Sequence[int], *, total: dict[str, float]
) -> dict[str, float]:
    """Returns the free amounts."""
    pairs = list(zip(demands, held, strict=True))
    return {
        name: total[name] - sum(num * each.share[name] for each, num in pairs) for name in total
    }


@given(demands=demands, total=totals)
def test_no_division_gives_more_than_there_is_or_is_wanted(
    demands: list[Demand], total: dict[str, float]
) -> None:
    """No study gets more than its quota either."""
    given_slots = wanted_slots(demands, total=total)
    assert all(amount >= -1e-6 for amount in left(demands, given_slots, total=total).values())
    for each, num, allotment in zip(demands, given_slots, allot(demands, total=total), strict=True):
        most = num_fitting(each.share, within=each.quota)
        assert 0 <= num <= each.num_wanted
        assert allotment.num_slots >= num
        assert most is None or allotment.num_slots <= most


@given(demands=demands, total=totals)
def test_no_slot_stays_empty_that_a_study_wants(
    demands: list[Demand], total: dict[str, float]
) -> None:
    """A study that wants another slot has reached its quota, or the slot does not fit."""
    given_slots = wanted_slots(demands, total=total)
    free = left(demands, given_slots, total=total)
    for each, num in zip(demands, given_slots, strict=True):
        most = num_fitting(each.share, within=each.quota)
        is_full = num in (each.num_wanted, most)
        assert is_full or num_fitting(each.share, within=free) == 0


@given(demands=demands, total=totals)
def test_lower_priorities_change_nothing_for_higher_ones(
    demands: list[Demand], total: dict[str, float]
) -> None:
    """A study gets the same with and without studies of lower priority."""
    given_slots = wanted_slots(demands, total=total)
    top = max(each.priority for each in demands)
    high = [index for index, each in enumerate(demands) if each.priority == top]
    alone = wanted_slots([demands[index] for index in high], total=total)
    assert [given_slots[index] for index in high] == alone


@given(demands=demands, total=totals)
def test_equals_have_one_slot_each_where_there_is_room(
    demands: list[Demand], total: dict[str, float]
) -> None:
    """No study gets a second slot before each study of its priority has its first."""
    top = max(each.priority for each in demands)
    equals = [each for each in demands if each.priority == top and each.num_wanted]
    ones = left(equals, [1] * len(equals), total=total)
    if not equals or min(ones.values()) < 0:
        return
    quotas = [num_fitting(each.share, within=each.quota) for each in equals]
    if 0 not in quotas:
        assert min(wanted_slots(equals, total=total)) >= 1


@pytest.mark.parametrize("total", [CORES, MACHINES])
def test_equal_studies_differ_by_one_slot_at_most(total: dict[str, float]) -> None:
    """This holds for any number of studies."""
    for number in range(1, 12):
        found = wanted_slots([demand(gpu=0)] * number, total=total)
        assert max(found) - min(found) <= 1
        assert sum(found) == total["cpu"]
