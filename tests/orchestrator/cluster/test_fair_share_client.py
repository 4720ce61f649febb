import threading
from collections.abc import Callable
from typing import Any

import pytest
import ray
from ray.exceptions import ActorUnavailableError
from waiting import wait_until

from orchestrator.cluster import fair_share_client as client_module
from orchestrator.cluster.fair_share import Demand
from orchestrator.cluster.fair_share_client import FairShareClient
from orchestrator.cluster.fair_share_register import FairShareRegister
from orchestrator.study.resources import Quota, Resources, Share

CORES = {"CPU": 8.0, "GPU": 0.0}


class Method:
    """Calls at once what Ray would call somewhere else."""

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def remote(self, *arguments: object) -> object:
        """Returns the answer itself in place of a reference."""
        return self._call(*arguments)


class Actor:
    """Stands for the register's process, which may be away."""

    def __init__(self) -> None:
        self.register = FairShareRegister()
        self.is_away = False
        self.num_found = 0
        self.report = Method(self._report)
        self.sign_off = Method(self.register.sign_off)

    def _report(self, *arguments: Any) -> object:  # noqa: ANN401 a driver's
        if self.is_away:
            raise ActorUnavailableError("away", None)
        return self.register.report(*arguments)

    def find(self) -> "Actor":
        """Looks it up by its name."""
        self.num_found += 1
        return self

    def other_reports(self, *, priority: int = 0, num_wanted: int = 100) -> None:
        """Reports for another driver."""
        demand = Demand(
            study="other", priority=priority, share={"cpu": 1}, quota={}, num_wanted=num_wanted
        )
        self.register.report("other", demand, {"cpu": 8})


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Actor:
    """Puts the register's process in the place of Ray."""
    actor = Actor()
    monkeypatch.setattr(ray, "cluster_resources", lambda: CORES)
    monkeypatch.setattr(ray, "get", lambda answer, **_: answer)
    monkeypatch.setattr(client_module, "_find_register", actor.find)
    monkeypatch.setattr(client_module, "REPORT_EVERY_S", 0.01)
    return actor


def begin(client: FairShareClient, share: Share | None = None) -> list[int]:
    """Begins a stage that wants all; returns the numbers of slots that its user was told."""
    told: list[int] = []
    client.begin_stage(share or Share(), num_wanted=lambda: 100, set_slots=told.append)
    return told


def test_own_ray_is_shared_with_nobody(actor: Actor) -> None:
    """Only the quota counts, and no process is started for the others that cannot be."""
    client = FairShareClient("alone", resources=Resources(quota=Quota(cpu=3)), is_shared=False)
    with client.reporting():
        assert begin(client) == [3]
        assert client.num_slots == 3
    assert (client.describe(), actor.num_found) == ("", 0)


def test_user_of_slots_is_told_as_others_come_and_go(actor: Actor) -> None:
    """By a thread; and a study that is alone says nothing of it."""
    client = FairShareClient("one", is_shared=True, resources=Resources())
    with client.reporting():
        told = begin(client)
        assert (told, client.describe()) == ([8], "")
        actor.other_reports()
        wait_until(lambda: told[-1] == 4)
        assert client.describe() == (
            "shares the cluster with other (priority 0): may use 4 of 8 slots"
        )
        actor.register.sign_off("other")
        wait_until(lambda: told[-1] == 8)


def test_waiting_and_its_end_are_noted_once(actor: Actor) -> None:
    """As they begin, and not at every report; a changed number of slots is no news."""
    notes: list[str] = []
    client = FairShareClient("one", is_shared=True, resources=Resources(), note=notes.append)
    with client.reporting():
        told = begin(client)
        actor.other_reports(num_wanted=2)
        wait_until(lambda: told[-1] == 6)
        actor.other_reports(num_wanted=3)
        wait_until(lambda: told[-1] == 5)
        actor.other_reports(priority=1)
        wait_until(lambda: told[-1] == 0)
        actor.register.sign_off("other")
        wait_until(lambda: told[-1] == 8)
    assert notes == [
        "shares the cluster with other (priority 0): may use 6 of 8 slots",
        "waits for other (priority 1), no slot of the cluster is left",
        "no other study is on the cluster now",
    ]


def test_driver_that_ends_leaves_the_register(actor: Actor) -> None:
    """So that nobody waits for it."""
    client = FairShareClient("one", is_shared=True, resources=Resources(priority=5))
    with client.reporting():
        begin(client)
    demand = Demand(study="other", priority=0, share={"cpu": 1}, quota={}, num_wanted=9)
    assert actor.register.report("other", demand, {"cpu": 8}).num_slots == 8


def test_register_that_does_not_answer_changes_nothing(actor: Actor) -> None:
    """What was told last counts until it is found again, by its name."""
    client = FairShareClient("one", is_shared=True, resources=Resources())
    actor.other_reports(priority=1, num_wanted=6)
    with client.reporting():
        told = begin(client)
        actor.is_away = True
        actor.register.sign_off("other")
        num_told, num_found = len(told), actor.num_found
        wait_until(lambda: len(told) > num_told + 2 and actor.num_found > num_found + 2)
        assert set(told) == {2}
        actor.is_away = False
        wait_until(lambda: told[-1] == 8)


def test_study_without_any_answer_has_the_cluster(actor: Actor) -> None:
    """As it would without a register, and it says so: what its file asks for is not heeded."""
    actor.is_away = True
    client = FairShareClient("one", is_shared=True, resources=Resources())
    with client.reporting():
        assert begin(client)[0] == 8
        assert client.describe() == (
            "cannot find out about other studies on the cluster (ActorUnavailableError)"
        )
        actor.is_away = False
        wait_until(lambda: not client.describe())


def test_stages_have_slots_of_their_own_size(actor: Actor) -> None:
    """What is told for one is never taken for the other."""
    actor.other_reports()
    client = FairShareClient("one", is_shared=True, resources=Resources(merge=Share(cpu=2)))
    with client.reporting():
        assert begin(client, Share(cpu=2))[0] == 2
        assert begin(client)[0] == 4


def test_waiting_for_a_slot_ends_with_a_slot_or_a_stop(actor: Actor) -> None:
    """A higher study that ends lets it go on; a stop does not wait for that."""
    actor.other_reports(priority=1)
    client = FairShareClient("one", is_shared=True, resources=Resources())
    stopping = threading.Event()
    with client.reporting():
        begin(client)
        assert client.num_slots == 0
        threading.Timer(0.1, stopping.set).start()
        assert not client.wait_for_slot(stopping)
        actor.register.sign_off("other")
        assert client.wait_for_slot(threading.Event())
        assert not client.wait_for_slot(stopping)
