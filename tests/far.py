"""A remote machine for the tests: a real sshd in separate network, mount, process and host-name namespaces.

It has another user with an empty home. The local clone, home and /tmp are not visible in it. The packages of the
environment are mounted read-only at /opt/env, so that tests need not build 5 GB each, but labrun cannot be imported
from there. Requires root, iproute2, unshare and sshd (`tests/storage/install`).
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import re
import shutil
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from labrun.remote import environment, remotes, ssh
from servers import sshd_command

USER = "far"
PYTHON = "/opt/env/bin/python"
PACKAGES = f"/opt/env/{Path(sysconfig.get_path('purelib')).relative_to(sys.prefix)}"
"""Folder of the environment's packages on the machine."""

UV = environment.local_uv()
"""The real uv, which a machine has as `/opt/uv`, where no command finds it: see `far_project.small_uv`."""

SETUP = r"""
set -eu
hostname {host}
mount --make-rprivate /
mount -t proc proc /proc
mkdir -p {stage}/opt/env/bin {stage}/opt/env/{site} {stage}/opt/python {stage}/opt/ssh {stage}/etc
mount --bind {base} {stage}/opt/python
mount --bind {packages} {stage}/opt/env/{site}
mount -o remount,bind,ro {stage}/opt/env/{site}
ln -sfn /opt/python/bin/{python} {stage}/opt/env/bin/python
printf 'home = /opt/python/bin\ninclude-system-site-packages = false\n' > {stage}/opt/env/pyvenv.cfg
cp {stage}/host {stage}/authorized {stage}/sshd_config {stage}/opt/ssh/
cp {stage}/banner {stage}/opt/ssh/
{uv}
mount --rbind {stage}/opt /opt
{found}
grep -v '^{user}:' /etc/passwd > {stage}/etc/passwd || true
echo '{user}:x:{uid}:{gid}::/home/{user}:{shell}' >> {stage}/etc/passwd
grep -v '^{user}:' /etc/group > {stage}/etc/group || true
echo '{user}:x:{gid}:' >> {stage}/etc/group
chmod 644 {stage}/etc/passwd {stage}/etc/group
mount --bind {stage}/etc/passwd /etc/passwd
mount --bind {stage}/etc/group /etc/group
(cat /etc/hosts; echo '127.0.0.1 {host}') > {stage}/etc/hosts
mount --bind {stage}/etc/hosts /etc/hosts
mkdir -p /run/sshd
mount -t tmpfs -o size={home_size} tmpfs /home
mkdir /home/{user}
chown {uid}:{gid} /home/{user}
{more}
for hidden in {hidden}; do mount -t tmpfs -o mode=1777 tmpfs $hidden; done
{library}
for name in {leftovers}; do mount -t tmpfs tmpfs /opt/env/{site}/$name; done
cd /
{sshd} -D -e -f /opt/ssh/sshd_config &
sleep infinity &
wait
"""
FOUND = """
mkdir {stage}/games
ln -s /opt/python/bin/python3* {stage}/games
mount --bind {stage}/games /usr/games
"""
CONFIG = """ListenAddress {address}
HostKey /opt/ssh/host
PidFile none
StrictModes no
AuthorizedKeysFile /opt/ssh/authorized
PasswordAuthentication no
UsePAM {pam}
Subsystem sftp internal-sftp
Banner /opt/ssh/banner
{more}
"""


