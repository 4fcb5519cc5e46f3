"""Templates: what is wrong with one is told before anything is sent; each buyer's language."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sp_messaging_async import (
    ConfigurationError,
    CreateConfirmCustomizationDetailsRequest,
    CreateConfirmOrderDetailsRequest,
    InvalidMessage,
    LocalFile,
    Marketplace,
    Problem,
)
from sp_messaging_async.bulk import order_list
from sp_messaging_async.bulk.order_list import Listed, Reading
from sp_messaging_async.bulk.template import Template
from sp_messaging_async.operations import named

from .conftest import ORDER

NAME = "createConfirmOrderDetails"


def load(folder: Path, content: str | bytes) -> Template:
    path = folder / "t.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Template.load(path)


def toml(texts: Mapping[str, object], operation: str = NAME, default: str = "en") -> str:
    lines = [f'"{name}" = {json.dumps(text, ensure_ascii=False)}' for name, text in texts.items()]
    head = [f'operation = "{operation}"', f'default_locale = "{default}"', "[text]"]
    return "\n".join([*head, *lines])


def template(folder: Path, en: str = "Hi.", **others: str) -> Template:
    return load(folder, toml({"en": en, **others}))


def refusal(folder: Path, content: str | bytes) -> str:
    """Why a template is refused, behind its name."""
    with pytest.raises(ConfigurationError) as caught:
        load(folder, content)
    beginning = f"the template {folder / 't.toml'}"
    assert str(caught.value).startswith(beginning)
    return str(caught.value)[len(beginning) :]


def rows(
    folder: Path, template: Template, *lines: str | Mapping[str, object], **reading: Any
) -> list[Listed | Problem]:
    """What a list says with a template: of lines of a table, or of objects as JSON Lines."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path = folder / ("o.csv" if isinstance(lines[0], str) else "o.jsonl")
    path.write_text("\n".join(texts), encoding="utf-8")
    options = Reading(template=template, **reading)
    return list(order_list.rows(path, Marketplace.US, options))


def one(folder: Path, en: str, header: str, cells: str) -> Any:
    """The text for a row of one language, or what is wrong with it."""
    (row,) = rows(folder, template(folder, en), f"order_id,{header}", f"{ORDER},{cells}")
    return getattr(row.message.request, "text", None) if isinstance(row, Listed) else row


def row(**cells: object) -> Mapping[str, object]:
    return {"order_id": ORDER, **cells}


# What is no template


