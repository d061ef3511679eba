import pytest
import torch
from conftest import encoder_conf, fix_masks
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.errors import ConfigError
from espnet_dynsize.subnet import Subnet

STOCK_OPTIONS = [
    {},
    {"macaron_style": False},
    {"use_cnn_module": False},
    {"macaron_style": False, "use_cnn_module": False},
    {"rel_pos_type": "legacy"},
    {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"},
    {"input_layer": "conv2d"},
    {"input_layer": "conv2d2"},
    {"input_layer": "conv2d6"},
    {"interctc_layer_idx": [1]},
    {"concat_after": True},
    {"normalize_before": False},
    {"positionwise_layer_type": "conv1d"},
    {"num_blocks": 3, "zero_triu": True},
]


def features():
    return torch.randn(2, 60, 20), torch.tensor([60, 44])


def outputs(encoder, *inputs):
    out, lengths, _ = encoder(*inputs)
    return (out[0], *(x for _, x in out[1])) if isinstance(out, tuple) else (out,)


@pytest.mark.parametrize("options", STOCK_OPTIONS, ids=str)
def test_full_size_equals_stock_bit_for_bit(options):
    conf = encoder_conf(**options)
    stock = ConformerEncoder(20, **conf).eval()
    supernet = DynSizeConformerEncoder(20, conv_norm="batch_norm", **conf).eval()
    for module in stock.modules():  # statistics that are not those of a fresh norm
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    missing = supernet.load_state_dict(stock.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("schedule.") for name in missing.missing_keys)
    inputs = features()
    for ours, theirs in zip(outputs(supernet, *inputs), outputs(stock, *inputs)):
        assert torch.equal(ours, theirs)


def test_parameter_names_are_the_stock_ones():
    stock = ConformerEncoder(20, **encoder_conf())
    supernet = DynSizeConformerEncoder(20, sizes=[3, 8], **encoder_conf())
    ours = {n for n, _ in supernet.named_parameters()}
    assert ours - {"schedule.selector.scores"} == {
        n for n, _ in stock.named_parameters()
    }


def test_gates_of_one_equal_no_gates():
    supernet = DynSizeConformerEncoder(20, sizes=[3, 8], **encoder_conf()).eval()
    inputs = features()
    everything = (True,) * 8
    plain = outputs(supernet, *inputs)[0]
    with supernet.activate(Subnet(8, everything, gates=torch.ones(8))):
        assert torch.equal(outputs(supernet, *inputs)[0], plain)


@pytest.mark.parametrize("normalize_before", [True, False])
def test_a_gate_of_zero_equals_a_dropped_layer(normalize_before):
    conf = encoder_conf(normalize_before=normalize_before)
    supernet = DynSizeConformerEncoder(20, sizes=[3, 8], **conf).eval()
    inputs = features()
    mask = (True, False, True, False, False, True, True, False)
    with supernet.activate(Subnet(4, mask)):
        dropped = outputs(supernet, *inputs)[0]
    gates = torch.tensor(mask, dtype=torch.float)
    with supernet.activate(Subnet(4, (True,) * 8, gates=gates)):
        gated = outputs(supernet, *inputs)[0]
    torch.testing.assert_close(gated, dropped, atol=1e-6, rtol=0)


def test_dropping_everything_leaves_the_norms():
    supernet = DynSizeConformerEncoder(20, sizes=[3, 8], **encoder_conf()).eval()
    inputs = features()
    x = supernet.embed(inputs[0])[0]
    for block in supernet.blocks:
        x = block.norm_final(x)
    with supernet.activate(Subnet(0, (False,) * 8)):
        assert torch.equal(outputs(supernet, *inputs)[0], supernet.after_norm(x))


def test_layers_are_counted_in_the_order_in_which_they_compute():
    supernet = DynSizeConformerEncoder(20, **encoder_conf())
    kinds = ["feed_forward_macaron", "self_attn", "conv_module", "feed_forward"]
    assert [(la.kind, la.units) for la in supernet.layers] == [
        (kinds[i % 4], range(i, i + 1)) for i in range(8)
    ]


def test_stochastic_depth_of_one_layer_in_training_only():
    supernet = DynSizeConformerEncoder(
        20, sizes=[3, 8], **encoder_conf(dropout_rate=0.0, positional_dropout_rate=0.0)
    )
    inputs = features()
    whole, without = (Subnet(8, (first,) + (True,) * 7) for first in (True, False))
    always = Subnet(8, (True,) * 8, drop=(1.0 - 1e-9,) + (0.0,) * 7)
    with supernet.train().activate(always):
        dropped = supernet(*inputs)[0]
    with supernet.activate(without):
        torch.testing.assert_close(dropped, supernet(*inputs)[0])
    with supernet.eval().activate(always):
        kept = supernet(*inputs)[0]
    with supernet.activate(whole):
        assert torch.equal(kept, supernet(*inputs)[0])


def test_batch_norm_statistics_are_kept_per_size():
    conf = encoder_conf()
    supernet = DynSizeConformerEncoder(
        20, sizes=[3, 5, 8], conv_norm="batch_norm", **conf
    )
    fix_masks(supernet.schedule)
    inputs = features()
    small = supernet.schedule.subnet(3)

    def evaluate():
        supernet.eval()
        with supernet.activate(small):
            return outputs(supernet, *inputs)[0]

    before = evaluate()
    supernet.train()
    with supernet.activate(supernet.schedule.subnet(5)):
        supernet(*features())
    with supernet.activate(supernet.schedule.subnet(8)):
        supernet(*features())
    assert torch.equal(evaluate(), before)
    supernet.train()
    with supernet.activate(small):
        supernet(*features())
    if any("conv" in la.kind and small.mask[la.units.start] for la in supernet.layers):
        assert not torch.equal(evaluate(), before)


def test_fixed_subnet_computes_by_default():
    supernet = DynSizeConformerEncoder(20, sizes=[3, 8], subnet=3, **encoder_conf())
    fix_masks(supernet.eval().schedule)
    inputs = features()
    with supernet.activate(supernet.schedule.subnet(3)):
        expected = outputs(supernet, *inputs)[0]
    assert torch.equal(outputs(supernet, *inputs)[0], expected)
    with supernet.activate(supernet.schedule.subnet(8)):
        assert not torch.equal(outputs(supernet, *inputs)[0], expected)


def test_front_end_is_run_once():
    supernet = DynSizeConformerEncoder(20, sizes=[3, 8], **encoder_conf()).eval()
    calls = []
    supernet.embed[0].register_forward_hook(lambda *_: calls.append(1))
    inputs = features()
    with supernet.shared_front_end():
        first = outputs(supernet, *inputs)[0]
        assert torch.equal(outputs(supernet, *inputs)[0], first)
    assert len(calls) == 1
    supernet(*inputs)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "conf, message",
    [
        ({"subnet": 4, "sizes": [3, 8]}, "subnet=4 is not in sizes"),
        ({"conv_norm": "group_norm"}, "conv_norm=group_norm must be one of"),
        ({"keep_layers": [0, 8]}, "must be indices from 0 to 7"),
        ({"keep_layers": [0], "sizes": [3, 8]}, "exclude each other"),
        ({"stochastic_depth_rate": 0.1}, "use layer_drop_joint"),
    ],
)
def test_bad_options(conf, message):
    with pytest.raises(ConfigError, match=message):
        DynSizeConformerEncoder(20, **encoder_conf(**conf))


def test_convolution_first_changes_the_order():
    torch.manual_seed(1)
    plain = DynSizeConformerEncoder(20, **encoder_conf()).eval()
    swapped = DynSizeConformerEncoder(20, convolution_first=True, **encoder_conf())
    swapped.eval().load_state_dict(plain.state_dict())
    assert [la.kind for la in swapped.layers[:4]] == [
        "feed_forward_macaron",
        "conv_module",
        "self_attn",
        "feed_forward",
    ]
    inputs = features()
    middle = (False, True, True, False) * 2  # attention and convolution
    only_one = (False, True, False, False) * 2  # attention, or convolution
    other_one = (False, False, True, False) * 2
    for mine, theirs, same in (
        (middle, middle, False),
        (only_one, other_one, True),
        (other_one, only_one, True),
    ):
        with swapped.activate(Subnet(sum(mine), mine)):
            ours = outputs(swapped, *inputs)[0]
        with plain.activate(Subnet(sum(theirs), theirs)):
            stock = outputs(plain, *inputs)[0]
        assert torch.allclose(ours, stock) == same
