"""The question as it is, asked for in another language: an English one in a Chinese request, and the reverse.

The question itself is not translated, which no rule could do; the request says to answer in the question's language,
so that answers can still be compared with references.
"""

from __future__ import annotations

from random import Random

from danlu.evaluation.attacks.interface import Language

FRAMES: dict[Language, tuple[str, ...]] = {
    "en": (
        "请用英文回答下面这个问题：\n\n{}",
        "下面是一位顾客用英文写的话，请用英文答复：\n\n{}",
        "{}\n\n请回答上面的问题，答案用英文写。",
    ),
    "zh": (
        "Please answer the following question in Chinese:\n\n{}",
        "Here is a message written in Chinese. Please reply in Chinese:\n\n{}",
        "{}\n\nPlease answer the question above, and write the answer in Chinese.",
    ),
}


def change(text: str, language: Language, random: Random) -> str:
    """The question in a request in the other of the two languages."""
    return random.choice(FRAMES[language]).format(text)
