"""Batching rules of the ops, for torch.func.vmap and what builds on it (jacobians, per-sample gradients)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rule = Callable[..., tuple[Any, Any]]


def _fold_or_loop(op: Any, info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    """One call on a larger batch where only the first tensor is batched, else one call per element."""
    if isinstance(in_dims[0], int) and not any(isinstance(dim, int) for dim in in_dims[1:]):
        first: Tensor = args[0].movedim(in_dims[0], 0)
        result = op(first.flatten(0, 1), *args[1:])
        return result.unflatten(0, first.shape[:2]), 0
    return _loop(op, info, in_dims, *args)


# The dim of an argument is an int where it is a batched tensor; None, or a list of None, otherwise.
def _loop(op: Any, info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    batched = list(zip(args, in_dims, strict=True))
    if info.batch_size == 0:  # one element that is thrown away says what an empty batch of results looks like
        batched = [(_one(arg, dim), dim) if isinstance(dim, int) else (arg, dim) for arg, dim in batched]
    results = [
        op(*(arg.select(dim, i) if isinstance(dim, int) else arg for arg, dim in batched))
        for i in range(max(1, info.batch_size))
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results)[: info.batch_size], 0
    stacked = (torch.stack(outputs)[: info.batch_size] for outputs in zip(*results, strict=True))
    return tuple(stacked), (0,) * len(results[0])


def _one(empty: Tensor, dim: int) -> Tensor:
    return empty.new_zeros([1 if axis == dim else size for axis, size in enumerate(empty.shape)])


def register(backend: str) -> None:
    """Give the three ops of a backend their rules; the ops have to be loaded."""
    rules: dict[str, Rule] = {"fprop": _fold_or_loop, "dgrad": _fold_or_loop, "wgrad": _loop}
    for pass_, rule in rules.items():
        op = getattr(torch.ops.convbound, f"{backend}_{pass_}").default

        def batched(
            info: Any, in_dims: tuple[Any, ...], *args: Any, op: Any = op, rule: Rule = rule
        ) -> tuple[Any, Any]:
            return rule(op, info, in_dims, *args)

        torch.library.register_vmap(f"convbound::{backend}_{pass_}", batched)
