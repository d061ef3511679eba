"""Folders that the programs of sherpa-onnx open, as a `zipformer_ctc` model."""

import re
import shutil
from pathlib import Path

import torch

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.files import new_folder
from espnet_dynsize.deploy.twin.encoder import CTC

MODEL, TOKENS = "model.onnx", "tokens.txt"
SPACE = "▁"  # which sherpa-onnx shows as one
BLANK = "<blank>"
# What sherpa-onnx takes for blanks, or leaves out
_OTHERWISE = ("<blk>", "<eps>", "SIL", "</s>")
FACTOR = 4  # of subsampling, which its time stamps take for granted

_README = """# {model} ({name}) for sherpa-onnx

```sh
sherpa-onnx-offline --zipformer-ctc-model={file} --tokens={tokens} \\
    --sample-rate={rate} --feat-dim={mels} a.wav
```

```python
import sherpa_onnx

recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
    model="{file}", tokens="{tokens}", sample_rate={rate}, feature_dim={mels}
)
```
"""


class Padded(torch.nn.Module):
    """A model that takes features of any length: of too short ones, nothing is heard.

    ONNX Runtime ends a program whose convolution has nothing to do.

    Args:
        twin: The model.
        least: Frames that it takes at least.
    """

    def __init__(self, twin: CTC, least: int):
        super().__init__()
        self.twin, self.least = twin, least
        self.parts, self.gives = twin.parts, twin.gives

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `CTC`."""
        x = torch.nn.functional.pad(x, (0, 0, 0, self.least))
        log_probabilities, frames = self.twin(x, lengths.clamp(min=self.least))
        return log_probabilities, frames * (lengths >= self.least)


def check_fits(twin: CTC, about: dict) -> None:
    """Refuse a model that sherpa-onnx would hear something else with.

    Args:
        twin: The model.
        about: Its metadata.

    Raises:
        ConfigError: its features, its front-end or its tokens are not sherpa-onnx's.
    """
    if about["kind"] != "ctc":
        raise ConfigError(f"--format sherpa is for CTC, not for {about['kind']} yet.")
    kind = about["features"]["kind"]
    if kind != "kaldi":
        raise ConfigError(
            "--format sherpa needs a model trained with frontend: kaldi: sherpa-onnx "
            "makes features itself, and has none like those of ESPnet's front-end."
        )
    factor = twin.embed.factor
    if factor != FACTOR:
        raise ConfigError(
            "encoder_conf: input_layer must be conv2d, separable_conv2d or vgg for "
            f"--format sherpa, which takes one frame of {FACTOR} (this has {factor})."
        )
    _check_tokens(about)


def _check_tokens(about: dict) -> None:
    tokens, space = about["tokens"], about["space"]
    check(tokens[0] == BLANK, "token_list[0]", tokens[0], f"{BLANK} for sherpa-onnx")
    for token in tokens[1:]:
        good = token.split() == [token] and token not in _OTHERWISE
        good &= space in (None, SPACE) or token == space or SPACE not in token
        good &= not (about["pieces"] and re.fullmatch("<0x[0-9A-F]{2}>", token))
        # Words have something before them.
        allowed = f"without spaces, bytes of pieces, {SPACE} and {_OTHERWISE}"
        check(good or (space is None and token in _OTHERWISE), "token", token, allowed)


def tokens_text(about: dict) -> str:
    """tokens.txt: a token and its number a line."""
    tokens = about["tokens"]
    if about["space"] is None:  # words
        tokens = [tokens[0], *(SPACE + token for token in tokens[1:])]
    else:
        tokens = [t.replace(about["space"], SPACE) for t in tokens]
    return "".join(f"{token} {number}\n" for number, token in enumerate(tokens))


def write_folder(file: Path, folder: Path, about: dict) -> None:
    """Write model, tokens and how to use them.

    Args:
        file: The ONNX file, which is copied.
        folder: Is made.
        about: Its metadata.

    Raises:
        ConfigError: the folder exists.
    """
    told = dict(file=MODEL, tokens=TOKENS, model=about["model"], name=about["name"])
    told |= dict(rate=about["rate"], mels=about["features"]["mel"]["shape"][1])
    with new_folder(folder) as unfinished:
        shutil.copyfile(file, unfinished / MODEL)
        (unfinished / TOKENS).write_text(tokens_text(about), encoding="utf-8")
        readme = _README.format(**told)
        (unfinished / "README.md").write_text(readme, encoding="utf-8")
