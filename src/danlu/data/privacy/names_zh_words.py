"""What Chinese names are made of, and the words that stand beside them, from names_zh.txt."""

from __future__ import annotations

import math
import re
from functools import lru_cache

from danlu.data.privacy.word_lists import word_lists

DOTS = "·•‧・"
BONUS_OF_BOUNDARY, BONUS_IN_LIST = 1.2, 2.0
_COST_OF_RARE_FAMILY = 7.0
COST_OF_DOUBLE_FAMILY = 5.0
_COSTS_OF_GIVEN = {"given_usual": 4.9, "given_frequent": 6.3, "given_seldom": 7.8}

Bonuses = tuple[tuple[int, dict[str, float]], ...]


@lru_cache(maxsize=1)
def family_costs() -> dict[str, float]:
    """Cost of each family name of one character.

    The first has 7.2 % of the people, the hundredth 0.2 % (Ministry of Public Security, 2020): about
    0.075 / (1 + 0.3 rank).
    """
    lists = word_lists("names_zh")
    costs = dict.fromkeys(lists["family_rare"], _COST_OF_RARE_FAMILY)
    return costs | {name: -math.log(0.075 / (1 + 0.3 * rank)) for rank, name in enumerate(lists["family"])}


@lru_cache(maxsize=1)
def double_families() -> tuple[str, ...]:
    """Family names of two characters."""
    return tuple(word_lists("names_zh")["family_double"].split())


@lru_cache(maxsize=1)
def double_family_set() -> frozenset[str]:
    """The same, to look one up: the search of a text does so at each character that could be a family name."""
    return frozenset(double_families())


@lru_cache(maxsize=1)
def given_costs() -> dict[str, float]:
    """Cost of each character of a given name."""
    lists = word_lists("names_zh")
    costs = {character: cost for title, cost in _COSTS_OF_GIVEN.items() for character in lists[title]}
    return {character: cost for character, cost in costs.items() if character not in lists["foreign_only"]}


def foreign() -> str:
    """Characters that foreign names are written with; runs of them joined by a dot are a name."""
    return word_lists("names_zh")["foreign"]


@lru_cache(maxsize=1)
def foreign_edge() -> frozenset[str]:
    """What stands beside a Chinese name only if both are parts of a foreign one."""
    return frozenset(word_lists("names_zh")["foreign_only"]) - frozenset("米布") | frozenset(DOTS + "兹厄")


@lru_cache(maxsize=1)
def _well_known() -> frozenset[str]:
    return frozenset(word_lists("names_zh")["well_known"].split())


def is_well_known(name: str) -> bool:
    """Whether a foreign name with dots is, as a whole, a well-known person's of the list: 阿尔伯特·爱因斯坦.

    The family name alone would not do: others bear it too.
    """
    return re.sub(f"[{DOTS}]", "·", name) in _well_known()


@lru_cache(maxsize=1)
def titles() -> frozenset[str]:
    """Words behind a family name that are no given name: 陈女士."""
    return frozenset(word_lists("names_zh")["titles"].split())


def place_ends() -> str:
    """Last characters of places' names."""
    return word_lists("names_zh")["place_ends"]


def no_end_of_name() -> str:
    """Last characters of words that jieba's dictionary takes for people, and that people's names seldom have."""
    return word_lists("names_zh")["no_end_of_name"]


def modern_words() -> list[str]:
    """Words that jieba's dictionary, made in 2012, lacks or takes for people."""
    return word_lists("names_zh")["modern_words"].split()


@lru_cache(maxsize=2)
def bonuses(side: str) -> Bonuses:
    """Words by their length, the longest first, and what a name beside them gains.

    Args:
        side: `before` or `after` the name.
    """
    found: dict[str, float] = {}
    for title, line in word_lists("names_zh").items():
        if title.startswith(side + " "):
            found |= dict.fromkeys(line.split(), float(title.split()[1]))
    lengths = sorted({len(word) for word in found}, reverse=True)
    return tuple((length, {word: bonus for word, bonus in found.items() if len(word) == length}) for length in lengths)
