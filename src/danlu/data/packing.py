"""Documents side by side in one row, without padding and without seeing each other.

Two layouts give the same numbers. The plain one restarts positions at each document; Transformers makes the mask
from that. The shared-prefix one computes the tokens that all documents of the pack begin with (the system turn,
say) once; a causal model gives them the same states in every document, so this is exact. It needs an attention
function that follows `Pack.gather` (see `danlu.kernels.packed_attention`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from danlu.data.template import Document


@dataclass(frozen=True)
class Pack:
    """One forward pass. T computed tokens, N targets, D documents, L longest document.

    Attributes:
        ids: T token ids.
        positions: T positions, each counted from its document's start.
        target_positions: N indices into the T tokens; the token there predicts the target.
        target_ids: N token ids to be predicted.
        gather: D rows of L indices into the T tokens, a document each, filled up at its end; empty if plain.
        scatter: T indices into the D·L grid, from which each token's result is taken; empty if plain.
        num_tokens: tokens of the documents; more than T where a prefix is shared.
        shared: leading tokens that all documents share and that are there once.
    """

    ids: list[int]
    positions: list[int]
    target_positions: list[int]
    target_ids: list[int]
    gather: list[list[int]]
    scatter: list[int]
    num_tokens: int
    shared: int


def shared_prefix(documents: Sequence[Document]) -> int:
    """Number of leading tokens that all documents have in common and that predict no target."""
    if len(documents) < 2:
        return 0
    columns = zip(*(document.ids for document in documents), strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
    return max(0, min([common, *(document.spans[0][0] - 1 for document in documents)]))


def pack(documents: Sequence[Document], share_prefix: bool) -> Pack:
    """Lays documents side by side.

    Args:
        documents: at least one, each with a trained span.
        share_prefix: compute the common prefix once, and fill in `gather` and `scatter`.
    """
    prefix = shared_prefix(documents) if share_prefix else 0
    ids = list(documents[0].ids[:prefix])
    positions = list(range(prefix))
    target_positions: list[int] = []
    target_ids: list[int] = []
    gather: list[list[int]] = []
    scatter = list(range(prefix))
    longest = max(len(document.ids) for document in documents)
    for row, document in enumerate(documents):
        offset, length = len(ids) - prefix, len(document.ids)
        ids += document.ids[prefix:]
        positions += range(prefix, length)
        for start, end in document.spans:
            target_positions += range(offset + start - 1, offset + end - 1)
            target_ids += document.ids[start:end]
        own = list(range(offset + prefix, offset + length))
        gather.append([*range(prefix), *own, *[offset + length - 1] * (longest - length)])
        scatter += range(row * longest + prefix, row * longest + length)
    if not share_prefix:
        gather, scatter = [], []
    num_tokens = sum(len(document.ids) for document in documents)
    return Pack(ids, positions, target_positions, target_ids, gather, scatter, num_tokens, prefix)


def computed_tokens(documents: Sequence[Document], share_prefix: bool) -> int:
    """T of the documents' pack."""
    prefix = shared_prefix(documents) if share_prefix else 0
    return sum(len(document.ids) - prefix for document in documents) + prefix


def split_into_packs(documents: Sequence[Document], max_tokens: int, share_prefix: bool) -> list[list[Document]]:
    """Groups the documents of one step so that each group computes at most `max_tokens` tokens.

    Documents of similar length come together; one that is longer than the budget goes alone. Every document is
    in exactly one group. The largest group is the first, so that the others find room in what it leaves.
    """
    groups: list[list[Document]] = []
    for document in sorted(documents, key=lambda document: len(document.ids)):
        if groups and computed_tokens([*groups[-1], document], share_prefix) <= max_tokens:
            groups[-1].append(document)
        else:
            groups.append([document])
    return sorted(groups, key=lambda group: computed_tokens(group, share_prefix), reverse=True)
