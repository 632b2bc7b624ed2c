"""The chat service: answers a family's question with the elder's serving version."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import ollama

from config.settings import ChatSettings, OllamaSettings
from pipeline.chat.history import newest_turns
from pipeline.chat.sources import SourceFinder, to_sources
from pipeline.chat.store import ChatStore
from pipeline.hosting.ollama import to_completion
from pipeline.hosting.ollama_errors import ollama_errors
from pipeline.hosting.port import Completion, Message
from pipeline.retrieval.bm25 import Match
from pipeline.text.markers import defuse_markers
from pipeline.text.rewording import with_hint
from schemas.documents import ModelVersion
from schemas.errors import ModelNotReady, OllamaFailed, UnknownElder
from schemas.events import ChatReply, ChatRequest, Usage

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
        on_lost: Callable[[str, bool], str | None] = lambda elder_id, is_gone: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_lost` is called when the host cannot serve a model, and may block.

        It gets the elder's id, and True if the host no longer has the model. It returns the id of
        the job that brings the model back, or None.
        """
        self._store = store
        self._settings = settings
        self._keep_alive = ollama_settings.keep_alive
        self._client = ollama.AsyncClient(
            host=ollama_settings.host, timeout=ollama_settings.timeout_s
        )
        self._on_lost = on_lost
        self._monotonic = monotonic
        self._sources = SourceFinder(store, settings.num_ctx)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()  # type: ignore[no-untyped-call]  # the client has no py.typed

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer a request in one reply.

        Raises UnknownElder, ModelNotReady, OllamaUnavailable or StoreUnavailable.
        """
        begun = self._monotonic()
        version = await self._serving(request.elder_id)
        match = await self._sources.find(request.elder_id, version.dataset_sha256, request.message)
        async with self._host_errors(request):
            response = await self._client.chat(
                model=version.tag,
                messages=self._messages(request, match),
                options=self._options(request),
                keep_alive=self._keep_alive,
            )
        return self._reply(request, version, match, to_completion(response), begun)

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatReply]:
        """Yield the text in pieces as it is generated, then the whole reply; raises as `answer`."""
        begun = self._monotonic()
        version = await self._serving(request.elder_id)
        match = await self._sources.find(request.elder_id, version.dataset_sha256, request.message)
        pieces: list[str] = []
        usage = (0, 0)
        async with self._host_errors(request):
            stream = await self._client.chat(
                model=version.tag,
                messages=self._messages(request, match),
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
        yield self._reply(request, version, match, whole, begun)

    @asynccontextmanager
    async def _host_errors(self, request: ChatRequest) -> AsyncIterator[None]:
        """Convert the host's errors to the service's; request a job for a lost model."""
        said = [request.message, *(turn.content for turn in request.conversation_history)]
        try:
            with ollama_errors(said):
                yield
        except (ModelNotReady, OllamaFailed) as error:
            is_gone = isinstance(error, ModelNotReady)
            job_id = await asyncio.to_thread(self._on_lost, request.elder_id, is_gone)
            if job_id is None:
                raise
            raise ModelNotReady(
                f"the model host has lost this model; job {job_id} brings it back, ask again then"
            ) from error

    async def _serving(self, elder_id: str) -> ModelVersion:
        model = await self._store.model(elder_id)
        if model is not None and model.serving is not None:
            return model.serving
        if model is None and not await self._store.is_known(elder_id):
            raise UnknownElder
        raise ModelNotReady

    def _messages(self, request: ChatRequest, match: Match | None) -> list[Message]:
        """Return the newest turns that fit the context window, then the question.

        The host adds the system prompt. Chat markers in the texts are defused, as in training.
        """
        question = with_hint(request.message, match.question) if match else request.message
        # History and question together get half of the context window.
        budget = (self._settings.num_ctx // 2) * _CHARACTERS_A_TOKEN - len(question)
        kept = newest_turns(request.conversation_history, budget)
        turns = [(t.role, t.content) for t in kept]
        return [
            {"role": role, "content": defuse_markers(content)}
            for role, content in (*turns, ("user", question))
        ]

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
        self,
        request: ChatRequest,
        version: ModelVersion,
        match: Match | None,
        completion: Completion,
        begun: float,
    ) -> ChatReply:
        return ChatReply(
            elder_id=request.elder_id,
            reply=completion.text.strip(),
            model=version.tag,
            sources=to_sources(match),
            usage=Usage(
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
            ),
            duration_ms=self._since(begun),
        )

    def _since(self, begun: float) -> int:
        return round((self._monotonic() - begun) * 1000)
