"""One model, one worker: requests wait in a bounded line and are answered in turn."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bagel.pipeline import GeneratedImage, ImageRequest
from serving.wishes import RefusedError

Make = Callable[[ImageRequest], GeneratedImage]


@dataclass(frozen=True)
class Made:
    """Pictures and what they took: seconds in line, and seconds of work."""

    pictures: list[GeneratedImage]
    waited: float
    worked: float


class Engine:
    """Runs `make` in a thread of its own, so that the server answers while a picture is made.

    waiting  requests in line or at work; never more than `line`, as a longer line only makes clients give up later
    """

    def __init__(self, make: Make, line: int) -> None:
        if line < 1:
            raise ValueError(f"the line holds {line} requests but must hold at least 1")
        self.make, self.line, self.waiting = make, line, 0
        self.open = True
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="bagel")

    async def __call__(self, requests: Sequence[ImageRequest]) -> Made:
        """Wait in line and make the pictures. Raises RefusedError with 429 if the line is full and 503 if it is closed.

        A client that leaves while it waits costs nothing: a cancelled future is not started.
        """
        if not self.open:
            raise RefusedError(503, "the server is shutting down")
        if self.waiting >= self.line:
            raise RefusedError(
                429, f"{self.waiting} requests are waiting, and the line holds {self.line}; try again later"
            )
        self.waiting += 1
        loop, came = asyncio.get_running_loop(), time.perf_counter()
        future = self._worker.submit(self._work, list(requests), came)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._left))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Take no more, finish what is at work, forget what waits."""
        self.open = False
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _left(self) -> None:
        self.waiting -= 1

    def _work(self, requests: list[ImageRequest], came: float) -> Made:
        began = time.perf_counter()
        pictures = [self.make(request) for request in requests]
        return Made(pictures, began - came, time.perf_counter() - began)
