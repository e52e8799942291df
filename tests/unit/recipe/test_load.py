import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.errors import RecipeError
from danlu.recipe import Recipe, dump_recipe, load_recipe

SHIPPED = Path(__file__).parents[3] / "recipes"
GOOD = """\
model: {name: smollm2-135m-instruct}
data:
  train: [rows.jsonl]
  evaluation: {rows: 2}
adapter: {type: lora}
training:
  schedule: {type: three_phase, warmup_share: 0.1}
evaluation:
  tasks:
    - {type: loss}
"""


@pytest.fixture
def recipe_file(tmp_path):
    def write(text=GOOD, old="", new=""):
        assert old in text
        path = tmp_path / "recipe.yaml"
        path.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
        return path

    return write


def faults_of(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_status == 2
    return caught.value.faults


def fault_of(path, *overrides):
    faults = faults_of(path, *overrides)
    assert len(faults) == 1, [str(fault) for fault in faults]
    return faults[0]


def test_missing_file_is_named(tmp_path):
    fault = fault_of(tmp_path / "none.yaml")
    assert fault.what == "no such recipe file"
    assert fault.where == str(tmp_path / "none.yaml")
    assert fault.hint


def test_folder_is_not_a_recipe(tmp_path):
    fault = fault_of(tmp_path)
    assert "folder" in fault.what
    assert fault.where == str(tmp_path)


def test_file_that_is_not_utf8_gives_the_byte(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"model: {name: a}\n# " + "\u4e2d".encode("gbk") + b"\n")
    fault = fault_of(path)
    assert fault.what == "not UTF-8 at byte 19"
    assert "UTF-8" in fault.hint


def test_utf8_byte_order_mark_is_accepted(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_recipe(path).recipe.model.name == "smollm2-135m-instruct"


def test_bad_yaml_gives_line_and_column(recipe_file):
    path = recipe_file(GOOD + "run:\n\tseed: 1\n")
    fault = fault_of(path)
    assert fault.what.startswith("this is not YAML")
    assert fault.where == f"{path}:12, column 1"


def test_control_character_is_one_tidy_line(recipe_file):
    fault = fault_of(recipe_file(GOOD + "run: {folder: a\x01b}\n"))
    assert fault.what.startswith("this is not YAML")
    assert "\n" not in fault.what
    assert fault.hint


def test_duplicate_key_is_refused_where_it_stands(recipe_file):
    path = recipe_file(GOOD + "run: {seed: 1}\nrun: {seed: 2}\n")
    fault = fault_of(path)
    assert 'duplicate key "run"' in fault.what
    assert fault.where == f"{path}:12, column 1"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_empty_recipe_is_said_to_be_empty(recipe_file, text):
    fault = fault_of(recipe_file(text))
    assert fault.what == "the recipe is empty"
    assert "model, data, adapter, training" in fault.allowed


@pytest.mark.parametrize("text", ["- model\n- data\n", "just words\n", "5\n"])
def test_recipe_that_is_not_a_mapping_is_refused(recipe_file, text):
    assert fault_of(recipe_file(text)).what == "the recipe is not a mapping of sections"


def test_deeply_nested_recipe_ends_in_a_message(recipe_file):
    fault = fault_of(recipe_file(GOOD + "run: " + "[" * 600 + "]" * 600 + "\n"))
    assert fault.what == "the recipe is nested too deeply"


def test_anchors_and_merge_keys_are_read(recipe_file):
    text = GOOD.replace("{rows: 2}", "&held {rows: 2}")
    extra = (
        "    - {type: compliance, rules: [{name: a, pattern: b, forbidden: &yes true}]}\n"
        "run: &run {seed: 3}\nexport:\n  <<: {dtype: bfloat16}\n"
    )
    recipe = load_recipe(recipe_file(text + extra)).recipe
    assert recipe.run.seed == 3
    assert recipe.export.dtype == "bfloat16"
    assert recipe.evaluation.tasks[1].rules[0].forbidden is True


def test_unknown_key_names_the_nearest_right_one(recipe_file):
    path = recipe_file(old="training:\n", new="training:\n  learning_rte: 1.0e-4\n")
    fault = fault_of(path)
    assert fault.what == "unknown key `learning_rte`"
    assert fault.where == f"{path}:7, training.learning_rte"
    assert fault.hint == "did you mean `learning_rate`?"
    assert "num_epochs" in fault.allowed


def test_unknown_key_like_no_other_is_to_be_removed(recipe_file):
    fault = fault_of(recipe_file(old="training:\n", new="training:\n  zzzzzz: 1\n"))
    assert fault.hint.startswith("remove it")


def test_unknown_key_inside_a_union_lists_the_keys_of_the_chosen_type(recipe_file):
    path = recipe_file(old="{type: three_phase, warmup_share: 0.1}", new="{type: constant, floor_share: 0.1}")
    fault = fault_of(path)
    assert fault.where == f"{path}:7, training.schedule.floor_share"
    assert fault.allowed == "type, warmup_share, warmup_steps"


def test_unknown_key_of_the_held_out_split_is_the_only_fault(recipe_file):
    fault = fault_of(recipe_file(old="{rows: 2}", new="{rows: 2, stratify: intent}"))
    assert fault.what == "unknown key `stratify`"
    assert fault.hint == "did you mean `stratify_by`?"


def test_misspelt_section_is_named_with_the_right_one(recipe_file):
    path = recipe_file(old="training:", new="trainning:")
    missing, unknown = faults_of(path)
    assert missing.what == "section `training` is missing"
    assert unknown.what == "unknown key `trainning`"
    assert unknown.where == f"{path}:6, trainning"
    assert unknown.hint == "did you mean `training`?"


def test_wrong_type_shows_the_value_and_its_line(recipe_file):
    path = recipe_file(old="training:\n", new="training:\n  global_batch_size: two\n")
    fault = fault_of(path)
    assert fault.what == '`training.global_batch_size` is "two": should be a whole number'
    assert fault.where == f"{path}:7, training.global_batch_size"
    assert fault.allowed == "Rows per optimizer step, over all processes."


def test_fraction_is_not_a_whole_number(recipe_file):
    fault = fault_of(recipe_file(old="training:\n", new="training:\n  global_batch_size: 2.5\n"))
    assert fault.what == "`training.global_batch_size` is 2.5: should be a whole number"


@pytest.mark.parametrize(("key", "text", "hint"), [("num_epochs", '"2"', "2"), ("learning_rate", "'1e-4'", "0.0001")])
def test_number_in_quotes_is_to_be_written_without(recipe_file, key, text, hint):
    fault = fault_of(recipe_file(old="training:\n", new=f"training:\n  {key}: {text}\n"))
    assert fault.hint == f"write it without quotes: {key}: {hint}"


def test_number_in_quotes_where_words_are_wanted_gets_no_such_hint(recipe_file):
    fault = fault_of(recipe_file(old="{name: smollm2-135m-instruct}", new="{name: a, dtype: '16'}"))
    assert "without quotes" not in fault.hint
    assert "'bfloat16'" in fault.allowed


def test_bare_number_where_text_is_wanted_is_to_be_quoted(recipe_file):
    fault = fault_of(recipe_file(old="smollm2-135m-instruct", new="7"))
    assert fault.what == "`model.name` is 7: should be text"
    assert fault.hint == 'write it in quotes: name: "7"'


def test_required_key_is_never_said_to_have_a_default(recipe_file):
    fault = fault_of(recipe_file(old="[rows.jsonl]", new="rows.jsonl"))
    assert fault.what == '`data.train` is "rows.jsonl": should be a list'
    assert "default" not in fault.hint


def test_value_out_of_bounds_shows_the_bound(recipe_file):
    path = recipe_file(old="training:\n", new="training:\n  num_epochs: 0\n  learning_rate: 3\n")
    by_key = {fault.where.split(", ")[1]: fault for fault in faults_of(path)}
    assert by_key["training.num_epochs"].allowed.startswith("> 0.")
    assert by_key["training.learning_rate"].allowed.startswith("≤ 1.")
    assert by_key["training.learning_rate"].where.startswith(f"{path}:8")


@pytest.mark.parametrize("value", [".inf", ".nan"])
def test_number_that_is_not_finite_is_refused(recipe_file, value):
    fault = fault_of(recipe_file(old="{type: lora}", new=f"{{type: lora, alpha: {value}}}"))
    assert "should be a finite number" in fault.what


def test_missing_section_lists_its_keys(recipe_file):
    path = recipe_file(old="adapter: {type: lora}\n", new="")
    fault = fault_of(path)
    assert fault.what == "section `adapter` is missing"
    assert fault.where == f"{path}, adapter"
    assert "rank" in fault.allowed


def test_section_without_anything_in_it_lists_its_keys(recipe_file):
    fault = fault_of(recipe_file(old="{name: smollm2-135m-instruct}", new=""))
    assert fault.what == "`model` is null: should be a mapping of keys"
    assert "revision" in fault.allowed


def test_a_null_adapter_is_one_that_is_not_there(recipe_file):
    assert load_recipe(recipe_file(old="adapter: {type: lora}", new="adapter: null")).recipe.adapter is None


@pytest.mark.parametrize("quantization", ["{type: nf4}", "{type: fp4, double: false}", "{type: int8}"])
def test_a_quantised_base_needs_an_adapter(recipe_file, quantization):
    path = recipe_file(old="instruct}", new=f"instruct, quantization: {quantization}}}")
    assert load_recipe(path).recipe.model.quantization.type in quantization
    fault = fault_of(path, "adapter=null")
    assert "a quantised base can't be trained itself" in fault.what
    assert "adapter" in fault.where


def test_missing_key_is_at_its_section(recipe_file):
    path = recipe_file(old="{name: smollm2-135m-instruct}", new="{dtype: auto}")
    fault = fault_of(path)
    assert fault.what == "key `model.name` is missing"
    assert fault.where == f"{path}:1, model.name"
    assert "Folder" in fault.allowed


KINDS = "'three_phase', 'constant', 'linear', 'cosine', 'cosine_with_restarts', 'wsd'"


def test_bad_union_tag_is_at_its_type(recipe_file):
    path = recipe_file(old="three_phase", new="three_phases")
    fault = fault_of(path)
    assert fault.what == '`training.schedule.type` is "three_phases": should be ' + KINDS
    assert fault.where == f"{path}:7, training.schedule.type"
    assert fault.hint == "did you mean `three_phase`?"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("training.backend=ddp", "write it as backend: {type: ddp}"),
        ("training.schedule=constnt", "write it as schedule: {type: constant}"),
        ("model.quantization=nf4", "write it as quantization: {type: nf4}"),
        ("adapter=lora", "write it as adapter: {type: lora}"),
    ],
)
def test_a_kind_that_is_named_alone_is_to_be_written_with_its_type(recipe_file, word, hint):
    assert fault_of(recipe_file(), word).hint == hint


