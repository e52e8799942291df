"""The command line: one public call per command, imported when it is used.

Click was chosen by measurement: `danlu --help` takes a third of the time that typer takes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

import click

from danlu import __version__
from danlu.commands.audit import audit
from danlu.commands.deploy import deploy
from danlu.commands.feedback import feedback
from danlu.commands.keys import keys
from danlu.commands.output import finish as _finish
from danlu.commands.output import json_line as _json
from danlu.commands.output import json_option as _json_option
from danlu.commands.registry import registry
from danlu.commands.serve import serve
from danlu.errors import DanluError, Fault, InputError, is_out_of_memory

_OVERRIDES_HELP = "OVERRIDES are words such as training.learning_rate=1e-4; they win over the file."


def _require_alone(where: str, unfit: bool, options: dict[str, Any]) -> None:
    """Requires that nobody asks for what would be left undone without a word."""
    asked = [name for name, value in options.items() if value] if unfit else []
    if asked:
        raise InputError(Fault(f"{', '.join(asked)} has no meaning {where}", "command line", hint="leave it out"))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="danlu")
def cli() -> None:
    """Danlu (丹炉): fine-tune a language model, judge it, prove its export, talk to it."""


@cli.command()
@click.argument("overrides", nargs=-1)
@_json_option
def quickstart(overrides: tuple[str, ...], as_json: bool) -> None:
    """Train, judge and merge the shipped example, in one go."""
    from danlu.workflows.quickstart import run_quickstart, summary

    result = run_quickstart(overrides)
    _finish(result, as_json, "" if as_json else summary(result))


@cli.group(no_args_is_help=False)
def recipe() -> None:
    """Check a recipe, or show it with every default."""


@recipe.command("check")
@click.argument("path")
@click.argument("overrides", nargs=-1)
@_json_option
def recipe_check(path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check keys, then all that can be known before training: rows, labels, template, method, memory, disk."""
    from danlu.planning.preflight import require_flightworthy
    from danlu.recipe import load_recipe

    findings = _preflight(load_recipe(path, overrides))
    _say_findings(findings)
    require_flightworthy(findings)
    worth = sum(finding.level == "warning" for finding in findings)
    text = f"{path}: good" + (f", with {worth} warning{'s' if worth > 1 else ''}" if worth else "")
    _finish({"recipe": path, "valid": True, "findings": [one.to_json() for one in findings]}, as_json, text)


def _preflight(loaded: Any) -> list[Any]:
    """All that can be found before training, in what evaluation will ask too."""
    from danlu.evaluation.run import require_task_files
    from danlu.planning.preflight import preflight

    return preflight(loaded, require_task_files)


def _say_findings(findings: Sequence[Any]) -> None:
    """Warnings and notes on stderr; errors are told by what is raised."""
    from danlu.pages.unseen import show_unseen

    for finding in findings:
        if finding.level != "error":
            click.echo(show_unseen(str(finding)), err=True)


