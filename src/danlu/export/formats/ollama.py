"""A Modelfile for Ollama beside a GGUF file: the chat template in Ollama's language, and where to stop.

What the model's own template writes around each turn is found by rendering marked turns, put together in the language
of Go's templates, and only used if the same pieces give the same text as the model's template for several
conversations. Ollama itself was not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.records import Messages, RowFault
from danlu.data.template import render
from danlu.models.tokenizer import load_tokenizer, tokens_around

_SYSTEM, _QUESTION, _ANSWER, _NEXT = (f"\u2063{number}\u2063" for number in range(4))


@dataclass(frozen=True)
class Turns:
    """What a template writes around turns.

    Attributes:
        start: before everything.
        around: by role, before and after a turn's text.
        invitation: what invites the next answer.
        system: what it says where no system turn is given; None where it then says nothing.
    """

    start: str
    around: dict[str, tuple[str, str]]
    invitation: str
    system: str | None

    def write(self, messages: Messages) -> str:
        """The conversation, followed by what invites the next answer."""
        if self.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        turns = [self.around[turn["role"]][0] + turn["content"] + self.around[turn["role"]][1] for turn in messages]
        return self.start + "".join(turns) + self.invitation


def write_modelfile(gguf: Path, model: Path, stop_ids: Sequence[int]) -> dict[str, Any]:
    """Writes `Modelfile` beside a GGUF file; without a template where the model's can't be put in Ollama's language.

    Args:
        gguf: the file.
        model: the folder that it was made from.
        stop_ids: tokens that end an answer.

    Returns:
        `ollama_template`, whether it has one.
    """
    tokenizer = load_tokenizer(model)
    turns = turns_of(tokenizer)
    lines = [f"FROM ./{gguf.name}"]
    if turns:
        lines.append(f'TEMPLATE """{_go_template(turns, tokenizer)}"""')
        lines += [f'SYSTEM """{turns.system}"""'] if turns.system else []
    lines += [f"PARAMETER stop {_quoted(tokenizer.convert_ids_to_tokens(token))}" for token in stop_ids]
    (gguf.parent / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"ollama_template": turns is not None}


def turns_of(tokenizer: Any) -> Turns | None:
    """What the template writes around turns; None where no such pieces give the same text as the template."""
    try:
        found = _found(tokenizer)
    except (RowFault, ValueError):
        return None
    # Some templates write a system turn into the question after it; without system turns they may be alike.
    alone = {role: around for role, around in found.around.items() if role != "system"}
    for turns in (found, Turns(found.start, alone, found.invitation, None)):
        if not any(sign in str(turns) for sign in ("{{", '"""')) and _same(turns, tokenizer):
            return turns
    return None


def _same(turns: Turns, tokenizer: Any) -> bool:
    try:
        return all(turns.write(messages) == render(tokenizer, messages, ask=True) for messages in _examples(turns))
    except (RowFault, KeyError):
        return False


def _found(tokenizer: Any) -> Turns:
    asked, answer = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
    again = {"role": "user", "content": _NEXT}
    before, tail = _parts(render(tokenizer, [asked], ask=False), _QUESTION)
    invitation = render(tokenizer, [asked], ask=True).removeprefix(before + _QUESTION + tail)
    answer_tail = _parts(render(tokenizer, [asked, answer], ask=False), _ANSWER)[1]
    between = _parts(_parts(render(tokenizer, [asked, answer, again], ask=True), _QUESTION)[1], _ANSWER)
    answer_head = between[0].removeprefix(tail)
    head = _parts(between[1], _NEXT)[0].removeprefix(answer_tail)
    around = {"user": (head, tail), "assistant": (answer_head, answer_tail)}
    try:
        told = render(tokenizer, [{"role": "system", "content": _SYSTEM}, asked], ask=False)
        system_before, rest = _parts(told, _SYSTEM)
        system_tail = _parts(rest, _QUESTION)[0].removesuffix(head)
    except (RowFault, ValueError):
        return Turns(before.removesuffix(head), around, invitation, None)
    end = system_tail + head
    if before.startswith(system_before) and before.endswith(end) and len(before) > len(system_before + end):
        own = before[len(system_before) : len(before) - len(end)]
        return Turns("", around | {"system": (system_before, system_tail)}, invitation, own)
    start = before.removesuffix(head)
    return Turns(start, around | {"system": (system_before.removeprefix(start), system_tail)}, invitation, None)


def _parts(text: str, mark: str) -> tuple[str, str]:
    before, found, after = text.partition(mark)
    if not found:
        raise ValueError(f"the template leaves out {mark!r}")
    return before, after


def _examples(turns: Turns) -> list[Messages]:
    first, answer = {"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "在这里。"}
    talks: list[Messages] = [[first], [first, answer, first], [first, answer, first, answer, first]]
    told = {"role": "system", "content": "Be brief."}
    return [*talks, *([told, *talk] for talk in talks if "system" in turns.around)]


def _go_template(turns: Turns, tokenizer: Any) -> str:
    """The pieces as a template of Go's; Ollama puts a first token before it by itself where the tokenizer would."""
    first = tokenizer.convert_ids_to_tokens(tokens_around(tokenizer)[0])
    start = turns.start.removeprefix("".join(first))
    system = turns.around.get("system")
    if system:
        system = (system[0].removeprefix("".join(first)) if not turns.start else system[0], system[1])
    branches = "{{ else }}".join(
        f'{{{{ if eq .Role "{role}" }}}}{around[0]}{{{{ .Content }}}}{around[1]}'
        for role, around in (turns.around | ({"system": system} if system else {})).items()
    ) + "{{ end }}" * len(turns.around)
    return f"{start}{{{{ range .Messages }}}}{branches}{{{{ end }}}}{turns.invitation}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
