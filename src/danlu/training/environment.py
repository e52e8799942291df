"""`environment.json`: what a run ran on."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import psutil
import torch

from danlu.models.loading import dtype_name

_PACKAGES = ("danlu", "torch", "transformers", "peft", "tokenizers", "safetensors", "pyarrow", "numpy")
_EXTRAS = ("bitsandbytes",)


def describe_environment(dtype: torch.dtype) -> dict[str, Any]:
    """Versions, processor, memory (bytes), GPU and the run's dtype."""
    return {
        "packages": {name: version(name) for name in (*_PACKAGES, *filter(find_spec, _EXTRAS))},
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        **describe_machine(),
        "dtype": dtype_name(dtype),
    }


def describe_machine() -> dict[str, Any]:
    """Processor, cores, torch's threads, memory (bytes) and GPU."""
    return {
        "processor": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
