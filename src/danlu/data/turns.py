"""Turns as files write them, and how each becomes a message; what a conversation must look like.

A message is `{"role": ..., "content": str}`; an answer may also have `reasoning_content`, `tool_calls` (each
`{"type": "function", "function": {"name": str, "arguments": {...}}}`) and `train: False`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from danlu.data.sources.json_values import parse_json, problem
from danlu.data.sources.rows import BadRow

Message = dict[str, Any]
Messages = list[Message]

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "function_call",
    "observation": "tool",
    "tool": "tool",
    "function": "tool",
    "system": "system",
    "developer": "system",
}
_REASONING = ("reasoning_content", "reasoning")


class RowFault(Exception):  # noqa: N818 - becomes a ledger entry, never an error
    """A row can't become a conversation; the reason goes to the ledger.

    The part before the first colon is a stable phrase, by which rows are counted.
    """


def read_text(value: Any, key: str) -> str:
    """A field's text; nothing at all is empty text.

    Raises:
        RowFault: it is not text, or holds half a character.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowFault(f"not text: `{key}` is {type(value).__name__}")
    return _whole(value, key)


def _whole(text: str, key: str) -> str:
    """Refuses lone surrogates: JSON can spell them, but no tokenizer and no file can take them."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowFault(f"half a character (a lone surrogate): `{key}` at position {error.start}") from error
    return text


def read_content(value: Any, key: str) -> str:
    """The text of a turn: a string, or a list of `{"type": "text", "text": ...}` parts, which are joined."""
    if not isinstance(value, list):
        return read_text(value, key)
    texts = []
    for part in value:
        if isinstance(part, str):
            texts.append(read_text(part, key))
        elif isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
            texts.append(read_text(part["text"], key))
        else:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise RowFault(f"not text: `{key}` has a part of type {str(kind)[:40]}")
    return "".join(texts)


def read_turns(turns: Any, key: str) -> Messages:
    """The messages of a list of turns, `{role, content}` (OpenAI) or `{from, value}` (ShareGPT).

    Raises:
        RowFault: it is not a list, or a turn lacks something.
    """
    if not isinstance(turns, list):
        raise RowFault(f"not a list: `{key}` is {type(turns).__name__}")
    return [read_turn(turn) for turn in turns]


def read_turn(turn: Any) -> Message:
    """The message of one turn.

    Raises:
        RowFault: its role is unknown or missing, or its text is.
    """
    sharegpt = isinstance(turn, dict) and "from" in turn
    role_key, text_key = ("from", "value") if sharegpt else ("role", "content")
    if not isinstance(turn, dict) or role_key not in turn:
        raise RowFault("a turn lacks a field: `role` (or `from`)")
    role = _ROLES.get(str(turn[role_key]))
    if role is None:
        raise RowFault(f"unknown role: `{str(turn[role_key])[:40]}`")
    calls = _read_calls(turn) if role == "assistant" else []
    if text_key not in turn and not calls:
        raise RowFault(f"a turn lacks a field: `{text_key}`")
    if role == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _parse_calls(turn[text_key])}
    message: Message = {"role": role, "content": read_content(turn.get(text_key), text_key)}
    if role == "tool":
        message.update({name: read_text(turn[name], name) for name in ("tool_call_id", "name") if turn.get(name)})
    elif role == "assistant" and len(turn) > 2:
        _read_extras(turn, message)
        if calls:
            message["tool_calls"] = calls
    return message


def _read_extras(turn: dict[str, Any], message: Message) -> None:
    """Reasoning, and whether the answer is trained."""
    for key in _REASONING:
        reasoning = read_text(turn.get(key), key)
        if reasoning.strip():
            message["reasoning_content"] = reasoning
            break
    for key, no, yes in (("weight", 0, 1), ("train", False, True)):
        value = turn.get(key)
        if value is None or value == yes:
            continue
        if value != no:
            raise RowFault(f"unknown weight of a turn: `{key}` is {str(value)[:40]}, not {no} or {yes}")
        message["train"] = False


def _read_calls(turn: dict[str, Any]) -> list[dict[str, Any]]:
    """The tool calls of an OpenAI turn: `tool_calls`, or the older `function_call`."""
    value = turn.get("tool_calls") or turn.get("function_call")
    return _parse_calls(value) if value else []


def _parse_calls(value: Any) -> list[dict[str, Any]]:
    """One call or several, as JSON text or as objects; arguments become an object, as templates want them."""
    if isinstance(value, str):
        value = _parse_json(read_text(value, "function_call"), "a tool call")
    calls = value if isinstance(value, list) else [value]
    return [_parse_call(call) for call in calls]


def _parse_call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise RowFault("not a tool call: it has no name")
    arguments = function.get("arguments", function.get("parameters")) or {}
    if isinstance(arguments, str):
        arguments = _parse_json(arguments, "the arguments of a tool call")
    if not isinstance(arguments, dict):
        raise RowFault(f"not a tool call: its arguments are {type(arguments).__name__}")
    _require_whole(arguments, "arguments")
    made: dict[str, Any] = {"type": "function"}
    if call.get("id"):
        made["id"] = read_text(call["id"], "id")
    made["function"] = {"name": read_text(function["name"], "name"), "arguments": arguments}
    return made


def read_tools(value: Any, key: str = "tools") -> list[dict[str, Any]]:
    """The function schemas of a row, as a list or as its JSON text, each as `{"type": "function", "function": ...}`.

    Raises:
        RowFault: they are no list of objects with names.
    """
    if isinstance(value, str):
        value = _parse_json(value, f"`{key}`") if value.strip() else None
    if not value:
        return []
    tools = []
    for tool in value if isinstance(value, list) else [value]:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise RowFault(f"not a tool: an entry of `{key}` has no name")
        _require_whole(function, key)
        tools.append({**tool, "type": "function"} if "function" in tool else {"type": "function", "function": tool})
    return tools


def _parse_json(text: str, what: str) -> Any:
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise RowFault(f"not JSON: {what}: {problem(error)}") from error
    if isinstance(value, BadRow):
        raise RowFault(value.reason)
    return value


def _require_whole(value: Any, key: str) -> None:
    """Lone surrogates anywhere in a JSON value are refused."""
    if isinstance(value, str):
        _whole(value, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            _whole(name, key)
            _require_whole(item, key)
    elif isinstance(value, list):
        for item in value:
            _require_whole(item, key)


def require_order(messages: Sequence[Message]) -> None:
    """Requires [system,] user, assistant, user, ..., ending with an answer, and no empty question or answer.

    An answer that calls tools is followed by their results and then by another answer; it may also be the last.

    Raises:
        RowFault: naming the first turn (from 1, without the system turn) that is out of order.
    """
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if not any(message["role"] == "assistant" for message in turns):
        raise RowFault("missing answer")
    expected: tuple[str, ...] = ("user",)
    for index, message in enumerate(turns):
        role = message["role"]
        if role not in expected:
            raise RowFault(f"turns out of order: turn {index + 1} is {role}, expected {' or '.join(expected)}")
        calls = bool(message.get("tool_calls"))
        if role != "tool" and not calls and not message["content"].strip():
            raise RowFault("missing answer" if role == "assistant" else "missing question")
        expected = _next_roles(role, calls)
    if turns[-1]["role"] != "assistant":
        last = "a tool's result" if turns[-1]["role"] == "tool" else "a question"
        raise RowFault(f"the last turn is {last} without an answer")


def _next_roles(role: str, calls: bool) -> tuple[str, ...]:
    if role == "user":
        return ("assistant",)
    if role == "tool":
        return ("tool", "assistant")
    return ("tool",) if calls else ("user",)
