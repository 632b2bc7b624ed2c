"""Splitting at sentences loses no text, and every part fits."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.sentences import cut_at_sentence, estimate_tokens, split_at_sentences
from tests.unit.pipeline.text.texts import TEXT


def squeezed(text: str) -> str:
    return "".join(text.split())


@given(TEXT, st.integers(2, 60))
@settings(deadline=None, max_examples=100, database=None)
def test_splitting_loses_nothing_but_white_space_and_every_part_fits(
    text: str, max_tokens: int
) -> None:
    parts = split_at_sentences(text, max_tokens)
    assert squeezed("".join(parts)) == squeezed(text)
    assert all(part.strip() for part in parts)
    assert all(estimate_tokens(part) <= max_tokens for part in parts)


def test_cut_keeps_leading_sentences() -> None:
    assert cut_at_sentence("One. Two. Three is longer than the rest of it.", 6) == "One. Two."
