"""Engines that run for as long as a test says."""

import threading

import numpy as np

from dataplane.execution import EngineError, Executed, Timing
from dataplane.tensors import ModelSignature


class FakeEngine:
    """Each execution waits until the test lets it end."""

    def __init__(self, version="1", digest="0" * 64, *, batched=True):
        self.signature = ModelSignature("fake", version, (), (), batched)
        self.digest = digest
        self.preparing = False
        self._prepare = threading.Event()
        self._prepare.set()
        self.rungs = {1}
        self.prepared = []
        self.broken = False
        self.closed = False
        self.running = 0
        self.ran = []
        self._gate = threading.Semaphore(0)

    def has(self, threads):
        return threads in self.rungs

    def rung_bytes(self):
        return dict.fromkeys(self.rungs, 1 << 20)

    def prepare(self, threads, batches):
        self.preparing = True
        assert self._prepare.wait(timeout=30)
        self.preparing = False
        if self.broken:
            raise EngineError("broken")
        self.rungs.add(threads)
        self.prepared.append((threads, list(batches)))
        return [Timing(rows, threads, 0.01, 0.01) for rows in batches]

    def run(self, threads, batch):
        self.running += 1
        assert self._gate.acquire(timeout=30)
        self.running -= 1
        self.ran.append((threads, len(batch)))
        if self.broken:
            raise EngineError("broken")
        return Executed([{"y": np.zeros(1)} for _ in batch], 0.01, 0.01)

    def close(self):
        self.closed = True

    def let_end(self, count=1):
        self._gate.release(count)

    def hold_preparing(self):
        self._prepare.clear()

    def let_prepare(self):
        self._prepare.set()
