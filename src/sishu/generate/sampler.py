"""Choosing the next token of many answers at once, each in its own way.

The order of the steps is transformers': tokens that the guide forbids, penalties, biases and bans, then
temperature, top-k, top-p of what top-k left, min-p. Nothing sorts a whole row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sishu.generate.draws import uniform
from sishu.generate.nucleus import keep_nucleus
from sishu.generate.penalties import TokenCounts, bias, not_yet, penalise, penalised
from sishu.generate.sampling import Sampling

BLOCK = 256
"""Tokens whose weights are added up before a draw looks among them."""


def sample(
    logits_BV: Tensor,
    samplings: Sequence[Sampling],
    seeds: Sequence[int],
    steps: Sequence[int],
    counts: Sequence[TokenCounts] | None = None,
    mask_BW: Tensor | None = None,
    end_ids: Sequence[int] = (),
) -> Tensor:
    """One token per row, (B,), int64, on the logits' device.

    Row b is drawn by `samplings[b]` with the random number of (`seeds[b]`, `steps[b]`) and depends on no
    other row; `steps` also says how many tokens its completion has. `counts` are needed where a row has a
    penalty. `mask_BW` holds 32 tokens an int32, bit 1 for allowed (`sishu.generate.structured`). `end_ids`
    are the model's own end tokens, kept back by `min_tokens`. The logits are left as they are.
    Raises ValueError where numbers of rows differ or counts are missing.
    """
    logits_BV = processed(logits_BV, samplings, steps, counts, mask_BW, end_ids, as_float=False)
    drawn = [row for row, s in enumerate(samplings) if not s.greedy]
    if not drawn:
        return logits_BV.argmax(-1)
    draws_B = torch.from_numpy(uniform([seeds[row] for row in drawn], [steps[row] for row in drawn]))
    weights_BV = _weights(_rows(logits_BV, drawn), [samplings[row] for row in drawn])
    token_B = _draw(weights_BV, draws_B.to(logits_BV.device))
    if len(drawn) == len(samplings):
        return token_B
    greedy = [row for row, s in enumerate(samplings) if s.greedy]
    chosen_B = torch.empty(len(samplings), dtype=torch.long, device=logits_BV.device)
    chosen_B[greedy] = logits_BV[greedy].argmax(-1)
    chosen_B[drawn] = token_B
    return chosen_B


def distribution(
    logits_BV: Tensor,
    samplings: Sequence[Sampling],
    steps: Sequence[int],
    counts: Sequence[TokenCounts] | None = None,
    mask_BW: Tensor | None = None,
    end_ids: Sequence[int] = (),
) -> Tensor:
    """The probabilities (B, V), float64, that `sample` draws from; all on one token at temperature 0."""
    logits_BV = processed(logits_BV, samplings, steps, counts, mask_BW, end_ids)
    p_BV = torch.zeros(logits_BV.shape, dtype=torch.float64, device=logits_BV.device)
    for row, sampling in enumerate(samplings):  # row by row, so that each is what it is alone
        one_1V = logits_BV[row : row + 1]
        if sampling.greedy:
            p_BV[row, one_1V.argmax()] = 1.0
        else:
            weights_V = _weights(one_1V, [sampling])[0].double()
            p_BV[row] = weights_V / weights_V.sum()
    return p_BV


def processed(
    logits_BV: Tensor,
    samplings: Sequence[Sampling],
    steps: Sequence[int],
    counts: Sequence[TokenCounts] | None = None,
    mask_BW: Tensor | None = None,
    end_ids: Sequence[int] = (),
    as_float: bool = True,
) -> Tensor:
    """Logits (B, V) in float32 before temperature: after guide, penalties, biases and bans. The given tensor
    itself where there is nothing to do; `as_float=False` leaves it in its own type then."""
    if not len(logits_BV) == len(samplings) == len(steps):
        raise ValueError(f"{len(logits_BV)} rows of logits, {len(samplings)} samplings, {len(steps)} steps")
    if mask_BW is not None and len(mask_BW) != len(logits_BV):
        raise ValueError(f"{len(mask_BW)} rows of a mask for {len(logits_BV)} rows of logits")
    penalties = any(map(penalised, samplings))
    if penalties and (counts is None or len(counts) != len(samplings)):
        raise ValueError("a penalty needs the counts of every row")
    early = any(step < s.min_tokens for s, step in zip(samplings, steps, strict=True))
    biased = any(s.logit_bias for s in samplings)
    if not (penalties or early or biased or mask_BW is not None):
        return logits_BV.float() if as_float else logits_BV
    logits = logits_BV.float()
    if logits is logits_BV:
        logits = logits.clone(memory_format=torch.contiguous_format)
    if mask_BW is not None:
        keep_allowed(logits, mask_BW)
    if penalties and counts is not None:
        penalise(logits, samplings, counts)
    if biased:
        bias(logits, samplings)
    if early:
        not_yet(logits, samplings, steps, end_ids)
    return logits


def keep_allowed(logits_BV: Tensor, mask_BW: Tensor) -> None:
    """In place: -inf for every token whose bit is 0, and for those behind the mask's last."""
    V = logits_BV.shape[1]
    rows: Sequence[int] = range(len(logits_BV))
    if mask_BW.device.type == "cpu":  # where looking is cheap, rows that allow everything are passed over
        rows = ((mask_BW != -1).any(1) | torch.tensor(32 * mask_BW.shape[1] < V)).nonzero()[:, 0].tolist()
    if not rows:
        return
    allowed_RV = allowed(mask_BW[rows] if len(rows) < len(mask_BW) else mask_BW, V).to(logits_BV.device)
    for place, row in enumerate(rows):  # row by row: an indexed write would copy the rows twice
        logits_BV[row].masked_fill_(~allowed_RV[place], -torch.inf)


