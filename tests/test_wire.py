"""The protocol without a socket: what goes out to the byte, and what any answer becomes."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from sp_messaging_async import (
    ApiError,
    BadRequest,
    Error,
    Forbidden,
    GetAttributesResponse,
    GetMessagingActionsForOrderResponse,
    InvalidMessage,
    Marketplace,
    MessageNotAvailable,
    MessageRequest,
    NotFound,
    PayloadTooLarge,
    ServerError,
    Throttled,
    UnsupportedMediaType,
)
from sp_messaging_async.operations import MESSAGING, OPERATIONS, UPLOAD, Operation, by_request
from sp_messaging_async.wire import (
    HttpAnswer,
    HttpRequest,
    build,
    build_upload_destination,
    checked_order_id,
    names_token,
    rate_limit,
    read,
    user_agent,
)

from .conftest import ORDER, requests_of_every_kind

API = "https://sellingpartnerapi-na.amazon.com"
ORDER_URL = f"{API}/messaging/v1/orders/{ORDER}"
AGENT = "my-bot/1.2 (Language=Python/3.12; Platform=Linux)"
MD5 = "+/+/AAAAAAAAAAAAAAAAAA=="

FILE = b'{"uploadDestinationId":"sc/0","fileName":"a.pdf"}'
# The path and the body of every message that `requests_of_every_kind` makes.
SENT: dict[str, tuple[str, bytes]] = {
    "confirmCustomizationDetails": (
        "confirmCustomizationDetails",
        b'{"text":"Is this right?","attachments":[' + FILE + b"]}",
    ),
    "createConfirmDeliveryDetails": ("confirmDeliveryDetails", b'{"text":"When?"}'),
    "createLegalDisclosure": ("legalDisclosure", b'{"attachments":[' + FILE + b"]}"),
    "createNegativeFeedbackRemoval": ("negativeFeedbackRemoval", b""),
    "createConfirmOrderDetails": ("confirmOrderDetails", b'{"text":"Two of them?"}'),
    "createConfirmServiceDetails": ("confirmServiceDetails", b'{"text":"How wide?"}'),
    "createAmazonMotors": ("amazonMotors", b'{"attachments":[' + FILE + b"]}"),
    "createWarranty": (
        "warranty",
        b'{"attachments":[' + FILE + b'],"coverageStartDate":"2026-01-01T00:00:00Z",'
        b'"coverageEndDate":"2027-01-01T00:00:00Z"}',
    ),
    "createDigitalAccessKey": (
        "digitalAccessKey",
        b'{"text":"KEY","attachments":[' + FILE + b"]}",
    ),
    "createUnexpectedProblem": ("unexpectedProblem", b'{"text":"Sold out."}'),
    "sendInvoice": ("invoice", b'{"attachments":[' + FILE + b"]}"),
}

every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
every_message = pytest.mark.parametrize(
    "operation", [row for row in MESSAGING.values() if row.messages_buyer], ids=lambda row: row.name
)
each_kind = pytest.mark.parametrize(
    "operation",
    [
        MESSAGING["createWarranty"],
        MESSAGING["createNegativeFeedbackRemoval"],
        MESSAGING["getMessagingActionsForOrder"],
        UPLOAD,
    ],
    ids=lambda row: row.name,
)
with_attachments = pytest.mark.parametrize(
    "operation",
    [row for row in MESSAGING.values() if row.takes_attachments],
    ids=lambda row: row.name,
)

MESSAGE, READ = MESSAGING["createWarranty"], MESSAGING["getAttributes"]


def answer(status: int, body: object = b"", **headers: str) -> HttpAnswer:
    """An answer as the transport gives it; a body that is no bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpAnswer(status, CIMultiDictProxy(CIMultiDict(named)), content)


def refused(got: HttpAnswer, operation: Operation = MESSAGE) -> ApiError:
    """The error that an answer is."""
    with pytest.raises(ApiError) as caught:
        read(operation, got)
    return caught.value


# Requests


