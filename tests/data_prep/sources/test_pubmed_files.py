"""PubMed files: broken ones, and real ones read whole."""

import gzip
import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data_prep.documents import Deletion
from data_prep.errors import DataError
from data_prep.sources.pubmed.reader import parse_citations, read_citations
from tests.data_prep.sources.plain_pubmed import plain_documents
from tests.data_prep.sources.pubmed_files import citation, nlm_record, put

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
    assert re.search(r"broken at byte \d+ of the unpacked XML", message)
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


LAUGHS = """<!DOCTYPE PubmedArticleSet [<!ENTITY a "ha">{}]>""".format(
    "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in itertools.pairwise("abcdefghi"))
)  # fmt: skip


def test_entities_that_grow_are_never_expanded(tmp_path):
    path = tmp_path / "pubmed26n0001.xml"
    path.write_text(f"{LAUGHS}<PubmedArticleSet>{nlm_record(title='A &i; b')}</PubmedArticleSet>")
    with pytest.raises(DataError, match="entity amplification"):
        list(read_citations(path))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data.replace(b"Doe", b"D\0e", 1), id="NUL in an author"),
        pytest.param(lambda data: data.replace(b"Doe", b"D\x01e", 1), id="control in an author"),
        pytest.param(lambda data: data.replace(b"Doe", b"D\xffe", 1), id="no UTF-8 in an author"),
        pytest.param(
            lambda data: data.replace(b"Some", b"S\xe9me", 1), id="Latin-1 in an abstract"
        ),
        pytest.param(lambda data: data.replace(b"Some", b"S ]]> ome", 1), id="end of no CDATA"),
        pytest.param(lambda data: data.replace(b"</AbstractText>", b"", 1), id="no end tag"),
        pytest.param(lambda data: data.replace(b"</Article>", b"", 1), id="no end of Article"),
        pytest.param(lambda data: data.replace(b"<PubmedData>", b"", 1), id="no start tag"),
        pytest.param(lambda data: data + b"<a/>", id="after the end"),
        pytest.param(lambda data: data + data, id="twice"),
        pytest.param(lambda data: data[: data.rindex(b"</PubmedArticleSet>")], id="no end of all"),
        pytest.param(lambda data: data[: data.rindex(b"<Pagination>")], id="cut"),
    ],
)
def test_a_damaged_file_is_refused_where_lxml_refuses_it(tmp_path, damage):
    path = put(tmp_path, nlm_record(pmid="16"), "\n", nlm_record(), nlm_record(pmid="18"))
    head, tail = path.read_bytes().split(b'<PMID Version="1">17', 1)
    path.write_bytes(head + damage(b'<PMID Version="1">17' + tail))
    documents, message = read_until_broken(path)
    assert documents[0]["id"] == "pmid:16"
    by_lxml = []
    with pytest.raises(DataError) as error:
        by_lxml.extend(parse_citations(path))
    assert (documents, message) == (by_lxml, str(error.value))


def test_gzip_within_gzip_says_so(tmp_path):
    path = put(tmp_path, nlm_record(), name="pubmed26n0001.xml.gz")
    path.write_bytes(gzip.compress(path.read_bytes()))
    documents, message = read_until_broken(path)
    assert not documents
    assert "compressed twice" in message


@pytest.mark.parametrize("body", ["", "\n", "<!-- nothing -->"])
def test_an_empty_citation_set_has_no_records(tmp_path, body):
    assert list(read_citations(put(tmp_path, body))) == []
    path = tmp_path / "a.xml"
    path.write_text("<PubmedArticleSet/>")
    assert list(read_citations(path)) == []


def test_another_encoding_is_read_by_its_declaration(tmp_path):
    path = tmp_path / "a.xml"
    path.write_bytes(
        '<?xml version="1.0" encoding="iso-8859-1"?>'
        f"<PubmedArticleSet>{nlm_record(title='Thé')}</PubmedArticleSet>".encode("latin-1")
    )
    (document,) = read_citations(path)
    assert document["text"].startswith("Thé\n")


@pytest.mark.parametrize(
    "hidden",
    [
        "<!-- <PubmedArticle>x</PubmedArticle> -->",
        "<?x </PubmedArticle> ?>",
        "<!-- </PubmedData></PubmedArticle> -->",
    ],
)
def test_what_only_looks_like_a_record_is_none(tmp_path, hidden):
    records = [nlm_record(pmid=str(pmid), references=hidden) for pmid in (1, 2)]
    for body in ([hidden, *records], [records[0], hidden, records[1]]):
        found = [document["id"] for document in read_citations(put(tmp_path, *body))]
        assert found == ["pmid:1", "pmid:2"]


def test_a_record_over_several_steps_of_reading_is_whole(tmp_path):
    """The reader takes 256 KiB at a time."""
    long = "word " * 200_000
    abstract = f"<Abstract><AbstractText>{long}</AbstractText></Abstract>"
    path = put(tmp_path, nlm_record(), nlm_record(abstract=abstract), nlm_record())
    documents = list(read_citations(path))
    assert [len(document["text"]) > 900_000 for document in documents] == [False, True, False]


# -- real files

FILES = ("pubmed/baseline/pubmed26n1334.xml.gz", "pubmed/updatefiles/pubmed26n1335.xml.gz")
BIG = "pubmed/baseline/pubmed20n0014.xml.gz"


@pytest.fixture(scope="module")
def big_file(real_data):
    path = real_data / BIG
    if not path.exists():
        pytest.skip(f"no {BIG} in {real_data}")
    return path


def test_every_field_of_every_real_record_equals_a_plain_reading(big_file):
    read = 0
    for plain, document in zip(plain_documents(big_file), read_citations(big_file), strict=True):
        assert document == plain
        read += 1
    assert read == 30_000


@pytest.mark.parametrize("file", FILES)
def test_real_files_give_the_same_by_lxml_alone(real_data, file):
    tally, by_lxml = Counter(), Counter()
    ours = list(read_citations(real_data / file, tally))
    assert ours == list(parse_citations(real_data / file, by_lxml))
    assert +tally == +by_lxml


@pytest.mark.parametrize("file", FILES)
def test_recent_real_records_equal_a_plain_reading(real_data, file):
    read = [record for record in read_citations(real_data / file) if isinstance(record, dict)]
    assert read == list(plain_documents(real_data / file))


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
        "from data_prep.sources.pubmed.reader import read_citations;"
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
