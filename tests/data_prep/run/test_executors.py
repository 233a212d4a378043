"""Slurm and Ray, real ones of two nodes on this machine, give what local processes give."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.config import CorpusConfig, Ray, Slurm
from data_prep.config_file import load_config
from data_prep.demo_corpus import unpack
from data_prep.files import read_json
from data_prep.pipeline import run
from data_prep.run.executor import Executor, deal, run_stage
from data_prep.run.local import LocalProcesses
from data_prep.units import Unit, failures, finished
from tests import tiny
from tests.data_prep.test_pipeline import content, cut_gzip, write_config
from tests.data_prep.test_units import Upper, contents
from tests.slurm_cluster import Cluster, running

STAGES = ("download", "extract", "curate")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with (
        running(Cluster, tmp_path_factory.mktemp("slurm")) as cluster,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        yield cluster


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    pytest.importorskip("ray", reason="no ray: install biomed-pretrain[ray]")
    import ray
    from ray.cluster_utils import Cluster as RayCluster

    size = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = RayCluster(True, head_node_args=size | {"include_dashboard": False})
    cluster.add_node(**size)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(params=["slurm", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "slurm":
        request.getfixturevalue("slurm")
        from data_prep.run.slurm_jobs import SlurmJobs

        return SlurmJobs(2, Slurm(mem_per_cpu_gb=1))
    from data_prep.run.ray_jobs import RayJobs

    return RayJobs(2, Ray(address=request.getfixturevalue("ray_address")))


def reasons(folder: Path) -> dict[str, str]:
    return {unit: text.splitlines()[0] for unit, text in failures(folder).items()}


def test_units_that_fail_or_die_are_told_and_the_others_end_in_the_same_bytes(
    executor, inputs, tmp_path
):
    folder = inputs(a="a", b="broken", c="c", d="deadly", **{f"u{n}": str(n) for n in range(4)})
    reports = {
        name: run_stage(Upper(folder, tmp_path / name, log=tmp_path / f"{name}.log"), on)
        for name, on in (("here", LocalProcesses(2)), ("there", executor))
    }
    assert reports["here"] == reports["there"]
    assert list(reports["there"].failed) == ["texts/b", "texts/d"]
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert "was killed" in reasons(tmp_path / "there")["texts/d"]
    facts = read_json(tmp_path / "there/run.json")
    assert (facts["executor"], facts["ran"], facts["failed"]) == (executor.name, 6, 2)
    # Each unit was worked on once, and nothing is done again.
    assert len((tmp_path / "there.log").read_text().split()) == 8
    assert run_stage(Upper(inputs(b="b", d="d"), tmp_path / "there"), 1).ran == [
        "texts/b",
        "texts/d",
    ]


def test_a_process_that_goes_on_to_another_run_works_by_its_settings(ray_address, inputs, tmp_path):
    from data_prep.run.ray_jobs import RayJobs

    on, folder = RayJobs(1, Ray(address=ray_address)), inputs(a="a")
    for suffix in "?!":
        assert run_stage(Upper(folder, tmp_path / "out", suffix), on).ran == ["texts/a"]
        assert (tmp_path / "out/texts/a/out").read_text() == f"A{suffix}"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo corpus with a broken file."""
    folder = tmp_path_factory.mktemp("raw")
    unpack(folder)
    cut_gzip(folder)
    return folder


def make(raw: Path, folder: Path, **settings: object) -> Path:
    """Download to curate; returns the output folder."""
    path = write_config(folder / "corpus.yaml", raw, folder / "corpus", workers=2, **settings)
    config = load_config(CorpusConfig, path)
    for stage in STAGES:
        run(stage, config, allow_failed=True)
    return config.output


@pytest.fixture(scope="module")
def made_here(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(raw, tmp_path_factory.mktemp("here"))


@pytest.mark.parametrize("kind", ["slurm", "ray"])
def test_the_demo_corpus_is_the_same_bytes_wherever_it_is_made(
    kind, raw, made_here, request, tmp_path
):
    settings: dict[str, object] = {"executor": kind}
    if kind == "slurm":
        request.getfixturevalue("slurm")
        settings["slurm"] = {"mem_per_cpu_gb": 1, "sbatch": {"comment": "a demo"}}
    else:
        settings["ray"] = {"address": request.getfixturevalue("ray_address")}
    made_there = make(raw, tmp_path, **settings)
    assert content(made_here) == content(made_there)
    assert list(failures(made_there / "extract")) == ["pubmed/pubmed26n0001"]
    assert read_json(made_there / "identify/run.json")["executor"] == kind


SLOW = (
    "import sys; from pathlib import Path; from tests.data_prep.test_units import Upper\n"
    "from data_prep.config import Slurm; from data_prep.run.slurm_jobs import SlurmJobs\n"
    "from data_prep.run.executor import run_stage\n"
    "on = SlurmJobs(2, Slurm(mem_per_cpu_gb=1))\n"
    "run_stage(Upper(Path(sys.argv[1]), Path(sys.argv[2])), on)"
)


def start(folder: Path, output: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, folder, output],
        cwd=tiny.ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    tiny.wait_for(lambda: list((output / "texts").glob(".z.*.partial/half")), 60)
    return process


def test_slurm_jobs_are_cancelled_with_their_run_and_by_the_one_after_a_killed_run(
    slurm, inputs, tmp_path
):
    from data_prep.run.slurm_jobs import SlurmJobs

    folder, output = inputs(a="a", z="slow"), tmp_path / "out"
    process = start(folder, output)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert "cancelling the Slurm job" in told
    assert not slurm.ask("squeue", "-h")
    assert not list(output.rglob("*.partial"))

    process = start(folder, output)
    process.kill()
    process.wait()
    assert slurm.ask("squeue", "-h")  # the jobs outlive it
    inputs(z="quick")
    report = run_stage(Upper(folder, output), SlurmJobs(2, Slurm(mem_per_cpu_gb=1)))
    assert report.done + report.ran == ["texts/a", "texts/z"]
    assert not list(output.rglob("*.partial"))
    assert len(finished(output)) == 2


def test_a_lost_slurm_job_leaves_its_unit_undone_with_what_slurm_says(slurm, inputs, tmp_path):
    folder, output = inputs(a="a", z="slow"), tmp_path / "out"
    process = start(folder, output)
    slurm.ask("scancel", "--user=root")
    assert process.wait(60) == 0
    assert "ended as CANCELLED" in reasons(output)["texts/z"]
    assert not list(output.rglob("*.partial"))


def test_units_are_dealt_into_shares_of_like_size():
    units = [Unit(f"u{number:03}", {}, number**2) for number in range(200)]
    shares = deal(units, 7)
    assert sorted(unit.name for share in shares for unit in share) == [u.name for u in units]
    sizes = [sum(unit.bytes for unit in share) for share in shares]
    assert max(sizes) - min(sizes) < 0.01 * max(sizes)
    assert deal(units, 7) == shares
    assert [len(share) for share in deal(units[:3], 7)] == [1, 1, 1]


def test_an_executor_that_is_not_here_is_named(tmp_path, monkeypatch, capsys):
    from data_prep.__main__ import main

    unpack(tmp_path / "raw")
    config = write_config(
        tmp_path / "corpus.yaml", tmp_path / "raw", tmp_path / "out", executor="slurm"
    )
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert main(["extract", str(config)]) == 2
    assert "executor: slurm, but this machine has no sbatch" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/lock").read_text())["pid"] == os.getpid()