@recipe.command("show")
@click.argument("path")
@click.argument("overrides", nargs=-1)
@_json_option
def recipe_show(path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the recipe with every default written out."""
    from danlu.recipe import dump_recipe, load_recipe

    loaded = load_recipe(path, overrides)
    _finish(loaded.recipe.model_dump(mode="json"), as_json, dump_recipe(loaded.recipe).rstrip())


@cli.command(epilog=_OVERRIDES_HELP)
@click.argument("path")
@click.argument("overrides", nargs=-1)
@click.option("--rows", multiple=True, metavar="FILE", help="Prepare these files in place of data.train's.")
@click.option("--show", default=0, metavar="N", type=click.IntRange(0), help="Print N rows token by token.")
@_json_option
def data(path: str, overrides: tuple[str, ...], rows: tuple[str, ...], show: int, as_json: bool) -> None:
    """Prepare a recipe's rows and account for each of them."""
    from danlu.data.run import prepare
    from danlu.engines.local import local_answers
    from danlu.models.source import find_model
    from danlu.recipe import load_recipe

    word = f"data.train={json.dumps(rows, ensure_ascii=False)}"
    words = [*overrides, word] if rows else overrides
    loaded = load_recipe(path, words)
    if rows:
        loaded = load_recipe(path, [*words, *(f"adapters.{name}.{word}" for name in loaded.adapters)])
    base = find_model(loaded.recipe.model.name, loaded.recipe.model.revision)
    made = [prepare(one, base, local_answers) for one in loaded.each()]
    for prepared in made if show else []:
        _show(prepared, base, show, as_json)
    if not loaded.adapters:
        _finish(made[0].summary(), as_json, made[0].describe())
        return
    named = dict(zip(loaded.adapters, made, strict=True))
    adapters = [{"name": name, **prepared.summary()} for name, prepared in named.items()]
    texts = [f"== {name} ==\n{prepared.describe()}" for name, prepared in named.items()]
    _finish({"adapters": adapters}, as_json, "\n".join(texts))


def _show(prepared: Any, base: Any, count: int, as_json: bool) -> None:
    """Prints the first training rows token by token."""
    from danlu.data.show import show_rows
    from danlu.models.tokenizer import load_tokenizer

    store = prepared.store("train")
    shown = range(min(count, len(store)))
    colour = sys.stderr.isatty() if as_json else sys.stdout.isatty()
    text = show_rows(load_tokenizer(base), [store[n] for n in shown], [store.where(n) for n in shown], colour)
    click.echo(text, err=as_json)


@cli.command(epilog=_OVERRIDES_HELP)
@click.argument("path")
@click.argument("overrides", nargs=-1)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint of the run folder, if there is one.")
@click.option("--nproc", type=click.IntRange(1), help="Processes on this machine that share the work.")
@click.option("--no-preflight", is_flag=True, help="Leave out the checks of `danlu recipe check`.")
@_json_option
def train(
    path: str, overrides: tuple[str, ...], resume: bool, nproc: int | None, no_preflight: bool, as_json: bool
) -> None:
    """Train as a recipe says, into a new run folder; each of its adapters, if it has several."""
    from danlu.recipe import load_recipe

    loaded = load_recipe(path, overrides)
    if nproc and nproc > 1:
        from danlu.training.launch import run_processes

        chosen = {"--resume": resume, "--no-preflight": no_preflight, "--json": as_json}
        options = [option for option, wanted in chosen.items() if wanted]
        sys.exit(run_processes(["train", path, *overrides, *options], nproc))
    findings = [] if no_preflight else _checked(loaded)
    if loaded.adapters:
        from danlu.training.several import run_several, table

        several = run_several(loaded, resume=resume)
        if several:
            _finish(several | {"findings": findings}, as_json, table(several))
        return
    from danlu.training.run import run_training

    result = run_training(loaded, resume=resume)
    if not result:
        return  # another process writes the run folder, and speaks
    from danlu.training.closing import closing_text

    _finish(result | {"findings": findings}, as_json, closing_text(result))


@cli.command("verify-resume", epilog=_OVERRIDES_HELP)
@click.argument("path")
@click.argument("overrides", nargs=-1)
@click.option("--kills", default=3, show_default=True, type=click.IntRange(1), help="How often a run is killed.")
@click.option("--steps", default=8, show_default=True, type=click.IntRange(3), help="Optimizer steps of each run.")
@click.option("--log", metavar="FILE", help="Add a line of JSON to it for each kill.")
@_json_option
def verify_resume(
    path: str, overrides: tuple[str, ...], kills: int, steps: int, log: str | None, as_json: bool
) -> None:
    """Kill a shortened run at random moments, resume it, and compare every bit with one that ran through."""
    from pathlib import Path

    from danlu.workflows.verify_resume import run_verify_resume

    result = run_verify_resume(path, overrides, kills, steps, Path(log) if log else None)
    text = (
        f"the same bits after {kills} of {kills} kills, {result['kills_while_writing']} of them while a checkpoint was "
        f"written ({result['steps']} steps, {result['seconds']:.0f} s)"
    )
    _finish(result, as_json, text)


def _checked(loaded: Any) -> list[dict[str, str]]:
    """Checks a recipe before it is trained, in one of its processes; gives what was found, and stops at an error."""
    from danlu.training.processes import processes_of_environment

    if not processes_of_environment().first:
        return []
    from danlu.planning.preflight import require_flightworthy

    findings = _preflight(loaded)
    require_flightworthy(findings)
    _say_findings(findings)
    return [one.to_json() for one in findings]


@cli.command(epilog=_OVERRIDES_HELP)
@click.argument("path")
@click.argument("overrides", nargs=-1)
@click.option("--device", metavar="NAME", help="A card, such as rtx-4090 or a100-80gb; else this machine.")
@click.option("--size", metavar="NAME", help="In place of the recipe's base a model of this size, such as 8b or 70b.")
@click.option("--probe", is_flag=True, help="Run two steps in a process of their own, and be led by them.")
@_json_option
def plan(
    path: str, overrides: tuple[str, ...], device: str | None, size: str | None, probe: bool, as_json: bool
) -> None:
    """Forecast memory, time and disk of a run and of its neighbours, before it is started."""
    from danlu.planning.command import run_plan
    from danlu.planning.text import plan_text
    from danlu.recipe import load_recipe

    found = run_plan(load_recipe(path, overrides), overrides, device, size, probe)
    _finish(found, as_json, "" if as_json else plan_text(found))


@cli.command()
@_json_option
def doctor(as_json: bool) -> None:
    """Say what this machine has, and which models and methods fit it."""
    from danlu.planning.doctor import examine
    from danlu.planning.text import doctor_text

    found = examine()
    _finish(found, as_json, "" if as_json else doctor_text(found))


@cli.command(
    epilog="OVERRIDES are words for the recipe, such as training.max_steps=50; sweep.KEY=... is for the sweep."
)
@click.argument("path")
@click.argument("overrides", nargs=-1)
@click.option("--resume", is_flag=True, help="Leave out finished trials, and go on with the one that was cut off.")
@_json_option
def sweep(path: str, overrides: tuple[str, ...], resume: bool, as_json: bool) -> None:
    """Try several values of recipe keys, and put what comes of each side by side."""
    from danlu.recipe.sweep import load_sweep
    from danlu.workflows.sweep import run_sweep, table

    result = run_sweep(load_sweep(path, overrides), resume=resume)
    _finish(result, as_json, "" if as_json else table(result))


@cli.command(epilog="OVERRIDES are words such as evaluation.max_rows=50; they win over the run's recipe.")
@click.argument("run")
@click.argument("overrides", nargs=-1)
@click.option("--harness", metavar="TASKS", help="lm-evaluation-harness' tasks instead: names, YAML files, folders.")
@click.option("--limit", type=click.IntRange(1), help="With --harness: so many rows of each task.")
@click.option("--chat-template", is_flag=True, help="With --harness: prompts go through the chat template.")
@click.option("--out", help="Folder to write; default RUN/report (or RUN/harness), or the next that is free.")
@_json_option
def evaluate(
    run: str,
    overrides: tuple[str, ...],
    harness: str | None,
    limit: int | None,
    chat_template: bool,
    out: str | None,
    as_json: bool,
) -> None:
    """Judge a run against its base, and against earlier runs, by the tasks and gates of its recipe."""
    _require_alone("without --harness", harness is None, {"--limit": limit, "--chat-template": chat_template})
    _require_alone("with --harness", harness is not None, {"OVERRIDES": overrides})
    if harness is not None:
        from danlu.evaluation.harness_run import harness_lines, run_harness_evaluation

        result = run_harness_evaluation(run, harness, limit, chat_template, out)
        _finish(result, as_json, "\n".join([*harness_lines(result), f"  report  {result['report_folder']}/index.html"]))
        return
    from danlu.evaluation.run import run_evaluation
    from danlu.evaluation.text import evaluation_text

    result = run_evaluation(run, out=out, overrides=overrides)
    _finish(result, as_json, "" if as_json else evaluation_text(result))


@cli.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--out", help="Folder to write; default `comparison` beside the first run, or the next that is free.")
@_json_option
def compare(runs: tuple[str, ...], out: str | None, as_json: bool) -> None:
    """Put runs that were evaluated on the same rows side by side, each against the first."""
    from danlu.evaluation.compare import run_compare
    from danlu.evaluation.text import compare_text

    result = run_compare(runs, out)
    _finish(result, as_json, "" if as_json else compare_text(result))


@cli.command()
@click.argument("model")
@click.option("--in", "rows", required=True, metavar="FILE", help="Rows to answer, in any form that data.train takes.")
@click.option("--out", required=True, metavar="FILE", help="JSON lines to write: each row with its `answer`.")
@click.option("--base", is_flag=True, help="Answer with a run's base.")
@click.option("--engine", default="auto", show_default=True, help="What generates; by itself, what the files are for.")
@click.option("--max-new-tokens", default=256, show_default=True, type=click.IntRange(1), help="Longest answer.")
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(0.0), help="0 is greedy.")
@click.option("--top-p", default=1.0, show_default=True, type=click.FloatRange(0.0, 1.0, min_open=True))
@click.option("--top-k", default=0, show_default=True, type=click.IntRange(0), help="0: of all tokens.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the sampling.")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(1), help="Rows answered at once.")
@_json_option
def generate(
    model: str,
    rows: str,
    out: str,
    base: bool,
    engine: str,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int,
    batch_size: int,
    as_json: bool,
) -> None:
    """Answer the rows of a file by a run or a model; one that was cut off goes on where it stopped."""
    from danlu.engines.interface import Sampling
    from danlu.serving.batch import run_generate

    sampling = Sampling(max_new_tokens, temperature, top_p, seed, top_k)
    result = run_generate(model, rows, out, sampling, batch_size, engine, base)
    text = f"{result['answered']} rows answered, {result['kept']} kept from before: {result['out']}"
    _finish(result, as_json, text)


