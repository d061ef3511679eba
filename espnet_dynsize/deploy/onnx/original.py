"""What the model computes that an ONNX file is made of."""

from collections.abc import Sequence

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.transducer.beam_search_transducer import (
    BeamSearchTransducer,
    Hypothesis,
)

from espnet_dynsize.core.errors import check
from espnet_dynsize.runtime import BLANK, collapsed


def kind_of(model: ESPnetASRModel, search: str | None = None) -> str:
    """How a model is searched, as `runtime` calls it.

    Args:
        model: It.
        search: What is asked for, of a model with an attention decoder: "ctc", as where
            nothing is said, or "attention".

    Raises:
        ConfigError: the model has no such output.
    """
    if getattr(model, "use_transducer_decoder", False):
        check(search is None, "--search", search, "left out for transducers")
        return "transducer"
    return search or "ctc"


@torch.no_grad()
def encoded(model: ESPnetASRModel, samples: torch.Tensor) -> torch.Tensor:
    """[1, T, D] of samples [N]: what a model's outputs are given."""
    out, _ = model.encode(samples[None], torch.tensor([len(samples)]))
    # With intermediate CTC losses there is a second part.
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def greedy(model: ESPnetASRModel, samples: torch.Tensor, kind: str) -> list[int]:
    """Numbers of the tokens that it hears in samples [N].

    Args:
        model: It.
        samples: [N].
        kind: See `kind_of`.
    """
    frames = encoded(model, samples)
    if kind == "ctc":
        return collapsed(model.ctc.argmax(frames)[0].numpy())
    if kind == "transducer":
        search = BeamSearchTransducer(model.decoder, model.joint_network, beam_size=1)
        (best,) = search.greedy_search(frames[0])
        return best.yseq[1:]
    tokens, state = [model.eos], None
    while len(tokens) <= frames.size(1):
        found, state = model.decoder.score(torch.tensor(tokens), state, frames[0])
        tokens.append(int(found.argmax()))
        if tokens[-1] == model.eos:
            break
    # As ESPnet's search shows them
    return [token for token in tokens[1:] if token not in (BLANK, model.eos)]


@torch.no_grad()
def log_probabilities(
    model: ESPnetASRModel, samples: torch.Tensor, kind: str, said: Sequence[int] = ()
) -> torch.Tensor:
    """[T, V] of samples [N], as `runtime.Model.log_probabilities` gives them.

    Args:
        model: It.
        samples: [N].
        kind: See `kind_of`.
        said: Tokens before, of a transducer or of attention.
    """
    frames = encoded(model, samples)
    if kind == "ctc":
        return model.ctc.log_softmax(frames)[0]
    decoder = model.decoder
    if kind == "attention":
        before = torch.tensor([[model.eos, *said]])
        lengths = torch.tensor([before.size(1)]), torch.tensor([frames.size(1)])
        scores, _ = decoder(frames, lengths[1], before, lengths[0])
        return torch.log_softmax(scores[0], dim=-1)
    state, before = decoder.init_state(1), [BLANK]
    for token in [None, *said]:
        before += [] if token is None else [token]
        heard, state, _ = decoder.score(Hypothesis(0.0, before, state), {})
    return torch.log_softmax(model.joint_network(frames[0], heard), dim=-1)
