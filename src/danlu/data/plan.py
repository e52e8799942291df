"""From the recipe's data section to what the passes do: plain values, built once, before a row is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.data.cleaning import STEPS
from danlu.data.passes import Pass
from danlu.data.privacy.keyfile import KeyFile
from danlu.data.stages import LabelPlan, RowStage, SourcePlan
from danlu.recipe.data_schema import (
    CleaningStep,
    DataSection,
    ExactDuplicatesStep,
    NearDuplicatesStep,
    SourceSection,
    SplitSection,
)
from danlu.runs import danlu_home

if TYPE_CHECKING:
    from danlu.data.privacy.masker import Masker


def open_key_file(data: DataSection) -> KeyFile | None:
    """The key file of a reversible masking, made if there is none; None where nothing is turned back.

    Raises:
        DataError: it can't be used.
    """
    if data.masking is None or data.masking.mode != "reversible":
        return None
    path = data.masking.key_file
    place = Path(path).expanduser() if path else danlu_home() / "keys" / "masking.json"
    return KeyFile(place, outside=[danlu_home() / "prepared"])


def leak_rule(data: DataSection) -> tuple[str, float]:
    """What is compared with evaluation rows, and the similarity from which on a row is a near-copy."""
    return (data.leaks.compare, data.leaks.threshold) if data.leaks else ("row", 1.0)


def make_passes(cleaning: Sequence[CleaningStep]) -> list[Pass]:
    """Cleaning steps as passes; a search for duplicates ends one, and the last has none."""
    passes: list[Pass] = []
    steps: list[Any] = []
    exact = False
    near: list[tuple[float, str]] = []
    for section in cleaning:
        if isinstance(section, ExactDuplicatesStep) and not near:
            exact = True
        elif isinstance(section, NearDuplicatesStep):
            near.append((section.threshold, section.compare))
        else:
            if exact or near:
                passes.append(Pass(tuple(steps), exact, tuple(near)))
                steps, exact, near = [], isinstance(section, ExactDuplicatesStep), []
            if not isinstance(section, ExactDuplicatesStep):
                steps.append(STEPS[section.type](**section.model_dump(exclude={"type"})))
    if exact or near:
        passes.append(Pass(tuple(steps), exact, tuple(near)))
        steps = []
    return [*passes, Pass(tuple(steps))]


def make_stage(data: DataSection, sections: Sequence[SourceSection], base: Path, key_file: KeyFile | None) -> RowStage:
    """The last pass over rows, which masks and labels; without its cleaning steps.

    Args:
        data: the recipe's section.
        sections: the entries that name files, training ones first.
        base: folder of the base model, for its tokenizer.
        key_file: of a reversible masking.
    """
    split = data.evaluation if isinstance(data.evaluation, SplitSection) else None
    wanted = [split.stratify_by, split.group_by] if split else []
    if data.balance and data.balance.by != "source":
        wanted.append(data.balance.by)
    return RowStage(
        tuple(SourcePlan(number, section.format, section.columns) for number, section in enumerate(sections)),
        tuple(dict.fromkeys(name for name in wanted if name)),
        masker=_make_masker(data, key_file),
        masks=data.masking is not None,
        labels=LabelPlan(base, data.max_sequence_tokens, data.too_long),
    )


def _make_masker(data: DataSection, key_file: KeyFile | None) -> Masker | None:
    masking = data.masking
    if masking is None:
        return None
    from danlu.data.privacy.masker import Masker  # its word lists take time to load

    secret = key_file.secret if key_file else None
    return Masker(mode=masking.mode, kinds=masking.kinds, names=masking.names, keep=masking.keep, secret=secret)
