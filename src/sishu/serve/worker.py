"""Where the engines run: one thread, one generation at a time, the event loop never blocked.

Everything that touches an engine (loading, encoding, each step of a generation) runs on a single
thread, so an engine needs no locks of its own. A generation holds its turn until it ends or its
reader goes away; others wait on an asyncio lock, which is fair: first come, first served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sishu.generate.engine import Engine, Piece, Sampling

T = TypeVar("T")


class Worker:
    """Loads each engine once, on first use, and runs generations in turn.

    `engines` maps a model's name to an engine or to a function that loads it.
    """

    def __init__(self, engines: Mapping[str, Callable[[], Engine] | Engine]) -> None:
        self._sources = dict(engines)
        self._loaded: dict[str, Engine] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sishu-engine")
        self._turn = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """The names of the models, in the order they were given."""
        return list(self._sources)

    async def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the engine thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def engine(self, name: str) -> Engine:
        """The engine called `name`, loaded now if it was not; a failed load is tried again.

        Loading waits its turn, so it never stalls a running answer. Raises KeyError for an
        unknown name, and whatever the loader raises.
        """
        if name not in self._loaded:
            async with self._turn:
                await self.call(lambda: self._load(name))
        return self._loaded[name]

    def _load(self, name: str) -> None:
        if name not in self._loaded:
            source = self._sources[name]
            self._loaded[name] = source() if callable(source) else source

    async def stream(
        self, engine: Engine, prompt_ids: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        """Pieces of one completion of `prompt_ids`; closing or cancelling this stops the work."""
        async with self._turn:
            steps: Iterator[Piece] = engine.stream(prompt_ids, sampling)
            try:
                while (piece := await self.call(lambda: next(steps, None))) is not None:
                    yield piece
            finally:
                # Not awaited: a cancelled task may not wait. The thread runs it after the step
                # under way and before any other generation's first step.
                if (close := getattr(steps, "close", None)) is not None:
                    self._thread.submit(close)

    def shut_down(self) -> None:
        """Let the engine thread end; steps not yet begun are dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)
