"""The remaining time as people say it: `5分钟`, `1小时20分钟`, `5 min`, `40 s`."""

from config.training import Language


def format_eta(seconds: int, language: Language) -> str:
    """Write a duration in one or two units; seconds only below a minute."""
    hours, minutes, rest = seconds // 3600, seconds % 3600 // 60, seconds % 60
    if hours:
        parts = [(hours, "小时", " h"), (minutes, "分钟", " min")]
    elif minutes:
        parts = [(minutes + (rest >= 30), "分钟", " min")]
    else:
        parts = [(rest, "秒", " s")]
    words = [f"{n}{zh if language == 'zh' else en}" for n, zh, en in parts if n or len(parts) == 1]
    return ("" if language == "zh" else " ").join(words)
