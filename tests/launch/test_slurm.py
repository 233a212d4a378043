"""The job script: with a real Slurm where there is one, and what it hands to srun where there is none."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.slurm_cluster import Cluster, running

SCRIPT = tiny.ROOT / "launch/slurm/pretrain.sbatch"
STEPS = 60


class JobCluster(Cluster):
    """A cluster to which the job script is submitted."""

    def submit(self, config: Path) -> str:
        """Queue the job script on both nodes; returns the job's number."""
        size = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"]
        log = f"--output={self.folder}/job-%j.log"
        return self.ask("sbatch", "--parsable", *size, log, str(SCRIPT), str(config)).strip()

    def log(self, job: str) -> str:
        return (self.folder / f"job-{job}.log").read_text()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, communication_op) -> Iterator[JobCluster]:
    with running(JobCluster, tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


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

    def has_begun() -> bool:
        assert cluster.field(job, "JobState") != "FAILED", cluster.log(job)
        return metrics.exists() and len(metrics.read_bytes().splitlines()) > 4

    tiny.wait_for(has_begun)
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
