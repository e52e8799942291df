"""How a model is computed in training: by the kernels that are proven on this very model, else as Transformers does.

The truth is one row at a time through the model's own code. All kernels are put in together and kept if loss and
gradients on real documents stay what they were; else one after the other, and what does not hold is taken out again,
and the name says why.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from danlu.adapters.fused import Fused, fuse
from danlu.adapters.lora import base_of
from danlu.data.packing import pack, shared_prefix, split_into_packs
from danlu.data.store import Store
from danlu.data.template import Document
from danlu.errors import Fault, ModelError
from danlu.training.feed import to_batches
from danlu.training.objectives import ChosenSft, Objective, sft, to_batch
from danlu.training.sequences import ChosenSequences, Sequences, own_loss

# By how much, relatively, loss and gradients may differ: float32 in the order of its sums alone; bfloat16 also
# because PEFT computes the adapters in float32 and the kernels in bfloat16.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
_GRADIENT_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
_NOT_FUSED = (ImportError, TypeError, RuntimeError, ValueError, AttributeError)
_NUM_CANDIDATES, _NUM_DOCUMENTS, _NUM_TOKENS = 32, 3, 512


@dataclass(frozen=True)
class Engine:
    """What was chosen for a model.

    Attributes:
        objective: the loss, by all logits or in chunks.
        attention: "packed", on a GPU also "flash", or "plain" and why; an encoder-decoder model's is plain.
        layers: "fused", also how many of the adapted ones if not all, or "plain" and why.
        packs: whether several documents may be in one batch at all.
        shares_prefix: whether packs may compute a common prefix once.
        undo: each takes one kernel out again.
        padded: whether each document is a row of its own, as an encoder-decoder model wants it.
        plain: the objective by all logits.
    """

    objective: Objective
    attention: str
    layers: str
    packs: bool
    shares_prefix: bool
    undo: tuple[Callable[[], None], ...] = ()
    padded: bool = False
    plain: Objective = sft

    @property
    def name(self) -> str:
        """For the log."""
        loss = "chunked" if isinstance(self.objective, (ChosenSft, ChosenSequences)) else "plain"
        return f"{self.attention} attention, {self.layers} layers, {loss} loss"

    def losses(self, model: Any, documents: Sequence[Document], max_tokens: int) -> list[float]:
        """The summed loss of each document, without gradients; packed where rows may be and the loss allows it.

        Args:
            model: as it was proven, in evaluation mode.
            documents: in any order.
            max_tokens: of a pack.
        """
        together = self.packs and isinstance(self.objective, ChosenSft)
        groups = split_into_packs(documents, max_tokens if together else 1, self.shares_prefix)
        found: dict[int, float] = {}
        with torch.no_grad():
            for group in groups:
                if isinstance(self.objective, ChosenSft):
                    batch = to_batch(pack(group, self.shares_prefix), model.device)
                    losses = self.objective.each(model, batch, [document.trained for document in group])
                else:
                    (alone,) = to_batches(group, 1, False, model.device, padded=self.padded)
                    losses = [self.objective(model, alone)[0].item()]
                found.update(zip(map(id, group), losses, strict=True))
        return [found[id(document)] for document in documents]

    def off(self) -> None:
        """Gives the model back what it had."""
        for step in reversed(self.undo):
            step()


def choose_engine(model: Any, store: Store | Sequence[Document]) -> Engine:
    """Proves on real documents by which kernels a model may be computed, and puts them in.

    Args:
        model: PEFT's wrapped model, as Transformers computes it.
        store: documents to prove on: the shortest three of the first ones, without their middle where they are long;
            where rows are filled up, the shortest, the middle one and the longest.

    Raises:
        ModelError: an encoder-decoder model's own loss is another than that of what generation computes.
    """
    candidates = [store[index] for index in range(min(len(store), _NUM_CANDIDATES))]
    ordered = sorted(candidates, key=lambda document: len(document.ids))
    padded = bool(base_of(model).config.is_encoder_decoder)
    places = (0, len(ordered) // 2, len(ordered) - 1) if padded else range(_NUM_DOCUMENTS)
    documents = [ordered[place % len(ordered)] for place in places]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # what is dropped out would differ from one time to the next
    try:
        if padded:
            return _choose_for_sequences(model, documents)
        proof = _Proof(model, [shortened(document, _NUM_TOKENS) for document in documents], sft)
        return _all_at_once(model, proof) or _one_by_one(model, proof)
    finally:
        for module, training in modes:
            module.training = training


def _all_at_once(model: Any, proof: _Proof) -> Engine | None:
    """The engine with every kernel, proven in one go: as most models are, in half the time of one after the other.

    None, and the model as it was, where a kernel is not to be had or the proof fails.
    """
    base, objective = base_of(model), ChosenSft.of(model)
    if objective is None:
        return None
    try:
        fused = fuse(model)
    except _NOT_FUSED:
        return None
    for name, kernel in _attention_kernels() if fused.undo else []:
        before = kernel.switch_on(base)
        if before is None:
            continue
        if not _what_is_wrong(proof, objective, share_prefix=name == "packed"):
            undo = (fused.off, functools.partial(base.set_attn_implementation, before))
            return Engine(objective, name, _named(fused), True, name == "packed", undo)
        base.set_attn_implementation(before)
        break
    fused.off()
    return None


def _one_by_one(model: Any, proof: _Proof) -> Engine:
    """The engine with those kernels that hold, and the reasons for the others."""
    layers, undo = _choose_layers(model, proof, sft)
    objective = _choose_objective(ChosenSft.of(model), proof, sft)
    attention, packs, off = _choose_attention(model, proof, objective)
    return Engine(objective, attention, layers, packs, attention == "packed", (*undo, *off))


def shortened(document: Document, max_tokens: int) -> Document:
    """A document without its middle: its head, which others may share, and its end, where an answer is.

    A proof on thousands of tokens by the model's own code takes minutes and more memory than training does.

    Args:
        document: is given back as it is where it is short, or where only its middle is trained.
        max_tokens: of what is left.
    """
    cut, head = len(document.ids) - max_tokens, max_tokens // 4
    if cut <= 0:
        return document

    def place(before: int) -> int:
        return min(before, head) if before < head + cut else before - cut

    spans = tuple((place(start), place(end)) for start, end in document.spans if place(start) < place(end))
    return Document(document.ids[:head] + document.ids[head + cut :], spans) if spans else document


def _choose_for_sequences(model: Any, documents: list[Document]) -> Engine:
    """The engine of an encoder-decoder model."""
    plain = Sequences.of(model)
    proof = _Proof(model, documents, own_loss, padded=True)
    fault = proof.fault(plain, 1, share_prefix=False)
    if fault:
        what = f"the model's own loss is another than that of what it generates by: the {fault}"
        hint = "its targets are shifted in a way that is not known here; use another model"
        raise ModelError(Fault(what, type(base_of(model)).__name__, hint=hint))
    layers, undo = _choose_layers(model, proof, plain)
    objective = _choose_objective(ChosenSequences.of(model, plain), proof, plain)
    fault = proof.fault(objective, 1 << 30, share_prefix=False)
    attention = f"one row at a time (padded, the {fault}), plain" if fault else "padded rows, plain"
    return Engine(objective, attention, layers, not fault, False, undo, padded=True, plain=plain)


class _Proof:
    """Loss and gradients of a few documents, against which each kernel is held.

    Args:
        model: as Transformers computes it, which is the truth.
        documents: at least two.
        truth: the objective by the model's own code.
        padded: see `Engine`.
    """

    def __init__(self, model: Any, documents: list[Document], truth: Objective, padded: bool = False) -> None:
        self.model, self.documents, self._padded = model, documents, padded
        self.dtype = base_of(model).dtype
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._loss, self._gradients = self._measure(truth, 1, share_prefix=False)

    def fault(self, objective: Objective, max_tokens: int, share_prefix: bool) -> str:
        """What is now different, or nothing."""
        try:
            loss, gradients = self._measure(objective, max_tokens, share_prefix)
        except (TypeError, RuntimeError, IndexError, ValueError) as error:
            return f"computation fails: {(str(error).splitlines() or [type(error).__name__])[0]}"
        if not abs(loss - self._loss) <= _TOLERANCE.get(self.dtype, 2e-2) * max(1.0, abs(self._loss)):
            return f"loss is {loss:.4f}, not {self._loss:.4f}"
        size = torch.stack([gradient.norm() for gradient in self._gradients]).norm() if self._gradients else 0.0
        pairs = zip(gradients, self._gradients, strict=True)
        apart = torch.stack([(new - old).norm() for new, old in pairs]).norm() if gradients else 0.0
        if not apart <= _GRADIENT_TOLERANCE.get(self.dtype, 1e-1) * size + 1e-12:
            return f"gradients differ by {float(apart):.2g} of {float(size):.2g}"
        return ""

    def rows_see_each_other(self, objective: Objective, share_prefix: bool) -> bool:
        """Whether the last document's loss changes once the tokens of the first are turned around."""
        first, last = self.documents[0], self.documents[-1]
        head = shared_prefix([first, last])
        losses = []
        for neighbour in (first, Document(first.ids[:head] + first.ids[head:][::-1], first.spans)):
            batch = to_batch(pack([neighbour, last], share_prefix), self._device)
            positions, ids = batch.target_positions[-last.trained :], batch.target_ids[-last.trained :]
            with torch.no_grad():
                losses.append(
                    float(objective(self.model, replace(batch, target_positions=positions, target_ids=ids))[0])
                )
        change = abs(losses[0] - losses[1]) / max(1.0, abs(losses[0]))
        return not change <= _TOLERANCE.get(self.dtype, 2e-2) / 10

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    def _measure(self, objective: Objective, max_tokens: int, share_prefix: bool) -> tuple[float, list[torch.Tensor]]:
        """Mean loss per trained token, and its gradients by parameter (none if nothing is trained)."""
        loss_sum, weight_sum = 0.0, 0.0
        try:
            for batch in to_batches(self.documents, max_tokens, share_prefix, self._device, padded=self._padded):
                with torch.set_grad_enabled(bool(self._trained)):
                    loss, weight = objective(self.model, batch)
                    if self._trained:
                        loss.backward()
                loss_sum, weight_sum = loss_sum + loss.item(), weight_sum + weight
            zero = torch.zeros(())
            gradients = [zero if one.grad is None else one.grad / weight_sum for one in self._trained]
        finally:
            for parameter in self._trained:
                parameter.grad = None
        return loss_sum / weight_sum, gradients


