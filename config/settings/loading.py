"""Reads the settings once, at the start; for each wrong one, says what was expected."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import SettingsError

from config.faults import describe_fault, secret_paths
from config.settings.root import COMMON_NAMES, CONFIG_FILE_VARIABLE, ENV_PREFIX, Settings
from schemas.errors import ConfigurationError


def load_settings(over: Mapping[str, Any] | None = None) -> Settings:
    """Read all settings; raises ConfigurationError with each wrong value and what was expected.

    `over` takes precedence over the environment and the file, for commands that set values
    themselves.
    """
    path = os.environ.get(CONFIG_FILE_VARIABLE)
    if path and not Path(path).is_file():
        raise ConfigurationError(f"{CONFIG_FILE_VARIABLE}: found {path!r}, expected a file")
    _refuse_unknown_names()
    try:
        return Settings(**(over or {}))
    except ValidationError as error:
        raise ConfigurationError(_describe(error)) from error
    except SettingsError as error:  # A group of values that the environment gives, but not as JSON.
        raise ConfigurationError(f"{ENV_PREFIX}…: {error}; expected: JSON") from error
    except yaml.YAMLError as error:
        # The parser's own text may quote the file, and so a secret.
        raise ConfigurationError(f"{path}: not YAML{_place(error)}") from None
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{path}: expected: names with values, as YAML") from error


def _describe(error: ValidationError) -> str:
    common: dict[tuple[str, ...], str] = {path: name for name, path in COMMON_NAMES.items()}
    secrets = secret_paths(Settings)
    return "; ".join(describe_fault(e, ENV_PREFIX, common, secrets) for e in error.errors())


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _refuse_unknown_names() -> None:
    """Refuse a misspelled section, which pydantic-settings would silently ignore."""
    known = {name.upper() for name in Settings.model_fields} | {"CONFIG_FILE"}
    for variable in os.environ:
        if variable.startswith(ENV_PREFIX):
            section = variable.removeprefix(ENV_PREFIX).split("__")[0]
            if section not in known:
                names = ", ".join(sorted(ENV_PREFIX + name for name in known))
                raise ConfigurationError(f"{variable}: no such setting; expected one of: {names}")