@pytest.mark.parametrize("request_", requests_of_every_kind(), ids=lambda r: type(r).__name__)
def test_a_message(request_: MessageRequest) -> None:
    """A message goes to its own path as compact JSON; without fields it has no body or type."""
    operation = by_request(request_)
    path, body = SENT[operation.name]
    sent = build(API, operation, ORDER, Marketplace.US, request_, AGENT)
    assert sent.method == "POST"
    assert str(sent.url) == f"{ORDER_URL}/messages/{path}?marketplaceIds=ATVPDKIKX0DER"
    assert sent.body == body
    content_type = {"content-type": "application/json"} if body else {}
    assert sent.headers == {
        "accept": "application/hal+json",
        "user-agent": AGENT,
        **content_type,
    }


def test_every_message_is_tested_here() -> None:
    """The messages with a path and body above are all that there are."""
    assert SENT.keys() == {row.name for row in MESSAGING.values() if row.messages_buyer}


@pytest.mark.parametrize(
    ("name", "path"), [("getMessagingActionsForOrder", ""), ("getAttributes", "/attributes")]
)
def test_a_read(name: str, path: str) -> None:
    """A read is a GET without body or content type."""
    sent = build(API, MESSAGING[name], ORDER, Marketplace.JP, agent=AGENT)
    assert sent.method == "GET"
    assert str(sent.url) == f"{ORDER_URL}{path}?marketplaceIds=A1VC38T7YXB528"
    assert sent.headers == {"accept": "application/hal+json", "user-agent": AGENT}
    assert sent.body is None


@with_attachments
def test_an_upload_destination(operation: Operation) -> None:
    """The resource keeps its slashes and loses the first; the MD5 is percent-encoded once."""
    sent = build_upload_destination(API, operation, ORDER, Marketplace.DE, MD5, AGENT)
    resource = f"messaging/v1/orders/{ORDER}/messages/{SENT[operation.name][0]}"
    assert sent.method == "POST"
    assert sent.url == (
        f"{API}/uploads/2020-11-01/uploadDestinations/{resource}"
        "?marketplaceIds=A1PA6795UKMFR9&contentMD5=%2B%2F%2B%2FAAAAAAAAAAAAAAAAAA%3D%3D"
    )
    assert sent.headers == {"accept": "application/json", "user-agent": AGENT}
    assert sent.body == b""


@given(st.binary(min_size=16, max_size=16))
@settings(deadline=None)
def test_any_md5_survives_its_encoding(digest: bytes) -> None:
    """Decoded once, the query holds the base64 that was given, and one marketplace."""
    md5 = base64.b64encode(digest).decode()
    url = build_upload_destination(API, MESSAGE, ORDER, Marketplace.US, md5).url
    pairs = [part.split("=") for part in urlsplit(url).query.split("&")]
    assert [(name, unquote(value)) for name, value in pairs] == [
        ("marketplaceIds", "ATVPDKIKX0DER"),
        ("contentMD5", md5),
    ]


def test_a_host_with_a_path_and_a_port() -> None:
    """An endpoint of the user's own may have a port and a path, which the request keeps."""
    sent = build("http://127.0.0.1:8085/amazon", READ, ORDER, Marketplace.US)
    assert str(sent.url).startswith(f"http://127.0.0.1:8085/amazon/messaging/v1/orders/{ORDER}/")


def test_a_request_goes_with_the_last_token_it_was_given() -> None:
    """Authorizing a request sets one header, anew for each attempt, and changes nothing else."""
    request = build(API, MESSAGE, ORDER, Marketplace.US, requests_of_every_kind()[7], AGENT)
    before = (request.method, request.url, dict(request.headers), request.body)
    for token in ("Atza|old", "Atza|new"):
        request.authorize(token)
    assert request.headers.pop("x-amz-access-token") == "Atza|new"
    assert (request.method, request.url, request.headers, request.body) == before


def test_nothing_of_a_request_is_shown() -> None:
    """Addresses, headers and bodies may hold secrets and buyers' texts: a repr has none of them."""
    request = HttpRequest("PUT", "https://s3/hush", {"x-amz-access-token": "hush"}, b"hush")
    assert repr(request) == "HttpRequest(method='PUT')"
    assert repr(answer(200, b"hush", name="hush")) == "HttpAnswer(status=200)"


