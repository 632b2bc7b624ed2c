"""Model names: what is accepted, and that none leaves the folder."""

import pytest

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.models.names import ModelName
from tests.unit.pipeline.hosting.server.models.creating import status_of


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("afs_elder_X", "afs_elder_X:latest"),
        ("afs_elder_X:v3", "afs_elder_X:v3"),
        ("family/li.1:v1.0", "family/li.1:v1.0"),
    ],
)
def test_names(text: str, name: str) -> None:
    """`latest` unless a tag is given."""
    assert str(ModelName.parse(text)) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":v1",
        "a:",
        "a:b:c",
        "../a",
        "a/../b",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/.",
        "a b",
        "a%2f",
        "a\0",
        "a\n",
        "爷爷",
        "a" * 300,
        "a:../b",
        "a:-b",
    ],
)
def test_wrong_names_are_refused(text: str) -> None:
    """No name can leave the folder, or be two things."""
    with pytest.raises(Refusal) as error:
        ModelName.parse(text)
    assert status_of(error) == 400
