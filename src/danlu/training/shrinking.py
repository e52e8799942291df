"""Where memory is not enough for a step: the same step again, in smaller micro-batches.

A step's numbers do not depend on how it is cut, so nothing else changes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from danlu.data.template import Document
from danlu.errors import Fault, WorkError, is_out_of_memory
from danlu.training.backends.interface import Backend
from danlu.training.machine import release_memory

T = TypeVar("T")


def within_memory(compute: Callable[[], T], backend: Backend, able: bool) -> T | None:
    """What is computed; None in every process, with the gradients dropped, if memory was not enough in one of them.

    Args:
        compute: forward and backward passes, in which processes exchange nothing.
        backend: has the gradients.
        able: whether to try at all; else the error is raised.

    Raises:
        MemoryError, RuntimeError: as `compute`, for other reasons, or where processes exchange something in passes.
    """
    result: T | None = None
    failed = False
    try:
        result = compute()
    except (MemoryError, RuntimeError) as error:
        if not able or backend.equal_shares or not is_out_of_memory(error):
            raise
        failed = True  # and the error goes: its frames hold what was computed
    if not backend.total(float(failed)):
        return result
    backend.drop()
    gc.collect()
    release_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def fewer_tokens(documents: Sequence[Document], micro_batch_tokens: int) -> int:
    """Half of the largest micro-batch that a step can have had.

    Raises:
        WorkError: each document was alone already.
    """
    lengths = [len(document.ids) for document in documents]
    tokens = min(micro_batch_tokens, sum(lengths))
    if tokens <= min(lengths):
        what = f"memory is not enough for a row of {max(lengths)} tokens alone"
        hint = "set training.activation_checkpointing=1, or lower data.max_sequence_tokens or adapter.rank"
        raise WorkError(Fault(what, "training", hint=f"{hint}; or close other programs and go on with --resume"))
    return max(1, tokens // 2)
