"""The command with scaled plans, in a process of its own: a program of tests/test_worker.py's.

Without words it waits for processes to start.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import sys

from sp_messaging_async import Credentials, LocalThrottle, UsagePlan
from sp_messaging_async.cli import run
from sp_messaging_async.cluster import worker
from sp_messaging_async.operations import OPERATIONS

from .starter import serve


async def credentials(account: str) -> Credentials | None:
    """Those of every account but one."""
    await asyncio.sleep(0)
    if account == "nobody":
        return None
    return Credentials("client", "canary-secret", f"canary-token-{account}", account)


def main() -> int:
    """Run the command, on plans of RATE and BURST."""
    words = sys.argv[1:] or serve()
    rate, burst = json.loads(os.environ.get("PLAN", "[100000, 100000]"))
    plans = dict.fromkeys(OPERATIONS, UsagePlan(rate=rate, burst=burst))
    worker.LocalThrottle = functools.partial(LocalThrottle, plans)  # type: ignore[misc,assignment]
    logging.getLogger("sp_messaging_async.cluster").setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    return run(words)


if __name__ == "__main__":
    sys.exit(main())
