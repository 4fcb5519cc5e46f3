"""One usage plan for many processes: its tokens are kept in Redis, or Valkey, by a script.

A bucket may go into debt: a call that finds no token reserves the next one that nobody has, and is
told how long until it is due. Reservations stand as far apart as the plan wants them, in the order
in which they were asked for, so that one round trip a grant is enough and nobody polls. Of each
bucket a process asks for one at a time, which makes processes take turns, and whoever is first in
the process's queue when it is due goes by it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self, cast, get_args

from attrs import define, frozen

from ..errors import ConfigurationError, MessagingError, SessionClosed, TransportError
from ..operations import OPERATIONS, UsagePlan
from ..throttle import LOWEST_RATE, Limiter, LocalThrottle, PlanKey, wake

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["OnOutage", "RedisThrottle"]

_log = logging.getLogger("sp_messaging_async")

OnOutage = Literal["share", "wait", "fail"]

_CALLS = 64  # at once, and so the most connections of a process
_RETRY = 1.0  # seconds between two looks at whether Redis is back
_RENEWAL = 5.0  # seconds that a reservation is trusted: another process may have learned a rate
_KEPT = 60.0  # seconds that a key outlives the need for it

_SCRIPT = """
-- A bucket: tokens (below 0: reserved ahead) as of a time, the rate that Amazon told unless it is
-- the default, the epoch in which reservations are good, and those that were given back.
local capacity, default, ceiling = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local takes, drains, told_now = ARGV[4] == '1', ARGV[5] == '1', tonumber(ARGV[6])
local mine, known = tonumber(ARGV[7]), ARGV[9] == '1'
local kept_for, told_for = tonumber(ARGV[10]), tonumber(ARGV[11])

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at', 'told', 'epoch', 'free')
-- A key that should be there is gone when Redis has lost it, and then its bucket was not full.
local tokens = tonumber(kept[1]) or (known and 0 or capacity)
local told = tonumber(kept[3]) or default
local epoch = kept[4] or string.format('%.0f', now)
local rate = math.min(told, ceiling)
tokens = math.min(capacity, tokens + math.max(0, now - (tonumber(kept[2]) or now)) / 1e6 * rate)
if ARGV[8] ~= epoch then mine = nil end

