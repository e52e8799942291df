"""The work on a chunk of rows, done in a worker: convert, clean, mask, label, mark for the search of duplicates."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from danlu.data.cleaning import RowStep
from danlu.data.duplicates.shingles import text_of_record
from danlu.data.duplicates.signatures import signatures
from danlu.data.item import Drop, Item, difference, excerpt, text_of
from danlu.data.labels import Labelled, label_records
from danlu.data.ledger import Step
from danlu.data.records import Record, RowFault, to_record
from danlu.data.scripts import writing_of
from danlu.data.sources import BadRow, Row
from danlu.data.store import to_batch
from danlu.pages.unseen import one_line

if TYPE_CHECKING:
    from danlu.data.privacy.masker import Masker

CHANGED, CUT = 1, 2
_REASON_CHARACTERS = 300


@dataclass(frozen=True)
class SourcePlan:
    """How the rows of one entry of the recipe are understood.

    Attributes:
        number: of the entry.
        form: the record form, or None: seen from each row.
        columns: field of the form → field of the file, or None.
    """

    number: int
    form: str | None = None
    columns: Mapping[str, str] | None = None


@dataclass(frozen=True)
class LabelPlan:
    """How rows become tokens.

    Attributes:
        tokenizer_folder: of the base model.
        max_tokens: longest document.
        too_long: drop, cut_prompt or cut_answer.
    """

    tokenizer_folder: Path
    max_tokens: int
    too_long: str


@dataclass
class Marks:
    """What the search of near-duplicates needs of N rows.

    Attributes:
        bands: `[N, 16]` band hashes.
        sketches: `[N, 4]` words.
        sizes: `[N]` numbers of shingles.
    """

    bands: npt.NDArray[np.uint64]
    sketches: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.uint32]


@dataclass
class StageResult:
    """What became of a chunk.

    Attributes:
        items: rows that go on, as bytes.
        fields: their fields.
        forms: their record forms.
        sources: the entries of the recipe that they come from.
        flags: whether each was CHANGED or CUT.
        drops: rows that left.
        steps: counts of each step.
        digests: `[N]` 64-bit digests of the rows, if asked for.
        marks: by what is compared.
        batch: labelled documents as an Arrow batch, if labelled.
        documents: number of documents of each row: wanted, rejected.
        writings: rows by writing, in the pass that labels.
        masked: items of personal data by kind.
        tokens: reversible tokens and what they stand for.
    """

    items: list[bytes] = field(default_factory=list)
    fields: list[dict[str, str]] = field(default_factory=list)
    forms: list[str] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    flags: bytes = b""
    drops: list[Drop] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    digests: npt.NDArray[np.uint64] | None = None
    marks: dict[str, Marks] = field(default_factory=dict)
    batch: Any = None
    documents: list[tuple[int, int]] = field(default_factory=list)
    writings: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    tokens: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RowStage:
    """One pass over rows. Built once, sent to each worker, called with chunks.

    A chunk is a source's number and its rows as read (the first pass), or items as bytes (a later one).

    Attributes:
        sources: how to understand rows as read.
        wanted_fields: fields of the file's rows that are kept for the split and the balance.
        steps: cleaning steps, in order.
        masker: masks excerpts; and with `masks`, the rows too.
        masks: mask in this pass.
        labels: label in this pass, or None.
        exact: give digests.
        compare: give marks of these kinds of text.
    """

    sources: tuple[SourcePlan, ...]
    wanted_fields: tuple[str, ...] = ()
    steps: tuple[RowStep, ...] = ()
    masker: Masker | None = None
    masks: bool = False
    labels: LabelPlan | None = None
    exact: bool = False
    compare: tuple[str, ...] = ()

    def __call__(self, chunk: tuple[int, list[Row]] | list[bytes]) -> StageResult:
        """The chunk's rows through all steps."""
        result = StageResult()
        items = [Item.from_bytes(data) for data in chunk] if isinstance(chunk, list) else self._convert(*chunk, result)
        for step in self.steps:
            items = self._clean(step, items, result)
        if self.masks and self.masker is not None:
            items = self._mask(self.masker, items, result)
        if self.labels is not None:
            items = self._label(self.labels, items, result)
        self._mark(items, result)
        result.items = [item.to_bytes() for item in items]
        result.fields = [item.fields for item in items]
        result.forms = [item.form for item in items]
        result.sources = [item.source for item in items]
        result.flags = bytes(CHANGED * bool(item.changes) + CUT * bool(item.cut) for item in items)
        return result

    def _drop(self, result: StageResult, step: Step, where: str, reason: str, value: Any) -> None:
        step.dropped += 1
        reason = one_line(_masked([reason], self.masker)[0], _REASON_CHARACTERS)
        result.drops.append(Drop(where, step.name, reason, _excerpt(value, self.masker)))

    def _convert(self, number: int, rows: list[Row], result: StageResult) -> list[Item]:
        plan, items = self.sources[number], []
        with _counted(result, "read", len(rows)) as step:
            for row in rows:
                try:
                    if isinstance(row.value, BadRow):
                        raise RowFault(row.value.reason)
                    form, record = to_record(row.value, form=plan.form, columns=plan.columns)
                except RowFault as fault:
                    value = row.value.reason if isinstance(row.value, BadRow) else row.value
                    self._drop(result, step, row.where, str(fault), value)
                    continue
                items.append(Item(record, row.where, plan.number, form, self._fields(row.value)))
        return items

    def _fields(self, value: dict[str, Any]) -> dict[str, str]:
        return {
            name: value[name] if isinstance(value[name], str) else json.dumps(value[name], default=str)
            for name in self.wanted_fields
            if name in value
        }

    def _clean(self, clean: RowStep, items: list[Item], result: StageResult) -> list[Item]:
        kept = []
        with _counted(result, clean.name, len(items)) as step:
            for item in items:
                try:
                    record = clean(item.record)
                except RowFault as fault:
                    self._drop(result, step, item.where, str(fault), item.record)
                    continue
                if record is not item.record and record != item.record:
                    mask = partial(_masked, masker=self.masker)
                    before, after = difference(item.record.texts(), record.texts(), mask)
                    item.changes.append({"step": clean.name, "before": before, "after": after})
                    item.record = record
                    step.changed += 1
                kept.append(item)
        return kept

    def _mask(self, masker: Masker, items: list[Item], result: StageResult) -> list[Item]:
        with _counted(result, "masking", len(items)) as step:
            for item in items:
                before = item.record.texts()
                masked = masker.mask(before)
                if not masked.counts:
                    continue
                result.masked.update(masked.counts)
                result.tokens.update(masked.tokens)
                texts = iter(masked.texts)
                item.record = item.record.with_texts(lambda role, text, texts=texts: next(texts))  # type: ignore[misc]
                found = ", ".join(f"{count} {kind}" for kind, count in sorted(masked.counts.items()))
                # The text before is what must not be written anywhere, and an excerpt of it that an earlier step left
                # may have been cut within a number, where no recogniser sees it.
                for change in item.changes:
                    change["before"] = change["after"] = ""
                _, after = difference(before, masked.texts)
                item.changes.append({"step": "masking", "reason": f"masking: {found}", "before": "", "after": after})
                step.changed += 1
        return items

    def _label(self, plan: LabelPlan, items: list[Item], result: StageResult) -> list[Item]:
        kept: list[Item] = []
        labelled: list[Labelled] = []
        with _counted(result, "labels", len(items)) as step:
            tokenizer = _tokenizer(plan.tokenizer_folder)
            found = label_records(tokenizer, [item.record for item in items], plan.max_tokens, plan.too_long)
            for item, outcome in zip(items, found, strict=True):
                if isinstance(outcome, RowFault):
                    self._drop(result, step, item.where, str(outcome), item.record)
                    continue
                item.cut = outcome.cut
                for reason, *texts in outcome.changes:
                    before, after = difference([texts[0]], [texts[1]], partial(_masked, masker=self.masker))
                    item.changes.append({"step": "labels", "reason": reason, "before": before, "after": after})
                step.changed += bool(outcome.cut or outcome.changes)
                kept.append(item)
                labelled.append(outcome)
            documents = [document for outcome in labelled for document in (*outcome.documents, *outcome.rejected)]
            result.documents = [(len(outcome.documents), len(outcome.rejected)) for outcome in labelled]
            sizes = [sum(numbers) for numbers in result.documents]
            wheres = [item.where for item, size in zip(kept, sizes, strict=True) for _ in range(size)]
            result.batch = to_batch(documents, wheres)
            result.writings.update(writing_of(item.record) for item in kept)
        return kept

    def _mark(self, items: Sequence[Item], result: StageResult) -> None:
        if self.exact:
            with _counted(result, "exact_duplicates", 0):
                result.digests = np.array([digest(item.record) for item in items], np.uint64)
        for compare in self.compare:
            with _counted(result, "split" if self.labels else "near_duplicates", 0):
                texts = [text_of_record(item.record, compare) for item in items]
                result.marks[compare] = Marks(*signatures(texts))


