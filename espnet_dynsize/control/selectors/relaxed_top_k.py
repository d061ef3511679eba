"""Differentiable top-k (Xie & Ermon, arXiv 1901.10517)."""

import torch


def relaxed_top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Sum of k successive softmaxes; a soft k-hot vector.

    After each softmax p, the scores get `log(1 - p)` added, so that what has been
    picked is less likely to be picked again (arXiv 2407.18930, eq. 3-5).

    Args:
        scores: Shape [L].
        k: How many to pick, 0 <= k <= L.

    Returns:
        Shape [L], sums to k.
    """
    # log(0) would make the gradient NaN where a unit has been picked with certainty.
    tiny = torch.finfo(scores.dtype).tiny
    khot = torch.zeros_like(scores)
    for _ in range(k):
        p = scores.softmax(dim=0)
        khot = khot + p
        scores = scores + (1.0 - p).clamp_min(tiny).log()
    return khot


def straight_through_top_k(soft: torch.Tensor, k: int) -> torch.Tensor:
    """Hard k-hot of the k largest entries, with the gradient of the soft one."""
    hard = torch.zeros_like(soft)
    hard[soft.topk(k).indices] = 1.0
    # The value is exactly `hard`: rounding of (1 - s) + s and (0 - s) + s cancels.
    return hard - soft.detach() + soft
