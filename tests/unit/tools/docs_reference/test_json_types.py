"""A JSON Schema told in words."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from tools.docs_reference.json_types import describe_type, list_fields


class Inner(BaseModel):
    size: Annotated[int, Field(ge=1, description="How large.")] = 3


class Outer(BaseModel):
    name: str
    inner: Inner = Inner()
    several: list[Inner] = []
    perhaps: Inner | None = None


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "integer"),
        (bool, "boolean"),
        (str | None, "text or null"),
        (Annotated[int, Field(ge=1, le=9)], "integer (1 to 9)"),
        (Annotated[int, Field(ge=1)], "integer (at least 1)"),
        (Annotated[int, Field(le=9)], "integer (at most 9)"),
        (Annotated[float, Field(gt=0)], "number (above 0)"),
        (Annotated[float, Field(gt=0, le=1)], "number (above 0, at most 1)"),
        (Annotated[str, Field(min_length=1, max_length=9)], "text (1 to 9 characters)"),
        (Annotated[str, Field(pattern="^a$")], "text matching `^a$`"),
        (Literal["a", "b"], "`a`, `b`"),
        (Literal[True], "`true`"),
        (Annotated[list[str], Field(max_length=2)], "list of text (at most 2 items)"),
        (dict[str, int], "object of integer"),
        (dict[str, Any], "object"),
        (Any, "any"),
    ],
)
def test_type_is_told_with_its_bounds(annotation: Any, words: str) -> None:
    assert describe_type(TypeAdapter(annotation).json_schema(), {}) == words


def test_fields_of_objects_stand_below_them() -> None:
    schema = Outer.model_json_schema()
    fields = {f.path: f for f in list_fields(schema, schema["$defs"])}
    assert list(fields) == [
        "name",
        "inner",
        "inner.size",
        "several",
        "several[].size",
        "perhaps",
        "perhaps.size",
    ]
    size = fields["inner.size"]
    assert (size.default, size.meaning, size.is_required) == ("3", "How large.", False)
    assert fields["name"].is_required
    assert fields["perhaps"].type == "object or null"
