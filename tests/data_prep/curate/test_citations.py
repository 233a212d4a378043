import numpy as np
import pytest

from data_prep.curate.citations import DELETED, KEPT, SUPERSEDED, winners


def arrays(events):
    """(pmid, version, file, position, is_deletion) tuples as the arrays `winners` takes."""
    columns = list(zip(*events, strict=True))
    return [np.array(column, dtype=np.int64) for column in columns[:4]] + [
        np.array(columns[4], dtype=bool)
    ]


def replay(events):
    """Load the files one after another into a dictionary, as a citation database would."""
    alive, fate = {}, {}
    for file in sorted({event[2] for event in events}):
        here = [(i, e) for i, e in enumerate(events) if e[2] == file]
        for i, (pmid, version, _, position, is_deletion) in here:
            if not is_deletion:
                alive.setdefault(pmid, []).append((version, file, position, i))
        for i, (pmid, version, _, _, is_deletion) in here:
            if is_deletion:
                fate[i] = DELETED
                for record in alive.get(pmid, []):
                    if record[0] <= version:
                        fate[record[3]] = DELETED
                alive[pmid] = [r for r in alive.get(pmid, []) if r[0] > version]
    for records in alive.values():
        for rank, record in enumerate(sorted(records, reverse=True)):
            fate[record[3]] = SUPERSEDED if rank else KEPT
    return [fate[i] for i in range(len(events))]


@pytest.mark.parametrize("seed", range(200))
def test_equals_loading_file_after_file_into_a_dictionary(seed):
    rng = np.random.default_rng(seed)
    n, pmids, files = rng.integers(1, 60), rng.integers(1, 25), rng.integers(1, 6)
    events = [
        (
            int(rng.integers(1, pmids + 1)),
            int(rng.integers(1, 4)),
            int(rng.integers(files)),
            position,
            bool(rng.random() < 0.3),
        )
        for position in range(n)
    ]
    keep, reason = winners(*arrays(events))
    assert reason.tolist() == replay(events)
    assert keep.tolist() == [code == KEPT for code in replay(events)]


def test_added_revised_deleted_and_added_again_over_four_files():
    added, revised, deleted, again = (
        (7, 1, 1, 0, 0),
        (7, 1, 2, 5, 0),
        (7, 1, 3, 9, 1),
        (7, 1, 4, 2, 0),
    )
    assert winners(*arrays([added]))[1].tolist() == [KEPT]
    assert winners(*arrays([added, revised]))[1].tolist() == [SUPERSEDED, KEPT]
    assert winners(*arrays([added, revised, deleted]))[1].tolist() == [DELETED] * 3
    after = winners(*arrays([added, revised, deleted, again]))
    assert after[0].tolist() == [False, False, False, True]


def test_a_deletion_acts_after_the_records_of_its_own_file_wherever_it_stands_in_it():
    assert winners(*arrays([(7, 1, 1, 0, 1), (7, 1, 1, 1, 0)]))[1].tolist() == [DELETED, DELETED]


def test_a_deletion_spares_newer_versions():
    events = [(7, 1, 1, 0, 0), (7, 2, 1, 1, 0), (7, 1, 2, 0, 1)]
    assert winners(*arrays(events))[1].tolist() == [DELETED, KEPT, DELETED]


def test_a_higher_version_wins_over_a_later_file():
    assert winners(*arrays([(7, 2, 1, 0, 0), (7, 1, 2, 0, 0)]))[1].tolist() == [KEPT, SUPERSEDED]


def test_no_events_give_no_answers():
    keep, reason = winners(*[np.zeros(0, dtype=np.int64)] * 4, np.zeros(0, dtype=bool))
    assert len(keep) == len(reason) == 0
