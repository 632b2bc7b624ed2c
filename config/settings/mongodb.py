"""Where MongoDB is, and the fields of upstream's answers in it."""

from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from config.section import Seconds, Section


class AnswerFields(Section):
    """The fields of an answer, as upstream names them.

    Each takes a JSON array of names; the first name that a document has is used. In the YAML file
    names may also be separated by commas. All of them can be given at once, as in
    `{"answer": ["answer", "text"]}`.
    """

    elder_id: tuple[str, ...] = ("elderId",)
    """The elder's id."""
    elder_name: tuple[str, ...] = ("elderName",)
    """The elder's name."""
    question: tuple[str, ...] = ("question",)
    """The interview question."""
    answer: tuple[str, ...] = ("answer",)
    """The elder's answer."""
    created_at: tuple[str, ...] = ("createdAt",)
    """When the answer was given."""
    updated_at: tuple[str, ...] = ("updatedAt",)
    """When the answer was last changed."""

    @field_validator("*", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("*")
    @classmethod
    def _plain_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or any(not n or n.startswith("$") or "\x00" in n for n in names):
            raise ValueError("one or more field names, none beginning with $")
        return names


class MongoSettings(Section):
    """MongoDB: Atlas, a replica set, a single server or the embedded store."""

    uri: SecretStr = SecretStr("mongodb://127.0.0.1:27017")
    """The address, `mongodb://` or `mongodb+srv://`: Atlas, a replica set or a single server."""
    database: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")] = "heirloom"
    """The database with the answers; ModelServer keeps its own collections there too."""
    answers_collection: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,120}$")] = "answers"
    """The collection in which upstream keeps the answers."""
    fields: AnswerFields = AnswerFields()
    page_size: Annotated[int, Field(ge=1, le=10_000)] = 500
    """How many answers are read at a time."""
    timeout_s: Seconds = 5.0
    """How long one call may take."""

    @field_validator("uri")
    @classmethod
    def _address(cls, uri: SecretStr) -> SecretStr:
        if not uri.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("mongodb:// or mongodb+srv://")
        return uri