def test_missing_union_tag_is_a_missing_key(recipe_file):
    fault = fault_of(recipe_file(old="type: three_phase, ", new=""))
    assert fault.what == "key `training.schedule.type` is missing"


def test_bad_bound_inside_a_union_hides_its_tag(recipe_file):
    path = recipe_file(old="warmup_share: 0.1", new="warmup_share: 1.5")
    assert fault_of(path).where == f"{path}:7, training.schedule.warmup_share"


def test_shares_of_a_schedule_that_exceed_one_are_refused(recipe_file):
    path = recipe_file(old="warmup_share: 0.1", new="warmup_share: 0.9, floor_share: 0.3")
    fault = fault_of(path)
    assert fault.what.startswith("`training.schedule`")
    assert "warmup_share + floor_share must be at most 1" in fault.what
    assert fault.where == f"{path}:7, training.schedule"


def test_bad_regular_expression_in_a_rule_is_the_only_fault(recipe_file):
    path = recipe_file(GOOD + "    - type: compliance\n      rules:\n        - {name: a, pattern: '('}\n")
    fault = fault_of(path)
    assert fault.what.startswith('`evaluation.tasks[1].rules[0].pattern` is "(": not a regular expression')
    assert fault.where == f"{path}:13, evaluation.tasks[1].rules[0].pattern"


