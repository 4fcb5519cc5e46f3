"""What users write, for type checkers alone: `.ci/run` gives it to mypy and pyright, both strict.

What must not be accepted stands with the complaint that it must draw: an `ignore` that is not
needed is an error too.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import assert_never, assert_type

from sp_messaging_async import (
    ApiError,
    Attachment,
    CreateConfirmOrderDetailsRequest,
    CreateConfirmOrderDetailsResponse,
    CreateNegativeFeedbackRemovalResponse,
    CreateWarrantyRequest,
    Credentials,
    ExchangeEvent,
    GetAttributesResponse,
    InvalidMessage,
    InvoiceRequest,
    InvoiceResponse,
    Ledger,
    LocalFile,
    LocalThrottle,
    LoggingHook,
    Message,
    MessageEvent,
    MessageNotAvailable,
    MessageRequest,
    MessageResponse,
    MessagingSession,
    Outcome,
    OutcomeUnknown,
    PlanKey,
    PlanWaitExceeded,
    PostgresLedger,
    RedisThrottle,
    RetryPolicy,
    SQLiteLedger,
    Throttle,
    TransportError,
    UsagePlan,
    send_all,
)
from sp_messaging_async.otel import OpenTelemetry

ORDER = "111-2222222-3333333"


async def a_service(begins: datetime, ends: datetime) -> None:
    plans = {"createWarranty": UsagePlan(rate=2, burst=10)}
    async with MessagingSession(
        Credentials.from_env(),
        marketplace="US",
        throttle=LocalThrottle(plans),
        retry=RetryPolicy(attempts=3),
        user_agent="my-service/1.2",
    ) as messaging:
        assert_type(messaging, MessagingSession)

        answer = await messaging.create_confirm_order_details(
            ORDER, CreateConfirmOrderDetailsRequest(text="Which colour?"), max_wait=10
        )
        assert_type(answer, CreateConfirmOrderDetailsResponse)
        assert_type(
            await messaging.create_negative_feedback_removal(ORDER),
            CreateNegativeFeedbackRemovalResponse,
        )
        invoice = InvoiceRequest(attachments=[LocalFile("invoice.pdf")])
        assert_type(await messaging.send_invoice(ORDER, invoice), InvoiceResponse)

        attributes = await messaging.get_attributes(ORDER)
        assert_type(attributes, GetAttributesResponse)
        assert_type(attributes.buyer.locale if attributes.buyer else None, str | None)

        actions = await messaging.get_messaging_actions_for_order(ORDER)
        names = [action.name for action in actions.links.actions] if actions.links else []
        assert_type(names, list[str | None])

        card = await messaging.upload_attachment(ORDER, CreateWarrantyRequest, b"%PDF", "card.pdf")
        assert_type(card, Attachment)
        warranty = CreateWarrantyRequest([card], begins, ends)
        assert_type(await messaging.send(ORDER, warranty), MessageResponse)


async def what_it_answers(messaging: MessagingSession, request: MessageRequest) -> str:
    try:
        await messaging.send(ORDER, request, ledger=SQLiteLedger("sent.sqlite"))
    except MessageNotAvailable as error:
        return f"{error.status}: {[each.message for each in error.errors]}"
    except ApiError as error:
        return f"{error.request_id} {error.operation} {error.amazon_order_id} {error.attempts}"
    except OutcomeUnknown as error:
        assert_type(error.cause, ApiError | TransportError)
        return "unknown"
    except (InvalidMessage, PlanWaitExceeded, TransportError):
        return "not sent"
    return "sent"


async def a_bulk_run(accounts: dict[str, MessagingSession], ledger: Ledger) -> int:
    async def messages() -> AsyncIterator[Message]:
        yield Message(ORDER, CreateConfirmOrderDetailsRequest("Which colour?"), account="toys")

    sent = 0
    async with send_all(accounts, messages(), ledger=ledger, campaign="colours") as outcomes:
        async for outcome in outcomes:
            assert_type(outcome, Outcome)
            match outcome.status:
                case "sent":
                    sent += 1
                case "skipped" | "rejected" | "unknown" | "planned":
                    assert_type(outcome.message.amazon_order_id, str)
                case _:
                    assert_never(outcome.status)
    return sent


class Unlimited:
    """A throttle of the user's own."""

    async def acquire(self, key: PlanKey, *, again: bool = False) -> None: ...
    def throttled(self, key: PlanKey) -> None: ...
    def learned(self, key: PlanKey, rate: float) -> None: ...


async def fresh_credentials() -> Credentials:
    return Credentials("id", "secret", "token")


THROTTLES: list[Throttle] = [Unlimited(), LocalThrottle(), RedisThrottle("redis://localhost")]
LEDGERS: list[Ledger] = [SQLiteLedger("sent.sqlite"), PostgresLedger("postgresql:///sent")]
SESSION = MessagingSession(fresh_credentials, marketplace="DE", throttle=Unlimited())


def watch(event: ExchangeEvent | MessageEvent) -> None:
    if isinstance(event, MessageEvent):
        assert_type([made.status for made in event.exchanges], list[int | None])


WATCHED = MessagingSession(
    fresh_credentials, marketplace="DE", hooks=[watch, LoggingHook(), OpenTelemetry(accounts=True)]
)
assert_type(WATCHED.waiting("createWarranty"), int)


async def mistakes(messaging: MessagingSession) -> None:
    request = CreateConfirmOrderDetailsRequest("Which colour?")
    await messaging.send_invoice(ORDER, request)  # type: ignore[arg-type]
    await messaging.send(ORDER, "Which colour?")  # type: ignore[arg-type]
    await messaging.send(111, request)  # type: ignore[arg-type]
    CreateConfirmOrderDetailsRequest()  # type: ignore[call-arg]
    InvoiceRequest(attachments=["invoice.pdf"])  # type: ignore[list-item]
    request.text = "Which size?"  # type: ignore[misc]
    MessagingSession(fresh_credentials)  # type: ignore[call-arg]
    MessagingSession(fresh_credentials, marketplace="DE", hooks=[print, 1])  # type: ignore[list-item]
