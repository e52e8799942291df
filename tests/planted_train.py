"""`danlu` with rows that have no loss, for tests that need it in a process of its own."""

from __future__ import annotations

import pytest
from planted import poison

from danlu.cli import main
from danlu.models.embedded import embedded_model_folder
from danlu.models.tokenizer import load_tokenizer

with pytest.MonkeyPatch.context() as patch:
    poison(patch, load_tokenizer(embedded_model_folder("smollm2-135m-instruct")))
    main()
