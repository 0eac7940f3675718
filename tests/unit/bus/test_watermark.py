"""The watermark, whatever the order in which records end."""

from hypothesis import given
from hypothesis import strategies as st

from app.bus.watermark import Watermark

taken_offsets = st.sets(st.integers(0, 200), max_size=30).map(sorted)


def next_after(done: list[int], begin: int) -> int:
    return done[-1] + 1 if done else begin


@given(taken=taken_offsets, data=st.data())
def test_the_position_is_behind_the_last_record_before_the_first_that_is_not_done(taken, data):
    order = data.draw(st.permutations(taken))
    mark = Watermark(0)
    for offset in taken:
        mark.take(offset)
    for count, offset in enumerate(order, 1):
        position = mark.done(offset)
        undone = sorted(order[count:])
        finished = [o for o in taken if not undone or o < undone[0]]
        assert position == mark.position == next_after(finished, 0)
        assert all(o >= position for o in undone), "an undone record is never passed"
        assert mark.open() == len(taken) - len(finished)


@given(first=st.integers(0, 1000), count=st.integers(0, 30), data=st.data())
def test_without_gaps_the_position_is_the_smallest_offset_that_is_not_done(first, count, data):
    taken = list(range(first, first + count))
    mark = Watermark(first)
    for offset in taken:
        mark.take(offset)
    undone = set(taken)
    for offset in data.draw(st.permutations(taken)):
        undone.remove(offset)
        assert mark.done(offset) == min(undone, default=first + count)


@given(steps=st.lists(st.booleans(), max_size=60), data=st.data())
def test_records_may_be_taken_while_others_end(steps, data):
    mark, next_offset, running = Watermark(0), 0, set()
    for take in steps:
        if take or not running:
            mark.take(next_offset)
            running.add(next_offset)
            next_offset += 1
        else:
            offset = data.draw(st.sampled_from(sorted(running)))
            running.remove(offset)
            mark.done(offset)
        assert mark.position == min(running, default=next_offset)


def test_the_position_never_goes_back():
    mark = Watermark(5)
    for offset in (5, 6, 9):
        mark.take(offset)
    assert [mark.done(offset) for offset in (9, 5, 6)] == [5, 6, 10]


def test_ending_one_twice_changes_nothing():
    mark = Watermark(0)
    mark.take(0)
    mark.take(1)
    assert [mark.done(0), mark.done(0), mark.open(), mark.done(1)] == [1, 1, 1, 2]


def test_nothing_taken_leaves_the_position_where_it_was():
    mark = Watermark(7)
    assert (mark.position, mark.open()) == (7, 0)
