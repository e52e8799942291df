"""A model on the meta device, put together as training puts it together: adapters, kernels, checkpointing, few bits.

What is proven on real values in training is assumed here to hold.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from danlu.adapters.fused import fuse_shape, given_masks
from danlu.adapters.linear import FusedLinear
from danlu.adapters.lora import base_of
from danlu.adapters.targets import linear_layers, skeleton
from danlu.data.template import Document
from danlu.training.feed import to_batches
from danlu.training.frozen import FrozenLayers, first_trained_layer
from danlu.training.halfway import input_of
from danlu.training.memory import checkpoint_activations
from danlu.training.objectives import Batch, ChosenSft, Objective, sft
from danlu.training.sequences import AnyBatch, ChosenSequences, SequenceBatch, Sequences

META = torch.device("meta")
_SMALL = 4096
_BLOCK, _CONSTANTS = 64, 256  # weights that share a constant in four bits, and constants that share one of their own


def load_shape(
    folder: Path,
    dtype: torch.dtype,
    *,
    config_fields: Mapping[str, Any] | None = None,
    num_layers: int | None = None,
    **_: Any,
) -> Any:
    """What `load_base` gives, without values; in fewer bits once `Ghost.of` has put it together.

    Args:
        folder: with `config.json`.
        dtype: of the weights.
        config_fields: set to other values than the folder's.
        num_layers: fewer layers than the model has; None: all.
    """
    fields = dict(config_fields or {})
    if num_layers is not None:
        fields |= {"num_hidden_layers": num_layers}
    with torch.device("cpu"):  # the shape is on the meta device by itself; what is asked of it has values
        model = skeleton(folder, fields).to(dtype).eval()
    model.requires_grad_(True)
    return model


def bytes_in_few_bits(num_weights: int, num_rows: int, kind: str, double: bool) -> int:
    """Bytes that a quantised matrix takes with its constants.

    Args:
        num_weights: of the matrix.
        num_rows: its outputs.
        kind: nf4, fp4 or int8.
        double: whether the constants of four bits are quantised too (arXiv 2305.14314, section 3).
    """
    if kind == "int8":
        return num_weights + 4 * num_rows
    constants = math.ceil(num_weights / _BLOCK)
    of_constants = constants + 4 * math.ceil(constants / _CONSTANTS) if double else 4 * constants
    return math.ceil(num_weights / 2) + of_constants


@dataclass
class Made:
    """Counts the weights that were made from fewer bits."""

    weights: int = 0


class _FewBits(FusedLinear):
    """An adapted layer whose weights are made anew for each product."""

    @property
    def weights(self) -> Callable[[torch.dtype], torch.Tensor]:
        """What makes them."""
        make: Callable[[torch.dtype], torch.Tensor] = self.get_base_layer().make
        return make


class _MadeTwice(torch.autograd.Function):  # type: ignore[misc]
    """A product with weights that are made for it, and once again for the gradient: nothing of them is kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, make: Any, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.make = make
        return torch.nn.functional.linear(x, make(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradient @ ctx.make(gradient.dtype), None, None


def _keep_in_few_bits(model: Any, kind: str, double: bool, made: Made) -> None:
    """Gives linear layers the bytes that bitsandbytes keeps, and makes their weights where they are multiplied."""
    for layer in linear_layers(base_of(model)).values():
        if layer.weight.requires_grad:
            continue  # an adapter's own
        outputs, inputs = layer.weight.shape
        size = bytes_in_few_bits(outputs * inputs, outputs, kind, double)
        layer.weight = torch.nn.Parameter(torch.empty(size, dtype=torch.uint8, device=META), requires_grad=False)

        def make(dtype: torch.dtype, shape: tuple[int, int] = (outputs, inputs)) -> torch.Tensor:
            made.weights += math.prod(shape)
            return torch.empty(shape, dtype=dtype, device=META)

        def forward(x: torch.Tensor, layer: Any = layer, make: Any = make) -> torch.Tensor:
            product: torch.Tensor = _MadeTwice.apply(x, make, layer.bias)
            return product

        layer.make, layer.forward = make, forward
    for module in model.modules():
        if isinstance(module, FusedLinear):
            module.__class__ = _FewBits


@dataclass(frozen=True)
class _GhostSequences:
    """The objectives of encoder-decoder models where nothing can be looked up: all targets count, masks are given.

    Attributes:
        sequences: gives the inputs.
        head: for the loss in chunks; None: by all logits.
    """

    sequences: Sequences
    head: torch.nn.Linear | None

    def __call__(self, model: Any, batch: SequenceBatch, label_smoothing: float = 0.0) -> tuple[torch.Tensor, float]:
        inputs, head = {**self.sequences.inputs(batch), **given_masks(base_of(model))}, self.head
        targets = batch.target_ids.flatten()
        if head is None:
            logits = model(**inputs).logits.flatten(0, 1).float()
            return torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), batch.weight
        from danlu.kernels.chosen_loss import chosen_loss

        states = input_of(head, lambda: model(**inputs)).flatten(0, 1)
        return chosen_loss(states, head.weight, targets), batch.weight


class ProcessorAttention(TorchFunctionMode):  # type: ignore[misc]
    """SDPA attention by the processor's own kernel, which keeps no weights; the meta device would take another."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function, or the kernel in its place."""
        options = dict(kwargs or {})
        if function is not torch.nn.functional.scaled_dot_product_attention or options.get("dropout_p"):
            return function(*args, **options)
        query, key, value = (*args, *(options[name] for name in ("query", "key", "value")[len(args) :]))[:3]
        if key.shape[1] != query.shape[1]:
            key, value = (one.repeat_interleave(query.shape[1] // key.shape[1], 1) for one in (key, value))
        causal, mask = bool(options.get("is_causal")), options.get("attn_mask")
        if mask is not None and mask.dtype == torch.bool:  # what is added to scores is kept, in each layer
            mask = mask.to(query.dtype)
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        attended, _ = kernel(query, key, value, 0.0, causal, attn_mask=mask, scale=options.get("scale"))
        return attended


def _with_mask(batch: Batch) -> Batch:
    """Without the packed kernel Transformers keeps rows apart by a mask, which it would make from values."""
    mask = torch.ones(1, 1, batch.num_computed, batch.num_computed, dtype=torch.bool, device=META)
    return replace(batch, layout={**batch.layout, "attention_mask": mask})


class _MaskedLayers(FrozenLayers):
    """Frozen layers without the packed kernel."""

    def _compute(self, batch: Batch) -> torch.Tensor:
        return super()._compute(_with_mask(batch))


@dataclass
class Ghost:
    """A model as it would compute.

    Attributes:
        model: on the meta device.
        objective: the loss.
        packs: whether several documents lie in one batch.
        shares_prefix: whether packs compute a common prefix once.
        padded: whether each document is a row of its own (encoder-decoder models).
        frozen: the model from its first trained layer up, or None.
        made: counts weights that are made from fewer bits.
        four_bits: whether these are four.
        checkpointed: share of the layers whose activations are computed again.
    """

    model: Any
    objective: Objective
    packs: bool
    shares_prefix: bool
    padded: bool
    frozen: FrozenLayers | None = None
    made: Made = field(default_factory=Made)
    four_bits: bool = False
    checkpointed: float = 0.0

    @classmethod
    def of(cls, model: Any, bits: tuple[str, bool] | None, freezes: bool) -> Ghost:
        """Puts kernels, where they are there, and few bits into a model on the meta device.

        Args:
            model: base with adapter, or the base itself; its mode is changed.
            bits: kind and `double` of the quantisation; None: none.
            freezes: whether layers below the first trained one may be computed once for all epochs.
        """
        model.to(META)
        model.eval()
        base, made, four_bits = base_of(model), Made(), bits is not None and bits[0] != "int8"
        there = importlib.util.find_spec("danlu.kernels") is not None
        if there:
            fuse_shape(model)
        if bits:
            _keep_in_few_bits(model, *bits, made)
        if base.config.is_encoder_decoder:
            plain = Sequences.of(model)
            chosen = ChosenSequences.of(model, plain) if there else None
            objective: Objective = _GhostSequences(plain, chosen.head if chosen else None)
            return cls(model, objective, True, False, True, None, made, four_bits)
        packed = False
        if there:
            from danlu.kernels import packed_attention

            packed = packed_attention.switch_on(base) is not None
        chosen_sft = ChosenSft.of(model) if there else None
        ghost = cls(model, chosen_sft or sft, True, packed, False, None, made, four_bits)
        first = first_trained_layer(model)
        kinds = set(getattr(base.config.get_text_config(), "layer_types", None) or [""])
        if freezes and first and len(kinds) == 1 and hasattr(base.get_decoder(), "layers"):
            ghost.frozen = FrozenLayers(model, first) if packed else _MaskedLayers(model, first)
        return ghost

    def checkpoint(self, share: float) -> None:
        """Checkpoints the activations of a share of the layers."""
        self.checkpointed = share
        # A backward pass leaves such a mode: what it computes again is put into one of its own.
        checkpoint_activations(self.model, share, keeps_random_state=False, again_within=ProcessorAttention)

    @property
    def called(self) -> Any:
        """What the objective is called with."""
        return self.frozen or self.model

    @property
    def head_input(self) -> Any:
        """The module after which the loss begins."""
        return base_of(self.model).get_decoder()

    def batch(self, documents: list[Document]) -> AnyBatch:
        """Documents of one micro-batch as it is computed."""
        (batch,) = to_batches(documents, 1 << 60, self.shares_prefix, META, self.frozen, padded=self.padded)
        return _with_mask(batch) if isinstance(batch, Batch) and not self.shares_prefix else batch

    def sizes(self) -> Counter[str]:
        """Of the parameters, each once.

        Returns:
            Bytes of `weights`, `adapter` (what is trained beside the base), `gradients`, `masters` (float32 copies of
            trained ones in fewer bits) and the `largest_gradient`; numbers `trained`, and of those the ones in `small`
            tensors, whose moments bitsandbytes keeps in float32.
        """
        trained_beside = base_of(self.model) is not self.model
        found: Counter[str] = Counter()
        for parameter in {id(one): one for one in self.model.parameters()}.values():
            size = parameter.numel() * parameter.element_size()
            found["adapter" if parameter.requires_grad and trained_beside else "weights"] += size
            if parameter.requires_grad:
                found["trained"] += parameter.numel()
                found["small"] += parameter.numel() if parameter.numel() < _SMALL else 0
                found["gradients"] += size
                found["largest_gradient"] = max(found["largest_gradient"], size)
                found["masters"] += 4 * parameter.numel() if parameter.element_size() < 4 else 0
        for buffer in self.model.buffers():
            found["weights"] += buffer.numel() * buffer.element_size()
        return found
