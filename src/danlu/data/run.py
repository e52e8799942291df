"""The data stage: files in, a prepared folder out, made once for the same inputs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from danlu import __version__
from danlu.data.augmentation.back_translation import Answer
from danlu.data.balance import balance_rows, mix_rows
from danlu.data.endpoint import endpoint_answer
from danlu.data.inputs import Inputs, require_files
from danlu.data.ledger import Ledger
from danlu.data.making import TranslationMaker, WordMaker
from danlu.data.passes import Int64, Preparation, Rows
from danlu.data.plan import leak_rule, make_passes, make_stage, open_key_file
from danlu.data.prepared import EVALUATION, LEDGER, SUMMARY, TRAIN, Prepared, write_conversations
from danlu.data.privacy.keyfile import KeyFile
from danlu.data.report import REPORT, DataFacts, length_histogram, summary_table, write_report
from danlu.data.selection import KINDS, LeakCheck, Split, apply_order, hold_out, require_field
from danlu.data.sources import Source, encoding_of, fingerprint, require_versions, version
from danlu.data.stages import RowStage
from danlu.data.store import Store, StoreWriter, write_order
from danlu.data.stream import RowStream, StreamPlan
from danlu.data.windows import read_leaks, write_held
from danlu.data.workers import Workers, count_workers
from danlu.errors import DataError, Fault
from danlu.models import tokenizer
from danlu.models.folder import is_encoder_decoder
from danlu.recipe.data_schema import (
    BackTranslation,
    SplitSection,
)
from danlu.recipe.load import LoadedRecipe
from danlu.runs import (
    MANIFEST,
    danlu_home,
    file_hash,
    read_manifest,
    require_disk,
    write_json,
    write_manifest,
    write_text,
)

_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "chat_template*", "vocab*", "merges.txt", "*.model")


def prepare(
    loaded: LoadedRecipe, base: Path, local_answers: Callable[[str], Answer], held_alone: bool = False
) -> Prepared:
    """Reads, cleans, labels and stores the recipe's rows; the same inputs are not prepared twice.

    With `data.streaming` the training rows are gone through and accounted for, and none of them is stored.

    Args:
        loaded: a checked recipe.
        base: folder of the base model, for its tokenizer.
        local_answers: loads a model by its name, to answer prompts with (back-translation without an endpoint).
        held_alone: leave the training files alone and prepare those with evaluation rows, for a run that streams.

    Raises:
        DataError: a file is wrong, too many rows would be dropped, or nothing can be held out.
        ResourceError: the disk is too full.
    """
    data = loaded.recipe.data
    inputs = require_files(loaded)
    if held_alone:
        inputs = replace(inputs, train=[])
    key_file = open_key_file(data)
    files = inputs.files()
    versions = [version(source) for source in files]
    about = {
        "inputs": {source.shown: fingerprint(source) for source in files},
        "recipe": json.loads(data.model_dump_json(exclude={"num_workers"})),
        "seed": loaded.recipe.run.seed,
        "tokenizer": _hash_files(path for pattern in _TOKENIZER_FILES for path in sorted(base.glob(pattern))),
        "has_encoder": is_encoder_decoder(base),
        "masking_key": key_file.secret_fingerprint if key_file else None,
        "version": __version__,
        "code": _hash_files([*_code_files(), Path(tokenizer.__file__)]),
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    folder = danlu_home() / "prepared" / name
    if not (folder / MANIFEST).is_file():
        stored = [source for _, source in inputs.evaluation] if data.streaming else files
        needed = 4 * sum(map(_num_bytes, stored))
        require_disk(folder.parent, needed, "the prepared data")
        with _aside(folder) as aside:
            _Preparing(loaded, base, inputs, key_file, local_answers).fill(aside, folder, about)
            require_versions(files, versions)  # the folder's name says what was in them before they were read
    return Prepared(folder, read_manifest(folder, "prepared"))


@contextmanager
def open_stream(
    loaded: LoadedRecipe, base: Path, held: Prepared, folder: Path, position: int = 0
) -> Iterator[RowStream]:
    """The training rows as they are read.

    Args:
        loaded: a checked recipe.
        base: folder of the base model, for its tokenizer.
        held: the prepared evaluation rows.
        folder: of the run; `changes.jsonl` is written there.
        position: where to begin, a stream's `position`.

    Raises:
        DataError: a file can't be found.
    """
    data = loaded.recipe.data
    key_file = open_key_file(data)

    def note(tokens: dict[str, str]) -> None:
        if key_file is not None and not tokens.keys() <= key_file.tokens.keys():
            key_file.add(tokens)

    plan = _Preparing(loaded, base, require_files(loaded), key_file, _nobody).stream_plan(held.folder, note)
    with Ledger(folder) as ledger, Workers(count_workers(data.num_workers)) as workers:
        stream = RowStream(plan, workers, ledger, position)
        try:
            yield stream
        finally:
            stream.close()


def _nobody(name: str) -> Answer:
    raise LookupError(name)  # no row is made from others where rows are streamed


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes its name when all went well and is removed when not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob("*.part-*"):
        if not os.path.exists(f"/proc/{left.name.rpartition('-')[2]}"):
            shutil.rmtree(left, ignore_errors=True)
    aside = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    try:
        yield aside
        if not (folder / MANIFEST).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _code_files() -> list[Path]:
    """What decides what becomes of rows: the code of this folder, and its word lists."""
    return sorted(path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".txt", ".j2"))


def _hash_files(paths: Iterable[Path]) -> str:
    return hashlib.sha256(json.dumps([[path.name, file_hash(path)] for path in paths]).encode()).hexdigest()


def _num_bytes(source: Source) -> int:
    return 0 if source.remote else os.path.getsize(source.path)


class _Preparing:
    """One preparation, from files to a folder.

    Args:
        loaded: the recipe.
        base: folder of the base model.
        inputs: the files.
        key_file: for reversible masking.
        local_answers: loads a model that answers prompts.
    """

    def __init__(
        self,
        loaded: LoadedRecipe,
        base: Path,
        inputs: Inputs,
        key_file: KeyFile | None,
        local_answers: Callable[[str], Answer],
    ) -> None:
        self._data, self._seed, self._recipe_path = loaded.recipe.data, loaded.recipe.run.seed, loaded.path
        self._base, self._inputs, self._key_file, self._local_answers = base, inputs, key_file, local_answers
        self._tokens: dict[str, str] = {}
        self._streamed: dict[str, int] = {}
        self._streamed_lengths = array("i")
        self._asked: Counter[str] = Counter()
        self._started = time.perf_counter()

    def fill(self, aside: Path, folder: Path, about: dict[str, Any]) -> None:
        """Fills a folder that will have another name; its manifest comes last."""
        spools = aside / "spools"
        spools.mkdir(mode=0o700)
        num_workers = count_workers(self._data.num_workers)
        with Ledger(aside) as ledger, StoreWriter(aside) as writer, Workers(num_workers) as workers:
            self._ledger, self._workers = ledger, workers

            def preparation(name: str) -> Preparation:
                return Preparation(spools, name, workers, ledger, writer, self._tokens)

            rows, numbers, held, held_numbers = self._select(preparation)
            account(ledger, rows, numbers)
            account(ledger, held, held_numbers)
            write_conversations(aside, rows, numbers, held, held_numbers)
            if self._data.streaming:
                write_held(aside, held, held_numbers)
                self._go_through(aside)
        if self._key_file is not None:
            self._key_file.add(self._tokens)
        shutil.rmtree(spools)
        splits = {
            TRAIN: _write_split(aside, TRAIN, rows, numbers) | self._streamed,
            EVALUATION: _write_split(aside, EVALUATION, held, held_numbers),
        }
        self._close(aside, folder, about, splits)

    def _select(self, preparation: Callable[[str], Preparation]) -> tuple[Rows, Int64, Rows, Int64]:
        """All labelled rows with the numbers of those that train, and the same of those that judge."""
        data, ledger = self._data, self._ledger
        compare, threshold = leak_rule(data)
        split = data.evaluation if isinstance(data.evaluation, SplitSection) else None
        stage, passes = make_stage(data, self._inputs.sections, self._base, self._key_file), make_passes(data.cleaning)
        training = preparation(TRAIN)
        stored = [] if data.streaming else self._inputs.train
        rows = training.run(stored, passes, replace(stage, compare=KINDS[compare] if split else ()))
        if split:
            ledger.check(len(rows), data.max_dropped_share)
            numbers, held_numbers = hold_out(rows, Split(**vars(split)), self._seed, threshold)
            held = rows
        else:
            held = preparation(EVALUATION).run(self._inputs.evaluation, passes, stage)
            numbers, held_numbers = np.arange(len(rows)), np.arange(len(held))
        leaks = LeakCheck(held, held_numbers, compare, threshold)
        numbers = leaks.drop(rows, numbers, self._workers, ledger)
        if not data.streaming:
            ledger.check(len(numbers), data.max_dropped_share)
        if self._inputs.evaluation:
            ledger.check(len(held_numbers), data.max_dropped_share, "judge by")
        before = numbers
        numbers = self._balance(rows, self._mix(rows, numbers))
        made = self._augment(training, rows, np.unique(numbers), replace(stage, masks=False))
        numbers = np.concatenate([numbers, leaks.drop(rows, made, self._workers, ledger)])
        self._classes = self._count_classes(rows, before, numbers)
        return rows, numbers, held, held_numbers

    def stream_plan(self, held: Path, note_tokens: Callable[[dict[str, str]], None]) -> StreamPlan:
        """How the training rows are streamed; `held` has the evaluation rows."""
        data = self._data
        compare, threshold = leak_rule(data)
        return StreamPlan(
            self._inputs.train,
            replace(
                make_stage(data, self._inputs.sections, self._base, self._key_file),
                steps=make_passes(data.cleaning)[-1].steps,
            ),
            read_leaks(held, compare, threshold),
            data.shuffle_window_rows,
            self._seed,
            data.max_dropped_share,
            note_tokens,
        )

    def _go_through(self, aside: Path) -> None:
        """Accounts for all training rows of a stream, if their files are at hand, and keeps none."""
        if self._inputs.train:
            stream = RowStream(self.stream_plan(aside, self._tokens.update), self._workers, self._ledger)
            self._streamed_lengths.extend(len(document.ids) for document in stream.pass_through())
            self._streamed = stream.split()

    def _mix(self, rows: Rows, numbers: Int64) -> Int64:
        sections = self._inputs.sections[: len(self._data.train)]
        shares = {number: section.share for number, section in enumerate(sections) if section.share is not None}
        if not shares and self._data.mixing is None:
            return numbers
        total = self._data.mixing.total_rows if self._data.mixing else None
        try:
            chosen = mix_rows([rows.sources[number] for number in numbers], shares, total, self._seed)
        except ValueError as error:
            hint = "change the shares of the sources"
            raise DataError(Fault(str(error), "data.train, data.mixing", hint=hint)) from error
        return apply_order(rows, numbers, chosen, "mixing", self._ledger)

    def _balance(self, rows: Rows, numbers: Int64) -> Int64:
        balance = self._data.balance
        if balance is None:
            return numbers
        if balance.by != "source":
            require_field(rows, balance.by, "data.balance.by")
        classes = rows.sources if balance.by == "source" else rows.fields[balance.by]
        keys = [classes[number] for number in numbers]
        chosen = balance_rows(keys, balance.method, balance.rows_per_class, self._seed)
        return apply_order(rows, numbers, chosen, "balance", self._ledger)

    def _count_classes(self, rows: Rows, before: Int64, after: Int64) -> dict[str, dict[str, int]]:
        """Training rows of each class before mixing, balance and augmentation and after, if a class is named."""
        split = self._data.evaluation if isinstance(self._data.evaluation, SplitSection) else None
        name = (self._data.balance and self._data.balance.by) or (split and split.stratify_by)
        if not name or name not in rows.fields:
            return {}
        values = np.asarray(rows.fields[name])
        return {
            value: {"before": int((values[before] == code).sum()), "after": int((values[after] == code).sum())}
            for value, code in rows.names[name].items()
        }

    def _augment(self, training: Preparation, rows: Rows, numbers: Int64, stage: RowStage) -> Int64:
        """Numbers of the new rows, made from those numbered."""
        first = len(rows)
        for place, section in enumerate(self._data.augmentation):
            wanted = round(section.share * len(numbers))
            self._asked[section.type] += wanted
            generator = np.random.default_rng([self._seed, place])
            turns = -(-wanted // max(len(numbers), 1))
            parents = np.concatenate([numbers[:0], *(generator.permutation(numbers) for _ in range(turns))])[:wanted]
            if isinstance(section, BackTranslation):
                # What translates is a server's or a model's business: no need of more processes here.
                translate = partial(self._translator, section)
                training.add(
                    rows, section.type, TranslationMaker(section.through, translate), parents, stage, Workers(1)
                )
            else:
                words = WordMaker(section.type, section.rate, f"{self._seed}:{place}")
                training.add(rows, section.type, words, parents, stage, self._workers)
        return np.arange(first, len(rows))

    def _translator(self, section: BackTranslation) -> Answer:
        if section.endpoint is None:
            return self._local_answers(section.model)
        key = os.environ.get(section.api_key_variable, "")
        return endpoint_answer(section.endpoint, section.model, key)

    def _close(self, aside: Path, folder: Path, about: dict[str, Any], splits: dict[str, dict[str, int]]) -> None:
        tokens = {
            "total": sum(split["tokens"] for split in splits.values()),
            "trained": sum(split["trained_tokens"] for split in splits.values()),
        }
        write_json(aside / LEDGER, self._ledger.to_json())
        facts = self._facts(aside, folder, splits, tokens)
        write_report(aside / REPORT, facts)
        write_text(aside / SUMMARY, summary_table(facts) + "\n")
        rows = self._ledger.rows()
        steps = [step.to_json() for step in self._ledger.steps.values()]
        notes = {source.shown: source.note for source in self._inputs.files() if source.note}
        account = {"rows": rows, "tokens": tokens, "splits": splits, "steps": steps, "notes": notes}
        write_manifest(aside, "prepared", {**about, **account})

    def _facts(self, aside: Path, folder: Path, splits: dict[str, dict[str, int]], tokens: dict[str, int]) -> DataFacts:
        ledger = self._ledger
        lengths = np.concatenate([*(Store(aside, name).lengths() for name in splits), self._streamed_lengths])
        sources = {source.shown: source for source in self._inputs.files()}  # one may be named twice
        return DataFacts(
            recipe=str(self._recipe_path),
            rows=ledger.rows(),
            tokens=tokens,
            max_sequence_tokens=self._data.max_sequence_tokens,
            prepared_folder=str(folder),
            seconds=time.perf_counter() - self._started,
            created=time.strftime("%Y-%m-%d %H:%M:%S"),
            inputs=[
                {
                    "path": source.shown,
                    "encoding": "" if source.remote else encoding_of(source),
                    "rows": ledger.files[source.shown],
                    "bytes": _num_bytes(source),
                    "note": source.note,
                }
                for source in sources.values()
            ],
            splits=splits,
            formats=dict(ledger.formats),
            classes=self._classes,
            languages=dict(ledger.writings),
            steps=[step.to_json() for step in ledger.steps.values()],
            reasons=ledger.reasons(),
            histogram=length_histogram(lengths, self._data.max_sequence_tokens),
            masked=dict(ledger.masked),
            asked=dict(self._asked),
        )


def account(ledger: Ledger, rows: Rows, numbers: Int64) -> None:
    """Every row numbered is kept, as often as its number comes; what was done to it is written down."""
    counts = np.bincount(numbers, minlength=len(rows))
    flags = np.frombuffer(bytes(rows.flags), np.uint8)
    forms = np.asarray(rows.forms)
    for form, number in rows.names["form"].items():
        ledger.keep_plain(form, int(counts[(forms == number) & (flags == 0)].sum()))
    for number in np.flatnonzero((counts > 0) & (flags > 0)).tolist():
        ledger.keep(rows.item(number), int(counts[number]))


def _write_split(folder: Path, name: str, rows: Rows, numbers: Int64) -> dict[str, int]:
    """Writes which documents a split has; rows, documents and tokens of it."""
    write_order(folder, name, rows.documents(numbers))
    rejected = rows.rejected(numbers)
    if len(rejected):
        write_order(folder, f"{name}.rejected", rejected)
    store = Store(folder, name)
    return {
        "rows": len(numbers),
        "documents": len(store),
        "tokens": store.num_tokens,
        "trained_tokens": store.num_trained_tokens,
    }
