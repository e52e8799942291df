"""`danlu generate`: a file of rows in, a file of answers out; one that was cut off goes on where it stopped."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from danlu.data.questions import Question, converter, require_questions, rows_of
from danlu.data.records import RowFault
from danlu.data.sources import Row, find_sources, fingerprint
from danlu.engines.interface import Answer, Engine, Sampling
from danlu.engines.table import AUTO, ENGINES, choose_engine
from danlu.errors import DataError, Fault, FolderError, InputError, Stopped
from danlu.runs import MANIFEST, file_hash, read_manifest, write_json
from danlu.tracking.progress import progress

_ENDINGS = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class _Work:
    """What is asked; noted beside the output, so that it goes on only with the same."""

    model: str
    weights: str
    base: bool
    engine: str
    sampling: dict[str, Any]
    batch_size: int
    rows: dict[str, str]


def run_generate(
    model: str,
    rows: str,
    out: str | Path,
    sampling: Sampling,
    batch_size: int = 16,
    engine: str = AUTO,
    base: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Answers each row of a file, in order.

    Args:
        model: a run folder, an exported folder, or a model as `model.name` of a recipe.
        rows: as an entry of data.train; rows need no answers.
        out: JSON lines: each row's own fields with `answer`, `finish`, `tokens`. Beside it `OUT.generation.json` says
            by what it was made.
        sampling: how tokens are chosen; each batch has a seed of its own, so going on gives the same answers.
        batch_size: rows answered at once.
        engine: of `danlu.engines.table`, or `auto`.
        base: by a run's base.
        quiet: no progress on stderr.

    Returns:
        `out`, `rows`, `answered` (now), `kept` (from before), `seconds`.

    Raises:
        InputError: rows that can't be asked, by file and line; or the output was begun from other rows or otherwise.
        Stopped: Ctrl-C; what was answered is in the output.
    """
    started = time.perf_counter()
    out = Path(out)
    run = _is_run(model)
    chosen = choose_engine(engine, model)
    if base and not run:
        raise InputError(Fault("--base is for a run; a model is its own base", model, hint="leave --base out"))
    sources = find_sources(rows, Path)
    questions = require_questions(rows_of(sources), converter())
    work = _Work(
        str(model),
        _weights(model),
        base,
        chosen,
        asdict(sampling),
        batch_size,
        {s.shown: fingerprint(s) for s in sources},
    )
    kept = _begin(out, work, len(questions))
    if kept < len(questions):
        opened = _open_run(model, batch_size) if run else ENGINES[chosen](model, batch_size)
        _answer(opened, questions, kept, out, sampling, batch_size, not base, quiet)
        write_json(_note(out), {**asdict(work), "complete": True, "num_rows": len(questions)})
    counted = {"rows": len(questions), "answered": len(questions) - kept, "kept": kept}
    return {"out": str(out), **counted, "seconds": round(time.perf_counter() - started, 3)}


def _is_run(model: str) -> bool:
    path = Path(model) / MANIFEST
    return os.path.isfile(path) and json.loads(path.read_text(encoding="utf-8")).get("kind") == "run"


def _weights(model: str) -> str:
    """What differs once a run or an export was made anew; empty for a model, whose name is all that is noted."""
    path = Path(model) / MANIFEST
    return file_hash(path) if path.is_file() else ""


def _open_run(model: str, batch_size: int) -> Engine:
    from danlu.training.trained import open_run

    read_manifest(Path(model), "run")
    run = open_run(model)
    engine = run.engine(run.dtype)
    engine.batch_size = batch_size
    return engine


def _note(out: Path) -> Path:
    return out.with_name(f"{out.name}.generation.json")


def _begin(out: Path, work: _Work, rows: int) -> int:
    """Rows that are answered already; a line that was cut off is taken away.

    Raises:
        FolderError: the output is something else's, was made otherwise, or can't be written there.
    """
    if out.suffix not in _ENDINGS:
        raise FolderError(Fault("answers are written as JSON lines", str(out), " or ".join(_ENDINGS), "name it so"))
    note = _note(out)
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, {**asdict(work), "complete": False, "num_rows": rows})
        out.touch()
        return 0
    _require_same(out, note, work)
    content = out.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with out.open("r+b") as stream:
            stream.truncate(whole)
    kept = content.count(b"\n")
    if kept > rows:
        what = f"the output has {kept} rows, and there are {rows} to answer"
        raise FolderError(Fault(what, str(out), hint=f"move it away: mv {out} {out}.old"))
    return kept


def _require_same(out: Path, note: Path, work: _Work) -> None:
    hint = "name another --out, or move this one away"
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
        odd = [key for key, value in asdict(work).items() if before.get(key) != value]
    except (OSError, ValueError, AttributeError) as error:
        what = "the output exists, and was not begun by `danlu generate`"
        raise FolderError(Fault(what, str(out), "a file that is new, or one to go on with", hint)) from error
    if odd == ["rows"]:
        what = "the rows have changed since the output was begun"
        raise FolderError(Fault(what, ", ".join(work.rows), "the same rows, byte for byte", hint))
    if odd:
        what = f"the output was begun with another {', '.join(odd)}"
        raise FolderError(Fault(what, str(out), "the same model and options", hint))


def _answer(
    engine: Engine,
    rows: Sequence[tuple[Row, Question]],
    kept: int,
    out: Path,
    sampling: Sampling,
    batch_size: int,
    tuned: bool,
    quiet: bool,
) -> None:
    """Appends the answers, a batch at a time; batches are cut at the same rows however often it is begun."""
    with out.open("ab") as stream, progress("answers", len(rows), quiet) as bar:
        try:
            for start, batch in _batches(rows, batch_size):
                if start + len(batch) <= kept:
                    continue
                own = replace(sampling, seed=sampling.seed * 1_000_003 + start // batch_size)
                answers = engine.generate([question.messages for _, question in batch], own, tuned)
                lines = [_line(row, answer) for (row, _), answer in zip(batch, answers, strict=True)]
                stream.write(b"".join(lines[max(0, kept - start) :]))
                stream.flush()
                os.fsync(stream.fileno())
                bar.update(start + len(batch))
        except RowFault as error:
            raise DataError(Fault(str(error), batch[0][0].where, hint="mend the rows from there on")) from error
        except KeyboardInterrupt as error:
            raise Stopped(Fault("stopped", str(out), hint="go on: give the same command again")) from error


def _batches(
    rows: Sequence[tuple[Row, Question]], batch_size: int
) -> Iterator[tuple[int, Sequence[tuple[Row, Question]]]]:
    for start in itertools.count(0, batch_size):
        if start >= len(rows):
            return
        yield start, rows[start : start + batch_size]


def _line(row: Row, answer: Answer) -> bytes:
    own = row.value if isinstance(row.value, dict) else {"text": row.value}
    made = {**own, _free("answer", own): answer.text, "finish": answer.finish, "tokens": len(answer.ids)}
    return json.dumps(made, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"


def _free(name: str, row: dict[str, Any]) -> str:
    """The answer's field: `generated_answer` where the row has an answer of its own."""
    return name if name not in row else f"generated_{name}"
