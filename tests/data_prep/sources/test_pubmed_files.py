"""PubMed files: broken ones, and real ones read whole."""

import gzip
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from data_prep.documents import Deletion
from data_prep.errors import DataError
from data_prep.sources.pubmed import read_citations
from tests.data_prep.sources.pubmed_files import citation, put

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("root", ["html", "article", "eSearchResult"])
def test_a_file_that_is_not_pubmeds_is_refused_by_its_root(tmp_path, root):
    with pytest.raises(DataError, match=f"pubmed26n0001.xml: the root element is <{root}>"):
        list(read_citations(put(tmp_path, root=root)))


def read_until_broken(path):
    """The records before the error, and the error's message."""
    documents = []
    try:
        documents.extend(read_citations(path))  # extend keeps what came before the error
    except DataError as error:
        return documents, str(error)
    pytest.fail(f"{path} was read as if it were whole")


def test_xml_cut_in_the_middle_gives_what_was_whole_and_then_says_where(tmp_path):
    path = put(tmp_path, *(citation(pmid=f"<PMID>{n}</PMID>") for n in range(1, 6)))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"<PMID>4</PMID>") + 5])
    documents, message = read_until_broken(path)
    assert [document["id"] for document in documents] == ["pmid:1", "pmid:2", "pmid:3"]
    assert str(path) in message
    assert "the last whole record is number 3, PMID 3" in message
    assert re.search(r"line \d+, column \d+", message)


def test_xml_that_is_wrong_in_the_middle_is_an_error_there(tmp_path):
    path = put(tmp_path, citation(), "<PubmedArticle></Oops>", citation())
    documents, message = read_until_broken(path)
    assert len(documents) == 1
    assert "mismatch" in message


def test_a_cut_gzip_names_the_byte_and_the_last_whole_record(tmp_path):
    records = [citation(pmid=f"<PMID>{n}</PMID>", title=os.urandom(300).hex().join(["<ArticleTitle>", "</ArticleTitle>"])) for n in range(1, 2001)]  # fmt: skip
    path = put(tmp_path, *records, name="pubmed26n0001.xml.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    documents, message = read_until_broken(path)
    assert 0 < len(documents) < 2000
    assert f"PMID {documents[-1]['metadata']['pmid']}" in message
    assert re.search(r"after byte \d+ of the unpacked XML", message)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    path.write_bytes(damaged)
    read_until_broken(path)


def test_an_empty_file_is_an_error(tmp_path):
    path = tmp_path / "pubmed26n0001.xml"
    path.write_bytes(b"")
    documents, message = read_until_broken(path)
    assert not documents
    assert "no whole record" in message


def test_nothing_outside_the_file_is_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("SECRET")
    path = tmp_path / "a.xml"
    path.write_text(
        f'<!DOCTYPE PubmedArticleSet SYSTEM "file://{tmp_path}/none.dtd" [<!ENTITY x SYSTEM "file://{secret}">]>'
        f"<PubmedArticleSet>{citation(title='<ArticleTitle>A &x; b</ArticleTitle>')}</PubmedArticleSet>"
    )
    (document,) = read_citations(path)
    assert "SECRET" not in document["text"]


# -- real files

BIG = "pubmed/baseline/pubmed20n0014.xml.gz"


@pytest.fixture(scope="module")
def big_file(real_data):
    path = real_data / BIG
    if not path.exists():
        pytest.skip(f"no {BIG} in {real_data}")
    return path


def articles_by_expat(path, number):
    """The first articles of the same file through Python's own parser, each emptied after use."""
    with gzip.open(path) as stream:
        ended = (element for _, element in ElementTree.iterparse(stream))
        articles = (element for element in ended if element.tag == "PubmedArticle")
        for article in itertools.islice(articles, number):
            yield article
            article.clear()


def spaced(text):
    return " ".join(text.split())


def test_a_real_file_equals_what_another_parser_reads_record_by_record(big_file):
    ours = read_citations(big_file)
    for article, document in zip(articles_by_expat(big_file, 10_000), ours, strict=False):
        metadata = document["metadata"]
        assert metadata["pmid"] == int(article.findtext("MedlineCitation/PMID"))
        title = spaced("".join(article.find("MedlineCitation/Article/ArticleTitle").itertext()))
        own_title, _, own_abstract = document["text"].partition("\n\n")
        if re.fullmatch(r"\[[^\[\]]*\]\.?", title):
            assert own_title == title.replace("[", "").replace("]", "")
        else:
            assert own_title in (title, re.sub(r"^\[(.*)\](\.?)$", r"\1\2", title))
        lines = []
        for section in article.findall("MedlineCitation/Article/Abstract/AbstractText"):
            label = section.get("Label")
            lines.append((f"{label}: " if label else "") + spaced("".join(section.itertext())))
        assert own_abstract == "\n".join(line for line in lines if line)
        ids = {
            element.get("IdType"): element.text
            for element in article.findall("PubmedData/ArticleIdList/ArticleId")
        }
        assert metadata["pmcid"] == ids.get("pmc")
        if (ids.get("doi") or "").startswith("10."):
            assert metadata["doi"] == ids["doi"].lower()


def test_recent_files_with_deletions_and_markup_are_read_whole(real_data):
    for name in ("baseline/pubmed26n1334.xml.gz", "updatefiles/pubmed26n1335.xml.gz"):
        path = real_data / "pubmed" / name
        raw = gzip.decompress(path.read_bytes())
        records = list(read_citations(path))
        documents = [record for record in records if isinstance(record, dict)]
        deletions = [record for record in records if isinstance(record, Deletion)]
        block = re.search(rb"<DeleteCitation>(.*)</DeleteCitation>", raw, re.DOTALL)
        assert len(documents) == raw.count(b"<PubmedArticle>")
        assert len(deletions) == (block[1].count(b"<PMID") if block else 0)


def count_and_peak(path):
    """How many records a fresh process reads, and the most memory it had, in bytes."""
    program = (
        "import re, sys; from pathlib import Path;"
        "from data_prep.sources.pubmed import read_citations;"
        "print(sum(1 for _ in read_citations(Path(sys.argv[1]))),"
        # The peak of this process alone; getrusage's begins with the parent's.
        "re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    records, kilobytes = map(int, result.stdout.split())
    return records, kilobytes * 1024


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from /proc"
)


@needs_proc
def test_memory_does_not_grow_with_the_file(tmp_path):
    record = citation(abstract=f"<Abstract><AbstractText>{'word ' * 300}</AbstractText></Abstract>")
    path = tmp_path / "pubmed26n0001.xml.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(b"<PubmedArticleSet>")
        for _ in range(300):
            stream.write(record.encode() * 100)
        stream.write(b"</PubmedArticleSet>")
    records, peak = count_and_peak(path)
    assert records == 30_000
    assert peak < 100_000_000  # a tree of the whole takes several hundred MB


@needs_proc
def test_a_whole_real_file_is_read_in_little_memory(big_file):
    records, peak = count_and_peak(big_file)
    with gzip.open(big_file) as stream:
        assert records == sum(line.count(b"<PubmedArticle>") for line in stream) == 30_000
    assert peak < 200_000_000
