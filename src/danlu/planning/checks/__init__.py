"""The checks before training, by what they look at; `danlu.planning.preflight` lists them.

Each takes a `Look` and yields what it found. As they judge a recipe, they read its keys.
"""
