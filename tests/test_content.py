"""What Amazon does not let a seller write, and what it does."""

from __future__ import annotations

import sys
import time
from html.entities import html5

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from sp_messaging_async import (
    Attachment,
    ConfigurationError,
    CreateConfirmCustomizationDetailsRequest,
    CreateConfirmOrderDetailsRequest,
    CreateNegativeFeedbackRemovalRequest,
    InvalidMessage,
    InvoiceRequest,
)
from sp_messaging_async.content import check, checked_locale, choose_locale, findings

HTML, ENTITY, EMAIL = "is HTML", "is an HTML entity", "an e-mail address"


@frozen
class Text:
    """A text of any length; a request's would be at most 2000 characters."""

    text: str


def found(text: str) -> list[tuple[int | None, str]]:
    """Position and reason of each finding."""
    return [(finding.position, finding.reason) for finding in findings(Text(text))]


@pytest.mark.parametrize(
    ("text", "kind", "part"),
    [
        ("Hello<br>you", HTML, "<br>"),
        ("a </p>", HTML, "</p>"),
        ("a <BR/> b", HTML, "<BR/>"),
        ("<a\nhref='x'>", HTML, "<a\nhref='x'>"),
        ("see <h1 class=x>", HTML, "<h1 class=x>"),
        ("x <svg/onload=f()>", HTML, "<svg/onload=f()>"),
        ("a <my-tag> b", HTML, "<my-tag>"),
        ("<< b><b>", HTML, "<b>"),
        ("a <!-- b -->", HTML, "<!--"),
        ("<!DOCTYPE html>", HTML, "<!DOCTYPE"),
        ("<!doctype", HTML, "<!doctype"),
        ("Fish &amp; chips", ENTITY, "&amp;"),
        ("5 &lt; 6", ENTITY, "&lt;"),
        ("caf&eacute;", ENTITY, "&eacute;"),
        ("costs 5 &#8364;", ENTITY, "&#8364;"),
        ("costs 5 &#x20aC;", ENTITY, "&#x20aC;"),
        ("AT&T &nbsp;", ENTITY, "&nbsp;"),
        ("Mail shop@example.com.", EMAIL, "shop@example.com"),
        ("(first.last+tag@mail.example.co.uk)", EMAIL, "first.last+tag@mail.example.co.uk"),
        ("MAIL:A@B.DE", EMAIL, "A@B.DE"),
        ("客服 kefu@例子.公司", EMAIL, "kefu@例子.公司"),
        ("x 12345@qq.com", EMAIL, "12345@qq.com"),
        ("mailto:a_b-c%d@my-shop.example", EMAIL, "a_b-c%d@my-shop.example"),
    ],
)
def test_what_amazon_refuses(text: str, kind: str, part: str) -> None:
    """HTML, entities and e-mail addresses are found, each where it begins, counted from 1."""
    ((position, reason),) = found(text)
    assert kind in reason
    assert position == text.index(part) + 1


@pytest.mark.parametrize(
    "text",
    [
        "a < b",
        "a<b",
        "a > b",
        "1<2>0",
        "I <3 it",
        "<-- here",
        "< b >",
        "</>",
        "a <b",
        "AT&T",
        "R&D; sales",
        "black & white",
        "&",
        "&;",
        "&#;",
        "&#x;",
        "&nosuchentity;",
        "&amp",
        "& amp;",
        "&#12345678;",
        "@home",
        "ask @shop on Thursday",
        "write me@ home",
        "a@b",
        "5 @ 2.50",
        "5@2.50",
        "two pieces, 2@1.99 each",
        "@example.com",
        "https://example.com/?a=1&b=2#c",
        "https://example.com/?lang=de&copy=2",
        "https://example.com/@48.85,2.35",
        "Ünïcödé 字 🎁 ❤",
        "line\nline\ttab",
    ],
)
def test_what_amazon_takes(text: str) -> None:
    """Comparisons, hearts, company names, handles, prices and links are left alone."""
    assert found(text) == []


@pytest.mark.parametrize("position", [1, 2, 400])
def test_positions_are_of_characters(position: int) -> None:
    """A position counts characters, whatever their size in bytes."""
    for forbidden in ("<br>", "&amp;", "-@-.de"):
        ((found_at, _),) = found("🎁" * (position - 1) + forbidden)
        assert found_at == position


def test_everything_is_told_at_once() -> None:
    """The refusal of a request names everything that is wrong with its text, and where."""
    request = CreateConfirmOrderDetailsRequest("<b>Hi</b> &amp; mail to a@b.de")
    with pytest.raises(InvalidMessage) as caught:
        check(request)
    expected = [(1, HTML), (6, HTML), (11, ENTITY), (25, EMAIL)]
    told = caught.value.findings
    assert [finding.position for finding in told] == [position for position, _ in expected]
    for finding, (position, kind) in zip(told, expected, strict=True):
        assert finding.field == "text"
        assert kind in finding.reason
        assert f"text, character {position}: " in str(caught.value)


def test_a_long_tag_is_shown_in_part() -> None:
    """The reason quotes no more than the beginning of a tag."""
    ((_, reason),) = found(f"<a href='{'x' * 900}'>")
    assert reason.startswith("<a href='xxxxxxxxxx… is HTML")