@pytest.mark.parametrize(
    "order_id", [ORDER, "123-1234567-1234567", "S01-1234567-1234567", "badOrderId", "a", "a" * 64]
)
def test_order_ids(order_id: str) -> None:
    """Amazon's ids, its sandbox's and other plain names are taken as they are."""
    assert checked_order_id(order_id) == order_id


@pytest.mark.parametrize(
    "order_id",
    [
        *(
            "",
            " ",
            "..",
            ".",
            "-1",
            "a/b",
            "a\\b",
            "a%2Fb",
            "a?b",
            "a#b",
            "a&b",
            "a b",
            "a\n",
            "a\0",
        ),
        *("١٢٣", "é", "{amazonOrderId}", "a" * 65, None, 1, b"a", ["a"]),
    ],
    ids=repr,
)
def test_order_ids_that_could_break_an_address(order_id: str) -> None:
    """An id that no order has is refused by name, for a call and for an upload."""
    with pytest.raises(InvalidMessage, match="is no order id") as caught:
        build(API, READ, order_id, Marketplace.US)
    assert caught.value.findings[0].field == "amazon_order_id"
    with pytest.raises(InvalidMessage, match="is no order id"):
        build_upload_destination(API, MESSAGE, order_id, Marketplace.US, MD5)


@given(
    order_id=st.text() | st.text("abcXYZ019-_./%?#&=:@\\ \r\n\t", max_size=20),
    operation=st.sampled_from([row for row in MESSAGING.values() if not row.has_body]),
    marketplace=st.sampled_from(Marketplace),
)
@settings(deadline=None)
def test_any_order_id_is_refused_or_one_part_of_the_path(
    order_id: str, operation: Operation, marketplace: Marketplace
) -> None:
    """Whatever the id, the address is the operation's own, with marketplaceIds exactly once."""
    try:
        url = str(build(API, operation, order_id, marketplace).url)
    except InvalidMessage:
        return
    parts = urlsplit(url)
    path = operation.path.split("/")
    path[path.index("{amazonOrderId}")] = order_id
    assert f"{parts.scheme}://{parts.netloc}" == API
    assert parts.path.split("/") == path
    assert parse_qsl(parts.query, strict_parsing=True) == [("marketplaceIds", marketplace.id)]
    assert not parts.fragment


# The User-Agent


def test_user_agent() -> None:
    """An application and its version become Amazon's form, with the language and platform."""
    form = r"my-bot/1\.2 \(Language=Python/3\.\d+\.\d+\S*; Platform=[^;()]+\)"
    assert re.fullmatch(form, user_agent("my-bot/1.2"))


@pytest.mark.parametrize(
    ("application", "escaped"),
    [
        ("a/b/1.0", r"a\/b/1.0"),
        ("a(b/1.0", "a(b/1.0"),
        ("a/1.0(b)", r"a/1.0\(b)"),
        ("a\\b/1\\2", r"a\\b/1\\2"),
        ("My Bot/1.0 beta", "My Bot/1.0 beta"),
    ],
)
def test_user_agent_escapes(application: str, escaped: str) -> None:
    """A slash in the name, a bracket in the version and backslashes are escaped, nothing else."""
    assert user_agent(application).startswith(f"{escaped} (Language=")


@pytest.mark.parametrize(
    "application",
    [
        "",
        "bot",
        "/1.0",
        "bot/",
        " /1.0",
        "bot/ ",
        "bo\nt/1.0",
        "bot/1.0\r\nx: y",
        "bot/1\0",
        "böt/1",
        7,
        b"bot/1",
    ],
    ids=repr,
)
def test_user_agents_that_are_none(application: str) -> None:
    """Without a name or version, with control characters, beyond ASCII or no text: refused."""
    with pytest.raises(InvalidMessage) as caught:
        user_agent(application)
    assert caught.value.findings[0].field == "user_agent"


def test_longest_user_agent() -> None:
    """500 characters in all are taken, and one more is refused with the limit."""
    room = 500 - len(user_agent("a/1")) + 1
    assert len(user_agent("a" * room + "/1")) == 500
    with pytest.raises(InvalidMessage, match="at most 500 characters"):
        user_agent("a" * (room + 1) + "/1")


# Answers


