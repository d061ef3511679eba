"""A family of ESPnet's task `asr_transducer`."""

import argparse
import copy

import torch
import yaml
from conftest import TOKENS, fix_masks, randomise

from espnet_dynsize.train.transducer_task import DynSizeASRTransducerTask

MODEL = "valid.loss.ave.pth"
BODY = dict(block_type="conformer", hidden_size=8, linear_size=12, heads=2)
BODY |= dict(conv_mod_kernel_size=3, num_blocks=2, dropout_rate=0.1)
SMALL = dict(
    encoder="dynsize_chunked",
    encoder_conf=dict(
        body_conf=[BODY],
        main_conf=dict(dynamic_chunk_training=True, short_chunk_size=4),
        conv_norm="layer_norm",
    ),
    decoder="rnn",
    decoder_conf=dict(embed_size=8, hidden_size=8),
    joint_network_conf=dict(joint_space_size=8),
    model="dynsize",
)
# ESPnet's own search would not end where blanks are hardly ever likely.
SEARCH = dict(beam_size=2, beam_search_config=dict(search_type="tsd", max_sym_exp=2))
FAMILY = dict(
    sizes=[3, 5, 8],
    selector_conf={"search_updates": 0},
    auxiliary_ctc_weight=0.3,
    report_cer=True,
)


def config(model_conf=None, **changes):
    given = DynSizeASRTransducerTask.get_default_config()
    given |= dict(token_list=TOKENS, token_type="char", input_size=20, frontend=None)
    given |= dict(normalize=None, **SMALL)
    return given | dict(model_conf={**FAMILY, **(model_conf or {})}) | changes


def build(given):
    given = copy.deepcopy(given)
    return DynSizeASRTransducerTask.build_model(argparse.Namespace(**given))


def batch():
    return dict(
        speech=torch.randn(3, 60, 20),
        speech_lengths=torch.tensor([60, 52, 44]),
        text=torch.tensor([[2, 3, 4], [3, 2, -1], [3, 2, -1]]),
        text_lengths=torch.tensor([3, 2, 2]),
    )


def trained_family(folder, **changes):
    """Write a random family that hears audio to a folder; returns its model."""
    torch.manual_seed(5)
    front = dict(n_fft=512, win_length=400, hop_length=160, n_mels=20)
    audio = dict(input_size=None, frontend="default", frontend_conf=front)
    given = config(**audio | changes)
    model = build(given)
    fix_masks(model.schedule)
    randomise(model, 0.3)
    with torch.no_grad():
        # It is to hear much, that depends on the frames more than on what it has heard.
        model.joint_network.lin_enc.weight.mul_(4.0)
        model.joint_network.lin_dec.weight.mul_(0.3)
        model.joint_network.lin_out.weight.mul_(4.0)
        model.joint_network.lin_out.bias[0] += 2.0
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(given))
    torch.save(model.state_dict(), folder / MODEL)
    return model.eval()
