"""Postal addresses: a Chinese chain from province to room, and an English number, street, town and code.

A place alone (北京市, Main Street) is no address: only one with a house's, building's or room's number is.
"""

from __future__ import annotations

import re

_PROVINCES = (
    "北京|天津|上海|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州|云南|陕西|甘肃|青海|"
    "台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门"
)
# Prefectures, without 市: where an address without its province begins.
_CITIES = (
    "石家庄|唐山|秦皇岛|邯郸|邢台|保定|张家口|承德|沧州|廊坊|衡水|太原|大同|阳泉|长治|晋城|朔州|晋中|运城|忻州|临汾|吕梁|呼和浩特|包头|乌海|"
    "赤峰|通辽|鄂尔多斯|呼伦贝尔|巴彦淖尔|乌兰察布|沈阳|大连|鞍山|抚顺|本溪|丹东|锦州|营口|阜新|辽阳|盘锦|铁岭|朝阳|葫芦岛|长春|四平|辽源|"
    "通化|白山|松原|白城|延吉|哈尔滨|齐齐哈尔|鸡西|鹤岗|双鸭山|大庆|伊春|佳木斯|七台河|牡丹江|黑河|绥化|南京|无锡|徐州|常州|苏州|南通|连云港|"
    "淮安|盐城|扬州|镇江|泰州|宿迁|昆山|杭州|宁波|温州|嘉兴|湖州|绍兴|金华|衢州|舟山|台州|丽水|义乌|合肥|芜湖|蚌埠|淮南|马鞍山|淮北|铜陵|安庆|"
    "黄山|滁州|阜阳|宿州|六安|亳州|池州|宣城|福州|厦门|莆田|三明|泉州|漳州|南平|龙岩|宁德|南昌|景德镇|萍乡|九江|新余|鹰潭|赣州|吉安|宜春|抚州|"
    "上饶|济南|青岛|淄博|枣庄|东营|烟台|潍坊|济宁|泰安|威海|日照|临沂|德州|聊城|滨州|菏泽|郑州|开封|洛阳|平顶山|安阳|鹤壁|新乡|焦作|濮阳|许昌|"
    "漯河|三门峡|南阳|商丘|信阳|周口|驻马店|武汉|黄石|十堰|宜昌|襄阳|鄂州|荆门|孝感|荆州|黄冈|咸宁|随州|恩施|长沙|株洲|湘潭|衡阳|邵阳|岳阳|常德|"
    "张家界|益阳|郴州|永州|怀化|娄底|广州|韶关|深圳|珠海|汕头|佛山|江门|湛江|茂名|肇庆|惠州|梅州|汕尾|河源|阳江|清远|东莞|中山|潮州|揭阳|云浮|"
    "南宁|柳州|桂林|梧州|北海|防城港|钦州|贵港|玉林|百色|贺州|河池|来宾|崇左|海口|三亚|成都|自贡|攀枝花|泸州|德阳|绵阳|广元|遂宁|内江|乐山|南充|"
    "眉山|宜宾|广安|达州|雅安|巴中|资阳|贵阳|六盘水|遵义|安顺|毕节|铜仁|昆明|曲靖|玉溪|保山|昭通|丽江|普洱|临沧|大理|拉萨|日喀则|西安|铜川|宝鸡|"
    "咸阳|渭南|延安|汉中|榆林|安康|商洛|兰州|嘉峪关|金昌|白银|天水|武威|张掖|平凉|酒泉|庆阳|定西|陇南|西宁|海东|银川|石嘴山|吴忠|固原|中卫|"
    "乌鲁木齐|克拉玛依|吐鲁番|哈密|喀什|伊犁"
)
# A name of a street or house: no words that sentences are made of, no sign of a sentence's end.
_NAME = (
    r"(?:(?![的了是我你他她它和与及请把被给从到在说要想就才也但这那哪有没去来住送寄回往位于]|地址|电话|手机)"
    r"[\u4e00-\u9fff])"
)
_PLACE = r"(?:(?![的了是我你他她它]|地址|电话|手机)[\u4e00-\u9fff])"
_NUMERAL = r"(?:[A-Za-z]?[0-9]{1,5}(?:[\-#][0-9A-Za-z]{1,5}){0,3}[A-Za-z]?|[A-Za-z]|[一二三四五六七八九十百]{1,4})"
_UNIT = (
    rf"(?:{_NUMERAL}(?:号楼|号院|号|弄|室|层|楼|栋|幢|座|单元|户|组|房|门|区|期|队|社|铺|号铺|院|F)"
    r"|[东西南北中]{1,2}(?:单元|户|座|区|门|楼|段)|地下[一二三四0-9]层|[0-9]{1,4}(?:-[0-9]{1,4}){1,3}|[A-Z]?[0-9]{3,4}(?![0-9.年月日元米块人%]))"
)
_ADMIN = rf"(?:{_PLACE}{{1,7}}?(?:自治州|自治县|新区|开发区|园区|区|县|旗|市|盟))"
_TOWN = rf"(?:{_PLACE}{{1,7}}?(?:街道办?|镇|乡|苏木))"
_HEAD = (
    rf"(?:(?:(?:{_PROVINCES})(?:省|市|(?:壮族|回族|维吾尔)?自治区|特别行政区)?[ ,]?)?(?:{_CITIES})(?:市|地区|州)?"
    rf"|(?:{_PROVINCES})(?:省|市|(?:壮族|回族|维吾尔)?自治区|特别行政区)?)"
)
_STREET = (
    r"(?:大街|大道|道|路|街|巷|胡同|弄|村|屯|庄|里|条|园|苑|小区|花园|家园|社区|公寓|广场|大厦|大楼|中心|城|学校|"
    r"大学|国际)"
)
_ROAD = r"(?:大街|大道|(?<![知难报味频管渠轨通])道|(?<![公道电思铁线走半马网出一上])路|街|巷|胡同)"

