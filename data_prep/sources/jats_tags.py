"""What becomes of each JATS element in running text; every one that may stand there is in one set.

Names are those of the Journal Archiving and Interchange Tag Set
(https://jats.nlm.nih.gov/archiving/tag-library/1.3/) and of the NLM DTDs before it.
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


DROPPED = _names(
    # pictures, data and what describes them
    "graphic inline-graphic media object-id alt-text long-desc supplementary-material "
    # the bodies and footnotes of tables
    "table tr td th thead tbody tfoot colgroup col table-wrap-foot oasis-table array "
    # references, and elements that belong to an article's front or back
    "ref-list element-citation mixed-citation citation nlm-citation citation-alternatives ack "
    "fn-group contrib-group aff aff-alternatives author-notes funding-group funding-statement "
    "permissions kwd-group sec-meta related-article related-object notes bio signature-block "
    "sub-article response "
    # invisible things
    "index-term index-term-range-end target milestone-start milestone-end processing-meta"
)

INLINE = _names(
    "italic bold sc underline overline roman sans-serif monospace strike fixed-case ruby rb rt "
    "underline-start underline-end overline-start overline-end "
    "named-content styled-content ext-link uri email abbrev abbrev-journal-title xref fn sup sub "
    "inline-formula inline-supplementary-material chem-struct private-char glyph-data glyph-ref "
    "alternatives tex-math math textual-form break hr term def inline-media "
    "funding-source award-id institution institution-wrap institution-id country addr-line "
    "article-title source year month day date volume issue fpage lpage page-range pub-id "
    "publisher-name publisher-loc edition issn isbn comment name surname given-names prefix suffix "
    "string-name string-date person-group collab etal price product license-p "
    "x text-path size season series std"
)

PARAGRAPHS = _names(  # a line break before and after, and nothing else
    "p disp-quote disp-formula disp-formula-group verse-group verse-line speech speaker "
    "statement attrib question question-wrap question-wrap-group question-preamble answer answer-set "
    "explanation option app app-group notes-group "
    "def-head term-head caption list-content address"
)

HANDLED = _names(
    "sec title subtitle label list list-item def-list def-item boxed-text preformat code"
)

CAPTION_ONLY = _names("fig table-wrap chem-struct-wrap")

CAPTION_GROUPS = _names("fig-group table-wrap-group floats-group floats-wrap")

ALL_SETS = (DROPPED, INLINE, PARAGRAPHS, HANDLED, CAPTION_ONLY, CAPTION_GROUPS)

KNOWN = frozenset().union(*ALL_SETS)
