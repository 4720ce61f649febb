"""Runs a study on a Ray cluster of three hosts, cuts one off, kills the head, and submits again.

Run it as root, because hosts are network namespaces: `python tests/chaos/across_hosts.py [--keep]`.
The study must end with the same bytes as `mergesweep run` with the same file on one machine.
"""

import argparse
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from chaos import NAME, STUDY
from checks import CheckError, check_no_orphans, compare, read_ending, wait_for_publishers
from hosts import Host, network
from parts import (
    NotReadyError,
    Part,
    run_in_folder,
    wait_until_ready,
)
from servers import program
from surroundings import Surroundings, started_surroundings

from workers.store.opening import open_store

_PATIENCE_S = 900.0
_READY_S = 300.0
_STARTED = "Ray runtime started"
_PORT, _DASHBOARD = 6379, 8265
_STEPS = [400, 1200]
"""Step counts. A trial must still run when the cluster notices that its host is cut off."""
_NOTICED_S = 45.0
_NOT_FINISHED = 3
"""Exit code of `status` and `watch` for a study with jobs left to run."""
_DRIVER_DEAD = "its driver seems dead"
_WATCH_LINE = f"{NAME}: ["
_CLUSTER_SETTINGS = {
    # As in all manifests of deploy/: a silent host is noticed after half a minute.
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
    "RAY_AUTH_MODE": "token",
    # One machine runs four hosts, so that the dashboard starts slowly.
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "180",
}


@dataclass(kw_only=True)
class Events:
    """Prints events with the time since the start."""

    _began_s: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Prints an event."""
        print(f"{time.monotonic() - self._began_s:6.0f} s  {text}", flush=True)  # noqa: T201 its output

    def wait(self, holds: Callable[[], bool], *, event: str, every_s: float = 0.5) -> None:
        """Waits until a condition holds, then prints the event and how long it took.

        Raises:
            NotReadyError: The condition does not hold in time.
        """
        started_s = time.monotonic()
        while not holds():
            if time.monotonic() - started_s > _PATIENCE_S:
                raise NotReadyError(f"{_PATIENCE_S:.0f} s have passed without: {event}")
            time.sleep(every_s)
        self.say(f"{event} (after {time.monotonic() - started_s:.0f} s)")


@dataclass(kw_only=True)
class Cluster:
    """A Ray head and two workers, each on its own host with one core."""

    hosts: list[Host]
    folder: Path
    environment: Mapping[str, str]
    _nodes: dict[str, Part] = field(default_factory=dict, init=False)
    _num_starts: int = field(default=0, init=False)

    @property
    def address(self) -> str:
        """The address of the Jobs API, on the head's host."""
        return f"http://{self.hosts[0].address}:{_DASHBOARD}"

    def start(self, host: Host) -> Part:
        """Starts Ray on a running host and waits until the node has joined the cluster.

        Raises:
            NotReadyError: The node does not join in time.
        """
        self._num_starts += 1
        head = self.hosts[0]
        join = ["--address", f"{head.address}:{_PORT}"]
        dashboard = ["--dashboard-host", head.address, "--dashboard-port", str(_DASHBOARD)]
        lead = ["--head", "--port", str(_PORT), "--include-dashboard", "true", *dashboard]
        scratch = self.folder / f"r{self._num_starts}"  # short, because socket paths contain it
        command = [
            *[program("ray"), "start", "--block", *(lead if host is head else join)],
            *["--node-ip-address", host.address, "--num-cpus", "1", "--temp-dir", str(scratch)],
            *["--object-store-memory", "150000000", "--disable-usage-stats"],
        ]
        cache = {"MERGESWEEP_CACHE": str(self.folder / f"{host.name}-cache")}
        node = Part(
            f"ray-{host.name}-{self._num_starts}",
            host.command(command),
            environment={**self.environment, **cache},
            folder=self.folder,
        )
        if host.name in self._nodes:
            self._nodes[host.name].kill()
        self._nodes[host.name] = node
        node.start()
        wait_until_ready(node, lambda: node.has_printed(_STARTED), timeout_s=_READY_S)
        return node

    def kill(self) -> None:
        """Kills every node."""
        for node in self._nodes.values():
            node.kill()


@dataclass(kw_only=True)
class Terminal:
    """A terminal on a machine that is not part of the cluster."""

    folder: Path
    environment: Mapping[str, str]

    def start(self, *arguments: str, name: str) -> Part:
        """Starts a command of mergesweep."""
        command = [program("mergesweep"), *arguments]
        part = Part(name, command, environment=self.environment, folder=self.folder)
        part.start()
        return part

    def run(self, *arguments: str, name: str = "") -> str:
        """Runs a command of mergesweep to its end; returns its output.

        Raises:
            CheckError: The command ends with another code than 0, or not in time.
        """
        part = self.start(*arguments, name=name or arguments[0])
        return wait_for_end(part, " ".join(arguments))


def wait_for_end(part: Part, what: str, *, code: int = 0) -> str:
    """Waits until a command ends; returns its output.

    Raises:
        CheckError: The command ends with another exit code, or not in time.
    """
    deadline_s = time.monotonic() + _PATIENCE_S
    while (found := part.poll()) is None and time.monotonic() < deadline_s:
        time.sleep(0.5)
    part.kill()
    if found != code:
        raise CheckError(f"{what} ended with {found}, not {code}:\n{part.tail(40)}")
    return part.text()


