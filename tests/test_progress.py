"""How far a run is: what is counted, what the usage plans make of it, and what a person sees."""

from __future__ import annotations

import io
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from sp_messaging_async import models
from sp_messaging_async.bulk.messages import Message, Outcome
from sp_messaging_async.bulk.progress import Tally, rate_by_table, seconds_by_plans
from sp_messaging_async.cli.display import Watch, closing_table, duration, in_a_line
from sp_messaging_async.events import OutcomeStatus
from sp_messaging_async.ledger import Lane
from sp_messaging_async.operations import MESSAGING

PROBLEM = "createUnexpectedProblem"
DELIVERY = "createConfirmDeliveryDetails"
REMOVAL = "createNegativeFeedbackRemoval"
LOOKUP = "getAttributes"
REQUESTS: dict[str, models.MessageRequest] = {
    PROBLEM: models.CreateUnexpectedProblemRequest(text="It is late."),
    DELIVERY: models.CreateConfirmDeliveryDetailsRequest(text="When are you in?"),
    REMOVAL: models.CreateNegativeFeedbackRemovalRequest(),
}
STATUSES: tuple[OutcomeStatus, ...] = ("sent", "skipped", "rejected", "unknown")


class Clock:
    """Seconds that pass when a test says so; and `tick` of them with every look at it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.tick = 0.0

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def outcome(
    operation: str = PROBLEM, status: OutcomeStatus = "sent", account: str | None = None
) -> Outcome:
    return Outcome(Message("111-2222222-3333333", REQUESTS[operation], None, account), status)


def lane(number: int, operation: str = PROBLEM, account: str = "default", files: int = 0) -> Lane:
    return Lane(account, operation, number, files)


def run(
    tally: Tally, clock: Clock, seconds: int, outcomes: Callable[[], Iterable[Outcome]]
) -> None:
    """Count what comes every second, for some seconds."""
    for _ in range(seconds):
        clock.now += 1
        for each in outcomes():
            tally.count(each)


def terminal(width: int = 80, height: int = 25, **options: Any) -> Console:
    return Console(
        **{"file": io.StringIO(), "force_terminal": True, "color_system": None} | options,
        width=width,
        height=height,
        _environ={},
    )


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def screen(console: Console) -> list[str]:
    """The lines that were drawn last."""
    frame = written(console).rpartition("\x1b[2K")[2]
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).rstrip("\n").splitlines()


def drawn(tally: Tally, console: Console | None = None) -> list[str]:
    console = console or terminal()
    with Watch(tally, console):
        return screen(console)


def row(lines: Iterable[str], name: str) -> str:
    (found,) = [line for line in lines if re.search(rf"(^| ){re.escape(name)}( |$)", line)]
    return found


# What the usage plans make of it


def test_a_full_bucket_goes_at_once() -> None:
    """The burst, less the token that the throttle leaves unused, takes no time."""
    assert seconds_by_plans([lane(4)]) == {"default": 0}
    assert seconds_by_plans([lane(5)]) == {"default": 1}


def test_accounts_and_operations_go_side_by_side() -> None:
    """Each account takes what its longest operation takes, whatever the others do."""
    lanes = [lane(104), lane(54, DELIVERY), lane(14, account="other")]
    assert seconds_by_plans(lanes) == {"default": 100, "other": 10}


def test_nothing_takes_no_time() -> None:
    """Without messages there are no accounts, and a tally of nothing has no time left."""
    assert seconds_by_plans([]) == {}
    assert Tally([]).seconds_left() == 0


def test_lookups_are_shared_by_an_accounts_messages() -> None:
    """A look-up for every message goes by one plan of the account's, all operations together."""
    lanes = [lane(104), lane(50, DELIVERY), lane(10, account="other")]
    assert seconds_by_plans(lanes, [LOOKUP]) == {"default": 150, "other": 6}


def test_uploads_are_shared_by_an_accounts_files() -> None:
    """Each file takes a request of the account's plan for uploads, which is 5 a second."""
    lanes = [lane(10, files=504), lane(10, DELIVERY, files=500), lane(10, account="other")]
    assert seconds_by_plans(lanes) == {"default": 200, "other": 6}


