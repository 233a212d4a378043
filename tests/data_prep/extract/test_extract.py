"""The stage extract, run as users run it: from the download stage's inventory to files on disk."""

import gzip
import hashlib
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard

from data_prep.config import CorpusConfig
from data_prep.documents import Reject, read_documents
from data_prep.download.inventory import InventoryFile
from data_prep.download.stage import download
from data_prep.errors import DataError
from data_prep.extract.index import INDEX_SCHEMA, title_hash
from data_prep.extract.stage import ExtractStage
from data_prep.extract.units import nlm_order, units_of
from data_prep.run.executor import run_stage
from data_prep.source_config import Source
from data_prep.sources.text import read_texts
from data_prep.units import finished


def citation(pmid, abstract="Text.", version=1):
    return (
        f'<PubmedArticle><MedlineCitation><PMID Version="{version}">{pmid}</PMID><Article>'
        f"<ArticleTitle>Title {pmid}.</ArticleTitle><Abstract><AbstractText>{abstract}</AbstractText>"
        "</Abstract><Language>eng</Language></Article></MedlineCitation></PubmedArticle>"
    )


def pubmed(*records):
    return gzip.compress(
        f"<PubmedArticleSet>{''.join(records)}</PubmedArticleSet>".encode(), mtime=0
    )


def jats(number, body="<p>Body.</p>"):
    return (
        f'<article><front><article-meta><article-id pub-id-type="pmc">PMC{number}</article-id>'
        f"<title-group><article-title>T</article-title></title-group></article-meta></front>"
        f"<body>{body}</body></article>"
    ).encode()


@pytest.fixture
def raw(tmp_path):
    """A folder in which tests put source files: {"source/name": bytes}."""

    def put(files):
        for name, data in files.items():
            path = tmp_path / "raw" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    return put


def stage_of(tmp_path, output="corpus", **formats):
    sources = {
        name: {"format": format, "path": str(tmp_path / "raw" / name)}
        for name, format in formats.items()
    }
    config = CorpusConfig.model_validate({"output": str(tmp_path / output), "sources": sources})
    download(config)
    return ExtractStage(config)


def results(stage):
    return {result.name: result for result in finished(stage.directory)}


BASELINE = pubmed(citation(1), citation(2, ""), "<PubmedArticle/>", citation(3))
UPDATE = pubmed(
    citation(1, "New.", 2), '<DeleteCitation><PMID Version="1">3</PMID></DeleteCitation>'
)


def test_a_pubmed_file_becomes_documents_rejects_and_an_index(tmp_path, raw):
    raw(
        {
            "nlm/baseline/pubmed26n0001.xml.gz": BASELINE,
            "nlm/updatefiles/pubmed26n0002.xml.gz": UPDATE,
        }
    )
    stage = stage_of(tmp_path, nlm="pubmed")
    report = run_stage(stage)
    assert report.ran == ["nlm/pubmed26n0001", "nlm/pubmed26n0002"]
    assert not report.failed
    first, second = results(stage).values()
    documents = list(read_documents(first.folder / "documents.jsonl.zst"))
    assert [d["id"] for d in documents] == ["pmid:1", "pmid:2", "pmid:3"]
    assert {d["source"] for d in documents} == {"nlm"}
    (reject,) = read_documents(first.folder / "rejects.jsonl.zst")
    assert reject["place"] == "pubmed26n0001.xml.gz: record 3"
    counts = first.counts
    assert (counts["documents"], counts["deletions"], counts["rejects"]) == (3, 0, 1)
    assert counts["with_abstract"] == 2
    assert counts["characters"] == sum(len(d["text"]) for d in documents)
    assert counts["languages"] == {"eng": 3}
    assert counts["reject_reasons"] == {"no citation": 1}

    assert counts["with_title"] == counts["with_pmid"] == 3
    assert counts["with_year"] == 0

    (added,) = read_documents(second.folder / "documents.jsonl.zst")
    table = pq.read_table(second.folder / "index.parquet")
    assert table.schema.equals(INDEX_SCHEMA)
    document, deletion = table.to_pylist()
    known = {"pmid": 1, "version": 2, "language": "eng", "licence": "nlm-terms", "abstract": True}
    assert document == dict.fromkeys(INDEX_SCHEMA.names) | known | {
        "position": 0,
        "kind": "document",
        "id": "pmid:1",
        "retracted": False,
        "notice": False,
        "file_year": 2026,
        "file_number": 2,
        "characters": len(added["text"]),
        "record": "citation",
        "publication_types": [],
        "retracts": [],
        "title_hash": 0,  # too short to tell articles apart
        "text_hash": xxhash.xxh3_64_intdigest(added["text"].encode()) - 2**63,
    }
    assert deletion == dict.fromkeys(INDEX_SCHEMA.names) | {
        "position": -1,
        "kind": "deletion",
        "pmid": 3,
        "version": 1,
        "retracted": False,
        "file_year": 2026,
        "file_number": 2,
    }


