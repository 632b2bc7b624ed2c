"""How a conversation becomes text, by family of base model: one truth for training and serving.

Training tokenizes what `render` gives; Ollama renders `ollama_template`. A beginning-of-text
token stands in neither: the tokenizer adds it in training, llama.cpp by the GGUF's
`tokenizer.ggml.add_bos_token` in serving. What people wrote is text: `render` lets none of its
markers through, and whoever sends messages to a host does the same with `defuse_markers`.

Sources: ChatML (OpenAI), the Gemma and Llama 3.1 model cards. Gemma has no system role; its
system text is a user turn of its own, as in Ollama's template for Gemma 3.
"""

from collections.abc import Mapping, Sequence

from pipeline.text.markers import defuse_markers
from pipeline.text.ollama_template import build_ollama_template
from schemas.base import Frozen
from schemas.training import ChatFormatName

Message = Mapping[str, str]


class ChatFormat(Frozen):
    """The markers of one family. `close` ends a turn; `stop` is what generation ends at."""

    name: ChatFormatName
    system_open: str
    user_open: str
    assistant_open: str
    close: str
    end_of_turn: str
    bos: bool

    @property
    def stop(self) -> tuple[str, ...]:
        """The strings at which an answer ends."""
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
        """Render a conversation, ready for the assistant's next turn if that is asked for."""
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
        """Render what the assistant says after a prompt, up to the end of its turn."""
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
    """Return the format of a family."""
    return _FORMATS[name]
