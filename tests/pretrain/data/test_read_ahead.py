"""Reading ahead: in order, together, bounded, and over when it is left."""

import threading

import pytest

from data_prep.errors import DataError
from pretrain.data.read_ahead import ReadAhead

WAIT_S = 60  # for other threads, far more than they need


def test_values_come_in_the_order_in_which_they_were_wanted():
    with ReadAhead(str, 3, 2) as ahead:
        ahead.want(range(5))
        found = [ahead.take() for _ in range(4)]
        ahead.want(range(5, 20))
        found += [ahead.take() for _ in range(16)]
    assert found == [str(number) for number in range(20)]


def test_as_many_are_made_at_a_time_as_there_are_threads():
    together = threading.Barrier(8)  # lets nobody through before all eight are there
    with ReadAhead(lambda key: together.wait(WAIT_S), 8, 8) as ahead:
        ahead.want(range(16))
        assert sorted(ahead.take() for _ in range(8)) == list(range(8))
        assert sorted(ahead.take() for _ in range(8)) == list(range(8))


@pytest.mark.parametrize("threads", [1, 4, 9])
def test_what_is_made_or_waits_is_bounded(threads):
    begun: list[int] = []
    with ReadAhead(begun.append, 5, threads) as ahead:
        ahead.want(range(30))
        for taken in range(30):
            assert len(begun) <= taken + 5
            assert ahead.full == (taken <= 25)
            ahead.take()
    assert sorted(begun) == list(range(30))


def test_an_error_comes_where_its_value_would_have_come_and_nowhere_else():
    def make(key: int) -> int:
        if key == 2:
            raise DataError("row group 2: checksum is wrong")
        return key

    with ReadAhead(make, 4, 2) as ahead:
        ahead.want(range(5))
        assert [ahead.take(), ahead.take()] == [0, 1]
        with pytest.raises(DataError, match="row group 2"):
            ahead.take()
        assert [ahead.take(), ahead.take()] == [3, 4]


def test_nothing_begins_or_runs_after_it_is_left():
    running, end = threading.Semaphore(0), threading.Event()
    made: list[int] = []

    def make(key: int) -> None:
        running.release()
        assert end.wait(WAIT_S)
        made.append(key)

    with ReadAhead(make, 20, 2) as ahead:
        ahead.want(range(20))
        for _ in range(2):
            assert running.acquire(timeout=WAIT_S)
        threading.Timer(0.05, end.set).start()  # while it is being left
    assert sorted(made) == [0, 1]
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
