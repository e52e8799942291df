"""Judging a tuned model against its base on rows that it has not seen."""
