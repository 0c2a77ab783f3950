"""A queue of keys to reconcile: a key waits in it once, and is never given to two workers at a time."""

from __future__ import annotations

import heapq
import threading
import time


class Queue:
    """Delays, de-duplicates and, after failures, backs off."""

    def __init__(self, first: float = 0.05, longest: float = 5.0):
        """Wait `first` seconds after a key's first failure, then twice as long each time, at most `longest`."""
        self.first, self.longest = first, longest
        self._due: dict = {}
        self._heap: list = []
        self._busy: set = set()
        self._again: dict = {}
        self._failures: dict = {}
        self._ready = threading.Condition()
        self._closed = False

    def add(self, key, delay: float = 0.0) -> None:
        """Have a key reconciled after delay seconds, or earlier where it waits for less already."""
        when = time.monotonic() + delay
        with self._ready:
            if key in self._busy:
                self._again[key] = min(when, self._again.get(key, when))
            elif key not in self._due or when < self._due[key]:
                self._due[key] = when
                heapq.heappush(self._heap, (when, key))
                self._ready.notify()

    def get(self):
        """The next key that is due; None once the queue is closed."""
        with self._ready:
            while not self._closed:
                now = time.monotonic()
                while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
                    heapq.heappop(self._heap)  # it was moved to an earlier time, or is done
                if self._heap and self._heap[0][0] <= now:
                    key = heapq.heappop(self._heap)[1]
                    del self._due[key]
                    self._busy.add(key)
                    return key
                self._ready.wait(self._heap[0][0] - now if self._heap else None)
            return None

    def done(self, key, failed: bool = False) -> None:
        """Give a key back; where it failed, it comes again."""
        with self._ready:
            self._busy.discard(key)
            again = self._again.pop(key, None)
        if failed:
            count = self._failures[key] = self._failures.get(key, 0) + 1
            self.add(key, min(self.first * 2 ** (count - 1), self.longest))
        else:
            self._failures.pop(key, None)
        if again is not None:
            self.add(key, max(0.0, again - time.monotonic()))

    def forget(self, key) -> None:
        """Start a key's back-off anew."""
        self._failures.pop(key, None)

    def close(self) -> None:
        """Let the workers go."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
