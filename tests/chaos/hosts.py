"""Hosts on this machine: network namespaces on a bridge, each with processes and memory of its own.

Needs root, `ip`, `nsenter`, `unshare` and `setpriv`. A host's link is cut without a word to anyone,
its power goes with all its processes at once.
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
"""Where this machine is on the bridge."""
_TOOLS = ("ip", "iptables", "nsenter", "unshare", "setpriv")
_PASS = ("FORWARD", "-i", _BRIDGE, "-o", _BRIDGE, "-j", "ACCEPT")
"""Where Docker runs, packets pass no bridge but its own."""
_BOOT_S = 10.0
_BOOT = (
    'hostname "$0" && mount -t proc proc /proc && mount -t tmpfs -o size=1g tmpfs /dev/shm'
    " && { sleep infinity & wait; }"
)
"""What a host's first process does: it waits for the orphans that it inherits, and when it is
killed the kernel kills all others of the host."""


@dataclass(kw_only=True)
class Host:
    """One host, on until its power goes."""

    name: str
    address: str
    folder: Path
    """Where its commands run; hosts share the file system."""
    _init: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _pid: int = field(default=0, init=False)

    def boot(self) -> None:
        """Switches the host on; nothing of its last life runs."""
        unshare = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child"]
        self._init = subprocess.Popen(
            [*["ip", "netns", "exec", self.name], *unshare, "bash", "-c", _BOOT, self.name],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # its complaint that its child was killed
            start_new_session=True,
        )
        deadline_s = time.monotonic() + _BOOT_S
        while not (first := _first_process(self._init.pid)):
            assert time.monotonic() < deadline_s, f"{self.name} does not boot"
            time.sleep(0.05)
        self._pid = first

    def command(self, command: Sequence[str], *, user: str | None = None) -> list[str]:
        """Returns what runs a command on the host, which must be on."""
        spaces = ["nsenter", "--target", str(self._pid), "--net", "--uts", "--mount", "--pid"]
        return [*spaces, f"--wdns={self.folder}", "--", *as_user(command, user=user)]

    def cut(self) -> None:
        """Takes the host off the network: packets vanish, no connection is closed."""
        _ip("link", "set", self.link, "down")

    def heal(self) -> None:
        """Puts it back."""
        _ip("link", "set", self.link, "up")

    @property
    def link(self) -> str:
        """The end of its cable at the bridge."""
        return f"ms-{self.name}"

    def power_off(self) -> None:
        """Kills every process of the host at once."""
        if self._init is not None:
            os.kill(self._pid, signal.SIGKILL)
            self._init.wait()
            self._init = None


@contextlib.contextmanager
def network(num_hosts: int, *, folder: Path) -> Iterator[list[Host]]:
    """Makes hosts that reach each other and this machine; takes all away at the end."""
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
            _ip("link", "delete", host.link, is_checked=False)  # at once; else when it likes
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
    """Returns the host's first process once it has done what `_BOOT` says, 0 before."""
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == "sleep":
                return int(child.ppid())
    return 0


def _ip(*arguments: str, is_checked: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=is_checked, capture_output=not is_checked)
