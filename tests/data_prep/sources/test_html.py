"""Books and guidelines in HTML, read whole through the reader of their format."""

from collections import Counter

import pytest

from data_prep.documents import Reject
from data_prep.extract.readers import read_records
from data_prep.source_config import Source

PAGE = """<!DOCTYPE html>
<html lang="en-GB"><head>{meta}<title>Asthma guideline</title></head><body>
<nav><a href="/">Home</a> <a href="/topics">All topics</a></nav>
<main><h1>Asthma guideline</h1>
<p>Asthma is a <b>common</b> condition: 10<sup>5</sup> cases and CO<sub>2</sub> — naïve “quotes” – in many people.</p>
<h2>Diagnosis</h2>
<p>Use spirometry<br>first, and the challenge test later in all of the patients.</p>
<ul><li>The first item of the list<ul><li>an item within it</li></ul></li><li>The second item</li></ul>
<table><tr><th>Drug</th><th>Dose</th></tr><tr><td>Salbutamol</td><td>100 mcg</td></tr></table>
<h3>Treatment</h3><p>Inhaled steroids are the mainstay of treatment in most patients with asthma.</p>
</main><footer>Copyright and cookies</footer><script>alert("x")</script></body></html>"""
TEXT = """Asthma guideline

Asthma is a common condition: 10⁵ cases and CO₂ — naïve “quotes” – in many people.

## Diagnosis

Use spirometry first, and the challenge test later in all of the patients.

- The first item of the list
  - an item within it
- The second item

Drug | Dose
Salbutamol | 100 mcg

### Treatment

Inhaled steroids are the mainstay of treatment in most patients with asthma."""


def read(path, content, **options):
    path = path / "asthma.html"
    path.write_bytes(content)
    source = Source(format="html", path=path.parent, **options)
    (found,) = read_records(path, "nice/asthma.html", source, Counter())
    return found


def test_a_page_gives_its_main_text_as_our_documents_are_written(tmp_path):
    document = read(tmp_path, PAGE.format(meta="").encode())
    assert document["text"] == TEXT
    assert document["id"] == "text:nice/asthma.html#1"
    assert document["metadata"]["language"] == "eng"
    assert document["metadata"]["sections"] == ["Diagnosis", "Treatment"]
    assert read(tmp_path, PAGE.format(meta="").encode()) == document


@pytest.mark.parametrize(
    ("encoding", "meta"),
    [
        ("utf-8-sig", ""),
        ("utf-16", ""),
        ("cp1252", ""),
        ("cp1252", '<meta charset="ISO-8859-1">'),
        ("cp1252", '<meta http-equiv=Content-Type content="text/html; charset=windows-1252">'),
        ("gb18030", "<meta charset=gb2312>"),
        ("utf-8", '<meta charset="utf-8">'),
    ],
)
def test_a_page_is_read_in_its_encoding(tmp_path, encoding, meta):
    assert read(tmp_path, PAGE.format(meta=meta).encode(encoding))["text"] == TEXT


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no text"),
        (b"<html><body><nav><a href='/'>Home</a></nav></body></html>", "no text"),
        (b"<html><head><meta charset=utf-8></head><body><p>\xff\xfe text</p></body></html>", "unknown encoding"),
        (b"<html><head><meta charset=klingon></head><body><p>text</p></body></html>", "unknown encoding"),
        (b"<p>" + b"long text. " * 1000, "too large"),
    ],
)  # fmt: skip
def test_a_page_without_readable_text_is_rejected(tmp_path, content, reason):
    found = read(tmp_path, content, max_article_bytes=10_000)
    assert isinstance(found, Reject)
    assert (found.place, found.reason.partition(":")[0]) == ("nice/asthma.html", reason)


def test_a_page_nested_deeply_or_with_nul_bytes_stops_nothing(tmp_path):
    deep = "<div>" * 5000 + PAGE.format(meta="") + "</div>" * 5000
    assert read(tmp_path, deep.encode()) is not None
    document = read(tmp_path, PAGE.format(meta="").replace("spirometry", "spiro\0metry").encode())
    assert "spirometry first" in document["text"]
