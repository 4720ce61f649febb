"""Makes hosts on this machine: network namespaces on a bridge, with their own processes and memory.

Needs root, `ip`, `iptables`, `nsenter`, `unshare` and `setpriv`. A host's link can be cut without
closing any connection. Its power goes off with all of its processes at once.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from parts import as_user

_BRIDGE = "mergesweep0"
_NETWORK = "10.79.0"
OUTSIDE = f"{_NETWORK}.254"
"""This machine's address on the bridge."""
_TOOLS = ("ip", "iptables", "nsenter", "unshare", "setpriv")
_PASS = ("FORWARD", "-i", _BRIDGE, "-o", _BRIDGE, "-j", "ACCEPT")
"""Firewall rule for the bridge: Docker drops packets on all bridges but its own."""
_BOOT_S = 10.0
_BOOT = (
    'hostname "$0" && mount -t proc proc /proc && mount -t tmpfs -o size=1g tmpfs /dev/shm'
    " && { sleep infinity & wait; }"
)
"""Script of a host's first process. It reaps orphans; when it is killed, the kernel kills all other
processes of the host."""


@dataclass(kw_only=True)
class Host:
    """One host."""

    name: str
    address: str
    folder: Path
    """Working directory of commands; hosts share the file system."""
    _init: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _pid: int = field(default=0, init=False)

    def boot(self) -> None:
        """Switches the host on; no process of its last boot is left."""
        unshare = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child"]
        self._init = subprocess.Popen(
            [*["ip", "netns", "exec", self.name], *unshare, "bash", "-c", _BOOT, self.name],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # hides the message that the child was killed
            start_new_session=True,
        )
        deadline_s = time.monotonic() + _BOOT_S
        while not (first := _first_process(self._init.pid)):
            assert time.monotonic() < deadline_s, f"{self.name} does not boot"
            time.sleep(0.05)
        self._pid = first

    def command(self, command: Sequence[str], *, user: str | None = None) -> list[str]:
        """Returns the command line that runs a command on the host, which must be on."""
        spaces = ["nsenter", "--target", str(self._pid), "--net", "--uts", "--mount", "--pid"]
        return [*spaces, f"--wdns={self.folder}", "--", *as_user(command, user=user)]

    def cut(self) -> None:
        """Takes the host off the network: packets vanish, and no connection is closed."""
        _ip("link", "set", self.link, "down")

    def heal(self) -> None:
        """Puts the host back on the network."""
        _ip("link", "set", self.link, "up")

    @property
    def link(self) -> str:
        """The name of the bridge's end of the host's cable."""
        return f"ms-{self.name}"

    def power_off(self) -> None:
        """Kills every process of the host at once."""
        if self._init is not None:
            os.kill(self._pid, signal.SIGKILL)
            self._init.wait()
            self._init = None


@contextlib.contextmanager
def network(num_hosts: int, *, folder: Path) -> Iterator[list[Host]]:
    """Makes hosts that reach one another and this machine; removes them at the end."""
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    assert os.geteuid() == 0, "network namespaces need root"
    assert not lacking, f"not installed: {', '.join(lacking)}"
    hosts = [
        Host(name=f"mshost{number}", address=f"{_NETWORK}.{number}", folder=folder)
        for number in range(1, num_hosts + 1)
    ]
    try:
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("address", "add", f"{OUTSIDE}/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        subprocess.run(["iptables", "-I", *_PASS], check=True)
        for host in hosts:
            _connect(host)
            host.boot()
        yield hosts
    finally:
        for host in hosts:
            host.power_off()
            # Deleting only the namespace would remove the link some time later.
            _ip("link", "delete", host.link, is_checked=False)
            _ip("netns", "delete", host.name, is_checked=False)
        subprocess.run(["iptables", "-D", *_PASS], check=False)
        _ip("link", "delete", _BRIDGE, is_checked=False)


def _connect(host: Host) -> None:
    _ip("netns", "add", host.name)
    _ip("link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    _ip("link", "set", host.link, "master", _BRIDGE, "up")
    for device in ("lo", "eth0"):
        _ip("-n", host.name, "link", "set", device, "up")
    _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
    _ip("-n", host.name, "route", "add", "default", "via", OUTSIDE)


def _first_process(pid: int) -> int:
    """Returns the pid of the host's first process once it has booted, and 0 before."""
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == "sleep":
                return int(child.ppid())
    return 0


def _ip(*arguments: str, is_checked: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=is_checked, capture_output=not is_checked)
