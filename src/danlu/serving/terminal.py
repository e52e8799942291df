"""`danlu chat`: a conversation in the terminal, with the base's answer beside it on request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from danlu.data.records import Messages
from danlu.engines.interface import Engine, Sampling
from danlu.tracking.progress import say
from danlu.training.trained import open_run

HELP = """Type a question and press Enter.
  /base    the base's answer to the last question, beside the tuned one
  /reset   forget the conversation
  /help    this text
  /quit    leave (Ctrl-D too)"""


class Chat:
    """One conversation with an engine.

    Args:
        engine: answers with the tuned model or its base.
        sampling: for every answer.
    """

    def __init__(self, engine: Engine, sampling: Sampling) -> None:
        self.engine, self.sampling = engine, sampling
        self.messages: Messages = []

    def ask(self, question: str) -> Iterator[str]:
        """Streams the tuned model's answer and remembers both."""
        self.messages.append({"role": "user", "content": question})
        answer = ""
        for piece in self.engine.stream(self.messages, self.sampling):
            answer += piece
            yield piece
        self.messages.append({"role": "assistant", "content": answer})

    def base(self) -> Iterator[str]:
        """Streams the base's answer to the last question; the conversation stays as it is."""
        yield from self.engine.stream(self.messages[:-1], self.sampling, tuned=False)


def run_chat(run_folder: str | Path, sampling: Sampling, source: TextIO, out: TextIO) -> dict[str, Any]:
    """Talks with a run's model until the input ends or says /quit.

    Args:
        run_folder: a run, complete or stopped.
        sampling: for every answer.
        source: lines of the user.
        out: where answers are streamed.

    Returns:
        `turns`, the number of questions answered.
    """
    run = open_run(run_folder, allow_stopped=True)
    chat = Chat(run.engine(run.dtype), sampling)
    say(f"{run.recipe.model.name} with {run.folder / 'adapter'}. /help lists the commands.")
    turns = 0
    while True:
        out.write("\nyou> ")
        out.flush()
        line = source.readline()
        words = line.strip()
        if not line or words == "/quit":
            return {"turns": turns}
        if words:
            turns += _turn(chat, words, out)


def _turn(chat: Chat, words: str, out: TextIO) -> int:
    """Answers one line; 1 if it was a question."""
    if words == "/reset":
        chat.messages.clear()
        out.write("(forgotten)\n")
    elif words == "/base" and chat.messages:
        _stream("base> ", chat.base(), out)
    elif words.startswith("/"):
        out.write((HELP if words == "/help" else f"no command {words} here, or nothing was asked yet\n{HELP}") + "\n")
    else:
        _stream("tuned> ", chat.ask(words), out)
        return 1
    return 0


def _stream(label: str, pieces: Iterator[str], out: TextIO) -> None:
    out.write(label)
    for piece in pieces:
        out.write(piece)
        out.flush()
    out.write("\n")
