"""A sentence that has nothing to do with the question."""

from __future__ import annotations

from random import Random

from danlu.evaluation.attacks.interface import Language

SENTENCES: dict[Language, tuple[str, ...]] = {
    "en": (
        "My neighbour's dog has learnt to open the garden gate.",
        "It rained all morning, so the market was nearly empty.",
        "The old lighthouse on the cape was painted white last spring.",
        "My sister is knitting a scarf that is longer than our sofa.",
        "The bakery on the corner sells rye bread on Thursdays.",
        "A heron was standing in the pond when I came home.",
        "The choir is practising for its summer concert again.",
        "Our train passed a field full of sunflowers.",
        "Somebody left a blue umbrella in the hall.",
        "The museum has a new room for clocks.",
    ),
    "zh": (
        "邻居家的狗学会了自己开院门。",
        "上午一直在下雨，菜市场里没什么人。",
        "海边那座旧灯塔去年春天刷成了白色。",
        "我姐姐织的围巾比沙发还长。",
        "街角的面包店每到周四就卖黑麦面包。",
        "我回家的时候，池塘里站着一只白鹭。",
        "合唱团又在为夏天的演出排练。",
        "火车开过一大片向日葵田。",
        "有人把一把蓝色的伞忘在了楼道里。",
        "博物馆新开了一间钟表展厅。",
    ),
}


def change(text: str, language: Language, random: Random) -> str:
    """The question with one such sentence before or after it."""
    sentence = random.choice(SENTENCES[language])
    blank = "" if language == "zh" else " "
    return f"{sentence}{blank}{text}" if random.random() < 0.5 else f"{text.rstrip()}{blank or ' '}{sentence}"
