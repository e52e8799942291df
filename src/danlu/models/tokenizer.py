"""The tokenizer of a model folder. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.errors import Fault, ModelError
from danlu.models.quiet import quiet_transformers


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer with its chat template.

    Raises:
        ModelError: it can't be read, or it has no chat template.
    """
    with quiet_transformers():
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (ValueError, OSError, KeyError) as error:
            raise ModelError(
                Fault(
                    f"the tokenizer can't be read: {str(error).splitlines()[0]}",
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
    return tokenizer