@cli.command()
@click.argument("run")
@click.option("--to", "to_format", default="merged", show_default=True, help="The format; see docs/en/export.md.")
@click.option("--out", help="Folder to write; default RUN/exports/FORMAT.")
@click.option("--dtype", help="float32 or bfloat16; default the recipe's export.dtype.")
@click.option("--max-shard-size", help="Largest file of weights, such as 2GB; default the recipe's.")
@click.option("--quantize", metavar="TYPE", help="Type within the format, such as q4_k_m for gguf.")
@click.option("--check", help="Write nothing; compare this folder with the run's probes.")
@_json_option
def export(
    run: str,
    to_format: str,
    out: str | None,
    dtype: str | None,
    max_shard_size: str | None,
    quantize: str | None,
    check: str | None,
    as_json: bool,
) -> None:
    """Export a run and prove the export against what was trained."""
    others = {"--out": out, "--dtype": dtype, "--max-shard-size": max_shard_size, "--quantize": quantize}
    _require_alone("with --check, which writes nothing", check is not None, others)
    from danlu.export.parity import parity_lines
    from danlu.export.run import run_check, run_export

    result = run_check(run, check) if check else run_export(run, to_format, out, dtype, max_shard_size, quantize)
    lines = [*parity_lines(result["parity"]), *result["written"].get("notes", [])]
    _finish(result, as_json, "\n".join([*lines, f"  proven  {result['export_folder']}"]))