def test_a_template(tmp_path: Path) -> None:
    """It says the operation, also in snake_case, the languages, and what columns it uses."""
    texts = {"en": "Hi {{ name }}{% if x %}!{% endif %}", "pt-BR": "Oi {% set a = qty %}{{ a }}"}
    found = load(tmp_path, toml(texts, "create_confirm_order_details"))
    assert found.operation is named(NAME)
    assert (found.name, found.default_locale, dict(found.texts)) == ("t.toml", "en", texts)
    assert found.columns == {"name", "x", "qty"}


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        ('operation = "x\n', " is no TOML: ", "(at line 1, column 15)"),
        (toml({"en": "a"}) + '\nen = "b"', " is no TOML: ", "(at end of document)"),
        ("a=" + "[" * 5000, " is no TOML: ", "recursion"),
        (toml({"en": "é"}).encode("latin-1"), " is not UTF-8; save it again", ""),
        (toml({"en": "a"}).encode("utf-16"), " is not UTF-8; save it again", ""),
        ("foo = 1\n" + toml({"en": "a"}), ", foo: ", "is no key of a template; it has operation,"),
        (toml({"en": "a"}).replace("[text]", "[texts]"), ", texts: ", "is no key of a template"),
        ('default_locale = "en"\n[text]\nen = "a"', ", operation: ", "is missing"),
        (toml({"en": "a"}, "createTrouble"), ", operation: ", "'createTrouble' is no operation"),
        (toml({"en": "a"}, "createWarranty"), ", operation: ", "createWarranty sends no text"),
        (toml({"en": "a"}, "getAttributes"), ", operation: ", "getAttributes sends no text"),
        (f'operation = "{NAME}"\n[text]\nen = "a"', ", default_locale: ", "is missing"),
        (toml({"de": "a"}), ", default_locale: ", "'en' has no text; give it one under [text]"),
        (f'operation = "{NAME}"\ndefault_locale = "en"', ", text: ", "is missing; write a table"),
        (f'operation = "{NAME}"\ntext = "a"', ", text: ", "is missing; write a table"),
        (toml({}), ", text: ", "is missing; write a table"),
        (toml({"en": " \n"}), ", text.en: ", "is no text; write it between quotes"),
        (toml({"en": 5}), ", text.en: ", "is no text; write it between quotes"),
        (toml({"en": "a", "english": "b"}), ", text.english: ", "write one such as de, pt-BR"),
        (toml({"en": "a", "": "b"}), ", text.: ", "'' is no language tag"),
        (toml({"en": "a", "q-Hant": "b"}), ", text.q-Hant: ", "'q-Hant' is no language tag"),
        (toml({"en": "a", "de": "b\n{{ c"}), ", text.de, line 2: ", "end of print statement"),
        (toml({"en": "{% if x %}"}), ", text.en, line 1: ", "endif"),
        (toml({"en": "\n\n{{ x | y }}"}), ", text.en, line 3: ", "No filter named 'y'"),
        (toml({"en": "{{ " + "(" * 500 + ")" * 500 + " }}"}), ", text.en: ", "RecursionError"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_no_template(tmp_path: Path, content: str | bytes, place: str, words: str) -> None:
    """Each mistake is told with the file, the key or line, and what to do about it."""
    found = refusal(tmp_path, content)
    assert found.startswith(place)
    assert words in found


@pytest.mark.parametrize("name", ["none.toml", "."])
def test_templates_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    """One that is not there, or is no file, is named with the reason."""
    with pytest.raises(ConfigurationError, match=r"^the template .* cannot be read: [A-Z]"):
        Template.load(tmp_path / name)


def test_a_template_as_an_editor_saves_it(tmp_path: Path) -> None:
    """A byte order mark and Windows' line ends change nothing."""
    found = load(tmp_path, "\ufeff" + toml({"en": "Hé {{ a }}"}).replace("\n", "\r\n"))
    assert found.text("en", {"a": "x"}) == "Hé x"


def test_without_jinja(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates need the extra, which one line names."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigurationError, match=r'pip install "sp-messaging-async\[bulk\]"'):
        template(tmp_path)


def test_a_digest_is_of_what_is_said(tmp_path: Path) -> None:
    """Whatever may change a message changes it; the file's name and a comment do not."""
    texts = {"en": "a", "de": "b"}
    same = [toml(texts), "# mine\n" + toml(texts), toml(dict(reversed(texts.items())))]
    assert len({load(tmp_path, content).digest for content in same}) == 1
    other = [toml({**texts, "de": "c"}), toml({"en": "a"}), toml(texts, default="de")]
    other.append(toml(texts, "createUnexpectedProblem"))
    assert len({load(tmp_path, content).digest for content in [same[0], *other]}) == 5


# Columns


def test_texts_are_filled(tmp_path: Path) -> None:
    """Cells stand for variables; the message carries the default language, and what it was of."""
    made = template(tmp_path, " Hi {{ name }}: {{ order_id }}\n", de="Hallo {{ name }}")
    (found,) = rows(tmp_path, made, "Order ID,Name,unused", f"{ORDER}, Ann ,x")
    assert isinstance(found, Listed)
    assert found.message.request == CreateConfirmOrderDetailsRequest(f"Hi Ann: {ORDER}")
    assert found.variables == {"name": "Ann", "order_id": ORDER}
    assert made.text("de", found.variables) == "Hallo Ann"


@pytest.mark.parametrize("name", ["Name", "name", "NAME"])
def test_capitals_of_a_variable(tmp_path: Path, name: str) -> None:
    """A variable finds its column whatever the capitals of both."""
    assert one(tmp_path, f"Hi {{{{ {name} }}}}", "naME", "Ann") == "Hi Ann"


@pytest.mark.parametrize("text", ["Tom & Jerry's", "{{ 7*7 }}", "{% if %}", "{#", "a\\n{0}%s"])
def test_cells_are_text(tmp_path: Path, text: str) -> None:
    """What stands in a cell is neither escaped nor computed."""
    assert one(tmp_path, "Hi {{ name }}", "name", text) == f"Hi {text}"


def test_columns_that_a_table_has_not(tmp_path: Path) -> None:
    """They are told at its first row for each language, with those that there are, and once."""
    made = template(tmp_path, "{{ nam }} {{ qty }}", de="{{ name }}", fr="{{ nam }}")
    found = rows(tmp_path, made, "order_id,name", *[f"{ORDER},Ann"] * 3)
    assert [(p.line, p.field) for p in found if isinstance(p, Problem)] == [
        (2, "text.en"),
        (2, "text.en"),
        (2, "text.fr"),
    ]
    assert found[0] == Problem(
        2, None, "text.en", "t.toml uses {{ nam }}, which is no column; the list has order_id, name"
    )


def test_keys_that_an_object_has_not(tmp_path: Path) -> None:
    """In JSON Lines each row has its own, and is told of."""
    made = template(tmp_path, "Hi {{ name }}")
    found = rows(tmp_path, made, row(), row(name="Ann"), row(nam="Ann"))
    assert [item.line for item in found if isinstance(item, Problem)] == [1, 3]
    assert isinstance(found[1], Listed)


def test_values_of_json(tmp_path: Path) -> None:
    """Lists, objects and numbers of JSON Lines are what a template works with."""
    made = template(tmp_path, "{% for i in items %}{{ i.n }} x {{ i.q + 1 }};{% endfor %}")
    (found,) = rows(tmp_path, made, row(items=[{"n": "a", "q": 1}, {"n": "b", "q": 2.5}]))
    assert isinstance(found, Listed)
    assert found.message.request == CreateConfirmOrderDetailsRequest("a x 2;b x 3.5;")
    (problem,) = rows(tmp_path, made, row(items=[{"n": "a"}]))
    assert isinstance(problem, Problem)
    assert problem.reason.startswith("t.toml cannot be filled: ")


@pytest.mark.parametrize(
    "use", ["{{ name }}", "{{ name | upper }}", "{{ name ~ '!' }}", "{{ name.strip() }}"]
)
@pytest.mark.parametrize("cells", ["", "  "], ids=ascii)
def test_an_empty_cell_that_is_written(tmp_path: Path, use: str, cells: str) -> None:
    """It is told by its name, with both remedies, and nobody gets a message with a gap."""
    problem = one(tmp_path, f"Hi {use}", "name", cells)
    assert isinstance(problem, Problem)
    assert (problem.line, problem.field) == (2, "text.en")
    remedy = "fill the cell, or write {{ name | default('…') }} or {% if name %}"
    assert problem.reason == f"t.toml cannot be filled: name is empty; {remedy}"


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("{{ name | default('you') }}", "you"),
        ("{{ name or 'you' }}", "you"),
        ("{{ name if name else 'you' }}", "you"),
        ("{% if name %}{{ name }}{% endif %}!", "!"),
        ("{% if not name %}none{% endif %}", "none"),
        ("{% if name is defined %}a{% else %}b{% endif %}", "b"),
        ("{% if name == 'Ann' %}a{% else %}b{% endif %}", "b"),
        ("{% if name != 'Ann' %}a{% else %}b{% endif %}", "a"),
        ("{% if name == '' %}a{% else %}b{% endif %}", "a"),
        ("{% if name == other %}a{% else %}b{% endif %}", "a"),
    ],
)
def test_an_empty_cell_that_is_asked_for(tmp_path: Path, use: str, expected: str) -> None:
    """A default, a condition and a comparison take it for what it is."""
    assert one(tmp_path, use, "name,other", ",") == expected