def test_the_rates_in_force_count() -> None:
    """An account whose rates Amazon told takes what these make of it."""
    rates = {("fast", PROBLEM): 10.0, ("fast", LOOKUP): 5.0}

    def rate_of(account: str, operation: str) -> float:
        return rates.get((account, operation)) or rate_by_table(account, operation)

    lanes = [lane(104, account="fast"), lane(104, account="slow")]
    assert seconds_by_plans(lanes, (), rate_of) == {"fast": 10, "slow": 100}
    assert seconds_by_plans(lanes, [LOOKUP], rate_of) == {"fast": 20, "slow": 100}


# What is counted


def test_counts(clock: Clock) -> None:
    """Outcomes are counted by operation and by status, and all of them together."""
    tally = Tally([lane(3), lane(2, DELIVERY)], clock=clock)
    tally.count(outcome())
    tally.count(outcome(status="rejected"))
    tally.count(outcome(DELIVERY))
    assert tally.by_operation == {PROBLEM: Counter(sent=1, rejected=1), DELIVERY: Counter(sent=1)}
    assert (tally.total, tally.number(), tally.number("sent"), tally.left) == (5, 3, 2, 2)


def test_the_first_that_were_not_sent_are_kept(clock: Clock) -> None:
    """Of messages that were not sent the first 20 are named, so that memory stays flat."""
    tally = Tally([lane(100)], clock=clock)
    for each in STATUSES * 25:
        tally.count(outcome(status=each))
    assert [found.status for found in tally.named[:4]] == [*STATUSES[1:], "skipped"]
    assert len(tally.named) == 20


def test_what_is_left_is_planned(clock: Clock) -> None:
    """After the end, messages without an outcome are counted as planned, once."""
    tally = Tally([lane(3), lane(2, DELIVERY)], clock=clock)
    tally.count(outcome())
    tally.count_unsent()
    tally.count_unsent()
    assert (tally.number("planned"), tally.number()) == (4, 5)
    assert (tally.left, tally.seconds_left()) == (0, 0)


def test_an_outcome_that_nobody_announced(clock: Clock) -> None:
    """An outcome beside the announced lanes is counted too, and breaks nothing."""
    tally = Tally([lane(1)], clock=clock)
    for _ in range(2):
        tally.count(outcome(DELIVERY, account="other"))
    assert (tally.number("sent"), tally.left, tally.seconds_left()) == (2, 0, 0)
    assert row(drawn(tally), PROBLEM).endswith(" done")


def test_time_left_goes_down_with_every_message(clock: Clock) -> None:
    """The time left is the plan's for what is left; the burst shortens it once, not twice."""
    tally = Tally([lane(104)], clock=clock)
    left = [tally.seconds_left()]
    for _ in range(7):
        tally.count(outcome())
        left.append(tally.seconds_left())
    assert left == [100, 100, 100, 100, 100, 99, 98, 97]


def test_time_left_follows_a_learned_rate(clock: Clock) -> None:
    """A rate that an answer brought counts from its outcome on."""
    rates = {PROBLEM: 1.0}
    tally = Tally([lane(105)], rate_of=lambda _, name: rates[name], clock=clock)
    for _ in range(4):
        tally.count(outcome())
    rates[PROBLEM] = 10.0
    tally.count(outcome())
    assert tally.seconds_left() == 10


def test_a_short_lane_waits_its_turn_only(clock: Clock) -> None:
    """Lanes take turns at a plan they share: a short one does not wait for a long one's end."""
    lanes = [lane(12), lane(3000, DELIVERY)]
    lines = drawn(Tally(lanes, lookups=[LOOKUP], clock=clock))
    assert row(lines, PROBLEM).endswith(" 0:20 look-ups")
    assert row(lines, DELIVERY).endswith(" 50:08 look-ups")
    assert row(lines, "all").endswith(" 50:08 look-ups")


def test_uploads_that_bind_are_told(clock: Clock) -> None:
    """Where files take longer than messages, the time left is theirs, and that is said."""
    tally = Tally([lane(100, files=1004), lane(100, DELIVERY)], clock=clock)
    lines = drawn(tally)
    assert row(lines, PROBLEM).endswith(" 3:20 uploads")
    assert row(lines, DELIVERY).endswith(" 1:36")
    assert in_a_line(tally).endswith("; 3:20 left (uploads)")