def test_field_pattern_needs_a_group(recipe_file):
    path = recipe_file(GOOD + "    - {type: field, name: code, pattern: 'LB-.*'}\n")
    fault = fault_of(path)
    assert "pattern needs one group" in fault.what
    assert fault.where == f"{path}:11, evaluation.tasks[1]"


def test_two_tasks_with_the_same_name_are_refused(recipe_file):
    path = recipe_file(GOOD + "    - {type: loss}\n")
    fault = fault_of(path)
    assert "two tasks have the same name: loss" in fault.what
    assert fault.where == f"{path}:9, evaluation.tasks"


def test_field_task_may_not_take_another_tasks_name(recipe_file):
    fault = fault_of(recipe_file(GOOD + "    - {type: field, name: loss, pattern: '(a)'}\n"))
    assert "two tasks have the same name: loss" in fault.what


@pytest.mark.parametrize("split", ["{rows: 2, share: 0.1}", "{stratify_by: intent}"])
def test_held_out_split_has_exactly_one_size(recipe_file, split):
    path = recipe_file(old="{rows: 2}", new=split)
    fault = fault_of(path)
    assert "give exactly one of share and rows" in fault.what
    assert fault.where == f"{path}:4, data.evaluation"


def test_evaluation_data_of_no_known_kind_is_one_fault(recipe_file):
    fault = fault_of(recipe_file(old="{rows: 2}", new="5"))
    assert fault.what == "`data.evaluation` is 5: should be a mapping of keys, or a list"


