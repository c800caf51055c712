"""The processes that a launcher such as torchrun started together to work on one run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store  # where torch.distributed has them from, typed
from torch.distributed.rendezvous import rendezvous

from sishu.console import UserError, set_quiet

T = TypeVar("T")

LONGEST = timedelta(days=30)
"""How long a process waits for the first one, which may be crawling; one that died is noticed at once."""
SAID = "sishu/said"
"""Where, in the launcher's store, stands that a process has said why it ends."""


@dataclass(frozen=True)
class Processes:
    """How many work together, which of them this is, and how they talk. One alone talks to nobody."""

    rank: int = 0
    """From 0; the first one writes files, keeps the clock and speaks to the user."""
    size: int = 1
    group: dist.ProcessGroup | None = None
    """For messages; tensors of the training go by the default group."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def gather(self, what: T) -> list[T]:
        """What each process has to say, plain JSON, in the order of their ranks; all must call it."""
        if self.size == 1:
            return [what]
        own = torch.frombuffer(bytearray(json.dumps(what).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(own)]), group=self.group)
        longest = max(int(size) for size in sizes)
        rows = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
        padded = torch.cat([own, torch.zeros(longest - len(own), dtype=torch.uint8)])
        dist.all_gather(rows, padded, group=self.group)
        return [json.loads(bytes(row[: int(n)].tolist())) for row, n in zip(rows, sizes, strict=True)]

    def tell(self, what: T) -> T:
        """What the first process has to say, plain JSON; all must call it, and wait for it."""
        return self.gather(what if self.first else None)[0]  # type: ignore[return-value]  # the first's is a T

    def wait(self) -> None:
        """Until all have come here."""
        self.gather(None)


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes of this run as the launcher's variables name them: RANK, WORLD_SIZE, LOCAL_RANK,
    MASTER_ADDR and MASTER_PORT; one alone where there are none.

    All but the first fall silent. When one of them ends in an error the others end too: that which has a
    reason tells it, once; one that was killed is spoken of by those it leaves behind (UserError).
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    rank, size, local = (_number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    backend = "gloo"
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(
                f"Process {rank} is number {local} on its machine, which has {torch.cuda.device_count()} "
                "GPUs: start at most one process for each (torchrun --nproc-per-node)."
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    if rank > 0:
        set_quiet(True)
        # results too are the first one's to print
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - it stays to the end
    store = _meet()
    dist.init_process_group(backend, store=PrefixStore("sishu", store), rank=rank, world_size=size)
    group = dist.new_group(backend="gloo", timeout=LONGEST)
    assert isinstance(group, dist.ProcessGroup)
    processes = Processes(rank, size, group)
    try:
        yield processes
        processes.wait()
    except KeyboardInterrupt:
        if rank > 0:
            raise SystemExit(130) from None
        raise
    except Exception as error:
        if not _is_loss(error):
            if _said_before(store, str(error)):
                raise SystemExit(2) from error
            raise
        if _said_before(store):
            raise SystemExit(2) from error
        raise UserError(
            "Another process of this run has ended; if it does not say why, it was killed, or its machine is "
            "gone: the same command goes on from the last checkpoint."
        ) from error
    dist.destroy_process_group()


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"WORLD_SIZE is set, but {name} is not a number: start several processes with torchrun, or unset "
            "WORLD_SIZE."
        ) from error


def _meet() -> Store:
    try:
        store, _, _ = next(iter(rendezvous("env://")))
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"The processes cannot find each other at MASTER_ADDR and MASTER_PORT ({error}): start them with "
            "torchrun, or have the launcher set both."
        ) from error
    assert isinstance(store, Store)
    return store


def _is_loss(error: Exception) -> bool:
    """Whether an error says that another process is gone."""
    words = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _said_before(store: Store, reason: str = "") -> bool:
    """Whether a process has said why it ends, or has said just this; from now on one has."""
    with suppress(Exception):  # the store went with the process that held it
        key = f"{SAID}/{reason}" if reason else SAID
        before = store.add(key, 1) > 1
        store.add(SAID, 1)
        return bool(before)
    return False
