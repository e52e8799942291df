"""Generation by onnxruntime from graphs that take and give their cache, on the processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danlu.data.records import Message
from danlu.data.template import answer_start_ids, prompt_ids, stop_ids
from danlu.engines.answers import next_tokens_of, one_by_one, require_tuned, to_answer
from danlu.engines.interface import Answer, NextTokens, Sampling
from danlu.errors import Fault, ModelError, ResourceError
from danlu.models.folder import is_encoder_decoder
from danlu.models.loading import generation_defaults
from danlu.models.tokenizer import load_tokenizer

Arrays = dict[str, Any]


class OnnxEngine:
    """See `danlu.engines.interface.ScoringEngine`.

    Args:
        folder: with `model.onnx`, or `encoder_model.onnx` and `decoder_model.onnx`, and a tokenizer.

    Raises:
        ResourceError: onnxruntime is not installed.
        ModelError: it can't load the graphs.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(folder)
        defaults = generation_defaults(folder)
        self.stop_ids = stop_ids(self.tokenizer, defaults)
        self._encoder, self._given = None, []
        if is_encoder_decoder(folder):
            self._encoder = _session(folder / "encoder_model.onnx")
            self._given = [int(defaults["decoder_start_token_id"]), *answer_start_ids(self.tokenizer)]
        self._decoder = _session(folder / ("decoder_model.onnx" if self._encoder else "model.onnx"))

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        tuned: bool = True,
        report: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """One answer for each conversation, in the same order; `report` hears how many are done."""

        def answer(messages: Sequence[Message]) -> Answer:
            ids = list(self._tokens(self.prompt_ids(messages), sampling, tuned))
            return to_answer(self.tokenizer, ids, self.stop_ids)

        return one_by_one(conversations, answer, report)

    def stream(self, messages: Sequence[Message], sampling: Sampling, tuned: bool = True) -> Iterator[str]:
        """The pieces of one answer as they are made."""
        ids: list[int] = []
        said = ""
        for token in self._tokens(self.prompt_ids(messages), sampling, tuned):
            if token in self.stop_ids:
                break
            ids.append(token)
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            if not text.endswith("\ufffd"):  # half of a character
                yield text[len(said) :]
                said = text
        yield self.tokenizer.decode(ids, skip_special_tokens=True)[len(said) :]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's prompt, through the folder's own template and tokenizer."""
        return prompt_ids(self.tokenizer, messages)

    def next_tokens(self, prompt: Sequence[int], answer: Sequence[int], asked: torch.Tensor) -> NextTokens:
        """How likely the tokens `asked` are before each token of a given answer; NaN beyond the vocabulary."""
        # What the template puts before an encoder-decoder model's answers is part of the answer that is given.
        first, encoded = self._begin(prompt, self._given[:1])
        logits, _ = self._step([*first, *answer[:-1]], self._no_past(), encoded)
        return next_tokens_of(torch.from_numpy(logits[0, -len(answer) :]), asked)

    def _tokens(self, prompt: Sequence[int], sampling: Sampling, tuned: bool) -> Iterator[int]:
        """The tokens of an answer, a stop token last."""
        require_tuned(tuned, "export")
        dice = torch.Generator().manual_seed(sampling.seed)
        ids, encoded = self._begin(prompt, self._given[:1])
        given, past = self._given[1:], self._no_past()
        for _ in range(sampling.max_new_tokens + len(given)):
            logits, past = self._step(ids, past, encoded)
            # An encoder-decoder model's answer begins with what the template puts before every answer.
            token = given.pop(0) if given else _chosen(torch.from_numpy(logits[0, -1]), sampling, dice)
            yield token
            if token in self.stop_ids:
                return
            ids = [token]

    def _begin(self, prompt: Sequence[int], given: Sequence[int]) -> tuple[list[int], Arrays]:
        """What the decoder reads first, and what it knows of the question."""
        if self._encoder is None:
            return list(prompt), {}
        ids = np.array([prompt], dtype=np.int64)
        states = self._encoder.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        return list(given), {"encoder_hidden_states": states, "encoder_attention_mask": np.ones_like(ids)}

    def _no_past(self) -> Arrays:
        inputs = (one for one in self._decoder.get_inputs() if one.name.startswith("past_key_values."))
        return {one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), dtype=np.float32) for one in inputs}

    def _step(self, ids: Sequence[int], past: Arrays, encoded: Arrays) -> tuple[Any, Arrays]:
        """Logits `[1, T, vocabulary]` of T tokens after the cache, and the cache with them."""
        begin = next(iter(past.values())).shape[2]
        end = begin + len(ids)
        given: Arrays = {"input_ids": np.array([ids], dtype=np.int64), **past, **encoded}
        if not encoded:
            given["attention_mask"] = np.ones((1, end), dtype=np.int64)
            given["position_ids"] = np.arange(begin, end, dtype=np.int64)[None]
        known = {one.name for one in self._decoder.get_inputs()}
        logits, *present = self._decoder.run(None, {name: value for name, value in given.items() if name in known})
        return logits, dict(zip(past, present, strict=True))


def _chosen(logits: torch.Tensor, sampling: Sampling, dice: torch.Generator) -> int:
    if sampling.temperature <= 0:
        return int(logits.argmax())
    kept, order = (logits / sampling.temperature).topk(min(sampling.top_k, len(logits)) or len(logits))
    shares = kept.softmax(-1)
    before = shares.cumsum(-1) - shares
    return int(order[torch.multinomial(shares.masked_fill(before >= sampling.top_p, 0.0), 1, generator=dice)])


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ResourceError(
            Fault("onnxruntime, which runs ONNX graphs, is not installed", hint="pip install 'danlu[onnx]'")
        ) from error
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    onnxruntime.set_default_logger_severity(3)
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "NotImplemented")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # its own choice ignores what torch was told
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except tuple(getattr(state, name) for name in names) as error:  # they have no parent of their own
        said = str(error).splitlines()[0]
        raise ModelError(
            Fault(f"onnxruntime can't load this graph: {said}", str(path), hint="export it again")
        ) from error
