"""One llama.cpp server in this process: a GGUF base, the GGUF adapters that it was started with, answers in slots.

Three things that llama.cpp does are kept from the askers. It computes one adapter at a time, and lets the lowest slot
go on for as long as its answer takes: here an answer is asked for a few tokens at a time, and adapters take turns.
What a slot remembers is not marked with the adapter that made it: it is used again for the same adapter alone. Its
streams leave out tokens that end amid a character: none is asked for.
"""

from __future__ import annotations

import http.client
import json
import secrets
import threading
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from danlu.data.records import Message
from danlu.data.template import prompt_ids
from danlu.engines.answer_text import AnswerText
from danlu.engines.batching import Ask, Piece, QueueFull, Ticket
from danlu.engines.drawing import Token
from danlu.engines.interface import Answer
from danlu.engines.llama_cpp import FORCED, start_server
from danlu.errors import DanluError, Fault, InputError, WorkError
from danlu.serving.backends.turns import Turns

_FIRST_ENDS, _THEN = (
    (1, 4, 8),
    16,
)  # tokens of an answer at which it is asked for on; fixed, so that drawn answers are too
_NO_SEED = 0xFFFFFFFF  # llama.cpp takes it for "any"


@dataclass(frozen=True)
class Size:
    """What one server takes on.

    Attributes:
        slots: answers at once.
        context_tokens: of a prompt and its answer.
        max_waiting: questions that wait for a slot; more are refused.
        exact: keys and values in float32, without flash attention: slower, and equal to float32 elsewhere.
        threads: that compute; 0: as many as there are cores.
    """

    slots: int
    context_tokens: int
    max_waiting: int = 128
    exact: bool = False
    threads: int = 0


@dataclass
class Counters:
    """What a server has done.

    Attributes:
        slices: times that an answer was asked for on.
        turns: times that another adapter had the turn.
        prompt_tokens: tokens of prompts that were read.
        reused_tokens: tokens of prompts that a slot still knew.
        answer_tokens: that were made.
        answers: that came to their end.
        cancelled: whose asker left.
    """

    slices: int = 0
    turns: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    answer_tokens: int = 0
    answers: int = 0
    cancelled: int = 0


@dataclass
class _Row:
    """An answer in the making."""

    ticket: Ticket
    listener: Callable[[Piece], None]
    text: AnswerText
    ids: list[int] = field(default_factory=list)


@dataclass
class _Slot:
    """A place of llama.cpp's, and what it remembers: tokens that an adapter's keys and values are kept of."""

    number: int
    row: _Row | None = None
    adapter: str | None = None
    known: tuple[int, ...] = ()

    def reusable(self, ask: Ask) -> int:
        """Tokens of a prompt that it knows."""
        if self.adapter != ask.adapter:
            return 0
        pairs = zip(self.known, ask.prompt, strict=False)
        return next((place for place, (one, other) in enumerate(pairs) if one != other), len(self.known))