@dataclass
class Far:
    """A remote machine.

    Args:
        folder: local folder for its keys, logs and similar files.
        number: number of its network.
        shell: login shell of its user.
        sshd: additional lines for its sshd configuration.
        profile: lines for the user's `.bashrc`.
        home_size: size of the disk with its home folder.
        more: additional shell commands for its setup.
        uid: id of its user.
        gid: id of its user's group.
        uses_pam: whether sshd uses PAM.
    """

    folder: Path
    number: int
    shell: str = "/bin/bash"
    sshd: str = ""
    profile: str = ""
    home_size: str = "4g"
    more: str = ""
    uid: int = 4242
    gid: int = 4242
    uses_pam: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def namespace(self) -> str:
        return f"lr{os.getpid() % 100000}n{self.number}"

    @property
    def link(self) -> str:
        return f"lr{os.getpid() % 100000}v{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.{self.number}.2"

    @property
    def gateway(self) -> str:
        """Local address on its link."""
        return f"10.77.{self.number}.1"

    @property
    def sockets(self) -> Path:
        """Folder for ssh's control sockets; the path must be short."""
        return Path(f"/tmp/lr{os.getpid()}n{self.number}")

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    def _make_keys(self) -> None:
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)], check=True)
        shutil.copy(self.folder / "user.pub", self.folder / "authorized")
        public = (self.folder / "host.pub").read_text().split()
        (self.folder / "known_hosts").write_text(f"{self.address} {public[0]} {public[1]}\n")
        self.ssh_config.write_text(
            f"Host box\n  HostName {self.address}\n  User {USER}\n  IdentityFile {self.folder}/user\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {self.folder}/known_hosts\n  StrictHostKeyChecking yes\n"
        )

    def make(self) -> None:
        """Create its network and keys, once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_keys()
        (self.folder / "sshd_config").write_text(
            CONFIG.format(address=self.address, pam="yes" if self.uses_pam else "no", more=self.sshd)
        )
        (self.folder / "banner").write_text("This machine is for tests alone.\n")
        for words in (
            f"netns add {self.namespace}",
            f"link add {self.link} type veth peer name eth0 netns {self.namespace}",
            f"addr add {self.gateway}/30 dev {self.link}",
            f"link set {self.link} up",
            f"-n {self.namespace} addr add {self.address}/30 dev eth0",
            f"-n {self.namespace} link set eth0 up",
            f"-n {self.namespace} link set lo up",
        ):
            subprocess.run(["ip", *words.split()], check=True)

    def start(self) -> None:
        """Boot the machine, with an empty home."""
        top = f"/{Path(__file__).resolve().parts[1]}"
        hidden = {"/tmp", top, f"/{Path.home().parts[1]}"} - {"/home", "/usr", "/opt"}
        stage = self.folder / "stage"
        stage.mkdir(exist_ok=True)
        for name in ("host", "authorized", "sshd_config", "banner"):
            shutil.copy(self.folder / name, stage / name)
        (stage / "host").chmod(0o600)
        setup = SETUP.format(
            host=f"box{self.number}",
            stage=stage,
            base=sys.base_prefix,
            packages=site.getsitepackages()[0],
            site=Path(sysconfig.get_path("purelib")).relative_to(sys.prefix),
            python=f"python3.{sys.version_info.minor}",
            user=USER,
            uid=self.uid,
            gid=self.gid,
            shell=self.shell,
            home_size=self.home_size,
            hidden=" ".join(sorted(hidden)),
            sshd=sshd_command(),
            leftovers=" ".join(p.name for p in Path(site.getsitepackages()[0]).glob("labrun*") if p.is_dir()),
            more=self.more,
            library=_library(),
            # Elsewhere, uv and others look for it on the PATH, which ends with this folder, and holds no uv.
            found="" if sys.base_prefix == "/usr" else FOUND.format(stage=stage),
            uv=f"touch {stage}/opt/uv\nmount --bind {UV} {stage}/opt/uv" if UV else "",
        )
        script = self.folder / "setup.sh"
        script.write_text(setup)
        if self.profile:
            (stage / "profile").write_text(self.profile)
            text = script.read_text().replace("for hidden", f"cp {stage}/profile /home/{USER}/.bashrc\nfor hidden")
            script.write_text(text)
        unshare = ["unshare", "--mount", "--uts", "--pid", "--ipc", "--fork", "--kill-child"]
        with open(self.folder / "sshd.log", "ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *unshare, "sh", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection((self.address, 22), 1):
                return
            assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def stop(self) -> None:
        """Switch the machine off without a shutdown."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def make_known(self, workspace: Path, monkeypatch: pytest.MonkeyPatch, **settings: str | None) -> None:
        """Add the machine to labrun's known remotes, for a local workspace.

        The tests' own folders leave the import path: commands in this process would freeze and send all of them.
        """
        repository = Path(__file__).parents[1]
        own = {str(repository), str(repository / "tests")}
        monkeypatch.syspath_prepend(str(repository))  # it notes the path to restore; a test may call it again
        sys.path[:] = [entry for entry in sys.path if entry not in own]
        monkeypatch.setenv(remotes.VARIABLE, str(self.folder / "remotes.json"))
        monkeypatch.setenv(ssh.SOCKET_VARIABLE, str(self.sockets))
        known = {"python": PYTHON, "ssh_config": str(self.ssh_config), **settings}
        packages = {
            "there": {"packages": {name: version(name) for name in environment.INFLUENTIAL}}
        }  # asking takes a second
        remotes.put(remotes.Remote("box", "box", packages=packages, **known))  # type: ignore[arg-type]
        choice = workspace / "conf" / "compute" / "remote.yaml"
        choice.parent.mkdir(parents=True, exist_ok=True)
        choice.write_text("# The pool of the box.\ndefaults:\n  - local\n  - _self_\ntarget: local\nhost: box\n")

    def set_link(self, up: bool) -> None:
        """Cut or restore the network link."""
        subprocess.run(["ip", "link", "set", self.link, "up" if up else "down"], check=True)

    def kill_sshd(self) -> None:
        """Kill sshd, both the listening process and those of its connections."""
        self.inside("pkill -9 -x sshd; while pgrep -x sshd; do sleep 0.01; done")

    def start_sshd(self) -> None:
        """Start sshd again."""
        self.inside(f"{sshd_command()} -f /opt/ssh/sshd_config -E /opt/ssh/log")

    def close(self) -> None:
        """Remove the machine completely."""
        self.stop()
        shutil.rmtree(self.sockets, ignore_errors=True)
        subprocess.run(["ip", "netns", "del", self.namespace], check=False)

    def inside(self, command: str) -> str:
        """Run a shell command on the machine as root, and return its output."""
        assert self.process is not None
        words = ["nsenter", "--target", str(self._init()), "--all", "sh", "-c", command]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout

    def as_user(self, command: str) -> list[str]:
        """Return the arguments that run a shell command on the machine as its user, with a clean environment."""
        as_user = ["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups"]
        own = ["env", "-i", f"HOME=/home/{USER}", f"USER={USER}", "PATH=/usr/local/bin:/usr/bin:/bin"]
        return ["nsenter", "--target", str(self._init()), "--all", *as_user, *own, "sh", "-c", command]

    def _init(self) -> int:
        """Return the local pid of the first process in its namespaces."""
        assert self.process is not None
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        return int(found.stdout.split()[0])


