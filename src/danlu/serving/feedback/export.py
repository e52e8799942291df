"""Feedback as rows to train on; each of it is accounted for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.runs import create_folder, file_hash, write_json, write_text
from danlu.serving.access.keys import read_moment
from danlu.serving.feedback.stores import open_store

_NOTHING: dict[str, Any] = {"rating": None, "correction": None, "comment": None, "tags": [], "said": "", "messages": []}


def run_feedback_export(
    store: str | None, out: Path, model: str | None = None, since: str | None = None
) -> dict[str, Any]:
    """Writes `sft.jsonl` and `preference.jsonl`, which `data.train` takes, and `ledger.json`.

    What the same key says of the same answer again is one saying: the last rating, the last correction. A correction is
    a row to train on, and with the answer that it corrects a pair; a liked answer is a row; what is only disliked,
    tagged or commented has no answer to learn, and is counted.

    Args:
        store: see `danlu.serving.feedback.stores.open_store`.
        out: folder, new or empty.
        model: only of this adapter, any version, or of one version.
        since: only from this moment on.

    Returns:
        `out`, `rows` {`read`, `sft`, `preference`, `superseded`, `no_text`}; read = sft + superseded + no_text.

    Raises:
        InputError: the store can't be read, or the folder has something.
    """
    begin = read_moment(since, "--since") if since else ""
    records = [
        record
        for record in open_store(store).records()
        if record["time"] >= begin and model in (None, record["model"], record["model"].partition("@")[0])
    ]
    create_folder(out, "folder of rows", "--out")
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        place = (record["answer"], record["key"])
        last[place] = {**last.get(place, {}), **{name: value for name, value in record.items() if value}}
    last = {place: {**_NOTHING, **record} for place, record in last.items()}
    learnt = [record for record in last.values() if _wanted(record) is not None]
    pairs = [record for record in learnt if record["correction"] not in (None, record["said"])]
    _write(out / "sft.jsonl", [_row(record) for record in learnt])
    _write(out / "preference.jsonl", [_pair(record) for record in pairs])
    rows = {
        "read": len(records),
        "sft": len(learnt),
        "preference": len(pairs),
        "superseded": len(records) - len(last),
        "no_text": len(last) - len(learnt),
    }
    files = {name: file_hash(out / name) for name in ("sft.jsonl", "preference.jsonl")}
    write_json(out / "ledger.json", {"rows": rows, "model": model, "since": begin or None, "sha256": files})
    return {"out": str(out), "rows": rows}


def _wanted(record: dict[str, Any]) -> str | None:
    """The answer to learn."""
    if record["correction"]:
        return str(record["correction"])
    return str(record["said"]) if record["rating"] == "up" and record["said"].strip() else None


def _about(record: dict[str, Any]) -> dict[str, Any]:
    return {"feedback": record["id"], "model": record["model"], "tags": record["tags"]}


def _is_text(record: dict[str, Any]) -> bool:
    """Whether a text was continued, without turns."""
    return len(record["messages"]) == 1 and record["messages"][0]["role"] == "prompt"


def _row(record: dict[str, Any]) -> dict[str, Any]:
    wanted = _wanted(record)
    if _is_text(record):
        return {"prompt": record["messages"][0]["content"], "completion": wanted, **_about(record)}
    return {"messages": [*record["messages"], {"role": "assistant", "content": wanted}], **_about(record)}


def _pair(record: dict[str, Any]) -> dict[str, Any]:
    chosen, rejected = record["correction"], record["said"]
    if _is_text(record):
        return {"prompt": record["messages"][0]["content"], "chosen": chosen, "rejected": rejected, **_about(record)}
    turns = ({"role": "assistant", "content": text} for text in (chosen, rejected))
    return {"messages": record["messages"], **dict(zip(("chosen", "rejected"), turns, strict=True)), **_about(record)}


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
