"""Adapters by name, version and alias, on a folder or object storage that several people write to. Imports no torch.

A registry is a log: each change is one numbered event, made only if nobody has made that number yet, and the state is
what the events come to (`log`, `events`, `state`). Files of a version are written whole before the event that names
them (`intake`), under a name of its own that nothing else shares, so that removing a version can never take a file
away from another one that is being added.
"""

from danlu.registry.registry import Registry
from danlu.registry.state import State, Version

__all__ = ["Registry", "State", "Version"]
