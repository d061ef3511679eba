"""Attention heads and feed-forward chunks as units."""

import pytest
import torch
from conftest import encoder_conf

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import Sampled, Subnet
from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder

# Units of a block: 3 chunks, 2 heads, 1 convolution, 3 chunks.
UNITS = 9
NO_DROPOUT = dict(dropout_rate=0.0, positional_dropout_rate=0.0)


def supernet(**changes) -> DynSizeConformerEncoder:
    conf = dict(granularity="component", ffn_chunks=3)
    conf = encoder_conf(conv_norm="layer_norm", **{**conf, **NO_DROPOUT, **changes})
    return DynSizeConformerEncoder(20, **conf).double()


def features():
    return torch.randn(2, 30, 20).double(), torch.tensor([30, 25])


def mask(*kept: int) -> tuple[bool, ...]:
    return tuple(i in kept for i in range(2 * UNITS))


KEPT = {
    "one head, two chunks": (0, 2, 4, 5, 7, 9, 10, 11, 12),
    "whole layers": (0, 1, 2, 3, 4, 5, 6, 7, 8),
    "no attention": (1, 5, 9, 14, 16),
    "nothing": (),
}


def test_units_are_counted_in_the_order_in_which_they_compute():
    assert [(la.kind, len(la.units)) for la in supernet().layers[:4]] == [
        ("feed_forward_macaron", 3),
        ("self_attn", 2),
        ("conv_module", 1),
        ("feed_forward", 3),
    ]
    assert supernet().num_units == 2 * UNITS


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"},
        {"positionwise_layer_type": "conv1d"},
        {"rel_pos_type": "legacy"},
    ],
    ids=str,
)
def test_masked_equals_smaller_matrices(kept, options):
    encoder = supernet(**options).eval()
    inputs = features()
    with encoder.activate(Subnet(mask(*kept))):
        masked = encoder(*inputs)[0]
    small = encoder_conf(
        granularity="component",
        ffn_chunks=3,
        keep_components=list(kept),
        conv_norm="layer_norm",
        **NO_DROPOUT,
        **options,
    )
    small = DynSizeConformerEncoder(20, **small).double().eval()
    encoder.keep_units(kept, "keep_components")
    small.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(small(*inputs)[0], masked)
    torch.testing.assert_close(encoder(*inputs)[0], masked)


def test_extracted_matrices_are_really_smaller():
    encoder = supernet()
    encoder.keep_units([0, 4, 5], "keep_components")
    block = encoder.blocks[0]
    assert block.feed_forward_macaron.w_1.weight.shape == (4, 8)
    assert block.feed_forward_macaron.w_2.weight.shape == (8, 4)
    attention = block.self_attn
    assert attention.h == 1
    assert attention.linear_q.weight.shape == (4, 8)
    assert attention.linear_out.weight.shape == (8, 4)
    assert attention.linear_pos.weight.shape == (4, 8)
    assert attention.pos_bias_u.shape == (1, 4)
    assert block.feed_forward is None


def test_both_matrices_lose_the_same_channels():
    encoder = supernet().eval()
    ffn = encoder.blocks[0].feed_forward_macaron
    x = torch.randn(1, 3, 8).double()
    hidden = ffn.activation(ffn.w_1(x))
    hidden[..., 4:8] = 0.0  # the second of three chunks of 12
    expected = ffn.w_2(hidden)
    encoder.keep_units([0, 2], "keep_components")
    torch.testing.assert_close(encoder.blocks[0].feed_forward_macaron(x), expected)


def test_hard_gates_equal_a_mask():
    encoder = supernet().eval()
    inputs = features()
    kept = mask(*KEPT["one head, two chunks"])
    with encoder.activate(Subnet(kept)):
        masked = encoder(*inputs)[0]
    gates = torch.tensor(kept).double()
    with encoder.activate(Sampled(Subnet((True,) * 2 * UNITS), gates=gates)):
        torch.testing.assert_close(encoder(*inputs)[0], masked)


def test_every_gate_gets_a_gradient():
    encoder = supernet()
    gates = torch.full((2 * UNITS,), 0.5, dtype=torch.double, requires_grad=True)
    with encoder.activate(Sampled(Subnet((True,) * 2 * UNITS), gates=gates)):
        encoder(*features())[0][..., :3].sum().backward()
    assert (gates.grad != 0).all()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ffn_chunks": 5}, "ffn_chunks=5 must be at least 1 and divide"),
        ({"granularity": "head"}, "granularity=head must be one of"),
        ({"keep_layers": [1]}, "must be left out with granularity=component"),
        ({"keep_components": [18]}, r"keep_components=\[18\] must be indices from 0"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(ConfigError, match=message):
        supernet(**changes)
