"""`python -m sp_messaging_async`, and the `sp-messaging` command."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line. Returns the exit status; a missing extra is one line of advice."""
    try:
        from .cli import run
    except ModuleNotFoundError as error:
        install = 'pip install "sp-messaging-async[cli]"'
        print(f"sp-messaging needs {error.name}: {install}", file=sys.stderr)  # noqa: T201
        return 2
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
