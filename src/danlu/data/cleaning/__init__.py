"""The cleaning steps that look at one row at a time, each in a file of its name; `STEPS` lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from danlu.data.cleaning.control_characters import ControlCharacters
from danlu.data.cleaning.encoding import Encoding
from danlu.data.cleaning.html import Html
from danlu.data.cleaning.language import Language
from danlu.data.cleaning.length import Length
from danlu.data.cleaning.patterns import AnswerFormat, Reject, Replace
from danlu.data.cleaning.refusal import Refusal
from danlu.data.cleaning.unicode import Unicode
from danlu.data.cleaning.whitespace import Whitespace
from danlu.data.records import Record


class RowStep(Protocol):
    """One step: a record in, the same object out if nothing changed, an equal or changed one else.

    Steps are picklable. What is heavy is imported and loaded at the first call, in the process that calls.

    Attributes:
        name: what the ledger shows: the section's type, or its `name`.
    """

    name: str

    def __call__(self, record: Record) -> Record:
        """The cleaned record.

        Raises:
            RowFault: the row is to be dropped.
        """
        ...


# A section's `type` → what makes the step of the section's other keys.
STEPS: dict[str, Callable[..., RowStep]] = {
    "encoding": Encoding,
    "unicode": Unicode,
    "control_characters": ControlCharacters,
    "html": Html,
    "whitespace": Whitespace,
    "replace": Replace,
    "reject": Reject,
    "language": Language,
    "length": Length,
    "refusal": Refusal,
    "answer_format": AnswerFormat,
}
