"""Where a file is, as users write it: a path, or a URL, which may hold the file itself (data:)."""

LONGEST_NAME = 200  # characters of a location in an error
_LONGEST_DATA = 40  # characters of a data: URL in an error


def describe(location: str) -> str:
    """A path or URL as errors and tables show it: short, and without a password or the data of a data: URL."""
    if is_data_url(location):
        start = location[:_LONGEST_DATA].partition(",")[0]
        return f"{start},… ({len(location)} characters)"
    scheme, separator, rest = location.partition("://")
    if separator and "@" in (host := rest.partition("/")[0]):
        location = f"{scheme}://{host.rpartition('@')[2]}{rest[len(host) :]}"
    if len(location) <= LONGEST_NAME:
        return location
    return f"{location[: LONGEST_NAME // 2]}…{location[-LONGEST_NAME // 4 :]} ({len(location)} characters)"


def is_data_url(location: str) -> bool:
    """Whether this is a data: URL, which holds the file itself."""
    return location.lstrip()[:5].lower() == "data:"


def is_url(location: str) -> bool:
    """Whether this is a URL of any scheme rather than a path."""
    return is_data_url(location) or "://" in location