def test_a_limit_is_the_end(clock: Clock) -> None:
    """With a limit, that many messages are all there is to do."""
    tally = Tally([lane(5000)], limit=14, clock=clock)
    assert (tally.total, tally.left, tally.seconds_left()) == (14, 14, 10)
    for _ in range(14):
        tally.count(outcome())
    assert row(drawn(tally), PROBLEM).split()[-2:] == ["0", "done"]


# The rate


def test_the_rate_is_the_plans_when_it_is_used_to_the_full(clock: Clock) -> None:
    """A run as fast as the plan reaches its rate, whenever one looks, and never more."""
    tally = Tally([lane(100)], clock=clock)
    for _ in range(4):  # the full bucket
        tally.count(outcome())
    assert tally.rates() == (None, 1)
    reached = []
    for _ in range(30):
        run(tally, clock, 1, lambda: [outcome()])
        reached.append(tally.rates()[0])
        clock.now += 0.25
        reached.append(tally.rates()[0])
        clock.now -= 0.25
    assert set(reached) == {1.0}


def test_the_rate_falls_when_nothing_comes(clock: Clock) -> None:
    """Ten seconds without an outcome are a rate of 0, and the next ones are told as fast."""
    tally = Tally([lane(100)], clock=clock)
    run(tally, clock, 20, lambda: [outcome()])
    clock.now += 6
    assert tally.rates()[0] == pytest.approx(0.5, abs=0.1)
    clock.now += 6
    assert tally.rates()[0] == 0
    clock.now += 100
    run(tally, clock, 3, lambda: [outcome()])
    assert tally.rates()[0] == 1


def test_a_slow_plan_is_watched_for_longer(clock: Clock) -> None:
    """A plan of a message in 50 s does not read as stopped between two of them."""
    tally = Tally([lane(100)], rate_of=lambda *_: 0.02, clock=clock)
    for _ in range(20):
        clock.now += 50
        tally.count(outcome())
    clock.now += 40
    assert tally.rates() == (0.02, 0.02)
    assert "0.020/s of the plan's 0.020/s" in in_a_line(tally)


def test_only_lanes_with_work_count_for_the_rate(clock: Clock) -> None:
    """An operation that is done is neither in the rate reached nor in the plan's."""
    tally = Tally([lane(10), lane(100, DELIVERY)], clock=clock)
    run(tally, clock, 9, lambda: [outcome(), outcome(DELIVERY)])
    assert tally.rates() == (2, 2)
    run(tally, clock, 1, lambda: [outcome(), outcome(DELIVERY)])
    assert tally.rates() == (1, 1)


# In a log


def test_a_line_now_and_then(clock: Clock) -> None:
    """Where there is no terminal a line comes every ten seconds, and one when all is done."""
    shown = Console(file=io.StringIO(), width=30)
    tally = Tally([lane(34)], clock=clock)
    with Watch(tally, shown) as watch:
        for _ in range(4):
            tally.count(outcome())
        watch.show()
        for _ in range(30):
            run(tally, clock, 1, lambda: [outcome()])
            watch.show()
            watch.show()
    assert written(shown).splitlines() == [
        "14 of 34: 14 sent, 0 skipped, 0 rejected, 0 unknown; 1.0/s of the plan's 1.0/s; 0:20 left",
        "24 of 34: 24 sent, 0 skipped, 0 rejected, 0 unknown; 1.0/s of the plan's 1.0/s; 0:10 left",
        "34 of 34: 34 sent, 0 skipped, 0 rejected, 0 unknown; took 0:30",
    ]


def test_the_interval_of_lines(clock: Clock) -> None:
    """Lines come as often as one says, also while no outcome comes."""
    shown = Console(file=io.StringIO())
    with Watch(Tally([lane(34)], clock=clock), shown, interval=60) as watch:
        for _ in range(150):
            clock.now += 1
            watch.show()
    assert len(written(shown).splitlines()) == 2


