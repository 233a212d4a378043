"""A real Slurm cluster of two nodes on this machine, for the tests that submit jobs."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests import tiny

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")

# cred_expire is also how long a job waits after `scontrol requeue`; Slurm's default is 120 s.
SLURM_CONF = """
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,bf_interval=2,sched_interval=2
MinJobAge=300
MaxArraySize=5
KillWait=10
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000
PartitionName=all Nodes=n[0-1] Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """Two Slurm nodes on this machine, with all their files in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = tiny.ENVIRONMENT | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "BIOMED_PYTHON": sys.executable,
        }
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        folder = self.folder
        ports = [tiny.free_port() for _ in range(3)]
        conf = SLURM_CONF.format(folder=folder, host=socket.gethostname(), ports=ports)
        (folder / "slurm.conf").write_text(conf)
        (folder / "cgroup.conf").touch()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid"}
        files |= {"seed-file": "seed", "log-file": "log"}
        munge = [f"--{option}={folder}/munge.{name}" for option, name in files.items()]
        self._daemon("munged", "--foreground", "--force", *munge)
        tiny.wait_for((folder / "munge.socket").exists, 10)
        self._daemon("slurmctld", "-D", "-c")
        for node in ("n0", "n1"):
            (folder / node).mkdir()
            self._daemon("slurmd", "-D", "-N", node)
        tiny.wait_for(lambda: self.ask("sinfo", "-h", "-o", "%T %D").strip() == "idle 2", 30)

    def _daemon(self, *command: str) -> None:
        with (self.folder / "daemons.log").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
            )

    def stop(self) -> None:
        self.ask("scancel", "--user=root")
        deadline = time.monotonic() + 30
        while self.ask("squeue", "-h").strip() and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def ask(self, *command: str) -> str:
        return subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            cwd=tiny.ROOT,
            check=False,
        ).stdout

    def field(self, job: str, name: str) -> str:
        fields = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return dict(field.split("=", 1) for field in fields if "=" in field).get(name, "")


Kind = TypeVar("Kind", bound=Cluster)


@contextmanager
def running(kind: type[Kind], folder: Path) -> Iterator[Kind]:
    """A running cluster; the test is skipped with the reason where there can be none."""
    missing = [name for name in DAEMONS if not shutil.which(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: install the packages slurm-wlm and munge")
    if os.geteuid() != 0:
        pytest.skip("a Slurm cluster can only be started by root")
    cluster = kind(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