HTML = b"<html><body><h1>503 Service Unavailable</h1></body></html>"
TOKEN_EXPIRED = "The access token you provided has expired."
TOKEN_INVALID = "The access token you provided is revoked, malformed or invalid."
DENIED = "Access to requested resource is denied."
NO_TEMPLATE = "Invalid amazonOrderId and template combination."

BY_STATUS: dict[int, type[ApiError]] = {
    100: ApiError,
    301: ApiError,
    304: ApiError,
    307: ApiError,
    400: BadRequest,
    401: ApiError,
    403: Forbidden,
    404: NotFound,
    405: ApiError,
    408: ApiError,
    409: ApiError,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
    429: Throttled,
    500: ServerError,
    502: ServerError,
    503: ServerError,
    504: ServerError,
    599: ServerError,
    600: ApiError,
    999: ApiError,
}


def error_body(code: str = "Code", message: str = "Words.", details: str = "More.") -> object:
    return {"errors": [{"code": code, "message": message, "details": details}]}


@each_kind
@pytest.mark.parametrize(("status", "cls"), BY_STATUS.items())
def test_each_status_is_its_error(operation: Operation, status: int, cls: type[ApiError]) -> None:
    """An answer that is no 2xx is the error of its status, with Amazon's words and request id."""
    error = refused(answer(status, error_body(), x_amzn_RequestId="id-1"), operation)
    assert type(error) is cls
    assert error.status == status
    assert error.errors == (Error("Code", "Words.", "More."),)
    assert error.codes == ("Code",)
    assert error.request_id == "id-1"


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_says_so(status: int) -> None:
    """A redirect is an error that tells that nothing is followed."""
    got = answer(status, location="https://elsewhere/hush")
    assert "redirect" in str(refused(got))
    assert "hush" not in str(refused(got))


@pytest.mark.parametrize("content_type", [None, "application/json", "application/hal+json"])
@pytest.mark.parametrize("other", ["text/html", "application/json; charset=latin-1", "nonsense"])
def test_the_content_type_never_matters(content_type: str | None, other: str) -> None:
    """Success and errors are read alike under any content type, or none."""
    named = {"content_type": content_type} if content_type else {}
    locale = {"buyer": {"locale": "pt-BR"}}
    assert read(READ, answer(200, locale, **named)) == read(
        READ, answer(200, locale, content_type=other)
    )
    refusal = error_body()
    one = refused(answer(400, refusal, **named))
    two = refused(answer(400, refusal, content_type=other))
    assert one.errors == two.errors == (Error("Code", "Words.", "More."),)


@pytest.mark.parametrize("text_in", ["message", "details"])
@pytest.mark.parametrize(
    "sentence",
    [
        TOKEN_EXPIRED,
        TOKEN_INVALID,
        "The access token you provided has been revoked.",
        TOKEN_INVALID.upper(),
        TOKEN_EXPIRED.replace(" has", "\nhas"),
    ],
)
@pytest.mark.parametrize("code", ["Unauthorized", "AccessDenied", ""])
@each_kind
def test_403_that_names_the_token(
    operation: Operation, sentence: str, text_in: str, code: str
) -> None:
    """The sentence decides, in details or in message, under any code and for any operation."""
    error = refused(answer(403, error_body(code, **{text_in: sentence})), operation)
    assert type(error) is Forbidden
    assert names_token(error)


def test_403_of_the_gateway_that_names_the_token() -> None:
    """The sentence counts in the gateway's own form of an error too."""
    assert names_token(refused(answer(403, {"message": TOKEN_EXPIRED})))


@pytest.mark.parametrize("text_in", ["message", "details"])
@each_kind
def test_403_about_order_and_template(operation: Operation, text_in: str) -> None:
    """A kind of message that is not available is its own error, and no trouble of the token."""
    error = refused(answer(403, error_body("Unauthorized", **{text_in: NO_TEMPLATE})), operation)
    assert type(error) is MessageNotAvailable
    assert not names_token(error)
    assert "get_messaging_actions_for_order" in str(error)


def test_403_about_the_template_outweighs_the_token() -> None:
    """Where both sentences stand, no new token is asked for."""
    error = refused(answer(403, error_body("Unauthorized", NO_TEMPLATE, TOKEN_INVALID)))
    assert type(error) is MessageNotAvailable
    assert not names_token(error)