def test_an_abstract_without_title_is_counted_as_one(tmp_path, raw):
    untitled = citation(1).replace("Title 1.", "")
    raw({"a/x.xml.gz": pubmed(untitled, citation(2, ""))})
    stage = stage_of(tmp_path, a="pubmed")
    run_stage(stage)
    (result,) = results(stage).values()
    assert (result.counts["documents"], result.counts["with_abstract"]) == (2, 1)
    documents = read_documents(result.folder / "documents.jsonl.zst")
    assert [d["metadata"]["abstract"] for d in documents] == [True, False]


@pytest.mark.parametrize(
    "title",
    [
        "Plain ASCII title of a study, with 12 letters",
        "ΑΣ weiße Straße: größer als Δψ in ΜΥΕΛΌΣ",
        "高" * 30,
    ],
)
def test_titles_hash_by_their_letters_and_digits_alone(title):
    letters = "".join(letter for letter in title.casefold() if letter.isalnum())
    expected = xxhash.xxh3_64_intdigest(letters.encode()) - 2**63 if len(letters) >= 30 else 0
    assert title_hash(title) == title_hash(f" {title.upper()}!\t") == expected


def test_what_a_reader_met_and_odd_rejects_are_counted_within_bounds(tmp_path, raw):
    lines = b"".join(b'{"text": "Some text.", "id": %d}\n' % number for number in range(1100))
    raw({"a/x.jsonl": lines + b"[" + b"9" * 5000 + b"]\n" + lines[:32]})
    stage = stage_of(tmp_path, a="text")
    assert not run_stage(stage).failed
    (result,) = results(stage).values()
    (reject,) = read_documents(result.folder / "rejects.jsonl.zst")
    assert len(reject["reason"]) <= 1000
    positions = pq.read_table(result.folder / "index.parquet")["position"].to_pylist()
    assert positions == list(range(1101))
    assert result.counts["documents"] == 1101


def test_settings_that_make_documents_what_they_are_make_them_anew(tmp_path, raw):
    raw({"a/x.txt": b"Text."})

    def ran(**settings):
        stage = stage_of(tmp_path, a="text")
        source = stage._config.sources["a"].model_copy(update=settings)
        config = stage._config.model_copy(update={"sources": {"a": source}})
        return run_stage(ExtractStage(config)).ran

    assert ran() == ["a/x"]
    assert ran(coverage_tolerance=0.5) == []
    assert ran(language="ger") == ["a/x"]
    assert ran(language="ger", max_article_bytes=10_000) == ["a/x"]


def test_a_broken_file_fails_its_unit_alone_and_is_named(tmp_path, raw):
    raw({"a/pubmed26n0001.xml.gz": BASELINE[:-40], "a/pubmed26n0002.xml.gz": UPDATE})
    stage = stage_of(tmp_path, a="pubmed")
    report = run_stage(stage)
    assert report.ran == ["a/pubmed26n0002"]
    assert "pubmed26n0001.xml.gz: broken" in report.failed["a/pubmed26n0001"]
    assert list(results(stage)) == ["a/pubmed26n0002"]


