"""What a name in Latin letters looks like, and the words around it that give it away."""

from __future__ import annotations

import re

_LETTERS = r"[a-zà-öø-ÿāăąćčďđēėęěğģīįıķłńňņōőřśşšșţťțūůűųźżžạ-ỹ]"
_CAPITAL = r"[A-ZÀ-ÖØ-ÞĀĆČĎĐĒĖĘĚĞĢĪĶŁŃŇŌŐŘŚŞŠȘŤȚŪŮŰŹŻŽ]"
_PREFIX = r"(?:(?:O|D|L|Al|El)['’\-]|Mc|Mac|De|Di|Da|La|Le|Fitz|Van)"
_WORD = rf"(?:{_PREFIX}?{_CAPITAL}{_LETTERS}+(?:['’\-]{_CAPITAL}?{_LETTERS}+|(?<=c){_CAPITAL}{_LETTERS}+)*)"
_PARTICLE = r"(?:van|von|der|den|de|la|del|da|dos|di|du|bin|ibn|al|el|ter|ten|zu)"
_INITIAL = rf"{_CAPITAL}\.(?=[ \-]?{_CAPITAL})"
_TOKEN = rf"(?:{_INITIAL}|{_WORD})"
# Chinese characters, quotes and dashes may stand right beside; letters, digits and signs of addresses may not.
_ALONE = "0-9A-Za-zÀ-ÿ_@"
RUN = re.compile(
    rf"(?<![{_ALONE}#&/.<])(?<![{_ALONE}.][\-'’]){_TOKEN}"
    rf"(?: ?(?<=\.){_TOKEN}| (?:{_PARTICLE} ){{0,2}}{_TOKEN}| {_CAPITAL}\b(?!\.)(?= {_CAPITAL}))*(?![{_ALONE}])"
)
PIECE = re.compile(rf"{_INITIAL}|{_WORD}|{_CAPITAL}\b|{_PARTICLE}\b")
SUFFIX = re.compile(r",? (?:Jr\.?|Sr\.?|II|III|IV)(?!\w)")
CAPITALISED = re.compile(rf" ({_WORD})")
SMALL = re.compile(rf"{_LETTERS}{{2,20}}(?!\w)")
ANY_WORD = re.compile(r"[\w'’\-]{2,20}")

TITLES = ("Mr", "Mrs", "Ms", "Miss", "Dr", "Prof", "Professor", "Sir", "Madam", "Mx", "Mister", "Doctor")
BEFORE_TITLE = re.compile(r"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Professor|Mx|Mister)\.? $")

# "my name is sarah": said by the one whose name it is, so a small letter will do.
SAID = re.compile(
    r"\b(?:my (?:full |good |first |real )?name(?:'s| is)|my name:|the name is|name's|i am called|they call me|i go by|"
    r"(?:maiden|given|first|last|family|sur) ?name(?: is|:)) +",
    re.IGNORECASE,
)
SELF = re.compile(r"\b(?:[Ii]['’]m|[Ii] am|[Tt]his is|IM|im) +")
INTRODUCED = re.compile(r"(?:,| from\b| calling\b| speaking\b)")

# A label, a greeting or a farewell.
LABEL = re.compile(
    r"(?:\b(?:name|contact|customer|client|patient|applicant|recipient|sender|attention|attn|attendees?|employee|"
    r"tenant|driver|beneficiary|account (?:holder|owner)|holder|owner|borrower|signed(?: by)?|signature|from|to|cc|"
    r"passenger|guest|student|teacher|author|name on card|cardholder|payee|insured|witness|defendant|plaintiff|"
    r"emergency contact|visitor(?: log)?|manager|by|dear|hi|hello|hey|regards|sincerely|thanks|cheers|yours|best|"
    r"full name)\b(?: \([^)\n]{1,20}\))?[:;,]?\s+)$",
    re.IGNORECASE,
)
# Of these, the ones behind which a word that could be a place or a month is a person after all.
GREETING = re.compile(
    r"\b(?:name|contact|dear|hi|hello|hey|regards|sincerely|thanks|cheers)\b[:;,]?\s+$", re.IGNORECASE
)
# An office, a relation, something done to a person.
PERSON_BEFORE = re.compile(
    r"(?:\b(?:tell|ask(?: for)?|told|met|meet|called|named|phone|contact|thank|invite|remind|email|nurse|coach|driver|"
    r"agent|plumber|landlord|landlady|technician|officer|detective|judge|customer|patient|tenant|applicant|employee|"
    r"borrower|witness|defendant|student|colleague|boss|manager|lead|husband|wife|son|daughter|brother|sister|mother|"
    r"father|uncle|aunt|cousin|friend|neighbou?r|roommate|fianc[ée]e?|partner|spoke (?:with|to)|"
    r"talk(?:ed)? (?:with|to)|speak (?:with|to)|interview with|attention|attn|recipient|sender|visitor|passenger|guest|"
    r"signed by|approved by|reviewed by|written by|for|from|with|to|by|and),? (?:is |today is |was )?)$",
    re.IGNORECASE,
)
# What a person has, or does.
PERSON_AFTER = re.compile(
    r"(?:['’]s (?:flight|phone|email|card|account|address|husband|wife|mother|father|office|house|car)"
    r"|,? (?:and I|and my)\b"
    r"| (?:said|says|wrote|writes|called|calls|paid|pays|lives|lived|moved|rated|reported|asked|asks|told|met|sent|"
    r"signed|donated|lost|owes|joined|has (?:not )?(?:signed|paid|called|left)|will (?:join|call|see|come)|works|"
    r"worked|is on|is out|never got|was seen|was born|died|can be reached)\b"
    r"| ?<| ?\(?[\w.+-]{1,40}@|:\s)"
)
# Behind a given name that a method, a school or a place bears: Adam优化器, the Adam optimizer.
# No word that may be the person's own: Tom手机, Tom公司, Tom模型做好了.
THING_AFTER = re.compile(
    r" ?(?:优化器|优化算法|算法|定理|定律|引理|不等式|猜想|效应|悖论|分布函数|估计量|编程语言|架构|数据集|"
    r"综合征|综合症|牌(?![\u4e00-\u9fff])|品牌|酒店|大街|大道|广场|公园|机场|体育场|飓风|"
    r"(?:高中|中学|小学|大学|学院|学校)(?=位于|成立|创办|创建|建于|[^\w ]|$)"
    r"|(?<= )(?:optimi[sz]er|algorithm|theorem|lemma|conjecture|estimator|distribution|syndrome|data ?set|benchmark|"
    r"framework|compiler|programming language)s?\b)"
)
_SYLLABLE = (
    r"(?:zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw])?(?:iang|iong|uang|ang|eng|ing|ong|ian|iao|uai|uan|ai|ei|ui|ao|ou|iu|ie|ue|er|"
    r"an|en|in|un|ia|ua|uo|[aeiouv])"
)
PINYIN = re.compile(rf"(?:{_SYLLABLE}){{1,2}}(?:-?{_SYLLABLE})?", re.IGNORECASE)