@pytest.mark.parametrize(
    "body",
    [
        error_body("Unauthorized", DENIED, ""),
        error_body("Unauthorized", "", ""),
        {"errors": [{"code": "Unauthorized"}]},
        error_body("InvalidAccessToken", DENIED, "The role is missing."),
        error_body("Unauthorized", DENIED, "The access token lacks the role."),
        error_body("Unauthorized", "Invalid request.", "No access token was given."),
        {"message": "Forbidden"},
        HTML,
        b"",
    ],
    ids=repr,
)
def test_other_403s_are_final(body: object) -> None:
    """A code alone decides nothing: without the sentence a 403 is a plain Forbidden."""
    error = refused(answer(403, body))
    assert type(error) is Forbidden
    assert not names_token(error)


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500, 503])
@pytest.mark.parametrize("sentence", [TOKEN_EXPIRED, NO_TEMPLATE])
def test_the_sentences_count_in_a_403_only(status: int, sentence: str) -> None:
    """Under another status the sentences neither cost a token nor excuse the answer."""
    error = refused(answer(status, error_body("Unauthorized", sentence)))
    assert not isinstance(error, Forbidden)
    assert not names_token(error)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"", ()),
        (b" \r\n", ()),
        (HTML, ()),
        (b"\xff\xfe{}", ()),
        (b'{"errors": [{"code": "A"', ()),
        ({}, ()),
        ([], ()),
        ("words", ()),
        (None, ()),
        ({"errors": None}, ()),
        ({"errors": []}, ()),
        ({"errors": {"code": "A"}}, ()),
        ({"errors": "A"}, ()),
        ({"errors": 1}, ()),
        ({"message": "Forbidden"}, (Error(message="Forbidden"),)),
        ({"errors": None, "message": "Forbidden"}, (Error(message="Forbidden"),)),
        ({"message": None}, ()),
        ({"message": ["Forbidden"]}, ()),
        ({"errors": [{}]}, (Error(),)),
        ({"errors": [None]}, (Error(message="an error without words"),)),
        ({"errors": ["A", {"code": "B"}]}, (Error(message="an error without words"), Error("B"))),
        ({"errors": [{"code": 1, "message": ["x"], "details": {}}]}, (Error(),)),
        ({"errors": [{"code": "A", "message": None, "details": ""}]}, (Error("A"),)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("status", [400, 403, 503])
def test_bodies_of_errors(status: int, body: object, found: tuple[Error, ...]) -> None:
    """Whatever the body of an error, the status decides, and what can be read of it is kept."""
    error = refused(answer(status, body))
    assert type(error) is BY_STATUS[status]
    assert error.errors == found
    assert str(error).startswith(f"Amazon answered {status}")


@pytest.mark.parametrize(
    ("body", "words"), [(b"", "an empty body"), (HTML, "a body without Amazon's errors")]
)
def test_an_error_without_words_says_what_came(body: bytes, words: str) -> None:
    """An error that Amazon does not explain tells what came instead, and none of the body."""
    assert str(refused(answer(503, body))) == f"Amazon answered 503; {words}"


EMPTY_OR_WITHOUT_ERRORS = [b"", b" \r\n", {}, b"\xef\xbb\xbf{}", {"unknown": [1]}, {"errors": None}]


@every_message
@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize("body", EMPTY_OR_WITHOUT_ERRORS, ids=repr)
def test_sent(operation: Operation, status: int, body: object) -> None:
    """A 2xx with an empty body, or an object without errors, means that the message was sent."""
    model = read(operation, answer(status, body))
    assert type(model) is operation.response
    assert model == operation.response()


NO_SUCCESS: list[object] = [
    HTML,
    b"{",
    b'{"a": "',
    b"OK",
    b"\xff",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"1" * 10_000,
    [],
    [{}],
    None,
    True,
    1,
    "sent",
    {"errors": [{"code": "InternalFailure", "message": "Words."}]},
    {"errors": [{}]},
    {"errors": [None]},
    {"errors": {}},
    {"errors": {"code": "InternalFailure"}},
    {"errors": ""},
    {"errors": "InternalFailure"},
    {"errors": 0},
    {"errors": False},
]


@each_kind
@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("body", NO_SUCCESS, ids=lambda body: repr(body)[:40])
def test_a_success_that_is_none(operation: Operation, status: int, body: object) -> None:
    """A 2xx with errors, or with anything but an object, is never taken for a success."""
    error = refused(answer(status, body, x_amzn_RequestId="id-1"), operation)
    assert type(error) is ApiError
    assert error.status == status
    assert error.request_id == "id-1"


def test_errors_in_a_success_are_kept() -> None:
    """What Amazon says in a 2xx with errors can be read from the error."""
    error = refused(answer(200, error_body("InternalFailure", "Words.")), READ)
    assert error.codes == ("InternalFailure",)
    assert "Words." in str(error)


@pytest.mark.parametrize("body", [b"", b" \n"], ids=repr)
@pytest.mark.parametrize(
    "operation", [row for row in OPERATIONS.values() if not row.messages_buyer]
)
def test_a_read_needs_a_body(operation: Operation, body: bytes) -> None:
    """Where something is to be read, an empty 2xx is no success."""
    assert type(refused(answer(200, body), operation)) is ApiError


def test_reads_without_content() -> None:
    """An empty object is a readable answer of a read: no kinds of message, no language."""
    assert read(READ, answer(200, {})) == GetAttributesResponse()
    actions = MESSAGING["getMessagingActionsForOrder"]
    assert read(actions, answer(200, {})) == GetMessagingActionsForOrderResponse()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"payload": None},
        {"payload": {}},
        {"payload": {"uploadDestinationId": "sc/0"}},
        {"payload": {"uploadDestinationId": "sc/0", "url": 1}},
    ],
    ids=repr,
)
def test_an_upload_destination_needs_id_and_address(body: object) -> None:
    """A destination without its id or address cannot be used, and is no success."""
    assert type(refused(answer(201, body), UPLOAD)) is ApiError