@pytest.mark.parametrize(
    "request_",
    [
        CreateNegativeFeedbackRemovalRequest(),
        InvoiceRequest((Attachment("sc/0", "<b>&amp;a@b.de.pdf"),)),
        CreateConfirmCustomizationDetailsRequest("Is this right?"),
        None,
    ],
    ids=lambda request: type(request).__name__,
)
def test_requests_with_nothing_to_find(request_: object) -> None:
    """A request without a text, or with a plain one, passes."""
    check(request_)


def test_every_entity_of_html_is_known() -> None:
    """Each name that HTML5 gives a character is found, from &gt; to the longest."""
    names = [name for name in html5 if name.endswith(";")]
    assert len(names) > 2000
    assert [name for name in names if not found(f"&{name}")] == []


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("<>/&;#@.!-a1 b字"), max_size=60))
def test_positions_are_inside_the_text(text: str) -> None:
    """Whatever the text, a finding points at a character that such a thing begins with."""
    for position, reason in found(text):
        assert position is not None
        begins = text[position - 1]
        assert begins == {HTML[:7]: "<"}.get(reason, begins)
        assert begins in "<&" or EMAIL in reason


ADVERSARIAL = {
    "words": "a",
    "dots": "a.",
    "at signs": "@",
    "locals": "a@",
    "local, long": ("a" * 50) + "@",
    "domains": "a@b.",
    "addresses": "a@b.c ",
    "dashes": "a@b-",
    "tags, open": "<a",
    "tags, spaced": "<a ",
    "tags, closed": "<a>",
    "angles": "<",
    "comments": "<!-",
    "ampersands": "&",
    "entities, open": "&a",
    "entities, long": "&" + "a" * 31,
    "numbers": "&#1",
    "entities": "&amp;",
}


def seconds(text: str) -> float:
    """The best of a few runs, in processor time."""
    times = []
    for _ in range(5):
        began = time.process_time()
        found(text)
        times.append(time.process_time() - began)
    return min(times)


@pytest.mark.parametrize("head", ["", "<a ", "a@", "&"], ids=repr)
@pytest.mark.parametrize("unit", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_time_grows_with_the_length(unit: str, head: str) -> None:
    """A text 16 times as long takes about 16 times as long to check, and not 256 times."""
    length = 3000
    short = head + unit * (length // len(unit))
    long = head + unit * (16 * length // len(unit))
    assert seconds(long) < 64 * seconds(short)


# Languages


@pytest.mark.parametrize(
    ("wanted", "offered", "expected"),
    [
        ("pt-BR", ("en", "pt"), "pt"),
        ("pt-BR", ("pt-PT", "pt-BR", "pt"), "pt-BR"),
        ("pt", ("en", "pt-BR"), "pt-BR"),
        ("de-AT", ("de", "en"), "de"),
        ("de_CH", ("de-DE", "en"), "de-DE"),
        ("DE-at", ("de", "en"), "de"),
        ("zh-TW", ("zh-Hans", "zh-Hant"), "zh-Hant"),
        ("zh-TW", ("zh-Hans", "en"), None),
        ("zh-CN", ("zh-Hant", "zh-Hans"), "zh-Hans"),
        ("en-GB", ("en-US", "en-GB"), "en-GB"),
        ("en-AU", ("en-US", "de"), "en-US"),
        ("es-MX", ("es-ES", "en"), "es-ES"),
        ("fr-BE", ("nl-BE", "fr-FR"), "fr-FR"),
        ("iw", ("he", "en"), "he"),
        ("nb", ("da", "en"), None),
        ("gsw", ("en",), None),
        ("ca", ("es", "en"), None),
        ("xx", ("en",), None),
        ("und", ("en",), None),
        ("!?", ("en",), None),
        ("en_US.UTF-8", ("de",), None),
        ("x" * 500, ("en",), None),
        ("\0", ("en",), None),
        ("\ud800", ("en",), None),
        ("", ("en",), None),
        (None, ("en",), None),
        ("en", (), None),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_the_language_to_write_in(
    wanted: str | None, offered: tuple[str, ...], expected: str | None
) -> None:
    """A variant of the same language will do, in a script that its readers know, and no other."""
    assert choose_locale(wanted, offered) == expected


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12) | st.text("abcdezh-_TWN0", max_size=12))
def test_any_locale(wanted: str) -> None:
    """Whatever Amazon calls a buyer's language, one of those offered is found, or none."""
    assert choose_locale(wanted, ("en", "zh-Hant")) in {"en", "zh-Hant", None}


@pytest.mark.parametrize("locale", ["de", "pt-BR", "zh-Hant", "zh-Hant-TW", "es-419", "en_US"])
def test_locales(locale: str) -> None:
    """A language with its script or region, if any, is taken as it is written."""
    assert checked_locale(locale) == locale


@pytest.mark.parametrize(
    "locale", ["", "english", "d", "de-", "xx-", "de DE", "\0", "de-XYZQW1234"]
)
def test_what_is_no_locale(locale: str) -> None:
    """A word, or a slip, is refused with examples."""
    with pytest.raises(InvalidMessage, match=r"is no language tag; write one such as de, pt-BR"):
        checked_locale(locale)


def test_without_langcodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Languages need the extra, which one line names."""
    monkeypatch.setitem(sys.modules, "langcodes", None)
    install = r'matching languages needs the bulk extra: pip install "sp-messaging-async\[bulk\]"'
    with pytest.raises(ConfigurationError, match=install):
        checked_locale("de")
    with pytest.raises(ConfigurationError, match=install):
        choose_locale("de-never-asked-for", ("en",))
