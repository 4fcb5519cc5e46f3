"""Between models and Amazon's JSON: the one place where cattrs is set up.

cattrs by itself turns None into "None" and ["x"] into "['x']"; here a value of the wrong type is
a DecodingError. Null counts as absent, and fields that the models do not know are ignored, or
refused by `decode_strictly`.
"""

from __future__ import annotations

import functools
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import attrs
from cattrs import Converter
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from .errors import InvalidMessage
from .models import Attachment, GetMessagingActionResponse, GetSchemaResponse, LocalFile

__all__ = ["DecodingError", "decode", "decode_strictly", "encode", "parse", "restore", "store"]

T = TypeVar("T")

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class DecodingError(ValueError):
    """The data is not what the model says. The text names types and fields, never values."""


def encode(model: object) -> bytes:
    """A model as JSON in UTF-8; fields that hold their default are left out."""
    return _JSON.encode(_LENIENT.unstructure(model)).encode()


def parse(content: bytes) -> object:
    """JSON in UTF-8 as plain data. Raises DecodingError for anything else."""
    try:
        return json.loads(content.removeprefix(BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        raise DecodingError(f"no readable JSON ({type(error).__name__})") from None


def decode(data: object, cls: type[T]) -> T:
    """Plain data as a model, unknown fields ignored. Raises DecodingError."""
    return _decode(_LENIENT, data, cls)


def decode_strictly(data: object, cls: type[T]) -> T:
    """As `decode`, and unknown fields raise DecodingError too."""
    return _decode(_strict(), data, cls)


def store(model: object) -> str:
    """A model as JSON for a ledger: as `encode`, and a LocalFile is kept by its path."""
    return _JSON.encode(_stored().unstructure(model))


def restore(text: str, cls: type[T]) -> T:
    """The model that `store` kept. Raises DecodingError for anything else."""
    return _decode(_stored(), parse(text.encode()), cls)


def _decode(converter: Converter, data: object, cls: type[T]) -> T:
    try:
        return converter.structure(data, cls)
    except InvalidMessage as error:
        raise DecodingError(str(error)) from None
    except Exception as error:  # whatever cattrs raises for data of the wrong shape
        raise DecodingError(f"does not fit {cls.__name__}: {_detail(error)}") from None


class _Unfit(Exception):
    """A value of the wrong type."""


def _detail(error: Exception) -> str:
    match error:
        case _Unfit():
            return str(error)
        case KeyError(args=(str() as name,)):
            return f"{name} is missing"
        case ForbiddenExtraKeysError(extra_fields=names):
            return f"unknown field {', '.join(sorted(names))}"
        case _:
            return type(error).__name__


def _converter(*, forbid_extra_keys: bool, local_files: bool = False) -> Converter:
    converter = Converter(detailed_validation=False, forbid_extra_keys=forbid_extra_keys)
    for exact in (str, int, bool):
        converter.register_structure_hook(exact, _exactly)
    converter.register_structure_hook_func(lambda cls: cls is object, lambda value, _: value)
    converter.register_structure_hook(datetime, _to_datetime)
    converter.register_unstructure_hook(datetime, _from_datetime)
    converter.register_structure_hook(Path, lambda value, _: Path(_exactly(value, str)))
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(
        Attachment | LocalFile,
        lambda value, _: converter.structure(
            value, LocalFile if local_files and "path" in value else Attachment
        ),
    )
    converter.register_structure_hook_factory(_is_tuple, lambda cls: _tuple_of(cls, converter))
    converter.register_structure_hook_factory(_is_mapping, lambda cls: _mapping_of(cls, converter))
    converter.register_structure_hook_factory(attrs.has, lambda cls: _model(cls, converter))
    converter.register_unstructure_hook_factory(attrs.has, lambda cls: _plain(cls, converter))
    return converter


def _exactly(value: object, cls: type[T]) -> T:
    if type(value) is not cls:
        raise _Unfit(f"{_json_type(value)} where {_JSON_TYPES[cls]} belongs")
    return value


_JSON_TYPES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    bool: "a boolean",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _json_type(value: object) -> str:
    return _JSON_TYPES.get(type(value), type(value).__name__)


def _to_datetime(value: object, _: type) -> datetime:
    try:
        return datetime.fromisoformat(_exactly(value, str))
    except ValueError:
        raise _Unfit("a string that is no date-time of ISO 8601") from None


def _from_datetime(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _is_tuple(cls: Any) -> bool:
    return get_origin(cls) is tuple


def _tuple_of(cls: Any, converter: Converter) -> Callable[[object, Any], tuple[Any, ...]]:
    member = get_args(cls)[0]

    def structure(value: object, _: Any) -> tuple[Any, ...]:
        items: list[object] = _exactly(value, list)
        return tuple(converter.structure(item, member) for item in items)

    return structure


def _is_mapping(cls: Any) -> bool:
    return get_origin(cls) is Mapping


def _mapping_of(cls: Any, converter: Converter) -> Callable[[object, Any], dict[str, Any]]:
    member = get_args(cls)[1]

    def structure(value: object, _: Any) -> dict[str, Any]:
        items: dict[str, object] = _exactly(value, dict)
        return {key: converter.structure(item, member) for key, item in items.items()}

    return structure


def _model(cls: type[T], converter: Converter) -> Callable[[object, Any], T]:
    fill = make_dict_structure_fn(cls, converter, **_names(cls))
    normalise = _LIVE_FORMS.get(cls, dict)

    def structure(value: object, _: Any) -> T:
        items: dict[str, object] = _exactly(value, dict)
        present = {key: item for key, item in items.items() if item is not None}
        return fill(normalise(present), cls)

    return structure


def _plain(cls: type[T], converter: Converter) -> Callable[[T], dict[str, Any]]:
    return make_dict_unstructure_fn(cls, converter, _cattrs_omit_if_default=True, **_names(cls))


def _names(cls: type) -> dict[str, Any]:
    """How cattrs is to call the fields of a class: camelCase, unless the field says otherwise."""
    return {
        attribute.name: override(
            rename=attribute.metadata.get("json") or _camel(attribute.name),
            omit=True if attribute.metadata.get("sent") is False else None,
        )
        for attribute in attrs.fields(cls)
    }


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


# The answer of getMessagingActionsForOrder has two forms: the model's, and the flatter one that
# Amazon published with its samples in 2025-10. Both become the model's.


def _action(data: dict[str, object]) -> dict[str, object]:
    if "payload" in data or "name" not in data:
        return data
    return {**data, "payload": {"name": data["name"]}}


def _schema(data: dict[str, object]) -> dict[str, object]:
    envelope: dict[str, object] = {key: data[key] for key in ("_links", "errors") if key in data}
    flat = {key: item for key, item in data.items() if key not in envelope}
    if "payload" in data or not flat:
        return data
    return {**envelope, "payload": flat}


_LIVE_FORMS: dict[type, Callable[[dict[str, object]], dict[str, object]]] = {
    GetMessagingActionResponse: _action,
    GetSchemaResponse: _schema,
}

_LENIENT = _converter(forbid_extra_keys=False)


@functools.cache
def _strict() -> Converter:
    return _converter(forbid_extra_keys=True)


@functools.cache
def _stored() -> Converter:
    return _converter(forbid_extra_keys=False, local_files=True)