class Line:
    """A TCP proxy with optional latency and occasional stalls of a second.

    It is used because the kernel may have neither `netem` nor address translation. Packet loss appears in TCP only as
    delay, so stalls simulate it.

    Args:
        target: address and port to which connections are forwarded.
        at: address and port to listen on; port 0: any free port.
        late_s: one-way latency in seconds.
        stall_every: one in this many chunks is delayed by another second; 0: none.
    """

    def __init__(
        self, target: tuple[str, int], at: tuple[str, int] = ("127.0.0.1", 0), late_s: float = 0.0, stall_every: int = 0
    ) -> None:
        self._target, self._late_s, self._stall_every = target, late_s, stall_every
        self._server = socket.create_server(at)
        self.port, self.stalls = self._server.getsockname()[1], 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                distant = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            for source, sink in ((near, distant), (distant, near)):
                late: queue.Queue[tuple[float, bytes]] = queue.Queue()
                threading.Thread(target=self._take, args=(source, late), daemon=True).start()
                threading.Thread(target=self._give, args=(sink, late), daemon=True).start()

    def _take(self, source: socket.socket, late: queue.Queue[tuple[float, bytes]]) -> None:
        content = b"-"
        while content:
            try:
                content = source.recv(1 << 16)
            except OSError:
                content = b""
            late.put((time.monotonic() + self._late_s, content))

    def _give(self, sink: socket.socket, late: queue.Queue[tuple[float, bytes]]) -> None:
        given = 0
        while True:
            moment, content = late.get()
            given += 1
            if self._stall_every and given % self._stall_every == 0:
                self.stalls += 1
                moment += 1.0
            time.sleep(max(0.0, moment - time.monotonic()))
            with contextlib.suppress(OSError):
                if not content:
                    return sink.shutdown(socket.SHUT_WR)
                sink.sendall(content)

    def close(self) -> None:
        """Stop accepting connections."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


SRUN_PORTS = 24
"""Number of ports on which `srun` on a login node listens for responses."""


@contextlib.contextmanager
def cluster_beside(far: Far) -> Iterator[None]:
    """In the context, make the test cluster reachable from a login node over its link.

    The daemons listen only on the local loopback interface. So their ports are forwarded from the link, and those of
    `srun` from the loopback; the login node's `slurm.conf` is adapted. Enter the context before starting the node.
    """
    conf = Path("/etc/slurm/slurm.conf").resolve()
    text = conf.read_text()
    ends = re.findall(r"\bPort=(\d+)-(\d+)", text)
    ports = [int(one) for one in re.findall(r"^(?:SlurmctldPort|AccountingStoragePort)=(\d+)", text, re.MULTILINE)]
    ports += [port for first, last in ends for port in range(int(first), int(last) + 1)]
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.callback(Line(("127.0.0.1", port), (far.gateway, port)).close)
        srun = _srun_lines(far, stack)
        text = re.sub(
            r"^CommunicationParameters=.*$", f"SrunPortRange={srun}-{srun + SRUN_PORTS - 1}", text, flags=re.MULTILINE
        )
        (far.folder / "slurm.conf").write_text(text.replace("127.0.0.1", far.gateway))
        far.more += f"\nmount --bind {far.folder}/slurm.conf {conf}"
        yield


def _srun_lines(far: Far, stack: contextlib.ExitStack) -> int:
    """Forward a range of local ports to the same ports of a login node, and return the first."""
    while True:
        first = random.randrange(20000, 32000)
        with contextlib.ExitStack() as lines, contextlib.suppress(OSError):
            for port in range(first, first + SRUN_PORTS):
                lines.callback(Line((far.address, port), ("127.0.0.1", port)).close)
            stack.enter_context(lines.pop_all())
            return first


def _library() -> str:
    """Make the interpreter's shared library visible where the linker looks for it, if the interpreter has one."""
    place = str(sysconfig.get_config_var("LIBDIR"))
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") or place.startswith("/usr/"):
        return ""
    return f"mkdir -p {place}\nmount --bind /opt/python/lib {place}"


