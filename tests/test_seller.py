"""The whole path of a seller with a spreadsheet, by command."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from attrs import frozen

from sp_messaging_async.sandbox import Fault

from .commands import PATIENCE, Command, command

__all__ = ["command"]  # a fixture

QUESTION = "confirmCustomizationDetails"
# By the locale of the buyer: the marketplace, and how the template begins.
BUYERS = {
    "de-AT": ("DE", "Guten Tag Jürgen Groß, "),
    "fr-FR": ("FR", "Bonjour Hélène Lefèvre, "),
    "es-MX": ("ES", "Hola Begoña Núñez, "),
    "it-IT": ("IT", "Buongiorno Niccolò Cantù, "),
    "nl-BE": ("NL", "Beste Zoë de Groot, "),
    "pl-PL": ("PL", "Dear Agnieszka Nowak, "),  # Polish is not among the template's languages
}
TEMPLATE = """
operation = "confirmCustomizationDetails"
default_locale = "en-GB"

[text]
en-GB = "Dear {{ kunde }}, shall the engraving on your {{ artikel }} read as in the picture?"
de = "Guten Tag {{ kunde }}, soll die Gravur auf Ihrem {{ artikel }} so lauten wie im Bild?"
fr = "Bonjour {{ kunde }}, la gravure de votre {{ artikel }} doit-elle être comme sur la photo ?"
es = "Hola {{ kunde }}, ¿quiere que el grabado de su {{ artikel }} sea como en la foto?"
it = "Buongiorno {{ kunde }}, l'incisione sul suo {{ artikel }} deve essere come nella foto?"
nl = "Beste {{ kunde }}, moet de gravure op uw {{ artikel }} zijn zoals op de foto?"
"""


@frozen
class Order:
    """An order as the seller's spreadsheet and Amazon know it."""

    number: int

    @property
    def id(self) -> str:
        return f"30{self.number % 9}-{1_000_000 + 7 * self.number}-{2_000_000 + 13 * self.number}"

    @property
    def locale(self) -> str:
        return list(BUYERS)[self.number % len(BUYERS)]

    @property
    def account(self) -> str:
        return ("north", "south")[self.number // 3 % 2]

    @property
    def article(self) -> str:
        return f"Täschchen Nr. {self.number}" + ('; "groß"' if self.number % 5 == 0 else "")

    @property
    def picture(self) -> bytes:
        return f"GIF89a of {self.id}".encode()

    def row(self) -> list[str]:
        place, begins = BUYERS[self.locale]
        name = re.sub(r"^\S+( Tag)? |, $", "", begins)
        return [f" {self.id} ", place, self.account, name, self.article]


ORDERS = [Order(number) for number in range(200)]


@pytest.fixture
def seller(command: Command) -> Command:
    """A seller with a Latin spreadsheet export, pictures in a folder, and two accounts."""
    with (command.folder / "bestellungen.csv").open("w", encoding="cp1252", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(["Bestellnummer", "Marketplace", "Account", "Kunde", "Artikel"])
        table.writerows(order.row() for order in ORDERS)
    (command.folder / "bilder").mkdir()
    for order in ORDERS:
        command.sandbox.orders.set(order.id, locale=order.locale)
        (command.folder / "bilder" / f"{order.id}.gif").write_bytes(order.picture)
    command.write(TEMPLATE, "vorlage.toml")
    return command


CREDENTIALS = {
    "SP_API_REFRESH_TOKEN_NORTH": "northern-token",
    "SP_API_REFRESH_TOKEN_SOUTH": "southern-token",
    "SP_API_DEFAULT_MARKETPLACE": "DE",
}
LIST = ["bestellungen.csv", "--encoding", "windows-1252", "--map", "Bestellnummer=order_id"]
ASK = [*LIST, "--template", "vorlage.toml", "--attach", "bilder/{Bestellnummer}.gif"]


def assert_right(seller: Command, orders: list[Order]) -> None:
    """Each buyer has one message: in their language, of their article, with their picture."""
    delivered = {each.amazon_order_id: each for each in seller.sandbox.delivered}
    assert len(delivered) == len(seller.sandbox.delivered) == len(orders)
    for order in orders:
        message = delivered[order.id]
        place, begins = BUYERS[order.locale]
        text: str = message.request.text
        assert text.startswith(begins)
        assert order.article in text
        assert (message.operation, message.marketplace.name) == (QUESTION, place)
        assert message.seller == f"{order.account}ern-token"
        assert [file.content for file in message.files] == [order.picture]


def test_a_spreadsheet_of_orders(seller: Command) -> None:
    """200 orders in six languages, with a picture each and two accounts, reach their buyers."""
    status, output = seller.process("bulk", *ASK, **CREDENTIALS)
    assert status == 0, output
    assert_right(seller, ORDERS)
    assert re.search(rf"{QUESTION} +│ +200", output)
    status, output = seller.process("bulk", *ASK, **CREDENTIALS)
    assert (status, "nothing left to send" in output) == (0, True)
    assert len(seller.sandbox.delivered) == 200


def test_another_kind_for_the_same_list(seller: Command) -> None:
    """The same list sends invoices, which have no text, once the operation is named."""
    (seller.folder / "bilder").rename(seller.folder / "rechnungen")
    for path in (seller.folder / "rechnungen").iterdir():
        path.rename(path.with_suffix(".pdf"))
    options = ("--operation", "sendInvoice", "--attach", "rechnungen/{order_id}.pdf")
    status, output = seller.process("bulk", *LIST, *options, **CREDENTIALS)
    assert status == 0, output
    sent = {each.amazon_order_id: each for each in seller.sandbox.delivered}
    assert len(sent) == len(seller.sandbox.delivered) == 200
    for order in ORDERS:
        (file,) = sent[order.id].files
        assert (file.name, file.content) == (f"{order.id}.pdf", order.picture)


def test_a_run_that_was_killed(seller: Command) -> None:
    """After `kill -9` the same command goes on: nobody has two messages, and doubts are named."""
    hung = {order.id: order for order in ORDERS[60:68]}
    for number, order_id in enumerate(hung):
        fault = Fault.HANG_AFTER if number % 2 else Fault.HANG
        seller.sandbox.faults.add(fault, operation=QUESTION, amazon_order_id=order_id)
    with seller.started("bulk", *ASK, "--format", "jsonl", **CREDENTIALS) as process:
        process.until('"sent"', 150)  # and the hung ones keep it from its end
        process.popen.kill()
        process.popen.wait(PATIENCE)
    told = _outcomes(process.output)
    assert {told[order] for order in told} == {"sent"}
    status, output = seller.process("bulk", *ASK, **CREDENTIALS)
    assert (status, "unknown" in output) == (3, True)
    statuses = seller.statuses()
    unsure = {order for order, status in statuses.items() if status == "unknown"}
    assert hung.keys() <= unsure
    assert Counter(statuses.values()) == {"sent": 200 - len(unsure), "unknown": len(unsure)}
    counts = Counter(seller.delivered())
    assert set(counts.values()) == {1}
    for order, status in statuses.items():
        assert counts[order] == 1 or status == "unknown"


def test_a_person_settles_what_is_unsure(seller: Command) -> None:
    """What Seller Central shows is told by a list, and only what was not sent is sent then."""
    lost, had = ORDERS[3], ORDERS[9]
    seller.sandbox.faults.add(Fault.DROPPED, operation=QUESTION, amazon_order_id=lost.id)
    seller.sandbox.faults.add(Fault.DROPPED_AFTER, operation=QUESTION, amazon_order_id=had.id)
    status, _ = seller.process("bulk", *ASK, **CREDENTIALS)
    assert status == 3
    answers = [
        "order_id,operation,outcome",
        f"{lost.id},{QUESTION},not-sent",
        f"{had.id},{QUESTION},sent",
    ]
    seller.write("\n".join(answers), "answers.csv")
    status, _ = seller("ledger", "resolve", "--from-csv", "answers.csv")
    assert status == 0
    status, output = seller.process("bulk", *ASK, **CREDENTIALS)
    assert status == 0, output
    assert_right(seller, ORDERS)


def _outcomes(output: str) -> dict[str, str]:
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {line["order_id"]: line["status"] for line in lines}


def test_a_workbook(seller: Command, tmp_path: Path) -> None:
    """The same list as a workbook sends the same."""
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["Order ID", "marketplace", "account", "kunde", "artikel"])
    for order in ORDERS[:40]:
        book.active.append(order.row())
    book.save(tmp_path / "orders.xlsx")
    options = ("--template", "vorlage.toml", "--attach", "bilder/{order_id}.gif")
    status, output = seller.process("bulk", "orders.xlsx", *options, **CREDENTIALS)
    assert status == 0, output
    assert_right(seller, ORDERS[:40])
