"""Rows that are nearly equal: found at a million rows in little memory, and kept off the evaluation set."""
