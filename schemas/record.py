"""A Kafka record as the rest of the program sees it, free of any client library."""

from typing import Literal

from schemas.base import Frozen

Header = tuple[str, bytes | None]
TimestampType = Literal["none", "create", "append"]


class Record(Frozen):
    """One consumed record; `timestamp_ms` is unix milliseconds, 0 if there is none.

    `timestamp_type` is `append` if the broker set the time and `create` if the producer did; only
    the broker's can be trusted for a deadline. `is_readable` is false if a header's name is not
    UTF-8: the client then decodes no header, and `headers` is empty.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()
    timestamp_ms: int = 0
    timestamp_type: TimestampType = "none"
    is_readable: bool = True

    def header(self, name: str) -> bytes | None:
        """Return the last header of that name, as Kafka's own `lastHeader` does."""
        return next((v for k, v in reversed(self.headers) if k == name), None)

    @property
    def size(self) -> int:
        """The size of key, value and headers, in bytes."""
        headers = sum(len(name.encode()) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers

    @property
    def position(self) -> str:
        """`topic/partition/offset`, which identifies the record as long as its topic exists."""
        return f"{self.topic}/{self.partition}/{self.offset}"
