"""The command line: one public call per command, imported when it is used.

Click was chosen by measurement: `danlu --help` takes a third of the time that typer takes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from danlu import __version__
from danlu.errors import DanluError, Fault, InputError

_OVERRIDES_HELP = "OVERRIDES are words such as training.learning_rate=1e-4; they win over the file."


def _json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout's last line.")(
        function
    )


def _finish(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Prints a result: JSON for programs, text for people."""
    click.echo(_json(result) if as_json else text)


def _json(value: dict[str, Any]) -> str:
    """One line of JSON that any output takes: half characters, as file names hold, are JSON's own escapes for them."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


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
    """Check keys, types and bounds, and that the data files exist."""
    from danlu.data.inputs import require_files
    from danlu.recipe import load_recipe

    loaded = load_recipe(path, overrides)
    for one in loaded.each():
        require_files(one)
    _finish({"recipe": path, "valid": True}, as_json, f"{path}: good")


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
@_json_option
def train(path: str, overrides: tuple[str, ...], resume: bool, nproc: int | None, as_json: bool) -> None:
    """Train as a recipe says, into a new run folder; each of its adapters, if it has several."""
    from danlu.recipe import load_recipe

    loaded = load_recipe(path, overrides)
    if nproc and nproc > 1:
        from danlu.training.launch import run_processes

        options = [*(["--resume"] if resume else []), *(["--json"] if as_json else [])]
        sys.exit(run_processes(["train", path, *overrides, *options], nproc))
    if loaded.adapters:
        from danlu.training.several import run_several, table

        several = run_several(loaded, resume=resume)
        if several:
            _finish(several, as_json, table(several))
        return
    from danlu.tracking.remote import losses
    from danlu.training.run import run_training

    result = run_training(loaded, resume=resume)
    if not result:
        return  # another process writes the run folder, and speaks
    held = result["evaluation_loss"]
    _finish(
        result,
        as_json,
        (
            f"{result['steps']} steps in {result['seconds']:.0f} s, loss {result['train_loss']:.3f}"
            + (f", held out {held:.3f}" if held is not None else "")
            + f", {result['tokens_per_second']:.0f} tokens/s, peak {result['peak_memory_bytes'] / 1e9:.2f} GB\n"
            + "".join(f"{line}\n" for line in losses(result["trackers"]))
            + f"  run     {result['run_folder']}\n  next    danlu evaluate {result['run_folder']}"
        ),
    )


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


@cli.command()
@click.argument("run")
@_json_option
def evaluate(run: str, as_json: bool) -> None:
    """Judge a run against its base on the held-out rows."""
    from danlu.evaluation.report import metric_table
    from danlu.evaluation.run import run_evaluation

    result = run_evaluation(run)
    lines = [
        f"{row['title']}: {row['base']} → {row['tuned']}"
        for row in metric_table(result["metrics"], result["loss_rows"])
    ]
    _finish(result, as_json, "\n".join([*lines, f"  report  {result['report_folder']}/index.html"]))


@cli.command()
@click.argument("run")
@click.option("--to", "to_format", default="merged", show_default=True, help="The format: merged.")
@click.option("--out", help="Folder to write; default RUN/exports/FORMAT.")
@click.option("--dtype", help="float32 or bfloat16; default the recipe's export.dtype.")
@click.option("--check", help="Write nothing; compare this folder with the run's probes.")
@_json_option
def export(run: str, to_format: str, out: str | None, dtype: str | None, check: str | None, as_json: bool) -> None:
    """Export a run and prove the export against what was trained."""
    from danlu.export.parity import parity_lines
    from danlu.export.run import run_check, run_export

    result = run_check(run, check) if check else run_export(run, to_format, out, dtype)
    lines = parity_lines(result["parity"])
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
    except MemoryError:
        status = _fail(_out_of_memory(), as_json)
    sys.exit(status)


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
