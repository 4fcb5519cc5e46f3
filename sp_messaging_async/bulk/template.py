"""Templates: what to write, once for every language, with the columns of a list as variables.

operation = "createConfirmOrderDetails"
default_locale = "en"

[text]
en = "Shall we gift-wrap the {{ product }}?"
de = "Sollen wir {{ product }} als Geschenk verpacken?"
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import evolve, field, frozen

from ..content import checked_locale, choose_locale
from ..errors import ConfigurationError, Finding, InvalidMessage
from ..operations import Operation, named
from . import advice

if TYPE_CHECKING:
    import jinja2

__all__ = ["Template"]

_KEYS = ("operation", "default_locale", "text")
_LARGEST_PRODUCT = 1_000_000  # characters, or what it counts
_OTHER_PLACEHOLDER = re.compile(
    r"\{\s*[^\W\d]\w*\s*\}|\[\[\s*[^\W\d]\w*\s*\]\]|<<\s*[^\W\d]\w*\s*>>"
)
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_UNDEFINED = re.compile(r"'(\w+)' is undefined")


@frozen(eq=False)
class Template:
    """A message in several languages.

    operation: what sends it.
    default_locale: the language for buyers whose own is not among the texts.
    texts: the Jinja2 source by locale, as in "pt-BR".
    """

    name: str
    operation: Operation
    default_locale: str
    texts: Mapping[str, str] = field(repr=False)
    _compiled: Mapping[str, _Text] = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Template:
        """The template of a TOML file.

        Raises ConfigurationError, with the place, for one that cannot be read or is no template.
        """
        entries = _entries(path)
        unknown = sorted(entries.keys() - set(_KEYS))
        if unknown:
            _refuse(path, unknown[0], f"is no key of a template; it has {', '.join(_KEYS)}")
        texts = _texts(path, entries.get("text"))
        compiled = _compiled(path, texts)
        default = _given(path, entries, "default_locale")
        if default not in texts:
            _refuse(path, "default_locale", f"{default!r} has no text; give it one under [text]")
        return cls(path.name, _operation(path, entries), default, texts, compiled)

    @classmethod
    def of(
        cls, name: str, operation: str, default_locale: str, texts: Mapping[str, str]
    ) -> Template:
        """The template that has said this before, in another process. Raises as `load` does."""
        compiled = _compiled(Path(name), texts)
        return cls(name, named(operation), default_locale, texts, compiled)

    @cached_property
    def columns(self) -> frozenset[str]:
        """The variables of all its texts."""
        return frozenset().union(*(text.variables for text in self._compiled.values()))

    @cached_property
    def digest(self) -> str:
        """Of all that it says."""
        said = [self.operation.name, self.default_locale, dict(self.texts)]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def locale_for(self, buyers: str | None) -> str:
        """The locale to write in to a buyer."""
        return choose_locale(buyers, tuple(self.texts)) or self.default_locale

    def text(self, locale: str, values: Mapping[str, object]) -> str:
        """The text in a language, for a row's values. Raises InvalidMessage if there is none."""
        try:
            return self._compiled[locale].template.render(values).strip()
        except Exception as error:  # what the text computes may fail in any way
            reason = f"{self.name} cannot be filled: {_in_words(error)}"
            raise InvalidMessage(Finding(f"text.{locale}", reason)) from None

    def advice(self, region: str) -> Iterator[Finding]:
        """What had better not be written in its own words; see `advice`."""
        for locale, source in self.texts.items():
            words = _JINJA.sub(" ", source)
            field = f"text.{locale}"
            yield from (evolve(found, field=field) for found in advice.of_text(words, region))
            if (found := advice.of_language(words, locale)) is not None:
                yield evolve(found, field=field)
            for match in _OTHER_PLACEHOLDER.finditer(words):
                yield Finding(field, f"{match[0]} is sent as it stands; a column is {{{{ name }}}}")

    def findings(self, columns: Collection[str]) -> Iterator[Finding]:
        """Variables that are no columns of a list. Their capitals do not matter."""
        for locale, text in self._compiled.items():
            for name in text.variables:
                if name.lower() in columns:
                    continue
                reason = (
                    f"{self.name} uses {{{{ {name} }}}}, which is no column; the list has "
                    f"{', '.join(columns)}"
                )
                yield Finding(f"text.{locale}", reason)


