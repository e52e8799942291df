"""Serving by vLLM: a process of the gateway's own, in an environment of its own; adapters are put on while it runs.

See https://docs.vllm.ai/en/latest/features/lora.html for the two paths that load and unload adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.plain_lora import read_plain_lora
from danlu.data.records import Message
from danlu.data.template import as_turns, is_plain, stop_ids
from danlu.engines.batching import Ask, Limits
from danlu.engines.drawing import Token
from danlu.engines.interface import Sampling
from danlu.errors import DanluError, Fault, InputError, ResourceError
from danlu.models.loading import dtype_name, generation_defaults
from danlu.models.source import find_model
from danlu.models.tokenizer import load_tokenizer
from danlu.runs import ADAPTER
from danlu.serving.backends.child import Child
from danlu.serving.backends.following import Asked, prove_by_asking
from danlu.serving.backends.interface import OpenedEngine
from danlu.serving.backends.upstream import Upstream, UpstreamEngine, post
from danlu.serving.backends.vllm_tool import vllm_command
from danlu.serving.loading import computing_dtype, require_base
from danlu.tracking.progress import say
from danlu.training.machine import usable_cores
from danlu.training.probes import read_probes
from danlu.training.trained import TrainedRun, base_hash, open_run

_READY_SECONDS = 600.0
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for
_NUM_LIKELIEST = 20  # vLLM tells no more
_MAX_LORAS = 8  # in one step; more are kept aside
_FEW_CORES = 4  # of which it shall compute with all; by itself it keeps one free


class VllmEngine(UpstreamEngine):
    """A vLLM that the gateway started.

    Args:
        child: its process.
        name: of the base there.
        stop_ids: tokens that end an answer.
    """

    def __init__(self, child: Child, name: str, stop_ids: Sequence[int]) -> None:
        super().__init__(Upstream(f"{child.url}/v1"), name)
        self.child, self.stop_ids = child, list(stop_ids)

    def fault(self) -> str | None:
        """Why it can't answer at present."""
        return self.child.fault or super().fault()

    def body(self, body: dict[str, Any], adapter: str | None) -> dict[str, Any]:
        """A request with the ends that training had; vLLM knows only those of the model's files."""
        return {**super().body(body, adapter), "stop_token_ids": self.stop_ids}

    def close(self) -> None:
        """Ends the process."""
        super().close()
        self.child.close()


@dataclass(frozen=True)
class VllmLoads:
    """See `danlu.serving.shelf.Loads`."""

    engine: VllmEngine
    tokenizer: Any
    sha256: str
    dtype: str
    folders: dict[str, Path]

    def load(self, name: str, folder: Path, proven: bool) -> None:
        """Has vLLM load an adapter, and say what its run recorded.

        Raises:
            FolderError: it is broken, or more than plain LoRA.
            ModelError: it was trained on another base.
            WorkError: vLLM refuses it.
            GateError: it misses the probes.
        """
        run = open_run(folder)
        require_base(run, self.sha256)
        read_plain_lora(folder / ADAPTER, torch.float32)  # says what is wrong with it better than vLLM does
        self._put(name, folder)
        try:
            if not proven:
                asked = Asked(self._answer, name, _NUM_LIKELIEST, 4)
                prove_by_asking(asked, self, read_probes(folder), self.dtype, str(folder))
        except DanluError:
            self.unload(name)
            raise

    def unload(self, name: str) -> None:
        """Takes an adapter off."""
        self.folders.pop(name, None)
        self.engine.names.pop(name, None)
        post(self.engine.upstream, "unload_lora_adapter", {"lora_name": name})

    def again(self) -> None:
        """Puts all adapters on a vLLM that was started anew."""
        for name, folder in list(self.folders.items()):
            try:
                self._put(name, folder)
            except DanluError as error:
                say(f"warning: an adapter could not be put on again: {error.faults[0].what}")

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer."""
        return self.engine.stop_ids

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's prompt, as vLLM itself makes it."""
        body: dict[str, Any] = {"model": self.engine.their_name(None)}
        if is_plain(messages):
            body |= {"prompt": "".join(message["content"] for message in messages)}
        else:
            turns = [{"role": turn["role"], "content": turn["content"]} for turn in as_turns(self.tokenizer, messages)]
            body |= {"messages": turns, "add_generation_prompt": True}
        ids: list[int] = post(self.engine.upstream, f"{self.engine.child.url}/tokenize", body)["tokens"]
        return ids

    def _put(self, name: str, folder: Path) -> None:
        body = {"lora_name": name, "lora_path": str((folder / ADAPTER).absolute())}
        post(self.engine.upstream, "load_lora_adapter", body)
        self.engine.names[name] = name
        self.folders[name] = folder

    def _answer(self, ask: Ask) -> list[Token]:
        """A greedy answer's tokens, each with its likeliest ones."""
        body = {
            "prompt": list(ask.prompt),
            "max_tokens": ask.sampling.max_new_tokens,
            "temperature": 0,
            "logprobs": ask.num_likeliest,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
        }
        (choice,) = post(self.engine.upstream, "completions", self.engine.body(body, ask.adapter))["choices"]
        told = choice["logprobs"]
        tops = [{_id(name): float(value) for name, value in one.items()} for one in told["top_logprobs"]]
        rows = zip(told["tokens"], told["token_logprobs"], tops, strict=True)
        return [Token(_id(name), float(value), tuple(top.items())) for name, value, top in rows]


