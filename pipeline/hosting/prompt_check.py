"""Whether a host turns a conversation into the bytes that were trained on.

A host may render with another template than ours: a file's own, a built-in one, or an older one
of ours. The persona would answer, only worse, and no one would know why.
"""

from pipeline.hosting.port import ModelHost, Options
from pipeline.text.chat_format import ChatFormat
from schemas.errors import ChatFormatMismatch

# Several turns in both languages; nobody's words.
_CONVERSATION = (
    {"role": "user", "content": "你好，请问今天星期几？"},
    {"role": "assistant", "content": "今天是星期三。"},
    {"role": "user", "content": "Thank you.\nAnd tomorrow?"},
)
_SENTENCE = (
    "the host turns a conversation into another prompt than the one that was trained on; check "
    "chat_format in training_config.yaml and OLLAMA_GO_TEMPLATE of the host, then train again"
)


def check_prompt(host: ModelHost, tag: str, form: ChatFormat, system: str, *, num_ctx: int) -> None:
    """Raise ChatFormatMismatch unless a model's host renders a conversation as `form` does.

    `system` is what the model was created with. A host that shows its prompts is asked for one;
    with another, the prompt's tokens are counted and compared with those of our own rendering.
    Raises what the host raises.
    """
    expected = form.render(
        [{"role": "system", "content": system}, *_CONVERSATION], add_generation_prompt=True
    )
    options: Options = {"temperature": 0, "num_predict": 1, "num_ctx": num_ctx}
    rendered = host.render(tag, _CONVERSATION, options)
    if rendered is not None:
        is_same = rendered == expected
    else:
        asked = host.ask(tag, _CONVERSATION, options).prompt_tokens
        is_same = asked == host.complete(tag, expected, options).prompt_tokens
    if not is_same:
        raise ChatFormatMismatch(_SENTENCE)
