import pytest

from danlu.data.cleaning.whitespace import tidy_whitespace

STAYS = [
    "一句话。",
    "def f(x):\n    if x:\n\t\treturn 1\n\n    return 2",
    "- a\n  - b\n    1. c\n\n> quote",
    "name\tage\n张三\t5",
    "```python\nx  =  1   \n\n\n\ny = 2\n```",
    "1. 步骤\n   ```\n   a    b\n   ```\n2. 完",
    "用 `a    b` 表示。",
    "姓名: 张三\n地址:\n  城市: 北京\n  街道: 长安街",
    "账户\n  实例变量：余额\n  公共方法：存款，取款",
    "    code()\n    more()",
    "```\nnever closed  \n\n\n\n",
]


@pytest.mark.parametrize("text", STAYS)
def test_what_has_a_meaning_stays(text):
    assert tidy_whitespace(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  你好，  世界 。 ", "你好， 世界 。"),
        ("a   b \t c\td", "a b\tc\td"),
        ("a \nb\t\n\n\n\n c", "a\nb\n\n c"),
        ("\n\n  \na\n \n \n", "a"),
        ("张三　李四　　王五", "张三 李四 王五"),
        ("　　第一段。\n　　第二段。", "第一段。\n第二段。"),
        ("    第一段，很长。\n    第二段。", "第一段，很长。\n第二段。"),
        ("　　　静夜思", "静夜思"),
        ("5\u00a0€\u2003x\u202fy", "5 € x y"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("a  b `c  d`   e", "a b `c  d` e"),
        ("x  y\n```\nx  y\n```\nx  y\n\n\n\n", "x y\n```\nx  y\n```\nx y"),
        (" Hello there.\nBye.", "Hello there.\nBye."),
    ],
)
def test_space_without_meaning_goes(before, after):
    assert tidy_whitespace(before) == after