@pytest.mark.parametrize("key", ["train", "evaluation"])
def test_empty_name_of_a_file_is_refused(recipe_file, key):
    assert (
        fault_of(recipe_file(), f'data.{key}=[""]').what == f'`data.{key}[0]` is "": should have at least 1 character'
    )


def test_several_faults_are_gathered_in_one_error(recipe_file):
    text = GOOD.replace("{type: lora}", "{type: lora, rank: 0}").replace("{rows: 2}", "{rows: none}")
    path = recipe_file(text, "training:\n", "training:\n  learning_rte: 1\n")
    faults = faults_of(path)
    assert {fault.where for fault in faults} == {
        f"{path}:4, data.evaluation.rows",
        f"{path}:5, adapter.rank",
        f"{path}:7, training.learning_rte",
    }
    assert len(faults) == 3


def test_override_wins_over_the_file(recipe_file):
    path = recipe_file(old="training:\n", new="training:\n  num_epochs: 3\n")
    assert load_recipe(path).recipe.training.num_epochs == 3
    assert load_recipe(path, ["training.num_epochs=5"]).recipe.training.num_epochs == 5


def test_later_override_wins_over_an_earlier_one(recipe_file):
    loaded = load_recipe(recipe_file(), ["run.seed=1", "run.seed=2"])
    assert loaded.recipe.run.seed == 2


def test_override_mends_a_fault_of_the_file(recipe_file):
    path = recipe_file(old="training:\n", new="training:\n  num_epochs: two\n")
    assert load_recipe(path, ["training.num_epochs=2"]).recipe.training.num_epochs == 2


def test_exponent_without_a_point_is_a_float(recipe_file):
    path = recipe_file(old="training:\n", new="training:\n  weight_decay: 1e-2\n")
    training = load_recipe(path, ["training.learning_rate=1e-4"]).recipe.training
    assert (training.learning_rate, training.weight_decay) == (1e-4, 1e-2)


def test_override_may_hold_a_list_and_make_a_section(recipe_file):
    recipe = load_recipe(recipe_file(), ["data.evaluation=[held.jsonl]", "run.folder=runs/a", "run.seed=7"]).recipe
    assert recipe.data.evaluation == ("held.jsonl",)
    assert (recipe.run.folder, recipe.run.seed) == ("runs/a", 7)


def test_empty_override_is_null(recipe_file):
    assert load_recipe(recipe_file(), ["data.evaluation="]).recipe.data.evaluation is None


def test_date_in_an_override_stays_text(recipe_file):
    assert load_recipe(recipe_file(), ["run.folder=2024-01-01"]).recipe.run.folder == "2024-01-01"


@pytest.mark.parametrize("word", ["training.num_epochs", "=3", "training.=3", "a..b=1", "-"])
def test_word_that_is_not_an_override_is_shown(recipe_file, word):
    fault = fault_of(recipe_file(), word)
    assert fault.what == f"`{word}` is not an override"
    assert fault.where == "command line"
    assert "training.learning_rate=1e-4" in fault.allowed


