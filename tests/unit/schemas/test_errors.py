"""Errors: a code and a reaction each, and a sentence that says what to do."""

import importlib
import pkgutil

import pytest

import pipeline
from schemas import errors
from schemas.errors import FatalError, Interrupted, ModelServerError, RejectError, RetryError


def all_errors() -> list[type[ModelServerError]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, ModelServerError)
    ]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in all_errors()]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("error", all_errors(), ids=lambda e: e.code)
def test_error_comes_back_from_its_code(error: type[ModelServerError]) -> None:
    again = errors.error_of(error.code, "what happened")
    assert type(again) is error
    assert again.message == str(again) == "what happened"


@pytest.mark.parametrize("error", all_errors(), ids=lambda e: e.code)
def test_error_says_what_to_do_in_one_line(error: type[ModelServerError]) -> None:
    message = error().message
    assert message and "\n" not in message
    assert message.endswith(".")


def test_unknown_code_is_a_plain_error() -> None:
    assert type(errors.error_of("from the future", "x")) is ModelServerError


def test_errors_that_cross_to_the_training_child_are_known_without_its_imports() -> None:
    """A class that only the child has comes back as an error without a reaction."""
    for module in pkgutil.iter_modules(pipeline.__path__, "pipeline."):
        importlib.import_module(module.name)
    strangers = [error for error in all_errors() if error.__module__.startswith("pipeline.")]
    assert strangers == []


def test_every_error_belongs_to_one_reaction() -> None:
    for error in all_errors():
        if error is not ModelServerError:
            reactions = [
                issubclass(error, r) for r in (RetryError, RejectError, FatalError, Interrupted)
            ]
            assert reactions.count(True) == 1, error


@pytest.mark.parametrize("error", all_errors(), ids=lambda e: e.code)
def test_error_names_one_module_whatever_file_it_stands_in(error: type[ModelServerError]) -> None:
    """Dead letters carry this name."""
    assert error.__module__ == "schemas.errors"
