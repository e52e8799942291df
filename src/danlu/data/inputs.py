"""The files that a recipe names."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from danlu.data.sources import Source, find_sources
from danlu.errors import DataError, Fault
from danlu.recipe.data_schema import SourceSection
from danlu.recipe.load import LoadedRecipe


@dataclass(frozen=True)
class Inputs:
    """The files of a recipe, each with the number of its entry.

    Attributes:
        train: training files.
        evaluation: evaluation files; empty if rows are held out or there are none.
        sections: the entries, training ones first.
    """

    train: list[tuple[int, Source]]
    evaluation: list[tuple[int, Source]]
    sections: list[SourceSection]

    def files(self) -> list[Source]:
        """All files."""
        return [source for _, source in (*self.train, *self.evaluation)]


def require_files(loaded: LoadedRecipe) -> Inputs:
    """The recipe's training and evaluation files.

    Raises:
        DataError: with a fault for each entry that leads to none.
    """
    data = loaded.recipe.data
    held = data.evaluation if isinstance(data.evaluation, tuple) else ()
    sections = [
        entry if isinstance(entry, SourceSection) else SourceSection(path=entry) for entry in (*data.train, *held)
    ]
    found: list[list[Source]] = []
    faults: list[Fault] = []
    for section in sections:
        try:
            found.append(find_sources(section.path, loaded.find))
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(*dict.fromkeys(faults))
    numbered = [[(number, source) for source in sources] for number, sources in enumerate(found)]
    count = len(data.train)
    return Inputs(
        list(itertools.chain.from_iterable(numbered[:count])),
        list(itertools.chain.from_iterable(numbered[count:])),
        sections,
    )
