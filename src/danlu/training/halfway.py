"""A forward pass that ends halfway, at a module whose input is all that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class _Reached(Exception):  # noqa: N818 - ends a forward pass early, on purpose
    """The module was reached; its input is in `states`."""

    def __init__(self, states: torch.Tensor) -> None:
        self.states = states


def input_of(module: torch.nn.Module, run: Callable[[], object]) -> torch.Tensor:
    """The hidden states that a module is given, with their graph; neither it nor what follows is computed.

    Args:
        module: called once by `run`.
        run: the forward pass.

    Raises:
        RuntimeError: the module is not reached.
    """

    def stop(_module: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        raise _Reached(positional[0] if positional else named["hidden_states"])

    hook = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run()
    except _Reached as reached:
        return reached.states
    finally:
        hook.remove()
    raise RuntimeError(f"{type(module).__name__} was not reached")
