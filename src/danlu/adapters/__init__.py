"""Adapters in PEFT's format: put on, counted, saved, loaded."""

from danlu.models.quiet import import_bitsandbytes

import_bitsandbytes()  # PEFT is about to
