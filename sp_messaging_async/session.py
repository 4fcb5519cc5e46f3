"""`MessagingSession`: the pipeline of a call, and one thin coroutine for every operation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

import aiohttp
import attrs
from attrs import define

from . import __version__, attachments, content, models, wire
from .auth import TokenSource
from .credentials import DEFAULT_ACCOUNT, Credentials, CredentialsSource
from .errors import (
    ApiError,
    BadRequest,
    CallContext,
    ConfigurationError,
    Finding,
    Forbidden,
    InvalidMessage,
    LedgerError,
    MessagingError,
    OutcomeUnknown,
    PlanWaitExceeded,
    SessionClosed,
    TransportError,
    _CallError,
)
from .events import Hook, Hooks, LoggingHook, Trail
from .marketplaces import Endpoint, Marketplace
from .models import Attachment, LocalFile, MessageRequest, MessageResponse
from .operations import MESSAGING, OPERATIONS, UPLOAD, Operation, by_request, named
from .retry import RetryPolicy, Verdict, judge
from .throttle import LocalThrottle, PlanKey, Queue, Throttle
from .transport import Exchange, InFlight, Transport

if TYPE_CHECKING:  # who sends without a ledger need not wait for the import of what it is made of
    from .ledger import Entry, Ledger, LedgerRow, Planned

__all__ = ["Gate", "MessagingSession", "Patience"]

_log = logging.getLogger("sp_messaging_async")

T = TypeVar("T")


class MessagingSession:
    """A seller's messages to buyers: every operation as a coroutine, kept within the usage plan.

    credentials: `Credentials`, or a coroutine function that fetches them, which is asked again
        once when Login with Amazon refuses them.
    marketplace: where the orders are: a `Marketplace`, a country code or a marketplace id.
    endpoint: the hosts to talk to; from the environment unless given, which is Amazon's
        production unless it says otherwise (see `Endpoint.from_env`).
    throttle: shared with whoever else uses it; all sessions of one event loop share one unless
        given.
    retry: how often a call is tried.
    timeout: seconds for one exchange, from connecting to the whole answer. Waiting is not in it.
    http: an `aiohttp.ClientSession` of the caller's, used and not closed.
    user_agent: the caller's application and version, as in "my-bot/1.2".
    hooks: functions that are handed an `ExchangeEvent` for every exchange and a `MessageEvent` for
        every message; they must be quick, see `sp_messaging_async.events`. Logging is one of them:
        whoever gives others names it too, or else goes without it.

    Use it as an async context manager, or call `aclose`. Every operation raises an error of
    `sp_messaging_async.errors` and no other. Raises InvalidMessage or ConfigurationError for an
    argument that cannot be used. Making one needs no event loop.
    """

    def __init__(
        self,
        credentials: CredentialsSource,
        *,
        marketplace: Marketplace | str,
        endpoint: Endpoint | None = None,
        throttle: Throttle | None = None,
        retry: RetryPolicy | None = None,
        timeout: float = 30.0,
        http: aiohttp.ClientSession | None = None,
        user_agent: str | None = None,
        hooks: Iterable[Hook] = (LoggingHook(),),
    ) -> None:
        self.marketplace = Marketplace.of(marketplace)
        self.endpoint = endpoint or Endpoint.from_env(self.marketplace.region)
        if self.endpoint.region not in (None, self.marketplace.region):
            reason = f"{self.marketplace.name} is not served by {self.endpoint.api_url}"
            raise InvalidMessage(Finding("marketplace", reason))
        if not isinstance(credentials, Credentials) and not callable(credentials):
            kind = type(credentials).__name__
            raise ConfigurationError(f"credentials is a {kind}; give Credentials")
        self._credentials = credentials
        self._shared_throttle = throttle
        self._shared_tokens: TokenSource | None = None  # found when an event loop runs
        self._retry = retry or RetryPolicy()
        self._timeout = _positive("timeout", timeout)
        self._in_flight = InFlight(timeout)
        self._agent = wire.user_agent(user_agent or f"sp_messaging_async/{__version__}")
        self._transport = Transport(http)
        self._hooks = Hooks(hooks)
        self._closing = False
        self._cut_off = False
        self._waits: set[asyncio.Timeout] = set()
        self._plan_keys: dict[str, PlanKey] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self, grace: float = 30.0) -> None:
        """Refuse new calls, fail those not yet sent with SessionClosed, await those in flight.

        grace: seconds after which exchanges still in flight are cut off; a message among them
            raises OutcomeUnknown.
        """
        self._closing = True
        for wait in tuple(self._waits):
            _end(wait)
        try:
            await asyncio.sleep(0)  # those who waited leave before their connections do
            await self._exchanges_end(grace)
        finally:
            self._in_flight.close()
            if self._shared_tokens is not None:
                self._shared_tokens.abandon(self._transport)
            await self._transport.aclose()

    async def _exchanges_end(self, grace: float) -> None:
        try:
            async with asyncio.timeout(grace):
                await self._in_flight.drain()
        except TimeoutError:
            _log.warning("closed with %d exchanges in flight", len(self._in_flight))
            self._cut_off = True
            self._in_flight.cut_off()
            await self._in_flight.drain()

    @property
    def account(self) -> str:
        """The seller's name in order lists, as its credentials give it."""
        if isinstance(self._credentials, Credentials):
            return self._credentials.account
        return DEFAULT_ACCOUNT

    def waiting(self, operation: str) -> int:
        """How many calls of this process wait for the seller's usage plan of an operation now.

        operation: Amazon's name, or its snake_case.

        Those of other sessions that share the throttle count too. Needs a running event loop.
        Raises InvalidMessage for a name that is no operation, and ConfigurationError if the
        throttle is one of the caller's that does not tell.
        """
        name = operation if operation in OPERATIONS else named(operation).name
        throttle = self._throttle
        if not isinstance(throttle, Queue):
            kind = type(throttle).__name__
            raise ConfigurationError(f"{kind} does not tell who waits: it has no waiting(key)")
        # A seller whose name comes with the first token has no calls that wait for a plan yet.
        return throttle.waiting(self.plan_key(name)) if self._tokens.knows_seller else 0

    def __repr__(self) -> str:
        return f"<MessagingSession {self.marketplace.name} at {self.endpoint.api_url}>"

    # Reads

    async def get_messaging_actions_for_order(
        self,
        amazon_order_id: str,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.GetMessagingActionsForOrderResponse:
        """Which kinds of message may be sent for an order now."""
        return await self._get(
            "getMessagingActionsForOrder",
            models.GetMessagingActionsForOrderResponse,
            amazon_order_id,
            marketplace,
            max_wait,
        )

    async def get_attributes(
        self,
        amazon_order_id: str,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.GetAttributesResponse:
        """The language to write in to the order's buyer."""
        return await self._get(
            "getAttributes", models.GetAttributesResponse, amazon_order_id, marketplace, max_wait
        )

    # Messages to the buyer

    async def confirm_customization_details(
        self,
        amazon_order_id: str,
        body: models.CreateConfirmCustomizationDetailsRequest,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.CreateConfirmCustomizationDetailsResponse:
        """Ask the buyer about the details of a customization, or confirm them."""
        return await self._post(
            models.CreateConfirmCustomizationDetailsResponse,
            amazon_order_id,
            body,
            marketplace,
            max_wait,
        )

    async def create_confirm_delivery_details(
        self,
        amazon_order_id: str,
        body: models.CreateConfirmDeliveryDetailsRequest,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.CreateConfirmDeliveryDetailsResponse:
        """Arrange a delivery, or confirm contact details for it."""
        return await self._post(
            models.CreateConfirmDeliveryDetailsResponse,
            amazon_order_id,
            body,
            marketplace,
            max_wait,
        )

    async def create_legal_disclosure(
        self,
        amazon_order_id: str,
        body: models.CreateLegalDisclosureRequest,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.CreateLegalDisclosureResponse:
        """Send the buyer what the law requires."""
        return await self._post(
            models.CreateLegalDisclosureResponse, amazon_order_id, body, marketplace, max_wait
        )

    async def create_negative_feedback_removal(
        self,
        amazon_order_id: str,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.CreateNegativeFeedbackRemovalResponse:
        """Ask the buyer to remove negative feedback; Amazon retired it on 2025-08-04."""
        return await self._post(
            models.CreateNegativeFeedbackRemovalResponse,
            amazon_order_id,
            models.CreateNegativeFeedbackRemovalRequest(),
            marketplace,
            max_wait,
        )

    async def create_confirm_order_details(
        self,
        amazon_order_id: str,
        body: models.CreateConfirmOrderDetailsRequest,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.CreateConfirmOrderDetailsResponse:
        """Ask the buyer about the order before it ships."""
        return await self._post(
            models.CreateConfirmOrderDetailsResponse, amazon_order_id, body, marketplace, max_wait
        )

    async def create_confirm_service_details(
        self,
        amazon_order_id: str,
        body: models.CreateConfirmServiceDetailsRequest,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.CreateConfirmServiceDetailsResponse:
        """Arrange a home service with the buyer."""
        return await self._post(
            models.CreateConfirmServiceDetailsResponse, amazon_order_id, body, marketplace, max_wait
        )

    async def create_amazon_motors(
        self,
        amazon_order_id: str,
        body: models.CreateAmazonMotorsRequest,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.CreateAmazonMotorsResponse:
        """Send details of an Amazon Motors purchase; Amazon retired it on 2026-01-30."""
        return await self._post(
            models.CreateAmazonMotorsResponse, amazon_order_id, body, marketplace, max_wait
        )

    async def create_warranty(
        self,
        amazon_order_id: str,
        body: models.CreateWarrantyRequest,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.CreateWarrantyResponse:
        """Send warranty papers, and the time that they cover."""
        return await self._post(
            models.CreateWarrantyResponse, amazon_order_id, body, marketplace, max_wait
        )

    async def create_digital_access_key(
        self,
        amazon_order_id: str,
        body: models.CreateDigitalAccessKeyRequest,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.CreateDigitalAccessKeyResponse:
        """Send the key to digital content."""
        return await self._post(
            models.CreateDigitalAccessKeyResponse, amazon_order_id, body, marketplace, max_wait
        )

    async def create_unexpected_problem(
        self,
        amazon_order_id: str,
        body: models.CreateUnexpectedProblemRequest,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.CreateUnexpectedProblemResponse:
        """Tell the buyer of a problem with the order that needs an answer."""
        return await self._post(
            models.CreateUnexpectedProblemResponse, amazon_order_id, body, marketplace, max_wait
        )

    async def send_invoice(
        self,
        amazon_order_id: str,
        body: models.InvoiceRequest,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> models.InvoiceResponse:
        """Send the invoice."""
        return await self._post(
            models.InvoiceResponse, amazon_order_id, body, marketplace, max_wait
        )

    async def send(
        self,
        amazon_order_id: str,
        request: MessageRequest,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
        ledger: Ledger | None = None,
        campaign: str | None = None,
        again: bool = False,
    ) -> MessageResponse:
        """Send a message by the operation that its request's class belongs to.

        amazon_order_id: the order, as in "123-1234567-1234567".
        request: what to send; a `LocalFile` among its attachments is uploaded first.
        marketplace: the order's, if it is another than the session's, in the same region.
        max_wait: the most seconds to wait for the usage plan, and between attempts; no limit
            unless given.
        ledger: what records the message, so that a repeat (a queue's redelivery, a double click)
            sends nothing and returns or raises what was recorded.
        campaign: under which name it is recorded; "default" unless given.
        again: send it though another campaign of the ledger has sent this kind to the order.

        Raises InvalidMessage before anything is sent; PlanWaitExceeded, SessionClosed,
        AuthenticationError and TransportError with nothing sent to the buyer; an ApiError when
        Amazon refused; OutcomeUnknown when nobody can tell, which must not be sent again unseen;
        LedgerError with nothing sent, or sent and not recorded, as it says. The coroutine of each
        operation takes and raises the same, but for the ledger.
        """
        patience = Patience(max_wait)
        if ledger is None:
            if campaign is not None or again:
                raise InvalidMessage(Finding("ledger", "is missing; campaign and again are of one"))
            answer: MessageResponse = await self.deliver(
                amazon_order_id, request, marketplace, patience
            )
            return answer
        from .ledger import DEFAULT_CAMPAIGN, Planned

        place = None if marketplace is None else self._marketplace(marketplace).id
        message = Planned(amazon_order_id, request, self.account, place)
        response, _ = await self.deliver_once(
            message, ledger, campaign or DEFAULT_CAMPAIGN, patience, again=again
        )
        return response

    async def upload_attachment(
        self,
        amazon_order_id: str,
        request_class: type[MessageRequest],
        path_or_bytes: str | os.PathLike[str] | bytes,
        file_name: str | None = None,
        *,
        marketplace: Marketplace | str | None = None,
        max_wait: float | None = None,
    ) -> Attachment:
        """Upload a file for one order and one kind of message.

        request_class: the request that will carry it, such as `CreateWarrantyRequest`.
        path_or_bytes: the file's path, or its content.
        file_name: the name that the buyer sees; needed with content, else the path's own.

        Raises InvalidMessage for a file that Amazon would refuse, and else as `send` does.
        """
        operation = by_request(request_class)
        if not operation.takes_attachments:
            reason = f"{request_class.__name__} takes no attachments"
            raise InvalidMessage(Finding("request_class", reason))
        place = self._marketplace(marketplace)
        wire.checked_order_id(amazon_order_id)
        file = await attachments.read(path_or_bytes, file_name)
        patience = Patience(max_wait)
        trail = self._trail(UPLOAD, amazon_order_id, place) if self._hooks.are_awake() else None
        return await self._upload(operation, amazon_order_id, file, place, patience, trail)

    # From here on: how a call is made

    async def _get(
        self,
        name: str,
        response: type[T],
        amazon_order_id: str,
        marketplace: Marketplace | str | None,
        max_wait: float | None,
    ) -> T:
        answer: T = await self.ask(name, amazon_order_id, marketplace, Patience(max_wait))
        return answer

    async def ask(
        self,
        name: str,
        amazon_order_id: str,
        marketplace: Marketplace | str | None,
        patience: Patience,
        gate: Gate | None = None,
    ) -> Any:
        """Read by the operation of a name, while the caller may withdraw its patience."""
        if gate is not None:
            await self._pass(gate, patience)
        operation = MESSAGING[name]
        place = self._marketplace(marketplace)
        request = wire.build(
            self.endpoint.api_url, operation, amazon_order_id, place, agent=self._agent
        )
        trail = self._trail(operation, amazon_order_id, place) if self._hooks.are_awake() else None
        call = _Call(operation, amazon_order_id, place, request, patience, trail=trail)
        return await self._perform(call)

    def _post(
        self,
        response: type[T],
        amazon_order_id: str,
        request: MessageRequest,
        marketplace: Marketplace | str | None,
        max_wait: float | None,
    ) -> Awaitable[T]:
        operation = by_request(request)
        if operation.response is not response:
            reason = f"is a {type(request).__name__}; give it to {operation.coroutine} or send"
            raise InvalidMessage(Finding("body", reason))
        patience = Patience(max_wait)
        return self._sending(operation, amazon_order_id, request, marketplace, patience)

    async def deliver_once(
        self,
        message: Planned,
        ledger: Ledger,
        campaign: str,
        patience: Patience,
        *,
        again: bool = False,
        gate: Gate | None = None,
        realm: str | None = None,
    ) -> tuple[MessageResponse, bool]:
        """Send as `deliver` does, unless the ledger knows what became of the message.

        realm: what the ledger is to call the endpoint, its own name unless given.

        Returns Amazon's answer, and whether it was sent now and not before.
        """
        trail = None
        if self._hooks.are_awake():
            operation, place = by_request(message.request), self._marketplace(message.marketplace)
            trail = self._trail(operation, message.amazon_order_id, place, message.request)
        sending = self._deliver_once(
            message, ledger, campaign, patience, again, gate, realm or self.endpoint.realm, trail
        )
        return await (sending if trail is None else trail.told(sending))

    async def _deliver_once(
        self,
        message: Planned,
        ledger: Ledger,
        campaign: str,
        patience: Patience,
        again: bool,
        gate: Gate | None,
        realm: str,
        trail: Trail | None,
    ) -> tuple[MessageResponse, bool]:
        from .ledger import Entry, NotPlanned, new_owner

        operation = by_request(message.request)
        order_id = wire.checked_order_id(message.amazon_order_id)
        content.check(message.request)
        pause = 0.05  # seconds between looks at what somebody else is sending
        while True:
            row = await ledger.plan(message, campaign, realm, again=again)
            if row.status == "planned":
                await _check_files(message.request)  # told now, and not recorded for good
                entry = Entry(ledger, row, new_owner("call"))
                with contextlib.suppress(NotPlanned):  # somebody else was faster
                    request, place = message.request, message.marketplace
                    sending = self._deliver(
                        operation, order_id, request, place, patience, entry, gate, trail=trail
                    )
                    answer: MessageResponse = await self._recorded_in(entry, sending, trail)
                    return answer, True
            elif row.status != "sending":
                if trail is not None:
                    trail.was_settled = True
                return _recorded(row), False
            await self._with_patience(patience, partial(asyncio.sleep, pause))
            pause = min(1.0, 2 * pause)

    def deliver(
        self,
        amazon_order_id: str,
        request: MessageRequest,
        marketplace: Marketplace | str | None,
        patience: Patience,
        entry: Entry | None = None,
        gate: Gate | None = None,
        files: attachments.Files | None = None,
    ) -> Awaitable[Any]:
        """Send as `send` does.

        patience: may be withdrawn by the caller meanwhile.
        entry: the message's row, kept up to date. Raises NotPlanned if it may not be sent.
        gate: passed right before the write.
        files: where files are read that other messages carry too.
        """
        operation = by_request(request)
        return self._sending(
            operation, amazon_order_id, request, marketplace, patience, entry, gate, files
        )

    def _sending(
        self,
        operation: Operation,
        amazon_order_id: str,
        request: MessageRequest,
        marketplace: Marketplace | str | None,
        patience: Patience,
        entry: Entry | None = None,
        gate: Gate | None = None,
        files: attachments.Files | None = None,
    ) -> Awaitable[Any]:
        """As `_deliver`, recorded and told."""
        trail = None
        if self._hooks.are_awake():
            trail = self._trail(operation, amazon_order_id, self.marketplace, request)
        sending: Awaitable[Any] = self._deliver(
            operation, amazon_order_id, request, marketplace, patience, entry, gate, files, trail
        )
        if entry is not None:
            sending = self._recorded_in(entry, sending, trail)
        return sending if trail is None else trail.told(sending)

    async def _recorded_in(self, entry: Entry, sending: Awaitable[T], trail: Trail | None) -> T:
        """Await a send, and record what it raises."""
        try:
            return await sending
        except LedgerError:
            raise
        except MessagingError as error:
            try:
                await _record(entry, error)
            except asyncio.CancelledError as cancelled:  # and so nobody is raised the error
                if trail is None and isinstance(error, OutcomeUnknown):
                    row = entry.row
                    operation, place = MESSAGING[row.operation], self._marketplace(row.marketplace)
                    trail = self._trail(operation, row.amazon_order_id, place)
                    trail.exchanged(operation, error.attempts, 0.0, error.cause)
                    trail.ended(cancelled)
                raise
            raise

    async def _deliver(
        self,
        operation: Operation,
        amazon_order_id: str,
        request: MessageRequest,
        marketplace: Marketplace | str | None,
        patience: Patience,
        entry: Entry | None = None,
        gate: Gate | None = None,
        files: attachments.Files | None = None,
        trail: Trail | None = None,
    ) -> Any:
        place = self._marketplace(marketplace)
        if trail is not None:
            trail.marketplace = place.name
        content.check(request)
        operation.warn_if_retired()
        if gate is not None:
            await self._pass(gate, patience)
        uploads = 0
        while True:
            ready = request
            if operation.takes_attachments:
                ready = await self._with_uploads(
                    operation, amazon_order_id, request, place, patience, files, trail
                )
                uploads += ready is not request
            http_request = wire.build(
                self.endpoint.api_url, operation, amazon_order_id, place, ready, self._agent
            )
            call = _Call(
                operation, amazon_order_id, place, http_request, patience, entry, gate, trail
            )
            try:
                return await self._perform(call)
            except BadRequest as refusal:
                # What this call has uploaded is gone, as after a long wait: once more, from there.
                if uploads != 1 or not wire.names_upload(refusal):
                    raise
                if entry is not None:
                    await entry.planned_again(refusal)

    def _trail(
        self,
        operation: Operation,
        amazon_order_id: str,
        place: Marketplace,
        request: MessageRequest | None = None,
    ) -> Trail:
        url = self.endpoint.api_url
        return Trail(
            self._hooks, operation, amazon_order_id, self.account, place.name, url, request
        )

    def _marketplace(self, override: Marketplace | str | None) -> Marketplace:
        if override is None:
            return self.marketplace
        return self.marketplace.of_same_region(override)

    async def _with_uploads(
        self,
        operation: Operation,
        amazon_order_id: str,
        request: MessageRequest,
        marketplace: Marketplace,
        patience: Patience,
        kept: attachments.Files | None,
        trail: Trail | None,
    ) -> MessageRequest:
        """The request with every LocalFile uploaded. All are read before the first one goes."""
        listed: models.Attached = getattr(request, "attachments", ())
        if not any(isinstance(item, LocalFile) for item in listed):
            return request
        kept = kept or attachments.Files(0)
        files = [
            await kept.read(item.path, item.file_name) if isinstance(item, LocalFile) else item
            for item in listed
        ]
        attachments.check_total(files)
        uploaded = [
            item
            if isinstance(item, Attachment)
            else await self._upload(operation, amazon_order_id, item, marketplace, patience, trail)
            for item in files
        ]
        changed: MessageRequest = attrs.evolve(cast("Any", request), attachments=uploaded)
        return changed

    async def _upload(
        self,
        operation: Operation,
        amazon_order_id: str,
        file: attachments.FileToUpload,
        marketplace: Marketplace,
        patience: Patience,
        trail: Trail | None,
    ) -> Attachment:
        request = wire.build_upload_destination(
            self.endpoint.api_url, operation, amazon_order_id, marketplace, file.md5, self._agent
        )
        call = _Call(UPLOAD, amazon_order_id, marketplace, request, patience, trail=trail)
        for is_last in (False, True):
            answer: models.CreateUploadDestinationResponse = await self._perform(call)
            destination = answer.payload
            try:
                await self._put(call, file, destination)
                break
            except Forbidden:
                # The address serves for 15 minutes, which pass while a machine sleeps: once more,
                # to another.
                if is_last:
                    raise
        return Attachment(destination.upload_destination_id, file.name, size=file.size)

    async def _put(
        self, call: _Call, file: attachments.FileToUpload, destination: models.UploadDestination
    ) -> None:
        def put() -> Awaitable[None]:
            return attachments.put(
                call.amazon_order_id,
                file,
                destination,
                self._transport,
                self._retry,
                self._timeout,
                lambda seconds: self._with_patience(call.patience, partial(asyncio.sleep, seconds)),
                None if call.trail is None else partial(call.trail.exchanged, UPLOAD),
            )

        try:
            await self._until_ended(put, call.patience)
        except _CallError as error:
            error.context = error.context or call.context()
            raise

    async def _perform(self, call: _Call) -> Any:
        """Token, plan, intent, exchange, answer, judgement; again until one attempt settles it."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                token = self._turn_now(call, loop) or await self._turn(call)
                if call.entry is not None:
                    await self._intend(call, call.entry)
                call.attempts += 1
                try:
                    if call.trail is None:
                        answer, result = await self._exchange(call, token, loop)
                    else:
                        answer, result = await self._told_exchange(call, token, loop, call.trail)
                except (TransportError, ApiError) as error:
                    failure = error
                else:
                    if call.entry is not None:
                        await self._record_sent(call, call.entry, answer)
                    return result
                try:
                    await self._before_next_attempt(call, token, failure)
                finally:
                    del failure  # see there
        except _CallError as error:
            error.context = error.context or call.context()
            raise

    async def _intend(self, call: _Call, entry: Entry) -> None:
        try:
            await entry.intend(self._timeout)
            self._refuse_if_ended(call.patience)  # the commit took its time
        except BaseException:
            if call.gate is not None:
                call.gate.leave()
            raise

    def _turn_now(self, call: _Call, loop: asyncio.AbstractEventLoop) -> str | None:
        """Take the call's turn, and a token that serves; None if either is to be waited for."""
        throttle, tokens, gate = self._shared_throttle, self._shared_tokens, call.gate
        # A throttle that somebody has derived may do more in its `acquire`.
        if type(throttle) is not LocalThrottle or tokens is None:
            return None
        if self._closing or call.patience.withdrawn or (gate is not None and not gate.is_open):
            return None
        token = tokens.serving(loop.time(), self._transport, self._timeout)
        if token is None:
            return None
        is_let_go = throttle.acquire_now(self.plan_key(call.operation.name), loop)
        return token if is_let_go and (gate is None or gate.enter()) else None

    async def _turn(self, call: _Call) -> str:
        """A token that serves, once the usage plan lets the call go."""
        # Refused credentials fail now, not after the wait for the plan.
        self._refuse_if_ended(call.patience)
        await self._token(call.patience)
        await self._wait_for_plan(call)
        # The wait may have outlived the token; as a rule this returns at once.
        token = await self._token(call.patience)
        self._refuse_if_ended(call.patience)
        return token

    async def _wait_for_plan(self, call: _Call) -> None:
        key = self.plan_key(call.operation.name)
        gate = call.gate
        again = call.attempts > 0
        while True:
            if gate is not None:
                await self._pass(gate, call.patience)
            turn: Callable[[], Awaitable[None]] = partial(self._throttle.acquire, key, again=again)
            if call.trail is not None:
                turn = partial(call.trail.waiting, turn)
            await self._with_patience(call.patience, turn)
            if gate is None or gate.enter():
                return
            again = True  # it closed meanwhile; the turn that was waited for is not lost by it

    async def _pass(self, gate: Gate, patience: Patience) -> None:
        if not gate.is_open:
            await self._with_patience(patience, gate.opens)

    async def _told_exchange(
        self, call: _Call, token: str, loop: asyncio.AbstractEventLoop, trail: Trail
    ) -> tuple[wire.HttpAnswer, Any]:
        began = loop.time()
        try:
            answer, result = await self._exchange(call, token, loop)
        except (TransportError, ApiError) as failure:
            trail.exchanged(call.operation, call.attempts, loop.time() - began, failure)
            raise
        trail.exchanged(call.operation, call.attempts, loop.time() - began, answer)
        return answer, result

    async def _exchange(
        self, call: _Call, token: str, loop: asyncio.AbstractEventLoop
    ) -> tuple[wire.HttpAnswer, Any]:
        lapsed = None if call.entry is None else call.entry.lapsed
        call.request.authorize(token)
        exchange = self._transport.exchange(call.request, lapsed)
        limit = self._in_flight.begin(loop)
        try:
            answer = await exchange.untimed_answer()
        except TransportError:
            raise
        except BaseException as error:  # a cancellation, above all
            if not limit.has_raised(error):
                took = loop.time() - (limit.deadline - self._timeout)
                self._record_cancelled(call, exchange, took, error)
                raise
            answer = None  # told below, where nothing is chained to it
        finally:
            self._in_flight.end(limit)
            del limit  # it knows its task, and so an error that holds this frame
        if answer is None:
            reason = "the session was closed" if self._cut_off else "TimeoutError"
            raise TransportError(reason, exchange.write_began, not self._cut_off)
        if answer.status == 429 or wire.RATE_LIMIT in answer.headers:
            self._learn(call.operation, answer)
        return answer, wire.read(call.operation, answer)

    async def _record_sent(self, call: _Call, entry: Entry, answer: wire.HttpAnswer) -> None:
        try:
            await entry.sent(wire.request_id(answer))
        except LedgerError as error:
            raise LedgerError(f"{call.context()} was sent, and not recorded: {error}") from None

    def _record_cancelled(
        self, call: _Call, exchange: Exchange, took: float, error: BaseException
    ) -> None:
        is_unknown = call.operation.messages_buyer and exchange.write_began
        if call.entry is not None:
            reason = TransportError("the task was cancelled", exchange.write_began)
            call.entry.failed(OutcomeUnknown(reason) if is_unknown else reason)
        reason = TransportError(type(error).__name__, exchange.write_began)
        if call.trail is not None:
            call.trail.exchanged(call.operation, call.attempts, took, reason)
        elif is_unknown:  # which is told though nothing else of this call was wanted
            trail = self._trail(call.operation, call.amazon_order_id, call.marketplace)
            trail.exchanged(call.operation, call.attempts, took, reason)
            trail.ended(error)

    def _learn(self, operation: Operation, answer: wire.HttpAnswer) -> None:
        """Tell the throttle what the answer says of the plan."""
        rate = wire.rate_limit(answer)
        try:
            if answer.status == 429:
                self._throttle.throttled(self.plan_key(operation.name))
            elif rate is not None:
                self._throttle.learned(self.plan_key(operation.name), rate)
        except Exception:  # a throttle of the caller's must not hide that the message was sent
            _log.exception("the throttle failed on an answer to %s", operation.name)

    async def _before_next_attempt(
        self, call: _Call, token: str, failure: TransportError | ApiError
    ) -> None:
        """Return when another attempt is allowed and due, or raise what the failure means."""
        failure.context = call.context()
        verdict = judge(failure, messages_buyer=call.operation.messages_buyer)
        if verdict is Verdict.UNKNOWN:
            raise OutcomeUnknown(failure)
        if verdict is Verdict.AGAIN_WITH_NEW_TOKEN:
            verdict = self._renewed_once(call, token)
        if verdict is Verdict.FINAL or call.attempts >= self._retry.attempts:
            try:
                raise failure
            finally:
                del failure  # or it would hold this frame that holds it, and the message with them
        if call.gate is not None:
            call.gate.leave()
        if call.entry is not None:
            await call.entry.planned_again(failure)
        if verdict is Verdict.AGAIN:
            delay = self._retry.delay(call.attempts)
            await self._with_patience(call.patience, partial(asyncio.sleep, delay))

    def _renewed_once(self, call: _Call, token: str) -> Verdict:
        """Drop a refused token. Final if this call has done so before."""
        if not self._tokens.refused(token):
            return Verdict.AGAIN_WITH_NEW_TOKEN  # another call has replaced it already
        if call.renewed_token:
            return Verdict.FINAL
        call.renewed_token = True
        return Verdict.AGAIN_WITH_NEW_TOKEN

    async def _token(self, patience: Patience) -> str:
        now = asyncio.get_running_loop().time()
        serving = self._tokens.serving(now, self._transport, self._timeout)
        if serving is not None:
            return serving
        # Not counted against `max_wait`, which is about the plan.
        fetch = partial(self._tokens.token, self._transport, self._timeout)
        return await self._until_ended(fetch, patience)

    async def _with_patience(self, patience: Patience, wait: Callable[[], Awaitable[T]]) -> T:
        """Wait, within what is left of a call's `max_wait`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await self._until_ended(wait, patience, patience.left)
        finally:
            patience.spend(loop.time() - began)

    async def _until_ended(
        self,
        wait: Callable[[], Awaitable[T]],
        patience: Patience,
        seconds: float | None = None,
    ) -> T:
        """Wait for something before the send, until the session closes or patience is withdrawn."""
        self._refuse_if_ended(patience)
        limit = patience.limit = asyncio.timeout(seconds)
        self._waits.add(limit)
        try:
            async with limit:
                return await wait()
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            self._waits.discard(limit)
            patience.limit = None
            del limit  # it knows its task, and so an error that holds this frame
        self._refuse_if_ended(patience)
        raise PlanWaitExceeded(
            f"its turn did not come within {patience.max_wait} s; nothing was sent"
        )

    def _refuse_if_ended(self, patience: Patience) -> None:
        if self._closing:
            raise SessionClosed("the session was closed before this was sent")
        if patience.withdrawn:
            raise PlanWaitExceeded("it was withdrawn before it was sent")

    @property
    def _throttle(self) -> Throttle:
        if self._shared_throttle is None:
            self._shared_throttle = _shared().throttle
        return self._shared_throttle

    @property
    def _tokens(self) -> TokenSource:
        if self._shared_tokens is None:
            self._shared_tokens = _shared().token_source(
                self._credentials, self.endpoint.token_url, self._retry
            )
        return self._shared_tokens

    def plan_key(self, operation: str) -> PlanKey:
        """What a throttle knows the plan of an operation by. Needs a running event loop."""
        key = self._plan_keys.get(operation)
        if key is None or key.seller != self._tokens.seller:  # rotated secrets may rename it
            key = PlanKey(self.endpoint.api_url, self._tokens.seller, operation)
            self._plan_keys[operation] = key
        return key


class Gate(Protocol):
    """What may hold a call back though its plan would let it go."""

    @property
    def is_open(self) -> bool:
        """Whether a call may line up for its plan."""
        ...

    async def opens(self) -> None:
        """Return when it is open."""

    def enter(self) -> bool:
        """Whether the call may go now, its plan having let it go."""
        ...

    def leave(self) -> None:
        """A call that might go did not, or in vain; it will line up again, or be gone."""
        ...


class Patience:
    """How long a call may yet wait; time spent in exchanges does not count.

    max_wait: seconds, or None for as long as it takes.
    """

    __slots__ = ("left", "limit", "max_wait", "withdrawn")

    def __init__(self, max_wait: float | None = None) -> None:
        if max_wait is not None and not _is_number(max_wait, least=0):
            raise InvalidMessage(Finding("max_wait", f"{max_wait!r} is no number of seconds"))
        self.max_wait = max_wait
        self.left = max_wait
        self.withdrawn = False
        self.limit: asyncio.Timeout | None = None

    def spend(self, seconds: float) -> None:
        """Count seconds that were waited."""
        if self.left is not None:
            self.left = max(0.0, self.left - seconds)

    def withdraw(self) -> None:
        """End the call's waiting, now and later. An exchange in flight goes on to its end."""
        self.withdrawn = True
        self.left = 0.0
        _end(self.limit)


def _end(limit: asyncio.Timeout | None) -> None:
    """Let a time limit pass now, if anybody still waits under it."""
    with contextlib.suppress(RuntimeError):  # it has passed, or nobody does
        if limit is not None:
            limit.reschedule(0)


@define
class _Call:
    """One call on its way through the pipeline."""

    operation: Operation
    amazon_order_id: str
    marketplace: Marketplace
    request: wire.HttpRequest
    patience: Patience
    entry: Entry | None = None
    gate: Gate | None = None
    trail: Trail | None = None
    attempts: int = 0
    renewed_token: bool = False

    def context(self) -> CallContext:
        return CallContext(self.operation.name, self.amazon_order_id, self.attempts)


async def _check_files(request: MessageRequest) -> None:
    listed: models.Attached = getattr(request, "attachments", ())
    if paths := [item.path for item in listed if isinstance(item, LocalFile)]:
        await asyncio.to_thread(attachments.check_all, paths)


def _recorded(row: LedgerRow) -> MessageResponse:
    """What was recorded of a message: returned if it was sent, and else raised."""
    if row.status == "sent":
        return row.response
    error = row.error or LedgerError(f"order {row.amazon_order_id} is recorded as {row.status}")
    for told in (error, error.cause) if isinstance(error, OutcomeUnknown) else (error,):
        if isinstance(told, _CallError):
            told.context = CallContext(row.operation, row.amazon_order_id, row.attempts)
    raise error


async def _record(entry: Entry, error: MessagingError) -> None:
    """Record what a send raised; a ledger that fails must not hide it."""
    try:
        await entry.failed(error)
    except LedgerError as unrecorded:
        raise LedgerError(f"{error}; and this could not be recorded: {unrecorded}") from error


def _positive(name: str, value: float) -> float:
    if not _is_number(value, least=0) or value == 0:
        raise ConfigurationError(f"{name} {value!r} is no number of seconds above 0")
    return value


def _is_number(value: object, *, least: float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and least <= value < math.inf  # type: ignore[operator]


class _Shared:
    """What the sessions of one event loop share unless told otherwise: plans and tokens."""

    def __init__(self) -> None:
        self.throttle = LocalThrottle()
        self._sources: dict[object, TokenSource] = {}
        self._sweep_at = 1024

    def token_source(
        self, credentials: CredentialsSource, token_url: str, retry: RetryPolicy
    ) -> TokenSource:
        key = (token_url, _without_account(credentials))
        source = self._sources.get(key)
        if source is None:
            self._sweep()
            source = self._sources[key] = TokenSource(credentials, token_url, retry)
        return source

    def _sweep(self) -> None:
        # Sources without a token that serves are the same when made again.
        if len(self._sources) < self._sweep_at:
            return
        self._sources = {key: kept for key, kept in self._sources.items() if not kept.is_stale()}
        self._sweep_at = max(1024, 2 * len(self._sources))


def _without_account(credentials: CredentialsSource) -> CredentialsSource:
    # An account is a label of the caller's: two labels of one seller share plan and token.
    if isinstance(credentials, Credentials):
        return attrs.evolve(credentials, account=DEFAULT_ACCOUNT)
    return credentials


_SHARED: dict[asyncio.AbstractEventLoop, _Shared] = {}


def _shared() -> _Shared:
    loop = asyncio.get_running_loop()
    shared = _SHARED.get(loop)
    if shared is None:
        for other in [other for other in _SHARED if other.is_closed()]:
            del _SHARED[other]
        shared = _SHARED[loop] = _Shared()
    return shared