def test_an_unreadable_success_shows_nothing_of_the_body() -> None:
    """An answer may hold a presigned address: the error names types and fields, and no value."""
    body = {"payload": {"uploadDestinationId": ["hush"], "url": "https://s3/?hush"}}
    error = refused(answer(201, body), UPLOAD)
    assert "a string belongs" in str(error)
    assert "hush" not in str(error)


@pytest.mark.parametrize(
    "name", ["x-amzn-RequestId", "x-amzn-requestid", "X-Amzn-Requestid", "X-AMZN-REQUESTID"]
)
@pytest.mark.parametrize(
    ("status", "body"), [(400, error_body()), (503, HTML), (403, error_body(message=NO_TEMPLATE))]
)
def test_the_request_id_in_any_case(name: str, status: int, body: object) -> None:
    """The request id is found however its header is written, and shown in the error's text."""
    error = refused(answer(status, body, **{name: "id-1"}))
    assert error.request_id == "id-1"
    assert "request id id-1" in str(error)


def test_no_request_id() -> None:
    """An answer without the header, as a gateway's, has no request id."""
    assert refused(answer(503)).request_id is None


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        ("1.0", 1.0),
        ("0.5", 0.5),
        ("5", 5.0),
        ("0.016666", 0.016666),
        (" 2.0 ", 2.0),
        ("", None),
        ("fast", None),
        ("1,5", None),
        ("1.0, 2.0", None),
        ("0x1", None),
    ],
)
@pytest.mark.parametrize("name", ["x-amzn-RateLimit-Limit", "X-AMZN-RATELIMIT-LIMIT"])
def test_the_rate(name: str, value: str, rate: float | None) -> None:
    """The rate is the header's decimal number, in any case; what is no number is none."""
    assert rate_limit(answer(201, {}, **{name: value})) == rate


def test_no_rate() -> None:
    """An answer without the header, as every 429, tells no rate."""
    assert rate_limit(answer(429)) is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (201, error_body("c" * 100_000, "m" * 1_000_000, "d" * 1_000_000)),
        (400, error_body("c" * 100_000, "m" * 1_000_000, "d" * 1_000_000)),
        (403, {"message": "m" * 1_000_000}),
        (201, {"errors": [{"code": "c", "message": "m" * 1000}] * 10_000}),
        (400, {"errors": [{"code": "c", "message": "m" * 1000}] * 10_000}),
    ],
    ids=["in a success", "long texts", "of the gateway", "many in a success", "many"],
)
def test_long_errors_are_bounded(status: int, body: object) -> None:
    """However much an answer says, the error's text stays fit for a log."""
    assert len(str(refused(answer(status, body)))) < 100_000


