"""The audit log: who did what with which data, in lines of which none can be changed, removed or moved unseen.

`audit.jsonl` has a line of JSON for each thing that was done. Each carries the SHA-256 of the line before it and, as
`hash`, its own; `audit.head` beside it has the number and the hash of the last one, so that lines missing at the end
are seen too. A file that has grown large is put aside as `audit-NUMBER.jsonl`, by the number of its first entry, and
the chain goes on in a new one. Whoever may write all files can write another history: the hash that `append` gives,
kept elsewhere, proves that this one is meant (`danlu audit verify --head HASH`). Texts of rows are never written.
"""

from __future__ import annotations

from danlu.audit.chain import audit_path, user_name
from danlu.audit.reading import Audit, entry_line, read_audit, verify
from danlu.audit.writing import append, append_all, rotate

__all__ = ["Audit", "append", "append_all", "audit_path", "entry_line", "read_audit", "rotate", "user_name", "verify"]
