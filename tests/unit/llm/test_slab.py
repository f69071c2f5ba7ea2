"""Virtual ids: never repeated, never overlapping, found again by content; all images of a request or none."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llm_service.engines.continuous.slab import IdsExhaustedError, Run, SlabAllocator, VirtualEmbedding

ROWS, FIRST = 20, 100


def rows_of(run: Run) -> set[int]:
    return {(identifier - FIRST) % ROWS for identifier in run.ids}


def fill(runs: list[Run]) -> list[Run]:
    for run in runs:
        run.filled = True
    return runs


def placed(slab: SlabAllocator, *images: tuple[bytes, int]) -> list[Run]:
    """Runs of images that must find room, filled."""
    runs = slab.place(images)
    assert runs is not None
    return fill(runs)


@pytest.fixture
def slab() -> SlabAllocator:
    return SlabAllocator(first_id=FIRST, rows=ROWS, max_id=10**9)


image_lists = st.lists(st.tuples(st.integers(0, 8), st.integers(1, ROWS // 2)), min_size=1, max_size=4)


@given(st.lists(st.tuples(image_lists, st.integers(0, 3)), max_size=40))
def test_requests_get_all_their_images_or_none(steps: list[tuple[list[tuple[int, int]], int]]):
    """Ids never repeat, rows in use never overlap, and with nothing in use whatever fits the slab is placed."""
    slab = SlabAllocator(first_id=FIRST, rows=ROWS, max_id=10**9)
    held: list[list[Run]] = []
    content_of: dict[int, bytes] = {}  # by id
    for images, releases in steps:
        for _ in range(min(releases, len(held))):
            for run in held.pop(0):
                slab.release(run)
        wanted = [(f"{number} of {length}".encode(), length) for number, length in images]
        if sum(dict(wanted).values()) > ROWS:
            continue
        users = sum(run.users for request in held for run in set_of(request))
        runs = slab.place(wanted)
        if runs is None:
            assert held
            assert sum(run.users for request in held for run in set_of(request)) == users
            continue
        held.append(fill(runs))
        assert [(run.key, run.length) for run in runs] == wanted
        for run in runs:
            assert all(content_of.setdefault(identifier, run.key) == run.key for identifier in run.ids)
        in_use = set_of([run for request in held for run in request])
        assert sum(len(rows_of(run)) for run in in_use) == len(set().union(*map(rows_of, in_use)))
    assert slab.in_use == bool(held)


def set_of(runs: list[Run]) -> list[Run]:
    return list({id(run): run for run in runs}.values())


def test_room_is_found_behind_what_is_in_use(slab: SlabAllocator):
    (first,) = placed(slab, (b"a", 12))
    (middle,) = placed(slab, (b"b", 4))
    slab.release(first)
    assert slab.place([(b"c", 17)]) is None
    (third,) = placed(slab, (b"d", 10))
    assert rows_of(third).isdisjoint(rows_of(middle))


def test_known_content_keeps_its_ids_until_its_rows_are_taken(slab: SlabAllocator):
    (run,) = placed(slab, (b"a", 8))
    slab.release(run)
    assert placed(slab, (b"a", 8)) == [run]
    slab.release(run)
    (other,) = placed(slab, (b"b", 15))
    slab.release(other)
    (again,) = placed(slab, (b"a", 4))
    assert again is not run


def test_known_content_gives_way_where_it_leaves_no_gap(slab: SlabAllocator):
    """Rows 0-1 and 10-11 hold known images; one that needs 16 rows fits between them only if they move."""
    for key, length in ((b"a", 2), (b"x", 8), (b"c", 2)):
        slab.release(*placed(slab, (key, length)))
    runs = placed(slab, (b"a", 2), (b"c", 2), (b"b", 16))
    assert sum(len(rows_of(run)) for run in runs) == ROWS == len(set().union(*map(rows_of, runs)))


def test_a_request_that_waits_holds_nothing(slab: SlabAllocator):
    (known,) = placed(slab, (b"a", 4))
    (running,) = placed(slab, (b"r", 10))
    slab.release(known)
    assert slab.place([(b"a", 4), (b"b", 5), (b"c", 5)]) is None
    assert known.users == 0
    slab.release(running)
    assert not slab.in_use
    assert placed(slab, (b"a", 4), (b"b", 5), (b"c", 5))[0] is known


def test_a_run_that_was_never_filled_is_forgotten(slab: SlabAllocator):
    runs = slab.place([(b"a", 8), (b"a", 8)])
    assert runs is not None
    for run in runs:
        slab.release(run)
    assert placed(slab, (b"a", 8))[0] is not runs[0]


def test_ids_run_out_and_begin_again():
    slab = SlabAllocator(first_id=FIRST, rows=ROWS, max_id=FIRST + 29)
    slab.release(*placed(slab, (b"a", 20)))
    slab.release(*placed(slab, (b"b", 5)))
    with pytest.raises(IdsExhaustedError):
        slab.place([(b"b", 5), (b"c", 5), (b"d", 1)])
    assert not slab.in_use
    slab.restart()
    assert placed(slab, (b"b", 5), (b"c", 15))[0].first_id == FIRST


def test_more_than_the_slab_is_a_mistake(slab: SlabAllocator):
    with pytest.raises(ValueError, match="21"):
        slab.place([(b"a", 10), (b"b", 11)])


def test_fewer_ids_than_rows_are_a_mistake():
    with pytest.raises(ValueError, match="19"):
        SlabAllocator(first_id=FIRST, rows=ROWS, max_id=FIRST + 18)


def test_embedding_finds_text_and_slab():
    table = nn.Embedding(7, 3)
    embedding = VirtualEmbedding(table, rows=5)
    first_id = 7 + 5 * 3 + 3  # row 3: the run wraps
    rows = torch.randn(4, 3)
    embedding.write(first_id, rows)
    ids = torch.tensor([[0, 6, *range(first_id, first_id + 4), 2]], dtype=torch.int32)
    expected = torch.cat([table(torch.tensor([0, 6])), rows, table(torch.tensor([2]))])[None]
    assert torch.equal(embedding(ids), expected)
