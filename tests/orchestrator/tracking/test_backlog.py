import sys
from collections.abc import Callable
from types import FrameType

from orchestrator.tracking.backlog import MAX_WAIT_S, Backlog
from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.protocol import Message, Settled, StateChanged


class Server:
    """A stand-in for MLflow that can be down and can refuse MLflow runs."""

    def __init__(self) -> None:
        self.up = True
        self.refused: set[str] = set()
        self.published: list[str] = []
        self.num_broken_calls = 0

    def check(self) -> None:
        """Raises while the server is down."""
        if self.num_broken_calls:
            self.num_broken_calls -= 1
            raise ConnectionResetError("broken")
        if not self.up:
            raise ConnectionError("refused\n" * 50)

    def publish(self, run: MlflowRun) -> bool:
        """Raises while the server is down, or for a refused MLflow run."""
        self.check()
        if run.key in self.refused:
            raise ValueError("bad request")
        self.published.append(run.key)
        return self.published.count(run.key) == 1


class Bench:
    """A backlog with a clock that the test moves."""

    def __init__(self, *, open_experiment: Callable[[], Server] | None = None) -> None:
        self.server = Server()
        self.now_s = 100.0
        self.replies: list[Message] = []
        self.backlog = Backlog(
            open_experiment=open_experiment or (lambda: self.server),
            reply=self.replies.append,
            clock=lambda: self.now_s,
            jitter=lambda: 1.0,
        )

    def run_for(self, seconds: float) -> int:
        """Steps as the publisher does; returns the number of steps."""
        end_s = self.now_s + seconds
        num_steps = 0
        while (wait_s := self.backlog.wait_s()) is not None and self.now_s + wait_s <= end_s:
            self.now_s += wait_s
            self.backlog.step()
            num_steps += 1
        self.now_s = end_s
        return num_steps

    def states(self) -> list[str]:
        """Returns the announced states in order."""
        return [reply.state for reply in self.replies if isinstance(reply, StateChanged)]


def make_run(key: str, *, parent_key: str | None = None, name: str = "n") -> MlflowRun:
    return MlflowRun(
        key=key,
        kind="merge",
        name=name,
        parent_key=parent_key,
        start_ms=0,
        end_ms=1,
        status="FINISHED",
    )


def test_runs_are_published_in_order_with_parents_first() -> None:
    """A waiting parent is published before its child, even if the child came first."""
    bench = Bench()
    for run in (make_run("a", parent_key="p"), make_run("b"), make_run("p")):
        bench.backlog.add(run)
    bench.run_for(1)
    assert bench.server.published == ["p", "a", "b"]
    assert bench.backlog.wait_s() is None
    assert bench.states() == ["ok"]


def test_only_the_latest_of_equal_keys_is_published() -> None:
    """An older state of a running trial is dropped if a newer one arrives in time."""
    bench = Bench()
    newer = make_run("a", name="newer")
    bench.backlog.add(make_run("a", name="older"))
    bench.backlog.add(newer)
    bench.run_for(1)
    settled = [reply for reply in bench.replies if isinstance(reply, Settled)]
    assert settled == [Settled(key="a", digest=newer.digest, outcome="published")]


def test_outage_is_waited_out_with_growing_pauses() -> None:
    """Few calls are made while the server is down; all MLflow runs arrive afterwards."""
    bench = Bench()
    bench.server.up = False
    for key in "abc":
        bench.backlog.add(make_run(key))
    assert bench.run_for(1000) < 45
    assert bench.states()[0] == "unreachable: ConnectionError: refused"
    bench.server.up = True
    bench.run_for(MAX_WAIT_S)
    assert bench.server.published == ["a", "b", "c"]
    assert bench.states()[-1] == "ok"


def test_refused_run_does_not_delay_the_others_and_is_retried() -> None:
    """The server gets all others, and the refused one as soon as it accepts it."""
    bench = Bench()
    bench.server.refused = {"a"}
    for key in "abc":
        bench.backlog.add(make_run(key))
    bench.run_for(1000)
    assert bench.server.published == ["b", "c"]
    assert "refused: a: ValueError: bad request" in bench.states()
    bench.server.refused = set()
    bench.run_for(MAX_WAIT_S)
    assert bench.server.published == ["b", "c", "a"]


def test_refused_parent_does_not_delay_its_child() -> None:
    """The child does not wait for a parent that was refused once."""
    bench = Bench()
    bench.server.refused = {"p"}
    bench.backlog.add(make_run("a", parent_key="p"))
    bench.backlog.add(make_run("p"))
    bench.run_for(10)
    assert bench.server.published == ["a"]


