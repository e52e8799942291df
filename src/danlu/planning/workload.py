"""What a run's steps consist of: groups of documents that go through the model at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from danlu.data.packing import computed_tokens, split_into_packs
from danlu.data.template import Document
from danlu.training.sequences import filled_up, split_by_length

_MOST_STEPS = 48
Group = list[Document]


@dataclass(frozen=True)
class Workload:
    """The steps of a run.

    Attributes:
        num_steps: of the whole run.
        steps: groups of some of them, spread evenly.
        numbers: which steps these are, from 0.
        shares_prefix: whether tokens that a group's documents begin with are computed once.
        padded: whether a group's documents are filled up to the longest.
    """

    num_steps: int
    steps: list[list[Group]]
    numbers: list[int]
    shares_prefix: bool
    padded: bool

    def num_tokens(self, group: Group) -> int:
        """Tokens that are computed for a group."""
        return filled_up(group) if self.padded else computed_tokens(group, self.shares_prefix)

    def groups(self) -> list[Group]:
        """All groups that are known, the largest first."""
        return sorted((group for step in self.steps for group in step), key=self.num_tokens, reverse=True)

    @property
    def accumulates(self) -> bool:
        """Whether a step takes several groups."""
        return any(len(step) > 1 for step in self.steps)

    def two_steps(self) -> list[int]:
        """The step with the largest group, and of the others the one with the most tokens, by number.

        Each group leaves other holes for the next: the more there are, the more memory a step takes.
        """
        places = range(len(self.steps))
        largest = max(places, key=lambda place: max(map(self.num_tokens, self.steps[place])))
        others = [place for place in places if place != largest] or [largest]
        most = max(others, key=lambda place: sum(map(self.num_tokens, self.steps[place])))
        return [self.numbers[largest], self.numbers[most]]


def workload(
    num_steps: int,
    documents_of: Callable[[int], Sequence[Document]],
    micro_batch_tokens: int,
    shares_prefix: bool,
    padded: bool,
) -> Workload:
    """The groups that the steps of a run are made of.

    Args:
        num_steps: of the whole run.
        documents_of: gives the documents of a step, counted from 0.
        micro_batch_tokens: most computed tokens of a group.
        shares_prefix: see `Workload`.
        padded: see `Workload`.
    """
    count = min(num_steps, _MOST_STEPS)
    numbers = [place * num_steps // count for place in range(count)]
    steps = []
    for number in numbers:
        documents = list(documents_of(number))
        steps.append(
            split_by_length(documents, micro_batch_tokens)
            if padded
            else split_into_packs(documents, micro_batch_tokens, shares_prefix)
        )
    return Workload(num_steps, steps, numbers, shares_prefix, padded)