def test_thousands_are_separated(clock: Clock) -> None:
    """Large numbers are readable in a line, on the display and in the closing table."""
    tally = Tally([lane(1_000_000)], clock=clock)
    for _ in range(1200):
        tally.count(outcome())
    closing = Console(file=io.StringIO())
    closing.print(closing_table(tally))
    assert "1,200 sent" in in_a_line(tally)
    assert {"1,200", "998,800"} <= set(row(drawn(tally), PROBLEM).split())
    assert "1,200" in written(closing)


@pytest.mark.parametrize(
    "options", [{"force_terminal": True, "_environ": {"TERM": "dumb"}}, {"force_terminal": False}]
)
def test_what_is_no_terminal_is_not_steered(clock: Clock, options: dict[str, Any]) -> None:
    """A dumb terminal gets the lines of a log, without a control sequence."""
    shown = Console(file=io.StringIO(), **options)
    tally = Tally([lane(1)], clock=clock)
    with Watch(tally, shown) as watch:
        tally.count(outcome())
        watch.show()
    assert written(shown) == "1 of 1: 1 sent, 0 skipped, 0 rejected, 0 unknown; took 0:00\n"


# On a terminal


def busy(clock: Clock, accounts: Iterable[str], number: int, **options: Any) -> Tally:
    """A tally with counts of every status, for three operations of each account."""
    lanes = [
        lane(number, operation, account)
        for account in accounts
        for operation in (PROBLEM, DELIVERY, REMOVAL)
    ]
    tally = Tally(lanes, clock=clock, **options)
    for status in (*STATUSES, *["sent"] * 20):
        run(
            tally,
            clock,
            1,
            lambda status=status: [outcome(at.operation, status, at.account) for at in lanes],
        )
    return tally


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("number", [30, 99_999])
@pytest.mark.parametrize("lookups", [[], [LOOKUP]], ids=["", "look-ups"])
@pytest.mark.parametrize(
    "accounts",
    [
        ["default"],
        ["north-shop", "south-shop"],
        ["a seller's name that is longer than a name should be", "b"],
        [f"seller-{number}" for number in range(100)],
    ],
    ids=["1", "2", "long", "many"],
)
def test_a_row_is_a_line(
    clock: Clock, width: int, number: int, lookups: list[str], accounts: list[str]
) -> None:
    """From 80 columns on every row fits in a line, with the operation and time left in full."""
    lines = drawn(busy(clock, accounts, number, lookups=lookups), terminal(width, 40))
    rows = 1 + min(10, 3 * len(accounts)) + 1 + (len(accounts) > 3)
    assert len(lines) == rows
    assert max(map(cell_len, lines)) <= width
    for line in lines[1 : min(10, 3 * len(accounts)) + 1]:
        assert re.search(f" (?:{PROBLEM}|{DELIVERY}|{REMOVAL}) ", f" {line} ")
        assert re.search(r" (?:(?:\d+:)?\d+:\d\d|\d+ d \d+ h)(?: look-ups)?$", line)


def test_every_operations_name_fits(clock: Clock) -> None:
    """No operation of Amazon's has a name too long for 80 columns and two accounts."""
    for name in MESSAGING:
        tally = Tally([lane(5000, name, "north"), lane(5000, name, "south")], clock=clock)
        assert sum(f" {name} " in line for line in drawn(tally)) == 2


def test_a_row_tells_all(clock: Clock) -> None:
    """A row holds the rate as a bar and in numbers, the counts, what is left, and the time."""
    tally = Tally([lane(5000)], clock=clock)
    for status in STATUSES:
        tally.count(outcome(status=status))
    run(tally, clock, 20, lambda: [outcome()])
    (head, line) = drawn(tally, terminal(140))
    heads = "operation rate sent skipped rejected unknown left time left"
    assert head.split() == heads.split()
    name, bar, *rest = line.split()
    assert (name, bar) == (PROBLEM, "━" * len(bar))
    assert rest == ["1.0", "of", "1/s", "21", "1", "1", "1", "4,976", "1:22:56"]