def test_flush_tries_every_run_even_before_its_time() -> None:
    """Closing does not wait for pauses, and does not repeat a refused MLflow run for ever."""
    bench = Bench()
    bench.server.refused = {"a", "p"}
    bench.backlog.add(make_run("a"))
    bench.run_for(5)
    bench.backlog.add(make_run("p"))
    bench.backlog.add(make_run("b", parent_key="p"))
    bench.server.refused = {"p"}
    bench.backlog.flush()
    assert bench.server.published == ["b", "a"]


def test_newer_state_of_a_refused_run_is_tried_at_once() -> None:
    """It replaces the refused one, and does not wait for its time."""
    bench = Bench()
    bench.server.refused = {"a"}
    bench.backlog.add(make_run("a"))
    bench.run_for(5)
    bench.server.refused = set()
    bench.backlog.add(make_run("a", name="newer"))
    assert bench.backlog.wait_s() == 0
    bench.run_for(100)
    assert bench.server.published == ["a"]
    assert bench.backlog.wait_s() is None


def test_time_to_choose_does_not_grow_with_the_queue() -> None:
    """The next MLflow run is chosen in as many calls among 5,000 as among 5."""
    assert _num_calls_to_publish(5000, refused=False) == _num_calls_to_publish(5, refused=False)
    assert _num_calls_to_publish(5000, refused=True) == _num_calls_to_publish(5, refused=True)


def _num_calls_to_publish(num_waiting: int, *, refused: bool) -> int:
    """Returns the Python calls of one round of the publisher, with so many MLflow runs waiting."""
    bench = Bench()
    keys = [f"run{number}" for number in range(num_waiting)]
    for key in keys:
        bench.backlog.add(make_run(key))
    if refused:
        bench.server.refused = set(keys)
        for _ in keys:
            bench.backlog.step()
        bench.server.refused = set()
        bench.now_s += MAX_WAIT_S
    calls: list[str] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        # Only the project's: a garbage collection in between calls functions of other packages.
        if event == "call" and frame.f_globals["__name__"].startswith("orchestrator."):
            calls.append(event)

    sys.setprofile(note)
    try:
        bench.backlog.wait_s()
        bench.backlog.step()
    finally:
        sys.setprofile(None)
    assert len(bench.server.published) == 1
    return len(calls)


def test_refused_run_is_named_until_it_is_published() -> None:
    """Later successes do not hide it; several refused ones are counted."""
    bench = Bench()
    bench.server.refused = {"a", "b"}
    for key in "abcd":
        bench.backlog.add(make_run(key))
    bench.run_for(100)
    assert bench.states()[-1] == "refused: a: ValueError: bad request (and 1 more)"
    bench.server.refused = {"b"}
    bench.backlog.flush()
    assert bench.states()[-1] == "refused: b: ValueError: bad request"
    bench.server.refused = set()
    bench.backlog.flush()
    assert bench.states()[-1] == "ok"


def test_flush_tries_a_refused_run_a_second_time() -> None:
    """One broken connection does not leave an MLflow run to the next session."""
    bench = Bench()
    bench.server.num_broken_calls = 1
    for key in "ab":
        bench.backlog.add(make_run(key))
    bench.backlog.flush()
    assert sorted(bench.server.published) == ["a", "b"]


def test_one_broken_connection_is_no_outage() -> None:
    """A server that closes a connection after an error fails one call, not the next."""
    bench = Bench()
    bench.server.num_broken_calls = 2  # the run's own, and the first look at the server
    bench.backlog.add(make_run("a"))
    bench.run_for(10)
    assert bench.states() == ["refused: a: ConnectionResetError: broken", "ok"]


def test_flush_stops_at_a_server_that_does_not_answer() -> None:
    """A thousand MLflow runs cost one call that times out, not a thousand."""
    bench = Bench()
    bench.server.up = False
    for number in range(1000):
        bench.backlog.add(make_run(f"run{number}"))
    bench.backlog.flush()
    assert len(bench.replies) == 1
    bench.server.up = True
    bench.run_for(MAX_WAIT_S)
    assert len(bench.server.published) == 1000


def test_experiment_that_cannot_be_opened_counts_as_an_outage() -> None:
    """A database that is not writable yet is retried like a server that is down."""
    answers = [OSError("read-only"), OSError("read-only")]

    def open_experiment() -> Server:
        if answers:
            raise answers.pop()
        return server

    server = Server()
    bench = Bench(open_experiment=open_experiment)
    bench.backlog.add(make_run("a"))
    bench.run_for(60)
    assert bench.states() == ["unreachable: OSError: read-only", "ok"]
    assert server.published == ["a"]
