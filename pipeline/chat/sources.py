"""A reply's sources: the elder's own answer that a question is about, if one stands out."""

import asyncio

from pipeline.chat.store import ChatStore
from pipeline.retrieval.bm25 import AnswerIndex, Match
from pipeline.retrieval.index_cache import IndexCache
from pipeline.text.cleaning import Cleaner
from schemas.answers import Answer
from schemas.events import Source

# How many of an elder's answers are indexed.
_MOST_ANSWERS = 5000
# By how much the best answer's score must lead the next one's.
_LEAST_MARGIN = 0.1


class SourceFinder:
    """Finds sources. The first question about a data set indexes the elder's answers."""

    def __init__(self, store: ChatStore, num_ctx: int) -> None:
        """`num_ctx` is how many tokens a source's question and answer may have together."""
        self._store = store
        self._num_ctx = num_ctx
        self._cache = IndexCache()
        self._building = asyncio.Lock()

    async def find(self, elder_id: str, dataset_sha256: str, question: str) -> Match | None:
        """Return the answer that the question is about; raises StoreUnavailable."""
        index = self._cache.get(elder_id, dataset_sha256)
        if index is None:
            # One at a time: building an index takes ten times the memory that it needs afterwards.
            async with self._building:
                index = await self._build(elder_id, dataset_sha256)
        found = index.find(question)
        return found if found is not None and found.margin >= _LEAST_MARGIN else None

    async def _build(self, elder_id: str, dataset_sha256: str) -> AnswerIndex:
        index = self._cache.get(elder_id, dataset_sha256)
        if index is None:
            answers = await self._store.answers(elder_id, _MOST_ANSWERS)
            # In a thread: thousands of answers take seconds, and other chats go on meanwhile.
            index = await asyncio.to_thread(self._index, answers)
            self._cache.put(elder_id, dataset_sha256, index)
        return index

    def _index(self, answers: list[Answer]) -> AnswerIndex:
        return AnswerIndex(Cleaner(self._num_ctx).clean(answers))


def to_sources(match: Match | None) -> tuple[Source, ...]:
    """Convert a match to a reply's `sources`, which are empty without one."""
    if match is None:
        return ()
    return (Source(answer_id=match.answer_id, question=match.question, score=match.score),)