CHINESE_ANCHOR = re.compile(r"[0-9A-Za-z](?=[号弄室层楼栋幢座单组铺])")
CHINESE = re.compile(
    # From a known province or city on; or from a street on whose number is followed by more of an address.
    rf"(?P<head>{_HEAD} ?{_ADMIN}{{0,2}} ?{_TOWN}{{0,2}})"
    rf"(?P<street>(?:{_NAME}{{1,14}}?{_STREET}(?:[东西南北中]{{1,2}}段?)?)?) ?"
    rf"(?P<rest>(?:[（(]?{_NAME}{{0,16}}? ?{_UNIT}[）)]?){{1,7}}{_NAME}{{0,12}}(?:大厦|广场|中心|大楼|公寓)?)"
    rf"|(?P<bare>{_NAME}{{0,6}}?(?:{_NAME}{{1,7}}?(?:区|县|市){_TOWN}?)?{_NAME}{{1,6}}{_ROAD}(?:[东西南北中]{{1,2}}段?)?)"
    rf"(?P<number>[0-9]{{1,5}}(?:-[0-9]{{1,4}})?(?:号(?!线|码|店|机|馆|位|桌|文|选|公|地铁|出|口|高)|弄))"
    rf"(?P<more>(?:{_NAME}{{0,16}}? ?{_UNIT}){{0,6}})"
)
_KNOWN_PLACE = re.compile(_HEAD)
_LAST_UNIT = re.compile(rf"{_UNIT}(?:(?:{_NAME}{{0,12}})(?:大厦|广场|中心|大楼|公寓))?")
_STRAY_BEGINNING = re.compile(
    r"^(?:.*(?:地址|住址|收货|寄到|送到|位于|坐落|住在|家在|上班|改到|住|在|到|去|是|于|至))(?=.{4})|^(?:快递|包裹|外卖|请|送|寄|往|从)+"
)


