"""An input that can be made again is not kept, and no bit of a gradient tells that it was not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from danlu.kernels.gated import gated
from danlu.kernels.low_rank import LowRank, low_rank
from danlu.kernels.remade import making_of
from danlu.kernels.rms_norm import rms_norm

ROWS, SIZE, RANK = 50, 32, 4
MADE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "llama": lambda x: rms_norm(x, torch.full((SIZE,), 1.3, dtype=x.dtype), 1e-6, "llama"),
    "gemma": lambda x: rms_norm(x, torch.full((SIZE,), 0.3, dtype=x.dtype), 1e-6, "gemma"),
    "silu": lambda x: gated(x, x * 0.7, "silu"),
    "gelu": lambda x: gated(x, x * 0.7, "gelu_tanh"),
}


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def gradients(made: torch.Tensor, start: torch.Tensor) -> tuple[list[torch.Tensor], list[int]]:
    """Of the start and the adapter; and the elements of each tensor that the layer kept."""
    dtype = made.dtype
    down, up = random(RANK, SIZE).requires_grad_(), random(SIZE, RANK).requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        (output,) = low_rank(made, [LowRank(random(SIZE, SIZE).to(dtype), None, down, up, 2.0)])
    of_all = torch.autograd.grad(output, [start, down, up], random(ROWS, SIZE).to(dtype))
    return list(of_all), [tensor.data_ptr() for tensor in kept]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", MADE)
def test_it_is_made_again_to_the_bit_and_not_kept(how: str, dtype: torch.dtype) -> None:
    start = random(ROWS, SIZE).to(dtype).requires_grad_()
    made = MADE[how](start)
    found, kept = gradients(made, start)
    assert made.data_ptr() not in kept
    copied = MADE[how](start).clone()  # nobody knows how a copy was made
    expected, kept = gradients(copied, start)
    assert copied.data_ptr() in kept
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_what_was_changed_since_is_kept() -> None:
    start = random(ROWS, SIZE).requires_grad_()
    made = MADE["llama"](start)
    assert making_of(made) is not None
    made.mul_(2.0)
    assert making_of(made) is None
    _, kept = gradients(made, start)
    assert made.data_ptr() in kept


def test_a_source_that_is_changed_before_the_backward_pass_is_found_out() -> None:
    start = random(ROWS, SIZE).requires_grad_()
    source = start * 1.0
    (output,) = low_rank(
        MADE["llama"](source), [LowRank(random(SIZE, SIZE), None, random(RANK, SIZE), random(SIZE, RANK), 2.0)]
    )
    with torch.no_grad():
        source.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_nothing_is_noted_where_no_backward_pass_follows() -> None:
    with torch.no_grad():
        assert making_of(MADE["silu"](random(ROWS, SIZE).requires_grad_())) is None
    with torch.inference_mode():
        assert making_of(MADE["llama"](random(ROWS, SIZE))) is None
