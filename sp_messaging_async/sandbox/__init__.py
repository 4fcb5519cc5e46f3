"""A local Amazon: Login with Amazon, all operations, uploads, real usage plans, faults.

    async with Sandbox() as sandbox:
        session = MessagingSession(
            sandbox.credentials, marketplace="US", endpoint=sandbox.endpoint
        )

It shares the table of operations and the payload classes with the client, and nothing else of it,
so that a mistake of the client is not one of the sandbox too.
"""

from .faults import Fault, Faults
from .inbox import Delivered, DeliveredFile
from .server import Sandbox

__all__ = ["Delivered", "DeliveredFile", "Fault", "Faults", "Sandbox"]
