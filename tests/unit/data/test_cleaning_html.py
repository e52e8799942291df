import pytest

from danlu.data.cleaning.html import without_html

SURVIVES = [
    "如果 a < b 且 c > d，则 a<b>c",
    "if a<b and c>d: return x",
    "List<int> xs; Map<String, List<Integer>> m; std::vector<std::string> v;",
    "List<object> all = new List<Button>(); Promise<void>; Array<Object>",
    "#include <iostream>\n#include <stdio.h>",
    "cp <source> <dest>, kubectl get <name> -n <namespace>, ssh <user>@<host>",
    "see <https://example.com/a?b=1&copy=2> or <me@example.com>",
    "AT&T, R&D, a && b, ?a=1&para=2&lt=3, &unknown;",
    "<think>先想一想</think>答案是 5。<answer>5</answer>",
    '<root> <data> <item id="1"> <name>Sample</name> <title>t</title> </item> </data> </root>',
    "标签成对出现，比如 <html> 和 </html>，或者 <b>/</b>。",
    "Put it between the <b> tag and the </b> tag, or <i>, </i>.",
    "The <p> element is a paragraph; the </p> may be left out, a <li> too",
    "<3 and <- and ->, (>_<), a <= b >= c, x << 2 >> 1",
    "```html\n<p>Hello &amp; <b>bye</b></p>\n```",
    "Use `<br>` and `&nbsp;` or ``<b>x</b>``.",
    "- 步骤:\n  ~~~\n  <div>x</div>\n  ~~~",
    "```\n<b>never closed</b>",
]


@pytest.mark.parametrize("text", SURVIVES)
def test_what_is_no_markup_survives(text):
    assert without_html(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<b>粗体</b>和<i class='x'>斜体</i>", "粗体和斜体"),
        ("<P>您好。</P>", "您好。"),
        ("第一行<br>第二行<br/>第三行<BR />第四行", "第一行\n第二行\n第三行\n第四行"),
        ("<p>One.</p><p>Two.</p>\n<p>Three.</p>", "One.\n\nTwo.\n\nThree."),
        ("One.<p>Two.<p>Three.", "One.\nTwo.\nThree."),
        ("<ul><li>苹果</li><li>梨</li></ul>", "苹果\n\n梨"),
        ("<table><tr><td>a</td><td>b</td></tr></table>", "a b"),
        ('<a href="https://x.cn/?a=1&b=2" target="_blank">链接</a>', "链接"),
        ('看图<img src="a.png" alt="x > y">。', "看图。"),
        ("<div>a<div>b</div>c</div>", "a\nb\nc"),
        ("text</p></div>", "text"),
        ("a<!-- note <b> -->b<!DOCTYPE html>", "ab"),
        ("a<script type='x'>if (a < b) { '</b>' }</script>b<STYLE>p > a {}</STYLE>c", "abc"),
        ("价格&nbsp;&lt; 5&nbsp;元 &amp; 包邮 &#169; &#x4F60;&hellip;", "价格 < 5 元 & 包邮 © 你…"),
        ("a &amp;amp;lt; b", "a < b"),
        ("&lt;p&gt;您好&lt;/p&gt;", "您好"),
        ("<p>Use `<br>` here</p>", "Use `<br>` here"),
        ("运行 <code>pip install x</code>。", "运行 `pip install x`。"),
        (
            "<pre><code>if a &lt; b:\n    return List&lt;b&gt;</code></pre>完",
            "```\nif a < b:\n    return List<b>\n```\n完",
        ),
    ],
)
def test_markup_goes_and_its_text_stays(before, after):
    assert without_html(before) == after


def test_code_between_markup_is_untouched():
    code = "```html\n<p>x</p>\n\n\n```"
    assert without_html(f"<p>看：</p>\n{code}\n<p>好</p>") == f"看：\n\n{code}\n\n好"


def test_a_comment_or_script_that_never_ends_is_text():
    assert without_html("a <!-- b") == "a <!-- b"
    assert without_html("a <script> b") == "a <script> b"


@pytest.mark.parametrize(
    ("piece", "after"),
    [("<!--", None), ("<script>", None), ("<b>", None), ("<a href='", None), ("``` ", None), ("&amp;", "&" * 20_000)],
)
def test_a_long_text_of_openings_is_gone_through_once(piece, after):
    # With a search to the end for each opening this would take minutes.
    assert without_html(piece * 20_000) == (after or piece * 20_000)


def test_an_entity_escaped_many_times_over_is_resolved():
    assert without_html("&" + "amp;" * 20_000 + "lt; 5") == "< 5"
