"""Answers that refuse, or that recite what the writer's model is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from danlu.data.cleaning.texts import answers
from danlu.data.records import Record, RowFault

_SORRY = r"(?:(?:i['’]?m|i am)\s+(?:so |very |really |truly )?sorry|sorry|my apologies|i apologi[sz]e|unfortunately)"
_CANNOT = (
    r"(?:can(?:no|['’])?t|can not|could ?n['’]t|(?:am|['’]m) (?:not able|unable|not allowed|not capable)"
    r"|won['’]t|will not|do(?: not|n['’]t) (?:have|possess|feel|experience|hold)|lack|must decline|"
    r"have to decline|am not|['’]m not)"
)
_MACHINE = (
    r"an? (?:(?:large |artificial intelligence |ai |text-based )*language model|"
    r"ai(?: (?:assistant|model|chatbot|system))?|artificial intelligence(?: (?:assistant|model))?|chatbot|"
    r"machine learning model)"
)
_ENGLISH = (
    # "As an AI language model, I ...": said of nobody else.
    r"as (?:an? )?(?:large |ai |artificial intelligence )*language model\b[^.\n]{0,60}?\bi\b",
    # "As an AI (assistant), I can't / don't have ...", not "As an AI engineer, I build ...".
    rf"as {_MACHINE}\s*,[^.\n]{{0,60}}?\bi ?{_CANNOT}\b",
    rf"i(?:['’]m| am) (?:just |only |sorry, but i am )?{_MACHINE}[,.;]?\s+(?:and|so|but|therefore)?\s*,?\s*"
    rf"(?:i\s*)?{_CANNOT}\b",
    # "I can't assist with that": of this request, not "I can't find your card" or "I can't refund".
    rf"(?:but\s+)?i(?: |(?=['’])){_CANNOT}\s*(?:to\s+)?(?:assist|help)(?: you)?(?: with| in)?"
    r"(?: (?:that|this|your|such)\b[^.\n]{0,40})?[.!\n]",
    rf"(?:but\s+)?i(?: |(?=['’])){_CANNOT}\s*(?:to\s+)?(?:fulfil+|comply with|answer|complete|process|respond to|"
    r"engage (?:in|with)|participate in)\s+(?:that|this|your|such|the)\b[^.\n]{0,40}?"
    r"\b(?:request|prompt|question|task|instruction|conversation|content)s?\b",
    rf"(?:but\s+)?i(?: |(?=['’])){_CANNOT}\s*(?:to\s+)?(?:provide|generate|create|produce|write|offer|share)\s+"
    r"(?:that|this|such|any such|this kind of|that kind of|that type of|content|inappropriate|harmful|offensive)\b",
    rf"(?:but\s+)?i(?: |(?=['’])){_CANNOT}\s*(?:to\s+)?(?:see|view|open|browse|display|show|access|play|hear|process)"
    r"\s+(?:(?:an?|any|the|your|or|hear|external) )*(?:images?|pictures?|photos?|videos?|audio|links?|urls?"
    r"|internet|web)\b",
)
_CHINESE_MACHINE = (
    r"(?:一个|一名|一款|一位|一种)?\s?(?:由\w{1,20}(?:开发|训练)的)?(?:大型|大|自然|基于文本的|文本|文字型?|聊天|语言)*\s?"
    r"(?:人工智能|AI|语言模型|机器人|智能助手|虚拟助手)\s?(?:语言模型|模型|助手|助理|程序|系统|机器人|语言)*"
)
_CHINESE_CANNOT = (
    r"(?:目前|暂时|还|也|是|并|本身|自己|现在)*"
    r"(?:无法|不能|没有|没法|不会|不具备|不具有|不可以|不支持|不拥有|不方便|不是)"
)
_THIS = r"(?:这|此|该|那|您的|你的|您|你|任何)"
_CHINESE = (
    # 作为一个人工智能语言模型，我 ...
    r"作为(?:一个|一名|一款|一种)?(?:大型|大)?(?:人工智能|AI|自然)?\s?语言(?:处理)?模型[，,、\s]*我",
    # 作为AI助手，我无法 ... 我作为一个机器人无法 ... 由于我是一个人工智能，我没有 ...
    rf"作为{_CHINESE_MACHINE}[，,、\s]*(?:很抱歉|抱歉)?[，,]?我{_CHINESE_CANNOT}",
    rf"(?:由于|因为)?我(?:只|仅仅|仅)?(?:是|作为){_CHINESE_MACHINE}[，,。]?\s?(?:所以|因此)?[，,]?我?{_CHINESE_CANNOT}",
    # 我无法回答这个问题: of this request, not 我们无法退款 or 我无法查到您的卡.
    # The look-ahead lets 因为您没有提供诗歌 pass: a question back, no refusal.
    r"(?![^。\n]{0,60}(?:没有|未|没)(?:有)?(?:给|提供|说明|指定))"
    rf"(?:但是?)?我{_CHINESE_CANNOT}(?:够|继续)?(?:为[您你])?(?:回答|完成|满足|处理|执行|提供|生成|协助|理解|回应|答复|讨论)"
    rf"{_THIS}[^。！\n]{{0,20}}(?:问题|请求|要求|任务|指令|内容|话题)",
    rf"(?:但是?)?我{_CHINESE_CANNOT}(?:够)?(?:直接)?(?:查看|打开|浏览|访问|显示|播放|看到|观看|识别)[^。，！\n]{{0,8}}"
    r"(?:图片|图像|照片|视频|音频|链接|网页|互联网|网络)",
    rf"(?:但是?)?我{_CHINESE_CANNOT}(?:够)?(?:帮助|协助|帮)[您你]?(?:完成|做|处理)?(?:这个|此|该|这样的)?(?:事情|忙|请求)?[。！]?$",
)
_OPENING = rf"\W*(?:{_SORRY}\b[\s,.;:!—-]*(?:(?:but|that|for (?:any|the) \w+)\b[\s,]*)?)?"
_CHINESE_OPENING = (
    r"\W*(?:[喔哦噢不啊]{1,2}[，,])?(?:(?:我)?(?:很|非常|十分|真的|真)?(?:抱歉|对不起|遗憾|不好意思)(?:地(?:告诉|通知)[您你])?[\s，,。！!；:：]*"
    r"(?:但是|但|不过)?[\s，,]*)?"
)


class Refusal:
    """Drops rows with a trained answer that begins as a refusal of the request itself, or as boilerplate.

    Only an answer's beginning counts, after an apology if there is one: "As an AI language model, I ...",
    "I'm sorry, but I can't assist with that", 作为一个人工智能语言模型，我…, 对不起，我无法回答这个问题. A refusal that
    belongs to the business ("I'm sorry, but we cannot refund ...", 抱歉，我们无法退款) stays, and so does a refusing
    answer as the unwanted one of a preference pair. `patterns`: more expressions, searched anywhere in such an answer.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self.name = "refusal"
        self._beginnings = (
            re.compile(rf"{_OPENING}(?:{'|'.join(_ENGLISH)})", re.IGNORECASE),
            re.compile(rf"{_CHINESE_OPENING}(?:{'|'.join(_CHINESE)})", re.IGNORECASE),
        )
        self._patterns = [re.compile(pattern) for pattern in patterns]

    def __call__(self, record: Record) -> Record:
        """The record as it is.

        Raises:
            RowFault: an answer is a refusal.
        """
        for text in answers(record):
            if any(beginning.match(text[:400]) for beginning in self._beginnings):
                raise RowFault("refusal: the answer begins with one")
            for pattern in self._patterns:
                if pattern.search(text):
                    raise RowFault(f"refusal: {pattern.pattern}")
        return record
