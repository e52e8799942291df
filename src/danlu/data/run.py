"""The data stage: files in, a prepared folder out, made once for the same inputs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu import __version__
from danlu.data.ledger import Ledger
from danlu.data.records import Messages, RowFault, to_messages
from danlu.data.sources import Row, read_rows
from danlu.data.split import split_rows
from danlu.data.store import Store, write_store
from danlu.data.template import Document, label
from danlu.errors import DataError, Fault
from danlu.recipe.load import LoadedRecipe
from danlu.recipe.schema import SplitSection
from danlu.runs import (
    MANIFEST,
    danlu_home,
    file_hash,
    read_manifest,
    require_disk,
    write_json,
    write_manifest,
)

TRAIN, EVALUATION = "train", "evaluation"
EVALUATION_ROWS, _PROBE_ROWS = "evaluation.rows.jsonl", "probe.rows.jsonl"
_NUM_PROBE_ROWS = 20


def read_conversations(path: Path) -> list[Messages]:
    """The conversations of a rows file, each ending with its reference answer; none if there is no file."""
    # Not splitlines(): answers may hold U+2028 and the like, which JSON leaves as they are.
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line)["messages"] for line in lines if line]


@dataclass(frozen=True)
class Prepared:
    """A prepared folder.

    Attributes:
        folder: where it is.
        about: its manifest.
    """

    folder: Path
    about: dict[str, Any]

    def store(self, name: str) -> Store:
        """The documents of `train` or `evaluation`."""
        return Store(self.folder, name)

    def evaluation_rows(self) -> list[Messages]:
        """The held-out conversations, each ending with its reference answer."""
        return read_conversations(self.folder / EVALUATION_ROWS)

    def probe_rows(self) -> list[Messages]:
        """Up to 20 held-out conversations spread evenly, or training ones if none is held out."""
        return read_conversations(self.folder / _PROBE_ROWS)

    def describe(self) -> str:
        """The summary for people."""
        rows, tokens = self.about["rows"], self.about["tokens"]
        splits = ", ".join(f"{name} {split['rows']}" for name, split in self.about["splits"].items())
        return (
            f"{rows['read']} rows read + {rows['added']} added = {rows['kept']} kept + {rows['dropped']} dropped "
            f"({rows['changed']} changed, {rows['cut']} cut); {splits}\n"
            f"{tokens['total']} tokens, {tokens['trained']} of them trained\n"
            f"  prepared  {self.folder}\n  ledger    {self.folder / 'ledger.json'}"
        )

    def summary(self) -> dict[str, Any]:
        """The keys that `danlu data --json` promises."""
        return {
            "prepared_folder": str(self.folder),
            "rows": self.about["rows"],
            "tokens": self.about["tokens"],
            "splits": self.about["splits"],
        }


@dataclass(frozen=True)
class _Kept:
    row: Row
    messages: Messages
    documents: list[Document]


def prepare(loaded: LoadedRecipe, tokenizer: Any) -> Prepared:
    """Reads, labels and stores the recipe's rows; the same inputs are not prepared twice.

    Raises:
        DataError: a file is wrong, too many rows would be dropped, or nothing can be held out.
        ResourceError: the disk is too full.
    """
    data, seed = loaded.recipe.data, loaded.recipe.run.seed
    train, held = require_files(loaded)
    about = {
        "inputs": {str(path): file_hash(path) for path in [*train, *held]},
        "recipe": json.loads(data.model_dump_json()),
        "seed": seed,
        "tokenizer": _tokenizer_hash(tokenizer),
        "version": __version__,
    }
    folder = danlu_home() / "prepared" / _key(about)
    if (folder / MANIFEST).is_file():
        return Prepared(folder, read_manifest(folder, "prepared"))
    require_disk(folder.parent, 4 * sum(path.stat().st_size for path in [*train, *held]), "the prepared data")
    ledger = Ledger()
    kept = {
        name: _label_files(paths, tokenizer, data.max_sequence_tokens, ledger)
        for name, paths in ((TRAIN, train), (EVALUATION, held))
    }
    ledger.check(data.max_dropped_share)
    if isinstance(data.evaluation, SplitSection):
        kept = _hold_out(kept[TRAIN], data.evaluation, seed)
    if not kept[TRAIN]:
        raise DataError(Fault("no training rows are left", "data.train", hint="see the reasons in `danlu data --json`"))
    _write(folder, kept, ledger, about)
    return Prepared(folder, read_manifest(folder, "prepared"))


def require_files(loaded: LoadedRecipe) -> tuple[list[Path], list[Path]]:
    """The recipe's training and evaluation files.

    Raises:
        DataError: with a fault for each that is not there.
    """
    data = loaded.recipe.data
    train = [loaded.find(name) for name in data.train]
    held = [loaded.find(name) for name in data.evaluation] if isinstance(data.evaluation, tuple) else []
    missing = [
        Fault(
            "this is a folder, not a data file" if os.path.isdir(path) else "no such data file",
            str(path),
            "a file's path from here, or from beside the recipe",
            "check data.train and data.evaluation",
        )
        for path in [*train, *held]
        if not os.path.isfile(path)
    ]
    if missing:
        raise DataError(*missing)
    return train, held


def _tokenizer_hash(tokenizer: Any) -> str:
    words = [tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


def _key(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _label_files(paths: Sequence[Path], tokenizer: Any, max_tokens: int, ledger: Ledger) -> list[_Kept]:
    kept = []
    for row in [row for path in paths for row in read_rows(path)]:
        ledger.read += 1
        try:
            form, messages = to_messages(row.value)
            documents = label(tokenizer, messages)
            longest = max(len(document.ids) for document in documents)
            if longest > max_tokens:
                raise RowFault(f"longer than data.max_sequence_tokens = {max_tokens}: {longest} tokens")
        except RowFault as fault:
            ledger.drop(row, str(fault))
            continue
        ledger.keep(form)
        kept.append(_Kept(row, messages, documents))
    return kept


def _hold_out(kept: list[_Kept], split: SplitSection, seed: int) -> dict[str, list[_Kept]]:
    field = split.stratify_by
    without = [item.row.where for item in kept if field and field not in item.row.value]
    if without:
        raise DataError(
            Fault(
                f"{len(without)} rows have no field `{field}`",
                without[0],
                "a field that every row has",
                "change data.evaluation.stratify_by, or leave it out",
            )
        )
    keys = [json.dumps(item.row.value[field]) if field else "" for item in kept]
    try:
        train, held = split_rows(keys, seed, rows=split.rows, share=split.share)
    except ValueError as error:
        raise DataError(
            Fault(str(error), "data.evaluation", f"1 to {len(kept) - 1} rows", "change data.evaluation")
        ) from error
    return {TRAIN: [kept[index] for index in train], EVALUATION: [kept[index] for index in held]}


def _write(folder: Path, kept: dict[str, list[_Kept]], ledger: Ledger, about: dict[str, Any]) -> None:
    aside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    splits = {}
    for name, items in kept.items():
        write_store(aside, name, [document for item in items for document in item.documents])
        store = Store(aside, name)
        splits[name] = {
            "rows": len(items),
            "documents": len(store),
            "tokens": store.num_tokens,
            "trained_tokens": store.num_trained_tokens,
        }
    _write_conversations(aside / EVALUATION_ROWS, kept[EVALUATION])
    source = kept[EVALUATION] or kept[TRAIN]
    count = min(_NUM_PROBE_ROWS, len(source))
    _write_conversations(aside / _PROBE_ROWS, [source[place * len(source) // count] for place in range(count)])
    write_json(aside / "ledger.json", ledger.to_json())
    tokens = {
        "total": sum(split["tokens"] for split in splits.values()),
        "trained": sum(split["trained_tokens"] for split in splits.values()),
    }
    write_manifest(aside, "prepared", {**about, "rows": ledger.rows(), "tokens": tokens, "splits": splits})
    shutil.rmtree(folder, ignore_errors=True)
    aside.replace(folder)


def _write_conversations(path: Path, items: Sequence[_Kept]) -> None:
    lines = [json.dumps({"where": item.row.where, "messages": item.messages}, ensure_ascii=False) for item in items]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