def test_the_bar_is_the_rate_of_the_plan(clock: Clock) -> None:
    """Half the plan's rate is half a bar, in other strokes than the rest of it."""
    tally = Tally([lane(1000)], clock=clock)
    for _ in range(20):
        run(tally, clock, 2, list)
        tally.count(outcome())
    (_, line) = drawn(tally, terminal(140))
    bar = line.split()[1]
    assert re.fullmatch("━+╸?─+", bar)
    assert bar.count("━") == pytest.approx(len(bar) / 2, abs=1)


def test_a_wide_terminal_has_a_longer_bar(clock: Clock) -> None:
    """The bar takes the room there is, and gives way before a name is shortened."""
    tally = busy(clock, ["north", "south"], 5000)
    narrow, wide = (row(drawn(tally, terminal(width)), "all") for width in (80, 140))
    assert 0 < narrow.count("━") < wide.count("━")
    assert any("north " in line for line in drawn(tally))


def test_long_names_are_shortened_in_the_middle(clock: Clock) -> None:
    """Accounts that differ in their last letters only can be told apart when they are short."""
    accounts = [f"the-same-beginning-of-a-long-name-{number:03}" for number in range(2)]
    lines = drawn(busy(clock, accounts, 5000))
    assert {line.split()[0][-3:] for line in lines[1:7]} == {"000", "001"}
    assert all("…" in line for line in lines[1:7])


def test_one_account_is_not_named(clock: Clock) -> None:
    """The column of accounts is there where there is more than one."""
    assert "account" not in drawn(Tally([lane(9), lane(9, DELIVERY)], clock=clock))[0]
    assert "account" in drawn(Tally([lane(9), lane(9, account="b")], clock=clock))[0]


def test_one_lane_needs_no_sum(clock: Clock) -> None:
    """A row of all stands below two lanes, and not below one."""
    assert len(drawn(Tally([lane(9)], clock=clock))) == 2
    assert drawn(Tally([lane(9), lane(9, DELIVERY)], clock=clock))[-1].startswith("all ")


def test_an_empty_run_is_drawn(clock: Clock) -> None:
    """A tally of nothing has a display too."""
    assert drawn(Tally([], clock=clock))[1].split() == ["all", *"00000", "done"]


def test_the_longest_of_many_are_shown(clock: Clock) -> None:
    """Of a thousand lanes those with the longest time left have a row, as many as there is room."""
    lanes = [lane(100 + number, account=f"s{number}") for number in range(1000)]
    tally = Tally(lanes, clock=clock)
    lines = drawn(tally)
    assert [line.split()[0] for line in lines[1:11]] == [
        f"s{number}" for number in range(990, 1000)
    ]
    assert lines[11].split() == ["and", "990", "more"]
    assert lines[12].split()[0] == "all"
    assert len(lines) == 13


def test_a_low_terminal_has_fewer_rows(clock: Clock) -> None:
    """However low a terminal is, the display is no higher, and says how many are not shown."""
    lanes = [lane(100, account=f"s{number}") for number in range(1000)]
    for height in (8, 10, 14):
        lines = drawn(Tally(lanes, clock=clock, paused=lambda: ["s1"]), terminal(80, height))
        assert len(lines) < height
        assert any(f"and {1000 - (height - 6)} more" in line for line in lines)


def test_rows_stand_still_for_a_while(clock: Clock) -> None:
    """Of lanes that are as long, the same are shown for ten seconds, and not others each time."""
    lanes = [lane(100, account=f"s{number}") for number in range(30)]
    tally = Tally(lanes, clock=clock)
    console = terminal()
    with Watch(tally, console) as watch:
        for _ in range(5):
            for number in range(5):
                tally.count(outcome(account=f"s{number}"))
        before = screen(console)
        clock.now += 5
        watch.show()
        assert [line.split()[0] for line in screen(console)] == [line.split()[0] for line in before]
        clock.now += 6
        watch.show()
        assert [line.split()[0] for line in screen(console)[1:11]] == [
            f"s{number}" for number in range(5, 15)
        ]


def test_a_lane_that_is_done_makes_room(clock: Clock) -> None:
    """A row that is done gives its place to a lane with work, at once."""
    lanes = [lane(6, account="brief"), *(lane(3, account=f"s{number}") for number in range(10))]
    tally = Tally(lanes, rate_of=lambda account, _: 0.1 if account == "brief" else 1, clock=clock)
    console = terminal()
    with Watch(tally, console) as watch:
        assert any(line.startswith("brief ") for line in screen(console))
        for _ in range(6):
            tally.count(outcome(account="brief"))
        clock.now += 1
        watch.show()
        assert not any(line.startswith("brief ") for line in screen(console))


