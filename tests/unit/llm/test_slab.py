"""Virtual ids: never repeated, never overlapping, found again by content."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llm_service.engines.slab import IdsExhaustedError, Run, SlabAllocator, VirtualEmbedding

ROWS, FIRST = 20, 100


def rows_of(run: Run) -> set[int]:
    return {(identifier - FIRST) % ROWS for identifier in run.ids}


@given(st.lists(st.tuples(st.integers(1, ROWS), st.integers(0, 5)), max_size=60))
def test_ids_never_repeat_and_used_rows_never_overlap(steps: list[tuple[int, int]]):
    slab = SlabAllocator(first_id=FIRST, rows=ROWS, max_id=10**9)
    held: list[Run] = []
    given_out: set[int] = set()
    for number, (length, releases) in enumerate(steps):
        for _ in range(min(releases, len(held))):
            slab.release(held.pop(0))
        run = slab.allocate(f"{number}".encode(), length)
        if run is None:
            assert held
            continue
        assert given_out.isdisjoint(run.ids)
        given_out.update(run.ids)
        assert all(rows_of(run).isdisjoint(rows_of(other)) for other in held)
        assert len(rows_of(run)) == length
        held.append(run)
    assert slab.in_use == bool(held)


def test_room_is_found_behind_what_is_in_use():
    slab = SlabAllocator(first_id=FIRST, rows=ROWS, max_id=10**9)
    first = slab.allocate(b"a", 12)
    middle = slab.allocate(b"b", 4)
    slab.release(first)
    assert slab.allocate(b"c", 17) is None
    third = slab.allocate(b"d", 10)
    assert rows_of(third).isdisjoint(rows_of(middle))


def test_known_content_keeps_its_ids_until_its_rows_are_taken():
    slab = SlabAllocator(first_id=FIRST, rows=ROWS, max_id=10**9)
    run = slab.allocate(b"a", 8)
    slab.release(run)
    assert slab.find(b"a") is run
    slab.release(run)
    assert slab.find(b"b") is None
    slab.release(slab.allocate(b"b", 15))
    assert slab.find(b"a") is None
    assert slab.find(b"b") is not None


def test_a_run_that_was_never_filled_is_forgotten():
    slab = SlabAllocator(first_id=FIRST, rows=ROWS, max_id=10**9)
    slab.discard(slab.allocate(b"a", 8))
    assert slab.find(b"a") is None
    assert not slab.in_use


def test_ids_run_out_and_begin_again():
    slab = SlabAllocator(first_id=FIRST, rows=ROWS, max_id=FIRST + 29)
    slab.release(slab.allocate(b"a", 20))
    slab.release(slab.allocate(b"b", 10))
    with pytest.raises(IdsExhaustedError):
        slab.allocate(b"c", 1)
    slab.restart()
    assert slab.find(b"b") is None
    assert slab.allocate(b"c", 5).first_id == FIRST


def test_more_than_the_slab_is_a_mistake():
    with pytest.raises(ValueError, match="21"):
        SlabAllocator(first_id=FIRST, rows=ROWS, max_id=10**9).allocate(b"a", 21)


def test_embedding_finds_text_and_slab():
    table = nn.Embedding(7, 3)
    embedding = VirtualEmbedding(table, rows=5)
    first_id = 7 + 5 * 3 + 3  # row 3: the run wraps
    rows = torch.randn(4, 3)
    embedding.write(first_id, rows)
    ids = torch.tensor([[0, 6, *range(first_id, first_id + 4), 2]], dtype=torch.int32)
    expected = torch.cat([table(torch.tensor([0, 6])), rows, table(torch.tensor([2]))])[None]
    assert torch.equal(embedding(ids), expected)
