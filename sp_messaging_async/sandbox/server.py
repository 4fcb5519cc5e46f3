"""`Sandbox`: the server, and its doors."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler

from ..credentials import Credentials
from ..marketplaces import Endpoint
from ..models import MAX_ATTACHMENT_BYTES
from ..operations import MESSAGING, UPLOAD, UsagePlan
from .answers import api_error
from .control import Control
from .faults import PUT_FILE, TOKEN, Door, Faults
from .inbox import Delivered, Inbox
from .journal import BODY, SHOWN, Changes, Journal
from .login import TOKEN_PATH, Login
from .messaging import ActionsForm, Messaging
from .orders import Orders
from .page import Guard, Page
from .plans import Plans
from .uploads import Uploads, place_of

__all__ = ["Sandbox"]

_ORDER = MESSAGING["getMessagingActionsForOrder"].path
# Who listens on every address is reached by that of loopback.
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not a choice, a case
_LARGEST_BODY = MAX_ATTACHMENT_BYTES + 2**20  # bytes; what is larger gets Amazon's 413


class Sandbox:
    """A local Amazon on a loopback port, while the context manager is open.

    host, port: where to listen; any free port of loopback unless given.
    plans: other usage plans than Amazon's defaults, by Amazon's name of the operation.
    token_lifetime: of access tokens, in seconds.
    actions_form: "live" or "model", the two forms of getMessagingActionsForOrder.
    locale: the language of every buyer; that of the marketplace unless given. `orders` says it of
        single ones, and what may be sent to them.
    keep: how many messages, and how many uploads, are held at most; older ones make room.

    Raises ValueError for a plan of a name that is no operation.

    Login with Amazon accepts any client id, client secret and refresh token, each refresh token a
    seller of its own; the refresh token "revoked" and the client secret "invalid" are refused.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        plans: Mapping[str, UsagePlan] | None = None,
        token_lifetime: float = 3600,
        actions_form: ActionsForm = "live",
        locale: str | None = None,
        keep: int = 100_000,
    ) -> None:
        self._host = host
        self._port = port
        self.credentials = Credentials(
            "sandbox-client", "sandbox-secret", f"Atzr|sandbox-{secrets.token_hex(4)}"
        )
        self.changes = Changes()
        self.faults = Faults(
            Door(self._open, self._shut), functools.partial(self.changes.note, "faults")
        )
        self.orders = Orders(locale, functools.partial(self.changes.note, "orders"))
        self.login = Login(token_lifetime, _now)
        self.plans = Plans(plans, _now)
        self.inbox = Inbox(keep)
        self.journal = Journal()
        self._uploads = Uploads(_now, keep)
        self.messaging = Messaging(
            self.login, self.plans, self._uploads, _now, actions_form, self.orders, self.inbox
        )

    async def __aenter__(self) -> Self:
        self._runner = web.AppRunner(
            self._app(), access_log=None, handle_signals=False, shutdown_timeout=1
        )
        await self._runner.setup()
        await self._open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.faults.release()
        self.changes.end()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """Scheme, host and port, as this machine reaches it."""
        named = _EVERY_ADDRESS.get(self._host, self._host)
        host = f"[{named}]" if ":" in named else named
        return f"http://{host}:{self._port}"

    @property
    def endpoint(self) -> Endpoint:
        """For a session's `endpoint`."""
        return Endpoint(self.url, self.url + TOKEN_PATH)

    def environment(self, url: str | None = None) -> dict[str, str]:
        """The variables that lead a client to it.

        url: its scheme, host and port as that client reaches it; `url` unless given.
        """
        url = self.url if url is None else url
        return {
            "SP_MESSAGING_API_URL": url,
            "SP_MESSAGING_TOKEN_URL": url + TOKEN_PATH,
            "LWA_APP_ID": "any",
            "LWA_CLIENT_SECRET": "any",
            "SP_API_REFRESH_TOKEN": "any",
            "SP_API_DEFAULT_MARKETPLACE": "US",
        }

    @property
    def delivered(self) -> list[Delivered]:
        """Every message that reached a buyer, in order; the last ones, if there are very many."""
        return self.inbox.delivered

    def reset(self) -> None:
        """Forget messages, exchanges, faults and what was said of orders; plans as at first."""
        self.inbox.clear()
        self.journal.clear()
        self.faults.clear()
        self.orders.reset()
        self.plans.reset()
        self.changes.note("messages", "exchanges", "plans")

    async def _open(self) -> None:
        self._site = web.TCPSite(self._runner, self._host, self._port, reuse_address=True)
        await self._site.start()
        # A port that was free is kept, so that shutting the door for a while does not move it.
        self._port = self._runner.addresses[0][1]

    async def _shut(self) -> None:
        await self._site.stop()
        server = self._runner.server
        for connection in server.connections if server is not None else ():
            connection.force_close()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_BODY)
        guard = Guard(self._host)
        Page(self, guard).add_to(app)
        Control(self, _now, guard).add_to(app)
        login = self._watched(TOKEN, self.login.handle)
        put = self._watched(PUT_FILE, self._uploads.put)
        app.router.add_route("*", TOKEN_PATH, _by_verb({"POST": login}))
        app.router.add_route("*", "/_uploads/{identity}", _by_verb({"PUT": put}))
        upload = self._watched(UPLOAD.name, functools.partial(self.messaging.handle, UPLOAD))
        path = UPLOAD.path.replace("{resource}", "{resource:.+}")
        app.router.add_route("*", path, _by_verb({UPLOAD.verb: upload}))
        app.router.add_route("*", f"{_ORDER}{{rest:.*}}", self._by_path())
        app.router.add_route("*", "/{path:.*}", _not_found)
        return app

    def _by_path(self) -> Handler:
        """The operations, by what follows the order. One look-up; a router tries them in turn."""
        handlers: dict[tuple[str, str], Handler] = {}
        for row in MESSAGING.values():
            handle = functools.partial(self.messaging.handle, row)
            rest = row.path.removeprefix(_ORDER)
            handlers[row.verb, rest] = self._watched(row.name, handle)
        paths = {rest for _, rest in handlers}

        async def answer(request: web.Request) -> web.StreamResponse:
            rest = request.match_info["rest"]
            handle = handlers.get((request.method, rest))
            if handle is None:
                handle = _not_allowed if rest in paths else _not_found
            return await handle(request)

        return answer

    def _order_of(self, request: web.Request) -> str | None:
        """The order that a request is about."""
        match = request.match_info
        if "identity" in match:
            return self._uploads.order_of(match["identity"])
        place = place_of("", match["resource"]) if "resource" in match else None
        return place.amazon_order_id if place else match.get("amazonOrderId")

    def _watched(self, name: str, handle: Handler) -> Handler:
        """The handler of an operation, where faults strike and exchanges are written down."""

        async def answer(request: web.Request) -> web.StreamResponse:
            began = _now()
            try:
                response = await self._handled(name, handle, request)
            except BaseException:
                self._note(name, request, None, began)
                raise
            self._note(name, request, response, began)
            return response

        return answer

    async def _handled(
        self, name: str, handle: Handler, request: web.Request
    ) -> web.StreamResponse:
        try:
            fault = self.faults.take(name, self._order_of(request)) if self.faults else None
            if fault is None:
                return await handle(request)
            usual = functools.partial(handle, request)
            return await self.faults.perform(fault, request, usual)
        except web.HTTPRequestEntityTooLarge:
            return api_error(413, "PayloadTooLarge", "The request is too large.")

    def _note(
        self, name: str, request: web.Request, response: web.StreamResponse | None, began: float
    ) -> None:
        """Write an exchange down."""
        now = _now()
        token = request.headers.get("x-amz-access-token")
        answer = response.body if isinstance(response, web.Response) else b""
        transport = request.transport
        is_gone = transport is None or transport.is_closing()
        self.journal.add(
            at=began,
            seller=self.login.seller_behind(token),
            operation=name,
            verb=request.method,
            path=request.raw_path,
            status=None if response is None or is_gone else response.status,
            seconds=now - began,
            request=request.get(BODY) or _arrived(request),
            answer=answer if isinstance(answer, bytes) else b"",
        )
        self.changes.note("exchanges", "messages", "plans")


def _now() -> float:
    """The time of the event loop that serves, in seconds."""
    return asyncio.get_running_loop().time()


def _arrived(request: web.Request) -> bytes:
    """The beginning of a body that no handler has read, as far as it has come."""
    if not request.can_read_body or request.content.exception():
        return b""
    return request.content.read_nowait(SHOWN)


def _by_verb(handlers: Mapping[str, Handler]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await handlers.get(request.method, _not_allowed)(request)

    return answer


async def _not_found(request: web.Request) -> web.StreamResponse:
    return api_error(404, "NotFound", "The requested resource does not exist.")


async def _not_allowed(request: web.Request) -> web.StreamResponse:
    return api_error(405, "MethodNotAllowed", "The resource does not take this method.")