# What a name may hold


def test_markup_in_a_name_is_text(clock: Clock) -> None:
    """An account called as a style, or as an end of one, is shown as it is called."""
    lanes = [lane(9, account="[red]a"), lane(9, account="b[/red]"), lane(9, account=":smile:")]
    lines = drawn(Tally(lanes, clock=clock), terminal(140))
    assert [line.split()[0] for line in lines[1:4]] == ["[red]a", "b[/red]", ":smile:"]


def test_a_name_does_not_steer_the_terminal(clock: Clock) -> None:
    """Control characters of a name, and those that turn its direction, are replaced."""
    lanes = [lane(9, account="a\x1b[2Jb\r\nc\u202ed\te"), lane(9, account="b")]
    console = terminal(140)
    drawn(Tally(lanes, clock=clock), console)
    assert "a?[2Jb??c?d?e ".replace("?", "\N{REPLACEMENT CHARACTER}") in written(console)


def test_wide_letters_count_double(clock: Clock) -> None:
    """Columns stand below each other where letters of a name are two cells wide."""
    lanes = [lane(5000, account="北の店" * 12), lane(5000, account="b")]
    for width in (80, 81, 140):
        lines = drawn(Tally(lanes, clock=clock), terminal(width))
        assert len({cell_len(line.rstrip()) for line in lines}) == 1
        assert cell_len(lines[0]) <= width


# What a terminal cannot do


def test_no_colour(clock: Clock) -> None:
    """With NO_COLOR no colour is written, and the same is told."""
    tally = busy(clock, ["north"], 5000)
    plain = Console(
        file=io.StringIO(), force_terminal=True, width=80, height=25, _environ={"NO_COLOR": "1"}
    )
    with Watch(tally, plain):
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]", written(plain))
        assert screen(plain) == drawn(tally)


def test_ascii(clock: Clock) -> None:
    """A terminal that knows ASCII only gets nothing else, whatever a seller is called."""
    raw = io.BytesIO()
    console = terminal(file=io.TextIOWrapper(raw, encoding="ascii"))
    names = ["Müller und Söhne, Verkäufer des größten Glücks", "b\x07"]
    with Watch(busy(clock, names, 5000), console):
        pass
    console.file.flush()
    assert b"M?l" in raw.getvalue()
    assert b"===" in raw.getvalue()


# An outage


def test_a_paused_run_says_so(clock: Clock) -> None:
    """While Amazon does not answer there is no time left to tell, but that it is waited for."""
    paused = ["default"]
    tally = Tally([lane(5000)], paused=lambda: paused, clock=clock)
    lines = drawn(tally)
    assert row(lines, PROBLEM).endswith(" paused")
    assert lines[-1] == "paused: Amazon does not answer"
    assert in_a_line(tally).endswith("; paused: Amazon does not answer")
    paused.clear()
    assert "paused" not in "".join(drawn(tally)) + in_a_line(tally)


def test_some_accounts_are_paused(clock: Clock) -> None:
    """Where others go on, the time left is told too, and how many accounts are paused."""
    lanes = [lane(10, account=name) for name in "abc"]
    tally = Tally(lanes, paused=lambda: {"a", "b", "not in this run"}, clock=clock)
    lines = drawn(tally)
    assert row(lines, "a").endswith(" paused")
    assert row(lines, "c").endswith(" 0:06")
    assert lines[-1] == "2 accounts paused: Amazon does not answer"
    assert in_a_line(tally).endswith("; 0:06 left; 2 accounts paused: Amazon does not answer")


def test_an_account_that_is_done_does_not_wait(clock: Clock) -> None:
    """An account without anything left is not told as paused."""
    tally = Tally([lane(1, account="a"), lane(9, account="b")], paused=lambda: "a", clock=clock)
    tally.count(outcome(account="a"))
    lines = drawn(tally)
    assert row(lines, "a").endswith(" done")
    assert "paused" not in "".join(lines)


