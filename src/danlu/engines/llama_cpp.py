"""Generation by llama.cpp, in process: a GGUF file as its users run it, with or without a GGUF adapter on it.

xllamacpp starts llama.cpp's own server on this machine's loopback; it is asked as any of its users ask it, so template,
tokenizer and end tokens are the file's.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from danlu.data.records import Message
from danlu.data.template import is_plain
from danlu.engines.answers import one_by_one, require_tuned
from danlu.engines.interface import Answer, NextTokens, Sampling
from danlu.errors import Fault, ModelError, ResourceError, WorkError

_CONTROL = 3  # token type of GGUF
# Families with large vocabularies keep thousands of these; none ends an answer.
_NEVER_AN_END = re.compile(r"unused|reserved|extra_id|placeholder", re.IGNORECASE)
_MORE_THAN_ASKED = 4  # likeliest tokens that are fetched, for each token that is asked about
FORCED = 1e9  # added to a token's logit: it is taken; the probabilities that are told are those without it


class LlamaCppEngine:
    """See `danlu.engines.interface.ScoringEngine`.

    Args:
        model: a GGUF file.
        adapter: a GGUF file with a LoRA; `tuned=False` answers without it.
        context_tokens: longest prompt and answer together.

    Attributes:
        stop_ids: end tokens that the file names.
        also_ends_at: others at which llama.cpp ends an answer, because it knows them by their texts.

    Raises:
        ResourceError: xllamacpp is not installed.
        ModelError: llama.cpp can't load the file.
    """

    def __init__(self, model: Path, adapter: Path | None = None, context_tokens: int = 4096) -> None:
        self.adapter = adapter
        self._key = secrets.token_hex(16)
        self._last_tuned = True
        self._server = start_server(model, [adapter] if adapter else [], self._key, context_tokens)
        declared, others = _possible_ends(model)
        self.stop_ids = [token for token in declared if self._ends(token)]
        self.also_ends_at = [token for token in others if self._ends(token)]

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        tuned: bool = True,
        report: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """One answer for each conversation, in the same order; `report` hears how many are done."""

        def answer(messages: Sequence[Message]) -> Answer:
            told = self._complete(self.prompt_ids(messages), sampling, tuned)
            return Answer(tuple(told["tokens"]), told["content"], "stop" if told["stop_type"] == "eos" else "length")

        return one_by_one(conversations, answer, report)

    def stream(self, messages: Sequence[Message], sampling: Sampling, tuned: bool = True) -> Iterator[str]:
        """The pieces of one answer as they are made."""
        body = self._asked(self.prompt_ids(messages), sampling, tuned) | {"stream": True}
        with self._open("/completion", body) as lines:
            for line in lines:
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])["content"]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's prompt, through the file's own template and tokenizer."""
        if is_plain(messages):
            text = "".join(message["content"] for message in messages)
        else:
            tools = messages[0].get("tools")
            turns = [{key: value for key, value in turn.items() if key not in ("train", "tools")} for turn in messages]
            text = self._post("/apply-template", {"messages": turns} | ({"tools": tools} if tools else {}))["prompt"]
        body = {"content": text, "add_special": True, "parse_special": True}
        ids: list[int] = self._post("/tokenize", body)["tokens"]
        return ids

    def next_tokens(self, prompt: Sequence[int], answer: Sequence[int], asked: torch.Tensor) -> NextTokens:
        """How likely the tokens `asked` are before each token of a given answer; NaN for unlikely ones.

        llama.cpp names only its likeliest tokens, of which four times as many are fetched as are asked about.
        """
        count = max(64, _MORE_THAN_ASKED * asked.shape[-1])
        found = torch.full(asked.shape, float("nan"))
        likeliest = torch.empty(len(answer), dtype=torch.long)
        # Of a token that ends amid a character it tells nothing, so it is made to take another one.
        plain = [[self._post("/tokenize", {"content": "a"})["tokens"][-1], FORCED]]
        for place in range(len(answer)):
            told = self._complete([*prompt, *answer[:place]], Sampling(1), True, n_probs=count, logit_bias=plain)
            top = told["completion_probabilities"][0]["top_logprobs"]
            by_id = {one["id"]: one["logprob"] for one in top}
            likeliest[place] = top[0]["id"]
            for column, token in enumerate(asked[place].tolist()):
                found[place, column] = by_id.get(token, float("nan"))
        return NextTokens(likeliest, found)

    def _ends(self, token: int) -> bool:
        """Whether llama.cpp itself ends an answer at a token: it is made to take it, and watched."""
        told = self._complete([token], Sampling(1), True, logit_bias=[[token, FORCED]])
        return bool(told["stop_type"] == "eos")

    def _complete(self, prompt: Sequence[int], sampling: Sampling, tuned: bool, **more: Any) -> Any:
        return self._post("/completion", self._asked(prompt, sampling, tuned) | more)

    def _asked(self, prompt: Sequence[int], sampling: Sampling, tuned: bool) -> dict[str, Any]:
        require_tuned(tuned or self.adapter is not None, "GGUF file")
        same, self._last_tuned = tuned == self._last_tuned, tuned
        return {
            "prompt": list(prompt),
            "n_predict": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": 0.0,
            "seed": sampling.seed,
            "return_tokens": True,
            "cache_prompt": same,
            **({"lora": [{"id": 0, "scale": 1.0 if tuned else 0.0}]} if self.adapter else {}),
        }

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        with self._open(path, body) as answer:
            return json.load(answer)

    def _open(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(self._server.listening_address + path, json.dumps(body).encode(), headers)
        # Straight to this machine, whatever proxy the user has set.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return opener.open(request)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise WorkError(Fault(f"llama.cpp refuses {path}: {said[:300]}")) from error


def start_server(
    model: Path,
    adapters: Sequence[Path],
    key: str,
    context_tokens: int,
    slots: int = 1,
    exact: bool = True,
    threads: int = 0,
) -> Any:
    """llama.cpp's own server in this process, at a free port of the loopback; it ends when nothing refers to it.

    Args:
        model: a GGUF file.
        adapters: GGUF files of LoRAs, numbered in this order.
        key: that it is asked with.
        context_tokens: of all slots together.
        slots: answers at once.
        exact: keys and values in float32, without flash attention.
        threads: that compute; 0: as many as torch takes.

    Raises:
        ResourceError: xllamacpp is not installed.
        ModelError: llama.cpp can't load a file.
    """
    # Threads that wait for each other in a loop starve where others want the cores too: on two busy cores a first token
    # took 4.1 s instead of 0.8 s. It is read when the library is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import xllamacpp
    except ImportError as error:
        raise ResourceError(
            Fault(
                "llama.cpp, which runs GGUF files, is not installed",
                allowed="the package xllamacpp",
                hint="pip install 'danlu[llamacpp]'",
            )
        ) from error
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel, params.verbosity = context_tokens, slots, -1
    params.cache_ram_mib = 0  # old prompts are kept without a word of whether the adapter was on
    params.warmup, params.api_keys, params.n_gpu_layers = False, [key], 0
    if exact:
        # A cache in float16, llama.cpp's choice, would blur what is the file's doing.
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    # As many as torch takes, where nobody says: two that wait for one core in turns are slower than one alone.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or torch.get_num_threads()
    params.lora_adapters = [_lora(xllamacpp, path) for path in adapters]
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        both = " with ".join(map(str, (model, *adapters)))
        raise ModelError(
            Fault(f"llama.cpp can't load this: {error}", both, "a GGUF file of a decoder-only model", "export it again")
        ) from error


def _lora(xllamacpp: Any, path: Path) -> Any:
    lora = xllamacpp.CommonAdapterLoraInfo()
    lora.path, lora.scale = str(path), 1.0
    return lora


def _possible_ends(model: Path) -> tuple[list[int], list[int]]:
    """Tokens at which llama.cpp may end an answer: those that a file names as ends, and all others that are no text."""
    from gguf import GGUFReader

    reader = GGUFReader(model)
    kinds, tokens = (reader.get_field(f"tokenizer.ggml.{name}") for name in ("token_type", "tokens"))
    if kinds is None or tokens is None:
        raise ModelError(Fault("the GGUF file has no tokenizer", str(model), hint="export it again"))
    ends = (reader.get_field(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot", "eom"))
    declared = {int(end.contents()) for end in ends if end is not None}
    control = [token for token, place in enumerate(kinds.data) if int(kinds.parts[place][0]) == _CONTROL]
    others = [token for token in control if not _NEVER_AN_END.search(tokens.contents(token))]
    return sorted(declared), sorted({*others} - declared)
