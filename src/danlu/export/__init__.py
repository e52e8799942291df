"""Exports, each compared with what was trained before anyone relies on it."""