def test_outputs_are_the_same_bytes_for_any_workers_and_place(tmp_path, raw):
    articles = {f"b/{n}.xml": jats(n) for n in range(20)}
    raw({"a/pubmed26n0001.xml.gz": BASELINE, "a/pubmed26n0002.xml.gz": UPDATE, **articles})
    hashes = []
    for output, workers in (("one", 1), ("two/deeper", 2)):
        stage = stage_of(tmp_path, output, a="pubmed", b="jats")
        run_stage(stage, workers)
        hashes.append([(result.name, result.hash) for result in finished(stage.directory)])
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 3


def test_only_what_changed_is_done_again(tmp_path, raw):
    raw({"a/pubmed26n0001.xml.gz": BASELINE, "a/pubmed26n0002.xml.gz": UPDATE})
    run_stage(stage_of(tmp_path, a="pubmed"))
    raw({"a/pubmed26n0002.xml.gz": pubmed(citation(9)), "a/pubmed26n0003.xml.gz": UPDATE})
    report = run_stage(stage_of(tmp_path, a="pubmed"))
    assert report.done == ["a/pubmed26n0001"]
    assert report.ran == ["a/pubmed26n0002", "a/pubmed26n0003"]


def inventory(names):
    return [InventoryFile(name, Path(name), 1, name) for name in names]


JATS = Source(format="jats", path=Path("pmc"))
NAMES = [f"PMC{n:06d}/a.xml" for n in range(0, 30_000, 2)]


def test_jats_files_go_in_batches_of_some_five_hundred_each_file_in_one():
    units = units_of("pmc", JATS, inventory(reversed(NAMES)))
    assert sorted(name for unit in units for name in unit.inputs) == NAMES
    assert all(list(unit.inputs) == sorted(unit.inputs) for unit in units)
    assert len({unit.name for unit in units}) == len(units)
    # 30 boundaries are expected; their number has a standard deviation of 5.5.
    assert 10 < len(units) < 50
    assert max(len(unit.inputs) for unit in units) <= 2000


@pytest.mark.parametrize("number", [1, 5001, 15_001, 29_999, 30_001])
def test_one_more_jats_file_changes_two_batches_at_most(number):
    def made(names):
        return {
            (unit.name, *unit.inputs.items()) for unit in units_of("pmc", JATS, inventory(names))
        }

    before = made(NAMES)
    assert 1 <= len(made([*NAMES, f"PMC{number:06d}/a.xml"]) - before) <= 2


def test_a_batch_holds_two_thousand_files_where_no_name_ends_it():
    def ends(name):
        return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 500 == 0

    names = [name for name in (f"{n:05d}.xml" for n in range(5000)) if not ends(name)][:4001]
    sizes = {len(unit.inputs) for unit in units_of("pmc", JATS, inventory(names))}
    assert sizes == {2000, 1}


def test_a_malformed_article_is_rejected_and_the_batch_goes_on(tmp_path, raw):
    body = "<p>kept it</p><table-wrap><table><tr><td>lost</td></tr></table></table-wrap>"
    raw({"p/d/1.xml": jats(1, body), "p/d/2.xml": jats(2)[:-20], "p/d/3.nxml": jats(3, "<p>x<new>y</new></p>")})  # fmt: skip
    stage = stage_of(tmp_path, p="jats")
    assert not run_stage(stage).failed
    (result,) = results(stage).values()
    documents = list(read_documents(result.folder / "documents.jsonl.zst"))
    assert [d["id"] for d in documents] == ["pmcid:PMC1", "pmcid:PMC3"]
    (reject,) = read_documents(result.folder / "rejects.jsonl.zst")
    assert reject["place"] == "d/2.xml"
    counts = result.counts
    assert counts["reject_reasons"] == {"malformed XML": 1}
    assert counts["met"] == {"unknown tag new": 1}
    body = counts["body"]
    assert (body["articles"], body["kept"], body["characters"]) == (2, 8, 12)
    assert body["share_percentiles"]["0"] == 0.6
    index = pq.read_table(result.folder / "index.parquet").to_pylist()
    assert [(row["position"], row["pmcid"], row["file_year"]) for row in index] == [
        (0, "PMC1", None),
        (1, "PMC3", None),
    ]


