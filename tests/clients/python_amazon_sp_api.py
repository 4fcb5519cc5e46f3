"""python-amazon-sp-api on the local Amazon: what becomes of each of its 13 operations."""

import asyncio
import json
import sys

from sp_api.asyncio.api.messaging.messaging import Messaging
from sp_api.asyncio.auth.access_token_client import AccessTokenClient
from sp_api.base import Marketplaces, SellingApiException

URL, ORDER, ATTACHMENTS = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
CREDENTIALS = {"refresh_token": "refresh", "lwa_app_id": "client", "lwa_client_secret": "secret"}

# The package has no option for another host.
Marketplaces.US.endpoint = URL
AccessTokenClient.scheme, _, AccessTokenClient.host = URL.partition("://")
AccessTokenClient.scheme += "://"


async def main() -> None:
    names = [name for name in vars(Messaging) if not name.startswith("_")]
    async with Messaging(credentials=CREDENTIALS, marketplace=Marketplaces.US) as messaging:
        found = {name: await outcome(messaging, name) for name in names}
    print(json.dumps(found))


async def outcome(messaging: Messaging, name: str) -> object:
    call = getattr(messaging, name)
    try:
        if name == "get_attributes":
            return (await call(ORDER)).payload["buyer"]
        if name == "get_messaging_actions_for_order":
            links = (await call(ORDER)).payload["_links"]
            return sorted(link["name"] for link in links["actions"])
        await call(ORDER, body=body(name))
    except SellingApiException as error:
        return f"{error.code}: {error}"
    return "sent"


def body(name: str) -> dict[str, object]:
    if name == "create_negative_feedback_removal":
        return {}
    if name in ATTACHMENTS:
        return {"attachments": [ATTACHMENTS[name]]}
    return {"text": "Hello from somebody else's client."}


asyncio.run(main())
