"""Adapters in PEFT's format: put on, counted, saved, loaded."""
