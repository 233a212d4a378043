"""Two corpora that share the folder of downloads and extracted documents."""

import json

import pytest

from data_prep.config import CorpusConfig
from data_prep.download.stage import download, failed_downloads
from data_prep.extract.stage import ExtractStage
from data_prep.run.executor import run_stage
from data_prep.units import finished


@pytest.fixture
def corpus(tmp_path):
    """A corpus of the sources named, each a folder of JSON lines; `raw` is the same for all."""

    def make(output, *sources, raw="raw", **others):
        for name in sources:
            (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
            line = json.dumps({"text": f"About {name}."})
            (tmp_path / "in" / name / "a.jsonl").write_text(line)
        folders = {
            name: {"format": "text", "path": str(tmp_path / "in" / name)} for name in sources
        }
        values = {"output": str(tmp_path / output), "sources": folders | others}
        if raw:
            values["raw"] = str(tmp_path / raw)
        return CorpusConfig.model_validate(values)

    return make


def extract(config):
    download(config)
    return run_stage(ExtractStage(config))


def units(config):
    return [unit.name for unit in finished(config.extracted)]


def test_a_corpus_leaves_the_units_of_another_s_sources_alone(corpus):
    first, second = corpus("one", "books", "notes"), corpus("two", "notes", "pages")
    assert extract(first).ran == ["books/a", "notes/a"]
    report = extract(second)
    assert (report.done, report.ran) == (["notes/a"], ["pages/a"])
    assert units(first) == ["books/a", "notes/a", "pages/a"]
    assert extract(first).ran == []


def test_what_is_gone_from_a_source_goes_from_the_shared_folder_too(corpus, tmp_path):
    config = corpus("one", "books", "notes")
    (tmp_path / "in/books/b.jsonl").write_text('{"text": "More."}')
    extract(config)
    (tmp_path / "in/books/b.jsonl").unlink()
    extract(config)
    assert units(config) == ["books/a", "notes/a"]


def test_without_a_shared_folder_a_source_that_is_no_more_leaves_nothing(corpus):
    extract(corpus("one", "books", "notes", raw=None))
    config = corpus("one", "notes", raw=None)
    extract(config)
    assert units(config) == ["notes/a"]


def test_a_source_that_another_corpus_could_not_fetch_stays_failed(corpus):
    off = {"format": "text", "url": ["memory://nowhere/a.jsonl"]}
    first, second = corpus("one", "books", gone=off), corpus("two", "notes")
    assert list(download(first).failed) == ["gone"]
    download(second)
    assert failed_downloads(first, "gone") == ["gone"]
