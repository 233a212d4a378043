"""JATS files that are too large, broken or hostile: a reason, in bounded time and memory."""

import gzip
import subprocess
import sys
import time
from collections import Counter

import pytest
from lxml import etree

from data_prep.documents import Reject
from data_prep.errors import DataError
from data_prep.source_config import Jats
from data_prep.sources.jats.reader import Article, article_document, extract_articles
from tests.data_prep.sources.jats_articles import IDS, article, put


def read(xml, options=None):
    data = xml if isinstance(xml, bytes) else xml.encode()
    return article_document(data, "a.xml", options or Jats(), 10**8, None, Counter())


# -- size


def test_a_file_of_one_article_above_the_limit_is_rejected_by_its_unpacked_size(tmp_path):
    xml = article("<p>" + "word " * 3000 + "</p>")
    for name in ("a.xml", "a.xml.gz"):
        path = put(tmp_path, xml, name)
        (reject,) = extract_articles(path, max_article_bytes=10_000)
        assert reject == Reject(
            name,
            "too large: more than 10000 bytes of XML, which is the source's max_article_bytes",
        )
        (whole,) = extract_articles(path, max_article_bytes=len(xml.encode()))
        assert isinstance(whole, Article)


def test_in_a_wrapper_only_the_articles_above_the_limit_are_rejected(tmp_path):
    small, large = article("<p>Small.</p>"), article("<p>" + "<b>word</b> " * 5000 + "</p>")
    path = put(tmp_path, f"<set>{small}{large}{small}{large}</set>", "w.xml.gz")
    first, second, third, fourth = extract_articles(path, max_article_bytes=20_000)
    assert [type(record) for record in (first, third)] == [Article, Article]
    assert [record.place for record in (second, fourth)] == ["w.xml.gz#2", "w.xml.gz#4"]
    assert all(record.reason.startswith("too large") for record in (second, fourth))


MEASURE = """
import resource, sys
from pathlib import Path
from data_prep.sources.jats.reader import extract_articles
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
records = list(extract_articles(Path(sys.argv[1]), max_article_bytes=int(sys.argv[2])))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(after - before, *(type(record).__name__ for record in records))
"""