def open_vllm(
    of: TrainedRun | str,
    dtype: str,
    limits: Limits,
    command: Callable[[Sequence[str]], tuple[list[str], dict[str, str]]] = vllm_command,
) -> OpenedEngine:
    """Starts vLLM with the base of a run, or with a model by its name.

    Args:
        of: a run, or a model as `model.name` of a recipe.
        dtype: to compute in; `auto` as in `computing_dtype`.
        limits: of the engine.
        command: makes the program and its environment of vLLM's arguments.

    Raises:
        InputError: the base is quantised in training.
        ResourceError: vLLM's environment can't be made, it does not start, or can't compute this model here.
    """
    name = of if isinstance(of, str) else of.recipe.model.name
    if not isinstance(of, str) and of.recipe.model.quantization is not None:
        hint = "take --engine transformers, or serve an export by --base"
        raise InputError(
            Fault("vLLM has no base that is quantised as in this run's training", str(of.folder), hint=hint)
        )
    folder = find_model(of) if isinstance(of, str) else of.base_folder()
    tokenizer = load_tokenizer(folder)
    stops = stop_ids(tokenizer, generation_defaults(folder))
    chosen = dtype_name(computing_dtype(of, dtype))
    served = Path(name).name
    words = _words(folder, served, chosen, limits)

    def started(port: int) -> list[str]:
        return command([*words, "--port", str(port)])[0]

    say(f"vLLM starts, with {served} in {chosen}; on a processor that takes a minute")
    loads: list[VllmLoads] = []
    child = Child(started, _variables(command(words)[1], limits), _READY_SECONDS, lambda: loads[0].again())
    engine = VllmEngine(child, served, stops)
    loads.append(VllmLoads(engine, tokenizer, base_hash(folder), chosen, {}))
    _require_a_token(loads[0], min(stops))
    return OpenedEngine(served, base_hash(folder), f"vllm {chosen}", engine, loads[0])


def _require_a_token(loads: VllmLoads, prompt: int) -> None:
    """Has the base say a token: vLLM also loads what it lacks the products for, as 4-bit weights without AVX512."""
    try:
        loads._answer(Ask((prompt,), Sampling(1), num_likeliest=1))
    except DanluError as error:
        what = f"vLLM loads the model, but can't compute it here: {loads.engine.child.complaint}"
        loads.engine.close()
        hint = (
            "take --engine transformers; weights of 4 bits want a GPU or AVX512 here: serve a merged export of the run"
        )
        raise ResourceError(Fault(what, hint=hint)) from error


def _words(folder: Path, served: str, dtype: str, limits: Limits) -> list[str]:
    context = ["--max-model-len", str(limits.max_context)] if limits.max_context else []
    return [
        *("serve", str(folder), "--served-model-name", served, "--host", "127.0.0.1", "--dtype", dtype),
        *("--generation-config", "vllm", "--enable-lora", "--max-lora-rank", str(_RANKS[3])),
        *(
            "--max-loras",
            str(_MAX_LORAS),
            "--max-cpu-loras",
            str(4 * _MAX_LORAS),
            "--max-num-seqs",
            str(limits.max_rows),
        ),
        *([] if torch.cuda.is_available() else ["--enforce-eager"]),
        *context,
    ]


def _variables(variables: dict[str, str], limits: Limits) -> dict[str, str]:
    """The environment, with what can be chosen by it left as it was chosen."""
    chosen = {"VLLM_CPU_KVCACHE_SPACE": str(max(1, limits.kv_bytes >> 30))}
    if usable_cores() <= _FEW_CORES:
        chosen["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
    told = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return chosen | variables | told


def _id(name: str) -> int:
    return int(name.removeprefix("token_id:"))