@contextlib.contextmanager
def shared_folder(number: int, far_user: tuple[int, int]) -> Iterator[Path]:
    """Create a folder shared by a login node and the nodes of the test cluster, which are this machine.

    `home` is the user's home, and `env/bin/python` an interpreter with the packages.
    """
    top = Path(f"/srv/labrun-far-{os.getpid()}-{number}")
    packages = top / "env" / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    mounts = {top / "python": sys.base_prefix, packages: site.getsitepackages()[0]}
    try:
        (top / "home").mkdir(parents=True)
        os.chown(top / "home", *far_user)
        for place, source in mounts.items():
            place.mkdir(parents=True)
            subprocess.run(["mount", "--bind", source, str(place)], check=True)
        (top / "env" / "bin").mkdir()
        (top / "env" / "bin" / "python").symlink_to(top / "python" / "bin" / f"python3.{sys.version_info.minor}")
        (top / "env" / "pyvenv.cfg").write_text(f"home = {top}/python/bin\ninclude-system-site-packages = false\n")
        yield top
    finally:
        for place in mounts:
            subprocess.run(["umount", "--lazy", str(place)], check=False)
        if not any(os.path.ismount(place) for place in mounts):
            shutil.rmtree(top, ignore_errors=True)


def why_unavailable() -> str | None:
    """Return why a remote machine cannot be created on this system; None if it can."""
    if os.getuid() != 0:
        return "needs root, for namespaces"
    if sshd_command() is None or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        return "needs sshd, iproute2 and util-linux: tests/storage/install"
    done = subprocess.run(["unshare", "--mount", "--uts", "--pid", "--fork", "true"], capture_output=True, check=False)
    return None if done.returncode == 0 else "namespaces are not allowed here"


def free_port() -> int:
    """Return a free port of the local loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def free_number() -> int:
    """Return the number of an unused network."""
    taken = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    return next(n for n in random.sample(range(1, 250), 249) if f"10.77.{n}." not in taken)


@contextlib.contextmanager
def machine(folder: Path, is_login_node: bool = False, **settings: Any) -> Iterator[Far]:
    """Run a remote machine during the context, optionally as a login node of the test cluster."""
    far = Far(folder, free_number(), **settings)
    with contextlib.ExitStack() as stack:
        stack.callback(far.close)
        far.make()
        if is_login_node:
            stack.enter_context(cluster_beside(far))
        far.start()
        yield far
