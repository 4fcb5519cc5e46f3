"""One of the other clients, driven by lines on standard input; runs in their environment.

    python -m benchmarks.peers.drive VARIANT API_URL TOKEN_URL [throttled]

With `throttled`, it is what its documentation has for usage plans that is driven.
`cost COUNT IN_FLIGHT` is answered with microseconds of CPU a message, after some that are not
counted; `plan COUNT` with how many messages failed and how many seconds all took, sent as its
README would have it. Every answer is a line of JSON.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import cpu
from benchmarks.child import answers

TEXT = "We deliver on Thursday between 9 and 12. Is somebody at home then?"
US = "ATVPDKIKX0DER"


def order(number: int) -> str:
    return f"111-2222222-{number:07}"


class Threads:
    """A client that blocks: a thread for each message in flight."""

    send: Callable[[int], object]

    def cost(self, count: str, in_flight: str) -> float:
        return cpu.of_threads(self.send, int(count), int(in_flight))

    def plan(self, count: str) -> dict[str, float]:
        failed, began = 0, time.perf_counter()
        for number in range(int(count)):
            try:
                self.send(number)
            except Exception as error:
                failed += 1
                print(repr(error), file=sys.stderr)
        return {"failed": failed, "seconds": time.perf_counter() - began}


class Tasks:
    """A client for asyncio: a task for each message in flight."""

    send: Callable[[int], Awaitable[object]]

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def cost(self, count: str, in_flight: str) -> float:
        return self._runner.run(cpu.of_tasks(self.send, int(count), int(in_flight)))

    def plan(self, count: str) -> dict[str, float]:
        return self._runner.run(self._plan(int(count)))

    async def _plan(self, count: int) -> dict[str, float]:
        began = time.perf_counter()
        sends = (self.send(number) for number in range(count))
        done = await asyncio.gather(*sends, return_exceptions=True)
        failed = [each for each in done if isinstance(each, BaseException)]
        for error in failed:
            print(repr(error), file=sys.stderr)
        return {"failed": len(failed), "seconds": time.perf_counter() - began}


class AmznSpApi(Threads):
    """Amazon's own SDK."""

    def __init__(self, api_url: str, token_url: str, *, leaking: bool) -> None:
        from spapi import Configuration, SPAPIClient, SPAPIConfig
        from spapi.api.messaging_v1.messaging_api import MessagingApi
        from spapi.models.messaging_v1 import CreateConfirmDeliveryDetailsRequest

        if not leaking:
            # Every model makes a Configuration, which adds a handler to two loggers, unless there
            # is a default one.
            configuration = Configuration()
            configuration.connection_pool_maxsize = 50
            Configuration.set_default(configuration)
        config = SPAPIConfig("client", "secret", "refresh", region="NA")
        client = SPAPIClient(config, oauth_endpoint=token_url, endpoint=api_url)
        self._messaging = MessagingApi(client.api_client)
        self._request = CreateConfirmDeliveryDetailsRequest

    def send(self, number: int) -> object:
        request = self._request(text=TEXT)
        return self._messaging.create_confirm_delivery_details(order(number), [US], request)


class AmznSellingPartner(Tasks):
    def __init__(self, api_url: str, token_url: str, *, throttle: bool, on_aiohttp: bool) -> None:
        super().__init__()
        # The client takes its region's address and no other.
        import amzn_selling_partner as library
        from amzn_selling_partner.sdk.models.messaging_v1 import (
            CreateConfirmDeliveryDetailsRequest,
        )

        library.Region.base_url = lambda self, *, sandbox=False: api_url
        options: dict[str, Any] = {"throttle": throttle}
        if on_aiohttp:
            options["http_client"] = library.DefaultAioHttpClient()
        self._client = library.AsyncSellingPartner(
            client_id="client",
            client_secret="secret",
            refresh_token="refresh",
            token_url=token_url,
            **options,
        )
        self._request = CreateConfirmDeliveryDetailsRequest

    async def send(self, number: int) -> object:
        return await self._client.messaging_v1.create_confirm_delivery_detail(
            order(number), self._request(text=TEXT), [US]
        )


class PythonAmazonSpApi(Tasks):
    def __init__(self, api_url: str, token_url: str) -> None:
        super().__init__()
        from sp_api.asyncio.api.messaging.messaging import Messaging
        from sp_api.asyncio.auth.access_token_client import AccessTokenClient

        self._messaging = point_at(api_url, token_url, Messaging, AccessTokenClient)

    async def send(self, number: int) -> object:
        return await self._messaging.create_confirm_delivery_details(
            order(number), body={"text": TEXT}
        )


class PythonAmazonSpApiSync(Threads):
    """`retrying`: with the decorator that its documentation has for 429."""

    def __init__(self, api_url: str, token_url: str, *, retrying: bool) -> None:
        from sp_api.api.messaging.messaging import Messaging
        from sp_api.auth.access_token_client import AccessTokenClient
        from sp_api.util import throttle_retry

        self._messaging = point_at(api_url, token_url, Messaging, AccessTokenClient)
        if retrying:
            self.send = throttle_retry()(self.send)  # type: ignore[method-assign]

    def send(self, number: int) -> object:
        return self._messaging.create_confirm_delivery_details(order(number), body={"text": TEXT})


def point_at(api_url: str, token_url: str, messaging: Any, access: Any) -> Any:
    """python-amazon-sp-api has no option for another host."""
    from sp_api.base import Marketplaces

    Marketplaces.US.endpoint = api_url
    access.scheme, _, rest = token_url.partition("://")
    access.scheme += "://"
    access.host = rest.partition("/")[0]
    credentials = {
        "refresh_token": "refresh",
        "lwa_app_id": "client",
        "lwa_client_secret": "secret",
    }
    return messaging(credentials=credentials, marketplace=Marketplaces.US)


# Each is given the two addresses, and whether it is to keep to a usage plan.
VARIANTS: dict[str, Callable[[str, str, bool], Threads | Tasks]] = {
    "amzn-sp-api": lambda api, token, plan: AmznSpApi(api, token, leaking=False),
    "amzn-sp-api, leaking": lambda api, token, plan: AmznSpApi(api, token, leaking=True),
    "amzn-selling-partner": lambda api, token, plan: AmznSellingPartner(
        api, token, throttle=plan, on_aiohttp=False
    ),
    "amzn-selling-partner, aiohttp": lambda api, token, plan: AmznSellingPartner(
        api, token, throttle=plan, on_aiohttp=True
    ),
    "python-amazon-sp-api": lambda api, token, plan: PythonAmazonSpApi(api, token),
    "python-amazon-sp-api, sync": lambda api, token, plan: PythonAmazonSpApiSync(
        api, token, retrying=plan
    ),
}


def main(variant: str, api_url: str, token_url: str, *throttled: str) -> None:
    answers(lambda: VARIANTS[variant](api_url, token_url, bool(throttled)))


if __name__ == "__main__":
    main(*sys.argv[1:])
