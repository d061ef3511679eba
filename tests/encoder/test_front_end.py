import pytest
import torch
from conftest import encoder_conf
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
    Conv2dSubsampling,
)

from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.encoder.front_end import FRONT_ENDS
from espnet_dynsize.encoder.transformer import DynSizeTransformerEncoder


def mask(*lengths):
    longest = max(lengths)
    return torch.arange(longest)[None, None] < torch.tensor(lengths)[:, None, None]


@pytest.mark.parametrize("name", FRONT_ENDS)
@pytest.mark.parametrize("frames", [7, 8, 40, 41, 42, 43])
def test_a_frame_in_four_is_left(name, frames):
    front_end = FRONT_ENDS[name](20, 8, 0.0)
    out, out_mask = front_end(torch.randn(1, frames, 20), mask(frames))
    expected = frames // 4 if name == "vgg" else ((frames - 1) // 2 - 1) // 2
    assert out.shape == (1, expected, 8) and out_mask.sum() == expected


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_an_output_does_not_depend_on_the_rest_of_the_batch(name):
    front_end = FRONT_ENDS[name](20, 8, 0.0).eval()
    x = torch.randn(2, 43, 20)
    together, together_mask = front_end(x, mask(43, 26))
    alone, alone_mask = front_end(x[1:, :26], mask(26))
    valid = int(alone_mask.sum())
    assert together_mask[1].sum() == valid
    torch.testing.assert_close(together[1, :valid], alone[0])


def test_vgg_by_hand():
    front_end = FRONT_ENDS["vgg"](4, 2, 0.0).eval()
    with torch.no_grad():
        for conv in front_end.conv:  # the mean of the channels at the same place
            conv.weight.zero_()[:, :, 1, 1] = 1.0 / conv.in_channels
            conv.bias.zero_()
        front_end.out.weight.fill_(1.0)
        front_end.out.bias.zero_()
    front_end.pos_enc = torch.nn.Identity()
    x = torch.arange(32.0).view(1, 8, 4)
    out, _ = front_end(x, mask(8))
    # Of four frames the last is the largest; 32 channels are added up.
    assert out.tolist() == [[[32 * float(x[0, i].sum())] * 2 for i in (3, 7)]]


def test_separable_conv2d_has_the_shapes_of_conv2d():
    ours, stock = (
        FRONT_ENDS["separable_conv2d"](20, 8, 0.0),
        Conv2dSubsampling(20, 8, 0),
    )
    x = torch.randn(2, 30, 20)
    mine, theirs = ours(x, mask(30, 21)), stock(x, mask(30, 21))
    assert mine[0].shape == theirs[0].shape and torch.equal(mine[1], theirs[1])
    second = ours.conv[2].weight.numel() + ours.conv[3].weight.numel()
    assert second == 8 * 9 + 8 * 8


@pytest.mark.parametrize("name", FRONT_ENDS)
@pytest.mark.parametrize(
    "encoder, conf",
    [
        (DynSizeConformerEncoder, {}),
        (DynSizeTransformerEncoder, {}),
    ],
)
def test_encoders_take_them(name, encoder, conf):
    shape = encoder_conf(input_layer=name)
    if encoder is DynSizeTransformerEncoder:
        for key in ("macaron_style", "rel_pos_type", "cnn_module_kernel"):
            del shape[key]
    built = encoder(20, **shape).eval()
    out, lengths, _ = built(torch.randn(2, 40, 20), torch.tensor([40, 33]))
    assert out.shape[1] == lengths[0] and isinstance(built.embed, FRONT_ENDS[name])


def test_vgg_is_two_pairs_of_convolutions_each_rectified_and_pooled():
    front_end = FRONT_ENDS["vgg"](6, 4, 0.0).eval()
    front_end.pos_enc = torch.nn.Identity()
    first, second, third, fourth = front_end.conv
    x = torch.randn(1, 12, 6)
    y = torch.nn.functional.max_pool2d(second(first(x[:, None])).relu(), (2, 1))
    y = torch.nn.functional.max_pool2d(fourth(third(y)).relu(), (2, 1))
    expected = front_end.out(y.transpose(1, 2).flatten(2))
    torch.testing.assert_close(front_end(x, None)[0], expected)