def chinese(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    """The address from its province, city or street to its last number, floor or building."""
    start, end = match.span()
    if match["head"]:
        units = list(_LAST_UNIT.finditer(match["rest"]))
        if not units:
            return None
        end = match.start("rest") + units[-1].end()
        # 北京2号线, 上海3楼: a city and a number make no address; a street, a district or two numbers do.
        if not match["street"] and len(units) < 2 and not re.search("[区县镇乡村旗]", match["head"]):
            return None
        return (start, end) if end - start >= 8 else None
    head = _KNOWN_PLACE.search(text, start + 1, end)
    whole = CHINESE.match(text, head.start()) if head else None
    if whole and whole["head"]:
        return chinese(text, whole)
    stray = _STRAY_BEGINNING.search(match["bare"])
    if stray:
        start += stray.end()
    return (start, end) if end - start >= 5 else None


_CAP = r"[A-Z][\w'’.]*"
_STREET_TYPE = (
    r"(?:Street|Str?|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq|Terrace|Parkway|"
    r"Pkwy|Way|Highway|Hwy|Circle|Cir|Trail|Trl|Broadway|Crescent|Close|Gardens|Plaza|Alley|Loop|Row|Mews|Grove|Walk|"
    r"Ridge|Hills?|Park|Point|Station|Islands?|Valley|View|Village|Turnpike|Expressway|Pass|Path|Run|Crossing)"
)
_ROOM = (
    r"(?:,?\s+(?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Fl|Room|Rm|Bldg|Building|#)\.?\s?#?[\w\-]+"
    r"|,?\s+[0-9]{1,3}(?:st|nd|rd|th)\s+(?:Floor|floor|Fl))"
)
_ZIP = r"(?:[A-Z]{2}\s+[0-9]{5}(?:-[0-9]{4})?)"
_UK_CODE = r"(?:[A-Z]{1,2}[0-9][0-9A-Z]?\s[0-9][A-Z]{2})"
_TOWN_EN = rf"(?:{_CAP}(?:[ \-]{_CAP}){{0,3}})"
ENGLISH_ANCHOR = re.compile(r"[0-9x][A-Z]?,?\s{1,2}(?:[A-Z]|[0-9]+(?:st|nd|rd|th)\b|(?<=[Bb]ox\s)[0-9])")
ENGLISH = re.compile(
    r"(?<![\w.$€£#])(?:"
    rf"(?P<street>[0-9]{{1,6}}[A-Z]?,?\s+(?:[NSEW]{{1,2}}\.?\s+)?(?:{_CAP}\s+|[0-9]{{1,3}}(?:st|nd|rd|th)\s+){{1,4}}{_STREET_TYPE}\b\.?"
    r"|[0-9]{1,6}\s+(?:N\.?\s|S\.?\s|E\.?\s|W\.?\s)?Broadway\b"
    rf"|[0-9]{{1,5}}\s+(?:Rue|Via|Calle|Avenida|Avenue)\s+(?:de\s+|la\s+|del\s+|du\s+|des\s+)*{_CAP}(?:\s{_CAP})?"
    r"|P\.?\s?O\.?\s?Box\s+[0-9]{1,6})"
    rf"(?:{_ROOM}){{0,2}}"
    rf"(?:(?:,\s*|,?\s*\n|\s)(?:{_TOWN_EN},?\s+{_ZIP}|{_TOWN_EN},?\s{_UK_CODE}|{_UK_CODE}|[0-9]{{5}}\s{_CAP}"
    rf"|{_TOWN_EN},\s*[A-Z]{{2}}\b)|,\s*{_TOWN_EN}(?:,\s*{_TOWN_EN})?)?"
    rf"|[0-9]{{1,6}}\s+{_CAP}(?:\s{_CAP}){{0,3}}(?:{_ROOM}){{0,2}}(?:,\s*|,?\s*\n){_TOWN_EN},?\s+{_ZIP})"
)
_NOT_A_STREET = re.compile(r"[0-9]+\s+(?:(?:The|This|That|In|On|At|And|Or|Of|For)\b)")


def english(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    """Number and street, with room, town and code where they follow; or a post-office box."""
    if _NOT_A_STREET.match(match[0]):
        return None
    return match.start(), match.start() + len(match[0].rstrip(" .,"))
