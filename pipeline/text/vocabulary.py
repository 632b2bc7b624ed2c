"""The vocabulary of interviews about a life: grammar words and synonyms."""

import re

# Words that carry the grammar of a question, not its topic. A longer word precedes its own prefix.
_ZH_FUNCTION = (
    "什么时候|什么地方|什么样|什么|怎么样|怎么|为什么|哪一年|哪年|哪月|哪里|哪儿|哪些|哪个|哪|"
    "多少|几|谁|有没有|是不是|您的|您|你的|你|我们|我|那时候|当年|从前|以前|小时候|"
    "吗|呢|呀|啊|吧|么|的|了|是|在|和|跟|就|都|也|还|把|被|给|对|过|得|着|最|很"
)
ZH_GRAMMAR = re.compile(f"(?:{_ZH_FUNCTION}|[，。？！、；：“”《》\\s])+")
"""A run of Chinese grammar words, punctuation and white space: what stands between topic words."""
_EN_GRAMMAR = """
a an the and or but of to in on at by for with from as is are was were be been do did does have has
had what when where who whom whose which why how your you yours my me i we us our he she they them
his her their it its this that these those there any ever so very most first once about into up out
if tell can could would will
"""
GRAMMAR_WORDS = frozenset(_EN_GRAMMAR.split())
"""English grammar words, in lower case."""
# Each line has words that mean the same in such an interview; a word may stand in several.
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
SYNONYMS = {
    word: [other for other in group.split() if other != word]
    for group in (*_ZH_SAME, *_EN_SAME)
    for word in group.split()
}
"""The synonyms of each word."""
ZH_WITH_SYNONYMS = re.compile("|".join(w for g in _ZH_SAME for w in g.split() if len(w) > 1))
"""A Chinese word of two or more characters that has synonyms."""
