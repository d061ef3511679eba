"""Where CTC begins: with blanks."""

import math

import torch

# Of all tokens together, at the first update; the rest is shared by the others
BLANK_PROBABILITY = 2 / 3


@torch.no_grad()
def begin_with_blanks(output: torch.nn.Linear) -> None:
    """Let an output layer that has not been trained predict mostly blanks.

    CTC finds out at first that blanks are the most frequent, whatever is said. A layer
    without this bias learns it by way of the encoder, which then gives the same for
    every frame; some runs hardly recover (benchmarks/README.md). That a network should
    begin with the frequencies of what it predicts is from Lin et al. (arXiv 1708.02002,
    section 3.3).

    Args:
        output: Gives [..., tokens], blank first.
    """
    others = output.out_features - 1
    odds = BLANK_PROBABILITY / (1 - BLANK_PROBABILITY)
    output.bias[0] = math.log(odds * others)
