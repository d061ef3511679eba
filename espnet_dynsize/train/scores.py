"""Scores in the optimizer: no weight decay, and a learning rate of their own."""

import math
from collections.abc import Sequence

import torch

from espnet_dynsize.control.selection import Selection
from espnet_dynsize.core.errors import ConfigError


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


def check_score_lr(
    selection: Selection, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Refuse a scheduler that gives every parameter group the same rate.

    Raises:
        ConfigError: it does, and the scores want another one.
    """
    score_lr = selection.search.score_lr
    scores = {id(p) for p in selection.selector.parameters()}
    for optimizer in optimizers:
        weights, *others = optimizer.param_groups
        for group in others:
            of_scores = any(id(p) in scores for p in group["params"])
            if of_scores and not math.isclose(
                group["lr"], score_lr * weights["lr"], rel_tol=1e-6
            ):
                raise ConfigError(
                    f"selector_conf: score_lr={score_lr} must be 1 with this "
                    "scheduler, which gives all parameters the same learning rate."
                )
