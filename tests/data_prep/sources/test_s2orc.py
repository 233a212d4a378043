"""Papers of S2ORC become documents like those of JATS."""

import gzip
import json
import random
from collections import Counter

import pytest

from data_prep.documents import Reject
from data_prep.errors import DataError
from data_prep.source_config import Jats, S2orc, Source
from data_prep.sources.jats.reader import extract_articles
from data_prep.sources.s2orc.reader import read_papers
from tests.data_prep.sources.s2orc_papers import PaperBuilder, paper


def read(path, *records, tally=None, **options):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path = path / "s2orc_1.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    source = Source(format="s2orc", path=path.parent, s2orc=S2orc(**options))
    return list(read_papers(path, path.name, source, Counter() if tally is None else tally))


def text_of(path, record, **options):
    (found,) = read(path, record, **options)
    assert not isinstance(found, Reject), found
    return found["text"]


def test_a_paper_reads_as_an_article_does(tmp_path):
    (document,) = read(tmp_path, paper().record(licence="CCBYNC"))
    assert document["text"] == (
        "Aspirin in mice\n\nWe fed aspirin to mice.\n\n# Introduction\n\n"
        "Aspirin is old. Smith et al. (2010) used it.\n\n# Methods\n\n## Animals\n\n"
        "Mice, see Fig. 1 and Table 9.\n\nE = mc 2\n\nas always\n\n# Conclusions\n\nIt works.\n\n"
        "Fig. 1: Mice that ran. Scale bar, 1 cm.\n\nTable 1: Doses of aspirin"
    )
    assert document["id"] == "s2orc:7"
    about = document["metadata"]
    assert (about["pmid"], about["pmcid"], about["doi"]) == (
        36589072,
        "PMC9798118",
        "10.1000/abc.1",
    )
    assert (about["kind"], about["abstract"], about["licence"]) == ("full_text", True, "cc-by-nc")
    assert about["sections"] == ["Introduction", "Methods", "Animals", "Conclusions"]


def test_citations_are_kept_where_wanted(tmp_path):
    text = text_of(tmp_path, paper().record(), citations="keep")
    assert "Aspirin is old [1, 2]. Smith et al. (2010) used it (Jones, 2011; Roe 2012)." in text


def test_citations_become_meditrons_tokens(tmp_path):
    text = text_of(tmp_path, paper().record(), citations="tokens")
    smith = "[bib_ref] One two three four five six seven eight nine ten eleven twelve..., Smith [/bib_ref]"
    assert f"Aspirin is old {smith} [bib_ref] Short, Kim [/bib_ref]. {smith} used it." in text
    assert "Mice, see [fig_ref] Fig. 1: Mice that ran [/fig_ref] and Table 9." in text
    assert "\n\n[formula] E = mc 2 [/formula]\n\n" in text
    assert "[fig] Fig. 1: Mice that ran. Scale bar, 1 cm. [/fig]" in text
    assert text.endswith("[table] Table 1: Doses of aspirin [/table]")


@pytest.mark.parametrize(
    ("citation", "left"),
    [
        (["old ", ("bibref", "[3]"), ", and"], "old, and"),
        (["old ", ("bibref", "(Roe, 2010)"), "."], "old."),
        (["old (", ("bibref", "Roe, 2010"), "; ", ("bibref", "Doe, 2011"), ")."], "old."),
        (["old (see ", ("bibref", "Roe 2010"), " for review) and"], "old and"),
        (["old", ("bibref", "12"), ", ", ("bibref", "13"), ". New"], "old. New"),
        (["as ", ("bibref", "Roe et al. (2010)"), " show"], "as Roe et al. (2010) show"),
        (["shown (p < 0.05; ", ("bibref", "[3]"), ") and"], "shown (p < 0.05) and"),
    ],
)
def test_no_bracket_stays_behind_a_dropped_citation(tmp_path, citation, left):
    build = PaperBuilder().add("paragraph", *citation)
    assert text_of(tmp_path, build.record()) == left


