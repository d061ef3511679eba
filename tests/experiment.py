"""A random model in a folder as ESPnet leaves it."""

import argparse

import torch
import yaml
from conftest import TOKENS, encoder_conf, fix_masks, randomise, split
from espnet2.tasks.lm import LMTask

import espnet_dynsize
from espnet_dynsize.train.task import DynSizeASRTask

MODEL = "valid.cer_ctc.ave.pth"
LM_MODEL = "valid.loss.ave.pth"
AVERAGED = "valid.cer_ctc.ave_5best.pth"

HYBRID = dict(
    decoder="transformer",
    decoder_conf=dict(attention_heads=2, linear_units=8, num_blocks=1),
)
# A transducer of ESPnet's
TRANSDUCER = dict(
    model="espnet",
    model_conf=dict(ctc_weight=0.3, report_cer=False, report_wer=False),
    decoder="transducer",
    decoder_conf=dict(hidden_size=6),
    joint_net_conf=dict(joint_space_size=10),
)
# Options of a streaming encoder, whose blocks are 0.32 seconds
STREAMING = dict(
    output_size=8,
    attention_heads=2,
    linear_units=12,
    num_blocks=2,
    macaron_style=True,
    cnn_module_kernel=3,
    input_layer="conv2d",
    block_size=8,
    hop_size=4,
    look_ahead=2,
)


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


def language_model(folder, **changes):
    """A random language model in a folder as ESPnet leaves it.

    Args:
        folder: Is made.
        **changes: Keys of the config.
    """
    conf = dict(embed_unit=4, att_unit=4, head=1, unit=4, layer=1)
    config = dict(lm="transformer", lm_conf=conf, model="lm", model_conf={}, init=None)
    config |= dict(token_list=TOKENS) | changes
    model = LMTask.build_model(argparse.Namespace(**config))
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), folder / LM_MODEL)
    return folder


@torch.no_grad()
def posteriors(model, audio):
    out, _ = model.encode(audio[None], torch.tensor([len(audio)]))
    return model.ctc.log_softmax(out)
