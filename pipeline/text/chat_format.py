"""Chat formats: how a conversation becomes text, the same for training and serving.

Training tokenizes what `render` returns; Ollama renders `ollama_template`. Neither contains the
beginning-of-text token: in training it is added to the tokens, in serving llama.cpp adds it if
the GGUF's `tokenizer.ggml.add_bos_token` says so. Markers in what people wrote are only text:
`render` replaces them by `defuse_markers`, and any code that sends messages to a host must do so.

Sources: ChatML (OpenAI); the model cards of Gemma and Llama 3.1. Gemma has no system role: its
system text is a user turn of its own, as in Ollama's template for Gemma 3.
"""

from collections.abc import Mapping, Sequence

from pipeline.text.markers import defuse_markers
from pipeline.text.ollama_template import build_ollama_template
from schemas.base import Frozen
from schemas.training import ChatFormatName

Message = Mapping[str, str]


class ChatFormat(Frozen):
    """The markers of one family of base models."""

    name: ChatFormatName
    system_open: str
    user_open: str
    assistant_open: str
    close: str
    """What follows the text of a turn: `end_of_turn`, and in some families a line break."""
    end_of_turn: str
    """The marker that ends an answer; one token in the family's tokenizers."""
    bos: bool
    """Whether a conversation begins with the beginning-of-text token."""

    @property
    def stop(self) -> tuple[str, ...]:
        """The strings at which generation stops."""
        return (self.end_of_turn,)

    @property
    def ollama_template(self) -> str:
        """The same rendering as an Ollama TEMPLATE (Go's text/template)."""
        return build_ollama_template(
            system_open=self.system_open,
            user_open=self.user_open,
            assistant_open=self.assistant_open,
            close=self.close,
        )

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """Render a conversation; a generation prompt opens the assistant's next turn."""
        openings = {
            "system": self.system_open,
            "user": self.user_open,
            "assistant": self.assistant_open,
        }
        turns = [
            f"{openings[m['role']]}{defuse_markers(m['content'])}{self.close}" for m in messages
        ]
        return "".join(turns) + (self.assistant_open if add_generation_prompt else "")

    def render_answer(self, content: str) -> str:
        """Render the assistant's turn as it follows a generation prompt, its end included."""
        return defuse_markers(content) + self.end_of_turn


_FORMATS: dict[ChatFormatName, ChatFormat] = {
    "chatml": ChatFormat(
        name="chatml",
        system_open="<|im_start|>system\n",
        user_open="<|im_start|>user\n",
        assistant_open="<|im_start|>assistant\n",
        close="<|im_end|>\n",
        end_of_turn="<|im_end|>",
        bos=False,
    ),
    "gemma": ChatFormat(
        name="gemma",
        system_open="<start_of_turn>user\n",
        user_open="<start_of_turn>user\n",
        assistant_open="<start_of_turn>model\n",
        close="<end_of_turn>\n",
        end_of_turn="<end_of_turn>",
        bos=True,
    ),
    "llama3": ChatFormat(
        name="llama3",
        system_open="<|start_header_id|>system<|end_header_id|>\n\n",
        user_open="<|start_header_id|>user<|end_header_id|>\n\n",
        assistant_open="<|start_header_id|>assistant<|end_header_id|>\n\n",
        close="<|eot_id|>",
        end_of_turn="<|eot_id|>",
        bos=True,
    ),
}


def chat_format(name: ChatFormatName) -> ChatFormat:
    """Return the chat format with this name."""
    return _FORMATS[name]
