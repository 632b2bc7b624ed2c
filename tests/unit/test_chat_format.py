"""A conversation reads the same in training and in Ollama, in every family."""

from typing import get_args

import pytest

from pipeline.chat_format import chat_format
from pipeline.hosting.server.rendering import PromptTemplate
from pipeline.hosting.server.shapes import Turn
from schemas.training import ChatFormatName

NAMES: tuple[ChatFormatName, ...] = get_args(ChatFormatName)
FIRST = (("system", "S s."), ("user", "U？"))
LATER = (*FIRST, ("assistant", "A."), ("user", "你好\n再见"))
BARE = (("user", "U"),)


def messages(pairs: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    """Return messages of (role, content)."""
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pairs", [FIRST, LATER, BARE], ids=["first", "later", "bare"])
def test_ollama_renders_what_was_trained_on(
    name: ChatFormatName, pairs: tuple[tuple[str, str], ...]
) -> None:
    """The template gives the text of `render`, character for character."""
    form = chat_format(name)
    served = PromptTemplate(form.ollama_template).render(
        [Turn(role=role, content=content) for role, content in pairs]
    )
    assert served == form.render(messages(pairs), add_generation_prompt=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_the_beginning_of_the_whole(name: ChatFormatName) -> None:
    """What is asked, and the answer after it, is the conversation as it was trained on."""
    form = chat_format(name)
    prompt = form.render(messages(FIRST), add_generation_prompt=True)
    whole = form.render(messages((*FIRST, ("assistant", "A."))), add_generation_prompt=False)
    assert whole.startswith(f"{prompt}A.{form.end_of_turn}")


@pytest.mark.parametrize("name", NAMES)
def test_generation_stops_where_an_answer_was_taught_to_end(name: ChatFormatName) -> None:
    """The end of a turn is among the stop strings, and ends what is rendered."""
    form = chat_format(name)
    assert form.end_of_turn in form.stop
    assert (
        form.render(messages(BARE), add_generation_prompt=False).rstrip().endswith(form.end_of_turn)
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_text_never_holds_the_beginning_token(name: ChatFormatName) -> None:
    """llama.cpp adds it by the GGUF's metadata; twice would be another prompt than trained on."""
    form = chat_format(name)
    texts = form.ollama_template + form.render(messages(LATER), add_generation_prompt=True)
    assert "<bos>" not in texts
    assert "<|begin_of_text|>" not in texts


def test_chatml_is_written_as_qwen_writes_it() -> None:
    """The exact text of Qwen 2.5's and SmolLM2's own chat template."""
    text = chat_format("chatml").render(messages(FIRST), add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nS s.<|im_end|>\n<|im_start|>user\nU？<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
