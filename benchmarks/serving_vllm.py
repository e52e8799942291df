"""For serving.py: vLLM's own server, as `danlu serve --engine vllm` starts it, asked without Danlu in between."""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from serving import Bench, random_adapters, write_adapter

from danlu.engines.batching import Limits
from danlu.models.loading import load_base
from danlu.models.source import find_model
from danlu.models.tokenizer import load_tokenizer
from danlu.serving.backends.upstream import post
from danlu.serving.backends.vllm import VllmEngine, open_vllm
from danlu.serving.backends.vllm_tool import vllm_command
from danlu.serving.loading import computing_dtype


def _started(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """No prefix is kept, as in the other engines' benchmarks: the prompts come again."""
    return vllm_command([*words, "--max-lora-rank", "16", "--no-enable-prefix-caching"])


class VllmBench(Bench):
    """vLLM's own server, asked by HTTP as its users do, streamed.

    Args:
        model: by name.
        dtype: to compute in.
    """

    def __init__(self, model: str, dtype: str) -> None:
        self.served = open_vllm(model, dtype, Limits(max_rows=64, max_context=1024), _started)
        assert isinstance(self.served.engine, VllmEngine)
        self.engine = self.served.engine
        self.tokenizer = load_tokenizer(find_model(model))
        self.model, self.dtype = model, dtype
        self.loaded: list[str] = []

    @property
    def names(self) -> list[str | None]:
        """The adapters that are asked for in turn; the base where there is none."""
        return [*self.loaded] or [None]

    def figures(self) -> dict[str, int]:
        """It tells none of its own."""
        return {}

    def load(self, count: int) -> list[float]:
        """Seconds until vLLM said of each adapter that it is on."""
        seconds = []
        base = load_base(find_model(self.model), computing_dtype(self.model, self.dtype))
        with tempfile.TemporaryDirectory() as place:
            for number, adapter in enumerate(random_adapters(base, count)):
                folder, name = Path(place) / str(number), f"a{number}"
                write_adapter(adapter, folder)
                began = time.perf_counter()
                post(self.engine.upstream, "load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
                seconds.append(time.perf_counter() - began)
                self.loaded.append(name)
        self.bytes_of_one = adapter.num_bytes
        return seconds

    def unload(self) -> None:
        """Takes all adapters off."""
        while self.loaded:
            post(self.engine.upstream, "unload_lora_adapter", {"lora_name": self.loaded.pop()})

    def ask(self, prompt: tuple[int, ...], adapter: str | None, tokens: int) -> tuple[float, float, int]:
        """Seconds to the first token and to the last, and how many came."""
        connection = http.client.HTTPConnection("127.0.0.1", self.engine.child.port)
        body = {
            "model": adapter or self.served.name,
            "prompt": list(prompt),
            "max_tokens": tokens,
            "temperature": 0,
            "stop_token_ids": self.engine.stop_ids,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began, first, last = time.perf_counter(), 0.0, {}
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                last = json.loads(line[6:])
                first = first or time.perf_counter() - began
        connection.close()
        return first, time.perf_counter() - began, int(last["usage"]["completion_tokens"])
