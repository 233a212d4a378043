"""The census of JATS tags: each has its place, on purpose."""

from data_prep.sources.jats import tags as jats_tags
from data_prep.sources.jats.inline import FLAT
from data_prep.sources.jats.text import BLOCKS


def names(text):
    return frozenset(text.split())


# The elements of the Journal Archiving and Interchange Tag Set 1.3
# (https://jats.nlm.nih.gov/archiving/tag-library/1.3/, "Elements"), without MathML's and the tables' own.
ARCHIVING = names("""
abbrev abbrev-journal-title abstract access-date ack addr-line address aff aff-alternatives ali:free_to_read
ali:license_ref alt-text alt-title alternatives annotation anonymous answer answer-set app app-group array article
article-categories article-id article-meta article-title article-version article-version-alternatives attrib
author-comment author-notes award-desc award-group award-id award-name back bio block-alternatives body bold
boxed-text break caption chapter-title chem-struct chem-struct-wrap citation-alternatives city code collab
collab-alternatives collab-name collab-name-alternatives comment compound-kwd compound-kwd-part compound-subject
compound-subject-part conf-acronym conf-date conf-loc conf-name conf-num conf-sponsor conf-theme conference contrib
contrib-group contrib-id contributed-resource-group copyright-holder copyright-statement copyright-year corresp count
counts country custom-meta custom-meta-group data-title date date-in-citation day def def-head def-item def-list
degrees disp-formula disp-formula-group disp-quote edition editor element-citation elocation-id email equation-count
era etal event event-desc explanation ext-link extended-by fax fig fig-count fig-group fixed-case floats-group fn
fn-group fpage front front-stub funding-group funding-source funding-statement given-names glossary glyph-data
glyph-ref gov graphic history hr index-term index-term-range-end inline-formula inline-graphic inline-media
inline-supplementary-material institution institution-id institution-wrap isbn issn issn-l issue issue-id issue-part
issue-sponsor issue-subtitle issue-title issue-title-group italic journal-id journal-meta journal-subtitle
journal-title journal-title-group kwd kwd-group label legend license license-p list list-content list-item long-desc
lpage media meta-name meta-value milestone-end milestone-start mixed-citation month monospace name name-alternatives
named-content nested-kwd nlm-citation note notes object-id on-behalf-of open-access option overline overline-end
overline-start p page-count page-range part-title patent permissions person-group phone postal-code prefix preformat
price principal-award-recipient principal-investigator private-char processing-meta product pub-date
pub-date-not-available pub-history pub-id publisher publisher-loc publisher-name question question-preamble
question-wrap question-wrap-group rb ref ref-count ref-list related-article related-object resource-group resource-id
resource-name resource-wrap response restricted-by role roman rp rt ruby sans-serif sc season sec sec-meta self-uri
series series-text series-title sig sig-block size source speaker speech state statement std std-organization
strike string-conf string-date string-name styled-content sub sub-article subj-group subject subtitle suffix sup
supplement supplementary-material support-description support-group support-source surname table-count table-wrap
table-wrap-foot table-wrap-group target term term-head tex-math textual-form time-stamp title title-group
trans-abstract trans-source trans-subtitle trans-title trans-title-group underline underline-end underline-start
unstructured-kwd-group uri verse-group verse-line version volume volume-id volume-issue-group volume-series word-count
x xref year
""")  # fmt: skip

# Of an article's front, back or references, or of the article as a whole: they never stand in a body or
# abstract, so that one that does is unknown there and counted.
ELSEWHERE = names("""
abstract ali:free_to_read ali:license_ref alt-title article article-categories article-meta article-version
article-version-alternatives back body collab-name collab-name-alternatives compound-kwd compound-kwd-part
compound-subject compound-subject-part conference contributed-resource-group copyright-holder copyright-statement
copyright-year corresp count counts editor equation-count event event-desc extended-by fig-count front history
issn-l issue-subtitle journal-id journal-meta journal-subtitle journal-title journal-title-group kwd legend license
meta-name meta-value nested-kwd open-access pub-date pub-date-not-available pub-history ref-count restricted-by
series-text series-title string-conf subj-group subject support-source table-count title-group trans-abstract
trans-source trans-subtitle trans-title-group word-count
""")  # fmt: skip


def test_every_jats_element_is_in_exactly_one_set_or_stands_elsewhere():
    for name in ARCHIVING:
        places = sum(name in tags for tags in (*jats_tags.ALL_SETS, ELSEWHERE))
        assert places == 1, name


def test_no_tag_is_in_two_sets():
    assert sum(map(len, jats_tags.ALL_SETS)) == len(jats_tags.KNOWN)


def test_both_walks_know_every_tag_of_the_census_and_no_other():
    assert set(BLOCKS) & jats_tags.KNOWN == jats_tags.KNOWN
    assert set(FLAT) & jats_tags.KNOWN == jats_tags.KNOWN


def test_what_is_dropped_is_dropped_in_both_walks():
    for name in jats_tags.DROPPED:
        assert BLOCKS[name] is FLAT[name] is not None, name
