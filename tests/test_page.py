"""The page of the local Amazon in a real browser, while messages are sent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, TypeVar

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from sp_messaging_async import (
    CreateConfirmCustomizationDetailsRequest,
    CreateUnexpectedProblemRequest,
    CreateWarrantyRequest,
    LocalThrottle,
    Marketplace,
    MessageNotAvailable,
    MessagingError,
    MessagingSession,
    RetryPolicy,
    UsagePlan,
)
from sp_messaging_async.sandbox import Fault, Sandbox
from sp_messaging_async.sandbox.inbox import Delivered, DeliveredFile

from .browser import Browser
from .conftest import FAST, ORDER
from .test_report_page import contrast

T = TypeVar("T")

NAME = "createUnexpectedProblem"
PATIENCE = 10.0  # seconds before something that does not happen is a failure
OTHER = "303-1111111-2222222"
LONG = "a-name-without-any-space-" * 8
PICTURE = files("sp_messaging_async").joinpath("bulk", "sample", "engraving.png").read_bytes()
COLOURS = [
    *("page", "panel", "chosen", "notice", "line", "edge"),
    *("text", "soft", "accent", "on-accent", "good", "bad"),
]
VIEWS = ("inbox", "plans", "exchanges", "faults", "orders")


class Local:
    """A sandbox with a seller, in a thread with an event loop of its own."""

    def __init__(self, **options: Any) -> None:
        self._options = {"plans": FAST, **options}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        async with (
            Sandbox(**self._options) as self.sandbox,
            MessagingSession(
                self.sandbox.credentials,
                marketplace="US",
                endpoint=self.sandbox.endpoint,
                throttle=LocalThrottle(FAST, headroom=0),
                retry=RetryPolicy(attempts=1),
            ) as self.session,
        ):
            self._ready.set()
            await self._ended.wait()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns, run beside the sandbox."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def call(self, function: Callable[[], T]) -> T:
        """What a function returns, called beside the sandbox."""

        async def called() -> T:
            return function()

        return self.run(called())

    def send(self, order: str = ORDER, text: str = "Sold out.") -> None:
        """Send a message."""
        request = CreateUnexpectedProblemRequest(text)
        self.run(self.session.create_unexpected_problem(order, request))

    def deliver(self, *messages: Delivered) -> None:
        """Put messages into the inbox that the operations would not take."""

        def put() -> None:
            for message in messages:
                self.sandbox.inbox.add(message)
            self.sandbox.changes.note("messages")

        self.call(put)

    def close(self) -> None:
        """Close the sandbox, if it is open."""
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()


class Page:
    """The page, open in a browser."""

    def __init__(self, browser: Browser, local: Local) -> None:
        self.browser = browser
        self.driver = browser.driver
        self.local = local

    def open(self, view: str = "inbox", **screen: Any) -> None:
        """Load the page anew at a view, and wait until it is live."""
        self.driver.get("about:blank")
        self.browser.visit(f"{self.local.sandbox.url}/#/{view}", **screen)
        self.until(lambda: self.text("#connection") == "Live")
        self.until(lambda: self.count("#kinds label"))

    def go(self, view: str) -> None:
        """Choose a view by its link."""
        self.one(f'nav a[href="#/{view}"]').click()
        self.until(lambda: self.one(f"#{view}").is_displayed())

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def count(self, selector: str) -> int:
        return len(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        """The text that can be seen, or "" where there is no such element."""
        found: str = self.driver.execute_script(
            "return document.querySelector(arguments[0])?.innerText ?? ''", selector
        )
        return found.strip()

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(one => one.innerText.trim())",
            selector,
        )
        return found

    def until(self, condition: Callable[[], T]) -> T:
        """Wait for something to be so."""
        return WebDriverWait(self.driver, PATIENCE, 0.03).until(lambda _: condition())

    def fill(self, selector: str, text: str) -> None:
        """Type into a field, in place of what it holds."""
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self.driver, 0).send_keys(*keys).perform()

    def tab_to(self, selector: str) -> None:
        """Press the tabulator until an element has the focus."""
        for _ in range(80):
            if self.driver.execute_script(
                "return document.activeElement.matches(arguments[0])", selector
            ):
                return
            self.press(Keys.TAB)
        raise AssertionError(f"the tabulator does not lead to {selector}")

    def orders(self) -> list[str]:
        """The orders of the list."""
        return self.texts("#order-list code")


@contextmanager
def shown(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page of a sandbox; at the end, nothing went wrong in it and nobody else was asked."""
    local = Local(**options)
    page = Page(browser, local)
    try:
        yield page
        assert browser.errors() == []
        asked = {address for address in browser.requests() if address != "about:blank"}
        assert asked
        assert {each for each in asked if not each.startswith(local.sandbox.url)} == set()
    finally:
        browser.driver.get("about:blank")
        local.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """The page of a sandbox whose plans do not wait."""
    with shown(browser) as page:
        yield page