def test_the_ids_that_are_required_decide_and_the_rest_is_counted(tmp_path):
    records = [
        paper().record(1),
        paper().record(2, pmcid=None),
        paper().record(3, pmid=None, pmcid=None),
    ]
    for require, taken, counted in (
        ("pmc", ["s2orc:1"], {"without PMC id": 2}),
        ("pmc-or-pubmed", ["s2orc:1", "s2orc:2"], {"without PMC or PubMed id": 1}),
        ("nothing", ["s2orc:1", "s2orc:2", "s2orc:3"], {}),
    ):
        tally = Counter()
        found = read(tmp_path, *records, tally=tally, require=require)
        assert ([document["id"] for document in found], dict(tally)) == (taken, counted)


def test_the_layout_of_s2orc_v2_is_read_too(tmp_path):
    body = PaperBuilder()
    body.add("section_header", "Results", attributes={"n": "3."})
    body.add("paragraph", "It works ", ("bib_ref", "[1]", {"ref_id": "b0"}), ".")
    entries = PaperBuilder()
    entries.add("bib_entry", ("bib_author_last_name", "Roe"), ". ", ("bib_title", "On mice"), attributes={"id": "b0"})  # fmt: skip
    record = {
        "corpusid": 12,
        "openaccessinfo": {"externalids": {"MAG": "1", "DOI": None, "PubMedCentral": "12"}, "license": "CCBY", "url": None, "status": "GOLD"},
        "title": "Mice",
        "authors": [],
        "body": {"text": body.text, "annotations": body.annotations()},
        "bibliography": {"text": entries.text, "annotations": entries.annotations()},
    }  # fmt: skip
    (document,) = read(tmp_path, record, require="pmc", citations="tokens")
    assert document["text"] == ("Mice\n\n# Results\n\nIt works [bib_ref] On mice, Roe [/bib_ref].")
    assert (document["metadata"]["pmcid"], document["metadata"]["licence"]) == ("PMC12", "cc-by")


def test_spans_that_overlap_say_nothing_twice_and_those_outside_are_counted(tmp_path):
    build = PaperBuilder().add("paragraph", "One two three.").add("paragraph", "Four five.")
    build.annotate("paragraph", 1, 8)
    build.annotate("paragraph", 5, 15)
    build.annotate("paragraph", -1, 4)
    build.annotate("paragraph", 8, 8)
    build.annotate("paragraph", 3, 10_000)
    build.annotate("paragraph", "17", "22")
    build.annotate("bibref", 5, 10_000)
    tally = Counter()
    (document,) = read(tmp_path, build.record(), tally=tally)
    assert document["text"] == "One two three.\n\nFour five."
    assert tally == {"spans outside the text": 4}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"paragraph": "[{"}, "broken annotations"),
        ({"paragraph": '{"start": 1}'}, "broken annotations"),
        ({"paragraph": "[3]"}, "broken annotations"),
        ({"paragraph": None, "abstract": None}, "no paragraphs"),
        ({"paragraph": "[]", "abstract": ""}, "no paragraphs"),
    ],
)
def test_a_record_with_unusable_annotations_is_rejected_alone(tmp_path, change, reason):
    found = read(tmp_path, paper().record(1, **change), paper().record(2))
    assert found[0].place == "s2orc_1.gz: line 1"
    assert found[0].reason.partition(":")[0] == reason
    assert found[1]["id"] == "s2orc:2"


def test_lines_that_are_no_paper_are_rejected(tmp_path):
    empty = paper().record(3)
    empty["content"]["text"] = None
    nothing = {"corpusid": 4, "externalids": {"pubmed": "1"}, "content": {"text": "x"}}
    found = read(tmp_path, "{", "[1]", '{"corpusid": null}', empty, nothing)
    assert [reject.reason.partition(":")[0] for reject in found] == [
        "not JSON", "no paper", "no paper", "no text", "broken annotations",
    ]  # fmt: skip


