"""How a training stage is spread over processes, so that the trainer's loop need not know.

Of the processes of a run, laid out as a grid data × tensor, those along `tensor` work on one micro-batch,
each with its share of the heads and of the network's inner width (tensor parallelism, Shoeybi et al. 2019,
arXiv:1909.08053), and those along `data` on different micro-batches of the same step, each keeping its part
of weights, gradients and optimizer state and fetching the weights of the block it is at (FSDP2; Zhao et al.
2023, arXiv:2304.11277, after Rajbhandari et al. 2020, arXiv:1910.02054).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from sishu.batches.batch import Batch
from sishu.console import UserError, counted
from sishu.models.decoder import Block
from sishu.nn.attention import Attention
from sishu.nn.device import Precision, products_in
from sishu.nn.experts import MixtureOfExperts
from sishu.nn.mlp import MLP, SwiGLU
from sishu.processes import Processes
from sishu.run import StageContext
from sishu.train.shards import local, split_dim, whole

METHODS = ("hidden", "logits")
"""What models are asked for beside their `forward`: the weights must be there for these too."""


def rows_at_once(batch: int, micro_batch: int, context: StageContext) -> int:
    """How many of a step's `batch` sequences make a micro-batch where several processes share them: as many
    as `micro_batch`, or fewer, so that all have as much to do. Raises UserError where there is not one
    sequence for each."""
    groups = context.processes.size // context.tensor_parallel
    if groups <= 1:
        return micro_batch
    if batch < groups:
        raise UserError(
            f"A step of the {context.name} stage has {counted(batch, 'sequence')} for {groups} processes: "
            f"set {context.name}.train.batch to {groups} or more, or start fewer processes."
        )
    rounds = math.ceil(batch / (groups * micro_batch))
    rows = math.ceil(batch / (groups * rounds))
    return rows if math.ceil(batch / rows) >= groups else batch // (groups * rounds)


def parallel(model: nn.Module, context: StageContext, precision: Precision) -> Parallel:
    """How the stage's processes train `model`, which is spread over them in place where there are several.
    Raises UserError where they cannot."""
    if context.processes.size == 1 and context.tensor_parallel == 1:
        return Parallel(model, context.processes)
    return Spread(model, context, precision)


class Parallel:
    """One process, which does everything."""

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        self.model, self.processes = model, processes

    def mine(self, batches: Sequence[Batch]) -> list[Batch]:
        """Of a step's micro-batches those that this process learns from."""
        return list(batches)

    def more_to_come(self, more: bool) -> None:
        """Whether another micro-batch of the same update follows the one that is gone through next: only
        after the last one do the processes add up their gradients."""

    def clip(self, limit: float) -> Tensor:
        """Shrink the gradient to the norm `limit` if it is larger; its norm before."""
        return nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    def added(
        self, loss: float, norm: float, figures: Mapping[str, float]
    ) -> tuple[float, float, dict[str, float]]:
        """Loss and figures of an update summed over the processes, and the norm, the same on all of them."""
        return loss, norm, dict(figures)

    def whole(self) -> nn.Module:
        """The model with all its weights, on the first process."""
        return self.model


