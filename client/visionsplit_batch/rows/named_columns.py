"""Checks the columns that the job names: a wrong name would give an empty column, or fail every row."""

from collections.abc import Collection
from itertools import islice

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Source

_ROWS_LOOKED_AT = 16  # for formats whose columns are known only by reading rows


def check_columns(source: Source, carried: Collection[str], in_prompts: Collection[str]) -> None:
    """Check that the input has the named columns.

    Args:
        source: the input.
        carried: columns to copy to the output.
        in_prompts: columns whose values the prompts contain.

    Raises:
        InputError: the first rows have no such column.
    """
    if not (carried or in_prompts):
        return
    known = source.known_columns
    if known is None:
        known = _columns_read(source)
    if known is None:
        return
    has = f"it has {', '.join(sorted(known))} beside those of ids, images and prompts" if known else "it has none"
    for name in carried:
        if name not in known:
            raise InputError(f"--column: the input has no column {name!r} to carry along; {has}")
    for name in sorted(in_prompts):
        if name not in known:
            raise InputError(
                f"--prompt: the input has no column {name!r} for {{{name}}}; {has}; "
                f"write {{{{{name}}}}} for the text {{{name}}}"
            )


def _columns_read(source: Source) -> frozenset[str] | None:
    """The columns of the first rows; None if all of these rows fail."""
    contents = source.read(list(islice(source.entries(), _ROWS_LOOKED_AT)))
    fields = [frozenset(content.fields) for content in contents if isinstance(content, Content)]
    return frozenset().union(*fields) if fields else None
