import pytest

from pipeline.text.languages import language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("我老家在绍兴", "zh"),
        ("I was born in 绍", "en"),
        ("", "en"),
        ("1958", "en"),
        ("叫John", "zh"),
    ],
)
def test_language_is_that_of_the_letters(text: str, language: str) -> None:
    assert language_of(text) == language
