"""The start of a family's output layer, for models that are trained alone."""

from pathlib import Path

import torch

from espnet_dynsize.core.files import whole
from espnet_dynsize.demo.stages import Experiment
from espnet_dynsize.train.blanks import begin_with_blanks

CTC = "ctc.ctc_lo.bias"


def write_bias(experiment: Experiment, blank: str = "blanks") -> Path:
    """A checkpoint for --init_param with nothing but the output layer's bias.

    Args:
        experiment: Its token list is made.
        blank: The bias of blank; `blanks`: a family's.
    """
    output = torch.nn.Linear(1, len(experiment.tokens.read_text().split()))
    torch.nn.init.zeros_(output.bias)
    if blank == "blanks":
        begin_with_blanks(output)
    else:
        output.bias.data[0] = float(blank)
    path = experiment.exp / f"bias_{blank}.pth"
    with whole(path) as partial:  # several trainings at once may want it
        torch.save({CTC: output.bias.data}, partial)
    return path