# Any answer at all


NAMES = st.sampled_from(
    [
        *("errors", "code", "message", "details", "_links", "_embedded", "self", "actions"),
        *("schema", "href", "name", "title", "payload", "buyer", "locale", "uploadDestinationId"),
        *("url", "headers", "unknown"),
    ]
)
WORDS = st.sampled_from([TOKEN_EXPIRED, NO_TEMPLATE, "Unauthorized", "en-US", ""]) | st.text()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(NAMES | st.text(), inside, max_size=4)
    ),
    max_leaves=12,
)
BODIES = st.one_of(
    st.binary(max_size=100),
    JSON.map(lambda data: json.dumps(data).encode()),
    st.tuples(JSON.map(lambda data: json.dumps(data).encode()), st.integers(0, 40)).map(
        lambda cut: cut[0][: cut[1]]
    ),
    st.text(max_size=50).map(lambda text: text.encode("utf-16")),
)
HEADERS = st.dictionaries(
    st.sampled_from(["x-amzn-RequestId", "x-amzn-RateLimit-Limit", "content-type", "location"]),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20),
)


@every_operation
def test_any_answer_is_a_model_or_a_documented_error(operation: Operation) -> None:
    """Any status, headers and bytes: the operation's model, or the error of the status."""

    @settings(max_examples=100, deadline=None)
    @given(st.integers(100, 999) | st.sampled_from(sorted({*BY_STATUS, 200, 201})), HEADERS, BODIES)
    @example(200, {}, b'{"errors": [{"message": "\\ud800"}]}')
    @example(403, {}, b'{"errors": [{"details": "\\ud800 access token"}]}')
    @example(200, {}, b'{"_embedded": {"actions": [null]}}')
    def holds(status: int, headers: dict[str, str], body: bytes) -> None:
        got = HttpAnswer(status, CIMultiDictProxy(CIMultiDict(headers)), body)
        assert isinstance(rate_limit(got), float | None)
        result = outcome(operation, got)
        if not isinstance(result, ApiError):
            assert 200 <= status < 300
            assert type(result) is operation.response
            return
        cls = ServerError if 500 <= status < 600 else BY_STATUS.get(status, ApiError)
        assert type(result) in {cls, MessageNotAvailable if status == 403 else cls}
        assert result.status == status
        assert result.request_id == headers.get("x-amzn-RequestId")
        assert str(result).startswith(f"Amazon answered {status}")
        assert names_token(result) in {False, type(result) is Forbidden}

    holds()


def outcome(operation: Operation, got: HttpAnswer) -> object:
    """What an answer becomes: the model, or the ApiError. Another exception fails the test."""
    try:
        return read(operation, got)
    except ApiError as error:
        return error


@given(st.integers(200, 299), BODIES)
@settings(max_examples=300, deadline=None)
@example(200, b"")
@example(200, b'{"errors": null}')
def test_sent_if_and_only_if_the_rule_says_so(status: int, body: bytes) -> None:
    """A message was sent if a 2xx has an empty body or an object without errors, and only then."""
    assume(listed_errors(body) != [])  # an empty list says neither that it failed nor that it did
    is_sent = not isinstance(outcome(MESSAGE, answer(status, body)), ApiError)
    assert is_sent == (not body.strip() or listed_errors(body) is None)


def listed_errors(body: bytes) -> object:
    """The `errors` of an object, None for an object without; False for what is no object."""
    try:
        data = json.loads(body.decode("utf-8-sig"))
    except ValueError:
        return False
    return data.get("errors") if isinstance(data, dict) else False


@every_operation
def test_every_operation_can_succeed(operation: Operation) -> None:
    """None of the operations holds the above by refusing all that it is given."""
    body = {"payload": {"uploadDestinationId": "sc/0", "url": "https://s3/"}}
    assert type(read(operation, answer(200, body))) is operation.response