def _entries(path: Path) -> Mapping[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"the template {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the template {path} is not UTF-8; save it again") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"the template {path} is no TOML: {error}") from None


def _operation(path: Path, entries: Mapping[str, object]) -> Operation:
    try:
        operation = named(_given(path, entries, "operation"))
    except InvalidMessage as error:
        _refuse(path, "operation", error.findings[0].reason)
    if not operation.takes_text:
        _refuse(path, "operation", f"{operation.name} sends no text")
    return operation


def _texts(path: Path, given: object) -> Mapping[str, str]:
    if not isinstance(given, dict) or not given:
        _refuse(path, "text", 'is missing; write a table, as in [text] and en = "…"')
    for locale, source in given.items():
        if not isinstance(source, str) or not source.strip():
            _refuse(path, f"text.{locale}", "is no text; write it between quotes")
        try:
            checked_locale(locale)
        except InvalidMessage as error:
            _refuse(path, f"text.{locale}", error.findings[0].reason)
    return given


def _given(path: Path, entries: Mapping[str, object], name: str) -> str:
    value = entries.get(name)
    if not isinstance(value, str):
        _refuse(path, name, "is missing, or no text between quotes")
    return value


def _refuse(path: Path, name: str, reason: str) -> NoReturn:
    raise ConfigurationError(f"the template {path}, {name}: {reason}")


# Jinja2


@frozen
class _Text:
    """A text, ready to be filled, and the variables that it uses."""

    template: jinja2.Template
    variables: Sequence[str]


def _compiled(path: Path, texts: Mapping[str, str]) -> Mapping[str, _Text]:
    environment = _environment()
    from jinja2 import TemplateSyntaxError, meta

    compiled = {}
    for locale, source in texts.items():
        try:
            used = meta.find_undeclared_variables(environment.parse(source))
            compiled[locale] = _Text(environment.from_string(source), sorted(used))
        except TemplateSyntaxError as error:
            _refuse(path, f"text.{locale}, line {error.lineno}", error.message or "cannot be read")
        except Exception as error:  # constants are computed here, which may fail in any way
            _refuse(path, f"text.{locale}", f"cannot be read: {_in_words(error)}")
    return compiled


def _environment() -> jinja2.Environment:
    try:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ConfigurationError.of_missing_extra("templates need the", "bulk") from None

    class Empty(StrictUndefined):
        """An empty cell: it may be asked for, as in `{% if gift == "yes" %}`, and not written."""

        __slots__ = ()

        def __bool__(self) -> bool:  # type: ignore[override]
            return False

        def __eq__(self, other: object) -> bool:  # type: ignore[override]
            return other == "" or isinstance(other, Empty)

        def __ne__(self, other: object) -> bool:  # type: ignore[override]
            return not self == other

        __hash__ = object.__hash__  # type: ignore[assignment]

    class Environment(ImmutableSandboxedEnvironment):
        """Without what is not the list's: the same row gives the same text at every time."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(
            self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
        ) -> Any:
            """Refuse what could fill the memory."""
            sizes = [len(side) if isinstance(side, Sequence) else side for side in (left, right)]
            if operator == "**" or sizes[0] * sizes[1] > _LARGEST_PRODUCT:
                raise OverflowError(f"what {operator} makes is too large")
            return super().call_binop(context, operator, left, right)

    environment = Environment(undefined=Empty)
    environment.globals.clear()  # `range` and the like, which hide columns of these names
    del environment.filters["random"]
    return environment


def _in_words(error: Exception) -> str:
    from jinja2 import UndefinedError

    if isinstance(error, UndefinedError) and (match := _UNDEFINED.match(str(error))):
        name = match[1]
        return (
            f"{name} is empty; fill the cell, or write {{{{ {name} | default('…') }}}} or "
            f"{{% if {name} %}}"
        )
    return f"{type(error).__name__}: {error}"
