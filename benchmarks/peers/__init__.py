"""The other clients, in an environment of their own, pinned in `requirements.txt`."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["VARIANTS", "command", "python", "versions"]

_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE / "requirements.txt"

# By the name in the table, how each is used.
VARIANTS = {
    "amzn-selling-partner": "AsyncSellingPartner(throttle=False)",
    "amzn-selling-partner, aiohttp": "the same with its DefaultAioHttpClient",
    "python-amazon-sp-api": "sp_api.asyncio, one Messaging object",
    "python-amazon-sp-api, sync": "sp_api.api, one Messaging object, one thread for each in flight",
    "amzn-sp-api": "one MessagingApi object, one thread for each in flight, and Configuration."
    "set_default, which keeps it from leaking log handlers and widens its connection pool",
    "amzn-sp-api, leaking": "without that, as its README has it; it grows slower with every "
    "message",
}


def python() -> Path:
    """The environment's Python; it is made when it is asked for first."""
    wanted = _REQUIREMENTS.read_text(encoding="utf-8")
    digest = hashlib.sha256(f"{sys.version}\n{wanted}".encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "sp_messaging_async" / f"peers-{digest}"
    found = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    complete = folder / "complete"
    if not complete.exists():
        print(f"other clients are installed in {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        if _installed(found, "-r", str(_REQUIREMENTS)):
            complete.touch()
        else:  # One that cannot be installed does not keep the others away.
            for line in wanted.splitlines():
                if "==" in line:
                    _installed(found, line)
    return found


def command(variant: str, api_url: str, token_url: str, *throttled: str) -> list[str]:
    """The command that drives one of `VARIANTS` as `drive.py` tells."""
    return [str(python()), "-m", "benchmarks.peers.drive", variant, api_url, token_url, *throttled]


def versions() -> dict[str, str]:
    """By the name of each of the other clients; pinned, so nothing is installed for it."""
    pinned = (line.partition("==") for line in _REQUIREMENTS.read_text("utf-8").splitlines())
    found = {name.partition("[")[0]: number for name, _, number in pinned if number}
    return {name: found[name] for name in VARIANTS if name in found} | {"sniffio": found["sniffio"]}


def _installed(found: Path, *what: str) -> bool:
    words = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
