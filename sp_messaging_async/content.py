"""What Amazon does not let a seller write, found before anything is sent.

Lengths and numbers of attachments are checked where requests are made, in `models`. Source: the
Messaging API's guide: no HTML, no e-mail addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .errors import Finding, InvalidMessage

__all__ = ["check", "findings"]

_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--|<!doctype", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|([A-Za-z][A-Za-z0-9]{1,31}));")
# The look-behind keeps the search linear: an address is tried from its first character only.
# Its domain ends in a name, not in a number: "2@1.99 each" is a price.
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]+@[\w-]+(?:\.[\w-]+)*\.[^\W\d_][\w-]*")


def check(request: object) -> None:
    """Raise InvalidMessage, naming everything found, if Amazon would refuse the request's text."""
    found = tuple(findings(request))
    if found:
        raise InvalidMessage(*found)


def findings(request: object) -> Iterator[Finding]:
    """What is wrong with the request's text; nothing for a request that has none."""
    text = getattr(request, "text", None)
    if text is None:
        return
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


def _is_named(entity: str) -> bool:
    from html.entities import html5  # here, for it is seldom needed and slow to import

    return f"{entity};" in html5


def _shown(match: re.Match[str]) -> str:
    tag = match[0]
    return tag if len(tag) <= 20 else tag[:19] + "…"
