"""Several hosts on one machine: network namespaces with addresses, processes and an sshd of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from ray._common.utils import get_default_ray_temp_dir

NEEDED = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
}
"""Program -> the Debian package that it comes with."""

NETWORK = "10.99.0"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def obstacle() -> str | None:
    """Why this machine cannot hold several hosts, or None if it can. Installs what is missing where it may."""
    if sys.platform != "linux":
        return "network namespaces exist on Linux only"
    if os.geteuid() != 0 or subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode:
        return "this user may not make network namespaces; run as root"
    missing = sorted({package for program, package in NEEDED.items() if shutil.which(program, path=PATH) is None})
    if missing and shutil.which("apt-get") is not None:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            subprocess.run(["apt-get", *command], capture_output=True, check=False, timeout=300)
        missing = sorted({package for program, package in NEEDED.items() if shutil.which(program, path=PATH) is None})
    return f"not installed and not to be had by apt-get: {', '.join(missing)}" if missing else None


class Host:
    """A host: a process in a network, process list and home folder of its own. It answers to ssh at `address`."""

    def __init__(self, name: str, address: str, home: Path, network: Network) -> None:
        self.name = name
        self.address = address
        self.home = home
        self._network = network
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Boots it."""
        temporary = self.home / "ray"
        temporary.mkdir(parents=True, exist_ok=True)
        shared = Path(get_default_ray_temp_dir())
        shared.mkdir(exist_ok=True)
        # What Ray writes, and root's home, are the host's own; nothing else of the machine is hidden from it.
        own = f"mount --bind {temporary} {shared} && mount --bind {self.home / 'passwd'} /etc/passwd"
        inside = f"{own} && exec $(command -v sshd) -D -e -f {self.home / 'sshd_config'}"
        with (self.home / "sshd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.name),
                    *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"),
                    *("sh", "-c", inside),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": PATH},
            )

    def stop(self) -> None:
        """Switches it off, with all that runs on it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def processes(self, title: str) -> list[psutil.Process]:
        """Those whose command line begins with `title`, or whose program is called so."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True) if self._process else ():
            with contextlib.suppress(psutil.Error):
                if process.name() == title or " ".join(process.cmdline()).startswith(title):
                    found.append(process)
        return found

    def cut_off(self) -> None:
        """Pulls the network cable: nothing arrives and nothing is refused."""
        self._network.link(self, "down")

    def reconnect(self) -> None:
        """Puts the cable back."""
        self._network.link(self, "up")


class Network:
    """Hosts on one switch, which lies in a namespace of its own too: no packet leaves for the machine's own network."""

    def __init__(self, folder: Path, names: Sequence[str], programs: Path, variables: Mapping[str, str]) -> None:
        self.key = folder / "key"
        self.switch = f"switch{os.getpid()}"
        self.hosts = {
            name: Host(f"{name}{os.getpid()}", f"{NETWORK}.{number}", folder / name, self)
            for number, name in enumerate(names, start=1)
        }
        self._programs = programs
        self._variables = dict(variables)

    def __enter__(self) -> Network:
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        _run("ip", "netns", "add", self.switch)
        _run("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self.switch, "link", "set", "bridge", "up")
        Path("/run/sshd").mkdir(exist_ok=True)
        for number, host in enumerate(self.hosts.values(), start=1):
            port = f"port{number}"
            _run("ip", "netns", "add", host.name)
            _run(
                "ip",
                "link",
                "add",
                port,
                "netns",
                self.switch,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                host.name,
            )
            _run("ip", "-n", self.switch, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            _run("ip", "-n", host.name, "link", "set", "lo", "up")
            _run("ip", "-n", host.name, "link", "set", "eth0", "up")
            # Nobody answers there; but Ray finds its own address by asking which one would be used to go anywhere.
            _run("ip", "-n", host.name, "route", "add", "default", "via", f"{NETWORK}.254")
            self._set_up(host)
            host.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for host in self.hosts.values():
            host.stop()
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", self.switch], capture_output=True, check=False)

    def link(self, host: Host, state: str) -> None:
        """Sets a host's link "up" or "down"."""
        number = list(self.hosts.values()).index(host) + 1
        _run("ip", "-n", self.switch, "link", "set", f"port{number}", state)

    def run(self, name: str, *command: str, timeout: float = 120) -> str:
        """What a command on a host says; it is run directly, not through ssh.

        Raises:
            AssertionError: it fails, with what it said.
        """
        ran = subprocess.run(
            self.command(name, *command),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment(self.hosts[name]),
        )
        assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout + ran.stderr

    def command(self, name: str, *command: str) -> list[str]:
        """The command line that runs a command on a host."""
        return ["ip", "netns", "exec", self.hosts[name].name, *command]

    def environment(self, host: Host) -> dict[str, str]:
        """What programs on a host find in their environment."""
        return {"HOME": str(host.home), "PATH": f"{self._programs}:{PATH}", "TERM": "dumb", **self._variables}

    def _set_up(self, host: Host) -> None:
        host.home.mkdir(parents=True)
        host_key = host.home / "host_key"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key))
        authorized = host.home / "authorized_keys"
        shutil.copy(self.key.with_suffix(".pub"), authorized)
        variables = " ".join(f'"{key}={value}"' for key, value in self.environment(host).items())
        users = Path("/etc/passwd").read_text().splitlines()
        (host.home / "passwd").write_text(
            "".join(
                f"{user.replace(':/root:', f':{host.home}:') if user.startswith('root:') else user}\n" for user in users
            )
        )
        (host.home / ".bashrc").touch()
        (host.home / ".profile").write_text(
            f"export PATH={self._programs}:$PATH\n"
        )  # login shells begin with their own
        (host.home / "sshd_config").write_text(
            f"ListenAddress {host.address}\nHostKey {host_key}\nAuthorizedKeysFile {authorized}\nPidFile none\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nUseDNS no\n"
            f"SetEnv {variables}\n"
        )


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)