@pytest.mark.parametrize("spoilt", ["1.1E+15", "#N/A", "a\0b"], ids=ascii)
def test_a_spoilt_cell_that_is_used(tmp_path: Path, spoilt: str) -> None:
    """It is refused where the template uses it, and only there."""
    problem = one(tmp_path, "Hi {{ name }}", "name,other", f"{spoilt},x")
    assert isinstance(problem, Problem)
    assert (problem.line, problem.column, problem.field) == (2, 2, "name")
    assert one(tmp_path, "Hi {{ other }}", "name,other", f"{spoilt},x") == "Hi x"


# What a template writes


def test_a_text_over_the_limit_in_one_language(tmp_path: Path) -> None:
    """All languages are filled and checked for each row, and the one that is too long is named."""
    made = template(tmp_path, "{{ name }}", de="Guten Tag {{ name }}")
    lines = ["order_id,name", f"{ORDER},Ann", f"{ORDER},{'x' * 1995}"]
    good, problem = rows(tmp_path, made, *lines)
    assert isinstance(good, Listed)
    reason = "at character 2001: has 2005 characters where Amazon takes 2000; shorten it"
    assert problem == Problem(3, None, "text.de", reason)


@pytest.mark.parametrize(
    ("cell", "words"),
    [("<b>x", "<b> is HTML"), ("a@example.com", "an e-mail address"), ("&amp;", "HTML entity")],
)
def test_what_amazon_refuses_from_a_cell(tmp_path: Path, cell: str, words: str) -> None:
    """HTML, entities and addresses that a cell brings are found where they stand in the text."""
    made = template(tmp_path, "Hi {{ name }}", de="Hallo {{ name }}", fr="Bonjour")
    found = rows(tmp_path, made, "order_id,name", f"{ORDER},{cell}")
    assert [item.field for item in found if isinstance(item, Problem)] == ["text.en", "text.de"]
    assert all(words in item.reason for item in found if isinstance(item, Problem))
    assert isinstance(found[1], Problem)
    assert found[1].reason.startswith("at character 7: ")


