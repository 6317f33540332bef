"""How fast a destination is sent to: no more than so many events a second, on average."""

import time


class Pace:
    """Says when the next events may go, after those that went. `None` holds nobody back. Not thread-safe."""

    def __init__(self, most_a_second: float | None) -> None:
        self._most_a_second = most_a_second
        self._free_at = 0.0

    def note(self, count: int) -> None:
        """So many events go now."""
        if self._most_a_second is not None:
            self._free_at = max(self._free_at, time.monotonic()) + count / self._most_a_second

    def wait_s(self) -> float:
        """How many seconds the next have to wait."""
        return max(0.0, self._free_at - time.monotonic())

    def batch(self, most: int) -> int:
        """How many may go at once, of `most`: those of a second, so that they come steadily."""
        return most if self._most_a_second is None else max(1, min(most, int(self._most_a_second)))
