"""What a forward pass keeps for the backward pass, and how little of it will do: activation checkpointing, budgets.

Layers whose activations are checkpointed (arXiv 1604.06174) keep their input alone and are computed again in the
backward pass: the numbers stay the same bits, each such layer costs one more forward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from danlu.adapters.lora import base_of
from danlu.data.store import Store
from danlu.data.template import Document
from danlu.errors import Fault, ModelError, RecipeError
from danlu.training.engine import Engine
from danlu.training.feed import to_batches
from danlu.training.machine import close_holes, resident_bytes

_SHARES = (0.0, 0.5, 1.0)
_NUM_CANDIDATES = 32
# Of what is computed beside the activations that are kept: gradients on their way, logits of a chunk, the allocator.
_RESERVE_BYTES, _RESERVE_BYTES_GPU = 256 << 20, 1 << 30
_TIDY_EVERY = 10
_TOKENS, _TOKENS_GPU = 1024, 8192
_SHARE_OF_FREE = 0.9  # of a GPU's memory; the rest is for what its allocator can't fill


def usual_tokens(device: torch.device) -> int:
    """How many tokens a forward pass computes where the recipe does not say."""
    return _TOKENS_GPU if device.type == "cuda" else _TOKENS


@dataclass(frozen=True)
class MemoryPlan:
    """How a run stays within its memory.

    Attributes:
        micro_batch_tokens: most computed tokens of one forward pass.
        checkpointed_share: of the layers, those whose activations are computed again.
        bytes_per_token: kept by a forward pass for each computed token; 0 where nothing had to be measured.
    """

    micro_batch_tokens: int
    checkpointed_share: float
    bytes_per_token: int = 0


def checkpoint_activations(
    model: Any, share: float, keeps_random_state: bool = True, again_within: Callable[[], Any] | None = None
) -> None:
    """Checkpoints the activations of a share of the layers, spread evenly; 0 takes checkpointing off again.

    Args:
        model: PEFT's wrapped model.
        share: 0 to 1; rounded up to whole layers.
        keeps_random_state: what is computed again drops out what it dropped out before.
        again_within: makes the context in which a layer is computed again; None: none.

    Raises:
        ModelError: Transformers can't checkpoint this model's activations.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    base = base_of(model)
    base.disable_input_require_grads()  # each time that it is put on, another hook is left on the embeddings
    if not share:
        if base.is_activation_checkpointing:
            base.activation_checkpointing_disable()
        return
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": keeps_random_state}
    if again_within is not None:
        options["context_fn"] = lambda: (contextlib.nullcontext(), again_within())
    try:
        base.activation_checkpointing_enable(options)
    except ValueError as error:
        hint = "set training.activation_checkpointing=0 and a smaller training.micro_batch_tokens"
        raise ModelError(Fault(str(error), type(base).__name__, hint=hint)) from error
    layers = [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]
    count = -int(-share * len(layers) // 1)
    chosen = {number * len(layers) // count for number in range(count)}
    for number, layer in enumerate(layers):
        layer.gradient_checkpointing = number in chosen


def close_holes_on_the_way(model: Any) -> Callable[[], None]:
    """Gives back, every ten layers of a forward pass on a processor, what layers freed and later ones can't fill.

    For quantised bases: each weight that is made for a product leaves a hole of its size, and glibc before 2.38 can't
    put the next one of that size into it, for the sake of 64 bytes of alignment. For others it is not worth its time: a
    tenth less memory, but 10 to 20 % longer steps.

    Returns:
        Takes it off again.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    if next(model.parameters()).device.type != "cpu":
        return lambda: None
    layers = [module for module in base_of(model).modules() if isinstance(module, GradientCheckpointingLayer)]
    hooks = [
        layer.register_forward_hook(lambda *_: close_holes()) for layer in layers[_TIDY_EVERY - 1 : -1 : _TIDY_EVERY]
    ]

    def off() -> None:
        for hook in hooks:
            hook.remove()

    return off


def plan_memory(
    model: Any, engine: Engine, store: Store | Sequence[Document], plan: MemoryPlan, max_bytes: int | None
) -> MemoryPlan:
    """The wished plan where it fits, else the largest micro-batch and the fewest checkpointed layers that do.

    What is resident now, the gradients and moments of the trained parameters, a reserve, and what a pass over real
    documents keeps for each token must stay below the bound.

    Args:
        model: PEFT's wrapped model, as it will compute; left with the plan's layers checkpointed.
        engine: how it computes.
        store: documents; the longest of the first ones are measured.
        plan: the wish; its share of layers is a lower bound.
        max_bytes: most resident memory of this process, on a GPU of what it allocates there; None: no bound, on a GPU
            what is free.

    Raises:
        RecipeError: the longest document does not fit although every layer is checkpointed.
        ModelError: Transformers can't checkpoint this model's activations.
    """
    checkpoint_activations(model, plan.checkpointed_share)
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        held, free = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]
        held, max_bytes = held + _RESERVE_BYTES_GPU, max_bytes or int(_SHARE_OF_FREE * (held + free))
    elif max_bytes is None:
        return plan
    else:
        held = resident_bytes() + _RESERVE_BYTES
    documents = [store[index] for index in range(min(len(store), _NUM_CANDIDATES))]
    longest = max(documents, key=lambda document: len(document.ids))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Gradient and two moments; in fewer bits than 32 also a float32 master and its gradient.
    state = sum(one.numel() * (12 if one.dtype == torch.float32 else 18) for one in trained)
    resident = held + state
    per_token, most = 0, 0
    for share in sorted({plan.checkpointed_share, *(share for share in _SHARES if share > plan.checkpointed_share)}):
        checkpoint_activations(model, share)
        per_token = _bytes_per_token(model, engine, longest)
        most = int((max_bytes - resident) / per_token)
        if most >= min(plan.micro_batch_tokens, len(longest.ids)):
            return MemoryPlan(min(plan.micro_batch_tokens, most), share, per_token)
    needed = resident + per_token * len(longest.ids)
    raise RecipeError(
        Fault(
            f"a document of {len(longest.ids)} tokens needs {needed / 1e9:.2f} GB, all layers checkpointed; "
            f"allowed are {max_bytes / 1e9:.2f} GB",
            "training.max_memory",
            f"at least {needed / 1e9:.2f}GB for these documents",
            "allow more, or lower data.max_sequence_tokens or adapter.rank",
        )
    )


def _bytes_per_token(model: Any, engine: Engine, document: Document) -> int:
    """What a forward pass over the document keeps, by computed token: each storage once, weights apart."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    training = model.training
    model.train()
    device = next(model.parameters()).device
    (batch,) = to_batches([document], 1, engine.shares_prefix, device, padded=engine.padded)
    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            engine.objective(model, batch)[0].detach()
    finally:
        model.train(training)
    num_bytes: int = sum(kept.values()) // batch.num_computed
    return max(1, num_bytes)
