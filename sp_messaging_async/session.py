"""`MessagingSession`: the pipeline of a call, and one thin coroutine for every operation."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import aiohttp
import attrs
from attrs import define

from . import __version__, attachments, content, models, wire
from .auth import TokenSource
from .credentials import Credentials, CredentialsSource
from .errors import (
    ApiError,
    CallContext,
    ConfigurationError,
    Finding,
    InvalidMessage,
    OutcomeUnknown,
    PlanWaitExceeded,
    SessionClosed,
    TransportError,
    _CallError,
)
from .marketplaces import Endpoint, Marketplace
from .models import Attachment, LocalFile, MessageRequest, MessageResponse
from .operations import MESSAGING, UPLOAD, Operation, by_request
from .retry import RetryPolicy, Verdict, judge
from .throttle import LocalThrottle, PlanKey, Throttle
from .transport import Transport

__all__ = ["MessagingSession", "Patience"]

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
        self._agent = wire.user_agent(user_agent or f"sp_messaging_async/{__version__}")
        self._transport = Transport(http)
        self._closing = False
        self._waits: set[asyncio.Timeout] = set()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

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
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("closed with %d exchanges in flight", self._in_flight)
        if self._shared_tokens is not None:
            self._shared_tokens.abandon(self._transport)
        await self._transport.aclose()

    @property
    def account(self) -> str:
        """The seller's name in order lists, as its credentials give it."""
        if isinstance(self._credentials, Credentials):
            return self._credentials.account
        return "default"

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
    ) -> MessageResponse:
        """Send a message by the operation that its request's class belongs to.

        amazon_order_id: the order, as in "123-1234567-1234567".
        request: what to send; a `LocalFile` among its attachments is uploaded first.
        marketplace: the order's, if it is another than the session's, in the same region.
        max_wait: the most seconds to wait for the usage plan, and between attempts; no limit
            unless given.

        Raises InvalidMessage before anything is sent; PlanWaitExceeded, SessionClosed,
        AuthenticationError and TransportError with nothing sent to the buyer; an ApiError when
        Amazon refused; OutcomeUnknown when nobody can tell, which must not be sent again unseen.
        The coroutine of each operation takes and raises the same.
        """
        response: type[MessageResponse] = by_request(request).response
        return await self._post(response, amazon_order_id, request, marketplace, max_wait)

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
        return await self._upload(operation, amazon_order_id, file, place, patience)

    # From here on: how a call is made

    async def _get(
        self,
        name: str,
        response: type[T],
        amazon_order_id: str,
        marketplace: Marketplace | str | None,
        max_wait: float | None,
    ) -> T:
        operation = MESSAGING[name]
        place = self._marketplace(marketplace)
        request = wire.build(
            self.endpoint.api_url, operation, amazon_order_id, place, agent=self._agent
        )
        call = _Call(operation, amazon_order_id, request, Patience(max_wait))
        answer: T = await self._perform(call)
        return answer

    async def _post(
        self,
        response: type[T],
        amazon_order_id: str,
        request: MessageRequest,
        marketplace: Marketplace | str | None,
        max_wait: float | None,
    ) -> T:
        operation = by_request(request)
        if operation.response is not response:
            reason = f"is a {type(request).__name__}; give it to {operation.coroutine} or send"
            raise InvalidMessage(Finding("body", reason))
        answer: T = await self.deliver(amazon_order_id, request, marketplace, Patience(max_wait))
        return answer

    async def deliver(
        self,
        amazon_order_id: str,
        request: MessageRequest,
        marketplace: Marketplace | str | None,
        patience: Patience,
    ) -> Any:
        """Send as `send` does, while the caller holds on to the patience and may withdraw it."""
        operation = by_request(request)
        place = self._marketplace(marketplace)
        wire.checked_order_id(amazon_order_id)
        content.check(request)
        operation.warn_if_retired()
        request = await self._with_uploads(operation, amazon_order_id, request, place, patience)
        http_request = wire.build(
            self.endpoint.api_url, operation, amazon_order_id, place, request, self._agent
        )
        return await self._perform(_Call(operation, amazon_order_id, http_request, patience))

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
    ) -> MessageRequest:
        """The request with every LocalFile uploaded. All are read before the first one goes."""
        listed: models.Attached = getattr(request, "attachments", ())
        if not any(isinstance(item, LocalFile) for item in listed):
            return request
        files = [
            await attachments.read(item.path, item.file_name)
            if isinstance(item, LocalFile)
            else item
            for item in listed
        ]
        attachments.check_total(files)
        uploaded = [
            item
            if isinstance(item, Attachment)
            else await self._upload(operation, amazon_order_id, item, marketplace, patience)
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
    ) -> Attachment:
        request = wire.build_upload_destination(
            self.endpoint.api_url, operation, amazon_order_id, marketplace, file.md5, self._agent
        )
        call = _Call(UPLOAD, amazon_order_id, request, patience)
        answer: models.CreateUploadDestinationResponse = await self._perform(call)
        destination = answer.payload
        try:
            put = attachments.put(file, destination, self._transport, self._retry, self._timeout)
            await self._until_closed(put)
        except _CallError as error:
            error.context = CallContext(UPLOAD.name, amazon_order_id)
            raise
        return Attachment(destination.upload_destination_id, file.name, size=file.size)

    async def _perform(self, call: _Call) -> Any:
        """Token, plan, exchange, answer, judgement; again until one attempt settles it."""
        try:
            for attempt in itertools.count(1):
                token = await self._wait_for_turn(call, again=attempt > 1)
                call.attempts = attempt
                try:
                    answer = await self._exchange(call, token)
                    return wire.read(call.operation, answer)
                except (TransportError, ApiError) as error:
                    failure = error
                await self._before_next_attempt(call, token, failure)
        except _CallError as error:
            if error.context is None:
                error.context = call.context()
            raise

    async def _wait_for_turn(self, call: _Call, *, again: bool) -> str:
        """A token that serves, once the usage plan lets the call go."""
        self._refuse_if_closing()
        await self._token()  # refused credentials fail now, not after the wait for the plan
        key = self._plan_key(call.operation)
        await self._with_patience(call, lambda: self._throttle.acquire(key, again=again))
        # The wait may have outlived the token; as a rule this returns at once.
        token = await self._token()
        self._refuse_if_closing()
        if call.patience.withdrawn:
            raise PlanWaitExceeded("it was withdrawn before it was sent")
        return token

    async def _exchange(self, call: _Call, token: str) -> wire.HttpAnswer:
        exchange = self._transport.exchange(call.request.with_token(token))
        self._in_flight += 1
        self._idle.clear()
        try:
            answer = await exchange.answer(self._timeout)
        except TransportError:
            raise
        except BaseException:  # a cancellation, above all
            if call.operation.messages_buyer and exchange.write_began:
                self._report_unknown(call)
            raise
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
        self._learn(call.operation, answer)
        return answer

    def _report_unknown(self, call: _Call) -> None:
        _log.warning(
            "%s was cancelled after its write began: the buyer may or may not have this message",
            call.context(),
            extra={
                "event": "unknown",
                "operation": call.operation.name,
                "amazon_order_id": call.amazon_order_id,
            },
        )

    def _learn(self, operation: Operation, answer: wire.HttpAnswer) -> None:
        """Tell the throttle what the answer says of the plan."""
        rate = wire.rate_limit(answer)
        try:
            if answer.status == 429:
                self._throttle.throttled(self._plan_key(operation))
            elif rate is not None:
                self._throttle.learned(self._plan_key(operation), rate)
        except Exception:  # a throttle of the caller's must not hide that the message was sent
            _log.exception("the throttle failed on an answer to %s", operation.name)

    async def _before_next_attempt(
        self, call: _Call, token: str, failure: TransportError | ApiError
    ) -> None:
        """Return when another attempt is allowed and due, or raise what the failure means."""
        verdict = judge(failure, messages_buyer=call.operation.messages_buyer)
        if verdict is Verdict.UNKNOWN:
            raise OutcomeUnknown(failure)
        if verdict is Verdict.AGAIN_WITH_NEW_TOKEN:
            verdict = self._renewed_once(call, token)
        if verdict is Verdict.FINAL or call.attempts >= self._retry.attempts:
            raise failure
        if verdict is Verdict.AGAIN:
            delay = self._retry.delay(call.attempts)
            await self._with_patience(call, lambda: asyncio.sleep(delay))

    def _renewed_once(self, call: _Call, token: str) -> Verdict:
        """Drop a refused token. Final if this call has done so before."""
        if not self._tokens.refused(token):
            return Verdict.AGAIN_WITH_NEW_TOKEN  # another call has replaced it already
        if call.renewed_token:
            return Verdict.FINAL
        call.renewed_token = True
        return Verdict.AGAIN_WITH_NEW_TOKEN

    async def _token(self) -> str:
        serving = self._tokens.serving(self._transport, self._timeout)
        if serving is not None:
            return serving
        return await self._until_closed(self._tokens.token(self._transport, self._timeout))

    async def _with_patience(self, call: _Call, wait: Callable[[], Awaitable[T]]) -> T:
        """Wait, within what is left of the call's `max_wait`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await self._until_closed(wait(), call.patience)
        finally:
            call.patience.spend(loop.time() - began)

    async def _until_closed(self, wait: Awaitable[T], patience: Patience | None = None) -> T:
        """Wait for something before the send, no longer than the patience and the session last."""
        try:
            async with asyncio.timeout(patience.left if patience else None) as limit:
                self._waits.add(limit)
                if patience:
                    patience.limit = limit
                try:
                    return await wait
                finally:
                    self._waits.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
        self._refuse_if_closing()
        raise PlanWaitExceeded(f"its turn did not come {patience}; nothing was sent")

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise SessionClosed("the session was closed before this was sent")

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

    def _plan_key(self, operation: Operation) -> PlanKey:
        return PlanKey(self.endpoint.api_url, self._tokens.seller, operation.name)


class Patience:
    """How long a call may yet wait; time spent in exchanges does not count.

    max_wait: seconds, or None for as long as it takes.
    """

    def __init__(self, max_wait: float | None = None) -> None:
        if max_wait is not None and not _is_number(max_wait, least=0):
            raise InvalidMessage(Finding("max_wait", f"{max_wait!r} is no number of seconds"))
        self.max_wait = max_wait
        self.left = max_wait
        self.withdrawn = False
        self.limit: asyncio.Timeout | None = None

    def __str__(self) -> str:
        return "before it was withdrawn" if self.withdrawn else f"within {self.max_wait} s"

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
    request: wire.HttpRequest
    patience: Patience
    attempts: int = 0
    renewed_token: bool = False

    def context(self) -> CallContext:
        return CallContext(self.operation.name, self.amazon_order_id, self.attempts)


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
        return attrs.evolve(credentials, account="default")
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
