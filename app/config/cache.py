"""A cache that may be away without taking the site down."""

import logging
from collections.abc import Callable
from typing import Any

from django.core.cache.backends.redis import RedisCache
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

logger = logging.getLogger(__name__)


class TolerantRedisCache(RedisCache):
    """Django's Redis cache; while Redis does not answer, reads miss and writes are dropped, each with a warning.

    Sessions then come from the database and throttles let requests through. `ping` does not hide the failure: the
    readiness check uses it.
    """

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        # A request asks the cache several times, so waiting for one that is away must be short: the client's own
        # default is three retries with seconds between them. One at once is enough for a connection gone stale.
        patience = {
            "socket_connect_timeout": 1,
            "socket_timeout": 1,
            "health_check_interval": 30,
            "retry": Retry(NoBackoff(), 1),
        }
        super().__init__(server, params | {"OPTIONS": patience | params.get("OPTIONS", {})})

    def _or(self, fallback: Any, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (RedisError, OSError) as error:
            logger.warning("The cache does not answer: %s", error)
            return fallback

    def ping(self) -> None:
        """Ask Redis for a sign of life.

        Raises:
            RedisError: it gives none within the socket timeout (1 s).
        """
        self._cache.get_client().ping()

    def add(self, *args: Any, **kwargs: Any) -> Any:
        return self._or(False, lambda: super(TolerantRedisCache, self).add(*args, **kwargs))

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return self._or(default, lambda: super(TolerantRedisCache, self).get(key, default, version))

    def set(self, *args: Any, **kwargs: Any) -> Any:
        return self._or(None, lambda: super(TolerantRedisCache, self).set(*args, **kwargs))

    def touch(self, *args: Any, **kwargs: Any) -> Any:
        return self._or(False, lambda: super(TolerantRedisCache, self).touch(*args, **kwargs))

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        return self._or(False, lambda: super(TolerantRedisCache, self).delete(*args, **kwargs))

    def get_many(self, *args: Any, **kwargs: Any) -> Any:
        return self._or({}, lambda: super(TolerantRedisCache, self).get_many(*args, **kwargs))

    def has_key(self, *args: Any, **kwargs: Any) -> Any:
        return self._or(False, lambda: super(TolerantRedisCache, self).has_key(*args, **kwargs))

    def set_many(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        return self._or(list(data), lambda: super(TolerantRedisCache, self).set_many(data, *args, **kwargs))

    def delete_many(self, *args: Any, **kwargs: Any) -> Any:
        return self._or(None, lambda: super(TolerantRedisCache, self).delete_many(*args, **kwargs))