def run_on_one_machine(folder: Path, *, environment: Mapping[str, str]) -> str:
    """Runs the study on this machine alone; returns the folder of its store."""
    home = folder / "one-machine"
    write_study(home, store=str(home / "store"))
    cache = {"MERGESWEEP_CACHE": str(home / "cache")}
    terminal = Terminal(folder=home, environment={**environment, **cache})
    terminal.run("run", "study.yaml")
    return str(home / "store")


def write_study(folder: Path, **fields: str) -> None:
    """Writes the study file with other fields, such as the store."""
    folder.mkdir()
    study = yaml.safe_load(STUDY.read_text("utf-8")) | fields
    study["finetune"]["axes"]["steps"] = _STEPS
    (folder / "study.yaml").write_text(yaml.safe_dump(study))


def disturb(cluster: Cluster, *, terminal: Terminal, around: Surroundings, events: Events) -> None:
    """Submits, watches, cuts off the third host, powers off the head, and submits again."""
    head, second, third = cluster.hosts
    for host in cluster.hosts:
        cluster.start(host)
    events.say("three hosts have joined")
    said = terminal.run("submit", "study.yaml", name="submit-1")
    events.say(said.strip().splitlines()[1])
    watch = terminal.start("watch", NAME, name="watch")
    store = around.s3

    def num_committed() -> int:
        return sum(key.endswith("/manifest.json") for key in store.keys(f"{NAME}/artifacts/"))

    def num_in_flight() -> int:
        return len({key.split("/")[2] for key in store.keys(f"{NAME}/in-flight/")})

    events.wait(lambda: num_in_flight() >= len(cluster.hosts), event="every host has a checkpoint")
    third.cut()
    cut_s, before = time.monotonic(), num_committed()
    events.say(f"{third.name} is cut off; {before} artifacts exist")
    events.wait(
        lambda: num_committed() >= before + 3 and time.monotonic() > cut_s + _NOTICED_S,
        event=f"three more artifacts, and {_NOTICED_S:.0f} s to notice",
    )
    head.power_off()
    events.say(f"{head.name}, the head, is powered off; {num_committed()} artifacts exist")
    watched = wait_for_end(watch, "watch", code=_NOT_FINISHED)
    if not all(text in watched for text in (_WATCH_LINE, _DRIVER_DEAD)):
        raise CheckError(f"watch did not report the dead driver:\n{watched}")
    events.say(f"watch ends: {_DRIVER_DEAD}")
    third.heal()
    head.boot()
    for host in (head, second, third):
        cluster.start(host)
    events.say("three hosts have joined a new cluster")
    waited = terminal.run("submit", "study.yaml", "--wait", name="submit-2")
    events.say("submitted again; the study is finished")
    if "accuracy in %" not in waited:
        raise CheckError(f"submit printed no table at the end:\n{waited}")
    watched = terminal.run("watch", NAME, name="watch-2")
    events.say(f"watch: {watched.strip().splitlines()[-1]}")


def compare_with_one_machine(home: str, *, terminal: Terminal, around: Surroundings) -> int:
    """Compares everything that both studies made; returns the number of artifacts."""
    url = around.s3.url(NAME)
    terminal.run("verify", NAME, "--store", url)
    terminal.run("gc", "--store", url, "--min-age", "0", "--delete")
    wait_for_publishers()
    store = open_store(url)
    check_no_orphans(store)
    tracking = f"sqlite:///{home}/mlflow.db"
    expected = read_ending(open_store(home), study=NAME, tracking=tracking)
    found = read_ending(store, study=NAME, tracking=around.mlflow.url)
    compare(found, expected=expected)
    return len(found.artifacts)


def main() -> int:
    """Runs the command line; returns 1 if the study ended differently."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="keep logs and stores in any case")
    arguments = parser.parse_args()
    events = Events()

    def run_there(folder: Path) -> bool:
        folder.chmod(0o755)
        with network(4, folder=folder) as hosts:
            *cluster_hosts, server_host = hosts
            with started_surroundings(folder, place=server_host) as around:
                events.say("S3 and MLflow on PostgreSQL answer on the fourth host")
                return run(cluster_hosts, folder=folder, around=around, events=events)

    return run_in_folder(run_there, prefix="mh-", keep=arguments.keep)


def run(hosts: list[Host], *, folder: Path, around: Surroundings, events: Events) -> bool:
    """Runs the study on one machine and on the hosts; returns whether both ended alike."""
    os.environ.update(around.environment)  # this process reads the store as well
    # Other processes would starve workers with Ray's default niceness.
    environment = {**around.environment, "RAY_worker_niceness": "0"}
    home = run_on_one_machine(folder, environment=environment)
    events.say("the study has run on one machine")
    settings = {**_CLUSTER_SETTINGS, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    cluster = Cluster(hosts=hosts, folder=folder, environment={**environment, **settings, **path})
    away = folder / "away"
    write_study(away, store=around.s3.url(NAME), tracking=around.mlflow.url)
    terminal = Terminal(
        folder=away,
        environment={
            **around.environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": settings["RAY_AUTH_TOKEN"],
            "RAY_API_SERVER_ADDRESS": cluster.address,
        },
    )
    try:
        disturb(cluster, terminal=terminal, around=around, events=events)
        number = compare_with_one_machine(home, terminal=terminal, around=around)
    except (CheckError, NotReadyError) as error:
        events.say(f"FAILED: {error}")
        return False
    finally:
        cluster.kill()
    events.say(f"{number} artifacts, both tables and all MLflow runs equal those of one machine")
    return True


if __name__ == "__main__":
    sys.exit(main())
