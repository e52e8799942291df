"""What the data stage did to the rows: one self-contained HTML page, and a table for the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.pages.charts import histogram_chart
from danlu.pages.difference import GONE, NEW, Piece, difference
from danlu.pages.numbers import duration, number
from danlu.pages.page import write_page
from danlu.pages.unseen import one_line, show_unseen

if TYPE_CHECKING:
    from numpy.typing import NDArray

REPORT = "report.html"

_LABEL_CHARACTERS = 80
_EXCERPT_CHARACTERS = 400
_SHOWN_CLASSES, _SHOWN_NAMES, _SHOWN_REASONS, _SHOWN_EXAMPLES, _SHOWN_INPUTS = 20, 20, 30, 5, 50
_TABLE_STEPS, _TABLE_REASONS, _TABLE_NOTES, _TABLE_SHORTFALLS = 12, 3, 3, 2
_MOST_BINS = 24
_OUTCOMES = ("dropped", "changed", "cut", "added")

Bins = list[tuple[int, int, int]]


@dataclass(frozen=True)
class DataFacts:
    """What the page and the table show.

    Attributes:
        recipe: the recipe's path, as shown.
        rows: read, added, kept, dropped, changed, cut; the last two are among the kept.
        tokens: total, trained.
        inputs: for each file path, encoding, rows, bytes, note: what was chosen on the way to it, or left alone.
        splits: for each split rows, documents, tokens, trained_tokens.
        formats: rows by record form.
        languages: rows by language.
        classes: for each class the rows `before` and `after` balancing; empty if no class is known.
        steps: in order, each with step, rows_in, changed, dropped, seconds.
        reasons: each with outcome (dropped, changed, cut or added), step, reason, count, and examples: where, before,
            after. `after` is empty or left out where there is none; in a dropped row it is the text that it resembles.
        histogram: (low, high, count) of kept documents, low < tokens <= high, as `length_histogram` gives them.
        max_sequence_tokens: the longest that a document may be.
        masked: masked values by kind; empty if masking is off.
        asked: new rows that augmentation was asked for, by step; it makes fewer where a row can't be changed.
        prepared_folder: where the rows are.
        seconds: how long it took.
        created: when, as text.
    """

    recipe: str
    rows: dict[str, int]
    tokens: dict[str, int]
    max_sequence_tokens: int
    prepared_folder: str
    seconds: float
    created: str
    inputs: list[dict[str, Any]] = field(default_factory=list)
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[dict[str, Any]] = field(default_factory=list)
    histogram: Bins = field(default_factory=list)
    masked: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)


def write_report(path: Path, facts: DataFacts) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        facts: what it shows. Texts may hold anything; long ones and long lists are cut, and the page says so.
    """
    write_page(
        path,
        "danlu.data",
        "report.html.j2",
        {
            "facts": facts,
            "recipe": one_line(facts.recipe, 3 * _LABEL_CHARACTERS),
            "checks": checks(facts),
            "outcomes": {outcome: _reasons(facts.reasons, outcome) for outcome in _OUTCOMES},
            "inputs": _inputs(facts.inputs),
            "shortfalls": shortfalls(facts),
            "classes": class_table(facts.classes),
            "languages": _largest(facts.languages),
            "formats": _largest(facts.formats),
            "masked": _largest(facts.masked),
            "chart": histogram_chart(facts.histogram, facts.max_sequence_tokens),
            "half": length_reached(facts.histogram, 0.5),
            "most": length_reached(facts.histogram, 0.95),
        },
    )


def checks(facts: DataFacts) -> list[dict[str, Any]]:
    """The sums that must hold, each with name, the two sides and whether they are equal."""
    rows = facts.rows
    sides = {
        "rows": (rows["read"] + rows["added"], rows["kept"] + rows["dropped"]),
        "inputs": (sum(item["rows"] for item in facts.inputs), rows["read"]),
        "splits": (sum(split["rows"] for split in facts.splits.values()), rows["kept"]),
        "reasons": (sum(item["count"] for item in facts.reasons if item["outcome"] == "dropped"), rows["dropped"]),
        "tokens": (sum(split["tokens"] for split in facts.splits.values()), facts.tokens["total"]),
    }
    return [
        {"name": name, "left": left, "right": right, "holds": left == right} for name, (left, right) in sides.items()
    ]


def shortfalls(facts: DataFacts) -> list[dict[str, Any]]:
    """Steps that made fewer rows than asked for, each with step, made, asked."""
    made = dict.fromkeys(facts.asked, 0)
    for item in facts.reasons:
        if item["outcome"] == "added" and item["step"] in made:
            made[item["step"]] += item["count"]
    return [
        {"step": step, "made": made[step], "asked": asked} for step, asked in facts.asked.items() if made[step] < asked
    ]


