"""The job script: with a real Slurm where there is one, and what it hands to srun where there is none."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny

SCRIPT = tiny.ROOT / "launch/slurm/pretrain.sbatch"
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
STEPS = 60

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
KillWait=10
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
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

    def submit(self, config: Path) -> str:
        """Queue the job script on both nodes; returns the job's number."""
        size = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"]
        log = f"--output={self.folder}/job-%j.log"
        return self.ask("sbatch", "--parsable", *size, log, str(SCRIPT), str(config)).strip()

    def field(self, job: str, name: str) -> str:
        fields = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return dict(field.split("=", 1) for field in fields if "=" in field).get(name, "")

    def log(self, job: str) -> str:
        return (self.folder / f"job-{job}.log").read_text()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = [name for name in DAEMONS if not shutil.which(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: install the packages slurm-wlm and munge")
    if os.geteuid() != 0:
        pytest.skip("a Slurm cluster can only be started by root")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shard_set(tmp_path_factory.mktemp("sets") / "a", 100)


def run_of(folder: Path, shards: Path, **changes) -> Path:
    values = tiny.run_config(folder / "run", {"a": shards}, training__steps=STEPS, **changes)
    return tiny.write_config(folder / "run.yaml", values)


def test_a_job_told_to_stop_requeues_itself_and_gives_the_losses_of_the_deepspeed_launcher(
    cluster, shards, tmp_path
):
    run = tmp_path / "job" / "run"
    job = cluster.submit(run_of(tmp_path / "job", shards))
    metrics = run / "metrics.jsonl"
    tiny.wait_for(lambda: metrics.exists() and len(metrics.read_bytes().splitlines()) > 4)
    cluster.ask("scancel", "--signal=USR1", job)
    uninterrupted = tiny.launch(run_of(tmp_path / "reference", shards))
    assert uninterrupted.returncode == 0, uninterrupted.stderr[-3000:]
    tiny.wait_for(lambda: cluster.field(job, "JobState") in ("COMPLETED", "FAILED"))
    log = cluster.log(job)
    assert (cluster.field(job, "JobState"), cluster.field(job, "Restarts")) == ("COMPLETED", "1"), (
        log
    )
    assert f"job {job}, start 2" in log
    assert "by SIGUSR1" in log
    assert f"{run} is done at step {STEPS}" in log
    assert tiny.losses(run) == tiny.losses(tmp_path / "reference" / "run")  # bit for bit


def test_a_wrong_config_ends_the_job_with_one_line_and_2(cluster, shards, tmp_path):
    job = cluster.submit(run_of(tmp_path, shards, optimizer__learning_rat=1))
    tiny.wait_for(lambda: cluster.field(job, "JobState") == "FAILED", 30)
    assert cluster.field(job, "ExitCode") == "2:0"
    (line,) = cluster.log(job).splitlines()
    assert line.endswith("optimizer.learning_rat: unknown key; did you mean learning_rate?")


# Runs the command as two tasks on two nodes would, but for what the test looks at.
STUB_SRUN = """#!/usr/bin/env bash
echo "$@" > "$STUB/arguments"
while [[ $1 == --* ]]; do shift; done
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=0 SLURM_NTASKS=2 "$@" || exit
done
"""
STUB_SCONTROL = """#!/usr/bin/env bash
case "$*" in
  "show hostnames n[3-4]") printf 'n3\\nn4\\n' ;;
  "--oneliner show node n3") echo "NodeName=n3 NodeAddr=10.0.0.3 NodeHostName=n3" ;;
  *) exit 1 ;;
esac
"""
STUB_PYTHON = """#!/usr/bin/env bash
if [ "$1" = -m ]; then exec "$REAL_PYTHON" "$@"; fi
echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $OMP_NUM_THREADS $*" >> "$STUB/ranks"
"""


def test_every_task_gets_its_rank_and_a_job_that_trained_nothing_fails(shards, tmp_path):
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    for name, text in {"srun": STUB_SRUN, "scontrol": STUB_SCONTROL, "py": STUB_PYTHON}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    config = run_of(tmp_path, shards)
    environment = {name: text for name, text in tiny.ENVIRONMENT.items() if "SLURM" not in name}
    del environment["OMP_NUM_THREADS"]
    job = {"JOB_ID": "10007", "JOB_NODELIST": "n[3-4]", "NNODES": "2", "CPUS_PER_TASK": "3"}
    environment |= {f"SLURM_{name}": value for name, value in job.items()}
    environment |= {"SLURM_SUBMIT_DIR": str(tiny.ROOT), "STUB": str(tmp_path)}
    environment |= {"REAL_PYTHON": sys.executable, "BIOMED_PYTHON": str(tmp_path / "py")}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    ended = subprocess.run(
        ["bash", str(SCRIPT), str(config), "--seed", "3"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    expected = f"2 10.0.0.3 20007 3 launch/pretrain.py --config {config} --seed 3"
    assert (tmp_path / "ranks").read_text().splitlines() == [f"0 0 {expected}", f"1 0 {expected}"]
    assert "--cpus-per-task=3" in (tmp_path / "arguments").read_text()
    assert ended.returncode == 1, ended.stderr
    assert "srun ended with 0" in ended.stdout
    assert "did not start" in ended.stdout
