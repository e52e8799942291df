"""Which documents form which step: of prepared rows every one once per epoch, of streamed rows the next ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from danlu.data.packing import pack, split_into_packs
from danlu.data.store import Store
from danlu.data.stream import RowStream, parts_of
from danlu.data.template import Document
from danlu.training.frozen import FrozenLayers
from danlu.training.objectives import to_batch
from danlu.training.processes import THIS_ALONE, Processes
from danlu.training.sequences import AnyBatch, split_by_length, to_sequences


@dataclass(frozen=True)
class Share:
    """Which micro-batches of a step are this process's.

    Attributes:
        processes: this one among all.
        equal: every process gets as many; who has none left computes one that weighs nothing.
    """

    processes: Processes = THIS_ALONE
    equal: bool = False

    def of(self, groups: list[list[Document]]) -> tuple[list[list[Document]], int]:
        """This process's groups of documents, and how many of them at the end do not count.

        The longest are dealt out first, so that all processes have about as much to compute.
        """
        world = self.processes.world_size
        if world == 1:
            return groups, 0
        dealt = sorted(groups, key=lambda group: -sum(len(document.ids) for document in group))
        own = dealt[self.processes.rank :: world]
        missing = -(-len(dealt) // world) - len(own) if self.equal else 0
        return [*own, *[dealt[-1]] * missing], missing


ALONE = Share()


@dataclass
class Feed:
    """The order of a run's documents; a position in it is one integer.

    Attributes:
        store: the documents.
        num_epochs: passes over them; may be a part.
        global_batch_size: documents per step; the last step of the run may have fewer.
        seed: of the order.
        micro_batch_tokens: most computed tokens in one forward pass.
        share_prefix: compute a pack's common prefix once.
        device: where batches are put.
        max_steps: fewer steps than the epochs have, or None.
        frozen: computes the layers below the first trained one, once per document; or None.
        share: of each step's micro-batches.
        padded: each document is a row of its own (see `danlu.training.sequences`).
        left_out: documents, by place in the store, that do not come after a step, counted from 1 (see
            `danlu.training.guards`); a step of nothing else has none.
    """

    store: Store
    num_epochs: float
    global_batch_size: int
    seed: int
    micro_batch_tokens: int
    share_prefix: bool
    device: torch.device
    max_steps: int | None = None
    frozen: FrozenLayers | None = None
    share: Share = ALONE
    padded: bool = False
    left_out: Mapping[int, int] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.share.processes.rank

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        steps = math.ceil(self._num_documents / self.global_batch_size)
        return min(steps, self.max_steps or steps)

    @property
    def _num_documents(self) -> int:
        """Documents of the whole run, each counted as often as it comes."""
        return math.ceil(len(self.store) * self.num_epochs)

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps that one pass over the documents takes."""
        return len(self.store) / self.global_batch_size

    @property
    def size(self) -> str:
        """How much there is to learn from, in words."""
        return f"{len(self.store)} documents"

    def epoch(self, step: int) -> float:
        """Passes over the documents that are done after so many steps."""
        return step / self.steps_per_epoch

    def documents(self, step: int) -> list[Document]:
        """The documents of a step, counted from 0."""
        return [self.store[number] for number in self.numbers(step)]

    def numbers(self, step: int) -> list[int]:
        """Places in the store of a step's documents."""
        total = len(self.store)
        first = step * self.global_batch_size
        places = range(first, min(first + self.global_batch_size, self._num_documents))
        numbers = [_order(total, self.seed, place // total)[place % total] for place in places]
        return [number for number in numbers if self.left_out.get(number, step + 1) > step]

    def wheres(self, step: int) -> list[str]:
        """The places of the rows that a step's documents came from."""
        return [self.store.where(number) for number in self.numbers(step)]

    def batches(self, step: int) -> list[AnyBatch]:
        """This process's micro-batches of a step, counted from 0."""
        return self.pack(self.documents(step), self.share)

    def pack(self, documents: list[Document], share: Share = ALONE) -> list[AnyBatch]:
        """Any documents as micro-batches, packed as the run's are."""
        budget, shares = self.micro_batch_tokens, self.share_prefix
        return to_batches(documents, budget, shares, self.device, self.frozen, share, self.padded)


@dataclass
class StreamFeed:
    """The order of a run's documents where rows are streamed: those of a step are the next of the stream.

    Attributes:
        stream: the documents, at the place of the first step.
        num_steps: optimizer steps of the whole run.
        global_batch_size: documents per step.
        micro_batch_tokens: most computed tokens in one forward pass.
        share_prefix: compute a pack's common prefix once.
        device: where batches are put.
        first_step: the step that the stream's place belongs to, counted from 0.
        padded: each document is a row of its own (see `danlu.training.sequences`).
    """

    stream: RowStream
    num_steps: int
    global_batch_size: int
    micro_batch_tokens: int
    share_prefix: bool
    device: torch.device
    first_step: int = 0
    padded: bool = False

    @property
    def rank(self) -> int:
        """0: rows are streamed by one process alone."""
        return 0

    def __post_init__(self) -> None:
        self._positions = [self.stream.position]
        self._next, self._documents = self.first_step, list[Document]()

    @property
    def size(self) -> str:
        """How much there is to learn from, in words."""
        return "streamed rows"

    def epoch(self, step: int) -> float:
        """Passes over the rows that are done after so many steps, whole ones; of steps that were asked for."""
        return float(parts_of(self.position(step))[0])

    def go_to(self, step: int, position: int) -> None:
        """Goes on at a step, counted from 0, whose rows begin at this place of the stream."""
        self.stream.seek(position)
        self.first_step = self._next = step
        self._positions = [position]

    def position(self, step: int) -> int:
        """The place in the stream after so many steps, from which it goes on; of steps that were asked for."""
        return self._positions[step - self.first_step]

    def documents(self, step: int) -> list[Document]:
        """The documents of a step, counted from 0.

        A later step than the next passes over documents, which are not counted in the ledger; an earlier one than
        the last goes back, and its documents are counted again.

        Raises:
            ValueError: the step is before the stream's first.
            DataError: a file is wrong, or too many rows are dropped.
        """
        if step < self.first_step:
            raise ValueError(f"step {step} is before the first, {self.first_step}")
        if step < self._next - 1:
            self._next = step
            self.stream.seek(self.position(step))
            del self._positions[step - self.first_step + 1 :]
        while self._next <= step:
            self._documents = self.stream.take(self.global_batch_size, counted=self._next == step)
            self._positions.append(self.stream.position)
            self._next += 1
        return self._documents

    def numbers(self, step: int) -> list[int]:
        """Nothing: streamed rows have none by which to know them again."""
        return []

    def wheres(self, step: int) -> list[str]:
        """The places of the rows that a step's documents came from."""
        self.documents(step)
        return self.stream.wheres

    def batches(self, step: int) -> list[AnyBatch]:
        """The micro-batches of a step, counted from 0."""
        return self.pack(self.documents(step))

    def pack(self, documents: list[Document], share: Share = ALONE) -> list[AnyBatch]:
        """Any documents as micro-batches, packed as the run's are."""
        budget, shares = self.micro_batch_tokens, self.share_prefix
        return to_batches(documents, budget, shares, self.device, share=share, padded=self.padded)


@functools.lru_cache(maxsize=2)
def _order(total: int, seed: int, epoch: int) -> list[int]:
    """The documents of one epoch, shuffled."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(total, generator=generator).tolist()
    return order


def to_batches(
    documents: list[Document],
    max_tokens: int,
    share_prefix: bool,
    device: torch.device,
    frozen: FrozenLayers | None = None,
    share: Share = ALONE,
    padded: bool = False,
) -> list[AnyBatch]:
    """Packs documents into micro-batches on a device; with `frozen`, as states that enter the first trained layer.

    With `padded`, as rows of sources and of targets, for an encoder-decoder model; `max_tokens` then counts what fills
    them up too.
    """
    split = split_by_length(documents, max_tokens) if padded else split_into_packs(documents, max_tokens, share_prefix)
    groups, uncounted = share.of(split)
    batches: list[AnyBatch] = []
    for place, group in enumerate(groups):
        counted = place < len(groups) - uncounted
        if padded:
            batches.append(replace(to_sequences(group, device), counted=counted))
            continue
        packed = pack(group, share_prefix)
        batch = to_batch(packed, device)
        if frozen is not None:
            batch = replace(batch, states=frozen.states(group, packed, batch))
        batches.append(replace(batch, counted=counted))
    return batches
