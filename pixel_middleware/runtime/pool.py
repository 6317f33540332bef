"""Threads for an event loop, for what may wait."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pixel_middleware.runtime import forks

T = TypeVar("T")


class Pool(forks.ForkAware):
    """At most so many threads; what is more waits for one of them, as much as a server lets come. Fork-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.after_fork_in_child()
        forks.watch(self)

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """The result of `work(*given)`, from a thread."""
        forks.notice(self)
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *given)

    def after_fork_in_child(self) -> None:
        """The threads are the parent's: have others."""
        self._executor = ThreadPoolExecutor(self._most, thread_name_prefix="pixel-requests")
