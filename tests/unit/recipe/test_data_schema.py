import pytest

from danlu.data.cleaning import STEPS
from danlu.errors import RecipeError
from danlu.recipe import load_recipe

RECIPE = """\
model: {{name: smollm2-135m-instruct}}
data: {{train: [rows.jsonl], cleaning: [{step}]}}
adapter: {{type: lora}}
training: {{}}
"""
# Each step with every key that it has, as people write them.
WRITTEN = {
    "encoding": "encoding",
    "unicode": "{type: unicode, form: NFKC, full_width: false}",
    "control_characters": "control_characters",
    "html": "{type: html}",
    "whitespace": "whitespace",
    "replace": "{type: replace, name: phones, pattern: 'a+', replacement: b, roles: [user, assistant]}",
    "reject": "{type: reject, name: spam, pattern: 'a+', roles: [user]}",
    "language": "{type: language, keep: [zh, en], min_characters: 5}",
    "length": "{type: length, min_question: 1, max_question: 10, min_answer: 1, max_answer: 10}",
    "refusal": "{type: refusal, patterns: ['^sorry', '抱歉']}",
    "answer_format": "{type: answer_format, pattern: '^1\\.'}",
    "exact_duplicates": "exact_duplicates",
    "near_duplicates": "{type: near_duplicates, threshold: 1, compare: prompt}",
}


def load(tmp_path, step):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(step=step), encoding="utf-8")
    return load_recipe(path).recipe.data.cleaning[0]


@pytest.mark.parametrize("name", WRITTEN)
def test_each_step_is_read_from_yaml_with_all_its_keys(tmp_path, name):
    section = load(tmp_path, WRITTEN[name])
    assert section.type == name
    if name in STEPS:
        assert STEPS[name](**section.model_dump(exclude={"type"})).name in (name, "phones", "spam")


def test_every_step_was_written():
    assert set(WRITTEN) == {*STEPS, "exact_duplicates", "near_duplicates"}


def test_a_wrong_name_of_a_step_is_shown_with_the_right_one(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, "unicod")
    (fault,) = caught.value.faults
    assert '"unicod"' in fault.what
    assert fault.hint == "did you mean `unicode`?"


@pytest.mark.parametrize(("step", "words"), [("{type: language, keep: zh}", "list"), ("{type: html, x: 1}", "`x`")])
def test_a_wrong_value_of_a_step_is_named(tmp_path, step, words):
    with pytest.raises(RecipeError, match=words):
        load(tmp_path, step)
