"""Small JATS articles for tests."""

import gzip
from collections import Counter

from data_prep.source_config import Jats
from data_prep.sources.jats.reader import Article, extract_articles, read_articles

NAMESPACES = (
    'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML" '
    'xmlns:ali="http://www.niso.org/schemas/ali/1.0/"'
)
IDS = '<article-id pub-id-type="pmc">PMC1</article-id>'


def article(
    body="", meta="", ids=IDS, title="A title", kind="research-article", after="", lang="en"
):
    return f"""<article article-type="{kind}" xml:lang="{lang}" {NAMESPACES}>
    <front><journal-meta><journal-title-group><journal-title>The Journal</journal-title>
    </journal-title-group></journal-meta><article-meta>{ids}<title-group>
    <article-title>{title}</article-title></title-group>{meta}</article-meta></front>
    <body>{body}</body>{after}</article>"""


def put(tmp_path, text, name="a.xml"):
    path = tmp_path / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def read_one(tmp_path, *args, **parts):
    """The document that an article made of these parts gives."""
    (document,) = read_articles(put(tmp_path, article(*args, **parts)))
    return document


def extract_one(tmp_path, *args, options=None, tally=None, **parts):
    """The document of such an article, read with options; what was met is counted in `tally`."""
    path = put(tmp_path, article(*args, **parts))
    tally = Counter() if tally is None else tally
    (extracted,) = extract_articles(path, options=options or Jats(), tally=tally)
    assert isinstance(extracted, Article)
    return extracted.document
