"""The page of the settings: each one's name in the environment, type, default and meaning."""

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from config.kafka import KafkaSettings
from config.settings import COMMON_NAMES, CONFIG_FILE_VARIABLE, ENV_PREFIX, Settings
from schemas.base import Frozen
from tools.docs_reference.json_types import describe_type
from tools.docs_reference.markdown import code, page, paragraphs, prose, table

Path = tuple[str, ...]
_INTRODUCTION = f"""\
# Settings

The environment goes before the YAML file that `{CONFIG_FILE_VARIABLE}` names. The file has the
same names in lower case, sections as mappings ([example](../operations.md#settings)). A list or an
object is JSON in the environment. A wrong value or an unknown name is refused before anything
starts. Durations end in `_s` (seconds), `_ms` (milliseconds) or `_h` (hours)."""
_COMMON: dict[Path, str] = {path: name for name, path in COMMON_NAMES.items()}
_COLUMNS = ["name", "type", "default", "meaning"]
_GENERAL = "General"


class Setting(Frozen):
    """One setting; `section` is the path of the group that it stands in."""

    section: Path
    name: str
    type: str
    default: str
    meaning: str


def settings_page() -> str:
    """Render the page."""
    general = [s for s in list_settings(Settings, ()) if not s.section]
    parts = [f"## {_GENERAL}", _table(general)]
    for name, field in Settings.model_fields.items():
        if isinstance(model := field.annotation, type) and issubclass(model, BaseModel):
            parts += [
                f"## {name}",
                *paragraphs(model.__doc__),
                *_groups(model, (name,)),
                _table(list(list_settings(model, (name,)))),
            ]
            if name == "kafka":
                parts += _security()
    return page(_INTRODUCTION, *parts)


def list_settings(model: type[BaseModel], section: Path) -> Iterator[Setting]:
    """Yield a group's settings and, below a section, those of the groups in it."""
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        path = (*section, name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if section:
                yield from list_settings(inner, path)
        else:
            yield Setting(
                section=section,
                name=environment_name(path),
                type=_type(path, schema),
                default=_default(field),
                meaning=prose(field.description),
            )


def _groups(model: type[BaseModel], section: Path) -> Iterator[str]:
    """Yield what is said of the groups within a section."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            about = " ".join(paragraphs(inner.__doc__))
            yield f"{code(environment_name((*section, name)) + '__…')}: {about}"


def environment_name(path: Path) -> str:
    """Name a setting as the environment does."""
    return _COMMON.get(path, ENV_PREFIX + "__".join(path).upper())


def _security() -> Iterator[str]:
    """Yield the parts of the security settings: a table for each case."""
    path = ("kafka", "security")
    yield "### kafka security"
    yield "What can be set depends on `protocol` and `mechanism`."
    for option in get_args(KafkaSettings.model_fields["security"].annotation):
        case: type[BaseModel] = get_args(option)[0]
        selected_by = [_values(case, name) for name in ("protocol", "mechanism")]
        yield f"**{', '.join(filter(None, selected_by))}.** {' '.join(paragraphs(case.__doc__))}"
        yield _table(list(list_settings(case, path)))


def _values(case: type[BaseModel], name: str) -> str:
    field = case.model_fields.get(name)
    return "" if field is None else " or ".join(get_args(field.annotation))


def _table(settings: list[Setting]) -> str:
    return table(_COLUMNS, [(code(s.name), s.type, s.default, s.meaning) for s in settings])


def _type(path: Path, schema: dict[str, Any]) -> str:
    if path == ("kafka", "security"):
        return "object"
    return describe_type(schema["properties"][path[-1]], schema.get("$defs", {}))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, SecretStr):  # A default is no secret.
        return code(value.get_secret_value())
    if isinstance(value, BaseModel):
        return code(json.dumps(value.model_dump(mode="json")))
    if isinstance(value, tuple | dict | bool):
        return code(json.dumps(value, ensure_ascii=False))
    return code(value)
