"""Which files of a mixed folder are PubMed's and which are articles."""

import gzip

from data_prep.sources.recognise import sort_by_format


def test_files_are_sorted_by_their_root_and_a_checksum_goes_with_its_file(tmp_path):
    citations = gzip.compress(b"<?xml version='1.0'?><PubmedArticleSet></PubmedArticleSet>")
    article = gzip.compress(b"<!DOCTYPE article><article></article>")
    files = {
        "deep/b.xml.gz": citations,
        "deep/b.xml.gz.md5": b"0",
        "a.xml.gz": article,
        "a.xml.gz.md5": b"0",
        "c.nxml": b"<article></article>",
        "c.nxml.md5": b"0",
        "other.xml": b"<html/>",
        "other.xml.md5": b"0",
        "gone.xml.gz.md5": b"0",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    found = {
        kind: [path.relative_to(tmp_path).as_posix() for path in paths]
        for kind, paths in sort_by_format(tmp_path).items()
    }
    assert found == {
        "pubmed": ["deep/b.xml.gz", "deep/b.xml.gz.md5"],
        "pmc": ["a.xml.gz", "a.xml.gz.md5", "c.nxml", "c.nxml.md5"],
    }


def test_a_folder_that_is_missing_or_empty_holds_neither(tmp_path):
    assert sort_by_format(tmp_path) == sort_by_format(tmp_path / "nowhere") == {}
