"""A random model in a folder as ESPnet leaves it."""

import argparse

import torch
import yaml
from conftest import TOKENS, encoder_conf, fix_masks, randomise, split

import espnet_dynsize
from espnet_dynsize.train.task import DynSizeASRTask

MODEL = "valid.cer_ctc.ave.pth"
AVERAGED = "valid.cer_ctc.ave_5best.pth"


def experiment(folder, conf=None, **changes):
    """A random supernet in a folder as ESPnet leaves it.

    Args:
        folder: Is made.
        conf: Options of the encoder or of the family.
        **changes: Other keys of the config.
    """
    encoder, family = split({"sizes": [3, 5, 8], **(conf or {})})
    espnet_dynsize.register()
    config = DynSizeASRTask.get_default_config()
    config |= dict(
        token_list=TOKENS,
        token_type="char",
        frontend="default",
        frontend_conf=dict(n_fft=256, hop_length=160, n_mels=20),
        specaug=None,
        normalize="utterance_mvn",
        encoder="dynsize_conformer",
        encoder_conf=encoder_conf(**encoder),
        decoder=None,
        model="dynsize",
        model_conf={"ctc_weight": 1.0, **family},
    )
    config |= changes
    model = DynSizeASRTask.build_model(argparse.Namespace(**config))
    if config["model"] == "dynsize":
        fix_masks(model.schedule)
    randomise(model, 0.3)
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), folder / AVERAGED)
    (folder / MODEL).symlink_to(AVERAGED)
    return folder, model.eval()


@torch.no_grad()
def posteriors(model, audio):
    out, _ = model.encode(audio[None], torch.tensor([len(audio)]))
    return model.ctc.log_softmax(out)
