"""What the gateway needs of an engine, whichever it is.

`transformers` and `llama.cpp` make answers from token ids: Danlu renders the prompt, and the form of the answer is the
gateway's. `vllm` and `upstream` are servers that speak OpenAI's API themselves: requests are passed on to them
(`danlu.serving.backends.upstream`). What puts adapters on an engine checks each against its run's probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from danlu.serving.shelf import Loads
from danlu.serving.streams import Answers


class Backend(Answers, Protocol):
    """An engine that the gateway starts and ends."""

    def close(self) -> None:
        """Ends it; answers that are being made fail."""
        ...


class Opened(Protocol):
    """An engine with its base, ready to be served."""

    @property
    def name(self) -> str:
        """Of the base, under which it is asked for."""
        ...

    @property
    def sha256(self) -> str:
        """Of its weights, or what stands for them."""
        ...

    @property
    def computed(self) -> str:
        """What an answer depends on beside base, adapter and question: dtype, quantisation."""
        ...

    @property
    def engine(self) -> Backend:
        """That answers."""
        ...

    @property
    def loads(self) -> Loads:
        """Puts adapters on it, or takes them off."""
        ...


@dataclass(frozen=True)
class OpenedEngine:
    """See `Opened`."""

    name: str
    sha256: str
    computed: str
    engine: Backend
    loads: Loads
