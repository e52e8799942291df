"""The tokenizer of a model folder, and the tokens it puts around texts. Loads no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from danlu.errors import Fault, ModelError
from danlu.models.folder import is_encoder_decoder
from danlu.models.quiet import quiet_transformers

# What an encoder reads, and after it the answer that the decoder writes, if one is given.
_SOURCE_AND_TARGET = (
    "{%- set answered = messages[-1].role == 'assistant' -%}"
    "{%- set asked = messages[:-1] if answered else messages -%}"
    "{{- SOURCE_START + (asked | map(attribute='content') | join('\\n')) + SOURCE_END -}}"
    "{%- if answered -%}{{- TARGET_START + messages[-1].content + TARGET_END -}}{%- endif -%}"
)


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer with its chat template.

    The tokenizer of an encoder-decoder model is marked (see `has_encoder`). If it has no template, it gets one by
    which the source is the texts of the conversation on a line each, the target is the answer, and each is framed as
    the tokenizer frames sources and targets.

    Raises:
        ModelError: it can't be read, it has no chat template that can be used, or it frames texts as no template can.
    """
    with quiet_transformers():
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (ValueError, OSError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(
                Fault(
                    f"the tokenizer can't be read: {(str(error) or type(error).__name__).splitlines()[0]}",
                    str(folder),
                    hint="fetch the tokenizer files of the model again",
                )
            ) from error
    if is_encoder_decoder(folder):
        tokenizer.has_encoder = True
        tokenizer.chat_template = tokenizer.chat_template or _plain_template(tokenizer, folder)
    if not tokenizer.chat_template:
        raise ModelError(
            Fault(
                "the tokenizer has no chat template, so answers could not be asked for as they were trained",
                str(folder),
                "a chat_template in tokenizer_config.json, or chat_template.jinja",
                "use the model's instruct or chat version, or put its template beside the tokenizer",
            )
        )
    fault = _template_fault(tokenizer)
    if fault:
        raise ModelError(
            Fault(
                f"the chat template can't be used: {fault}",
                str(folder),
                "one template that Jinja can read",
                "fetch the model's tokenizer_config.json or chat_template.jinja again, or mend it",
            )
        )
    return tokenizer


def has_encoder(tokenizer: Any) -> bool:
    """Whether the tokenizer is of an encoder-decoder model: no answer then goes on in the text that asks for it."""
    return bool(getattr(tokenizer, "has_encoder", False))


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text alone, without the tokens that a tokenizer adds around it."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def tokens_around(tokenizer: Any, target: bool = False) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer itself puts before and after a text, or a decoder's `target`."""
    inner = tokenize(tokenizer, "a")
    whole: list[int] = tokenizer(**{"text_target" if target else "text": "a"})["input_ids"]
    places = [place for place in range(len(whole)) if whole[place : place + len(inner)] == inner]
    return whole[: places[0]], whole[places[0] + len(inner) :]


def _plain_template(tokenizer: Any, folder: Path) -> str:
    """`_SOURCE_AND_TARGET` with the tokens that this tokenizer puts around sources and targets.

    Raises:
        ModelError: a text with these tokens written out would not be read as them.
    """
    template = _SOURCE_AND_TARGET
    for name, target in (("SOURCE", False), ("TARGET", True)):
        around = tokens_around(tokenizer, target)
        written = ["".join(tokenizer.convert_ids_to_tokens(ids)) for ids in around]
        if not around[1] or tokenize(tokenizer, f"{written[0]}a{written[1]}") != [
            *around[0],
            *tokenize(tokenizer, "a"),
            *around[1],
        ]:
            raise ModelError(
                Fault(
                    f"the tokenizer puts {written[0]!r} before and {written[1]!r} after a text, which no template can",
                    str(folder),
                    "special tokens, an end token among them",
                    "put a chat_template.jinja beside the tokenizer that writes the source, then the target",
                )
            )
        for place, text in zip(("START", "END"), written, strict=True):
            template = template.replace(f"{name}_{place}", json.dumps(text, ensure_ascii=False))
    return template


def _template_fault(tokenizer: Any) -> str:
    """What is wrong with the template whatever it is given; empty if nothing is.

    What it says to one conversation is that conversation's affair.
    """
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        return str(error).splitlines()[0]
    if not isinstance(template, str):
        return f"it is not text but {type(template).__name__}"
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        pass
    return ""
