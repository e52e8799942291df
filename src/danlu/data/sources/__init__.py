"""Reading rows from any file: which files an entry of the recipe means, and the rows in each with their places."""

from danlu.data.sources.find import find_sources
from danlu.data.sources.kinds import Source, known_kinds
from danlu.data.sources.read import encoding_of, fingerprint, read_rows, require_versions, version
from danlu.data.sources.rows import BadRow, Row

__all__ = [
    "BadRow",
    "Row",
    "Source",
    "encoding_of",
    "find_sources",
    "fingerprint",
    "known_kinds",
    "read_rows",
    "require_versions",
    "version",
]