def length_histogram(lengths: NDArray[Any], max_tokens: int) -> Bins:
    """Documents by length, in bins with round edges.

    Args:
        lengths: tokens of each document, shape (documents,).
        max_tokens: the limit; it falls on an edge where a round width allows it.

    Returns:
        (low, high, count) with low < tokens <= high; at most 24 of one width, the first from 0, and then one more for
        the tail if the longest is more than four times as long as 99% of the documents. Empty without documents.
    """
    import numpy as np

    if not len(lengths):
        return []
    longest = max(int(lengths.max()), 1)
    usual = max(int(np.quantile(lengths, 0.99, method="inverted_cdf")), 1)
    body = longest if longest <= 4 * usual else math.ceil(1.25 * usual)
    width = _round_width(body, max_tokens)
    num_bins = math.ceil(body / width)
    places = np.clip((np.asarray(lengths, dtype=np.int64) - 1) // width, 0, num_bins)
    counts = np.bincount(places, minlength=num_bins + 1).tolist()
    bins = [(place * width, (place + 1) * width, counts[place]) for place in range(num_bins)]
    return [*bins, (num_bins * width, longest, counts[num_bins])] if counts[num_bins] else bins


def _round_width(span: int, max_tokens: int) -> int:
    powers = [1 << power for power in range(32)]
    widths = sorted({*powers, *(lead * int(10.0**zeros) for zeros in range(9) for lead in (1, 2, 5))})
    fitting = [width for width in widths if span <= _MOST_BINS * width][:3]
    return next((width for width in fitting if max_tokens % width == 0), fitting[0])


def length_reached(histogram: Bins, part: float) -> int:
    """The tokens that at most so many documents (0 to 1) have, to the bin; 0 without documents."""
    wanted = part * sum(count for *_, count in histogram)
    so_far = 0
    for _, high, count in histogram:
        so_far += count
        if count and so_far >= wanted:
            return high
    return 0


def class_table(classes: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The largest classes, the rest as one, and how even they are.

    Returns:
        shown: name, before, after; rest: their number as classes, before, after, or None; totals: before, after;
        largest: the most rows shown; ratios: before and after, rows of the largest class over those of the smallest
        that has any; gone: number of classes that had rows and have none; classes: their number.
    """
    ordered = sorted(classes.items(), key=lambda item: (-item[1]["after"], -item[1]["before"], item[0]))
    shown = [{"name": _label(name), **counts} for name, counts in ordered[:_SHOWN_CLASSES]]
    rest = [counts for _, counts in ordered[_SHOWN_CLASSES:]]
    sides: dict[str, list[int]] = {
        side: [counts[side] for counts in classes.values() if counts[side]] for side in ("before", "after")
    }
    return {
        "shown": shown,
        "rest": {"classes": len(rest), **{side: sum(item[side] for item in rest) for side in sides}} if rest else None,
        "totals": {side: sum(values) for side, values in sides.items()},
        "largest": max((counts[side] for _, counts in ordered[:_SHOWN_CLASSES] for side in sides), default=0),
        "ratios": {side: max(values) / min(values) if values else 0.0 for side, values in sides.items()},
        "gone": sum(1 for counts in classes.values() if counts["before"] and not counts["after"]),
        "classes": len(classes),
    }


def _label(text: str) -> str:
    return one_line(text, _LABEL_CHARACTERS)


def _largest(counts: dict[str, int]) -> dict[str, Any]:
    """The largest counts with labels fit to show, the rest summed, the whole."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = [count for _, count in ordered[_SHOWN_NAMES:]]
    return {
        "shown": [{"name": _label(name), "count": count} for name, count in ordered[:_SHOWN_NAMES]],
        "rest": {"names": len(rest), "count": sum(rest)} if rest else None,
        "total": sum(counts.values()),
    }


def _inputs(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    rest = inputs[_SHOWN_INPUTS:]
    return {
        "shown": [
            {**item, **{key: one_line(item.get(key, ""), 3 * _LABEL_CHARACTERS) for key in ("path", "note")}}
            for item in inputs[:_SHOWN_INPUTS]
        ],
        "rest": {"files": len(rest), **{key: sum(item[key] for item in rest) for key in ("rows", "bytes")}}
        if rest
        else None,
        "totals": {key: sum(item[key] for item in inputs) for key in ("rows", "bytes")},
    }


def _reasons(reasons: list[dict[str, Any]], outcome: str) -> dict[str, Any]:
    """The commonest reasons of an outcome with examples fit to show, the rest summed, the whole."""
    found = sorted(
        (item for item in reasons if item["outcome"] == outcome),
        key=lambda item: (-item["count"], item["step"], item["reason"]),
    )
    rest = found[_SHOWN_REASONS:]
    return {
        "shown": [
            {
                "step": _label(item["step"]),
                "reason": one_line(item["reason"], 2 * _LABEL_CHARACTERS),
                "count": item["count"],
                "examples": [_example(example, outcome) for example in item["examples"][:_SHOWN_EXAMPLES]],
            }
            for item in found[:_SHOWN_REASONS]
        ],
        "rest": {"reasons": len(rest), "count": sum(item["count"] for item in rest)} if rest else None,
        "total": sum(item["count"] for item in found),
    }


def _example(example: dict[str, Any], outcome: str) -> dict[str, Any]:
    """Where, and pieces of text: woven together for a change, else a text or two side by side."""
    before, after = example.get("before") or "", example.get("after") or ""
    shown: dict[str, Any] = {"where": one_line(example["where"], 2 * _LABEL_CHARACTERS), "woven": [], "sides": []}
    if not before or not after:
        shown["sides"] = [_excerpt(before or after)]
    elif outcome == "dropped":
        pieces = difference(before, after)
        shown["sides"] = [[piece for piece in pieces if piece[0] != unwanted] for unwanted in (NEW, GONE)]
    else:
        shown["woven"] = difference(before, after)
    return shown


def _excerpt(text: str) -> list[Piece]:
    short = text[:_EXCERPT_CHARACTERS]
    return [("same", short), *([("left out", "…")] if len(short) < len(text) else [])]


def summary_table(facts: DataFacts) -> str:
    """The plain text that `danlu data` prints: totals, steps, losses, rows not made, files left alone, splits, folders.

    At most 25 lines.
    """
    rows = facts.rows
    lines = [
        f"{number(rows['read'])} rows read + {number(rows['added'])} added = {number(rows['kept'])} kept + "
        f"{number(rows['dropped'])} dropped ({number(rows['changed'])} changed, {number(rows['cut'])} cut)"
    ]
    if not all(check["holds"] for check in checks(facts)):
        lines.append("the totals do not add up: see the report")
    if facts.steps:
        shown, rest = facts.steps[:_TABLE_STEPS], facts.steps[_TABLE_STEPS:]
        cells = [_step_cells(one_line(item["step"], 40), [item]) for item in shown]
        cells += [_step_cells(f"{len(rest)} more steps", rest)] if rest else []
        lines += aligned([["step", "rows in", "changed", "dropped", "time"], *cells])
    dropped = _reasons(facts.reasons, "dropped")["shown"][:_TABLE_REASONS]
    if dropped:
        lines.append(
            "dropped: " + ", ".join(f"{number(item['count'])} × {one_line(item['reason'], 50)}" for item in dropped)
        )
    lines += [
        f"{item['step']}: {number(item['made'])} of {number(item['asked'])} rows asked for; the others can't be changed"
        for item in shortfalls(facts)[:_TABLE_SHORTFALLS]
    ]
    noted = [item for item in facts.inputs if item.get("note")][:_TABLE_NOTES]
    lines += [f"{_end_of(item['path'])}: {one_line(item['note'], _LABEL_CHARACTERS)}" for item in noted]
    splits = [f"{one_line(name, 40)} {number(split['rows'])} rows" for name, split in list(facts.splits.items())[:6]]
    tokens = f"{number(facts.tokens['total'])} tokens, {number(facts.tokens['trained'])} of them trained"
    lines.append("; ".join(part for part in (", ".join(splits), tokens, duration(facts.seconds)) if part))
    folder = Path(show_unseen(facts.prepared_folder).replace("\n", "[U+000A]"))
    return "\n".join([*lines, f"  prepared  {folder}", f"  report    {folder / REPORT}"])


def _end_of(path: str) -> str:
    """A path in a line; of a long one the end, which tells the file."""
    shown = one_line(path, len(path))
    return shown if len(shown) <= _LABEL_CHARACTERS else f"…{shown[1 - _LABEL_CHARACTERS :]}"


def _step_cells(name: str, steps: list[dict[str, Any]]) -> list[str]:
    sums = [number(sum(item[key] for item in steps)) for key in ("changed", "dropped")]
    return [name, number(steps[0]["rows_in"]), *sums, duration(sum(item["seconds"] for item in steps))]


def aligned(table: list[list[str]]) -> list[str]:
    """Lines of a table, indented by two: the first column to the left, the others to the right, by width on screen."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    return [
        "  " + line[0] + " " * (widths[0] - cell_len(line[0])) + "".join(
            "  " + " " * (width - cell_len(cell)) + cell for cell, width in zip(line[1:], widths[1:], strict=True)
        )
        for line in table
    ]  # fmt: skip
