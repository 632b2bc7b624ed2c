"""Cells that cannot break their table, and pages as links."""

from tools.docs_reference.markdown import code, paragraphs, prose, table


def test_cell_keeps_to_its_column_and_line() -> None:
    lines = table(["a", "b"], [("x | y", "two\n    lines")]).splitlines()
    assert lines == ["| a | b |", "| --- | --- |", r"| x \| y | two lines |"]


def test_page_becomes_a_link_from_the_reference() -> None:
    assert prose("see docs/hosts.md.") == "see [hosts.md](../hosts.md)."
    assert prose("docs/reference/errors.md") == "[errors.md](errors.md)"
    assert prose("(docs/decisions/0011-retention.md)") == (
        "([decisions/0011-retention.md](../decisions/0011-retention.md))"
    )


def test_docstring_is_split_into_paragraphs() -> None:
    assert paragraphs("One\n    line.\n\n    Another.\n    ") == ["One line.", "Another."]
    assert paragraphs(None) == []


def test_nothing_is_not_set_as_code() -> None:
    assert (code(""), code(0)) == ("", "`0`")
