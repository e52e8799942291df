"""Keeps the libraries' progress bars and advice out of Danlu's own output."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator

# PEFT imports bitsandbytes wherever it is installed, and it then advises kernels for a way of computing that is never
# taken here (see `danlu.models.quantization.settle`).
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# So it does torchao, which then names each kernel that is for another machine, and what torch will change for it.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

_NO_COMPILER = "TORCHDYNAMO_DISABLE"


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within it, Transformers, PEFT and the tokenizers print errors only."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from transformers.utils import logging as theirs

        level = theirs.get_verbosity()
        bars = theirs.is_progress_bar_enabled()
        theirs.set_verbosity_error()
        theirs.disable_progress_bar()
        try:
            yield
        finally:
            theirs.set_verbosity(level)
            if bars:
                theirs.enable_progress_bar()


def import_bitsandbytes() -> None:
    """Imports it, where it is installed, without torch's compiler.

    On import it has a function compiled that stands in for a device's own kernels; the compiler takes a second or more
    and 50 MB, whether the function is ever called or not.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        return
    before = os.environ.get(_NO_COMPILER)
    os.environ[_NO_COMPILER] = "1"
    try:
        importlib.import_module("bitsandbytes")
    finally:
        del os.environ[_NO_COMPILER]
        if before is not None:
            os.environ[_NO_COMPILER] = before


def quiet_deepspeed() -> None:
    """Tells DeepSpeed, which Transformers imports to save a model, that there is no GPU: left to see, it prints so."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