def delivered(order: str, text: str = "Sold out.", *names: str) -> Delivered:
    """A message as it reached its buyer."""
    files = tuple(DeliveredFile(name, b"%PDF") for name in names)
    request = CreateUnexpectedProblemRequest(text)
    return Delivered(NAME, order, Marketplace.DE, request, files, "Atzr|one", 1000.0)


# The inbox


def test_a_message_appears_without_reload(page: Page) -> None:
    """What is sent while the page is open is in the list at once, and said in the live region."""
    page.open()
    for name, value in page.local.sandbox.environment().items():
        assert f"export {name}='{value}'" in page.text("#pointers")
    page.driver.execute_script("window.marker = true")
    page.local.send()
    page.until(lambda: page.orders() == [ORDER])
    assert page.driver.execute_script("return window.marker")
    assert page.text("#order-list .excerpt") == "Sold out."
    page.until(lambda: page.text("#note") == f"New message for order {ORDER}: Unexpected problem")
    assert page.one("#note").aria_role == "status"
    assert not page.one("#inbox-empty").is_displayed()
    page.local.send(OTHER)
    page.local.send(ORDER)
    page.until(lambda: page.orders() == [ORDER, OTHER] and page.texts(".number") == ["2", "1"])


def test_a_conversation_grows_while_it_is_read(page: Page) -> None:
    """A new message of the open order comes last, and what was there stays the same element."""
    page.local.send()
    page.open(f"inbox/{ORDER}")
    first = page.until(lambda: page.one("#message-list li"))
    page.local.send(text="Back in stock.")
    page.until(lambda: page.texts("#message-list .text") == ["Sold out.", "Back in stock."])
    assert first.is_displayed()