class LlamaServer:
    """See `danlu.serving.streams.Answers`.

    Args:
        tokenizer: of the model, which makes prompts and texts.
        stop_ids: tokens that end an answer; llama.cpp may know more.
        model: a GGUF file.
        adapters: GGUF files of adapters, by the names that questions give.
        size: of slots and context.

    Raises:
        ResourceError: xllamacpp is not installed.
        ModelError: llama.cpp can't load a file.
    """

    def __init__(
        self, tokenizer: Any, stop_ids: Sequence[int], model: Path, adapters: Mapping[str, Path], size: Size
    ) -> None:
        self.tokenizer, self.stop_ids, self.size = tokenizer, frozenset(stop_ids), size
        self.adapters, self.max_context = dict(adapters), size.context_tokens
        self.counters = Counters()
        self._numbers = {name: number for number, name in enumerate(adapters)}
        self._plain = int(tokenizer("a", add_special_tokens=False)["input_ids"][-1])
        self._key = secrets.token_hex(16)
        each = -(-(size.context_tokens + 8) // 256) * 256
        self._server = start_server(
            model, list(adapters.values()), self._key, each * size.slots, size.slots, size.exact, size.threads
        )
        self._place = self._server.listening_address.removeprefix("http://")
        self._turns = Turns()
        self._changed = threading.Condition()
        self._waiting: deque[_Row] = deque()
        self._slots = [_Slot(number) for number in range(size.slots)]
        self._closing = False
        self._threads = [threading.Thread(target=self._work, args=(slot,), daemon=True) for slot in self._slots]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> int:
        """Answers that are being made."""
        return sum(slot.row is not None for slot in self._slots)

    @property
    def waiting(self) -> int:
        """Questions that wait for a slot."""
        return len(self._waiting)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's prompt, through the tokenizer's own template."""
        return prompt_ids(self.tokenizer, messages)

    def figures(self) -> dict[str, int]:
        """All counters by name."""
        return {**asdict(self.counters), "turns": self._turns.changes}

    def submit(self, ask: Ask, listener: Callable[[Piece], None]) -> Ticket:
        """Takes a question.

        Args:
            ask: the question.
            listener: is told each piece, in a thread of the slot's; it must be quick and raise nothing.

        Raises:
            InputError: prompt and answer are longer than the context, or no adapter has this name.
            QueueFull: too many wait already.
            WorkError: the server is closed.
        """
        if len(ask.prompt) + ask.sampling.max_new_tokens > self.max_context:
            what = f"{len(ask.prompt)} tokens of prompt and {ask.sampling.max_new_tokens} of answer are too many"
            raise InputError(Fault(what, allowed=f"together at most {self.max_context}"))
        if ask.adapter is not None and ask.adapter not in self.adapters:
            raise InputError(
                Fault(f"no adapter {ask.adapter} is loaded", allowed=", ".join(self.adapters) or "none is")
            )
        row = _Row(Ticket(ask), listener, AnswerText(self.tokenizer, ask.stop))
        with self._changed:
            if self._closing:
                raise WorkError(Fault("the engine is closed"))
            if len(self._waiting) >= self.size.max_waiting + sum(slot.row is None for slot in self._slots):
                raise QueueFull(Fault(f"{len(self._waiting)} questions wait already", hint="try again later"))
            self._waiting.append(row)
            self._assign()
        return row.ticket

    def close(self) -> None:
        """Ends it; answers that are being made fail at their next few tokens."""
        with self._changed:
            self._closing = True
            rows = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        self._turns.wake()
        for row in rows:
            row.listener(Piece("", error=WorkError(Fault("the engine was closed"))))
        for thread in self._threads:
            thread.join()
        self._server = None

    def drain(self) -> None:
        """Waits until all that was asked is answered, then closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or not (self._waiting or self.running))
        self.close()

    def _assign(self) -> None:
        """Gives waiting questions to free slots, each to the one that knows most of its prompt."""
        for row in [row for row in self._waiting if row.ticket.cancelled]:
            self._waiting.remove(row)
            self.counters.cancelled += 1
        while self._waiting and (free := [slot for slot in self._slots if slot.row is None]):
            row = self._waiting.popleft()
            # Of those that know nothing of it, one that has least to forget.
            best = max(free, key=lambda slot: (slot.reusable(row.ticket.ask), -len(slot.known)))
            best.row = row
        self._changed.notify_all()

    def _work(self, slot: _Slot) -> None:
        connection = http.client.HTTPConnection(self._place)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or slot.row is not None)
                row = slot.row
            if row is None:
                break
            try:
                self._answer(slot, row, connection)
            except DanluError as error:
                row.listener(Piece("", error=error))
            except Exception as error:  # noqa: BLE001 - the thread's edge: whoever waits is told
                slot.known, connection = (), http.client.HTTPConnection(self._place)
                row.listener(Piece("", error=WorkError(Fault(f"llama.cpp failed: {type(error).__name__}: {error}"))))
            with self._changed:
                slot.row = None
                self._assign()
        connection.close()

    def _answer(self, slot: _Slot, row: _Row, connection: http.client.HTTPConnection) -> None:
        """Asks on until the answer has ended, or nobody waits for it any more."""
        while True:
            with self._turns.turn(row.ticket.ask.adapter, lambda: self._closing or row.ticket.cancelled) as mine:
                told = self._ask(slot, row, connection) if mine else None
            if told is None:
                self.counters.cancelled += row.ticket.cancelled
                if self._closing and not row.ticket.cancelled:
                    raise WorkError(Fault("the engine was closed"))
                return
            if self._hear(row, told):
                self.counters.answers += 1
                return

    def _ask(self, slot: _Slot, row: _Row, connection: http.client.HTTPConnection) -> dict[str, Any]:
        ask, made = row.ticket.ask, len(row.ids)
        prompt = [*ask.prompt, *row.ids]
        end = min(slice_end(made), ask.sampling.max_new_tokens)
        body = {
            "prompt": prompt,
            "n_predict": end - made,
            "id_slot": slot.number,
            "cache_prompt": slot.adapter == ask.adapter,
            "lora": [{"id": number, "scale": float(name == ask.adapter)} for name, number in self._numbers.items()],
            "samplers": ["temperature", "top_k", "top_p"],
            "temperature": ask.sampling.temperature,
            "top_k": ask.sampling.top_k,
            "top_p": ask.sampling.top_p,
            "seed": zlib.crc32(f"{ask.sampling.seed} {made}".encode()) % _NO_SEED,
            "return_tokens": True,
            "n_probs": 0 if ask.num_likeliest is None else max(1, ask.num_likeliest),
        }
        slot.adapter, slot.known = ask.adapter, ()
        told = self._post(connection, body)
        if not told["tokens"]:
            raise WorkError(Fault("llama.cpp made no token"))
        slot.known = (*prompt, *told["tokens"][:-1])
        if ask.num_likeliest is not None:
            told["probabilities"] = self._probabilities(slot, body, told, connection)
        self.counters.slices += 1
        if not made:
            row.ticket.reused = int(told["timings"]["cache_n"])
            self.counters.reused_tokens += row.ticket.reused
            self.counters.prompt_tokens += len(ask.prompt) - row.ticket.reused
        return told

    def _post(self, connection: http.client.HTTPConnection, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        try:
            connection.request("POST", "/completion", json.dumps(body), headers)
            response = connection.getresponse()
        except (ConnectionError, http.client.HTTPException):  # it closes connections that were idle, or used often
            connection.close()
            connection.request("POST", "/completion", json.dumps(body), headers)
            response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise WorkError(Fault(f"llama.cpp refuses a question: {content[:300].decode(errors='replace')}"))
        told: dict[str, Any] = json.loads(content)
        return told

    def _probabilities(
        self, slot: _Slot, body: dict[str, Any], told: dict[str, Any], connection: http.client.HTTPConnection
    ) -> list[Any]:
        """What was told of each token.

        Of those that end amid a character llama.cpp tells nothing, so it is asked for it: another token is forced
        there, which changes nothing of the probabilities that the model itself gives.
        """
        found = _aligned(told["tokens"], told.get("completion_probabilities") or [])
        for place in [place for place, one in enumerate(found) if one is None]:
            prompt = [*body["prompt"], *told["tokens"][:place]]
            more = {"prompt": prompt, "n_predict": 1, "cache_prompt": True, "logit_bias": [[self._plain, FORCED]]}
            (found[place],) = self._post(connection, {**body, **more})["completion_probabilities"]
            slot.known = tuple(prompt)
        return found

    def _hear(self, row: _Row, told: dict[str, Any]) -> bool:
        """Tells what was made; whether the answer has ended."""
        ask, said, tokens = row.ticket.ask, "", []
        made = told["tokens"]
        probabilities = told.get("probabilities") or [None] * len(made)
        for place, (token, about) in enumerate(zip(made, probabilities, strict=True), 1):
            row.ids.append(token)
            self.counters.answer_tokens += 1
            tokens.append(_token(token, about, ask.num_likeliest))
            if token in self.stop_ids or (told["stop_type"] == "eos" and place == len(made)):
                return self._end(row, said + row.text.end(), tokens, "stop")
            text, stopped = row.text.add(token)
            said += text
            if stopped:
                return self._end(row, said, tokens, "stop")
            if len(row.ids) == ask.sampling.max_new_tokens:
                return self._end(row, said + row.text.end(), tokens, "length")
        row.listener(Piece(said, tuple(tokens)))
        return False

    def _end(self, row: _Row, text: str, tokens: Sequence[Token], finish: Any) -> bool:
        row.listener(Piece(text, tuple(tokens), Answer(tuple(row.ids), row.text.text, finish)))
        return True


def slice_end(made: int) -> int:
    """Where an answer of so many tokens is asked for on the next time."""
    return next((end for end in _FIRST_ENDS if made < end), made - made % _THEN + _THEN)


def _token(token: int, about: dict[str, Any] | None, num_likeliest: int | None) -> Token:
    if about is None or num_likeliest is None:
        return Token(token)
    told = tuple((int(one["id"]), float(one["logprob"])) for one in about["top_logprobs"])
    own = about["logprob"] if about["id"] == token else dict(told).get(token)
    return Token(token, own, told[:num_likeliest])


def _aligned(tokens: Sequence[int], told: Sequence[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """What is told of each token, or None: from the end, what a character lacks comes first."""
    left, found = list(told), []
    for token in reversed(tokens):
        found.append(left.pop() if left and left[-1]["id"] == token else None)
    return found[::-1]


def until_answered(server: LlamaServer, ask: Ask, seconds: float = 600.0) -> list[Token]:
    """Asks and waits; the answer's tokens.

    Raises:
        DanluError: as `submit`, or what ended the answer.
    """
    tokens: list[Token] = []
    ended = threading.Event()
    errors: list[DanluError] = []

    def hear(piece: Piece) -> None:
        tokens.extend(piece.tokens)
        if piece.error is not None:
            errors.append(piece.error)
        if piece.error is not None or piece.answer is not None:
            ended.set()

    ticket = server.submit(ask, hear)
    if not ended.wait(seconds):
        ticket.cancel()
        raise WorkError(Fault(f"no answer came in {seconds:g} s"))
    if errors:
        raise errors[0]
    return tokens