local free = {}
for due in string.gmatch(kept[5] or '', '%S+') do free[#free + 1] = tonumber(due) end
if mine and not takes then
    free[#free + 1] = mine
    mine = nil
end

if told_now and math.abs(told_now - told) > told * 1e-9 then
    told = told_now
    local before = rate
    rate = math.min(told, ceiling)
    if rate ~= before then
        -- Reservations at the old rate are void; what is left of the debt is a token's fraction.
        if tokens < 0 then tokens = tokens + math.ceil(-tokens) end
        epoch = string.format('%.0f', math.max(now, tonumber(epoch) + 1))
        free, mine = {}, nil
    end
end

if drains then
    -- Those whose turn is sooner than a new token go without; the others have their tokens yet.
    local soonest, later = now + 1e6 / rate, {}
    local unused = mine and mine < soonest
    for _, due in ipairs(free) do
        if due < soonest then unused = true else later[#later + 1] = due end
    end
    free = later
    if unused and mine and mine < soonest then mine = nil end
    if tokens > 0 or (unused and tokens >= -1) then tokens = 0 end
end

table.sort(free)
-- The last turn, given back, is as if it had never been reserved.
while tokens < 0 and free[1] and free[#free] > now - (tokens + 0.5) / rate * 1e6 do
    table.remove(free)
    tokens = tokens + 1
end
-- Others that passed unused stay as tokens, but leave room for the one that came or comes next.
local passed = 0
for _, due in ipairs(free) do if tokens >= 0 or due <= now then passed = passed + 1 end end
for _ = math.max(1, math.floor(capacity)), passed do table.remove(free, 1) end
if tokens >= 0 then
    tokens = math.min(capacity, tokens + #free)
    free = {}
end

local wait = -1
if takes then
    local last = now + math.max(0, 1 - tokens) / rate * 1e6
    if mine then
        mine = math.min(mine, last)
    elseif free[1] and tokens < 1 then
        mine = table.remove(free, 1)
    else
        tokens, mine = tokens - 1, last
    end
    wait = math.ceil(math.max(0, mine - now))
end

redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'epoch', epoch,
    'at', string.format('%.0f', now), 'free', table.concat(free, ' '))
local seconds = (capacity - tokens) / rate + kept_for
if math.abs(told - default) <= default * 1e-9 then
    redis.call('HDEL', KEYS[1], 'told')
else
    redis.call('HSET', KEYS[1], 'told', string.format('%.17g', told))
    seconds = math.max(seconds, told_for)
end
redis.call('PEXPIRE', KEYS[1], math.ceil(seconds * 1000))
return {wait, string.format('%.0f', mine or 0), epoch, string.format('%.17g', told)}
"""
_DIGEST = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()  # Redis' name of it


class RedisThrottle:
    """Keeps all processes that use one Redis to the usage plans, together.

    url: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py reads them; `redis+cluster://` or
        `rediss+cluster://` with any node of a Redis Cluster.
    plans: as `LocalThrottle` takes them; the same in every process.
    headroom: as `LocalThrottle` takes it. It is there for all processes together: the network
        between them and Redis may delay a call by as much as the headroom takes to refill.
    on_outage: while Redis is away, "share" lets each process go on with its share of every plan,
        "wait" lets calls wait until it is back, and "fail" raises TransportError, with nothing
        sent. Redis is away when it refuses, fails or does not answer within `timeout`. Each begins
        with one warning, and ends by itself.
    replicas: how many processes share the plans in an outage. With fewer than there are, an outage
        overruns the plans.
    timeout: seconds for an answer of Redis.

    A rate that Amazon told is kept for `remembered` seconds after the last use of its plan, and
    reaches processes whose calls wait within five seconds. A key says nothing of whom it is about,
    and is gone a minute after its bucket is full. A process that dies loses one token of each plan
    that its calls waited for.

    Use it as an async context manager, or call `aclose`. One object serves one event loop; making
    it needs none, and connects to nothing. Raises ConfigurationError for an argument that cannot
    be used, or where the `redis` extra is not installed.
    """

    remembered = 3600.0

    def __init__(
        self,
        url: str,
        *,
        plans: Mapping[str, UsagePlan] | None = None,
        headroom: float = 1,
        on_outage: OnOutage = "share",
        replicas: int = 1,
        timeout: float = 1.0,
    ) -> None:
        LocalThrottle(plans, headroom)  # refuses what cannot be used
        if on_outage not in get_args(OnOutage):
            known = ", ".join(map(repr, get_args(OnOutage)))
            raise ConfigurationError(f"on_outage {on_outage!r} is none of {known}")
        if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
            raise ConfigurationError(f"replicas {replicas!r} must be a number of processes")
        if not 0 < timeout < math.inf:
            raise ConfigurationError(f"timeout {timeout!r} is no number of seconds above 0")
        _check_url(url)
        self._url = url
        self._ceilings = dict(plans or {})
        self._headroom = headroom
        self._on_outage: OnOutage = on_outage
        self._replicas = replicas
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: _Server | None = None
        self._buckets: dict[PlanKey, _Bucket] = {}
        self._sweep_at = 64
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Fail those who wait with SessionClosed, tell Redis what is left to tell, disconnect."""
        self._here()
        self._is_closed = True
        pumps = [bucket.close() for bucket in self._buckets.values()]
        await asyncio.gather(*filter(None, pumps), return_exceptions=True)
        if self._server is not None:
            await self._server.aclose()

    async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
        """Return when the plan allows one request; this process's go in the order of their call.

        A cancelled caller leaves the queue without having taken a token. Raises SessionClosed
        once the throttle is closed, and TransportError where `on_outage` says so.
        """
        bucket = self._bucket(key)
        if self._is_closed:
            raise _closed()
        await bucket.acquire(again=again)

    def throttled(self, key: PlanKey) -> None:
        """Empty the bucket, as Amazon's is empty. Redis is told in the background."""
        bucket = self._bucket(key)
        if not self._is_closed:
            bucket.drain()

    def learned(self, key: PlanKey, rate: float) -> None:
        """Follow a rate that Amazon told; one that makes no sense is ignored.

        Redis is told in the background, if it is news.
        """
        if not math.isfinite(rate) or rate < LOWEST_RATE:
            return
        bucket = self._bucket(key)
        if not self._is_closed:
            bucket.change_rate(rate)

    def rate(self, key: PlanKey) -> float:
        """Requests a second that a plan allows all processes now, as far as this one knows."""
        bucket = self._buckets.get(key)
        return bucket.rate if bucket else self._plan(key).rate

    def waiting(self, key: PlanKey) -> int:
        """How many calls stand in this process's queue of a plan now."""
        bucket = self._buckets.get(key)
        return bucket.waiting if bucket else 0

    def _bucket(self, key: PlanKey) -> _Bucket:
        server = self._here()
        bucket = self._buckets.get(key)
        if bucket is None:
            self._sweep()
            plan = self._plan(key)
            terms = _Terms(
                name=_name(key),
                capacity=max(1.0, plan.burst - self._headroom),
                rate=plan.rate,
                ceiling=plan.rate if key.operation in self._ceilings else math.inf,
                remembered=self.remembered,
            )
            bucket = self._buckets[key] = _Bucket(terms, server)
        return bucket

    def _plan(self, key: PlanKey) -> UsagePlan:
        return self._ceilings.get(key.operation) or OPERATIONS[key.operation].plan

    def _here(self) -> _Server:
        """Redis, as it is reached from the running event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                kind = type(self).__name__
                raise RuntimeError(f"this {kind} belongs to another event loop that still runs")
            self._loop = loop
            self._server = None
            self._buckets.clear()
            self._is_closed = False
        if self._server is None:
            self._server = _Server(self._url, self._on_outage, self._replicas, self._timeout)
        return self._server

    def _sweep(self) -> None:
        # As LocalThrottle does; a bucket that is made again asks Redis what it was.
        if len(self._buckets) < self._sweep_at:
            return
        self._buckets = {key: kept for key, kept in self._buckets.items() if not kept.is_idle()}
        self._sweep_at = max(64, 2 * len(self._buckets))


@frozen
class _Terms:
    """What a bucket is without anything learned; `rate` is the default, `name` its key."""

    name: str
    capacity: float
    rate: float
    ceiling: float
    remembered: float


@frozen
class _Turn:
    """A reservation: when it is due and renewed, by the loop's clock, and Redis' words for it."""

    at: float
    renewed_at: float
    due: str
    epoch: str


@define
class _News:
    """What Redis has not been told: a 429, or a rate."""

    drained: bool = False
    told: float | None = None

    def __bool__(self) -> bool:
        return self.drained or self.told is not None


class _Bucket:
    """This process's queue before a plan, and its one talk with Redis about it.

    A task talks as long as there is something to talk about. It is not the head of the queue that
    does, because a call to Redis that is broken off leaves nobody knowing what it has taken.
    """

    def __init__(self, terms: _Terms, server: _Server) -> None:
        self._terms = terms
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._again: OrderedDict[asyncio.Future[_Turn | None], None] = OrderedDict()
        self._first: OrderedDict[asyncio.Future[_Turn | None], None] = OrderedDict()
        self._told = terms.rate
        self._news = _News()
        self._turn: _Turn | None = None
        self._returned: list[_Turn] = []
        self._share: Limiter | None = None
        self._kept_until = -math.inf
        self._pump: asyncio.Task[None] | None = None
        self._sleep: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> int:
        return len(self._again) + len(self._first)

    @property
    def rate(self) -> float:
        return min(self._told, self._terms.ceiling)

    def is_idle(self) -> bool:
        # Until then its key is known to be in Redis.
        return not self._is_busy() and self._loop.time() > self._kept_until

    async def acquire(self, *, again: bool) -> None:
        queue = self._again if again else self._first
        mine: asyncio.Future[_Turn | None] = self._loop.create_future()
        queue[mine] = None
        self._start()
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled() and mine.exception() is None:
                self._let_go(mine.result())
            elif mine in queue:
                del queue[mine]
                if not self.waiting:
                    self._wake()
            raise

    def drain(self) -> None:
        self._news.drained = True
        if self._share is not None:
            self._share.drain()
        self._start()
        self._wake()

    def change_rate(self, rate: float) -> None:
        if not math.isclose(rate, self._told):
            self._told = self._news.told = rate
            self._start()
            self._wake()

    def close(self) -> asyncio.Task[None] | None:
        """Fail those who wait; the task that ends when Redis knows all it should."""
        self._fail(_closed)
        self._wake()
        return self._pump

    def _start(self) -> None:
        if not self._is_busy():
            self._pump = self._loop.create_task(self._talk())

    def _is_busy(self) -> bool:
        return self._pump is not None and not self._pump.done()

    async def _talk(self) -> None:
        try:
            while self._is_wanted():
                await self._step()
        except Exception as error:
            _log.exception("the throttle failed")
            reason = type(error).__name__
            self._fail(lambda: TransportError(f"the throttle failed ({reason})", False))
        finally:
            self._turn = None  # Redis is away, or there is none
            self._returned.clear()

    def _is_wanted(self) -> bool:
        if self.waiting:
            return True
        # Whoever comes next tells the news, if Redis cannot be told now.
        return not self._server.is_away and bool(self._news or self._turn or self._returned)

    async def _step(self) -> None:
        if self._returned and self.waiting and not self._news:
            self._let_go(self._returned.pop())
        elif self._turn and self.waiting and not self._news and self._is_trusted(self._turn):
            await self._go_when_due(self._turn)
        elif self._server.seconds_to_retry() > 0:
            await self._go_without()
        else:
            await self._ask()

    def _is_trusted(self, turn: _Turn) -> bool:
        now = self._loop.time()
        return turn.at <= now or now < turn.renewed_at

    async def _go_when_due(self, turn: _Turn) -> None:
        left = min(turn.at, turn.renewed_at) - self._loop.time()
        if left > 0:
            await self._sleep_for(left)
        else:
            self._turn = None
            self._let_go(turn)

    async def _ask(self) -> None:
        """Tell Redis what it does not know, and have a turn if somebody wants one."""
        turn, self._turn = self._turn, None
        if turn is None and self._returned:
            turn = self._returned.pop()
        news, self._news = self._news, _News()
        try:
            reply = await self._server.run(*self._words(turn, news))
        except _Away:
            self._news.drained |= news.drained
            if self._news.told is None:
                self._news.told = news.told
            self._returned.clear()
            return
        self._learn(reply)

    def _words(self, turn: _Turn | None, news: _News) -> tuple[str, ...]:
        terms = self._terms
        return (
            terms.name,
            repr(terms.capacity),
            repr(terms.rate),
            repr(min(terms.ceiling, 1e300)),
            str(int(self.waiting > 0)),
            str(int(news.drained)),
            "" if news.told is None else repr(news.told),
            "" if turn is None else turn.due,
            "" if turn is None else turn.epoch,
            str(int(self._loop.time() < self._kept_until)),
            repr(_KEPT),
            repr(terms.remembered),
        )

    def _learn(self, reply: _Reply) -> None:
        # Counted from when the answer is here: what the network delays goes late, never early.
        now = self._loop.time()
        wait, due, epoch, told = reply
        self._share = None
        self._kept_until = now + _KEPT / 2
        if self._news.told is None:
            self._told = float(told)
        if wait >= 0:
            self._turn = _Turn(now + wait / 1e6, now + _RENEWAL, due.decode(), epoch.decode())

    async def _go_without(self) -> None:
        self._turn = None
        if not self.waiting:
            return
        if self._server.on_outage == "fail":
            self._fail(self._server.error)
        elif self._server.on_outage == "wait":
            await self._sleep_for(self._server.seconds_to_retry())
        else:
            await self._go_by_share()

    async def _go_by_share(self) -> None:
        share = self._share = self._share_now()
        if share.take():
            self._news.drained = True  # Redis has not counted it
            self._let_go(None)
        else:
            left = min(share.seconds_to_next(), self._server.seconds_to_retry())
            await self._sleep_for(max(left, 1e-6))

    def _share_now(self) -> Limiter:
        replicas = self._server.replicas
        rate = self.rate / replicas
        if self._share is None:
            # What the others have taken is not known, so that it begins empty.
            capacity = max(1.0, self._terms.capacity / replicas)
            self._share = Limiter(capacity, capacity / rate)
            self._share.drain()
        return self._share if math.isclose(self._share.rate, rate) else self._share.at_rate(rate)

    def _let_go(self, turn: _Turn | None) -> None:
        """Give a turn that is due to the first who waits, or back."""
        while self.waiting:
            first, _ = (self._again or self._first).popitem(last=False)
            if not first.done():  # or its caller is cancelled, and has not noticed yet
                first.set_result(turn)
                return
        if turn is not None:
            self._returned.append(turn)
            self._start()

    def _fail(self, error: Callable[[], MessagingError]) -> None:
        for queue in (self._again, self._first):
            while queue:
                first, _ = queue.popitem(last=False)
                if not first.done():
                    first.set_exception(error())

    async def _sleep_for(self, seconds: float) -> None:
        """For so long, or until woken."""
        self._sleep = self._loop.create_future()
        timer = self._loop.call_later(seconds, wake, self._sleep)
        try:
            await self._sleep
        finally:
            timer.cancel()
            self._sleep = None

    def _wake(self) -> None:
        if self._sleep is not None:
            wake(self._sleep)


# Redis


class _Away(Exception):
    """Redis cannot be asked now."""


# Microseconds until the turn, or -1 without one; its due time, epoch, and the rate Amazon told.
_Reply = tuple[int, bytes, bytes, bytes]


class _Client(Protocol):
    """What is used of redis-py's clients, whose own types say less."""

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: str) -> Awaitable[_Reply]: ...

    def eval(self, script: str, numkeys: int, *keys_and_args: str) -> Awaitable[_Reply]: ...

    def aclose(self) -> Awaitable[None]: ...


class _Server:
    """Redis, and whether it is away."""

    def __init__(self, url: str, on_outage: OnOutage, replicas: int, timeout: float) -> None:
        self.on_outage = on_outage
        self.replicas = replicas
        self._client = _client(url, timeout)
        self._timeout = timeout
        self._calls = asyncio.Semaphore(_CALLS)
        self._clock = asyncio.get_running_loop().time
        self._reason = ""
        self._retry_at = -math.inf

    @property
    def is_away(self) -> bool:
        return bool(self._reason)

    def seconds_to_retry(self) -> float:
        return self._retry_at - self._clock() if self._reason else 0.0

    def error(self) -> TransportError:
        return TransportError(f"the throttle's Redis is away ({self._reason})", False)

    async def run(self, key: str, *arguments: str) -> _Reply:
        """The script's reply. Raises _Away."""
        from redis.exceptions import RedisError

        async with self._calls:
            if self.seconds_to_retry() > 0:
                raise _Away  # another call has found out meanwhile
            self._retry_at = self._clock() + _RETRY  # one looks whether it is back
            try:
                async with asyncio.timeout(self._timeout):
                    reply = await self._evaluate(key, arguments)
            except (RedisError, OSError, TimeoutError) as error:
                self._lose(type(error).__name__)
                raise _Away from None
        self._find()
        return reply

    async def _evaluate(self, key: str, arguments: tuple[str, ...]) -> _Reply:
        from redis.exceptions import NoScriptError

        try:
            return await self._client.evalsha(_DIGEST, 1, key, *arguments)
        except NoScriptError:
            return await self._client.eval(_SCRIPT, 1, key, *arguments)

    def _lose(self, reason: str) -> None:
        self._retry_at = self._clock() + _RETRY
        if not self._reason:
            _log.warning("Redis is away (%s): %s until it is back", reason, self._consequence())
        self._reason = reason

    def _consequence(self) -> str:
        if self.on_outage == "share":
            return f"this process keeps to 1/{self.replicas} of each usage plan"
        return "calls wait" if self.on_outage == "wait" else "calls fail, with nothing sent,"

    def _find(self) -> None:
        if self._reason:
            self._reason = ""
            _log.info("Redis is back: the usage plans are shared again")

    async def aclose(self) -> None:
        await self._client.aclose()


def _client(url: str, timeout: float) -> _Client:
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    plain = url.replace("+cluster://", "://", 1)
    kind = Redis if plain == url else RedisCluster
    client = kind.from_url(
        plain,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        # A call that is repeated unseen takes two tokens; whether to ask again is decided above.
        retry=Retry(NoBackoff(), 0),
    )
    return cast("_Client", client)


def _check_url(url: str) -> None:
    try:
        from redis.asyncio.connection import parse_url
    except ImportError:
        raise ConfigurationError.of_missing_extra("RedisThrottle needs the", "redis") from None
    try:
        parse_url(url.replace("+cluster://", "://", 1))
    except ValueError:  # it holds a password, perhaps
        schemes = "redis://, rediss://, unix://, redis+cluster:// or rediss+cluster://"
        raise ConfigurationError(f"the URL of Redis is none that begins with {schemes}") from None


def _name(key: PlanKey) -> str:
    told = json.dumps([key.api_url, key.seller, key.operation]).encode()
    return f"sp-messaging:plan:{hashlib.sha256(told).hexdigest()[:32]}"


def _closed() -> SessionClosed:
    return SessionClosed("the throttle was closed before this was sent")
