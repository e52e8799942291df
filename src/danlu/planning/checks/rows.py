"""Whether the rows are what was meant: none lost unseen, none without an answer, none over and over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from danlu.data.prepared import LEDGER
from danlu.planning.findings import Finding, Level
from danlu.planning.look import Look

_WORTH_A_WARNING = 0.01


def dropped(look: Look) -> Iterator[Finding]:
    """The share of rows that were dropped."""
    rows = look.prepared.about["rows"]
    total = rows["read"] + rows["added"]
    if rows["dropped"]:
        share = rows["dropped"] / total
        what = f"{rows['dropped']:,} of {total:,} rows are dropped ({share:.1%})"
        level: Level = "warning" if share > _WORTH_A_WARNING else "note"
        hint = f"see {look.prepared.folder / LEDGER} for the reason of each, or danlu data RECIPE"
        yield Finding(level, "rows-dropped", what, "data.train", hint)


def cut(look: Look) -> Iterator[Finding]:
    """The share of rows that were cut; a cut answer has no end."""
    rows = look.prepared.about["rows"]
    if rows["cut"]:
        share = rows["cut"] / max(1, rows["kept"])
        answers = look.recipe.data.too_long == "cut_answer"
        what = f"{rows['cut']:,} of {rows['kept']:,} rows are cut to {look.recipe.data.max_sequence_tokens} tokens"
        what += f" ({share:.1%})" + ("; their answers have no end to learn" if answers else "")
        level: Level = "warning" if share > _WORTH_A_WARNING else "note"
        longer = look.recipe.data.max_sequence_tokens * 2
        hint = f"data.max_sequence_tokens={longer}, or data.too_long=drop"
        yield Finding(level, "rows-cut", what, "data.max_sequence_tokens", hint)


def losses_allowed(look: Look) -> Iterator[Finding]:
    """The bound on dropped rows still stops a run that loses its rows."""
    share = look.recipe.data.max_dropped_share
    if share >= 0.5:
        what = f"up to {share:.0%} of the rows may be dropped before the run stops"
        yield Finding("warning", "losses-allowed", what, "data.max_dropped_share", "data.max_dropped_share=0.05")


def untrained(look: Look) -> Iterator[Finding]:
    """Every document has a trained token."""
    empty = [place for place, count in enumerate(look.trained_counts) if not count]
    if empty:
        what = f"{len(empty):,} of {len(look.documents):,} rows have no trained token"
        yield Finding("error", "nothing-trained", what, look.where(empty[0]), "give these rows an answer, or drop them")


def little_trained(look: Look) -> Iterator[Finding]:
    """Answers are not lost among long prompts."""
    total = sum(len(document.ids) for document in look.documents)
    share = look.trained_counts.sum() / total if total else 1.0
    if share < 0.02:
        what = f"{share:.1%} of the tokens are trained: prompts are long and answers short, most work teaches nothing"
        yield Finding(
            "warning", "little-trained", what, "data.train", "shorten the prompts, or move them to a system turn"
        )


def repeated(look: Look) -> Iterator[Finding]:
    """Rows do not come over and over."""
    if look.recipe.data.balance is not None:
        return
    counts = Counter(document.ids for document in look.documents)
    copies = len(look.documents) - len(counts)
    if copies > 0.1 * len(look.documents):
        what = f"{copies / len(look.documents):.0%} of the rows are copies of others: they count as often"
        yield Finding("warning", "rows-repeated", what, "data.train", "data.cleaning=[exact_duplicates]")


def one_answer(look: Look) -> Iterator[Finding]:
    """There is more than one answer to learn."""
    answers = {tuple(document.ids[start:end] for start, end in document.spans) for document in look.documents}
    if len(look.documents) >= 20 and len(answers) == 1:
        what = "all rows have the same answer: the model will learn to say it to anything"
        yield Finding("warning", "one-answer", what, "data.train", "check data.train.columns, or add rows")


def held_in_training(look: Look) -> Iterator[Finding]:
    """No held-out document is trained on."""
    trained = {document.ids for document in look.documents}
    found = [place for place, document in enumerate(look.held_documents) if document.ids in trained]
    if found:
        what = f"{len(found):,} of {len(look.held_documents):,} held-out rows are trained on too"
        yield Finding("error", "held-out-trained", what, look.held.where(found[0]), "danlu data RECIPE shows the leaks")
