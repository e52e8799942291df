"""Serving by llama.cpp: one GGUF base, many GGUF adapters.

llama.cpp takes adapters only when a server starts. So another adapter means another server with the one more, beside
the one that answers; it takes over once it has said what the adapter's run recorded, and the old one ends with its
last answer. The base's file is mapped into memory, so both share it; what a second server takes is its keys and
values, while both live.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.records import Message
from danlu.data.template import prompt_ids, stop_ids
from danlu.engines.batching import Ask, Piece, Ticket
from danlu.errors import DanluError, Fault, FolderError, InputError
from danlu.export.comparison import BOUNDS
from danlu.export.formats import gguf, gguf_lora
from danlu.export.formats.interface import Subject
from danlu.models.loading import generation_defaults
from danlu.models.source import find_model
from danlu.models.tokenizer import load_tokenizer
from danlu.runs import ADAPTER, danlu_home, file_hash
from danlu.serving.backends.following import Asked, prove_by_asking
from danlu.serving.backends.interface import OpenedEngine
from danlu.serving.backends.llama_server import LlamaServer, Size, until_answered
from danlu.serving.loading import require_base
from danlu.training.probes import read_probes
from danlu.training.trained import TrainedRun, base_hash, open_run

_ADAPTER_KINDS = {"f32": "f32", "bf16": "bf16"}  # of an adapter by the base's kind; else f16
_LIKELIEST = 64  # tokens that are told when an adapter is proven; twice as many as a run recorded
_CONTEXT, _SLOTS = 2048, 8  # what is divided when nobody says: fewer slots before a shorter context


class LlamaBackend:
    """See `danlu.serving.backends.interface.Backend`: the server that answers now, and those before that still do.

    Attributes:
        server: that answers new questions.

    Args:
        start: starts a server with these adapters.
    """

    def __init__(self, start: Callable[[Mapping[str, Path]], LlamaServer]) -> None:
        self._start, self._lock = start, threading.Lock()
        self.server = start({})
        self._before: list[LlamaServer] = []
        self._ended: dict[str, int] = {}
        self.tokenizer, self.max_context = self.server.tokenizer, self.server.max_context
        self.stop_ids = self.server.stop_ids

    @property
    def running(self) -> int:
        """Answers that are being made, by old servers too."""
        return sum(server.running for server in (self.server, *self._before))

    @property
    def waiting(self) -> int:
        """Questions that wait for a slot."""
        return sum(server.waiting for server in (self.server, *self._before))

    @property
    def adapters(self) -> dict[str, Path]:
        """Those that the server of now was started with."""
        return self.server.adapters

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's prompt, through the tokenizer's own template."""
        return prompt_ids(self.tokenizer, messages)

    def figures(self) -> dict[str, int]:
        """What all servers have done, and how many of them are up."""
        with self._lock:
            parts = [self._ended, *(server.figures() for server in (self.server, *self._before))]
            servers = 1 + len(self._before)
        return {name: sum(part.get(name, 0) for part in parts) for name in parts[-1]} | {"servers": servers}

    def submit(self, ask: Ask, listener: Callable[[Piece], None]) -> Ticket:
        """See `LlamaServer.submit`; the server of now answers."""
        with self._lock:
            return self.server.submit(ask, listener)

    def beside(self, adapters: Mapping[str, Path]) -> LlamaServer:
        """Another server, with these adapters, for `take_over` or to be closed.

        Raises:
            ModelError: llama.cpp can't load one.
        """
        return self._start(adapters)

    def take_over(self, server: LlamaServer) -> None:
        """New questions go to this one; the one of now ends with its last answer."""
        with self._lock:
            old, self.server = self.server, server
            self._before.append(old)

        def end() -> None:
            old.drain()
            with self._lock:
                self._before.remove(old)
                figures = old.figures()
                self._ended = {name: self._ended.get(name, 0) + count for name, count in figures.items()}

        threading.Thread(target=end, name="danlu-drain", daemon=True).start()

    def close(self) -> None:
        """Ends all servers; answers that are being made fail."""
        with self._lock:
            servers = [self.server, *self._before]
        for server in servers:
            server.close()


@dataclass(frozen=True)
class LlamaLoads:
    """See `danlu.serving.shelf.Loads`.

    Attributes:
        base: a model folder: that of the GGUF file.
        sha256: of the base's weights, which a run must have been trained on; None: the probes alone say so.
        kind: of the base's weights, as in `q8_0`; by it an adapter is judged.
        wanted: GGUF files of what is loaded, by name.
    """

    backend: LlamaBackend
    base: Path
    sha256: str | None
    kind: str
    wanted: dict[str, Path]
    _lock: threading.Lock

    def load(self, name: str, folder: Path, proven: bool) -> None:
        """Starts a server with one adapter more, has it say what the adapter's run recorded, and lets it take over.

        Raises:
            FolderError: llama.cpp can't take the adapter.
            ModelError: it was trained on another base, or llama.cpp can't load it.
            GateError: it misses the probes.
        """
        run = open_run(folder)
        require_base(run, self.sha256)
        path = adapter_file(self._subject(run), self.kind)
        with self._lock:
            there = self.backend.adapters.get(name) == path
            server = self.backend.server if there else self.backend.beside({**self.wanted, name: path})
            try:
                if not proven:
                    self._prove(server, name, run)
            except BaseException:
                if not there:
                    server.close()
                raise
            if not there:
                self.backend.take_over(server)
            self.wanted[name] = path

    def expect(self, folders: Mapping[str, Path]) -> None:
        """Starts one server for all of these; each is proven when it is loaded."""
        paths = {}
        for name, folder in folders.items():
            with contextlib.suppress(DanluError):  # said when it is loaded
                paths[name] = adapter_file(self._subject(open_run(folder)), self.kind)
        with self._lock, contextlib.suppress(DanluError):
            self.backend.take_over(self.backend.beside({**self.wanted, **paths}))

    def unload(self, name: str) -> None:
        """The next server is started without it; it stays in the one of now, which nobody asks for it."""
        with self._lock:
            self.wanted.pop(name, None)

    def _prove(self, server: LlamaServer, name: str, run: TrainedRun) -> None:
        probes = read_probes(run.folder)
        asked = Asked(lambda ask: until_answered(server, ask), name, _LIKELIEST, server.size.slots)
        prove_by_asking(asked, server, probes, self.kind, str(run.folder))

    def _subject(self, run: TrainedRun) -> Subject:
        bits = run.recipe.model.quantization.type if run.recipe.model.quantization else None
        stops = sorted(self.backend.stop_ids)
        return Subject(self.base, run.folder / ADAPTER, bits, stops, lambda count: [])