def allowed(mask_BW: Tensor, vocabulary: int) -> Tensor:
    """A mask's bits as booleans (B, V); false behind the mask's last."""
    if mask_BW.device.type == "cpu":
        bits = np.unpackbits(mask_BW.contiguous().numpy().view(np.uint8), axis=1, bitorder="little")
        allowed_BV = torch.from_numpy(bits[:, :vocabulary].view(np.bool_))
    else:
        allowed_BV = allowed_by_shifts(mask_BW)[:, :vocabulary]
    return F.pad(allowed_BV, (0, vocabulary - allowed_BV.shape[1]))


def allowed_by_shifts(mask_BW: Tensor) -> Tensor:
    """A mask's bits as booleans (B, 32 W), on any device."""
    shifts = torch.arange(32, device=mask_BW.device, dtype=torch.int32)
    return ((mask_BW[:, :, None] >> shifts) & 1).flatten(1).bool()


def _rows(one_BV: Tensor, rows: list[int]) -> Tensor:
    return one_BV if len(rows) == len(one_BV) else one_BV[rows]


def _weights(logits_BV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Weights (B, V), float32, in proportion to the probabilities that are drawn from: exp((l - max l) /
    temperature), and 0 where top-k, top-p or min-p leaves the token out."""
    logits_BV = logits_BV.float()
    device = logits_BV.device
    weights_BV = logits_BV - logits_BV.amax(-1, keepdim=True)
    if any(s.temperature != 1.0 for s in samplings):
        warmest = torch.finfo(torch.float32).max  # infinity would make NaN of a token that is excluded
        weights_BV /= torch.tensor([[min(s.temperature, warmest)] for s in samplings], device=device)
    weights_BV.exp_()
    ranked = [row for row, s in enumerate(samplings) if s.top_k]
    if ranked:
        sizes = [min(samplings[row].top_k, logits_BV.shape[1]) for row in ranked]
        some_RV = _rows(logits_BV, ranked)
        best_RK = some_RV.topk(max(sizes), dim=1).values
        last_R1 = best_RK.gather(1, torch.tensor(sizes, device=device)[:, None] - 1)
        _drop(weights_BV, ranked, some_RV < last_R1)
    nucleus = [row for row, s in enumerate(samplings) if s.top_p < 1.0]
    if nucleus:
        some_RV = _rows(weights_BV, nucleus)
        keep_nucleus(some_RV, [samplings[row].top_p for row in nucleus])
        if len(nucleus) < len(samplings):
            weights_BV[nucleus] = some_RV
    if any(s.min_p for s in samplings):  # the likeliest token's weight is 1
        least_B1 = torch.tensor([[s.min_p] for s in samplings], device=device)
        weights_BV.masked_fill_(weights_BV < least_B1, 0.0)
    return weights_BV


def _drop(weights_BV: Tensor, rows: list[int], out_RV: Tensor) -> None:
    if len(rows) == len(weights_BV):
        weights_BV.masked_fill_(out_RV, 0.0)
    else:
        weights_BV[rows] = weights_BV[rows].masked_fill(out_RV, 0.0)


def _draw(weights_BV: Tensor, draws_B: Tensor) -> Tensor:
    """The token in which each row's draw falls, (B,): first the block of `BLOCK` tokens, then the token in
    it, so that not every token's cumulative sum is needed."""
    B, V = weights_BV.shape
    if V % BLOCK:
        weights_BV = F.pad(weights_BV, (0, -V % BLOCK))
    blocks_BNK = weights_BV.view(B, -1, BLOCK)
    cumulative_BN = blocks_BNK.sum(-1).double().cumsum(1)
    block_B = _search(cumulative_BN, draws_B)
    every = torch.arange(B, device=weights_BV.device)
    before_B = F.pad(cumulative_BN, (1, 0))[every, block_B]
    # the draw's place within the block, as a share of it: the block's own sum may differ in the last bits
    share_B = (draws_B * cumulative_BN[:, -1] - before_B) / (cumulative_BN[every, block_B] - before_B)
    within_BK = blocks_BNK[every, block_B].double().cumsum(1)
    return block_B * BLOCK + _search(within_BK, share_B.clamp(0.0, 1.0 - 2.0**-52))


def _search(cumulative_BK: Tensor, shares_B: Tensor) -> Tensor:
    """The first place of each row whose cumulative weight is above the given share, below 1, of the row's
    total, (B,): never one of weight 0."""
    wanted_B1 = shares_B[:, None] * cumulative_BK[:, -1:]
    return torch.searchsorted(cumulative_BK, wanted_B1, right=True)[:, 0]