def test_a_template_that_writes_nothing(tmp_path: Path) -> None:
    """A text that comes to nothing for a row is refused for that row."""
    problem = one(tmp_path, "{% if name %}{{ name }}{% endif %}", "name", "")
    assert problem == Problem(2, None, "text.en", "is empty; write 1 to 2000 characters")


UNSAFE = [
    "{{ ''.__class__.__mro__ }}",
    "{{ name['__class__'] }}",
    "{{ name | attr('__class__') }}",
    "{{ '{0.__class__.__mro__}'.format(name) }}",
    "{{ '{a.__class__}'.format_map({'a': name}) }}",
    "{{ name.format.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ self.__init__.__globals__ }}",
    "{% set x = [] %}{{ x.append(1) }}",
    "{{ {}.update(a=1) }}",
    "{{ range(10**9) | list }}",
    "{{ range(10**9) }}",
    "{% include 'a' %}",
    "{% import 'a' as a %}{{ a }}",
    "{% extends 'a' %}",
    "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 1 / 0 }}{{ name }}",
    "{{ name + 1 }}",
    "{{ name() }}",
    "{{ 'x' * 10**16 }}{{ name }}",
]


@pytest.mark.parametrize("use", UNSAFE)
def test_what_a_template_may_not_do(tmp_path: Path, use: str) -> None:
    """What leads out of the text, or fails, is a problem of the row, and nothing else happens."""
    problem = one(tmp_path, f"Hi {use}", "name", "Ann")
    assert isinstance(problem, Problem)
    assert (problem.line, problem.field) == (2, "text.en")
    assert "<class" not in problem.reason
    with pytest.raises(InvalidMessage):
        template(tmp_path, f"Hi {use}").text("en", {"name": "Ann"})


PIECES = ["{{", "}}", "{%", "%}", "{#", "#}", "name", "'", "|", "upper", ".", "__class__", "(", ")"]
PIECES += [" if ", "endif", " for ", " in ", "[", "]", "0", "~", "==", "x", "\n", "-", " set "]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=10))
def test_any_source(tmp_path: Path, pieces: list[str]) -> None:
    """Whatever a template holds: a text, or a refusal, and never another error."""
    with contextlib.suppress(ConfigurationError, InvalidMessage):
        source = "Hi " + "".join(pieces)
        assert template(tmp_path, source).text("en", {"name": "Ann"}).startswith("Hi")


# Beside the other columns


def test_the_text_of_a_row(tmp_path: Path) -> None:
    """A row's own text would be lost, and is refused; unless the template uses it."""
    problem = one(tmp_path, "Hi.", "text", "Own.")
    reason = "t.toml writes the text; clear the cell, or use it as {{ text }}"
    assert problem == Problem(2, 2, "text", reason)
    assert one(tmp_path, "Hi.", "text", "") == "Hi."
    assert one(tmp_path, "Hi. {{ text }} Bye.", "text", "Own.") == "Hi. Own. Bye."


def test_another_operation(tmp_path: Path) -> None:
    """A row without one takes the template's, the same may be named, and another is refused."""
    lines = [f"{ORDER},", f"{ORDER},create_confirm_order_details", f"{ORDER},createWarranty"]
    *good, problem = rows(tmp_path, template(tmp_path), "order_id,operation", *lines)
    assert [type(item) for item in good] == [Listed, Listed]
    reason = f"t.toml is for {NAME}; list the others elsewhere"
    assert problem == Problem(4, 2, "operation", reason)


def test_files_beside_a_template(tmp_path: Path) -> None:
    """They go with it, and one that cannot be read is told once, and not for every language."""
    (tmp_path / "a.pdf").write_bytes(b"x")
    made = load(tmp_path, toml({"en": "Hi", "de": "Hallo"}, "confirmCustomizationDetails"))
    lines = ["order_id,attachments", f"{ORDER},a.pdf", f"{ORDER},none.pdf"]
    good, problem, *more = rows(tmp_path, made, *lines)
    expected = CreateConfirmCustomizationDetailsRequest("Hi", [LocalFile(tmp_path / "a.pdf")])
    assert isinstance(good, Listed)
    assert good.message.request == expected
    assert isinstance(problem, Problem)
    assert (problem.line, problem.column, problem.field, more) == (3, 2, "attachments", [])


