"""What is printed: others chose many of these characters, and a terminal obeys some."""

import json

import pytest

from terminal.output import describe_bytes, print_fields, print_json, print_table

EVIL = "\x1b[2J\x9b2J[/red] 李\u202e"


def test_table_shows_markup_and_controls_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(EVIL, ["a"], [[EVIL], [None]])
    print_table(EVIL, ["a"], [])
    shown = capsys.readouterr().out
    assert "[/red] 李" in shown
    assert not set(shown) & set("\x1b\x9b\u202e")


def test_fields_show_markup_and_controls_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"a": EVIL, "b": [EVIL], "c": None})
    shown = capsys.readouterr().out
    assert shown.count("[/red]") == 2
    assert not set(shown) & set("\x1b\x9b\u202e")


def test_json_is_the_same_value_without_a_control_character(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_json({"a": EVIL})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"a": EVIL}
    assert not set(shown) & set("\x1b\x9b")


def test_bytes_are_text_where_they_can_be() -> None:
    assert describe_bytes(None) is None
    assert describe_bytes("李".encode()) == "李"
    assert describe_bytes(b"\xff\x00") == {"base64": "/wA="}
