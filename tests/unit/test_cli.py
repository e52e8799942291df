import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.cli import main
from danlu.recipe import load_recipe

RECIPE = """\
model: {name: smollm2-135m-instruct}
data: {train: [rows.jsonl]}
adapter: {type: lora}
training: {learning_rate: 1e-4}
"""


@pytest.fixture
def danlu(tmp_path):
    """Runs a command in an empty folder with a recipe and one row."""
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "a"}\n', encoding="utf-8")

    def call(*words):
        command = [sys.executable, "-m", "danlu", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    return call


def assert_input_error(done, *parts):
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "  hint: " in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["nosuch"], ["No such command 'nosuch'", "--help"]),
        (["recipe"], ["Missing command", "recipe --help"]),
        (["recipe", "check", "recipe.yaml", "--nosuch"], ["No such option", "recipe check --help"]),
        (["recipe", "check", "recipe.yaml", "training.learning_rte=1"], ["command line", "`learning_rate`?"]),
        (["recipe", "show", "none.yaml"], ["no such recipe file", "where: none.yaml"]),
    ],
)
def test_bad_input_exits_two_with_a_hint_and_no_traceback(danlu, words, parts):
    done = danlu(*words)
    assert_input_error(done, *parts)
    assert done.stdout == ""


def test_json_error_is_the_last_line_of_stdout(danlu):
    done = danlu("recipe", "check", "recipe.yaml", "run.seed=-1", "training.num_epochs=0", "--json")
    assert_input_error(done, "run.seed=-1")
    error = json.loads(done.stdout.splitlines()[-1])
    assert (error["error"], error["exit_status"]) == ("RecipeError", 2)
    assert {fault["where"] for fault in error["faults"]} == {
        "command line, run.seed=-1",
        "command line, training.num_epochs=0",
    }
    assert all(set(fault) == {"what", "where", "allowed", "hint"} for fault in error["faults"])


def test_a_name_that_is_no_text_is_told_in_json_and_rules_no_terminal(danlu):
    done = danlu("recipe", "check", os.fsdecode(b"\xff\x1b[2J.yaml"), "--json")
    assert_input_error(done, "[U+DCFF][U+001B][2J.yaml")
    (fault,) = json.loads(done.stdout.splitlines()[-1])["faults"]
    assert fault["where"].endswith("\udcff\x1b[2J.yaml")


