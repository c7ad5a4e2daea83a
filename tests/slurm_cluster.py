"""A real Slurm of one node on loopback, for tests: its own keys, ports and folders; started and stopped by the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel")
CPUS = 8  # what the node says it has: jobs of these tests mostly wait
CONFIGURATION = """
ClusterName=clir
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if program(name) is None]


def program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


class Cluster:
    """A running cluster; `env` makes Slurm's commands talk to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=True).stdout

    def states(self) -> dict[str, str]:
        """job id -> state, also of those that ended in the last minutes."""
        lines = self.ask("squeue", "-h", "-t", "all", "-o", "%i|%T").splitlines()
        return dict(line.split("|") for line in lines)

    def node(self) -> str:
        return self.ask("sinfo", "-h", "-o", "%T").strip()


def until(true: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Wait for a condition; AssertionError if it does not come true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"after {seconds} s: not {what}"
        time.sleep(0.1)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that runs while the context lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    controller_port, node_port = _free_ports(2)
    text = CONFIGURATION.format(
        host=socket.gethostname(), folder=folder, controller_port=controller_port, node_port=node_port, cpus=CPUS,
        user=_user(),
    )  # fmt: skip
    (folder / "slurm.conf").write_text(text)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    running, found = list[subprocess.Popen[bytes]](), Cluster(folder)
    munge = [
        "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}", f"--seed-file={folder}/munge.seed",
        f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log",
    ]  # fmt: skip
    try:
        running.append(_start("munged", munge, found))
        until((folder / "munge.socket").exists, "munged ready")
        running.append(_start("slurmctld", ["-D", "-c"], found))
        running.append(_start("slurmd", ["-D", "-c"], found))
        until(lambda: _idle(found, running), "the node idle", 60)
        yield found
    finally:
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            found.ask("scancel", "--state=PENDING", f"--user={_user()}")
            found.ask("scancel", "--signal=KILL", "--full", f"--user={_user()}")
        for process in reversed(running):
            process.terminate()
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(name: str, arguments: Sequence[str], found: Cluster) -> subprocess.Popen[bytes]:
    with (found.folder / f"{name}.out").open("wb") as out:
        return subprocess.Popen([str(program(name)), *arguments], env=found.env, stdout=out, stderr=out)


def _idle(found: Cluster, running: Sequence[subprocess.Popen[bytes]]) -> bool:
    for process in running:
        assert process.poll() is None, f"{process.args} ended: see {found.folder}"
    try:
        return found.node() == "idle"
    except subprocess.CalledProcessError:
        return False


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports
