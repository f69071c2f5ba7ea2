"""Helpers of the tests of sources."""

import io
import pickle

from PIL import Image
from visionsplit_batch.rows.rows import Content, Failure
from visionsplit_batch.sources import open_source


def png(colour: int) -> bytes:
    """A image's file, another one for each colour."""
    buffer = io.BytesIO()
    Image.new("L", (3, 2), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def read_all(source, at_once=3):
    """All rows by their ids, read in slices by a copy that was pickled, as in another process."""
    entries = list(source.entries())
    assert entries == list(source.entries()), "the order changes"
    list(source.read(entries[:1]))  # a copy must not need what reading leaves
    copy = pickle.loads(pickle.dumps(source))
    assert copy.settings() == source.settings()
    rows: dict[str, Content | Failure] = {}
    for start in range(0, len(entries), at_once):
        block = entries[start : start + at_once]
        contents = list(copy.read(block))
        assert len(contents) == len(block)
        rows |= {entry.id: content for entry, content in zip(block, contents, strict=True)}
    return rows


def images(source):
    """The images of rows that are known to be sound."""
    return {name: content.images for name, content in read_all(source).items()}


def opened(*inputs, **options):
    return open_source([str(one) for one in inputs], **options)
