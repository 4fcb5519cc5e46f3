"""What Amazon does not let a seller write, found before anything is sent; the language to write in.

Lengths and numbers of attachments are checked where requests are made, in `models`. Source: the
Messaging API's guide: no HTML, no e-mail addresses; in the buyer's language, which is the `locale`
of getAttributes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from types import ModuleType

from .errors import ConfigurationError, Finding, InvalidMessage

__all__ = ["check", "checked_locale", "choose_locale", "findings"]

# A distance of langcodes' that spans the variants of a language, and no neighbours' languages.
_SAME_LANGUAGE = 9

_SUSPECT = re.compile("[<&@]")  # without one of these, there is nothing of what follows
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--|<!doctype", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|([A-Za-z][A-Za-z0-9]{1,31}));")
# The look-behind keeps the search linear: an address is tried from its first character only.
# Its domain ends in a name, not in a number: "2@1.99 each" is a price.
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]+@[\w-]+(?:\.[\w-]+)*\.[^\W\d_][\w-]*")


def check(request: object) -> None:
    """Raise InvalidMessage, naming everything found, if Amazon would refuse the request's text."""
    text = getattr(request, "text", None)
    if text is None or not _SUSPECT.search(text):
        return
    found = tuple(findings(request))
    if found:
        raise InvalidMessage(*found)


def findings(request: object) -> Iterator[Finding]:
    """What is wrong with the request's text; nothing for a request that has none."""
    text = getattr(request, "text", None) or ""
    for match in _TAG.finditer(text):
        reason = f"{_shown(match)} is HTML, which Amazon refuses; write plain text"
        yield Finding("text", reason, match.start() + 1)
    for match in _ENTITY.finditer(text):
        if match[1] is None or _is_named(match[1]):
            reason = f"{match[0]} is an HTML entity; write the character itself"
            yield Finding("text", reason, match.start() + 1)
    for match in _EMAIL.finditer(text):
        reason = "an e-mail address, which Amazon refuses; the buyer answers through Amazon"
        yield Finding("text", reason, match.start() + 1)


@functools.lru_cache(maxsize=1024)
def choose_locale(wanted: str | None, offered: tuple[str, ...]) -> str | None:
    """Which of the locales offered a reader of another understands, or None.

    wanted: the buyer's, as in "pt-BR". It finds "pt", and "zh-TW" finds "zh-Hant".
    offered: of the texts that there are.

    Needs the `bulk` extra; raises ConfigurationError without it.
    """
    langcodes = _langcodes()
    try:
        found, distance = langcodes.closest_match(wanted or "", list(offered), _SAME_LANGUAGE)
    except langcodes.LanguageTagError:
        return None
    return str(found) if distance <= _SAME_LANGUAGE else None


def checked_locale(locale: str) -> str:
    """The locale, if there is such a language. Raises InvalidMessage; needs the `bulk` extra."""
    if not _langcodes().tag_is_valid(locale):
        reason = f"{locale!r} is no language tag; write one such as de, pt-BR or zh-Hant"
        raise InvalidMessage(Finding("locale", reason))
    return locale


def _langcodes() -> ModuleType:
    try:
        import langcodes
    except ImportError:
        raise ConfigurationError.of_missing_extra("matching languages needs the", "bulk") from None
    return langcodes


def _is_named(entity: str) -> bool:
    from html.entities import html5  # here, for it is seldom needed and slow to import

    return f"{entity};" in html5


def _shown(match: re.Match[str]) -> str:
    tag = match[0]
    return tag if len(tag) <= 20 else tag[:19] + "…"
