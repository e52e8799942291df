"""Training speed and memory: Danlu against other trainers, same rows, in one run, in turn.

    python benchmarks/train_throughput.py --rows alpaca.json --trl PYTHON --llamafactory PYTHON --out results/NAME.json

The pythons are those of environments with trl, peft and transformers, and with llamafactory==0.9.5. Each trainer takes
two epochs over the first rows of the file; the second is timed. Tokens are those of the rows: padding does not count.
`--micro-batch NAME=N` sets the rows, or packs, of a trainer's forward pass. Memory is each process's largest resident
size, on a GPU the most that it had allocated there. With Danlu's speed comes that of the matrix product alone at the
model's shapes, and where a step's time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import describe_run, versions, write_result
from matrix_peak import useful_flops, weighted_peak

from danlu.models.loading import DTYPES, choose_device, choose_dtype
from danlu.models.source import find_model
from danlu.training.machine import usable_cores

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """Another trainer.

    Attributes:
        script: in trainers/.
        environment: whose python runs it.
        dtype: what it computes in.
        micro_batch: rows, or packs, of one forward pass.
        packed: rows side by side.
    """

    script: str
    environment: str
    dtype: str
    micro_batch: int
    packed: bool = False

    def words(self, micro_batch: int | None) -> list[str]:
        """Its own arguments."""
        words = ["--dtype", self.dtype, "--micro-batch", str(micro_batch or self.micro_batch)]
        return [*words, "--packed"] if self.packed else words


PEERS = {
    "trainer_fp32": Peer("transformers_trainer.py", "trl", "float32", 4),
    "trainer_bf16": Peer("transformers_trainer.py", "trl", "bfloat16", 4),
    "trl_padded": Peer("trl_sft.py", "trl", "bfloat16", 4),
    "trl_packed": Peer("trl_sft.py", "trl", "bfloat16", 2, packed=True),
    "trl_packed_fp32": Peer("trl_sft.py", "trl", "float32", 2, packed=True),
    "llamafactory_padded": Peer("llamafactory_sft.py", "llamafactory", "bfloat16", 4),
    "llamafactory_packed": Peer("llamafactory_sft.py", "llamafactory", "bfloat16", 2, packed=True),
    "llamafactory_packed1": Peer("llamafactory_sft.py", "llamafactory", "bfloat16", 1, packed=True),
}
_DEFAULT_PEERS = [name for name in PEERS if name not in ("trl_packed_fp32", "llamafactory_packed1")]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="a JSON list of Alpaca rows")
    parser.add_argument("--num-rows", type=int, default=64, help="the first so many rows that have an answer")
    parser.add_argument("--join", type=int, default=1, help="so many rows are made one, for long documents")
    parser.add_argument("--rows-per-step", type=int, default=16)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="folder or short name")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", default=",".join(_DEFAULT_PEERS), help=f"some of {', '.join(PEERS)}; may be empty")
    parser.add_argument("--micro-batch", action="append", default=[], metavar="PEER=N")
    parser.add_argument("--micro-batch-tokens", type=int, help="Danlu's; else the recipe's default")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="a key of Danlu's recipe")
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="auto", help="Danlu's, as in the recipe")
    parser.add_argument("--trl", default="python", help="python of an environment with trl")
    parser.add_argument("--llamafactory", default="python", help="python of one with llamafactory")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--peak", action=argparse.BooleanOptionalAction, default=True, help="product alone, breakdown")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    asked.peers = [name for name in asked.peers.split(",") if name]
    pairs = [word.partition("=") for word in asked.micro_batch]
    unknown = [name for name in (*asked.peers, *(name for name, _, _ in pairs)) if name not in PEERS]
    if unknown:
        parser.error(f"no such peer: {', '.join(unknown)}; known are {', '.join(PEERS)}")
    if any(not number.isdecimal() or int(number) < 1 for _, _, number in pairs):
        parser.error("--micro-batch is PEER=N, N at least 1")
    asked.micro_batch = {name: int(number) for name, _, number in pairs}
    if asked.num_rows % asked.rows_per_step:
        parser.error("--num-rows must be a multiple of --rows-per-step, or a step would lie in two epochs")
    return asked


def write_rows(source: Path, count: int, out: Path, join: int = 1) -> None:
    """Writes the first Alpaca rows with question and answer as JSONL of {prompt, completion}, lists of messages.

    Args:
        source: a JSON list.
        count: how many are written.
        out: the file.
        join: so many rows of the source are one: their questions, then their answers.
    """
    rows = [row for row in json.loads(source.read_text(encoding="utf-8")) if row["instruction"] and row["output"]]
    if len(rows) < count * join:
        raise SystemExit(f"{source} has {len(rows)} rows with an answer, not {count * join}")
    with out.open("w", encoding="utf-8") as stream:
        for first in range(0, count * join, join):
            joined = rows[first : first + join]
            question = "\n".join(part for row in joined for part in (row["instruction"], row.get("input")) if part)
            messages = {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": "\n".join(row["output"] for row in joined)}],
            }
            stream.write(json.dumps(messages, ensure_ascii=False) + "\n")


def commands(asked: argparse.Namespace, rows: Path, base: Path, dtype: str) -> dict[str, list[str]]:
    """The command of each trainer, Danlu first."""
    shared = ["--rows", str(rows), "--model", str(base), "--max-tokens", str(asked.max_tokens)]
    shared += ["--rows-per-step", str(asked.rows_per_step)]
    own = ["--dtype", dtype]
    if asked.micro_batch_tokens:
        own += ["--micro-batch-tokens", str(asked.micro_batch_tokens)]
    own += [word for key in asked.override for word in ("--override", key)]
    trainers = _HERE / "trainers"
    made = {"danlu": [sys.executable, str(trainers / "danlu_sft.py"), *shared, *own]}
    for name in asked.peers:
        peer = PEERS[name]
        script = [getattr(asked, peer.environment), str(trainers / peer.script)]
        made[name] = [*script, *shared, *peer.words(asked.micro_batch.get(name))]
    return made


def run(command: list[str], threads: int) -> dict[str, Any]:
    """What a script printed last, as JSON; or `failed`, with the last line of its stderr that is no hint."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "DISABLE_VERSION_CHECK": "1",  # LLaMA-Factory's, of packages that text alone does not need
        "TOKENIZERS_PARALLELISM": "false",
    }
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        return {"failed": str(error)}
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if not line.lstrip().startswith("hint:")]
        return {"failed": said[-1] if said else f"exit status {done.returncode}"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"failed": "the last line of its output is not JSON"}
    return found


