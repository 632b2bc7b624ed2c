"""Chat: one question of the family, answered by the elder's current version."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import ollama

from config.settings import ChatSettings, OllamaSettings
from pipeline.chat.store import ChatStore
from pipeline.hosting.ollama import to_completion
from pipeline.hosting.ollama_errors import ollama_errors
from pipeline.hosting.port import Completion, Message
from pipeline.retrieval.bm25 import Memories, Memory, MemoryCache
from pipeline.text.cleaning import Cleaner
from pipeline.text.markers import defuse_markers
from pipeline.text.rewording import with_hint
from schemas.answers import Answer
from schemas.documents import ModelVersion
from schemas.errors import ModelNotReady, OllamaFailed, UnknownElder
from schemas.events import ChatReply, ChatRequest, ChatTurn, Source, Usage

# A token has at least two characters on average in every language served here.
_CHARACTERS_A_TOKEN = 2
# An elder's answers are indexed when she is first asked.
_MOST_MEMORIES = 5000
# How far the best answer must be ahead of the next to count as what the question is about.
_STANDS_OUT = 0.1


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
        """`on_lost` is told of an elder whose model the host has lost or fails at; it may block.

        It is told whether the model is gone, and returns the id of the job that brings it back, if
        there is one.
        """
        self._store = store
        self._settings = settings
        self._keep_alive = ollama_settings.keep_alive
        self._client = ollama.AsyncClient(
            host=ollama_settings.host, timeout=ollama_settings.timeout_s
        )
        self._on_lost = on_lost
        self._monotonic = monotonic
        self._memories = MemoryCache()
        self._building = asyncio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()  # type: ignore[no-untyped-call]  # the client has no py.typed

    async def answer(self, request: ChatRequest) -> ChatReply:
        """Answer a request as a whole.

        Raises UnknownElder, ModelNotReady, OllamaUnavailable or StoreUnavailable.
        """
        begun = self._monotonic()
        version = await self._serving(request.elder_id)
        memory = await self._remember(request, version)
        async with self._host_errors(request):
            response = await self._client.chat(
                model=version.tag,
                messages=self._messages(request, memory),
                options=self._options(request),
                keep_alive=self._keep_alive,
            )
        return self._reply(request, version, memory, to_completion(response), begun)

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatReply]:
        """Yield pieces of text as they come, and last the whole reply."""
        begun = self._monotonic()
        version = await self._serving(request.elder_id)
        memory = await self._remember(request, version)
        pieces: list[str] = []
        usage = (0, 0)
        async with self._host_errors(request):
            stream = await self._client.chat(
                model=version.tag,
                messages=self._messages(request, memory),
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
        yield self._reply(request, version, memory, whole, begun)

    @asynccontextmanager
    async def _host_errors(self, request: ChatRequest) -> AsyncIterator[None]:
        """Turn the host's errors into ours; a model that it lost is asked for again."""
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

    async def _remember(self, request: ChatRequest, version: ModelVersion) -> Memory | None:
        """Find the answer a question is about, where one stands out."""
        elder_id, dataset = request.elder_id, version.dataset_sha256
        memories = self._memories.get(elder_id, dataset)
        if memories is None:
            # One after the other: while it is built an index takes ten times its room.
            async with self._building:
                memories = await self._build(elder_id, dataset)
        found = memories.find(request.message)
        return found if found is not None and found.margin >= _STANDS_OUT else None

    async def _build(self, elder_id: str, dataset_sha256: str) -> Memories:
        memories = self._memories.get(elder_id, dataset_sha256)
        if memories is None:
            answers = await self._store.answers(elder_id, _MOST_MEMORIES)
            # A long life takes seconds: the others' chats go on meanwhile.
            memories = await asyncio.to_thread(self._index, answers)
            self._memories.put(elder_id, dataset_sha256, memories)
        return memories

    def _index(self, answers: list[Answer]) -> Memories:
        return Memories(Cleaner(self._settings.num_ctx).clean(answers))

    def _messages(self, request: ChatRequest, memory: Memory | None) -> list[Message]:
        """The newest turns that fit the window, then the question; Ollama adds the prompt.

        Markers in what was written are text, as in training.
        """
        question = with_hint(request.message, memory.question) if memory else request.message
        room = (self._settings.num_ctx // 2) * _CHARACTERS_A_TOKEN - len(question)
        kept = newest_turns(request.conversation_history, room)
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
        memory: Memory | None,
        completion: Completion,
        begun: float,
    ) -> ChatReply:
        sources = (
            Source(answer_id=m.answer_id, question=m.question, score=m.score)
            for m in (memory,)
            if m is not None
        )
        return ChatReply(
            elder_id=request.elder_id,
            reply=completion.text.strip(),
            model=version.tag,
            sources=tuple(sources),
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
