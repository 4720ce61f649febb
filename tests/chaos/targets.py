"""Kills workers, nodes and servers around a driver, and starts them again."""

from collections.abc import Callable
from dataclasses import dataclass, field

from faults import Fault
from nodes import Cluster
from parts import Part, kill_all, title
from surroundings import Surroundings, wait_for_cluster


@dataclass(frozen=True, kw_only=True)
class _Repair:
    at_s: float
    name: str
    start: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The parts of one study that can be killed, and their due restarts."""

    around: Surroundings
    cluster: Cluster
    _repairs: list[_Repair] = field(default_factory=list)

    def kill(self, fault: Fault, *, now_s: float) -> str | None:
        """Kills a part and returns its name; returns None if no such part runs at the moment."""
        back_s = now_s + fault.pause_s
        match fault.kind:
            case "worker":
                return self._kill_worker(fault.pick)
            case "node":
                return self._kill_node(fault.pick, back_s=back_s)
            case "head":
                return self._kill_head(back_s)
            case "s3":
                return self._kill_server(self.around.s3.part, back_s=back_s)
            case "mlflow":
                return self._kill_server(self.around.mlflow.part, back_s=back_s)
        raise AssertionError(fault.kind)

    def repair(self, now_s: float) -> list[str]:
        """Starts the parts that are due or ended by themselves; returns their names."""
        self.cluster.start_waiting()
        due = [repair for repair in self._repairs if repair.at_s <= now_s]
        for repair in due:
            self._repairs.remove(repair)
            repair.start()
        ended = [f"{name} after it ended by itself" for name in self.cluster.revive()]
        return [*(repair.name for repair in due), *ended]

    def repair_all(self) -> None:
        """Starts all parts that are down and waits until everything answers.

        Raises:
            NotReadyError: A part does not answer in time.
        """
        for repair in self._repairs:
            repair.start()
        self._repairs.clear()
        self.around.wait()
        wait_for_cluster(self.cluster)

    def _kill_worker(self, pick: float) -> str | None:
        workers = self.cluster.workers()
        if not workers:
            return None
        worker = workers[int(pick**2 * len(workers))]  # squared: prefers trials, which come first
        what = f"{title(worker)}, pid {worker.pid}"
        kill_all([worker])
        return what

    def _kill_node(self, pick: float, *, back_s: float) -> str | None:
        nodes = self.cluster.followers()
        if not nodes:
            return None
        node = nodes[int(pick * len(nodes))]
        titles = ", ".join(title(process) for process in self.cluster.workers(node))
        node.kill()
        self._repairs.append(_Repair(at_s=back_s, name=node.name, start=node.start))
        return f"{node.name} with {titles or 'no worker'}"

    def _kill_head(self, back_s: float) -> str | None:
        if not self.cluster.is_up:
            return None
        names = self.cluster.kill()
        self._repairs[:] = [each for each in self._repairs if each.name not in names]
        self._repairs.append(_Repair(at_s=back_s, name="cluster", start=self.cluster.start))
        return ", ".join(names)

    def _kill_server(self, server: Part, *, back_s: float) -> str | None:
        if not server.is_started:
            return None
        server.kill()
        self._repairs.append(_Repair(at_s=back_s, name=server.name, start=server.start))
        return server.name
