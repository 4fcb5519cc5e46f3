"""Order lists: from rows to messages, and from messages to outcomes."""

from .messages import Message, Outcome
from .sending import SendAll, send_all

__all__ = ["Message", "Outcome", "SendAll", "send_all"]
