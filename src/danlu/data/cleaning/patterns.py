"""Steps made of one regular expression of the user's: replace, reject, answer_format."""

from __future__ import annotations

import re
from collections.abc import Sequence

from danlu.data.cleaning.texts import answers, change_texts
from danlu.data.records import Record, RowFault
from danlu.errors import DataError, Fault


class Replace:
    """Replaces what a regular expression finds, in the texts and tool arguments of some roles (None: all)."""

    def __init__(
        self, pattern: str, replacement: str = "", name: str = "replace", roles: Sequence[str] | None = None
    ) -> None:
        """Builds the step.

        Raises:
            DataError: the replacement names a group that the pattern has not.
        """
        self.name = name
        self._pattern = re.compile(pattern)
        self._replacement = replacement
        try:
            self._pattern.sub(replacement, "")
        except (re.error, IndexError) as error:
            hint = "write a backslash as \\\\ and a group as \\1"
            raise DataError(
                Fault(f"the replacement does not fit the pattern: {error}", f"data.cleaning {name}", hint=hint)
            ) from error
        self._roles = roles

    def __call__(self, record: Record) -> Record:
        """The record with the replacements.

        Raises:
            RowFault: a text became empty.
        """
        return change_texts(
            record, self.name, lambda text: self._pattern.sub(self._replacement, text), roles=self._roles
        )


class Reject:
    """Drops rows in which a regular expression is found, in the texts and tool arguments of some roles (None: all)."""

    def __init__(self, pattern: str, name: str = "reject", roles: Sequence[str] | None = None) -> None:
        self.name = name
        self._pattern = re.compile(pattern)
        self._roles = roles

    def __call__(self, record: Record) -> Record:
        """The record as it is.

        Raises:
            RowFault: the expression is found. The reason holds no text of the row: it may be a private one.
        """

        def check(role: str, text: str) -> str:
            if (self._roles is None or role in self._roles) and self._pattern.search(text):
                raise RowFault(f"rejected by {self.name}: found in a {role} text")
            return text

        record.with_texts(check)
        return record


class AnswerFormat:
    """Keeps rows in which each trained answer contains a match of a regular expression (MULTILINE)."""

    def __init__(self, pattern: str) -> None:
        self.name = "answer_format"
        self._pattern = re.compile(pattern, re.MULTILINE)

    def __call__(self, record: Record) -> Record:
        """The record as it is.

        Raises:
            RowFault: an answer that is trained has no match; answers that only call tools need none.
        """
        texts = answers(record)
        for number, text in enumerate(texts, start=1):
            if not self._pattern.search(text):
                raise RowFault(f"answer not in the format: answer {number} of {len(texts)}")
        return record