def test_a_conversation_is_what_the_buyer_reads(page: Page) -> None:
    """Words, line breaks, language, images, downloads and warranty dates are all there."""
    local = page.local
    local.call(lambda: local.sandbox.orders.set(ORDER, locale="de-DE"))
    image = local.run(
        local.session.upload_attachment(
            ORDER, CreateConfirmCustomizationDetailsRequest, PICTURE, "für Anna.png"
        )
    )
    document = local.run(
        local.session.upload_attachment(ORDER, CreateWarrantyRequest, b"%PDF", "garantie.pdf")
    )
    question = CreateConfirmCustomizationDetailsRequest("Guten Tag,\n\npasst das?", (image,))
    local.run(local.session.confirm_customization_details(ORDER, question))
    dates = datetime(2026, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
    local.run(local.session.create_warranty(ORDER, CreateWarrantyRequest((document,), *dates)))
    local.run(local.session.create_negative_feedback_removal(ORDER))
    page.open(f"inbox/{ORDER}")
    page.until(lambda: page.count("#message-list > li") == 3)
    assert page.texts("#message-list h3") == [
        "Question about a customization",
        "Warranty",
        "Request to remove feedback",
    ]
    assert page.text(".message code") == "confirmCustomizationDetails"
    assert page.text(".text") == "Guten Tag,\n\npasst das?"
    assert page.one(".text").get_attribute("lang") == page.text(".message .tag") == "de-DE"
    page.until(lambda: page.one(".files img").get_property("naturalWidth"))
    assert page.text(".files .image bdi") == "für Anna.png"
    assert page.one("a[download]").text == "garantie.pdf"
    assert page.text(".warranty") == "Covered from 1 January 2026 to 1 January 2028"
    assert page.count("#message-list time[datetime]") == 5


def test_what_is_sent_is_shown_and_never_run(page: Page) -> None:
    """Markup in a text, an order id or a name of a file is text, and makes no element."""
    bad = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"
    page.local.deliver(delivered(bad, bad, f"{bad}.pdf", f"{bad}.png"))
    page.open()
    page.until(lambda: page.orders() == [bad])
    page.one("#order-list a").click()
    page.until(lambda: page.text(".message .text") == bad)
    assert page.text("#conversation-heading") == f"Order {bad}"
    assert page.texts(".files bdi") == [f"{bad}.pdf", f"{bad}.png"]
    page.until(lambda: page.count("img") == 0)  # the image that is none is taken away
    page.go("exchanges")
    assert page.count("body script, [onerror], img") == 0
    assert page.driver.execute_script("return window.ran ?? null") is None


def test_search(page: Page) -> None:
    """By order, text, kind in words or Amazon's name, and language; also of what comes later."""
    page.local.send(ORDER, "The green one is sold out.")
    page.local.run(page.local.session.create_negative_feedback_removal(OTHER))
    page.open()
    page.until(lambda: page.count("#order-list li") == 2)
    for query, found in (
        ("303-1", [OTHER]),
        ("GREEN one", [ORDER]),
        ("remove feedback", [OTHER]),
        ("createunexpected", [ORDER]),
        ("en-us", [OTHER, ORDER]),
        ("blue", []),
    ):
        page.fill("#search", query)
        page.until(lambda found=found: page.orders() == found)  # type: ignore[misc]
    assert page.text("#inbox-count") == "0 orders of 2 found"
    page.local.send("111-0000000-0000000", "The blue one, too.")
    page.until(lambda: page.orders() == ["111-0000000-0000000"])


def test_clear_all_asks_first(page: Page) -> None:
    """Escape and the first answer keep the messages; the other one clears them everywhere."""
    page.local.send()
    page.open()
    page.until(lambda: page.orders() == [ORDER])
    for keep in (lambda: page.press(Keys.ESCAPE), lambda: page.one("#confirm-no").click()):
        page.one("#clear-messages").click()
        page.until(lambda: page.one("#confirm").is_displayed())
        assert page.text("#confirm-question") == "Clear all 1 message?"
        keep()
        page.until(lambda: not page.one("#confirm").is_displayed())
    assert len(page.local.sandbox.delivered) == 1
    page.one("#clear-messages").click()
    page.one("#confirm-yes").click()
    page.until(lambda: page.orders() == [] and page.one("#inbox-empty").is_displayed())
    assert page.local.sandbox.delivered == []
    page.local.send(OTHER)
    page.until(lambda: page.orders() == [OTHER])


def test_messages_that_made_room(browser: Browser) -> None:
    """What the sandbox holds no more is gone from the page too, which says how many there were."""
    with shown(browser, keep=3) as page:
        page.local.send("111-0000000-0000000")
        page.open()
        page.until(lambda: page.count("#order-list li") == 1)
        for number in range(1, 5):
            page.local.send(f"111-0000000-000000{number}")
        page.until(lambda: page.text("#dropped").startswith("2 older messages made room"))
        assert page.text("#dropped").endswith("at most 3 are held.")
        assert page.orders() == [f"111-0000000-000000{number}" for number in (4, 3, 2)]


def test_very_many_messages(page: Page) -> None:
    """Of ten thousand messages and more as many are drawn as are looked at, in steps."""
    page.local.deliver(
        *[delivered(f"111-0000000-{number:07}") for number in range(300)],
        *[delivered(ORDER, f"Message {number}.") for number in range(10_000)],
    )
    page.open(f"inbox/{ORDER}")
    page.until(lambda: page.text("#inbox-count") == "10,000 messages for 1 order")
    assert page.count("#message-list > li") == 50
    assert page.texts("#message-list .text")[-1] == "Message 9999."
    page.one("#earlier").click()
    page.until(lambda: page.count("#message-list > li") == 100)
    assert page.text("#unloaded span") == "300 older messages not loaded."
    page.one("#unloaded button").click()
    page.until(lambda: page.text("#inbox-count") == "10,300 messages for 301 orders")
    assert page.count("#order-list > li") == 100
    assert page.text("#more-orders") == "Show more (201 orders)"
    page.one("#more-orders").click()
    page.until(lambda: page.count("#order-list > li") == 200)
    page.local.send(ORDER, "One more.")
    page.until(lambda: page.texts("#message-list .text")[-1] == "One more.")


# Usage plans


def test_meters_fall_and_refill(browser: Browser) -> None:
    """A meter falls with each request, and refills by itself without asking the sandbox."""
    with shown(browser, plans={**FAST, NAME: UsagePlan(rate=3, burst=5)}) as page:
        page.open("plans")
        for _ in range(4):
            page.local.send()
        page.until(lambda: page.count(f'#seller-list [data-key$="{NAME}"]') == 1)
        meter = page.one(f'#seller-list [data-key$="{NAME}"] [role=meter]')
        assert meter.accessible_name.startswith("Unexpected problem, tokens of seller-")
        now = lambda: float(meter.get_attribute("aria-valuenow") or "nan")  # noqa: E731
        page.until(lambda: now() < 3)
        assert "of 5 tokens" in page.text(f'#seller-list [data-key$="{NAME}"]')
        assert "3 a second" in page.text(f'#seller-list [data-key$="{NAME}"]')
        browser.requests()
        page.until(lambda: now() == 5)
        page.until(lambda: meter.find_element(By.CSS_SELECTOR, "div").size["width"] > 200)
        asked = [address for address in browser.requests() if address.endswith("/plans")]
        assert len(asked) <= 1
        page.local.send()


def test_a_429_is_seen_as_it_happens(browser: Browser) -> None:
    """Whichever view is open, a refusal is counted, said, and told of among the plans."""
    with shown(browser, plans={**FAST, NAME: UsagePlan(rate=0.001, burst=1)}) as page:
        page.open()
        page.local.send()
        page.until(lambda: page.orders() == [ORDER])
        for _ in range(2):
            with pytest.raises(MessagingError):
                page.local.send()
        page.until(lambda: page.text("#plans-badge") == "2 × 429")
        page.until(lambda: f"{NAME} of seller-" in page.text("#note"))
        assert "(429)" in page.text("#note")
        page.go("plans")
        page.until(lambda: "2 × 429" in page.text(f'#seller-list [data-key$="{NAME}"]'))
        assert page.count("#refusals li") >= 1
        with pytest.raises(MessagingError):
            page.local.send()
        page.until(lambda: page.count("#seller-list .flash") == 1)


def test_motion_is_reduced_if_asked(page: Page) -> None:
    """Whoever asks for less motion sees a mark in the place of a flash."""
    for motion, name in (("no-preference", "flash"), ("reduce", "none")):
        page.open("plans", motion=motion)
        page.driver.execute_script("document.body.classList.add('flash')")
        assert page.one("body").value_of_css_property("animation-name") == name


def test_a_plan_is_changed(page: Page) -> None:
    """The form begins with the plan in force, changes it, and shows a refusal where it stands."""
    page.open("plans")
    Select(page.one("#plan-operation")).select_by_value(NAME)
    assert page.one("#plan-rate").get_property("value") == "100000"
    page.fill("#plan-rate", "0.5")
    page.fill("#plan-burst", "10")
    page.one("#plan-form button").click()
    page.until(lambda: "now has 0.5 a second, burst 10" in page.text("#plan-problem"))
    assert page.local.sandbox.plans.in_force()[NAME] == UsagePlan(rate=0.5, burst=10)
    page.fill("#plan-rate", "0")
    page.one("#plan-form button").click()
    page.until(lambda: page.text("#plan-problem") == "rate: 0.0 must be finite and above 0")
    (error,) = page.browser.errors()
    assert "400 (Bad Request)" in error


# Exchanges


def test_exchanges(page: Page) -> None:
    """Each is told of, opens to its bodies without secrets, and failures can be shown alone."""
    page.open("exchanges")
    page.local.send()
    page.local.sandbox.faults.add(Fault.DROPPED)
    with pytest.raises(MessagingError):
        page.local.send()
    page.until(lambda: page.count("#exchange-list > li") == 3)
    assert page.texts("#exchange-list .status") == ["no answer", "201", "200"]
    rows = page.driver.find_elements(By.CSS_SELECTOR, "#exchange-list summary")
    assert NAME in rows[0].text
    assert "POST /auth/o2/token" in rows[2].text
    rows[0].click()
    page.until(lambda: "No answer was sent." in page.text("details[open]"))
    assert '{\n  "text": "Sold out."\n}' in page.text("details[open]")
    rows[2].click()
    page.until(lambda: page.texts("details[open] pre")[-1:] == ["(hidden)"])
    assert page.local.sandbox.credentials.refresh_token not in page.driver.page_source
    assert "Atza|" not in page.driver.page_source
    page.one("#errors-only").click()
    page.until(lambda: page.texts("#exchange-list .status") == ["no answer"])


def test_exchanges_hold_still_while_they_are_read(page: Page) -> None:
    """Nothing moves until it is allowed to again, and then nothing is missing."""
    page.local.send()
    page.open("exchanges")
    page.until(lambda: page.count("#exchange-list > li") == 2)
    page.one("#hold-still").click()
    page.local.send(OTHER)
    page.until(lambda: page.text("#inbox-badge") == "2")
    assert page.count("#exchange-list > li") == 2
    page.one("#hold-still").click()
    page.until(lambda: page.count("#exchange-list > li") == 3)


# Faults and orders


def test_every_word_is_there(page: Page) -> None:
    """Each kind of failure has a sentence, and each operation has a name in words."""
    page.open("faults")
    kinds = Select(page.one("#fault-kind"))
    assert {option.get_attribute("value") for option in kinds.options} == set(Fault.__members__)
    sentences = page.driver.execute_script(
        "const [kinds, sentence] = arguments;"
        "return [...kinds.options].map(option => {"
        "  kinds.value = option.value;"
        "  kinds.dispatchEvent(new Event('change'));"
        "  return sentence.textContent;"
        "})",
        page.one("#fault-kind"),
        page.one("#fault-sentence"),
    )
    assert len(set(sentences) - {""}) == len(Fault)
    targets = page.texts("#fault-operation option")
    assert len(targets) == 1 + 16
    assert [
        target for target in targets[1:] if target.split(" (")[0] == target.split(" (")[1][:-1]
    ] == []


def test_a_fault_by_keyboard_alone(page: Page) -> None:
    """Tab, letters and Enter lead to a fault, which strikes the next send and is then gone."""
    page.open()
    page.tab_to('nav a[href="#/faults"]')
    page.press(Keys.ENTER)
    page.until(lambda: page.one("#faults").is_displayed())
    assert page.driver.switch_to.active_element.text == "Faults"
    page.tab_to("#fault-kind")
    page.press("Not available")
    page.until(lambda: page.one("#fault-kind").get_property("value") == "NOT_AVAILABLE")
    page.tab_to("#fault-order")
    page.press(ORDER, Keys.ENTER)
    page.until(lambda: page.text("#fault-problem") == "Added: Not available.")
    assert page.text("#script") == (
        f"Not available for the next request to any operation of messaging of order {ORDER}"
    )
    page.local.send(OTHER)
    with pytest.raises(MessageNotAvailable):
        page.local.send()
    page.until(lambda: page.count("#script li") == 0 and page.one("#faults-empty").is_displayed())


def test_faults_of_all_kinds_are_listed_and_cleared(page: Page) -> None:
    """Chances and scripts, from here or from elsewhere, are listed in words until cleared."""
    page.open("faults")
    Select(page.one("#fault-operation")).select_by_value("token")
    page.one("input[value=chance]").click()
    assert not page.one("#fault-order").is_enabled()
    page.fill("#fault-percent", "12.5")
    page.one("#fault-form button").click()
    page.until(lambda: page.text("#chances") == "Throttled for 12.5 % of requests to token")
    (chance,) = page.local.sandbox.faults.chances
    assert (chance.probability, chance.operation) == (0.125, "token")
    page.local.call(lambda: page.local.sandbox.faults.add(*[Fault.HANG_AFTER] * 3, operation=NAME))
    line = f"Hang, after delivery for the next 3 requests to {NAME}"
    page.until(lambda: page.texts("#script li") == [line])
    assert page.text("#faults-badge") == "4"
    page.one("#clear-faults").click()
    page.until(lambda: page.one("#faults-empty").is_displayed())
    assert not page.local.sandbox.faults


def test_a_fault_that_is_refused_says_so(page: Page) -> None:
    """A refusal is shown in the form that was sent."""
    page.open("faults")
    page.fill("#fault-order", "no order")
    page.one("#fault-form button").click()
    page.until(lambda: page.text("#fault-problem") == "order: 'no order' is no order id")
    assert page.one("#fault-problem").aria_role == "status"
    assert len(page.browser.errors()) == 1


def test_an_order_is_set(page: Page) -> None:
    """From a conversation to its order: language and kinds are set, listed, and shown again."""
    page.local.send()
    page.open(f"inbox/{ORDER}")
    page.one("#conversation-settings").click()
    page.until(lambda: page.one("#order-id").get_property("value") == ORDER)
    page.fill("#order-locale", "fr-FR")
    page.one("#no-kinds").click()
    page.one("#kinds input[value=sendInvoice]").click()
    page.one("#order-form button[type=submit]").click()
    page.until(lambda: page.text("#order-problem") == f"Order {ORDER} is set.")
    known = page.local.sandbox.orders.known()[ORDER]
    assert (known.locale, set(known.available)) == ("fr-FR", {"sendInvoice"})
    assert page.text("#known-orders") == f"{ORDER} fr-FR; takes 1 kind of message"
    page.open(f"orders/{ORDER}")
    page.until(lambda: page.one("#order-locale").get_property("value") == "fr-FR")
    assert page.count("#kinds input:checked") == 1


# For everybody


def test_a_conversation_by_keyboard_alone(page: Page) -> None:
    """The first tab skips to the content; a focus is seen; Enter opens what is then read."""
    page.local.send()
    page.open()
    page.until(lambda: page.orders() == [ORDER])
    page.press(Keys.TAB)
    assert page.driver.switch_to.active_element.text == "Skip to the content"
    page.press(Keys.ENTER)
    assert page.driver.switch_to.active_element.get_attribute("id") == "main"
    page.tab_to("#order-list a")
    outline = page.driver.switch_to.active_element.value_of_css_property("outline-width")
    assert outline == "3px"
    page.press(Keys.ENTER)
    page.until(lambda: page.texts("#message-list .text") == ["Sold out."])
    assert page.driver.switch_to.active_element.text == f"Order {ORDER}"
    assert page.driver.title == f"Order {ORDER} – local Amazon"
    assert page.one("#order-list a").get_attribute("aria-current") == "true"


def test_the_focus_stays_while_the_list_moves(page: Page) -> None:
    """An order that a new message moves to the top keeps the focus of the keyboard."""
    page.local.send(ORDER)
    page.local.send(OTHER)
    page.open()
    page.until(lambda: page.orders() == [OTHER, ORDER])
    page.tab_to(f'#order-list a[href$="{ORDER}"]')
    page.local.send(ORDER)
    page.until(lambda: page.orders() == [ORDER, OTHER])
    focused = page.driver.switch_to.active_element
    assert (focused.get_attribute("href") or "").endswith(ORDER)


def test_what_screen_readers_hear(page: Page) -> None:
    """Views have landmarks and headings, their link is marked, and all controls have names."""
    page.open()
    assert page.count("header") == page.count("nav[aria-label]") == page.count("main") == 1
    assert page.count("h1") == 1
    for view in VIEWS:
        page.go(view)
        marked = page.one("nav a[aria-current=page]").get_attribute("href") or ""
        assert marked.endswith(f"#/{view}")
        section = page.one(f"#{view}")
        assert section.accessible_name == section.find_element(By.CSS_SELECTOR, "h2").text
        for control in section.find_elements(By.CSS_SELECTOR, "input, select, button"):
            if control.is_displayed():
                assert control.accessible_name, control.get_attribute("id")


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    """Neither a telephone nor a desk needs to scroll to the side, however long a word is."""
    page.local.deliver(delivered(LONG, LONG, f"{LONG}.pdf"))
    page.local.send()
    page.local.sandbox.orders.set(LONG, locale=LONG)
    page.local.sandbox.faults.add(Fault.DENIED, operation=NAME, amazon_order_id=LONG)
    page.open("inbox", width=width)
    for view in (*VIEWS, f"inbox/{LONG}"):
        page.driver.execute_script("location.hash = arguments[0]", f"#/{view}")
        page.until(lambda view=view: page.one(f"#{view.split('/')[0]}").is_displayed())  # type: ignore[misc]
        if view == "exchanges":
            page.until(lambda: page.count("#exchange-list details"))
            page.driver.execute_script("document.querySelector('details').open = true")
        wide = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, view


def test_two_steps_on_a_small_screen(page: Page) -> None:
    """At 400 pixels the list gives way to the conversation, and the way back leads to the list."""
    page.local.send()
    page.open(width=400)
    page.until(lambda: page.orders() == [ORDER])
    page.one("#order-list a").click()
    page.until(lambda: page.one("#message-list").is_displayed())
    assert not page.one("#order-list").is_displayed()
    page.one(".back").click()
    page.until(lambda: page.one("#order-list").is_displayed())
    assert not page.one("#conversation").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(page: Page, scheme: str) -> None:
    """In either scheme text has a contrast of 4.5, and edges of what is used one of 3."""
    page.open(scheme=scheme)
    colours: dict[str, str] = page.driver.execute_script(
        "const style = getComputedStyle(document.documentElement);"
        "return Object.fromEntries(arguments[0].map("
        "name => [name, style.getPropertyValue('--' + name).trim()]))",
        COLOURS,
    )
    behind = [colours[name] for name in ("page", "panel", "chosen")]
    for text in ("text", "soft", "accent", "bad", "good"):
        assert min(contrast(colours[text], ground) for ground in behind) >= 4.5, text
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
    assert contrast(colours["page"], colours["bad"]) >= 4.5
    assert contrast(colours["text"], colours["notice"]) >= 4.5
    assert contrast(colours["text"], colours["line"]) >= 4.5
    assert min(contrast(colours["edge"], ground) for ground in behind[:2]) >= 3
    dark = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") is (scheme == "light")


# The connection


def test_a_lost_connection_comes_back(page: Page) -> None:
    """The page says that the connection is lost, and catches up once there is one again."""
    page.open()
    refusing = page.local.sandbox.faults.refused()
    page.local.run(refusing.__aenter__())
    page.until(lambda: page.text("#connection") == "Connection lost. Trying again …")
    page.local.deliver(delivered(ORDER))
    page.local.run(refusing.__aexit__(None, None, None))
    page.until(lambda: page.text("#connection") == "Live" and page.orders() == [ORDER])
    page.browser.errors()  # the browser notes each try that failed


def test_another_sandbox_at_the_same_place(browser: Browser) -> None:
    """What was known of a sandbox is forgotten when another one answers in its place."""
    with shown(browser) as page:
        page.local.send()
        page.open()
        page.until(lambda: page.orders() == [ORDER])
        port = page.local.sandbox._port
        page.local.close()
        page.local = other = Local(port=port)
        try:
            for _ in range(3):
                other.send(OTHER)
            page.until(lambda: page.orders() == [OTHER] and page.texts(".number") == ["3"])
            page.browser.errors()
            page.driver.get("about:blank")
        finally:
            other.close()


def test_a_hidden_tab_does_no_work(page: Page) -> None:
    """While nobody sees the tab nothing is asked for; once somebody does, all is there."""
    page.open()
    page.driver.execute_script(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "window.heard = 0;"
        "new EventSource('/_sandbox/events').onmessage = () => heard++;"
    )
    page.until(lambda: len(page.local.sandbox.changes._listeners) == 2)
    page.browser.requests()
    page.local.send()
    page.until(lambda: page.driver.execute_script("return heard"))
    page.driver.execute_script(
        "requestAnimationFrame(() => requestAnimationFrame(() => heard = -1))"
    )
    page.until(lambda: page.driver.execute_script("return heard") == -1)
    assert page.browser.requests() == []
    page.driver.execute_script(
        "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.until(lambda: page.orders() == [ORDER])
