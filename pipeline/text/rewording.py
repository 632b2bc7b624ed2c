"""Other wordings of a question, made from itself, for training.

An elder was asked each question once, in one wording; the family will ask in others. Only the
question changes: the answer is what the elder said and is never touched. Nothing is made up:
words are dropped, moved or put under an opener, and a piece of the answer may be asked for, as
somebody does who remembers half of it. (Word dropping and synonyms: Wei and Zou 2019, "EDA".)
"""

import random
import re

from pipeline.text.cleaning import language_of

# Words that carry the grammar of a question and not its topic.
_ZH_FUNCTION = (
    "什么时候|什么地方|什么样|什么|怎么样|怎么|为什么|哪一年|哪年|哪月|哪里|哪儿|哪些|哪个|哪|"
    "多少|几|谁|有没有|是不是|您的|您|你的|你|我们|我|那时候|当年|从前|以前|小时候|"
    "吗|呢|呀|啊|吧|么|的|了|是|在|和|跟|就|都|也|还|把|被|给|对|过|得|着|最|很"
)
_ZH_SPLIT = re.compile(f"(?:{_ZH_FUNCTION}|[，。？！、；：“”《》\\s])+")
_EN_GRAMMAR = """
a an the and or but of to in on at by for with from as is are was were be been do did does have has
had what when where who whom whose which why how your you yours my me i we us our he she they them
his her their it its this that these those there any ever so very most first once about into up out
if tell can could would will
"""
GRAMMAR_WORDS = frozenset(_EN_GRAMMAR.split())
_EN_WORD = re.compile(r"[A-Za-z0-9']+")
_ZH_OPENERS = ("奶奶，", "爷爷，", "跟我讲讲", "给我说说", "想听听", "还记得", "您说说", "")
_EN_OPENERS = (
    "Grandpa, ",
    "Grandma, ",
    "Tell me about ",
    "I'd like to hear about ",
    "Remember ",
    "",
)
_ZH_CLOSERS = ("的事", "呀？", "吗？", "是怎么回事？", "")
_EN_CLOSERS = ("?", ", how was that?", ", please.", "")
# Words that families use for one another; each group is one meaning in interviews of this kind.
_ZH_SAME = (
    "父亲 爹 爸爸 爸",
    "母亲 娘 妈妈 妈",
    "老家 家乡 故乡",
    "丈夫 老伴 先生",
    "妻子 老伴 太太",
    "结婚 成亲 成家 婚礼",
    "孩子 儿女 子女",
    "工作 上班 做事 干活",
    "出生 生日 生",
    "营生 行当 职业 干哪行",
    "学校 学堂",
    "读书 念书 上学",
    "老师 先生 师傅",
    "朋友 伙伴 要好的",
    "兄弟姐妹 手足 兄弟 姐妹",
    "喜欢 爱 中意",
    "菜 吃的 饭菜",
    "歌 曲子",
    "戏 唱段",
    "难忘 记得最清 忘不了",
    "困难 苦 难处",
    "教训 教 教会",
    "家训 家规",
    "口头禅 常说的话",
    "过年 年节 春节",
    "衣服 衣裳",
    "房子 屋子 住处",
    "东西 物件",
    "愿望 心愿 盼",
    "年轻 小年轻 后生",
    "小时候 儿时 童年",
    "嘱咐 叮嘱 交代",
    "手艺 本事 技术",
    "退休 歇下来",
    "礼物 东西",
    "受伤 伤",
    "害怕 怕",
    "高兴 开心",
    "最后 末了",
)
_EN_SAME = (
    "father dad",
    "mother mum mom",
    "wife spouse",
    "husband spouse",
    "married wed wedding",
    "children kids",
    "job work trade living",
    "boat vessel ship",
    "born birth birthday",
    "school schooling lessons",
    "taught learn teacher",
    "friend mate pal",
    "brother sister siblings",
    "favourite favorite best-loved",
    "food dish meal eat",
    "song tune sing",
    "afraid fear scared",
    "advice counsel lesson",
    "saying motto words",
    "home house",
    "village island place",
    "storm gale weather",
    "money pay wages",
    "dog pet animal",
    "present gift",
    "proud pride",
    "regret sorry",
    "remember memory",
    "grew childhood young",
    "build made built making",
    "dance dancing",
    "church chapel",
    "hurt injury accident",
    "keep kept treasure",
    "wish hope",
)
_SAME = {
    word: [other for other in group.split() if other != word]
    for group in (*_ZH_SAME, *_EN_SAME)
    for word in group.split()
}
_ZH_KNOWN = re.compile("|".join(w for g in _ZH_SAME for w in g.split() if len(w) > 1))


def reword(question: str, answer: str, count: int, seed: int) -> list[str]:
    """Make `count` other wordings of a question; the same seed gives the same ones.

    Every second one has the taught wording beside it.
    """
    chance = random.Random(f"{seed}/{question}")
    make = _reword_zh if language_of(question) == "zh" else _reword_en
    worded = [make(question, answer, chance, number) for number in range(count)]
    return [with_hint(w, question) if n % 2 else w for n, w in enumerate(worded)]


def with_hint(question: str, taught: str) -> str:
    """Put the interviewer's wording beside a question, as the chat does when it knows it."""
    if question.strip() == taught:
        return taught
    return f"{question}（{taught}）" if language_of(taught) == "zh" else f"{question} ({taught})"


def _reword_zh(question: str, answer: str, chance: random.Random, number: int) -> str:
    if number % 5 == 2 and (piece := _piece(_ZH_SPLIT.split(answer), chance)):
        topic = piece
    else:
        asked = _ZH_KNOWN.sub(lambda match: _other_word(match[0], chance), question)
        topic = "".join(_keep([p for p in _ZH_SPLIT.split(asked) if p], chance)) or question
    return chance.choice(_ZH_OPENERS) + topic + chance.choice(_ZH_CLOSERS)


def _reword_en(question: str, answer: str, chance: random.Random, number: int) -> str:
    if number % 5 == 2 and (piece := _piece(re.split(r"[,.;!?]", answer), chance)):
        topic = piece
    else:
        content = [w for w in _EN_WORD.findall(question) if w.lower() not in GRAMMAR_WORDS]
        words = [_other_word(word, chance) for word in content]
        topic = " ".join(_keep(words, chance)) or question
    return chance.choice(_EN_OPENERS) + topic + chance.choice(_EN_CLOSERS)


def _other_word(word: str, chance: random.Random) -> str:
    """Sometimes say it with another word of the same meaning."""
    others = _SAME.get(word.lower())
    return chance.choice(others) if others and chance.random() < 0.5 else word


def _keep(words: list[str], chance: random.Random) -> list[str]:
    """Keep at least half of the words, sometimes in another order."""
    kept = [w for w in words if chance.random() < 0.8]
    if len(kept) * 2 < len(words):
        kept = list(words)
    if chance.random() < 0.4:
        chance.shuffle(kept)
    return kept


def _piece(parts: list[str], chance: random.Random) -> str:
    """Choose one of the longer pieces of an answer."""
    pieces = [p.strip() for p in parts if len(p.strip()) >= 2]
    return chance.choice(pieces) if pieces else ""
