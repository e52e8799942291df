"""Cross-entropy on chosen tokens, in chunks: the logits of all of them never exist at once.

The head is frozen, so the gradient of the hidden states is all that backward needs; it is made together with the
loss, and no logits are kept.
"""

from __future__ import annotations

from typing import Any

import torch

from danlu.kernels import gpu

_MAX_LOGITS, _MAX_LOGITS_GPU = 1 << 23, 1 << 26
_FEWEST_ROWS = 128  # by fewer, a product waits for the head's weights: 32 rows of 262,144 logits took 1.7 times as long
_AT_ONCE = 32  # tokens whose softmax a processor takes in one go, so that it stays in its cache


def plain_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    scale: float = 1.0,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """The reference: `chosen_loss` by way of all logits."""
    logits = torch.nn.functional.linear(hidden, weight) * scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=label_smoothing)


def chosen_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    scale: float = 1.0,
    softcap: float | None = None,
    max_logits: int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Summed cross-entropy, in float32.

    Args:
        hidden: `[N, hidden_size]` states that predict the targets.
        weight: `[vocabulary, hidden_size]`, frozen.
        targets: `[N]` token ids.
        scale: factor of the logits.
        softcap: logits become softcap·tanh(logit/softcap) (Gemma 2, arXiv 2408.00118).
        max_logits: how many exist at once; at least those of one token. None: as the device likes it, and those of 128
            tokens at least.
        label_smoothing: share of each target that is spread evenly over the vocabulary (arXiv 1512.00567, as torch's
            cross_entropy has it).
    """
    if scale == 1.0 and gpu.has_liger(hidden):
        return gpu.chosen_loss(hidden, weight, targets, softcap, label_smoothing)
    loss: torch.Tensor = _ChosenLoss.apply(hidden, weight, targets, scale, softcap, max_logits, label_smoothing)
    return loss


class _ChosenLoss(torch.autograd.Function):  # type: ignore[misc]
    """Takes what `chosen_loss` takes."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        scale: float,
        softcap: float | None,
        max_logits: int | None,
        label_smoothing: float,
    ) -> torch.Tensor:
        needed = ctx.needs_input_grad[0]
        of_hidden = torch.empty_like(hidden) if needed else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        chunk = _rows_at_once(weight.shape[0], max_logits, hidden.is_cuda)
        few = chunk if hidden.is_cuda else _AT_ONCE
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = torch.nn.functional.linear(hidden[part], weight)
            if scale != 1.0:
                logits.mul_(scale)
            slope = None
            if softcap:
                logits.div_(softcap).tanh_()
                slope = 1 - logits.square() if needed else None
                logits.mul_(softcap)
            for logits_few, targets_few in zip(logits.split(few), targets[part, None].split(few), strict=True):
                loss += _loss_of_few(logits_few, targets_few, label_smoothing, needed)
            if of_hidden is not None:
                torch.mm(logits if slope is None else logits.mul_(slope), weight, out=of_hidden[part])
        if of_hidden is not None:
            ctx.save_for_backward(of_hidden.mul_(scale) if scale != 1.0 else of_hidden)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (of_hidden,) = ctx.saved_tensors
        return of_hidden * gradient, None, None, None, None, None, None


def _rows_at_once(vocabulary: int, max_logits: int | None, on_gpu: bool) -> int:
    if max_logits is not None:
        return max(1, max_logits // vocabulary)
    return max(_FEWEST_ROWS, (_MAX_LOGITS_GPU if on_gpu else _MAX_LOGITS) // vocabulary)


def _loss_of_few(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float, needs_gradient: bool
) -> torch.Tensor:
    """Summed loss of logits `[N, vocabulary]` and targets `[N, 1]`; logits become their gradient, if it is needed."""
    log_shares = torch.log_softmax(logits, -1, dtype=torch.float32)
    loss = -log_shares.gather(1, targets).sum()
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_shares.mean(-1).sum()
    if needs_gradient and label_smoothing:  # in float32: what is spread is far below a bfloat16's last digit of 1
        slope = log_shares.exp_().sub_(label_smoothing / logits.shape[1])
        logits.copy_(slope.scatter_add_(1, targets, torch.full_like(targets, label_smoothing - 1, dtype=slope.dtype)))
    elif needs_gradient:
        torch.softmax(logits, -1, out=logits)
        logits.scatter_add_(1, targets, torch.full_like(targets, -1, dtype=logits.dtype))
    return loss
