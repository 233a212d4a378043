"""Which record of each PMID stands, after all revisions and deletions.

NLM's rule, as the baseline's README gives it: load the baseline, then every update file in order; a
record replaces the one with its PMID, a DeleteCitation block removes it. A PMID can also have
several versions. Written without an order of events, so that arrays can answer it at once:

* a record is **deleted** when a DeleteCitation of its own file or of a later one names its version or
  a newer one (a record of a later file than the deletion is untouched: it was added again);
* of what is left of a PMID the newest is **kept**: highest version, then file order, then place in
  the file;
* the others are **superseded**.
"""

from __future__ import annotations

import numpy as np

KEPT, SUPERSEDED, DELETED = 0, 1, 2
"""The reason codes of `winners`."""

_NEVER_DELETED = -1
_VERSION_SPAN = np.int64(1) << 20  # versions lie below it: NLM's highest are two digits


def winners(
    pmid: np.ndarray,
    version: np.ndarray,
    file_order: np.ndarray,
    position: np.ndarray,
    is_deletion: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Say which events stand: (keep mask, reason code) per event, in the order given.

    An event is a record or a deletion (`is_deletion`); the arrays are parallel, of shape (n,), in any
    order. `file_order` is the rank of the file, `position` the place in it. A deletion's own row is
    never kept and carries DELETED.

    Nearly every PMID has one event and is settled by one sort. Peak memory is 30 bytes an event
    above the caller's arrays, and some 80 more for each event of a PMID that has several (measured).
    """
    keep = ~np.asarray(is_deletion, dtype=bool)
    reason = np.where(keep, KEPT, DELETED).astype(np.uint8)
    several = _of_repeated(pmid)
    if len(several) == 0:
        return keep, reason
    reason[several] = _settle(
        pmid[several], version[several], file_order[several], position[several], keep[several]
    )
    return reason == KEPT, reason


def _of_repeated(pmid: np.ndarray) -> np.ndarray:
    """The rows whose PMID occurs more than once."""
    order = np.argsort(pmid)
    in_order = pmid[order]
    same_as_next = in_order[1:] == in_order[:-1]
    repeated = np.zeros(len(pmid), dtype=bool)
    repeated[1:] = same_as_next
    repeated[:-1] |= same_as_next
    return order[repeated]


def _settle(
    pmid: np.ndarray,
    version: np.ndarray,
    file_order: np.ndarray,
    position: np.ndarray,
    is_record: np.ndarray,
) -> np.ndarray:
    """The reason codes of events whose PMIDs have several."""
    group = np.unique(pmid, return_inverse=True)[1].astype(np.int64)
    version = version.astype(np.int64)
    reason = np.full(len(pmid), DELETED, dtype=np.uint8)
    left = is_record & (version > deleted_up_to(group, version, file_order, is_record))
    reason[left] = SUPERSEDED

    rows = np.flatnonzero(left)
    rows = rows[np.lexsort((position[rows], file_order[rows], version[rows], group[rows]))]
    last_of_group = np.append(group[rows][1:] != group[rows][:-1], True)[: len(rows)]
    reason[rows[last_of_group]] = KEPT
    return reason


def deleted_up_to(
    group: np.ndarray, version: np.ndarray, file_order: np.ndarray, is_record: np.ndarray
) -> np.ndarray:
    """For each event the highest version that a deletion of its file or a later one names, or -1.

    Events of one `group` (small integers) are of one PMID or PMCID. A running maximum from the last
    event to the first: within a file the deletions come last, and earlier groups start from a higher
    base, so that one pass serves all groups.
    """
    order = np.lexsort((~is_record, file_order, group))[::-1]
    base = (group.max() - group[order]) * _VERSION_SPAN
    named = np.where(is_record[order], _NEVER_DELETED, version[order])
    highest = np.maximum.accumulate(base + named + 1) - base - 1
    result = np.empty(len(group), dtype=np.int64)
    result[order] = highest
    return result
