"""Many machines: one usage plan for all of them."""

from .redis_throttle import RedisThrottle

__all__ = ["RedisThrottle"]
