"""What the stage identify may decide about a document."""

from data_prep.curate import citations
from data_prep.curate.filters import FILTERS

REASONS = (
    "keep",
    "superseded",  # a newer revision of the citation or full text is there
    "deleted",  # NLM deleted the citation, or the full text's source withdrew it
    "retracted",  # a record or a notice says so, anywhere
    "has_full_text",  # a citation whose full text stays, by PMID, PMCID or DOI
    "duplicate_id",  # another full text of the article stays
    "same_title",  # a citation whose full text stays, by title
    *FILTERS,
    "quality",  # not drawn by its weight
    "seen_before",  # the corpus of curate.since kept it with the same text
)
"""A reason's code is its place."""

# The first three are the codes that `citations.winners` gives.
KEEP, SUPERSEDED, DELETED = citations.KEPT, citations.SUPERSEDED, citations.DELETED
RETRACTED, HAS_FULL_TEXT, DUPLICATE_ID, SAME_TITLE, FIRST_FILTER = range(3, 8)
QUALITY, SEEN_BEFORE = REASONS.index("quality"), REASONS.index("seen_before")
