"""Faster ways to compute what has a plain reference elsewhere. Nothing but speed depends on this folder."""
