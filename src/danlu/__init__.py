"""Danlu (丹炉): fine-tune language models with few parameters, and prove what you serve.

Importing this package loads nothing heavy; each verb imports what it needs when it is called.
"""

__version__ = "0.1.0"
