"""Keeps the libraries' progress bars and advice out of Danlu's own output."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within it, Transformers, PEFT, the tokenizers and bitsandbytes print errors only."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    quantizer = logging.getLogger("bitsandbytes")  # PEFT imports it wherever it is installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from transformers.utils import logging as theirs

        level, quantizer_level = theirs.get_verbosity(), quantizer.level
        bars = theirs.is_progress_bar_enabled()
        theirs.set_verbosity_error()
        theirs.disable_progress_bar()
        quantizer.setLevel(logging.ERROR)
        try:
            yield
        finally:
            quantizer.setLevel(quantizer_level)
            theirs.set_verbosity(level)
            if bars:
                theirs.enable_progress_bar()
