"""Answers for many askers at once by one Transformers model: each step adds a token to every answer that is running.

Answers begin and end between steps, each with an adapter of its own or none. A prompt is read in chunks between the
steps, so that a long one stops nobody for long; what begins as an earlier one of the same adapter is not read again.
One thread computes; whoever asks is told by a call from that thread.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import torch

from danlu.adapters.bank import AdapterBank
from danlu.adapters.plain_lora import PlainLora
from danlu.data.records import Message
from danlu.data.template import prompt_ids
from danlu.engines.answer_text import AnswerText
from danlu.engines.drawing import Dice, Token, described
from danlu.engines.interface import Answer, Sampling
from danlu.engines.prefixes import Prefixes
from danlu.engines.row_cache import RowCache, cache_of, key_values_of, num_bytes_of, only_keys_and_values
from danlu.errors import DanluError, Fault, InputError, ModelError, ResourceError, WorkError
from danlu.models.quiet import quiet_transformers

_T = TypeVar("_T")


class QueueFull(ResourceError):  # noqa: N818 - says what is, as its neighbours do
    """As many answers wait as may; try again later."""


@dataclass(frozen=True)
class Ask:
    """One question.

    Attributes:
        prompt: token ids, at least one.
        sampling: how the answer's tokens are chosen.
        adapter: by its name in the engine; None is the base.
        stop: texts that end the answer, and are no part of it.
        num_likeliest: so many likeliest tokens are told at each place, with their probabilities; None: nothing.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    adapter: str | None = None
    stop: tuple[str, ...] = ()
    num_likeliest: int | None = None