# How it is drawn


def test_it_is_drawn_five_times_a_second_at_most(clock: Clock) -> None:
    """A thousand outcomes in a second redraw the display five times."""
    tally = Tally([lane(100_000)], clock=clock)
    console = terminal()
    with Watch(tally, console) as watch:
        before = written(console).count(PROBLEM)
        for _ in range(1000):
            clock.now += 0.001
            tally.count(outcome())
            watch.show()
        assert 4 <= written(console).count(PROBLEM) - before <= 5


def test_drawing_takes_a_hundredth_of_the_time(clock: Clock) -> None:
    """After a drawing that took long, the next one waits a hundred times as long."""
    tally = Tally([lane(100_000)], clock=clock)
    console = terminal()
    with Watch(tally, console) as watch:
        clock.tick = 0.01
        clock.now += 1
        watch.show()
        clock.tick = 0
        drawings = written(console).count(PROBLEM)
        clock.now += 0.9
        watch.show()
        assert written(console).count(PROBLEM) == drawings
        clock.now += 10
        watch.show()
        assert written(console).count(PROBLEM) == drawings + 1


def test_no_thread_draws(clock: Clock) -> None:
    """Nothing is written but by a call, so that no line of the program's is cut in two."""
    before = threading.active_count()
    with Watch(Tally([lane(9)], clock=clock), terminal()):
        assert threading.active_count() == before


def test_lines_go_above_the_display(clock: Clock) -> None:
    """What the program prints meanwhile stands above, whole, and the display below it."""
    console = terminal()
    with Watch(Tally([lane(9)], clock=clock), console):
        console.print("note: whole")
    assert written(console).count("note: whole\n") == 1
    assert PROBLEM in screen(console)[1]


def test_the_end_stays_on_the_screen(clock: Clock) -> None:
    """The last outcome is on the display that is left, with the cursor back below it."""
    console = terminal()
    tally = Tally([lane(2)], clock=clock)
    with Watch(tally, console) as watch:
        tally.count(outcome())
        watch.show()
        clock.now += 0.01
        tally.count(outcome())
        watch.show()
    assert written(console).endswith("\n\x1b[?25h")
    head, line, note = screen(console)
    assert head.split() == ["operation", *STATUSES, "left", "time", "left"]
    assert line.split() == [PROBLEM, "2", "0", "0", "0", "0", "done"]
    assert note == "2 messages took 0:00"


def test_one_message_is_singular(clock: Clock) -> None:
    """One message is no messages."""
    tally = Tally([lane(1)], clock=clock)
    tally.count(outcome())
    clock.now += 61
    assert drawn(tally)[-1] == "1 message took 1:01"


def test_an_end_before_the_end_frees_the_terminal(clock: Clock) -> None:
    """An error leaves the display as it was last, and gives the cursor back."""
    console = terminal()
    tally = Tally([lane(9)], clock=clock)
    tally.count(outcome())
    with pytest.raises(RuntimeError), Watch(tally, console):
        raise RuntimeError
    assert written(console).endswith("\x1b[?25h")
    assert row(screen(console), PROBLEM).split()[-2:] == ["8", "0:05"]


# The end


def test_the_closing_table_has_the_statuses_there_are(clock: Clock) -> None:
    """It has a row for each operation and one for all, and a column for what there was."""
    tally = Tally([lane(3), lane(1, DELIVERY)], clock=clock)
    for each in (outcome(), outcome(status="unknown"), outcome(DELIVERY)):
        tally.count(each)
    tally.count_unsent()
    console = Console(file=io.StringIO(), width=80)
    console.print(closing_table(tally))
    cells = [re.findall(r"\w+", line) for line in written(console).splitlines()]
    assert [line for line in cells if line] == [
        ["operation", "sent", "unknown", "planned"],
        [DELIVERY, "1", "0", "0"],
        [PROBLEM, "1", "1", "1"],
        ["all", "2", "1", "1"],
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (3599.6, "1:00:00"),
        (86399, "23:59:59"),
        (86400, "1 d 0 h"),
        (1e6, "11 d 13 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    """Minutes and seconds, with hours from an hour on, and days and hours from a day on."""
    assert duration(seconds) == text
