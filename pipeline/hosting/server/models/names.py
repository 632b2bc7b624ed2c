"""Model names and blob digests: their syntax, and the file names made from them."""

import re
from typing import Self

from pipeline.hosting.server.errors import Refusal
from schemas.base import Frozen

_NAME = re.compile(r"([A-Za-z0-9._/-]+?)(?::([A-Za-z0-9_][A-Za-z0-9._-]*))?")
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_MAX_NAME_CHARACTERS = 200
_MAX_TAG_CHARACTERS = 80


class ModelName(Frozen):
    """`model:tag`; without a tag, `latest` is meant."""

    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a name. An accepted name cannot point outside the manifests' folder.

        Raises:
            Refusal: 400, it is not a valid name.
        """
        match = _NAME.fullmatch(text)
        if match is None or len(text) > _MAX_NAME_CHARACTERS:
            raise Refusal(400, "invalid model name")
        model, tag = match[1], match[2] or "latest"
        segments_are_good = all(_SEGMENT.fullmatch(segment) for segment in model.split("/"))
        if not segments_are_good or len(tag) > _MAX_TAG_CHARACTERS:
            raise Refusal(400, "invalid model name")
        return cls(model=model, tag=tag)

    @property
    def key(self) -> str:
        """The identity of the model. Ollama folds case: `A` and `a` are the same model."""
        return str(self).lower()

    @property
    def file_stem(self) -> str:
        """A unique file name: `%` and `@`, which replace `/` and `:`, occur in no name."""
        return self.key.replace("/", "%").replace(":", "@")

    def __str__(self) -> str:
        return f"{self.model}:{self.tag}"


def is_digest(text: str) -> bool:
    """Say whether a text is a SHA-256 digest, in the form of requests or of file names."""
    return _DIGEST.fullmatch(text) is not None


def parse_digest(text: str) -> str:
    """Return the digest as `sha256:<hex>`.

    Raises:
        Refusal: 400, it is not a SHA-256 digest.
    """
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise Refusal(400, "invalid digest format")
    return f"sha256:{match[1]}"
