"""Word lists: what must stay because a question's meaning hangs on it, and what can go without loss."""

from __future__ import annotations


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


NEGATIONS = _words(
    # English; then the plainest of the languages that are written like it, so that none of them flips.
    "no not none never nothing nobody nowhere neither nor",
    "without cannot cant dont wont doesnt didnt isnt arent",
    "wasnt hasnt havent shouldnt wouldnt couldnt hardly",
    "barely scarcely seldom rarely unable fail fails failed",
    "nicht nichts kein keine keinen keiner nie ohne ne pas jamais sans sin nunca sem nem niet geen non",
)

ENGLISH_LOCKED = _words(
    "who whom whose what when where why how which whether",
    "all any some every each both either only just few",
    "little much many more less most least fewer several half",
    "double twice once again else other another same different extra enough too than",
    "someone somebody something somewhere anyone anybody anything anywhere everyone everybody everything",
    "everywhere such given help as if unless because since",
    "before after until till above below over under up down",
    "in out on off from to into onto through between",
    "within with against for by at of about behind beside besides except despite instead",
    "first second third last next previous left right former latter new old high low",
    "and or but yet so",
    "zero one two three four five six seven",
    "eight nine ten eleven twelve thirteen fourteen fifteen sixteen",
    "seventeen eighteen nineteen twenty thirty forty fifty",
    "sixty seventy eighty ninety hundred thousand million",
    "billion dozen quarter percent today tomorrow yesterday tonight now",
    "monday tuesday wednesday thursday friday saturday sunday",
    "january february march april june july august",
    "september october november december dollar dollars pound pounds euro euros yuan cent cents",
)

# Words that a question keeps its meaning without; the first to go under `delete`.
ENGLISH_LIGHT = _words(
    "a an the please kindly really very quite actually",
    "basically simply also then well ok okay hello hi hey",
    "do does did is are am was were be been being can",
    "could would will shall i me my you your it its this that",
    "there thanks",
)

CHINESE_NEGATIONS = frozenset("不没别未无非勿莫否沒無")
CHINESE_LOCKED_CHARACTERS = CHINESE_NEGATIONS | frozenset(
    "零〇一二三四五六七八九十两兩百千万萬亿億半几幾第每哪谁誰什何怎吗嗎多少最更比只仅僅除上下前后後左右内外里裡中大小高低早晚"
    "年月日号號时時分秒点點周元块塊毛角斤米"
)
CHINESE_LOCKED = _words(
    "呢 都 全部 所有 全 从 到 至 由 向 往 被 把 将 让 给 对 为 因 因为 所以 如果 要是 但 但是 而 而且 或 或者",
    "还是 和 与 及 以及 跟 同 于 在 是 有 会 能 可以 可 要 必须 应该 需要 已",
    "已经 正在 曾 过 又 再 仍 仍然 才 就 其他 其它 另外 相同",
    "开 关 开始 结束 增加 减少 进 出 来 去 买 卖 借 还 收 付 男 女 新 旧 今天 明天 昨天 现在 刚才 甲 乙 丙 丁",
)
CHINESE_LIGHT = _words(
    "的 了 着 啊 吧 呀 嘛 哦 哈 啦 请 请问 您好 你好 麻烦 劳驾 谢谢 帮 帮忙 帮我 我想 想 想要 我 我们 咱们 你 你们",
    "您 那 那么 其实 然后 目前 究竟 到底 很 挺 真 真的 真是 一下 一个 这 这个 那个 有点",
)
