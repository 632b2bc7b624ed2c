"""The base class of every group of settings, and the types that several of them use."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
# No user and password: the HTTP client would drop them, and `repr` shows the address.
HostAddress = Annotated[str, Field(pattern=r"^[^\s@]+$")]


class Section(BaseModel):
    """One group of settings. An unknown name is a typing mistake and is refused.

    The docstring under a field is its meaning in docs/reference/settings.md.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )
