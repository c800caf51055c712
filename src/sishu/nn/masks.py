"""Which position may see which: boolean masks (B or 1, 1, T, S), true where a query sees a key."""

from __future__ import annotations

import torch
from torch import Tensor


def causal(queries_BT: Tensor, keys_BS: Tensor) -> Tensor:
    """Everything up to one's own position; both arguments are absolute positions."""
    return (keys_BS[:, None, :] <= queries_BT[:, :, None]).unsqueeze(1)


def prefix(positions_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """Causal, but for the first `lengths_B` positions of each row, which all may see (prefix LM, Raffel et
    al. 2020, arXiv:1910.10683, §3.2.1)."""
    early = (positions_BT < lengths_B[:, None])[:, None, None, :]
    return causal(positions_BT, positions_BT) | early


def documents(document_BT: Tensor) -> Tensor:
    """Only tokens of one's own document, in both directions; `document_BT` numbers them."""
    return (document_BT[:, None, :] == document_BT[:, :, None]).unsqueeze(1)


def document_positions(document_BT: Tensor) -> Tensor:
    """Positions (B, T) that begin anew with each document; the tokens of one stand together."""
    T = document_BT.shape[1]
    place_T = torch.arange(T, device=document_BT.device)
    begins = torch.ones_like(document_BT, dtype=torch.bool)
    begins[:, 1:] = document_BT[:, 1:] != document_BT[:, :-1]
    return place_T - torch.where(begins, place_T, 0).cummax(dim=1).values


def windowed(queries_BT: Tensor, keys_BS: Tensor, window: int) -> Tensor:
    """Keys fewer than `window` positions back (sliding window, Beltagy et al. 2020, arXiv:2004.05150)."""
    return (queries_BT[:, :, None] - keys_BS[:, None, :] < window).unsqueeze(1)
