"""What the model itself makes of given texts: loss and token accuracy of references, perplexity of running text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from danlu.data.questions import Convert, Question
from danlu.data.records import RowFault
from danlu.data.sources import Row
from danlu.data.template import label
from danlu.evaluation.metrics import Given, Metric
from danlu.evaluation.perplexity import text_loss
from danlu.evaluation.tasks.interface import Asked, TaskBase
from danlu.models.tokenizer import tokenize
from danlu.recipe.tasks_schema import LossTask, PerplexityTask, TokenAccuracyTask
from danlu.training.engine import choose_engine

_PACK_TOKENS = 1024


class ReferenceLoss(TaskBase):
    """See `ModelTask`: cross-entropy of the references, computed as in training."""

    def __init__(self, section: LossTask) -> None:
        super().__init__(section, Metric("loss", "ratio", "lower", "nats"))

    def ask(self, engine: Any, questions: Sequence[Question], tuned: bool) -> Iterator[Asked]:
        """Sum of the losses, and number of answer tokens, of each row."""
        rows = [label(engine.tokenizer, question.conversation) for question in questions]
        with engine.chosen(tuned) as model:
            chosen = choose_engine(model, [document for row in rows for document in row])
            try:
                model.eval()
                for start in range(0, len(rows), engine.batch_size):
                    some = rows[start : start + engine.batch_size]
                    found = iter(chosen.losses(model, [document for row in some for document in row], _PACK_TOKENS))
                    for row in some:
                        loss, tokens = sum(next(found) for _ in row), sum(document.trained for document in row)
                        yield Asked(Given(""), {self.names[0]: (loss, float(tokens))})
            finally:
                chosen.off()


class TokenAccuracy(TaskBase):
    """See `ModelTask`: the likeliest next token against the reference's."""

    def __init__(self, section: TokenAccuracyTask) -> None:
        super().__init__(section, Metric("token_accuracy", "ratio"))

    def ask(self, engine: Any, questions: Sequence[Question], tuned: bool) -> Iterator[Asked]:
        """Tokens that are right, and number of answer tokens, of each row."""
        for question in questions:
            right, total = 0, 0
            for document in label(engine.tokenizer, question.conversation):
                start = document.spans[0][0]
                likeliest = engine.logits(document.ids[:start], document.ids[start:], tuned).argmax(-1).tolist()
                for begin, end in document.spans:
                    right += sum(likeliest[place - start] == document.ids[place] for place in range(begin, end))
                    total += end - begin
            yield Asked(Given(""), {self.names[0]: (float(right), float(total))})


class Perplexity(TaskBase):
    """See `ModelTask`: running text, as in `danlu.evaluation.perplexity`."""

    own_rows, needs_reference = True, False

    def __init__(self, section: PerplexityTask) -> None:
        super().__init__(section, Metric("perplexity", "perplexity", "lower", "number"))
        self._window = section.window_tokens

    def convert(self) -> Convert:
        """The text itself, or the row's `text`, with nothing that is asked."""
        name = (self._columns or {}).get("text", "text")

        def convert(row: Row) -> Question:
            text = row.value.get(name) if isinstance(row.value, dict) else row.value
            if not isinstance(text, str) or len(text.split()) < 1:
                raise RowFault(f"missing text: the row has no `{name}`")
            return Question([{"role": "text", "content": text}], None, row.where, {"text": text})

        return convert

    def ask(self, engine: Any, questions: Sequence[Question], tuned: bool) -> Iterator[Asked]:
        """Sum of the losses, and number of tokens, of each text."""
        for question in questions:
            ids = tokenize(engine.tokenizer, question.messages[0]["content"])
            loss = text_loss(engine, ids, tuned, self._window)
            yield Asked(Given(""), {self.names[0]: (loss, float(max(0, len(ids) - 1)))})
