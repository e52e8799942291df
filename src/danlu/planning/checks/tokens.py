"""Whether tokens, labels and template are what generation will use, and fit the model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from danlu.data.template import end_of_turn_id, is_plain, render
from danlu.models.loading import generation_defaults
from danlu.models.tokenizer import has_encoder, tokenize
from danlu.planning.findings import Finding, Level
from danlu.planning.look import Look

_CJK = re.compile(r"[\u3400-\u9fff]")
_SAMPLE = 64


def end_trained(look: Look) -> Iterator[Finding]:
    """Answers end with a token at which generation stops."""
    ends = [document.ids[document.spans[-1][1] - 1] for document in look.documents if document.spans]
    open_ended = [place for place, token in enumerate(ends) if token not in look.stops]
    cut = look.prepared.about["rows"]["cut"] if look.recipe.data.too_long == "cut_answer" else 0
    if len(open_ended) <= cut * len(ends) / max(1, len(look.train)) + 1 and cut:
        return  # said by the check of cut rows
    if not open_ended:
        return
    share = len(open_ended) / len(ends)
    what = f"{len(open_ended):,} of {len(ends):,} answers have no end token to learn ({share:.1%})"
    hint = "raise data.max_sequence_tokens, or data.too_long=drop; else answers may run on"
    level: Level = "error" if share > 0.5 else "warning"
    yield Finding(level, "end-not-trained", what, look.where(open_ended[0]), hint)


def same_prompt(look: Look) -> Iterator[Finding]:
    """What is trained before an answer is what Transformers, and so any server, sends to ask for it."""
    if has_encoder(look.tokenizer):
        return
    known = {document.ids: document for document in (*look.documents, *look.held_documents)}
    for messages in look.conversations:
        if is_plain(messages) or messages[0].get("tools"):
            continue
        sent = _sent(look.tokenizer, messages[:-1])
        if any(list(ids[: len(sent)]) == sent for ids in known):
            continue
        what = "the prompt in training is another than the one that generation sends"
        hint = "mend the chat template: with add_generation_prompt it must begin as the whole conversation does"
        yield Finding("error", "prompt-differs", what, f"{look.base}: chat template", hint)
        return


def _sent(tokenizer: Any, messages: Any) -> list[int]:
    """By Transformers alone."""
    turns = [{key: value for key, value in message.items() if key in ("role", "content")} for message in messages]
    ids: list[int] = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    return ids


def first_labels(look: Look) -> Iterator[Finding]:
    """The trained tokens of the first rows read as their answers."""
    for messages in look.conversations:
        answer = messages[-1]
        if answer.get("tool_calls") or answer.get("reasoning_content") or has_encoder(look.tokenizer):
            continue
        wanted = "".join(answer["content"].split())
        texts = {
            "".join(look.tokenizer.decode(document.ids[start:end], skip_special_tokens=True).split())
            for document in (*look.held_documents, *look.documents)
            for start, end in document.spans[-1:]
        }
        if not any(text == wanted or (text and wanted.startswith(text)) for text in texts):
            what = f"no row trains the answer {answer['content'][:40]!r} as it is written"
            hint = "see what is trained, token by token: danlu data RECIPE --show 3"
            yield Finding("error", "labels-differ", what, "data.train", hint)
        return


def double_start(look: Look) -> Iterator[Finding]:
    """The start token does not come twice, by template and by tokenizer."""
    start = look.tokenizer.bos_token_id
    if start is None:
        return
    for place, document in enumerate(look.documents[:_SAMPLE]):
        if document.ids[:2] == (start, start):
            what = f"rows begin with two start tokens ({look.tokenizer.bos_token})"
            hint = "the template writes one and the text has one too: take it out of the rows"
            yield Finding("warning", "two-start-tokens", what, look.where(place), hint)
            return


def generation_stops(look: Look) -> Iterator[Finding]:
    """The base's generation config names the token that answers are trained to end with."""
    if has_encoder(look.tokenizer):
        return
    configured = generation_defaults(look.base).get("eos_token_id")
    named = [configured] if isinstance(configured, int) else list(configured or [])
    end = end_of_turn_id(look.tokenizer)
    if named and end not in named and end != look.tokenizer.eos_token_id:
        token = look.tokenizer.convert_ids_to_tokens(end)
        what = f"answers end with {token}, which generation_config.json does not name: other servers may run on"
        hint = f"add {end} to eos_token_id there; Danlu's own export does"
        yield Finding("note", "stop-not-configured", what, str(look.base / "generation_config.json"), hint)


