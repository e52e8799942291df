"""Many rows from few: sentences of real rows put together anew, with copies, near-copies and personal data planted.

python benchmarks/rows.py --rows a.json --rows b.json --count 1000000 --out rows.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？\n]*")
_COPIES, _NEAR_COPIES, _PERSONAL = 0.02, 0.05, 0.02
_RECENT = 5000


def sentences(paths: Sequence[str]) -> list[list[str]]:
    """The sentences of Alpaca-style files, one list for each file."""
    pools = []
    for path in paths:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        texts = [row[key] for row in rows for key in ("instruction", "input", "output") if row.get(key)]
        pools.append([part for text in texts for part in _SENTENCE.findall(text) if len(part.strip()) > 3])
    return pools


def vary(pools: Sequence[Sequence[str]], count: int, seed: int) -> Iterator[dict[str, str]]:
    """Rows of instruction and output; the same seed gives the same rows, and a smaller count the first of them."""
    generator = random.Random(seed)
    recent: list[dict[str, str]] = []
    for number in range(count):
        draw = generator.random()
        if recent and draw < _COPIES + _NEAR_COPIES:
            row = dict(generator.choice(recent))
            if draw >= _COPIES:
                row["output"] += f" {number}"
        else:
            pool = generator.choice(pools)
            row = {
                "instruction": "".join(generator.choices(pool, k=generator.randint(1, 2))),
                "input": "",
                "output": "".join(generator.choices(pool, k=generator.randint(2, 14))),
            }
            if draw > 1 - _PERSONAL:
                row["output"] += f" 电话：138{generator.randint(10_000_000, 99_999_999)}，a{number}@example.com"
        if len(recent) < _RECENT:
            recent.append(row)
        else:
            recent[generator.randrange(_RECENT)] = row
        yield row


def write_rows(paths: Sequence[str], count: int, out: Path, seed: int = 0) -> None:
    """Writes varied rows as JSONL."""
    with out.open("w", encoding="utf-8") as stream:
        for row in vary(sentences(paths), count, seed):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", action="append", required=True, help="a JSON list of Alpaca rows; may be repeated")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write_rows(arguments.rows, arguments.count, arguments.out)
