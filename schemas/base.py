"""The two base classes of everything that crosses a boundary.

`Frozen` is for shapes that ModelServer itself writes: an unknown field is a mistake of ours.
`Inbound` is for shapes that others write: an unknown field is a newer sender, and is ignored.
Both are strict: "3" is no number, 3.0 is no integer. Neither keeps what it has read: pydantic's
cache would hold 16,384 short strings of it, words of elders among them.
"""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable, strictly typed value of our own making."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", protected_namespaces=(), cache_strings="keys"
    )


class Inbound(BaseModel):
    """An immutable, strictly typed value from elsewhere; unknown fields are ignored."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", protected_namespaces=(), cache_strings="keys"
    )
