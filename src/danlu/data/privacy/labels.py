"""The word that stands before a number and says what it is: a card, an order, a telephone, a version."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

LabelName = Literal["card", "phone", "identity", "company", "passport", "plate", "ip", "ssn", "order", "version", "sum"]

WINDOW = 32

_WORDS: tuple[tuple[LabelName, str, str], ...] = (
    # Longest and most telling first: of two alternatives that begin at one place, the earlier is taken.
    ("company", "信用代码|税号|识别号|注册号|组织机构代码", "uscc|tax number"),
    ("identity", "身份证|证件|身份号|公民身份|户口|居民证", "id card|identity card|national id|resident id"),
    ("passport", "护照|通行证|旅行证", "passports?|travel document"),
    ("plate", "车牌|牌照|车号|上牌", "licen[cs]e plate|plate"),
    (
        "order",
        "订单|单号|单据|流水|运单|物流单|快递单|追踪号|交易号|交易单|交易[Ii][Dd]|编号|编码|序列号|序号|条形码|条码|票号|发票|工单|"
        "批号|参考号|凭证|保单|合同|案号|学号|考号|准考证|病历|体检号|就诊卡|挂号|户号|表号|群号|退款单|采购单|出库单|入库单|"
        "申请单|受理号|业务号|会话|工号|执业证|车架号|发动机号|专利号|批准文号|彩票|红包|授权码|验证码|邮编|时间戳|"
        "商户号|设备号|型号|货号|机号|签证号|期号|端口|QQ|ISBN|ISSN",
        "orders?|invoices?|tracking|track|reference|ref|serial|barcode|transactions?|tickets?|parcel|sku|isbn(?:-1[03])?|"
        "issn|doi|upc|ean|timestamp|unix time|milliseconds|case|lot|batch(?: job)?|policy|po|loan|meter|shipment|"
        "part|model|matric|claim|badge|confirmation|trace|waybill|receipt|job|build|booking|uid|uuid|imei|vin|item|product|"
        "lottery numbers?|zip|postcode|port|id",
    ),
    (
        "version",
        "版本|固件|章节|小节|第|标准|见",
        "version|ver|release|firmware|section|sec|chapter|rfc|clause|v|figure|fig",
    ),
    (
        "card",
        "银行卡|信用卡|储蓄卡|借记卡|还款卡|工资卡|卡号|账号|帐号|账户|帐户|收款|转账|户名|银行|工行|建行|农行|中行|招行|[的张]卡|打款|打到|打钱|转到|卡是|卡",
        "cards?|visa|mastercard|amex|american express|unionpay|debit|credit|jcb|discover|account",
    ),
    ("ssn", "社会安全号|社安号", r"ssn|social security(?: number| no\.?)?|social|tax id|tin"),
    (
        "phone",
        "手机|电话|联系方式|座机|固话|致电|回电|来电|热线|传真|总机|拨打|拨|打给|微信|号码|联系|短信|呼叫|分机",
        "phones?|mobile|cell|cellphone|tel|telephone|call(?:ed|ing)?|fax|whatsapp|text|sms|reach|dial|contact|ring|"
        r"number|caller id|me (?:at|on)",
    ),
    (
        "ip",
        "[Ii][Pp](?:v[46])?(?:地址)?|服务器|主机|网关|域名解析|登录|登陆|来源|内网|外网|网段|解析到|地址",
        "ip(?:v[46])?|address|server|hosts?|gateway|dns|ping|login|logged in|ssh|blocked|blocklist|router|subnet|"
        "camera|proxy|from|at",
    ),
    (
        "sum",
        "人口|乘以|计算|求|等于|营收|总额|金额|余额|共计|合计|圆周率|约为|大约",
        "times|plus|minus|population|sum|multiply|pi",
    ),
)
_LABEL = re.compile(
    "|".join(
        f"(?P<l{index}>(?:{zh})(?:号码|号)?|(?<![A-Za-z])(?:{en})(?![A-Za-z]))"
        for index, (_, zh, en) in enumerate(_WORDS)
    ),
    re.IGNORECASE,
)
_GLUE = re.compile(
    r"[\s:：#№=\-—（(“\"'【\[号码是为的尾]*(?:no\.?|number|is|are|was)?[\s:：#№=.（(“\"]*", re.IGNORECASE
)
_STOP = re.compile(r"[\n。！？!?]|(?<![Nn]o)[.;] ")


def label_before(text: str, start: int, *, window: int = WINDOW) -> tuple[LabelName | None, bool]:
    """The nearest label in front of a place, in the same sentence.

    Args:
        text: the whole text.
        start: where the value begins.
        window: characters looked back at most.

    Returns:
        The label's name, null if there is none, and whether only glue such as ": " or 号码是 stands between.
    """
    before = text[max(0, start - window) : start]
    labels = _labels(before)
    if not labels:
        return None, False
    name, end = labels[-1]
    return name, _GLUE.fullmatch(before, end) is not None


def has_label(text: str, start: int, *names: LabelName, window: int = WINDOW) -> bool:
    """Whether one of these labels stands anywhere in the window in front of a place, in the same sentence."""
    return any(name in names for name, _ in _labels(text[max(0, start - window) : start]))


@lru_cache(maxsize=1024)
def _labels(before: str) -> tuple[tuple[LabelName, int], ...]:
    """Name and end of each label in the last sentence of a window; several recognisers ask about each number."""
    cut = max((stop.end() for stop in _STOP.finditer(before)), default=0)
    return tuple((_name(match), match.end()) for match in _LABEL.finditer(before, cut))


def _name(match: re.Match[str]) -> LabelName:
    group = match.lastgroup
    assert group is not None
    return _WORDS[int(group[1:])][0]
