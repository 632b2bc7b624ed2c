"""A least-recently-used cache of indexes, bounded by the postings that they have together."""

from collections import OrderedDict

from pipeline.retrieval.bm25 import AnswerIndex

# 32 MiB: ten elders of a thousand answers each, or a hundred of a hundred.
_MAX_POSTINGS = 2_000_000


class IndexCache:
    """Keeps the indexes of the elders asked last."""

    def __init__(self, max_postings: int = _MAX_POSTINGS) -> None:
        self._max_postings = max_postings
        self._postings = 0
        self._indexes: OrderedDict[tuple[str, str], AnswerIndex] = OrderedDict()

    def get(self, elder_id: str, dataset_sha256: str) -> AnswerIndex | None:
        """Return the index of an elder's data set, if it is cached."""
        key = (elder_id, dataset_sha256)
        if key not in self._indexes:
            return None
        self._indexes.move_to_end(key)
        return self._indexes[key]

    def put(self, elder_id: str, dataset_sha256: str, index: AnswerIndex) -> None:
        """Cache an index and evict the least recently used ones beyond the limit.

        The newest index stays even if it exceeds the limit by itself.
        """
        key = (elder_id, dataset_sha256)
        replaced = self._indexes.pop(key, None)
        self._indexes[key] = index
        self._postings += len(index) - len(replaced or ())
        while self._postings > self._max_postings and len(self._indexes) > 1:
            _, oldest = self._indexes.popitem(last=False)
            self._postings -= len(oldest)
