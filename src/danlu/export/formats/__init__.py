"""The formats of an export, one a file; `table.py` lists them."""
