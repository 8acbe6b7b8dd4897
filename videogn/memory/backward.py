"""The backward pass over fake CUDA tensors.

torch's own engine asks the CUDA driver for the device of every CUDA node, and fails where there is none. This one walks
the same graph in the same order, one node after the other, and frees what the engine frees at the same moments.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils.checkpoint import GraphExecGroup

_Grads = dict[Any, dict[int, Tensor]]


@torch.no_grad()
def backward(losses: list[Tensor]) -> None:
    """Adds the gradients of a scalar to the ``grad`` of the graph's leaves, as ``loss.backward()`` does.

    Args:
        losses: the scalar alone; the list is emptied, because whoever holds the loss holds its whole graph.
    """
    loss = losses.pop()
    root = loss.grad_fn
    if root is None:
        return
    waiting = _count_parents(root)
    grads: _Grads = {root: {0: torch.ones_like(loss)}}
    order = itertools.count()
    ready: list[tuple[int, int, Any]] = [(0, next(order), root)]
    del loss, root
    with GraphExecGroup():  # checkpoints recompute once for all nodes that are run inside
        while ready:
            node = heapq.heappop(ready)[2]
            del waiting[node]
            edges, outputs = _run(node, grads.pop(node, {}))
            del node
            for i, (child, slot) in enumerate(edges):
                grad, outputs[i] = outputs[i], None
                if grad is not None:
                    _accumulate(grads, child, slot, grad)
                del grad
                waiting[child] -= 1
                if not waiting[child]:
                    # Later nodes of the forward pass come first, and leaves before all others, as in the engine.
                    priority = -1 << 63 if _is_leaf(child) else -child._sequence_nr()
                    heapq.heappush(ready, (priority, next(order), child))
                del child
            del edges, outputs


def _count_parents(root: Any) -> dict[Any, int]:
    """Every node below ``root``, with the number of edges that lead to it."""
    parents, stack = {root: 0}, [root]
    while stack:
        for child, _ in stack.pop().next_functions:
            if child is not None:
                if child not in parents:
                    parents[child] = 0
                    stack.append(child)
                parents[child] += 1
    return parents


def _is_leaf(node: Any) -> bool:
    return hasattr(node, "variable")


def _run(node: Any, given: dict[int, Tensor]) -> tuple[list[tuple[Any, int]], list[Tensor | None]]:
    """Runs a node on its gradients; returns the edges that lead on, and the gradient of each."""
    if _is_leaf(node):
        if given:
            _add_to_leaf(node.variable, given.pop(0))
        return [], []
    metadata = node._input_metadata
    inputs = [given.pop(i, None) for i in range(len(metadata))]
    edges = node.next_functions
    if isinstance(node, BackwardCFunction):
        for i, m in enumerate(metadata):
            if inputs[i] is None:
                inputs[i] = torch.zeros(m.shape, dtype=m.dtype, device=m.device)
        outputs = node.apply(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        # One output for each argument of forward, one edge for each tensor among them.
        outputs = [grad for grad, needed in zip(outputs, node.needs_input_grad, strict=False) if needed]
        return [edge for edge in edges if edge[0] is not None], outputs
    outputs = node(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    pairs = [(edge, grad) for edge, grad in zip(edges, outputs, strict=True) if edge[0] is not None]
    return [edge for edge, _ in pairs], [grad for _, grad in pairs]


def _accumulate(grads: _Grads, child: Any, slot: int, grad: Tensor) -> None:
    metadata = child._input_metadata[slot]
    if grad.shape != metadata.shape:
        grad = grad.sum_to_size(metadata.shape)
    if grad.dtype != metadata.dtype:
        grad = grad.to(metadata.dtype)
    slots = grads.setdefault(child, {})
    if slot not in slots:
        slots[slot] = grad
    elif _is_shared(grads, slots[slot]):
        slots[slot] = slots[slot] + grad
    else:
        slots[slot].add_(grad)


def _is_shared(grads: _Grads, tensor: Tensor) -> bool:
    """Whether another gradient that waits lies in the same memory, so that this one cannot be added to in place."""
    key = tensor.untyped_storage()._cdata
    holders = sum(g.untyped_storage()._cdata == key for slots in grads.values() for g in slots.values())
    return holders > 1 or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()


def _add_to_leaf(leaf: Tensor, grad: Tensor) -> None:
    if leaf.grad is not None:
        leaf.grad.add_(grad)
    elif grad.stride() == leaf.stride():
        leaf.grad = grad
    else:  # gradients get the memory format of their parameter
        leaf.grad = torch.empty_like(leaf).copy_(grad)