def open_llama(of: TrainedRun | str, kind: str, size: Size, kv_bytes: int) -> OpenedEngine:
    """Starts llama.cpp with the base of a run, or with a model by its name.

    Args:
        of: a run, or a model as `model.name` of a recipe; a .gguf file is served as it is.
        kind: of the weights, as in `q8_0`; made once from a base that is no .gguf file.
        size: of the server; `slots` and `context_tokens` are the most there may be, 0 is what `kv_bytes` has room for.
        kv_bytes: for keys and values.

    Raises:
        ModelError: it can't be found, or llama.cpp does not know it.
    """
    name = of if isinstance(of, str) else of.recipe.model.name
    folder = find_model(of) if isinstance(of, str) else of.base_folder()
    tokenizer = load_tokenizer(folder)
    stops = stop_ids(tokenizer, generation_defaults(folder))
    if Path(name).suffix == ".gguf":
        path, kind, sha256 = Path(name), kind_of(Path(name)), None  # the probes say whether a run's base is in it
    else:
        subject = Subject(folder, None, None, stops, lambda count: [])
        if refused := gguf.refusal(subject, kind):
            raise InputError(refused)
        path, sha256 = gguf_lora.base_file(subject, kind), base_hash(folder)
    size = fitted(size, folder, kv_bytes, exact=kind == "f32")
    backend = LlamaBackend(lambda adapters: LlamaServer(tokenizer, stops, path, adapters, size))
    loads = LlamaLoads(backend, folder, sha256, kind, {}, threading.Lock())
    return OpenedEngine(Path(name).name, sha256 or file_hash(path), f"llama.cpp {kind}", backend, loads)


def fitted(size: Size, model: Path, kv_bytes: int, exact: bool) -> Size:
    """The slots and the context that there is room for.

    Raises:
        InputError: there is not for one.
    """
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(model).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    each = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    one = 2 * config.num_hidden_layers * heads * each * (4 if exact else 2)
    tokens, longest = kv_bytes // one, config.max_position_embeddings
    context = min(longest, size.context_tokens or max(_CONTEXT, tokens // min(size.slots, _SLOTS)))
    slots = min(size.slots, tokens // context)
    if slots < 1:
        what = f"{kv_bytes} bytes of keys and values are too few for a context of {context} tokens"
        raise InputError(Fault(what, "--kv-gib", f"at least {context * one / 2**30:.2f}", "or a smaller --max-context"))
    return Size(slots, context, size.max_waiting, exact, size.threads)


def adapter_file(subject: Subject, kind: str) -> Path:
    """A run's adapter as a GGUF file, made once and kept under the hash of what it is made of.

    Raises:
        FolderError: llama.cpp can't take it.
    """
    chosen = _ADAPTER_KINDS.get(kind, "f16")
    refused = gguf_lora.refusal(subject, chosen)
    if refused is not None:
        raise FolderError(refused)
    assert subject.adapter is not None
    config = subject.adapter_config()
    made_of = [base_hash(subject.base), file_hash(subject.adapter / "adapter_model.safetensors"), chosen]
    made_of += [str(config.get(name)) for name in ("r", "lora_alpha", "use_rslora", "rank_pattern")]
    name = hashlib.sha256(" ".join(made_of).encode()).hexdigest()[:24]
    path = danlu_home() / "models" / "gguf-lora" / f"{name}-{chosen}.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.stem}.{os.getpid()}.{threading.get_ident()}.gguf")
        try:
            gguf_lora.write_adapter(subject, aside, chosen)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    return path


def kind_of(path: Path) -> str:
    """The kind that most of a GGUF file's numbers are in, as in `q4_k_s`; by it an adapter on it is judged.

    Raises:
        InputError: it is no GGUF file, or in a kind that there are no bounds for.
    """
    from gguf import GGUFReader

    counts: dict[str, int] = {}
    try:
        for tensor in GGUFReader(path).tensors:
            name = tensor.tensor_type.name.lower()
            counts[name] = counts.get(name, 0) + int(tensor.n_elements)
    except (OSError, ValueError) as error:
        raise InputError(Fault(f"this is no GGUF file: {error}", str(path), hint="check the path")) from error
    most = max(counts, key=lambda name: counts[name])
    known = next((kind for kind in BOUNDS if kind == most or kind.startswith(f"{most}_")), None)
    if known is None:
        raise InputError(Fault(f"Danlu has no bounds for weights in {most}", str(path), "q8_0, q4_k_m and their like"))
    return known
