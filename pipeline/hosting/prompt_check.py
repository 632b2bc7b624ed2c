"""Checks that a host renders a conversation into the same prompt as training did.

A host may use another template than ours: one inside the file, a built-in one, or an older one of
ours. The persona would still answer, only worse, and nothing would point to the cause.
"""

from pipeline.hosting.port import ModelHost, Options
from pipeline.text.chat_format import ChatFormat
from schemas.errors import ChatFormatMismatch

# Several turns in both languages, invented.
_CONVERSATION = (
    {"role": "user", "content": "你好，请问今天星期几？"},
    {"role": "assistant", "content": "今天是星期三。"},
    {"role": "user", "content": "Thank you.\nAnd tomorrow?"},
)
_MESSAGE = (
    "the host turns a conversation into another prompt than the one that was trained on; check "
    "chat_format in training_config.yaml and OLLAMA_GO_TEMPLATE of the host, then train again"
)


def check_prompt(host: ModelHost, tag: str, form: ChatFormat, system: str, *, num_ctx: int) -> None:
    """Raise ChatFormatMismatch unless a model's host renders a conversation as `form` does.

    The host's prompt is compared with ours. If the host cannot show its prompts, the numbers of
    tokens are compared instead. Raises what the host raises.

    Args:
        host: the host to check.
        tag: the model on it.
        form: the chat format that the model was trained with.
        system: the system text that the model was created with.
        num_ctx: tokens of context for the requests.
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
        raise ChatFormatMismatch(_MESSAGE)
