import pytest

from danlu.data.cleaning.refusal import Refusal
from danlu.data.records import Record, RowFault

REFUSALS = [
    "As an AI language model, I don't have personal preferences, but here are some ideas.",
    "As an AI, I am not capable of creating a painting.",
    "I'm sorry, but I can't assist with that.",
    "I’m sorry, but I cannot fulfill this request.",
    "Sorry, I can't help with that request.",
    "I apologize, but I'm unable to provide that information.",
    "I am sorry, but as an AI language model, I do not have access to real-time data.",
    "I'm an AI and do not have feelings.",
    "Unfortunately, I cannot open links.",
    "作为一个人工智能语言模型，我没有个人观点。",
    "作为AI助手，我无法访问您的计算机。",
    "作为人工智能，我没有实体形式。",
    "很抱歉，我作为一个文本聊天机器人无法生成表格。",
    "由于我是一个人工智能，我无法给出主观评分。",
    "对不起，我无法回答这个问题，因为它包含冒犯性内容。",
    "抱歉，我不能提供此类信息的相关内容。",
    "我无法查看图片。",
    "非常抱歉，但我无法满足您的要求。",
]
ANSWERS = [
    "I'm sorry, but we cannot refund a transfer that has been completed.",
    "I'm sorry, but I can't find your card in our system. Could you send its last four digits?",
    "Unfortunately, I cannot determine the angle given only two sides.",
    "I'm sorry, but I need more information. Which order do you mean?",
    "I'm sorry, but I'm unable to come into work today.",
    "We can't help with refunds after 30 days; please call the bank.",
    "As an AI engineer, I build language models that refuse such requests.",
    "As an AI assistant for Example Bank, I can show you your last payments.",
    'Many chatbots begin with "As an AI language model, I cannot ...". This is boilerplate.',
    "The phrase 'I can't assist with that' is a refusal.",
    "抱歉，我们无法为已完成的转账退款。",
    "很抱歉，我无法查到您的卡，请提供卡号后四位。",
    "对不起，我无法回答您的问题，因为您并未提供诗歌的具体内容。",
    "作为人工智能工程师，我没有周末。",
    "作为人工智能助手，我很乐意帮助您。",
    "作为银行客服，我无法修改您的密码，请到柜台办理。",
    "机器人三定律：作为机器人，不能伤害人类。",
    "很多模型会说“作为一个人工智能语言模型，我无法……”，这是套话。",
    "我不能吃辣。",
]


def chat(answer, **keys):
    return Record([{"role": "user", "content": "?"}, {"role": "assistant", "content": answer, **keys}])


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_drops_the_row(answer):
    with pytest.raises(RowFault, match=r"^refusal: "):
        Refusal()(chat(answer))


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_speaks_of_a_rule_or_of_refusals_stays(answer):
    record = chat(answer)
    assert Refusal()(record) is record


def test_a_refusal_as_the_unwanted_answer_stays():
    record = Record(chat("好的，如下。").messages, rejected=[{"role": "assistant", "content": REFUSALS[0]}])
    assert Refusal()(record) is record


def test_a_refusal_that_is_not_trained_stays():
    record = Record([*chat(REFUSALS[0], train=False).messages, *chat("好的。").messages])
    assert Refusal()(record) is record


def test_more_patterns_are_searched_anywhere_in_the_answer():
    with pytest.raises(RowFault, match=r"^refusal: 人工客服$"):
        Refusal(patterns=("人工客服",))(chat("您好，请转人工客服。"))
