"""Generation by Transformers, in process: any language model, with or without a PEFT adapter on it.

A causal model goes on after the prompt. An encoder-decoder model reads the prompt by its encoder, and its decoder
begins with a token of its own and with what the template puts before every answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from threading import Thread
from typing import Any

import torch

from danlu.adapters.lora import base_of
from danlu.data.records import Message
from danlu.data.template import answer_start_ids, prompt_ids
from danlu.engines.answers import next_tokens_of, to_answer
from danlu.engines.interface import Answer, NextTokens, Sampling
from danlu.engines.openmp import end_team
from danlu.models.decoder_start import decoder_start
from danlu.models.quiet import quiet_transformers


class _Pieces:
    """Passes generated tokens on to a text streamer, but no stop token; generation ends once nobody listens."""

    def __init__(self, streamer: Any, stop_ids: Sequence[int]) -> None:
        self.streamer = streamer
        self.stop_ids = stop_ids
        self.abandoned = False

    def put(self, ids: torch.Tensor) -> None:
        """Takes the prompt first, then token by token."""
        if self.abandoned:
            raise InterruptedError("the reader of the answer has left")
        if self.streamer.next_tokens_are_prompt or int(ids[-1]) not in self.stop_ids:
            self.streamer.put(ids)

    def end(self) -> None:
        """The answer is complete."""
        self.streamer.end()


class TransformersEngine:
    """See `danlu.engines.interface.ScoringEngine`.

    Args:
        model: a language model; with a PEFT adapter, `tuned=False` answers without it.
        tokenizer: the model's.
        stop_ids: tokens that end an answer.
        batch_size: conversations answered at once, padded on the side where the model does not mind.
        base: answers with `tuned=False` where the model has no adapter to switch off.

    Raises:
        ModelError: it is not known how the decoder of an encoder-decoder model begins.
    """

    def __init__(
        self, model: Any, tokenizer: Any, stop_ids: Sequence[int], batch_size: int = 16, base: Any = None
    ) -> None:
        self.model, self._base = model, base
        self.tokenizer = tokenizer
        self.stop_ids = list(stop_ids)
        self.batch_size = batch_size
        self._start = decoder_start(base_of(model))
        self._given = [] if self._start is None else [self._start, *answer_start_ids(tokenizer)]

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        tuned: bool = True,
        report: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """One answer for each conversation, in the same order; `report` hears how many are done."""
        prompts = [prompt_ids(self.tokenizer, messages) for messages in conversations]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            for index, ids in zip(chosen, self._batch([prompts[i] for i in chosen], sampling, tuned), strict=True):
                answers[index] = to_answer(self.tokenizer, ids, self.stop_ids)
            if report:
                report(len(answers))
        return [answers[index] for index in range(len(prompts))]

    def stream(self, messages: Sequence[Message], sampling: Sampling, tuned: bool = True) -> Iterator[str]:
        """The pieces of one answer as they are made."""
        from transformers import TextIteratorStreamer

        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        inputs = self._inputs([prompt_ids(self.tokenizer, messages)])
        pieces = _Pieces(streamer, self.stop_ids)
        failure: list[BaseException] = []

        def work() -> None:
            try:
                if sampling.temperature > 0:
                    torch.manual_seed(sampling.seed)
                with self._ready(tuned) as model:
                    model.generate(**inputs, streamer=pieces, generation_config=self._config(sampling))
            except BaseException as error:  # noqa: BLE001 - a thread's edge; raised again in the caller's thread
                failure.append(error)
                streamer.end()

        thread = Thread(target=work, daemon=True)
        end_team()
        thread.start()
        try:
            yield from streamer
        finally:
            pieces.abandoned = True
            thread.join()
        if failure:
            raise failure[0]

    def logits(self, prompt: Sequence[int], answer: Sequence[int], tuned: bool = True) -> torch.Tensor:
        """Next-token logits before each token of an answer that is given, not generated.

        Returns:
            `[len(answer), vocabulary]`, float32.
        """
        with self._ready(tuned) as model:
            if self._start is None:
                ids = torch.tensor([[*prompt, *answer[:-1]]], device=self.model.device)
                output = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer))
            else:
                ids = torch.tensor([[self._start, *answer[:-1]]], device=self.model.device)
                inputs = self._inputs([list(prompt)]) | {"decoder_input_ids": ids}
                output = model(**inputs, use_cache=False)
        logits: torch.Tensor = output.logits[0].float()
        return logits

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's prompt, through the tokenizer's own template."""
        return prompt_ids(self.tokenizer, messages)

    def next_tokens(self, prompt: Sequence[int], answer: Sequence[int], asked: torch.Tensor) -> NextTokens:
        """How likely the tokens `asked` are before each token of a given answer; NaN beyond the vocabulary."""
        return next_tokens_of(self.logits(prompt, answer).cpu(), asked)

    def _batch(self, prompts: list[list[int]], sampling: Sampling, tuned: bool) -> list[list[int]]:
        if sampling.temperature > 0:
            torch.manual_seed(sampling.seed)
        inputs = self._inputs(prompts)
        with self._ready(tuned) as model:
            out = model.generate(**inputs, generation_config=self._config(sampling))
        begin = inputs["input_ids"].shape[1] if self._start is None else 1
        return [row[begin:].tolist() for row in out]

    def _inputs(self, prompts: list[list[int]]) -> dict[str, torch.Tensor]:
        """Prompts in one batch.

        A causal model is padded on the left, so that all go on at the same place; an encoder on the right, because
        some count positions from the first token, padding or not.
        """
        longest = max(map(len, prompts))

        def filled(row: list[int], filler: int) -> list[int]:
            more = [filler] * (longest - len(row))
            return more + row if self._start is None else row + more

        rows = {
            "input_ids": [filled(prompt, self.stop_ids[0]) for prompt in prompts],
            "attention_mask": [filled([1] * len(prompt), 0) for prompt in prompts],
        }
        if self._given:
            rows["decoder_input_ids"] = [self._given] * len(prompts)
        return {name: torch.tensor(values, device=self.model.device) for name, values in rows.items()}

    def _config(self, sampling: Sampling) -> Any:
        from transformers import GenerationConfig

        sampled = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            min_new_tokens=0,
            do_sample=sampling.temperature > 0,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=self.stop_ids,
            pad_token_id=self.stop_ids[0],
            decoder_start_token_id=self._start,
            **(sampled if sampling.temperature > 0 else {}),
        )

    @contextlib.contextmanager
    def chosen(self, tuned: bool) -> Iterator[Any]:
        """The tuned model, or its base."""
        if not tuned and self._base is not None:
            yield self._base
        elif not tuned and hasattr(self.model, "disable_adapter"):
            with self.model.disable_adapter():
                yield self.model
        else:
            yield self.model

    @contextlib.contextmanager
    def _ready(self, tuned: bool) -> Iterator[Any]:
        """The tuned model or its base, with nothing of its folder's generation_config.

        Transformers takes from there what a given config leaves open; BART's forces an end on answers that are cut off.
        """
        from transformers import GenerationConfig

        with self.chosen(tuned) as model, torch.inference_mode(), quiet_transformers():
            base = base_of(model)
            own, base.generation_config = base.generation_config, GenerationConfig()
            try:
                yield model
            finally:
                base.generation_config = own
