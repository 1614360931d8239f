"""A few threads that end with the process: concurrent.futures waits for its own, however long a read hangs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class DaemonThreads:
    """Runs functions, which never raise, in at most ``count`` daemon threads that start when they are needed."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._closed = False

    def submit(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._count:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Forget what has not begun. A thread ends when its task does."""
        self._closed = True
        for _ in self._threads:
            self._tasks.put(None)

    def _run(self) -> None:
        while task := self._tasks.get():
            if not self._closed:
                task()
            self._idle.release()
