"""Chat: one question of the family, answered by the elder's current version."""

import time
from collections.abc import AsyncIterator, Callable, Sequence

import ollama

from config.settings import ChatSettings, OllamaSettings
from pipeline.chat_store import ChatStore
from pipeline.model_host import Completion, Message, ollama_errors, to_completion
from schemas.errors import ModelNotReady, ModelServerError, UnknownElder
from schemas.events import ChatReply, ChatRequest, ChatTurn, ErrorBody, Usage

# A token has at least two characters on average in every language served here.
_CHARACTERS_A_TOKEN = 2


class ChatService:
    """Answers chat requests through Ollama."""

    def __init__(
        self,
        store: ChatStore,
        ollama_settings: OllamaSettings,
        settings: ChatSettings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._settings = settings
        self._keep_alive = ollama_settings.keep_alive
        self._client = ollama.AsyncClient(
            host=ollama_settings.host, timeout=ollama_settings.timeout_s
        )
        self._monotonic = monotonic

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer a request as a whole.

        Raises UnknownElder, ModelNotReady, OllamaUnavailable or StoreUnavailable.
        """
        begun = self._monotonic()
        tag = await self._tag(request.elder_id)
        with ollama_errors():
            response = await self._client.chat(
                model=tag,
                messages=self._messages(request),
                options=self._options(request),
                keep_alive=self._keep_alive,
            )
        return self._reply(request, tag, to_completion(response), begun)

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatReply]:
        """Yield pieces of text as they come, and last the whole reply."""
        begun = self._monotonic()
        tag = await self._tag(request.elder_id)
        pieces: list[str] = []
        usage = (0, 0)
        with ollama_errors():
            stream = await self._client.chat(
                model=tag,
                messages=self._messages(request),
                options=self._options(request),
                keep_alive=self._keep_alive,
                stream=True,
            )
            async for part in stream:
                if part.message.content:
                    pieces.append(part.message.content)
                    yield part.message.content
                if part.done:
                    usage = (part.prompt_eval_count or 0, part.eval_count or 0)
        whole = Completion(text="".join(pieces), prompt_tokens=usage[0], completion_tokens=usage[1])
        yield self._reply(request, tag, whole, begun)

    def refusal(self, elder_id: str, error: ModelServerError, begun: float) -> ChatReply:
        """Build the reply that tells of an error; `begun` on this service's clock."""
        return ChatReply(
            elder_id=elder_id,
            reply="",
            model=None,
            duration_ms=self._since(begun),
            error=ErrorBody(code=error.code, message=error.message),
        )

    async def _tag(self, elder_id: str) -> str:
        model = await self._store.model(elder_id)
        if model is not None and model.serving is not None:
            return model.serving.tag
        if model is None and not await self._store.is_known(elder_id):
            raise UnknownElder
        raise ModelNotReady

    def _messages(self, request: ChatRequest) -> list[Message]:
        """The newest turns that fit the window, then the question; Ollama adds the prompt."""
        room = (self._settings.num_ctx // 2) * _CHARACTERS_A_TOKEN - len(request.message)
        kept = newest_turns(request.conversation_history, room)
        turns: list[Message] = [{"role": t.role, "content": t.content} for t in kept]
        return [*turns, {"role": "user", "content": request.message}]

    def _options(self, request: ChatRequest) -> dict[str, float | int]:
        asked = request.options
        options: dict[str, float | int | None] = {
            "temperature": (
                self._settings.temperature if asked.temperature is None else asked.temperature
            ),
            "num_predict": asked.max_tokens or self._settings.max_tokens,
            "num_ctx": self._settings.num_ctx,
            "top_p": asked.top_p,
            "seed": asked.seed,
        }
        return {name: value for name, value in options.items() if value is not None}

    def _reply(
        self, request: ChatRequest, tag: str, completion: Completion, begun: float
    ) -> ChatReply:
        return ChatReply(
            elder_id=request.elder_id,
            reply=completion.text.strip(),
            model=tag,
            usage=Usage(
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
            ),
            duration_ms=self._since(begun),
        )

    def _since(self, begun: float) -> int:
        return round((self._monotonic() - begun) * 1000)


def newest_turns(history: Sequence[ChatTurn], room: int) -> list[ChatTurn]:
    """Keep the newest turns within `room` characters, beginning with the family's."""
    kept: list[ChatTurn] = []
    for turn in reversed(history):
        room -= len(turn.content)
        if room < 0:
            break
        kept.append(turn)
    kept.reverse()
    while kept and kept[0].role != "user":
        kept.pop(0)
    return kept
