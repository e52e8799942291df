"""The tokenizer of a model folder. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.errors import Fault, ModelError
from danlu.models.quiet import quiet_transformers


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer with its chat template.

    Raises:
        ModelError: it can't be read, or it has no chat template that can be used.
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