def dated_template(look: Look) -> Iterator[Finding]:
    """Prompts are the same tomorrow."""
    if "strftime_now" in str(look.tokenizer.chat_template):
        what = "the chat template writes today's date: prompts of training and of serving differ"
        hint = "put a fixed date into chat_template.jinja, or a system turn into each row"
        yield Finding("warning", "dated-template", what, f"{look.base}: chat template", hint)


def template_adds(look: Look) -> Iterator[Finding]:
    """A system turn that the template adds by itself is known of."""
    if has_encoder(look.tokenizer) or not look.conversations or is_plain(look.conversations[0]):
        return
    if look.conversations[0][0]["role"] == "system":
        return
    text = render(look.tokenizer, [{"role": "user", "content": "x"}], ask=True)
    found = re.search(r"(?i)you are [^\n<]{0,80}", text)
    if found:
        what = f"the chat template adds a system turn to each row: {found.group(0)[:60]!r}"
        hint = "it is trained and served alike; a system turn in the rows takes its place"
        yield Finding("note", "template-adds-system", what, f"{look.base}: chat template", hint)


def vocabulary(look: Look) -> Iterator[Finding]:
    """Every token has a row in the embeddings."""
    rows = look.shape.get_input_embeddings().weight.shape[0]
    largest = max((max(document.ids) for document in look.documents), default=0)
    if largest >= rows:
        what = f"the rows have token {largest}, and the model has embeddings for {rows}"
        hint = "the tokenizer is another model's, or tokens were added to it: take the base's own"
        yield Finding("error", "vocabulary-too-small", what, str(look.base), hint)


def context(look: Look) -> Iterator[Finding]:
    """Rows are no longer than the model can read."""
    limit = getattr(look.shape.config.get_text_config(), "max_position_embeddings", None)
    if not limit or has_encoder(look.tokenizer):
        return
    longest = int(look.lengths.max()) if len(look.lengths) else 0
    asked, key = look.recipe.data.max_sequence_tokens, "data.max_sequence_tokens"
    if longest > limit:
        what = f"the longest row has {longest:,} tokens, and the model reads {limit:,}"
        yield Finding("error", "longer-than-context", what, key, f"{key}={limit}")
    elif asked > limit:
        what = f"rows may have {asked:,} tokens, and the model reads {limit:,}; no row is that long now"
        yield Finding("warning", "context-exceeded", what, key, f"{key}={limit}")


def unknown_tokens(look: Look) -> Iterator[Finding]:
    """The vocabulary can write the rows."""
    unknown = look.tokenizer.unk_token_id
    if unknown is None or unknown in look.stops:
        return
    total = sum(len(document.ids) for document in look.documents)
    count = sum(document.ids.count(unknown) for document in look.documents)
    if total and count / total > 0.001:
        what = f"{count / total:.1%} of the tokens are {look.tokenizer.unk_token}: the vocabulary can't write the rows"
        yield Finding("warning", "unknown-tokens", what, "model.name", "take a base that knows the language")


def foreign_language(look: Look) -> Iterator[Finding]:
    """The vocabulary knows the rows' language: Chinese is not written byte by byte."""
    texts = [message["content"] for messages in look.conversations for message in messages]
    characters = "".join(_CJK.findall("".join(texts)))[:2000]
    if len(characters) < 100:
        return
    each = len(tokenize(look.tokenizer, characters)) / len(characters)
    if each > 1.5:
        what = f"a Chinese character takes {each:.1f} tokens: the base's vocabulary hardly knows Chinese"
        hint = "take a base that does, such as Qwen/Qwen2.5-0.5B-Instruct"
        yield Finding("warning", "foreign-language", what, "model.name", hint)
