"""What the model computes that an ONNX file is made of."""

from collections.abc import Sequence

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.transducer.beam_search_transducer import (
    BeamSearchTransducer,
    Hypothesis,
)

from espnet_dynsize.runtime import BLANK, collapsed


def is_transducer(model: ESPnetASRModel) -> bool:
    """Whether its decoder is a transducer's."""
    return getattr(model, "use_transducer_decoder", False)


@torch.no_grad()
def encoded(model: ESPnetASRModel, samples: torch.Tensor) -> torch.Tensor:
    """[1, T, D] of samples [N]: what a model's outputs are given."""
    out, _ = model.encode(samples[None], torch.tensor([len(samples)]))
    # With intermediate CTC losses there is a second part.
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def greedy(model: ESPnetASRModel, samples: torch.Tensor) -> list[int]:
    """Numbers of the tokens that it hears in samples [N]: CTC's or a transducer's."""
    frames = encoded(model, samples)
    if not is_transducer(model):
        return collapsed(model.ctc.argmax(frames)[0].numpy())
    search = BeamSearchTransducer(model.decoder, model.joint_network, beam_size=1)
    (best,) = search.greedy_search(frames[0])
    return best.yseq[1:]


@torch.no_grad()
def log_probabilities(
    model: ESPnetASRModel, samples: torch.Tensor, said: Sequence[int] = ()
) -> torch.Tensor:
    """[T, V] of samples [N]; of a transducer, of every frame after tokens."""
    frames = encoded(model, samples)
    if not is_transducer(model):
        return model.ctc.log_softmax(frames)[0]
    decoder = model.decoder
    state, before = decoder.init_state(1), [BLANK]
    for token in [None, *said]:
        before += [] if token is None else [token]
        heard, state, _ = decoder.score(Hypothesis(0.0, before, state), {})
    return torch.log_softmax(model.joint_network(frames[0], heard), dim=-1)
