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
from orchestrator.environment.problems import NoRoomError
from orchestrator.study.resources import Quota, Resources, Share, TrialShare

CORES = {"CPU": 8.0, "GPU": 0.0}


class Method:
    """A method that runs at once in place of a remote call."""

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def remote(self, *arguments: object) -> object:
        """Returns the answer itself in place of a reference."""
        return self._call(*arguments)


class Actor:
    """Stands for the register's process, which may be unreachable."""

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
        """Returns the register, as looking it up by its name does."""
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
    """Puts a register in this process in the place of Ray's actor."""
    actor = Actor()
    monkeypatch.setattr(ray, "cluster_resources", lambda: CORES)
    monkeypatch.setattr(ray, "get", lambda answer, **_: answer)
    monkeypatch.setattr(client_module, "_find_register", actor.find)
    monkeypatch.setattr(client_module, "REPORT_EVERY_S", 0.01)
    return actor


def begin(client: FairShareClient, share: Share | None = None) -> list[int]:
    """Begins a stage that wants every slot; returns the list of slots that were set."""
    given: list[int] = []
    client.begin_stage(share or Share(), num_wanted=lambda: 100, set_slots=given.append)
    return given


def test_own_ray_is_shared_with_nobody(actor: Actor) -> None:
    """Only the quota counts, and no register is started."""
    client = FairShareClient("alone", resources=Resources(quota=Quota(cpu=3)), is_shared=False)
    with client.reporting():
        assert begin(client) == [3]
        assert client.num_slots == 3
    assert (client.describe(), actor.num_found) == ("", 0)


def test_slots_change_as_other_studies_come_and_go(actor: Actor) -> None:
    """A thread sets the slots; a study that is alone has no text."""
    client = FairShareClient("one", is_shared=True, resources=Resources())
    with client.reporting():
        given = begin(client)
        assert (given, client.describe()) == ([8], "")
        actor.other_reports()
        wait_until(lambda: given[-1] == 4)
        assert client.describe() == (
            "shares the cluster with other (priority 0): may use 4 of 8 slots"
        )
        actor.register.sign_off("other")
        wait_until(lambda: given[-1] == 8)


def test_waiting_and_its_end_are_noted_once(actor: Actor) -> None:
    """A changed number of slots is not worth a note."""
    notes: list[str] = []
    client = FairShareClient("one", is_shared=True, resources=Resources(), note=notes.append)
    with client.reporting():
        given = begin(client)
        actor.other_reports(num_wanted=2)
        wait_until(lambda: given[-1] == 6)
        actor.other_reports(num_wanted=3)
        wait_until(lambda: given[-1] == 5)
        actor.other_reports(priority=1)
        wait_until(lambda: given[-1] == 0)
        actor.register.sign_off("other")
        wait_until(lambda: given[-1] == 8)
    assert notes == [
        "shares the cluster with other (priority 0): may use 6 of 8 slots",
        "waits for other (priority 1), no slot of the cluster is left",
        "no other study is on the cluster now",
    ]


def test_driver_that_ends_signs_off(actor: Actor) -> None:
    """Otherwise the others would wait for its slots."""
    client = FairShareClient("one", is_shared=True, resources=Resources(priority=5))
    with client.reporting():
        begin(client)
    demand = Demand(study="other", priority=0, share={"cpu": 1}, quota={}, num_wanted=9)
    assert actor.register.report("other", demand, {"cpu": 8}).num_slots == 8


def test_register_that_does_not_answer_changes_nothing(actor: Actor) -> None:
    """The last answer stays in force until the register is found again by its name."""
    client = FairShareClient("one", is_shared=True, resources=Resources())
    actor.other_reports(priority=1, num_wanted=6)
    with client.reporting():
        given = begin(client)
        actor.is_away = True
        actor.register.sign_off("other")
        num_given, num_found = len(given), actor.num_found
        wait_until(lambda: len(given) > num_given + 2 and actor.num_found > num_found + 2)
        assert set(given) == {2}
        actor.is_away = False
        wait_until(lambda: given[-1] == 8)


def test_study_without_any_answer_has_the_cluster(actor: Actor) -> None:
    """Without any answer a study uses the whole cluster and says so."""
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
    """The answer for one stage is never used in another."""
    actor.other_reports()
    client = FairShareClient("one", is_shared=True, resources=Resources(merge=Share(cpu=2)))
    with client.reporting():
        assert begin(client, Share(cpu=2))[0] == 2
        assert begin(client)[0] == 4


def test_waiting_for_a_slot_ends_with_a_slot_or_a_stop(actor: Actor) -> None:
    """A slot is free once the study of higher priority has ended."""
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


def test_share_that_this_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would wait for it for ever; on a cluster, a node with it may still join."""
    monkeypatch.setattr(client_module, "largest_node", lambda: {"CPU": 8, "GPU": 0})
    resources, notes = Resources(trial=TrialShare(cpu=2, gpu=0.5)), list[str]()
    alone = FairShareClient("one", is_shared=False, resources=resources)
    alone.check_room(Share(cpu=8))
    with pytest.raises(NoRoomError, match=r"0\.5 GPUs, but this machine has 8 cores and 0 GPUs"):
        alone.check_room(resources.trial)
    joined = FairShareClient("one", is_shared=True, resources=resources, note=notes.append)
    joined.check_room(resources.trial)
    assert "no node has that much now (8 cores and 0 GPUs)" in notes[0]