def test_override_with_bad_yaml_is_refused(recipe_file):
    assert fault_of(recipe_file(), "data.train=[a").what == "the value of `data.train=[a` is not YAML"


def test_override_through_a_value_is_refused(recipe_file):
    fault = fault_of(recipe_file(), "model.name.size=3")
    assert fault.what == "`model.name` has no keys below it"
    assert fault.where == "command line, model.name.size=3"


def test_all_bad_overrides_are_listed(recipe_file):
    assert len(faults_of(recipe_file(), "one", "two", "run.seed=1")) == 2


@pytest.mark.parametrize(
    "word",
    [
        "training.num_epochs=0",
        "training.num_epoch=1",
        "nosuch.key=1",
        "training.schedule={type: constant, warmup_share: 3}",
        "training.schedule.warmup_share=3",
    ],
)
def test_fault_of_an_override_is_on_the_command_line(recipe_file, word):
    assert fault_of(recipe_file(), word).where == f"command line, {word}"


def test_fault_of_the_file_stays_there_when_another_key_is_overridden(recipe_file):
    path = recipe_file(old="warmup_share: 0.1", new="warmup_share: 3")
    fault = fault_of(path, "training.schedule.floor_share=0.1")
    assert fault.where == f"{path}:7, training.schedule.warmup_share"


def test_resolved_dump_loads_to_the_equal_recipe(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file(), ["training.learning_rate=1e-6", "run.folder='007'", "model.name='yes'"]).recipe
    text = dump_recipe(recipe)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(text, encoding="utf-8")
    assert load_recipe(resolved).recipe == recipe
    assert "beta2: 0.999" in text


@settings(deadline=None, max_examples=int(__import__("os").environ.get("NEX", "100")))
@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120),
    rate=st.floats(min_value=1e-30, max_value=1.0),
)
def test_any_text_and_number_survive_the_resolved_dump(tmp_path_factory, name, rate):
    values = {
        "model": {"name": name},
        "data": {"train": ["a"]},
        "adapter": {"type": "lora"},
        "training": {"learning_rate": rate},
    }
    recipe = Recipe.model_validate(values, strict=False)
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8", newline="")
    assert load_recipe(path).recipe == recipe


def test_every_shipped_recipe_parses_and_survives_the_dump(tmp_path):
    paths = sorted(SHIPPED.glob("*.yaml"))
    assert paths  # tests/house/test_shipped.py asserts how many
    for path in paths:
        loaded = load_recipe(path)
        resolved = tmp_path / path.name
        resolved.write_text(dump_recipe(loaded.recipe), encoding="utf-8")
        assert load_recipe(resolved).recipe == loaded.recipe


def test_run_folder_is_named_after_the_recipe_unless_set(recipe_file):
    path = recipe_file()
    assert load_recipe(path).run_folder == Path("runs/recipe")
    assert load_recipe(path, ["run.folder=elsewhere/x"]).run_folder == Path("elsewhere/x")


def test_paths_are_found_beside_the_recipe_and_above_it(tmp_path, recipe_file):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (tmp_path / "above.jsonl").write_text("{}", encoding="utf-8")
    (folder / "beside.jsonl").write_text("{}", encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(GOOD, encoding="utf-8")
    loaded = load_recipe(path)
    assert loaded.find("beside.jsonl") == folder / "beside.jsonl"
    assert loaded.find("above.jsonl") == tmp_path / "above.jsonl"
    assert loaded.find("nowhere.jsonl") == Path("nowhere.jsonl")


@pytest.mark.parametrize("name", ["~nosuchuser/rows.jsonl", "x" * 300])
def test_path_that_the_system_refuses_is_simply_not_there(recipe_file, name):
    assert load_recipe(recipe_file()).find(name) == Path(name)


@pytest.mark.parametrize("module", ["danlu", "danlu.recipe", "danlu.cli"])
def test_import_loads_neither_torch_nor_transformers(module):
    code = f"""
        import sys
        import {module}
        heavy = [name for name in ("torch", "transformers", "peft", "pyarrow") if name in sys.modules]
        sys.exit(", ".join(heavy) or 0)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
