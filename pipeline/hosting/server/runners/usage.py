"""What a runner reports of a completion: tokens, their probabilities, durations."""

from schemas.base import Frozen


class TokenLogprob(Frozen):
    """A token and its log probability; `top` has the likeliest tokens at the same position."""

    token: str
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


class Usage(Frozen):
    """Why an answer ended, its token counts and its durations in nanoseconds."""

    done_reason: str
    prompt_tokens: int
    prompt_ns: int
    answer_tokens: int
    answer_ns: int
    cached_tokens: int | None = None
    """Prompt tokens reused from the slot's cache; None if llama.cpp does not report it."""