class Spread(Parallel):
    """Several processes, each with its part of the weights."""

    def __init__(self, model: nn.Module, context: StageContext, precision: Precision) -> None:
        super().__init__(model, context.processes)
        size, tensor, self.stage = context.processes.size, context.tensor_parallel, context.name
        if size % tensor:
            raise UserError(
                f"tensor_parallel={tensor} needs a multiple of {tensor} processes, not {size}: start so many "
                "(torchrun --nproc-per-node), or set tensor_parallel=1."
            )
        self.skeleton = _without_weights(model)
        device = next(model.parameters()).device
        mesh = init_device_mesh(device.type, (size // tensor, tensor), mesh_dim_names=("data", "tensor"))
        self.groups, self.group = mesh.size(0), mesh.get_local_rank(0)
        self.tensor = mesh["tensor"]
        self.by_head: list[str] = []
        """Weights that all processes of a group hold, but of whose gradient each has only its heads' part."""
        if tensor > 1:
            self.by_head = _split_heads(model, self.tensor)
        self.root = _shard(model, mesh["data"], products_in(device, precision))
        self.weights = dict(model.named_parameters())

    def mine(self, batches: Sequence[Batch]) -> list[Batch]:
        """Every so many-th. All groups work on equally many, because they meet at every block; where one has
        fewer it goes through its first one once more, for nothing. Raises UserError where one has none."""
        if len(batches) < self.groups:
            raise UserError(
                f"A step of the {self.stage} stage has {len(batches)} of the micro-batches of which each of "
                f"{self.groups} processes needs one: lower {self.stage}.train.micro_batch, or start fewer "
                "processes."
            )
        own = list(batches[self.group :: self.groups])
        missing = math.ceil(len(batches) / self.groups) - len(own)
        return own + [replace(own[0], share=0.0)] * missing

    def more_to_come(self, more: bool) -> None:
        self.root.set_requires_gradient_sync(not more)

    @torch.no_grad()
    def clip(self, limit: float) -> Tensor:
        gradients = {n: local(w.grad) for n, w in self.weights.items() if w.grad is not None}
        if shared := [gradients[name] for name in self.by_head if name in gradients]:
            flat = torch.cat([g.flatten() for g in shared])
            dist.all_reduce(flat, group=self.tensor.get_group())
            for own, summed in zip(shared, torch.split(flat, [g.numel() for g in shared]), strict=True):
                own.copy_(summed.view_as(own))
        counts = self.tensor.get_local_rank() == 0  # what a whole group holds is counted once
        squares = [
            g.square().sum() for n, g in gradients.items() if counts or split_dim(self.weights[n]) is not None
        ]
        norm = torch.stack([*squares, torch.zeros((), device=self.tensor.device_type)]).sum()
        dist.all_reduce(norm)
        norm.sqrt_()
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients.values():
            gradient.mul_(scale)
        return norm

    def added(
        self, loss: float, norm: float, figures: Mapping[str, float]
    ) -> tuple[float, float, dict[str, float]]:
        told = self.processes.gather((loss, norm, dict(figures)))
        each = told[:: self.tensor.size()]  # all of a group say the same
        summed: dict[str, float] = {}
        for _, _, own in each:
            for name, value in own.items():
                summed[name] = summed.get(name, 0.0) + value
        return sum(loss for loss, _, _ in each), told[0][1], summed

    def whole(self) -> nn.Module:
        """A model of its own, on the CPU of the first process; elsewhere it has no values. All must ask."""
        weights = {}
        for name, weight in self.model.state_dict().items():
            full = whole(local(weight), weight)
            if self.processes.first:
                weights[name] = full.cpu()
        if weights:
            self.skeleton.load_state_dict(weights, assign=True)
        return self.skeleton


def _without_weights(model: nn.Module) -> nn.Module:
    """A copy whose weights have shapes and no memory."""
    memo: dict[int, object] = {
        id(w): nn.Parameter(torch.empty_like(w, device="meta"), w.requires_grad) for w in model.parameters()
    }
    return copy.deepcopy(model, memo)  # what stands in there is not copied


def _split_heads(model: nn.Module, mesh: DeviceMesh) -> list[str]:
    """Split every block over the processes of `mesh`, in place: queries, keys, values, gate and up by rows of
    the weight, output and down by its columns, so that each keeps whole heads and meets the others once in
    attention and once in the network. The names of weights that are shared by heads. Raises UserError for a
    shape that cannot be split."""
    size, place = mesh.size(), mesh.get_local_rank()
    shared: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, MixtureOfExperts):
            raise UserError("tensor_parallel cannot split a mixture of experts: set tensor_parallel=1.")
        plan: dict[str, ParallelStyle] = {}
        if isinstance(module, Attention):
            _check(module.heads, "heads", size)
            _check(module.kv_heads, "key-value heads", size)
            plan = {n: ColwiseParallel() for n in ("query", "key", "value")} | {"output": RowwiseParallel()}
            module.heads, module.kv_heads = module.heads // size, module.kv_heads // size
            if module.slopes_H is not None:
                module.slopes_H = module.slopes_H.chunk(size)[place]
            norms = {"query_norm": module.query_norm, "key_norm": module.key_norm}
            shared += [f"{name}.{norm}.weight" for norm, there in norms.items() if there is not None]
        elif isinstance(module, (SwiGLU, MLP)):
            _check(module.up.out_features, "numbers inside the network", size)
            inward = ("gate", "up") if isinstance(module, SwiGLU) else ("up",)
            plan = {n: ColwiseParallel() for n in inward} | {"down": RowwiseParallel()}
        if plan:
            parallelize_module(module, mesh, plan)
            rest = (None,) * 3 if isinstance(module, Attention) else ()
            layouts = (Replicate(), *rest)
            inputs = PrepareModuleInput(input_layouts=layouts, desired_input_layouts=layouts)
            parallelize_module(module, mesh, inputs)
    return shared


def _check(count: int, what: str, size: int) -> None:
    if count % size:
        raise UserError(
            f"tensor_parallel={size} cannot split {count} {what}: choose a number that divides the heads, "
            "the key-value heads and the inner width of the model."
        )


def _shard(model: nn.Module, mesh: DeviceMesh, products: torch.dtype) -> FSDPModule:
    """Spread the weights over the processes of `mesh`, in place, block by block.

    Where products are in 16 bits the blocks' weights are fetched as such, which is what autocast would turn
    them into; master weights, and sums of gradients, are in float32. What the blocks share (embedding, head,
    last norm) is fetched once in a step, as it is, so that what surrounds the products is rounded as by one
    process."""
    # what `hidden` returns is a view, and nobody writes into it
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    narrow = policy
    if products != torch.float32:
        narrow = MixedPrecisionPolicy(products, torch.float32, cast_forward_inputs=False)
    for block in [m for m in model.modules() if isinstance(m, Block)]:
        fully_shard(block, mesh=mesh, mp_policy=narrow)
    root = fully_shard(model, mesh=mesh, mp_policy=policy)
    for name in METHODS:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # a sum, not a mean: the micro-batches' shares are their weights
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return root