def test_two_files_of_one_name_are_refused(tmp_path, raw):
    raw({"a/x/pubmed26n0001.xml.gz": BASELINE, "a/y/pubmed26n0001.xml": b"<PubmedArticleSet/>"})
    with pytest.raises(DataError, match="have the same name"):
        stage_of(tmp_path, a="pubmed").units()


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("baseline/pubmed26n1334.xml.gz", (2026, 1334)),
        ("pubmed20n0014.xml", (2020, 14)),
        ("mine.xml", None),
    ],
)
def test_nlms_file_names_say_their_order(name, order):
    assert nlm_order(name) == order


LINES = b'{"text": "One.", "id": "k1"}\n\n{"text": "Two."}\n{"text": 5}\nnot json\n{"text": " "}\n[1]\n{"text": "Last", "id": 7}'


def compressed(name, data):
    if name.endswith(".gz"):
        return gzip.compress(data)
    return zstandard.ZstdCompressor().compress(data) if name.endswith(".zst") else data


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_json_lines_become_documents_with_their_keys_or_line_numbers(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(compressed(name, LINES))
    records = list(read_texts(path, f"deep/{name}"))
    documents = [record for record in records if isinstance(record, dict)]
    rejects = [record for record in records if isinstance(record, Reject)]
    assert [(d["id"], d["text"]) for d in documents] == [
        (f"text:deep/{name}#k1", "One."),
        (f"text:deep/{name}#3", "Two."),
        (f"text:deep/{name}#7", "Last"),
    ]
    assert [reject.place for reject in rejects] == [f"deep/{name}: line {n}" for n in (4, 5, 6, 7)]
    assert [reject.reason.partition(":")[0] for reject in rejects] == ["no text", "not JSON", "no text", "no text"]  # fmt: skip


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_byte_order_mark_costs_no_record(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(compressed(name, b'\xef\xbb\xbf{"text": "One."}\n{"text": "Two."}\n'))
    assert [record.get("text") for record in read_texts(path)] == ["One.", "Two."]


@pytest.mark.parametrize("read", [read_texts, read_documents])
def test_lines_whose_compression_is_damaged_are_an_error_that_names_the_file(tmp_path, read):
    path = tmp_path / "a.jsonl.gz"
    data = bytearray(gzip.compress(orjson.dumps({"text": "One."}) + b"\n", mtime=0))
    data[10:14] = b"\xff" * 4  # where a gzip file's first deflate block begins (RFC 1952)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz"):
        list(read(path))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_cut_file_of_lines_is_an_error(tmp_path, name):
    path = tmp_path / name
    lines = b"".join(orjson.dumps({"text": hashlib.sha256(bytes([n % 251])).hexdigest() * n}) + b"\n" for n in range(1, 999))  # fmt: skip
    path.write_bytes(compressed(name, lines)[:-9])
    with pytest.raises(DataError, match=rf"{name}: broken after line \d+"):
        list(read_texts(path))


def test_a_text_file_is_one_document_and_must_be_utf8(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffÜber\n\nzwei.\n".encode())
    (document,) = read_texts(path)
    assert (document["id"], document["text"]) == ("text:a.txt#1", "Über\n\nzwei.\n")
    path.write_bytes("Über".encode("latin-1"))
    with pytest.raises(DataError, match="byte 0: not UTF-8"):
        list(read_texts(path))
    path.write_bytes(b" \n")
    assert [type(record) for record in read_texts(path)] == [Reject]


def test_text_files_of_one_name_in_two_folders_are_two_units(tmp_path, raw):
    raw({"t/a/x.txt": b"One.", "t/b/x.txt": b"Two.", "t/c.jsonl": LINES})
    stage = stage_of(tmp_path, t="text")
    assert not run_stage(stage).failed
    found = results(stage)
    assert list(found) == ["t/a--x", "t/b--x", "t/c"]
    assert [next(iter(read_documents(r.folder / "documents.jsonl.zst")))["id"] for r in found.values()] == [
        "text:a/x.txt#1", "text:b/x.txt#1", "text:c.jsonl#k1",
    ]  # fmt: skip
