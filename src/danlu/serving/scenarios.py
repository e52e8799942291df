"""Which scenario a question belongs to, learnt from a few questions of each.

Character n-grams of one to four, hashed, and a logistic regression over them, both scikit-learn's: nothing needs to
know where words end, so Chinese and English, typing errors included, are taken alike. The same examples give the same
answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from danlu.errors import Fault, ResourceError

MIN_EXAMPLES = 3
_NUM_FEATURES = 1 << 16
_STRENGTH = (
    100.0  # of the fit, the inverse of its regularisation: with few examples less leaves every class half likely
)


class Scenarios:
    """A classifier of short texts.

    Args:
        examples: questions by the name of their scenario; at least two scenarios.

    Raises:
        ResourceError: scikit-learn is not installed.
    """

    def __init__(self, examples: Mapping[str, Sequence[str]]) -> None:
        try:
            from sklearn.feature_extraction.text import HashingVectorizer
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            hint = "pip install 'danlu[routing]'"
            raise ResourceError(Fault("scikit-learn, which a classifier needs, is not installed", hint=hint)) from error
        self._features: Any = HashingVectorizer(
            analyzer="char", ngram_range=(1, 4), n_features=_NUM_FEATURES, alternate_sign=False, lowercase=True
        )
        texts = [text for questions in examples.values() for text in questions]
        names = [name for name, questions in examples.items() for _ in questions]
        fit: Any = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=1000)
        self._fit = fit.fit(self._features.transform(texts), names)

    def likeliest(self, text: str) -> tuple[str, float]:
        """The scenario that a text most likely belongs to, and how likely: from 0 to 1."""
        chances = self._fit.predict_proba(self._features.transform([text]))[0]
        best = int(chances.argmax())
        return str(self._fit.classes_[best]), float(chances[best])
