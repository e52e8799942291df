"""The recipe's data section: where rows come from and what happens to them before training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from danlu.recipe.base import Pattern, Section, unfit

FormatName = Literal[
    "messages",
    "sharegpt",
    "preference",
    "alpaca",
    "instruction/response",
    "question/answer",
    "input_text/target_text",
    "prompt/completion",
    "text",
]


class SourceSection(Section):
    """Files of rows, with what can't be seen from them."""

    path: str = Field(
        min_length=1,
        description="File, folder, glob, hub data set id or URL (s3://...).",
    )
    format: FormatName | None = Field(None, description="The record form; null: seen from each row's fields.")
    columns: dict[str, str] | None = Field(
        None, description="Field of the record form: field of the file, as in {question: text, answer: category}."
    )
    share: float | None = Field(
        None, gt=0.0, le=1.0, description="This source's share of the training rows (see data.mixing)."
    )


SourceEntry = Annotated[str, Field(min_length=1)] | SourceSection


class EncodingStep(Section):
    """Repairs text that was decoded wrongly (mojibake), with ftfy."""

    type: Literal["encoding"]


class UnicodeStep(Section):
    """Brings equal characters to one form."""

    type: Literal["unicode"]
    form: Literal["NFC", "NFKC"] = Field("NFC", description="Unicode normalisation form.")
    full_width: bool = Field(
        True,
        description="Full-width letters, digits and spaces become half-width, and signs such as ．％－＠ within "
        "numbers and names; Chinese punctuation stays (but NFKC changes it).",
    )


class ControlStep(Section):
    """Removes control, zero-width, private-use and direction characters; line breaks, tabs and emoji stay."""

    type: Literal["control_characters"]


class HtmlStep(Section):
    """Removes HTML tags and resolves entities; code in fences and backticks and tool calls stay."""

    type: Literal["html"]


class WhitespaceStep(Section):
    """Trims, joins runs of spaces, leaves at most one empty line; code, indentation and tool calls stay."""

    type: Literal["whitespace"]


class ReplaceStep(Section):
    """Replaces what a regular expression finds."""

    type: Literal["replace"]
    name: str = Field("replace", min_length=1, description="Name in the ledger.")
    pattern: Pattern = Field(description="Python regular expression.")
    replacement: str = Field("", description="What it becomes; groups as \\1.")
    roles: tuple[Literal["system", "user", "assistant", "tool", "text", "prompt", "completion"], ...] | None = Field(
        None, min_length=1, description="Turns that it is done to; null: all, plain text too."
    )


class RejectStep(Section):
    """Drops rows in which a regular expression is found."""

    type: Literal["reject"]
    name: str = Field("reject", min_length=1, description="Name in the ledger.")
    pattern: Pattern = Field(description="Python regular expression.")
    roles: tuple[Literal["system", "user", "assistant", "tool", "text", "prompt", "completion"], ...] | None = Field(
        None, min_length=1, description="Turns that are searched; null: all, plain text too."
    )


class LanguageStep(Section):
    """Keeps rows whose every text is in the languages named; a text that nothing sure can be said of is kept."""

    type: Literal["language"]
    keep: tuple[str, ...] = Field(min_length=1, description="ISO 639-1 codes, such as zh, en.")
    min_characters: int = Field(20, ge=0, description="Shorter texts are kept: too little to tell by.")


class LengthStep(Section):
    """Keeps rows whose question and answer have a length in characters within bounds."""

    type: Literal["length"]
    min_question: int = Field(1, ge=0, description="Fewest characters of the first question.")
    max_question: int | None = Field(None, ge=1, description="Most characters of any question.")
    min_answer: int = Field(1, ge=0, description="Fewest characters of any answer.")
    max_answer: int | None = Field(None, ge=1, description="Most characters of any answer.")


class RefusalStep(Section):
    """Drops rows whose answer is a refusal or boilerplate ("As an AI language model ...", 作为一个人工智能)."""

    type: Literal["refusal"]
    patterns: tuple[Pattern, ...] = Field((), description="More regular expressions that mark such an answer.")


class AnswerFormatStep(Section):
    """Keeps rows whose answers follow the house's format."""

    type: Literal["answer_format"]
    pattern: Pattern = Field(description="Regular expression that each answer must contain (MULTILINE).")


class ExactDuplicatesStep(Section):
    """Keeps the first of equal rows."""

    type: Literal["exact_duplicates"]