def test_memory_that_is_not_enough_ends_in_a_message(monkeypatch, capsys):
    def load_recipe(*_):
        return bytearray(1 << 62)  # more than any machine gives

    monkeypatch.setattr("danlu.recipe.load_recipe", load_recipe)
    with pytest.raises(SystemExit) as ended:
        main(["recipe", "check", "recipe.yaml"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: the memory is not enough\n  hint: ")


def test_check_of_a_recipe_with_a_missing_data_file_names_each(danlu):
    done = danlu(
        "recipe", "check", "recipe.yaml", "data.train=[rows.jsonl, none.jsonl]", "data.evaluation=[nope.jsonl]"
    )
    assert_input_error(done, "where: none.jsonl", "where: nope.jsonl")
    assert "rows.jsonl" not in done.stderr


def test_check_of_a_good_recipe_says_so(danlu):
    done = danlu("recipe", "check", "recipe.yaml", "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["recipe"], told["valid"]) == ("recipe.yaml", True)
    assert "few-rows" in [finding["code"] for finding in told["findings"]]
    assert done.stderr.startswith("warning: 1 training rows are very few")


def test_shown_recipe_loads_to_the_same_recipe(danlu, tmp_path):
    done = danlu("recipe", "show", "recipe.yaml", "run.seed=7")
    assert (done.returncode, done.stderr) == (0, "")
    shown = tmp_path / "shown.yaml"
    shown.write_text(done.stdout, encoding="utf-8")
    assert load_recipe(shown).recipe == load_recipe(tmp_path / "recipe.yaml", ["run.seed=7"]).recipe
    assert "weight_decay" in done.stdout, "defaults are written out"


def test_command_alone_prints_its_help(danlu):
    done = danlu()
    assert (done.returncode, done.stderr) == (0, "")
    assert "quickstart" in done.stdout


def test_folder_that_is_no_run_exits_two(danlu, tmp_path):
    done = danlu("evaluate", str(tmp_path), "--json")
    assert_input_error(done, "not a complete run folder", f"where: {tmp_path}")
    assert json.loads(done.stdout.splitlines()[-1])["error"] == "FolderError"
    assert Path(tmp_path / "recipe.yaml").read_text(encoding="utf-8") == RECIPE


def test_data_prints_what_became_of_the_rows_and_shows_some_of_them(danlu, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("question,answer\n你好,您好！\nhow much,ten\n", encoding="gb18030")
    done = danlu("data", "recipe.yaml", "--rows", str(other), "--show", "1")
    assert done.returncode == 0, done.stderr
    assert "other.csv:2" in done.stdout
    assert "⟦您好！<|im_end|>⟧" in done.stdout
    assert "2 rows read + 0 added = 2 kept + 0 dropped" in done.stdout


def test_data_as_json_has_the_promised_keys(danlu):
    done = danlu("data", "recipe.yaml", "--json", "--show", "1")
    assert done.returncode == 0, done.stderr
    assert "⟦a<|im_end|>⟧" in done.stderr
    result = json.loads(done.stdout)
    assert result["rows"] == {"read": 1, "added": 0, "kept": 1, "dropped": 0, "changed": 0, "cut": 0}
    assert result["tokens"]["total"] > result["tokens"]["trained"] == 2
    assert (Path(result["prepared_folder"]) / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["the file is empty"]),
        (b"question,answer\n\xff\xff\xfe,a\n", ["byte", "0xff"]),
        (b'{"question": "q", "answer": "a"}\n{"question": \n', ["not JSON", "bad.data:2"]),
        (b'[{"question": "q", "answer": "a"}, {"que', ["bad.data"]),
        (b"PK\x03\x04....", ["zip archive"]),
        (b'{"question": "q"}\n', ["missing answer", "max_dropped_share"]),
        (b'{"a": 1}\n', ["unknown format: keys a", "alpaca (instruction, output)"]),
    ],
)
def test_wrong_files_end_in_one_message(danlu, tmp_path, content, parts):
    (tmp_path / "bad.data").write_bytes(content)
    assert_input_error(danlu("data", "recipe.yaml", "data.train=[bad.data]"), *parts)


def test_streaming_with_what_must_see_all_rows_is_refused_at_the_check(danlu):
    words = ["data.streaming=true", "data.cleaning=[near_duplicates]", "data.balance={by: topic}"]
    done = danlu("recipe", "check", "recipe.yaml", *words)
    assert_input_error(done, "near_duplicates", "data.balance")
    assert_input_error(danlu("recipe", "check", "recipe.yaml", words[0]), "training.max_steps")


@pytest.mark.parametrize(("rank", "local_rank", "speaks"), [("0", "0", True), ("1", "1", False), ("2", "0", True)])
def test_the_first_process_of_each_machine_speaks(monkeypatch, capsys, rank, local_rank, speaks):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(SystemExit) as ended:
        main(["train", "nowhere.yaml"])
    assert ended.value.code == 2
    assert ("error: " in capsys.readouterr().err) == speaks


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["evaluate", "run", "--limit", "3"], ["--limit has no meaning without --harness"]),
        (["evaluate", "run", "--harness", "x", "evaluation.max_rows=3"], ["OVERRIDES has no meaning with --harness"]),
        (["export", "run", "--check", "x", "--quantize", "f16"], ["--quantize has no meaning with --check"]),
    ],
)
def test_what_would_be_left_undone_is_refused(capsys, words, parts):
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert all(part in said for part in [*parts, "hint: leave it out"])