def test_advice_on_cells(tmp_path: Path) -> None:
    """Links and numbers that a cell brings are told at their cell; strictly, they are problems."""
    made = template(tmp_path, "Hi {{ note }}", de="Hallo {{ note }}")
    lines = ["order_id,note,other", f"{ORDER},call +1 650 253 0000,www.example.com"]
    (found,) = rows(tmp_path, made, *lines)
    assert isinstance(found, Listed)
    (advice,) = found.advice
    assert (advice.line, advice.column, advice.field) == (2, 2, "note")
    assert advice.reason.startswith("at character 6: a telephone number")
    assert rows(tmp_path, made, *lines, strict=True) == [advice]


def test_advice_on_its_own_words(tmp_path: Path) -> None:
    """Links, numbers and a text in another language than is said are told of their locale."""
    made = template(
        tmp_path,
        "See www.example.com for {{ name }}.",
        de="{# +1 650 253 0000 #}Would you like to have your order gift-wrapped this time?",
        fr="Voulez-vous que nous emballions votre commande dans du papier cadeau ?",
    )
    found = [(finding.field, finding.reason) for finding in made.advice("US")]
    assert [field for field, _ in found] == ["text.en", "text.de"]
    assert found[0][1].startswith("a link")
    assert found[1][1].startswith("reads as 'en' and is given as 'de'")


# Languages


@pytest.mark.parametrize(
    ("buyers", "expected"),
    [
        ("pt-BR", "pt"),
        ("de-AT", "de"),
        ("de_DE", "de"),
        ("zh-TW", "zh-Hant"),
        ("zh-HK", "zh-Hant"),
        ("zh-CN", "zh-Hans"),
        ("zh", "zh-Hans"),
        ("en-GB", "en"),
        ("nb", "en"),
        ("xx", "en"),
        ("!", "en"),
        ("", "en"),
        (None, "en"),
    ],
)
def test_the_language_of_a_buyer(tmp_path: Path, buyers: str | None, expected: str) -> None:
    """The nearest text of the same language is taken, and the default for all others."""
    texts = dict.fromkeys(["en", "pt", "de", "zh-Hans", "zh-Hant"], "Hi")
    assert load(tmp_path, toml(texts)).locale_for(buyers) == expected


def test_a_script_that_was_not_written(tmp_path: Path) -> None:
    """Who reads traditional characters is not sent simplified ones."""
    assert load(tmp_path, toml({"en": "a", "zh-Hans": "b"})).locale_for("zh-TW") == "en"


@pytest.mark.parametrize("name", ["range", "dict", "cycler", "joiner", "lipsum", "namespace"])
def test_columns_that_jinja_has_other_plans_for(tmp_path: Path, name: str) -> None:
    """A column is a column, whatever Jinja2 means by its name."""
    found = template(tmp_path, en="{% if " + name + " %}It is {{ " + name + " }}.{% endif %}")
    assert found.columns == {name}
    assert found.text("en", {name: "big"}) == "It is big."
    assert found.text("en", {}) == ""


@pytest.mark.parametrize("what", ["'a' * 3000000000", "qty * 3000000000 * 'a'", "9 ** 9999999"])
def test_a_text_that_would_fill_the_memory(tmp_path: Path, what: str) -> None:
    """It is refused before it does."""
    found = template(tmp_path, en="{{ " + what + " }}")
    with pytest.raises(InvalidMessage, match="is too large"):
        found.text("en", {"qty": 5})
    assert template(tmp_path, en="{{ qty * 2 }}").text("en", {"qty": 5}) == "10"


def test_a_text_is_the_same_each_time(tmp_path: Path) -> None:
    """Chance has no place in a text that is checked first and sent later."""
    assert "No filter named 'random'" in refusal(tmp_path, toml({"en": "{{ x | random }}"}))


@pytest.mark.parametrize("other", ["{name}", "{ name }", "[[name]]", "<<name>>"])
def test_placeholders_of_another_kind(tmp_path: Path, other: str) -> None:
    """What other programs take for a placeholder is pointed out; it would be sent as it stands."""
    (finding,) = template(tmp_path, en=f"Dear {other}, it is {{{{ x }}}}.").advice("US")
    assert finding.reason.startswith(f"{other} is sent as it stands")