def run_rounds(made: dict[str, list[str]], asked: argparse.Namespace) -> list[dict[str, dict[str, Any]]]:
    """Each trainer once, and again; a round is a dictionary of results by trainer."""
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(asked.repeats):
        results = {}
        for name, command in made.items():
            results[name] = run(command, asked.threads)
            print(f"{number + 1}/{asked.repeats} {name}: {json.dumps(results[name])}", flush=True)
        rounds.append(results)
    return rounds


def medians(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """By trainer, the median of each number over the rounds that came to an end, and ratios of Danlu's to them.

    `speed_ratio` is Danlu's tokens per second by the trainer's: above 1, Danlu is faster. `memory_ratio` is Danlu's
    peak by the trainer's: below 1, Danlu needs less.
    """
    keys = ("tokens", "tokens_per_second", "first_epoch_seconds", "start_seconds", "loss", "steps")
    keys += ("peak_rss_bytes", "peak_gpu_bytes")
    table: dict[str, dict[str, Any]] = {}
    for name in rounds[0]:
        ended = [results[name] for results in rounds if "failed" not in results[name]]
        if not ended:
            table[name] = {"failed": rounds[-1][name]["failed"]}
            continue
        table[name] = {
            key: None if ended[0][key] is None else statistics.median(one[key] for one in ended) for key in keys
        }
        table[name]["rounds"] = len(ended)
    own = table["danlu"]
    for row in table.values():
        if "failed" not in row and "failed" not in own:
            row["speed_ratio"] = own["tokens_per_second"] / row["tokens_per_second"]
            row["memory_ratio"] = peak_bytes(own) / peak_bytes(row)
    return table


def peak_bytes(row: dict[str, Any]) -> float:
    """Bytes at the peak: of the GPU where there is one, else of the process."""
    return float(row.get("peak_gpu_bytes") or row["peak_rss_bytes"])


def print_table(table: dict[str, dict[str, Any]]) -> None:
    """The medians for people."""
    titles = {"tokens/s": 10, "Danlu is": 10, "peak GB": 10, "Danlu has": 11, "loss": 9, "tokens": 9, "steps": 7}
    print(f"\n{'trainer':<22}" + "".join(f"{title:>{width}}" for title, width in titles.items()))
    for name, row in table.items():
        if "failed" in row:
            print(f"{name:<22}failed: {row['failed']}")
            continue
        speed, memory = row.get("speed_ratio"), row.get("memory_ratio")
        print(
            f"{name:<22}{row['tokens_per_second']:>10.1f}{f'{speed:.2f} x' if speed else '':>10}"
            f"{peak_bytes(row) / 1e9:>10.2f}{f'{memory:.2f} x' if memory else '':>11}"
            f"{row['loss']:>9.4f}{row['tokens']:>9.0f}{row['steps']:>7.0f}"
        )


def againstpeak_bytes(base: Path, own: dict[str, Any], dtype: str, threads: int) -> dict[str, Any]:
    """How much of the matrix product's own speed Danlu's training reaches.

    Args:
        base: folder of the model.
        own: a result of Danlu's.
        dtype: what Danlu computed in.
        threads: of the product.
    """
    command = [sys.executable, str(_HERE / "matrix_peak.py"), "--model", str(base), "--threads", str(threads)]
    found = run(command, threads)
    if "failed" in found:
        return found
    share = own["trained_tokens"] / own["tokens"]
    flops = useful_flops(found["shapes"], share)
    peaks = {name: weighted_peak(found["shapes"], speeds, share) for name, speeds in found["speeds"].items()}
    useful = sum(flops.values()) * own["tokens_per_second"]
    return {
        "trained_share": share,
        "useful_flops_per_token": {**flops, "all": sum(flops.values())},
        "useful_flops_per_second": useful,
        "peak_flops_per_second": peaks,
        "utilisation": useful / peaks[dtype],
        "measured": found,
    }


def printpeak_bytes(peak: dict[str, Any], breakdown: dict[str, Any]) -> None:
    """Utilisation and the shares of a step, for people."""
    if "failed" in peak:
        print(f"\nmatrix product alone: failed: {peak['failed']}")
    else:
        speeds = ", ".join(f"{name} {speed / 1e9:.0f}" for name, speed in peak["peak_flops_per_second"].items())
        print(f"\nmatrix product alone, GFLOP/s at {peak['measured']['tokens']} tokens: {speeds}")
        print(
            f"Danlu: {peak['useful_flops_per_token']['all'] / 1e9:.3f} useful GFLOP a token, "
            f"{peak['useful_flops_per_second'] / 1e9:.0f} GFLOP/s, utilisation {peak['utilisation']:.1%}"
        )
    if "failed" in breakdown:
        print(f"breakdown of a step: failed: {breakdown['failed']}")
    else:
        shares = ", ".join(f"{kind} {share:.1%}" for kind, share in breakdown["shares"].items())
        print(f"a step's time: {shares}")


def describe(asked: argparse.Namespace, base: Path, dtype: str, made: dict[str, list[str]]) -> dict[str, Any]:
    """What was measured, on what, with what."""
    pythons = {"danlu": sys.executable} | {PEERS[name].environment: made[name][0] for name in asked.peers}
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return {
        **describe_run(asked.threads),
        "versions": {name: versions(python) for name, python in pythons.items()},
        "commands": {name: shlex.join(command) for name, command in made.items()},
        "model": {"name": asked.model, "type": config["model_type"], "hidden_size": config.get("hidden_size")},
        "rows": {"file": asked.rows.name, "count": asked.num_rows, "per_step": asked.rows_per_step, "join": asked.join},
        "max_tokens": asked.max_tokens,
        "dtype": dtype,
    }


def main() -> None:
    """Runs all in turn, several times, and prints the table."""
    asked = parse()
    base = find_model(asked.model)
    dtype = str(choose_dtype(asked.dtype, choose_device())).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        write_rows(asked.rows, asked.num_rows, rows, asked.join)
        made = commands(asked, rows, base, dtype)
        result = describe(asked, base, dtype, made)
        rounds = run_rounds(made, asked)
        result |= {"medians": medians(rounds), "rounds": rounds}
        print_table(result["medians"])
        last = next((one["danlu"] for one in reversed(rounds) if "failed" not in one["danlu"]), None)
        if asked.peak and last:
            own = {**last, "tokens_per_second": result["medians"]["danlu"]["tokens_per_second"]}
            result["peak"] = againstpeak_bytes(base, own, dtype, asked.threads)
            profiled = [word.replace("danlu_sft.py", "danlu_breakdown.py") for word in made["danlu"]]
            result["breakdown"] = run(profiled, asked.threads)
            printpeak_bytes(result["peak"], result["breakdown"])
    if asked.out:
        write_result(asked.out, result)


if __name__ == "__main__":
    main()