@cli.command()
@click.argument("run")
@click.option("--max-new-tokens", default=256, show_default=True, type=click.IntRange(1), help="Longest answer.")
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(0.0), help="0 is greedy.")
@click.option("--seed", default=0, show_default=True, help="Of the sampling.")
@_json_option
def chat(run: str, max_new_tokens: int, temperature: float, seed: int, as_json: bool) -> None:
    """Talk to a run's model; /base shows the base's answer."""
    from danlu.engines.interface import Sampling
    from danlu.serving.terminal import run_chat

    sampling = Sampling(max_new_tokens, temperature, seed=seed)
    result = run_chat(run, sampling, sys.stdin, sys.stderr if as_json else sys.stdout)
    _finish(result, as_json, "")


for _command in (registry, serve, deploy, keys, feedback, audit):
    cli.add_command(_command)


def _fail(error: DanluError, as_json: bool) -> int:
    from danlu.pages.unseen import show_unseen
    from danlu.training.processes import processes_of_environment

    if not processes_of_environment().first_of_machine:
        return error.exit_status
    click.echo(show_unseen(str(error)), err=True)  # what a row or a file's name holds must not rule the terminal
    if as_json:
        click.echo(_json(error.to_json()))
    return error.exit_status


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits with its status: 0 done, 1 gate or work failed, 2 input wrong, 130 stopped."""
    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    as_json = "--json" in words
    _stop_on_sigterm()
    try:
        cli.main(args=words, standalone_mode=False)
        status = 0
    except DanluError as error:
        status = _fail(error, as_json)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "danlu"
        fault = Fault(error.format_message(), "command line", hint=f"see `{command} --help`")
        status = _fail(InputError(fault), as_json)
    except (click.Abort, KeyboardInterrupt):
        status = _fail(_stopped(), as_json)
    except BrokenPipeError:
        status = 0
    except OSError as error:
        status = _fail(_refused(error), as_json)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        status = _fail(_out_of_memory(), as_json)
    sys.exit(status)


def _stop_on_sigterm() -> None:
    """SIGTERM stops as Ctrl-C does, so that nothing is left half written; a second one does not break that off."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends it twice
        raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)
        if hasattr(os, "register_at_fork"):  # a worker process ends at once
            os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _refused(error: OSError) -> DanluError:
    """A full disk, a missing right, a path too long: what the system itself said no to."""
    from danlu.errors import WorkError

    place = str(error.filename or "")
    hint = "check the free space and your rights there; folders that were complete before are as they were"
    return WorkError(Fault(f"the system refused: {error.strerror or error}", place, hint=hint))


def _out_of_memory() -> DanluError:
    from danlu.errors import ResourceError

    hint = "close other programs, or ask for less: data.num_workers=1, a smaller training.micro_batch_tokens"
    return ResourceError(Fault("the memory is not enough", hint=hint))


def _stopped() -> DanluError:
    from danlu.errors import Stopped

    return Stopped(Fault("stopped", hint="folders that were complete before are as they were"))


if __name__ == "__main__":
    main()
