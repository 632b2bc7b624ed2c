"""The two base classes of everything that crosses a boundary.

`Frozen` is for shapes that ModelServer itself writes: an unknown field is our own mistake.
`Inbound` is for shapes that others write: an unknown field comes from a newer sender and is
ignored. Both are strict: "3" is not a number, 3.0 is not an integer. Both turn off pydantic's cache
for values, which would keep 16,384 short strings in memory, elders' words among them.

The docstring under a field is its meaning in the AsyncAPI description and in docs/reference.
"""

from pydantic import BaseModel, ConfigDict


class _Value(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        strict=True,
        protected_namespaces=(),
        cache_strings="keys",
        use_attribute_docstrings=True,
    )


class Frozen(_Value):
    """An immutable, strictly typed value of our own making."""

    model_config = ConfigDict(extra="forbid")


class Inbound(_Value):
    """An immutable, strictly typed value from elsewhere; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")
