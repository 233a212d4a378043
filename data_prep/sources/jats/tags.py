"""What becomes of each JATS element in running text; every one that may stand there is in one set.

Names are those of the Journal Archiving and Interchange Tag Set
(https://jats.nlm.nih.gov/archiving/tag-library/1.3/) and of the NLM DTDs before it; tables also in the
OASIS exchange model.
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


DROPPED = _names(
    # pictures, data and what describes them; glyph-data is a picture in digits
    "graphic inline-graphic media object-id alt-text long-desc supplementary-material glyph-data "
    "glyph-ref resource-group resource-id resource-name resource-wrap version "
    # references, and elements that belong to an article's front or back
    "ref-list ref element-citation mixed-citation citation nlm-citation citation-alternatives "
    "note fn-group contrib-group contrib aff aff-alternatives author-notes funding-group "
    "funding-statement award-group support-group support-description permissions kwd-group sec-meta "
    "related-article related-object notes bio sig-block sig sub-article response front-stub "
    "custom-meta-group custom-meta-wrap custom-meta article-id "
    # invisible things
    "index-term index-term-range-end target milestone-start milestone-end processing-meta"
)

TABLES = _names("table array tgroup")
TABLE_PARTS = _names(
    "table-wrap-foot tr td th thead tbody tfoot colgroup col row entry colspec entrytbl spanspec"
)
"""Their content is text where table bodies are wanted (jats_tables), otherwise dropped."""

OPTIONAL = _names("ack")
"""Dropped unless the config asks for them."""

INLINE = _names(
    "italic bold sc underline overline roman sans-serif monospace strike fixed-case ruby rb rt rp "
    "underline-start underline-end overline-start overline-end "
    "named-content styled-content ext-link uri email abbrev abbrev-journal-title xref fn sup sub "
    "inline-formula inline-supplementary-material chem-struct private-char "
    "alternatives tex-math math textual-form break hr term def inline-media "
    "funding-source award-id award-name award-desc principal-award-recipient principal-investigator "
    "institution institution-wrap institution-id country addr-line city state postal-code fax phone "
    "article-title source year month day date volume issue fpage lpage page-range elocation-id pub-id "
    "publisher-name publisher-loc edition issn isbn comment name surname given-names prefix suffix "
    "string-name string-date person-group collab etal price product license-p chapter-title "
    "part-title trans-title data-title patent gov era season series size std std-organization "
    "conf-name conf-date conf-loc conf-sponsor conf-acronym conf-num conf-theme "
    "degrees role on-behalf-of collab-alternatives name-alternatives anonymous "
    "date-in-citation access-date time-stamp annotation issue-part issue-title issue-title-group "
    "volume-issue-group volume-series volume-id issue-id issue-sponsor supplement "
    "publisher page-count unstructured-kwd-group author-comment contrib-id "
    "x text-path abbreviation self-uri"
)

PARAGRAPHS = _names(  # a line break before and after, and nothing else
    "p disp-quote disp-formula disp-formula-group verse-group verse-line speech speaker "
    "statement attrib question question-wrap question-wrap-group question-preamble answer answer-set "
    "explanation option app-group "
    "def-head term-head caption list-content address"
)

HANDLED = _names(
    "sec app glossary title subtitle label list list-item def-list def-item boxed-text preformat code block-alternatives"
)

CAPTION_ONLY = _names("fig table-wrap chem-struct-wrap chem-struct-wrapper")

CAPTION_GROUPS = _names(
    "fig-group table-wrap-group chem-struct-wrap-group floats-group floats-wrap"
)

ALL_SETS = (
    DROPPED, TABLES, TABLE_PARTS, OPTIONAL, INLINE, PARAGRAPHS, HANDLED, CAPTION_ONLY, CAPTION_GROUPS,
)  # fmt: skip

KNOWN = frozenset().union(*ALL_SETS)