def test_paragraphs_before_the_only_heading_are_the_text(tmp_path):
    build = PaperBuilder().add("paragraph", "All of it.").add("sectionheader", "References")
    assert text_of(tmp_path, build.record()) == "All of it."


def test_control_characters_of_the_text_pass_for_no_mark(tmp_path):
    build = PaperBuilder()
    build.add("paragraph", "A\x01B \x02C\x03 \x0eq0q\x0f D\x0cE ", ("bibref", "[1]"), "\x00.")
    assert text_of(tmp_path, build.record()) == "AB C q0q D E."


def changed(value, generator):
    """The value with some parts of it replaced by ones of other types."""
    if generator.random() < 0.02:
        return generator.choice([None, [], {}, [[1]], {"a": [2]}, "", "x", -3, 10**30, 1.5, True])
    if isinstance(value, dict):
        return {key: changed(inner, generator) for key, inner in value.items()}
    if isinstance(value, list):
        return [changed(inner, generator) for inner in value]
    if isinstance(value, str) and value.startswith("[{"):
        return json.dumps(changed(json.loads(value), generator))
    return value


@pytest.mark.parametrize("citations", ["drop", "keep", "tokens"])
def test_no_record_however_odd_ends_the_file(tmp_path, citations):
    generator = random.Random(5)
    records = [changed(paper().record(n + 1), generator) for n in range(400)]
    tally = Counter()
    found = read(tmp_path, *records, tally=tally, citations=citations)
    assert len(found) + tally["without PMC or PubMed id"] == 400
    assert sum(isinstance(record, dict) for record in found) > 100
    for document in found:
        if isinstance(document, dict):
            json.dumps(document)


def test_a_cut_file_says_after_which_line(tmp_path):
    path = tmp_path / "a.gz"
    data = b"\n".join(json.dumps(paper().record(n)).encode() for n in range(200))
    path.write_bytes(gzip.compress(data)[:-50])
    source = Source(format="s2orc", path=tmp_path)
    with pytest.raises(DataError, match=r"a\.gz: broken after line \d+"):
        list(read_papers(path, path.name, source, Counter()))


def test_tokens_read_as_those_of_the_same_article_in_jats(tmp_path):
    title, caption = "On mice and men.", "Survival of mice (all groups), by age. More."
    build = PaperBuilder()
    cited = ("bibref", "[1]", {"ref_id": "b0"})
    build.add("paragraph", "Old ", cited, ", see ", ("figureref", "Fig. 1", {"ref_id": "f"}), ".")
    start = len(build.text)
    build.add(None, "Figure 1.").add("figurecaption", caption)
    build.annotate("figure", start, len(build.text), {"id": "f"})
    entry = [("bibauthorlastname", "Roe"), " A. ", ("bibtitle", title)]
    build.add("bibentry", *entry, attributes={"id": "b0"})
    (path := tmp_path / "a.xml").write_text(
        f"<article><front><article-meta/></front><body><p>Old [<xref ref-type='bibr' rid='b0'>1</xref>], see "
        f"<xref ref-type='fig' rid='f'>Fig. 1</xref>.</p><fig id='f'><label>Figure 1.</label><caption><p>{caption}"
        "</p></caption></fig></body><back><ref-list><ref id='b0'><element-citation><name><surname>Roe</surname>"
        f"</name><article-title>{title}</article-title></element-citation></ref></ref-list></back></article>"
    )
    (article,) = extract_articles(path, options=Jats(citations="tokens"))
    first = text_of(tmp_path, build.record(), citations="tokens").partition("\n")[0]
    assert first == article.document["text"].partition("\n")[0]
    assert first == (
        "Old [bib_ref] On mice and men, Roe [/bib_ref], see [fig_ref] Figure 1: Survival of mice [/fig_ref]."
    )
