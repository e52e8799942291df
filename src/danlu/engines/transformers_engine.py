"""Generation by Transformers, in process: any causal language model, with or without a PEFT adapter on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from threading import Thread
from typing import Any

import torch

from danlu.data.records import Message
from danlu.data.template import prompt_ids
from danlu.engines.interface import Answer, Sampling
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
    """See `danlu.engines.interface.Engine`.

    Args:
        model: a causal language model; with a PEFT adapter, `tuned=False` answers without it.
        tokenizer: the model's.
        stop_ids: tokens that end an answer.
        batch_size: conversations answered at once, padded on the left.
        base: answers with `tuned=False` where the model has no adapter to switch off.
    """

    def __init__(
        self, model: Any, tokenizer: Any, stop_ids: Sequence[int], batch_size: int = 16, base: Any = None
    ) -> None:
        self.model, self._base = model, base
        self.tokenizer = tokenizer
        self.stop_ids = list(stop_ids)
        self.batch_size = batch_size

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
                answers[index] = self._answer(ids)
            if report:
                report(len(answers))
        return [answers[index] for index in range(len(prompts))]

    def stream(self, messages: Sequence[Message], sampling: Sampling, tuned: bool = True) -> Iterator[str]:
        """The pieces of one answer as they are made."""
        from transformers import TextIteratorStreamer

        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        ids = torch.tensor([prompt_ids(self.tokenizer, messages)], device=self.model.device)
        pieces = _Pieces(streamer, self.stop_ids)
        failure: list[BaseException] = []

        def work() -> None:
            try:
                if sampling.temperature > 0:
                    torch.manual_seed(sampling.seed)
                with self.chosen(tuned) as model, torch.inference_mode(), quiet_transformers():
                    model.generate(
                        input_ids=ids,
                        attention_mask=torch.ones_like(ids),
                        streamer=pieces,
                        generation_config=self._config(sampling),
                    )
            except BaseException as error:  # noqa: BLE001 - a thread's edge; raised again in the caller's thread
                failure.append(error)
                streamer.end()

        thread = Thread(target=work, daemon=True)
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
        ids = torch.tensor([[*prompt, *answer[:-1]]], device=self.model.device)
        with self.chosen(tuned) as model, torch.inference_mode():
            logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer)).logits
        return logits[0].float()

    def _batch(self, prompts: list[list[int]], sampling: Sampling, tuned: bool) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[self.stop_ids[0]] * (longest - len(p)) + p for p in prompts], device=self.model.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self.model.device)
        if sampling.temperature > 0:
            torch.manual_seed(sampling.seed)
        with self.chosen(tuned) as model, torch.inference_mode(), quiet_transformers():
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=self._config(sampling))
        return [row[longest:].tolist() for row in out]

    def _config(self, sampling: Sampling) -> Any:
        """Every option is given, so that nothing is taken from the model folder's generation_config."""
        from transformers import GenerationConfig

        sampled = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            min_new_tokens=0,
            do_sample=sampling.temperature > 0,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=self.stop_ids,
            pad_token_id=self.stop_ids[0],
            **(sampled if sampling.temperature > 0 else {}),
        )

    def _answer(self, ids: list[int]) -> Answer:
        end = next((place for place, token in enumerate(ids) if token in self.stop_ids), None)
        body = ids if end is None else ids[:end]
        text = self.tokenizer.decode(body, skip_special_tokens=True)
        kept = tuple(ids if end is None else ids[: end + 1])
        return Answer(kept, text, "length" if end is None else "stop")

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