class NearDuplicatesStep(Section):
    """Keeps the first of rows that are nearly equal (MinHash and LSH, Broder 1997; each pair verified exactly)."""

    type: Literal["near_duplicates"]
    threshold: float = Field(0.7, ge=0.5, le=1.0, description="Jaccard similarity of the shingles from which on.")
    compare: Literal["row", "prompt"] = Field("row", description="What is compared: the row, or its questions alone.")


def _named(step: Any) -> Any:
    """A step without keys of its own may be written as its name alone."""
    if isinstance(step, dict):  # here the recipe has become Python's, in which a strict tuple is no list
        return {key: tuple(value) if isinstance(value, list) else value for key, value in step.items()}
    return {"type": step} if isinstance(step, str) else step


CleaningStep = Annotated[
    EncodingStep
    | UnicodeStep
    | ControlStep
    | HtmlStep
    | WhitespaceStep
    | ReplaceStep
    | RejectStep
    | LanguageStep
    | LengthStep
    | RefusalStep
    | AnswerFormatStep
    | ExactDuplicatesStep
    | NearDuplicatesStep,
    Field(discriminator="type"),
    BeforeValidator(_named),
]

PrivateKind = Literal[
    "resident_id",
    "mobile",
    "landline",
    "bank_card",
    "social_credit_code",
    "passport",
    "plate",
    "address",
    "email",
    "phone",
    "iban",
    "ssn",
    "ip",
    "name",
]


class MaskingSection(Section):
    """Personal data is found and replaced, in Chinese and English, in every text of a row."""

    mode: Literal["mask", "placeholder", "reversible"] = Field(
        "placeholder",
        description="mask: 138****5678. placeholder: <MOBILE_1>, the same value the same number within a row. "
        "reversible: a token that the key file turns back.",
    )
    kinds: tuple[PrivateKind, ...] | None = Field(None, min_length=1, description="What is masked; null: every kind.")
    names: bool = Field(
        True,
        description="Names of people too, known ones among them; slower, found by likelihood, needs danlu[privacy].",
    )
    keep: tuple[Pattern, ...] = Field((), description="Regular expressions; what they match whole is never masked.")
    key_file: str | None = Field(
        None, min_length=1, description="For reversible: where the key is kept; null: DANLU_HOME/keys/."
    )


class BalanceSection(Section):
    """Classes brought to even numbers, with the run's seed."""

    by: str = Field(min_length=1, description="Field of the rows that holds the class, or `source`.")
    method: Literal["oversample", "undersample"] = Field(
        "oversample", description="Repeat rows of small classes, or leave out rows of large ones."
    )
    rows_per_class: int | None = Field(
        None, ge=1, description="Rows per class; null: the largest class (oversample) or the smallest (undersample)."
    )


class MixingSection(Section):
    """Several sources brought to the shares that data.train names for them."""

    total_rows: int | None = Field(
        None, ge=1, description="Training rows after mixing; null: as many as the sources give without repeating."
    )


class WordAugmentation(Section):
    """Easy data augmentation (Wei and Zou 2019) on questions, Chinese and English, offline."""

    type: Literal["synonym", "swap", "insert", "delete"]
    share: float = Field(0.1, gt=0.0, le=10.0, description="New rows as a share of the training rows.")
    rate: float = Field(0.1, gt=0.0, le=1.0, description="Share of the words that is changed, at least one.")


class BackTranslation(Section):
    """Questions put into another language and back, by a model or an OpenAI-compatible endpoint."""

    type: Literal["back_translation"]
    share: float = Field(0.1, gt=0.0, le=10.0, description="New rows as a share of the training rows.")
    through: str | None = Field(
        None, min_length=1, description="The language in between; null: English, and Chinese for English questions."
    )
    endpoint: str | None = Field(
        None, min_length=1, description="Base URL of an OpenAI-compatible server; null: a local model."
    )
    model: str = Field(min_length=1, description="The endpoint's model name, or a local model as in model.name.")
    api_key_variable: str = Field("OPENAI_API_KEY", description="Environment variable that holds the endpoint's key.")


Augmentation = Annotated[WordAugmentation | BackTranslation, Field(discriminator="type")]