def digest(record: Record) -> int:
    """64 bits of all that a row says."""
    data = json.dumps(record.to_json(), ensure_ascii=False, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@functools.lru_cache(maxsize=2)
def _tokenizer(folder: Path) -> Any:
    from danlu.models.tokenizer import load_tokenizer

    return load_tokenizer(folder)


class _counted:  # noqa: N801 - reads as a statement: with _counted(...)
    """A step's entry in the result, with its time."""

    def __init__(self, result: StageResult, name: str, rows_in: int) -> None:
        self._step = Step(name, rows_in)
        result.steps.append(self._step)

    def __enter__(self) -> Step:
        self._begun = time.process_time()
        return self._step

    def __exit__(self, *error: object) -> None:
        self._step.seconds = time.process_time() - self._begun


@dataclass(frozen=True)
class LeavingStage:
    """Writes down rows that leave because another stands for them; a chunk is pairs of items as bytes.

    Attributes:
        step: that drops them.
        reason: why.
        masker: masks the excerpts.
    """

    step: str
    reason: str
    masker: Masker | None

    def __call__(self, chunk: Sequence[tuple[bytes, bytes]]) -> list[Drop]:
        """A drop for each pair of the row that leaves and the row that stays."""
        drops = []
        for leaving, staying in chunk:
            items = Item.from_bytes(leaving), Item.from_bytes(staying)
            texts = [_excerpt(item.record, self.masker) for item in items]
            drops.append(Drop(items[0].where, self.step, self.reason, texts[0], items[1].where, texts[1]))
        return drops


def _masked(texts: Sequence[str], masker: Masker | None) -> list[str]:
    return list(texts) if masker is None else masker.mask(texts).texts


def _excerpt(value: Any, masker: Masker | None) -> str:
    return excerpt(text_of(value, partial(_masked, masker=masker)))


Make = Callable[[Sequence[tuple[int, Item]]], list[tuple[int, Item]]]


@dataclass(frozen=True)
class MadeStage:
    """Makes rows from rows, such as augmented ones, and labels them; a chunk is numbers and items as bytes.

    Attributes:
        make: from numbered rows to the new rows with the numbers of their parents; fewer where one can't be made.
        rows: the stage that a made row then goes through.
    """

    make: Make
    rows: RowStage

    def __call__(self, chunk: Sequence[tuple[int, bytes]]) -> tuple[StageResult, list[tuple[str, str, str, str]]]:
        """The result, and an entry for each made row: where, parent, before, after."""
        parents = {number: Item.from_bytes(data) for number, data in chunk}
        made = self.make(list(parents.items()))
        entries = [
            (item.where, item.parent, *difference(parents[number].record.texts(), item.record.texts()))
            for number, item in made
        ]
        return self.rows([item.to_bytes() for _, item in made]), entries
