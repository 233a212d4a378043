"""General text streamed out of a dataset of the library `datasets`, here folders on disk."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import zstandard

from data_prep import demo_corpus
from data_prep.config import CorpusConfig
from data_prep.documents import read_documents, read_json_lines
from data_prep.download.dataset_stream import fetch
from data_prep.download.inventory import read_inventory
from data_prep.download.stage import download
from data_prep.download.transfer import Patience
from data_prep.extract.stage import ExtractStage
from data_prep.run.executor import run_stage
from data_prep.source_config import Source
from data_prep.units import finished
from tests.tiny import ROOT

PATIENCE = Patience(attempts=1)


def text(number):
    """Two KB that hardly compress: Zstandard gives its output in blocks of 128 KB."""
    return "".join(hashlib.sha256(bytes([number % 251, n])).hexdigest() for n in range(32))


@pytest.fixture
def general(tmp_path, monkeypatch):
    """A folder of a dataset with 500 documents in two files, and no way to the network."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "general"
    folder.mkdir()
    for name, numbers in (("a", range(250)), ("b", range(250, 500))):
        lines = [json.dumps({"text": text(n), "id": f"k{n}", "other": n}) for n in numbers]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def source_of(folder, documents=400, **about):
    dataset = {"name": str(folder), "documents": documents, **about}
    return Source.model_validate({"format": "text", "dataset": dataset})


def parts(folder):
    files = sorted((folder / "files").glob("*.jsonl.zst"))
    return {path.name: zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read() for path in files}  # fmt: skip


def test_the_first_documents_become_parts_that_the_text_reader_takes(tmp_path, general):
    config = CorpusConfig.model_validate({
        "output": str(tmp_path / "out"),
        "sources": {"web": {"format": "text", "dataset": {"name": str(general), "documents": 300}}},
    })  # fmt: skip
    assert download(config).ran == ["web/part-000000.jsonl.zst"]
    (file,) = read_inventory(config, "web")
    assert list(read_json_lines(file.path)) == [{"text": text(n), "id": f"k{n}"} for n in range(300)]  # fmt: skip
    assert not run_stage(ExtractStage(config)).failed
    (unit,) = finished(config.extracted)
    documents = list(read_documents(unit.folder / "documents.jsonl.zst"))
    assert documents[299]["id"] == "text:part-000000.jsonl.zst#k299"
    assert download(config).done == ["web/part-000000.jsonl.zst"]
    with (general / "a.jsonl").open("a") as stream:
        stream.write('\n{"text": "more", "id": "m", "other": 0}')
    assert download(config).ran == ["web/part-000000.jsonl.zst"]
    assert list(read_json_lines(file.path))[250] == {"text": "more", "id": "m"}


def test_a_run_goes_on_after_its_last_whole_part(tmp_path, general):
    source = source_of(general)
    rows, changed = fetch("t", source, tmp_path / "whole", [], PATIENCE, part_bytes=2000)
    whole = parts(tmp_path / "whole")
    assert len(whole) > 3
    assert changed == set(whole)
    assert [row["name"] for row in rows] == list(whole)
    assert b"".join(whole.values()).count(b"\n") == 400
    # Killed in the middle: there are two whole parts, and some of a third one.
    other = tmp_path / "killed"
    fetch("t", source, other, [], PATIENCE, part_bytes=2000)
    state = json.loads((other / "stream.json").read_text())
    state |= {"whole": False, "parts": state["parts"][:2]}
    (other / "stream.json").write_text(json.dumps(state))
    for path in sorted((other / "files").iterdir())[2:]:
        path.unlink()
    (other / "files" / ".part-000002.jsonl.zst.part").write_bytes(b"half")
    again, changed = fetch("t", source, other, [], PATIENCE, part_bytes=2000)
    assert changed == set(list(whole)[2:])
    assert [row["sha256"] for row in again] == [row["sha256"] for row in rows]
    assert parts(other) == whole


def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path, general):
    script = (
        "import sys; from pathlib import Path\n"
        "from data_prep.source_config import Source\n"
        "from data_prep.download.dataset_stream import fetch\n"
        "from data_prep.download.transfer import Patience\n"
        "dataset = {'name': sys.argv[1], 'documents': 400}\n"
        "source = Source.model_validate({'format': 'text', 'dataset': dataset})\n"
        "fetch('t', source, Path(sys.argv[2]), [], Patience(), part_bytes=300)\n"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(general), str(tmp_path / "out")]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    second = tmp_path / "out" / "files" / "part-000002.jsonl.zst"
    while running.poll() is None and not second.exists():
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert second.exists()
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
    fetch("t", source_of(general), tmp_path / "whole", [], PATIENCE, part_bytes=300)
    assert parts(tmp_path / "out") == parts(tmp_path / "whole")


def test_the_demo_corpus_can_be_streamed(tmp_path, general):
    folder = next(iter(demo_corpus.__path__)) + "/general"
    rows, _ = fetch("t", source_of(folder, 10), tmp_path / "out", [], PATIENCE)
    assert [(row["name"], row["state"]) for row in rows] == [("part-000000.jsonl.zst", "ok")]
    assert len(list(read_json_lines(tmp_path / "out" / "files" / rows[0]["name"]))) == 10


@pytest.mark.parametrize(
    ("about", "fields", "message"),
    [
        ({"split": "test"}, {}, "split"),
        ({}, {"text": "body"}, 'no field "body"; the fields are "text", "id", "other"'),
    ],
)
def test_a_dataset_that_is_another_is_one_line(tmp_path, general, about, fields, message):
    source = source_of(general, **about).model_copy(update={"fields": Source.model_fields["fields"].default.model_copy(update=fields)})  # fmt: skip
    with pytest.raises(Exception, match=message) as raised:
        fetch("t", source, tmp_path / "out", [], PATIENCE)
    assert type(raised.value).__name__ == "DataError"
    assert "\n" not in str(raised.value)


def test_a_broken_file_of_the_dataset_is_one_line(tmp_path, general):
    (general / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 9999)[:60])
    with pytest.raises(Exception, match="cannot be read") as raised:
        fetch("t", source_of(general, 900), tmp_path / "out", [], PATIENCE)
    assert type(raised.value).__name__ == "DataError"
    assert "\n" not in str(raised.value)


def test_a_name_of_the_hub_without_the_network_is_one_line(tmp_path):
    script = (
        "from pathlib import Path\n"
        "from data_prep.source_config import Source\n"
        "from data_prep.download.dataset_stream import fetch\n"
        "from data_prep.download.transfer import Patience\n"
        "dataset = {'name': 'nobody/nothing', 'documents': 1}\n"
        "source = Source.model_validate({'format': 'text', 'dataset': dataset})\n"
        "try: fetch('t', source, Path('out'), [], Patience())\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf")}
    ended = [
        subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment | more, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for more in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"})
    ]  # fmt: skip
    (offline,), (unreachable,) = ended
    assert offline.startswith("DataError dataset nobody/nothing: cannot be read: ")
    assert offline.endswith("unset HF_HUB_OFFLINE, or name a folder that holds the dataset")
    assert unreachable.startswith("DataError dataset nobody/nothing: cannot be read: ")
