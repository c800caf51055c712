"""Top-p without sorting: the smallest set of most likely tokens whose probabilities reach p
(Holtzman et al. 2020, arXiv:1904.09751)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SHIFT = 16
"""Bits of a float32 weight that a bucket leaves open, so that those in one differ by less than 1%."""

_FEW = 1024
"""Tokens that are sorted without looking for the bucket first."""


def keep_nucleus(weights_BV: Tensor, top_p: Sequence[float]) -> None:
    """In place: weight 0 for every token outside the nucleus of its row; `weights_BV`, float32, from 0 to 1,
    are in proportion to the probabilities, and each p is above 0 and below 1. Of equal tokens the first ones
    are kept. Exact, and as fast for a flat distribution as for a peaked one."""
    if weights_BV.device.type == "cpu":
        for weights_V, p in zip(weights_BV.numpy(), top_p, strict=True):
            _keep_of_row(weights_V, p)
    else:  # an accelerator sorts in less time than the round trip takes
        keep_by_sorting(weights_BV, top_p)


def keep_by_sorting(weights_BV: Tensor, top_p: Sequence[float]) -> None:
    """`keep_nucleus`, with every row sorted as a whole."""
    ordered_BV, order_BV = weights_BV.sort(dim=1, descending=True, stable=True)
    reached_BV = ordered_BV.double().cumsum(1)
    wanted_B1 = (
        torch.tensor(top_p, dtype=torch.float64, device=weights_BV.device)[:, None] * reached_BV[:, -1:]
    )
    ordered_BV[reached_BV - ordered_BV >= wanted_B1] = 0.0
    weights_BV.scatter_(1, order_BV, ordered_BV)


def _keep_of_row(weights_V: npt.NDArray[np.float32], p: float) -> None:
    """Of many tokens, a histogram over the weights' leading bits, which rise with the weight, shows the
    bucket in which the sum reaches p; only that bucket is sorted."""
    above = 0.0
    if np.count_nonzero(weights_V) > _FEW:
        bucket_V = weights_V.view(np.int32) >> _SHIFT
        reached = np.bincount(bucket_V, weights=weights_V)[::-1].cumsum()  # from the heaviest bucket down
        wanted = p * reached[-1]
        down = int(np.searchsorted(reached, wanted))
        border = len(reached) - 1 - down
        above = reached[down - 1] if down else 0.0
        inside = np.flatnonzero(bucket_V == border)
        weights_V[bucket_V < border] = 0.0
    else:
        inside = np.flatnonzero(weights_V)
        wanted = p * weights_V[inside].sum(dtype=np.float64)
    inside = inside[np.argsort(-weights_V[inside], kind="stable")]
    found = weights_V[inside].astype(np.float64)
    before = above + found.cumsum() - found
    kept = max(1, int(np.searchsorted(before, wanted)))  # where rounding says none, the heaviest
    weights_V[inside[kept:]] = 0.0
