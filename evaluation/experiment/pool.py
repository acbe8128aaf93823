"""Independent work spread over processes."""

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def spread(work: Callable[[T], R], tasks: Sequence[T], jobs: int, done: Callable[[int], None]) -> list[R]:
    """Give the result of each task, in their order however many processes there are.

    `done` is told how many are. What a task raises ends all; so does KeyboardInterrupt, and no process is left.
    """
    if jobs == 1:
        found = []
        for count, task in enumerate(tasks, 1):
            found.append(work(task))
            done(count)
        return found
    before = set(active_children())
    # Not forked: the parent may have threads by now. Of Ctrl-C, which reaches all processes, it tells the others.
    with ProcessPoolExecutor(
        jobs,
        mp_context=get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    ) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for count, future in enumerate(as_completed(futures), 1):
                future.result()
                done(count)
        except BaseException:
            _stop(futures, before)
            raise
        return [future.result() for future in futures]


def _stop(futures: Sequence[Future[R]], before: set[BaseProcess]) -> None:
    for future in futures:
        future.cancel()
    for process in active_children():
        if process not in before:
            process.terminate()