def _choose_layers(model: Any, proof: _Proof, plain: Objective) -> tuple[str, tuple[Callable[[], None], ...]]:
    """What the layers are, and how they are taken out again."""
    try:
        fused = fuse(model)
    except ImportError:
        return "plain (no kernels)", ()
    except _NOT_FUSED as error:
        return f"plain ({(str(error).splitlines() or [type(error).__name__])[0]})", ()
    if not fused.undo:
        return "plain (none that the kernels know)", ()
    fault = proof.fault(plain, 1, share_prefix=False)
    if fault:
        fused.off()
        return f"plain (with fused ones, the {fault})", ()
    return _named(fused), (fused.off,)


def _named(fused: Fused) -> str:
    """What the layers are."""
    return "fused" if fused.linears == fused.adapted else f"fused ({fused.linears} of {fused.adapted} adapted)"


def _choose_objective(chunked: Objective | None, proof: _Proof, plain: Objective) -> Objective:
    """The chunked objective where it can be had and gives what the plain one does."""
    try:
        import danlu.kernels.chosen_loss  # noqa: F401
    except ImportError:
        return plain
    return plain if chunked is None or proof.fault(chunked, 1, share_prefix=False) else chunked


def _choose_attention(
    model: Any, proof: _Proof, objective: Objective
) -> tuple[str, bool, tuple[Callable[[], None], ...]]:
    """What the attention is, whether rows may be packed, and how it is taken out again.

    Transformers does not keep packed rows apart in every model: not in those with convolutions or recurrent states,
    nor where positions do not reach the attention mask.
    """
    reason, base = "no kernels", base_of(model)
    for name, kernel in _attention_kernels():
        before = kernel.switch_on(base)
        if before is None:
            reason = "the model can't take the packed kernel"
            continue
        wrong = _what_is_wrong(proof, objective, share_prefix=name == "packed")
        if not wrong:
            return name, True, (functools.partial(base.set_attn_implementation, before),)
        base.set_attn_implementation(before)
        reason = f"the {name} kernel's {wrong}"
    wrong = _what_is_wrong(proof, objective, share_prefix=False)
    if wrong:
        return f"plain, one row at a time ({reason}; packed, the {wrong})", False, ()
    return f"plain ({reason})", True, ()


def _attention_kernels() -> list[tuple[str, Any]]:
    """Those that there are, by name, the first choice first."""
    try:
        from danlu.kernels import gpu, packed_attention
    except ImportError:
        return []
    return [("flash", gpu), ("packed", packed_attention)]


def _what_is_wrong(proof: _Proof, objective: Objective, share_prefix: bool) -> str:
    """What packing the documents changes, or nothing."""
    fault = proof.fault(objective, 1 << 30, share_prefix)
    return fault or ("rows see each other" if proof.rows_see_each_other(objective, share_prefix) else "")
