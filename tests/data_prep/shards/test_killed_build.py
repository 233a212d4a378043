"""A build that is killed at any moment leaves no half set, and the next one makes the same bytes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from data_prep.config import CorpusConfig
from data_prep.config_file import to_yaml
from data_prep.shards.reader import ShardSet
from data_prep.shards.tools.verify import verify
from tests import tiny
from tests.data_prep.shards.curated import TEXTS, run_all

# Packs and assembles a corpus in children that die by SIGKILL at their 1st, 2nd, … change of the file system,
# until one comes to its end. Prints how many were killed.
KILLED_AGAIN_AND_AGAIN = """
import os, signal, sys
from pathlib import Path
from data_prep.config import CorpusConfig
from data_prep.config_file import load_config
from data_prep.shards.build import PackStage, ShardSetStage
from data_prep.shards.reader import ShardSet
from data_prep.units import execute, is_done

CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile", "shutil.rmtree")

def die_at(change):
    count = 0
    def hook(event, arguments):
        nonlocal count
        writes = event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wax"
        if writes or event in CHANGES:
            count += 1
            if count == change:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def build(config):
    for make in (PackStage, ShardSetStage):
        stage = make(config)
        for unit in stage.units():
            if not is_done(stage, unit):
                execute(stage, unit)

config = load_config(CorpusConfig, Path(sys.argv[1]))
PackStage(config).prepare()  # once, and not in every child
for kills in range(1000):
    child = os.fork()
    if not child:
        die_at(1 + kills % 40)
        build(config)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    for folder in (config.output / "shards").glob("[!.]*"):
        ShardSet(folder)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
print(kills)
"""


def content(corpus: Path) -> dict[str, bytes]:
    """What stands in the corpus under final names."""
    return {
        str(path.relative_to(corpus)): path.read_bytes()
        for stage in ("pack", "shards")
        for path in (corpus / stage).glob("[!.]*/**/*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(corpus).parts)
    }


def script(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def test_killed_at_each_change_of_the_disk_it_leaves_no_half_set(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    undisturbed, killed = config(tmp_path / "undisturbed"), config(tmp_path / "killed")
    for each in (undisturbed, killed):
        run_all(each, {"words/a": TEXTS["words/a"]})
    for stage in ("pack", "shards"):
        subprocess.run(["rm", "-r", tmp_path / "killed" / stage], check=True)
    (tmp_path / "corpus.yaml").write_text(to_yaml(killed))
    ended = subprocess.run(
        script(KILLED_AGAIN_AND_AGAIN, tmp_path / "corpus.yaml"),
        cwd=tiny.ROOT,
        env=tiny.ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 20
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
    sets = list((tmp_path / "killed/shards").glob("[!.]*-*"))
    assert len(sets) == 2
    assert all(verify(folder) == [] for folder in sets)


def test_of_two_builders_of_one_folder_the_second_is_refused(tmp_path: Path, raw: Path) -> None:
    values = {
        "output": str(tmp_path / "corpus"),
        "sources": {"pubmed": {"format": "pubmed", "path": str(raw / "pubmed")}},
        "tokenizer": {"train": {"vocab_size": 300}},
        "pack": {"sequence_length": 128, "row_group": 64, "policy": "per_document", "epochs": 3},
    }
    (tmp_path / "corpus.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "data_prep", "all", str(tmp_path / "corpus.yaml")]
    first = subprocess.Popen(
        command,
        cwd=tiny.ROOT,
        env=tiny.ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    lock = tmp_path / "corpus/lock"
    tiny.wait_for(lambda: lock.exists() and lock.read_text().endswith("}"), 60)
    os.killpg(first.pid, signal.SIGSTOP)  # so that it does not end before the second has asked
    try:
        second = subprocess.run(
            command,
            cwd=tiny.ROOT,
            env=tiny.ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    assert second.returncode == 1
    message = second.stderr.strip()
    assert f"output: {tmp_path}/corpus is in use by process {first.pid} on" in message
    assert "stop it, or choose another folder" in message
    _, told = first.communicate(timeout=120)
    assert first.returncode == 0, told
    manifest = ShardSet(tmp_path / "corpus/shards/pubmed-train").manifest
    assert (manifest.policy, manifest.epochs) == ("per_document", 3)
    documents, cut = manifest.counts["documents"], manifest.counts["cut_documents"]
    fill = manifest.counts["tokens"] / (manifest.counts["rows"] * 128)
    assert (
        f"pubmed-train  {fill:.3%} filled, {3 * cut:,} cuts in {cut / documents:.2%} of "
        f"{documents:,} documents" in told
    )
