import pytest
from manual_clock import ManualClock

from orchestrator.cluster.fair_share import Demand
from orchestrator.cluster.fair_share_register import EXPIRES_AFTER_S, FairShareRegister

CORES = {"cpu": 8.0, "gpu": 0.0}


@pytest.fixture
def clock() -> ManualClock:
    """Returns the register's clock."""
    return ManualClock(100.0)


@pytest.fixture
def register(clock: ManualClock) -> FairShareRegister:
    """Returns a register without any report."""
    return FairShareRegister(clock)


def report(
    register: FairShareRegister, driver: str, *, priority: int = 0, num_wanted: int = 100
) -> int:
    demand = Demand(
        study=driver, priority=priority, share={"cpu": 1}, quota={}, num_wanted=num_wanted
    )
    return register.report(driver, demand, CORES).num_slots


def test_answers_change_as_other_drivers_come(register: FairShareRegister) -> None:
    """The first driver learns of the second by its next report."""
    assert report(register, "first") == 8
    assert report(register, "second") == 4
    assert report(register, "first") == 4


def test_silent_driver_is_forgotten(register: FairShareRegister, clock: ManualClock) -> None:
    """A driver that was slow once, within the limit, loses nothing."""
    report(register, "first")
    clock.now_s += EXPIRES_AFTER_S
    assert report(register, "second") == 4
    clock.now_s += 1
    assert report(register, "second") == 8
    assert report(register, "first") == 4


def test_driver_that_leaves_frees_its_slots_at_once(register: FairShareRegister) -> None:
    """Signing off twice, or without any report, is no error."""
    report(register, "first", priority=5)
    assert report(register, "second") == 0
    for driver in ("first", "first", "stranger"):
        register.sign_off(driver)
    assert report(register, "second") == 8


def test_lost_register_knows_all_again_after_one_report_each(clock: ManualClock) -> None:
    """Its state is stored nowhere else."""
    register = FairShareRegister(clock)
    report(register, "high", priority=1, num_wanted=6)
    assert report(register, "low") == 2
    another = FairShareRegister(clock)
    assert report(another, "high", priority=1, num_wanted=6) == 8
    assert report(another, "low") == 2


def test_drivers_of_one_study_name_are_two(register: FairShareRegister) -> None:
    """Users choose names without asking one another."""
    demand = Demand(study="same", priority=0, share={"cpu": 1}, quota={}, num_wanted=100)
    register.report("one", demand, CORES)
    allotment = register.report("two", demand, CORES)
    assert allotment.num_slots == 4
    assert [each.study for each in allotment.neighbours] == ["same"]


def test_cluster_is_as_large_as_any_driver_knows(register: FairShareRegister) -> None:
    """Only a driver on the head may know how far the cluster grows."""
    demand = Demand(study="a", priority=0, share={"cpu": 1}, quota={}, num_wanted=100)
    register.report("submitted", demand, {"cpu": 32.0})
    assert register.report("elsewhere", demand, CORES).num_slots == 16
