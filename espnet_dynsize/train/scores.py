"""Scores in the optimizer: no weight decay, and a learning rate of their own."""

from collections.abc import Sequence

import torch


def separate_scores(
    optimizer: torch.optim.Optimizer,
    scores: Sequence[torch.nn.Parameter],
    score_lr: float,
) -> None:
    """Give the selector's scores a group of their own; call it before a scheduler is.

    Args:
        optimizer: Has the scores among its parameters.
        scores: May be none.
        score_lr: Learning rate relative to that of the first group.
    """
    # By identity: `in` would compare tensors element by element.
    ids = {id(p) for p in scores}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in ids]
    if scores:
        # Schedulers that scale each group's first rate keep the relation.
        rate = score_lr * optimizer.param_groups[0]["lr"]
        # What is not given, such as betas, is the optimizer's default.
        optimizer.add_param_group(
            {"params": list(scores), "weight_decay": 0.0, "lr": rate}
        )
