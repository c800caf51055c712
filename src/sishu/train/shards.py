"""Weights of which each process holds a part: the part, the whole, and from one to the other.

A weight that is whole on this process is its own part, so that all of this costs one process nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard


def local(tensor: Tensor) -> Tensor:
    """The part that this process holds; it shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(part: Tensor, like: Tensor) -> Tensor:
    """The whole of what is spread as the weight `like` is, `part` being here. All processes must ask."""
    if not isinstance(like, DTensor):
        return part
    own = _spread(part, like)
    # one after the other: torch warns where it has to find this order itself
    return own.redistribute(placements=(Replicate(), *like.placements[1:])).full_tensor()


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds of one spread as the weight `like` is; a view."""
    if not isinstance(like, DTensor):
        return tensor
    mesh, dim = like.device_mesh, split_dim(like)
    if dim is not None:
        tensor = _chunk(tensor, dim, mesh.size(1), mesh.get_local_rank(1))
    return _chunk(tensor, 0, mesh.size(0), mesh.get_local_rank(0))


def split_dim(weight: Tensor) -> int | None:
    """The dimension in which a weight is split between processes that work on one micro-batch, if it is."""
    if not isinstance(weight, DTensor) or weight.device_mesh.ndim < 2:
        return None
    placement = weight.placements[1]
    return placement.dim if isinstance(placement, Shard) else None


def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, spread as the weight `like` is."""
    return _spread(part_of(tensor, like), like) if isinstance(like, DTensor) else tensor


def _spread(part: Tensor, like: DTensor) -> DTensor:
    return DTensor.from_local(
        part,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=torch.empty(like.shape, device="meta").stride(),
    )


def _chunk(tensor: Tensor, dim: int, count: int, place: int) -> Tensor:
    """As torch cuts: all parts but the last are equal, and the last ones may have nothing."""
    parts = tensor.chunk(count, dim)
    return parts[place] if place < len(parts) else tensor.narrow(dim, 0, 0)