@dataclass(frozen=True)
class Piece:
    """A part of an answer; the last one has the whole `answer`, or says why there is none.

    Attributes:
        text: what follows the pieces before; may be empty.
        tokens: that were chosen since.
        answer: the whole one.
        error: that ended it.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    answer: Answer | None = None
    error: DanluError | None = None


@dataclass
class Counters:
    """What the engine has done.

    Attributes:
        steps: forward passes that added a token to each running answer.
        row_steps: tokens that these added.
        mixed_steps: those with several adapters, or an adapter and the base, in one forward pass.
        most_adapters: the most different ones (the base is one) in one forward pass.
        prompt_tokens: tokens of prompts that were read.
        reused_tokens: tokens of prompts that an earlier one had begun with.
        answers: that came to their end.
        cancelled: whose asker left.
    """

    steps: int = 0
    row_steps: int = 0
    mixed_steps: int = 0
    most_adapters: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    answers: int = 0
    cancelled: int = 0


@dataclass
class Ticket:
    """A question that was taken.

    Attributes:
        cancelled: nobody waits for the answer any more.
        reused: tokens of the prompt that were not read again.
    """

    ask: Ask
    cancelled: bool = False
    reused: int = 0

    def cancel(self) -> None:
        """Ends the answer at the next step; nothing more is told."""
        self.cancelled = True


@dataclass
class _Row:
    """An answer in the making."""

    ticket: Ticket
    listener: Callable[[Piece], None]
    text: AnswerText
    dice: Dice
    cache: Any = None  # of the prompt, while it is read
    read: int = 0
    ids: list[int] = field(default_factory=list)

    @property
    def ask(self) -> Ask:
        return self.ticket.ask

    @property
    def longest(self) -> int:
        return len(self.ask.prompt) + self.ask.sampling.max_new_tokens


@dataclass(frozen=True)
class Limits:
    """What the engine takes on.

    Attributes:
        max_context: tokens of a prompt and its answer; None: what the model can.
        max_rows: answers in one forward pass.
        max_waiting: questions that wait for a place; more are refused.
        chunk_tokens: of a prompt that are read at once; a longer one gives way to a step after each chunk.
        read_tokens: of prompts that are read between two steps; the one that goes past it is still read.
        kv_bytes: for keys and values of running answers.
        prefix_bytes: for those that are kept for prompts that begin alike.
    """

    max_context: int | None = None
    max_rows: int = 32
    max_waiting: int = 128
    chunk_tokens: int = 256
    read_tokens: int = 1024
    kv_bytes: int = 1 << 30
    prefix_bytes: int = 256 << 20


class BatchingEngine:
    """One base, many adapters, many answers at once.

    Args:
        model: a causal model, in evaluation mode, without PEFT's wrapping.
        tokenizer: the model's.
        stop_ids: tokens that end an answer.
        limits: of memory and numbers.

    Raises:
        ModelError: the model remembers more than keys and values.
    """

    def __init__(self, model: Any, tokenizer: Any, stop_ids: Sequence[int], limits: Limits | None = None) -> None:
        self.model, self.tokenizer, self.stop_ids = model, tokenizer, frozenset(stop_ids)
        self.limits = limits or Limits()
        self.bank = AdapterBank(model)
        self.counters = Counters()
        self._takes = set(inspect.signature(model.forward).parameters)
        self.max_tokens = self.limits.kv_bytes // self._bytes_of_a_token()
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or self.max_tokens
        self.max_context = min(longest, self.limits.max_context or longest, self.max_tokens)
        self._prefixes = Prefixes(self.limits.prefix_bytes)
        self._cache = RowCache()
        self._waiting: deque[_Row] = deque()
        self._reading: deque[_Row] = deque()
        self._rows: list[_Row] = []
        self._chores: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wakes = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="danlu-engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Answers that are being made, their prompts read or still to be read."""
        return len(self._rows) + len(self._reading)

    @property
    def waiting(self) -> int:
        """Questions that wait for a place."""
        return len(self._waiting)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's prompt, through the tokenizer's own template."""
        return prompt_ids(self.tokenizer, messages)

    def submit(self, ask: Ask, listener: Callable[[Piece], None]) -> Ticket:
        """Takes a question.

        Args:
            ask: the question.
            listener: is told each piece, in the engine's thread; it must be quick and raise nothing.

        Raises:
            InputError: prompt and answer are longer than the context, or no adapter has this name.
            QueueFull: too many wait already.
            WorkError: the engine is closed.
        """
        row = _Row(Ticket(ask), listener, AnswerText(self.tokenizer, ask.stop), Dice(ask.sampling))
        if row.longest > self.max_context:
            what = f"{len(ask.prompt)} tokens of prompt and {ask.sampling.max_new_tokens} of answer are too many"
            raise InputError(Fault(what, allowed=f"together at most {self.max_context}"))
        self._require_adapter(ask.adapter)
        with self._wakes:
            if self._closing:
                raise WorkError(Fault("the engine is closed"))
            if len(self._waiting) >= self.limits.max_waiting:
                raise QueueFull(Fault(f"{len(self._waiting)} questions wait already", hint="try again later"))
            self._waiting.append(row)
            self._wakes.notify()
        return row.ticket

    def answer(self, ask: Ask) -> Answer:
        """Asks and waits.

        Raises:
            DanluError: as `submit`, or what ended the answer.
        """
        told: Future[Piece] = Future()
        self.submit(ask, lambda piece: told.set_result(piece) if piece.answer or piece.error else None)
        last = told.result()
        if last.answer is None:
            raise last.error or WorkError(Fault("no answer came"))
        return last.answer

    def call(self, work: Callable[[], _T]) -> Future[_T]:
        """Has the engine's thread do something between two steps."""
        future: Future[_T] = Future()
        with self._wakes:
            if self._closing:
                raise WorkError(Fault("the engine is closed"))
            self._chores.append((work, future))
            self._wakes.notify()
        return future

    def add(self, name: str, adapter: PlainLora) -> None:
        """Puts an adapter on, while others answer.

        Raises:
            FolderError: it does not fit the base.
        """
        self.call(lambda: self.bank.add(name, adapter)).result()

    def remove(self, name: str) -> None:
        """Takes an adapter off; questions for it that wait get an error, so wait for them first."""

        def work() -> None:
            for row in [row for row in (*self._rows, *self._reading) if row.ask.adapter == name]:
                self._fail(row, WorkError(Fault(f"the adapter {name} was taken away")))
            self._prefixes.forget(name)
            self.bank.remove(name)

        self.call(work).result()

    def logits(self, adapter: str | None, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
        """Next-token logits `[len(answer), vocabulary]`, float32, before each token of an answer that is given."""

        def work() -> torch.Tensor:
            self._require_adapter(adapter)
            self.bank.use([adapter])
            logits: torch.Tensor = self._forward([[*prompt, *answer[:-1]]], None, None, None, len(answer))
            return logits[0].float().cpu()

        return self.call(work).result()

    def close(self) -> None:
        """Ends what runs, and leaves the model as it was."""
        with self._wakes:
            self._closing = True
            self._wakes.notify()
        self._thread.join()
        self.bank.close()

    def _require_adapter(self, name: str | None) -> None:
        if name is not None and name not in self.bank.names:
            raise InputError(Fault(f"no adapter {name} is loaded", allowed=", ".join(self.bank.names) or "none is"))

    def _work(self) -> None:
        with torch.inference_mode(), quiet_transformers():
            while True:
                with self._wakes:
                    self._wakes.wait_for(lambda: self._closing or self._chores or self._waiting or self.running)
                    if self._closing:
                        break
                try:
                    self._turn()
                except Exception as error:  # noqa: BLE001 - the thread's edge: whoever waits is told
                    self._fail_all(WorkError(Fault(f"the model failed: {type(error).__name__}: {error}")))
        self._fail_all(WorkError(Fault("the engine was closed")))

    def _turn(self) -> None:
        """One thing that was asked of the thread, some waiting prompts, one token for each running answer.

        Prompts go before steps: a step for many costs little more than for one.
        """
        if self._chores:
            work, future = self._chores.popleft()
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                future.set_exception(error)
        self._admit()
        before = self.counters.prompt_tokens
        while self._reading and self._read(self._reading[0]):
            if self.counters.prompt_tokens - before >= self.limits.read_tokens:
                break
            self._admit()
        for index in reversed(range(len(self._rows))):
            if self._rows[index].ticket.cancelled:
                self._leave(index)
        if self._rows:
            self._step()

    def _admit(self) -> None:
        for row in [row for row in (*self._waiting, *self._reading) if row.ticket.cancelled]:
            (self._waiting if row in self._waiting else self._reading).remove(row)
            self.counters.cancelled += 1
        while self._waiting and self._fits(self._waiting[0]):
            row = self._waiting.popleft()
            try:
                self._require_adapter(row.ask.adapter)
                self._reading.append(row)
            except InputError as error:
                row.listener(Piece("", error=error))

    def _fits(self, row: _Row) -> bool:
        """Whether it has a place; all rows are as long as the longest."""
        longest = max(other.longest for other in (row, *self._rows, *self._reading))
        return self.running < self.limits.max_rows and (self.running + 1) * longest <= self.max_tokens

    def _read(self, row: _Row) -> bool:
        """Reads a chunk of a prompt; after the last one the answer has begun. Whether it was the last."""
        ask = row.ask
        if row.cache is None:
            held, row.read = self._prefixes.longest(ask.adapter, ask.prompt)
            row.cache = cache_of(held, row.read)
            row.ticket.reused = row.read
            self.counters.reused_tokens += row.read
        chunk = ask.prompt[row.read : row.read + self.limits.chunk_tokens]
        self.bank.use([ask.adapter])
        positions = torch.arange(row.read, row.read + len(chunk)).unsqueeze(0)
        logits = self._forward([chunk], positions, None, row.cache, 1)[:, -1].float()
        row.read += len(chunk)
        self.counters.prompt_tokens += len(chunk)
        if row.read < len(ask.prompt):
            return False
        self._reading.popleft()
        held = key_values_of(row.cache)
        row.cache = None
        if self._take(row, int(logits[0].argmax()), logits[0]):
            self._cache.join(held)
            self._rows.append(row)
        self._prefixes.keep(ask.adapter, ask.prompt, held)
        return True

    def _step(self) -> None:
        adapters = [row.ask.adapter for row in self._rows]
        self.bank.use(adapters)
        mask, positions = self._cache.step()
        logits = self._forward([[row.ids[-1]] for row in self._rows], positions, mask, self._cache, 1)[:, -1].float()
        self._cache.advance()
        self.counters.steps += 1
        self.counters.row_steps += len(adapters)
        self.counters.mixed_steps += len(set(adapters)) > 1
        self.counters.most_adapters = max(self.counters.most_adapters, len(set(adapters)))
        likeliest = logits.argmax(-1).tolist()
        for index in reversed(range(len(self._rows))):
            row = self._rows[index]
            if not self._take(row, likeliest[index], logits[index]):
                length = self._cache.lengths[index]
                ids = [*row.ask.prompt, *row.ids][:length]
                self._prefixes.keep(row.ask.adapter, ids, self._cache.row(index))
                self._leave(index)

    def _take(self, row: _Row, likeliest: int, logits: torch.Tensor) -> bool:
        """Adds a token to an answer and tells it; whether the answer goes on."""
        if not torch.isfinite(logits[likeliest]):
            row.listener(Piece("", error=WorkError(Fault("the model's logits are not finite"))))
            return False
        token = row.dice.draw(logits) if row.ask.sampling.temperature > 0 else likeliest
        row.ids.append(token)
        tokens = (described(token, logits, row.ask.num_likeliest),)
        if token in self.stop_ids:
            self._end(row, row.text.end(), tokens, "stop")
            return False
        text, stopped = row.text.add(token)
        if stopped or len(row.ids) == row.ask.sampling.max_new_tokens:
            self._end(row, text if stopped else text + row.text.end(), tokens, "stop" if stopped else "length")
            return False
        row.listener(Piece(text, tokens))
        return True

    def _end(self, row: _Row, text: str, tokens: tuple[Token, ...], finish: Any) -> None:
        self.counters.answers += 1
        row.listener(Piece(text, tokens, Answer(tuple(row.ids), row.text.text, finish)))

    def _leave(self, index: int) -> None:
        self.counters.cancelled += self._rows[index].ticket.cancelled
        self._cache.leave(index)
        self._rows[index] = self._rows[-1]
        self._rows.pop()

    def _fail(self, row: _Row, error: DanluError) -> None:
        row.listener(Piece("", error=error))
        if row in self._rows:
            self._leave(self._rows.index(row))
        else:
            self._reading.remove(row)

    def _fail_all(self, error: DanluError) -> None:
        for row in (*self._rows, *self._reading, *(self._waiting if self._closing else ())):
            row.listener(Piece("", error=error))
        self._rows.clear()
        self._reading.clear()
        self._cache = RowCache()
        while self._closing and self._chores:
            self._chores.popleft()[1].set_exception(error)

    def _forward(self, ids: Sequence[Sequence[int]], positions: Any, mask: Any, cache: Any, keep: int) -> torch.Tensor:
        device = self.model.device
        more = {"position_ids": positions, "attention_mask": mask, "logits_to_keep": keep}
        chosen = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in more.items()
            if value is not None and name in self._takes
        }
        output = self.model(
            input_ids=torch.tensor([list(row) for row in ids], device=device),
            past_key_values=cache,
            use_cache=cache is not None,
            **chosen,
        )
        logits: torch.Tensor = output.logits[:, -keep:]
        return logits

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def _bytes_of_a_token(self) -> int:
        """Memory of one token's keys and values.

        Raises:
            ModelError: there is more than these to remember, or nothing.
        """
        ids = torch.tensor([[min(self.stop_ids)]], device=self.model.device)
        if not self.model.config.is_encoder_decoder:
            cache = self.model(input_ids=ids, use_cache=True).past_key_values
            if getattr(cache, "layers", None) and only_keys_and_values(cache):
                return num_bytes_of(key_values_of(cache))
        raise ModelError(
            Fault(
                f"{type(self.model).__name__} can't answer many at once here: it remembers more than keys and values",
                allowed="a causal model whose cache is keys and values alone",
                hint="use `danlu chat` or `danlu generate`",
            )
        )

    def figures(self) -> dict[str, int]:
        """All counters by name."""
        return asdict(self.counters)