class SplitSection(Section):
    """How evaluation rows are held out of the training files."""

    share: float | None = Field(None, gt=0.0, lt=1.0, description="Share of the rows that is held out.")
    rows: int | None = Field(None, ge=1, description="Number of rows that is held out.")
    stratify_by: str | None = Field(
        None, description="Field of the rows; each of its values is held out in the same proportion."
    )
    group_by: str | None = Field(
        None, description="Field of the rows; rows with the same value stay on one side (a customer, a document)."
    )

    @model_validator(mode="after")
    def _one_size(self) -> SplitSection:
        if (self.share is None) == (self.rows is None):
            raise ValueError("give exactly one of share and rows")
        return self


class LeakSection(Section):
    """Near-copies of evaluation rows are kept out of training."""

    threshold: float = Field(0.7, ge=0.5, le=1.0, description="Jaccard similarity of the shingles from which on.")
    compare: Literal["row", "prompt", "either"] = Field(
        "either", description="What is compared: the whole row, its questions alone, or either of them."
    )


class DataSection(Section):
    """The rows to learn from and to be judged on."""

    # First, because what follows is checked against it.
    streaming: bool = Field(
        False,
        description="Train on rows as they are read, without preparing them on disk first: for sets that don't fit it. "
        "training.max_steps says how long; what has to see all rows at once can't be asked for.",
    )
    train: tuple[SourceEntry, ...] = Field(
        min_length=1,
        description="Files with the training rows (JSON, JSONL, CSV, TSV, Parquet, Arrow, text, also .gz and .zst), "
        "folders, globs, hub ids, URLs; or mappings with path, format, columns, share.",
    )
    evaluation: SplitSection | tuple[SourceEntry, ...] | None = Field(
        None, description="A share or number of rows to hold out, a list of files, or null for none."
    )
    leaks: LeakSection | None = Field(
        LeakSection(), description="What counts as a near-copy of an evaluation row; null: only equal rows do."
    )
    cleaning: tuple[CleaningStep, ...] = Field((), description="Steps in order, each its name, or {type: name, ...}.")
    masking: MaskingSection | None = Field(None, description="Personal data replaced; null: left as it is.")
    balance: BalanceSection | None = Field(None, description="Classes brought to even numbers; null: as they are.")
    mixing: MixingSection | None = Field(None, description="Sources mixed by their share; null: all rows of each.")
    augmentation: tuple[Augmentation, ...] = Field((), description="New training rows made from the others.")
    max_sequence_tokens: int = Field(512, ge=8, le=1_048_576, description="Longest row in tokens.")
    too_long: Literal["drop", "cut_prompt", "cut_answer"] = Field(
        "drop",
        description="What happens to a longer row: it is dropped, its longest question loses its end, or its last "
        "answer does (and then no end is trained). Always listed.",
    )
    max_dropped_share: float = Field(
        0.05, ge=0.0, le=1.0, description="The run stops when a larger share of the rows would be dropped."
    )
    num_workers: int | None = Field(
        None, ge=1, le=256, description="Processes that prepare; null: one per core. The result is the same."
    )
    shuffle_window_rows: int = Field(
        4096, ge=1, le=65_536, description="With streaming: rows that are held and shuffled at once."
    )

    @field_validator("train", "evaluation", "cleaning", "balance", "mixing", "augmentation")
    @classmethod
    def _can_be_streamed(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses what has to see all rows at once where they are never all there."""
        whole = _needs_all_rows(value) if info.data.get("streaming") else ""
        if whole:
            raise unfit(f"{whole} can't go with data.streaming", "leave it out, or set data.streaming=false")
        return value


def _needs_all_rows(value: Any) -> str:
    """What a key of the data section asks for that must see all training rows at once, in words; mostly nothing."""
    if isinstance(value, SplitSection):
        return "holding rows out of the training rows (name evaluation files, or null)"
    if isinstance(value, BalanceSection):
        return "balancing classes"
    if isinstance(value, MixingSection):
        return "mixing sources"
    entries = value if isinstance(value, tuple) else ()
    found = [getattr(entry, "type", "") for entry in entries]
    if any(isinstance(entry, ExactDuplicatesStep | NearDuplicatesStep) for entry in entries):
        return "the search for " + ", ".join(name for name in found if name in ("exact_duplicates", "near_duplicates"))
    if any(isinstance(entry, WordAugmentation | BackTranslation) for entry in entries):
        return "making rows from others"
    return "a source's share of the rows" if any(getattr(entry, "share", None) for entry in entries) else ""