@pytest.mark.parametrize(("wrapper", "megabytes"), [("", 80), ("set", 30)])
def test_a_large_article_never_becomes_a_tree(tmp_path, wrapper, megabytes):
    head, tail = article("BODY").split("BODY")
    if wrapper:
        head, tail = f"<{wrapper}>{article('<p>x</p>')}{head}", f"{tail}</{wrapper}>"
    path = tmp_path / "large.xml.gz"
    paragraph = b"<sec><title>T</title>" + b"<p>some <i>text</i> here</p>" * 3000 + b"</sec>"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head.encode())
        for _ in range(megabytes * 1_000_000 // len(paragraph)):
            file.write(paragraph)
        file.write(tail.encode())
    run = [sys.executable, "-c", MEASURE, path, "5000000"]
    output = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    kilobytes, *kinds = output
    assert kinds == ["Article", "Reject"] if wrapper else ["Reject"]
    assert int(kilobytes) < 120_000  # its tree takes 11,000 a megabyte


# -- hostile and broken XML


def test_entities_are_never_expanded_nor_fetched(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("SECRET")
    doctype = f'<!DOCTYPE article [<!ENTITY x SYSTEM "{secret.as_uri()}"><!ENTITY y "inner">]>'
    text = read(doctype + article("<p>a &x; b &y; c</p>")).document["text"]
    assert "SECRET" not in text
    assert text.endswith("a &x; b &y; c")


@pytest.mark.parametrize("content", ["<p>&a11;</p>", '<p id="&a11;"/>'])
def test_a_billion_laughs_are_refused(content):
    levels = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    xml = f'<!DOCTYPE article [<!ENTITY a0 "ha">{levels}]>' + article(content)
    record = read(xml)
    assert isinstance(record, Reject)
    assert record.reason.startswith("malformed XML")


BROKEN = {
    "invalid UTF-8": article("<p>café</p>").encode("latin-1"),
    "a NUL byte": article("<p>a\0b</p>").encode(),
    "a control character": article("<p>a\1b</p>").encode(),
    "cut": article("<p>a</p>").encode()[:-30],
    "two roots": article("<p>a</p>").encode() + b"<article/>",
    "text after": article("<p>a</p>").encode() + b"and more",
    "an undeclared prefix": article("<p><foo:bar/></p>").encode().replace(b"foo:bar", b"foo:<"),
    "UTF-16 that is none": b"\xff\xfe<article>",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_files_give_a_reason(tmp_path, fault):
    path = tmp_path / "a.xml"
    path.write_bytes(BROKEN[fault])
    try:
        records = list(extract_articles(path))
    except DataError as error:
        assert "broken at line" in str(error)  # noqa: PT017 - either is an answer
    else:
        assert [type(record) for record in records] == [Reject]
        assert records[0].reason.startswith("malformed XML: ")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "iso-8859-1"])
def test_other_encodings_are_read(encoding):
    declared = encoding.replace("-sig", "")
    xml = f'<?xml version="1.0" encoding="{declared}"?>' + article("<p>café</p>")
    assert read(xml.encode(encoding)).document["text"].endswith("café")


@pytest.mark.parametrize("tag", ["sec", "p", "italic", "sup", "list", "list-item", "boxed-text", "fig-group",
                                 "mml:msqrt", "mml:mfrac", "mml:msup", "mml:mrow", "novelty"])  # fmt: skip
def test_elements_nested_as_deep_as_libxml2_allows_are_read(tag):
    depth = 240  # with what is around it below libxml2's limit of 256
    core = "<mml:mi>#</mml:mi>" if tag.startswith("mml") else "#"
    if tag in ("boxed-text", "fig-group"):
        core = "<fig><caption><p>#</p></caption></fig>"
    nested = f"<{tag}>" * depth + core + f"</{tag}>" * depth
    text = read(
        article(f"<p><mml:math>{nested}</mml:math></p>" if tag.startswith("mml") else nested)
    )
    assert "#" in text.document["text"]
    record = read(article("<sec>" * 300 + "</sec>" * 300))
    assert isinstance(record, Reject)
    assert "depth" in record.reason


M = "<xref ref-type='bibr'>1</xref>"
LONG = {
    "opening brackets": "(" * 50_000 + M,
    "nested brackets": "(" * 20_000 + M + ")" * 20_000,
    "commas": f"({M}x" + "," * 50_000 + "x)",
    "commas and citations": f"{M}," * 10_000,
    "brackets of citations": f"[{M}] (" * 10_000,
    "escaped ampersands": "&amp;" + "amp;" * 50_000,
    "ampersands": "&amp;" * 50_000,
    "preambles": "<tex-math>" + r"\usepackage[" * 20_000 + "</tex-math>",
    "operators": "<mml:math>" + "<mml:mo>-</mml:mo>" * 20_000 + "</mml:math>",
    "brackets in a formula": "<mml:math><mml:msup><mml:mi>" + "( " * 20_000 + ")" * 20_000
    + "</mml:mi><mml:mn>2</mml:mn></mml:msup></mml:math>",
    "white space": f"a{M}" + " \n" * 50_000 + f"{M}b",
    "notes": "<xref ref-type='fn' rid='n1'/>" * 5_000,
    "superscripts": f"<sup>{M}</sup>,<sup>-</sup>" * 5_000,
    "typefaces": "<italic>a phrase</italic>, another" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("case", LONG)
@pytest.mark.parametrize("citations", ["drop", "keep", "tokens"])
def test_no_text_takes_more_than_linear_time(case, citations):
    chain = "".join(
        f"<fn id='n{n}'><p>{n}<xref ref-type='fn' rid='n{n + 1}'/></p></fn>" for n in range(500)
    )
    xml = article(
        f"<p>{LONG[case]}</p>", ids=IDS, after=f"<back><fn-group>{chain}</fn-group></back>"
    )
    etree.fromstring(xml)  # well-formed
    start = time.process_time()
    assert isinstance(read(xml, Jats(citations=citations)), Article)
    # Quadratic ones take minutes: no measure of speed, but of hanging.
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "back",
    [
        "<ref-list id='r' content-type=\"a>b\"><ref/></ref-list>{kept}",
        "<ref-list/>{kept}<ref-list />",
        "<ref-list><ref-list><ref/></ref-list><ref/></ref-list>{kept}",
        "<ref-list><ref/></ref-list>{kept}<ref-list><ref/></ref-list>",
        "<ref-list x='>'/>{kept}<fn-group><fn><p>n</p></fn></fn-group>",
        "<!-- <ref-list> -->{kept}<!-- </ref-list> -->",
        "<ref-list><!-- </ref-list> --><ref/></ref-list>{kept}",
        "{kept}<ref-list><ref><comment>cut</ref></ref-list>",
    ],
)
def test_what_stands_beside_reference_lists_stays(back):
    kept = "<app><p>Kept.</p></app>"
    record = read(article("<p>Body.</p>", after=f"<back>{back.format(kept=kept)}</back>"))
    assert isinstance(record, Article)
    assert record.document["text"] == "A title\n\nBody.\n\nKept."


def test_reference_lists_of_the_body_count_as_its_characters():
    listed = "<p>Body.</p><ref-list><ref><label>12</label></ref></ref-list>"
    assert read(article(listed)).body_characters == len("Body.12")
