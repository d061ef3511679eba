"""The processes of a distributed training, and the first of them."""

from collections.abc import Callable

import torch


def first_rank_first(load: Callable):
    """Let the first rank, which may mend the file, load before the others."""
    if not torch.distributed.is_initialized():
        return load()
    # The first one may replace a cut checkpoint by the one before it.
    loaded = load() if is_first_rank() else None
    torch.distributed.barrier()
    return loaded if is_first_rank() else load()


def is_first_rank() -> bool:
    """Whether this process is the first of a distributed training, or alone."""
    distributed = torch.distributed
    return not distributed.is_initialized() or distributed.get_rank() == 0
