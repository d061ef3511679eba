import pytest
import torch
from conftest import batch, build, encoder_conf, fix_masks, model_config
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import Sampled, Subnet
from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder

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
    supernet.load_state_dict(stock.state_dict())
    inputs = features()
    for ours, theirs in zip(outputs(supernet, *inputs), outputs(stock, *inputs)):
        assert torch.equal(ours, theirs)


def test_parameter_names_are_the_stock_ones():
    stock = ConformerEncoder(20, **encoder_conf())
    supernet = DynSizeConformerEncoder(20, **encoder_conf())
    assert list(supernet.state_dict()) == list(stock.state_dict())


def test_gates_of_one_equal_no_gates():
    supernet = DynSizeConformerEncoder(20, **encoder_conf()).eval()
    inputs = features()
    everything = (True,) * 8
    plain = outputs(supernet, *inputs)[0]
    with supernet.activate(Sampled(Subnet(everything), gates=torch.ones(8))):
        assert torch.equal(outputs(supernet, *inputs)[0], plain)


@pytest.mark.parametrize("normalize_before", [True, False])
def test_a_gate_of_zero_equals_a_dropped_layer(normalize_before):
    conf = encoder_conf(normalize_before=normalize_before)
    supernet = DynSizeConformerEncoder(20, **conf).eval()
    inputs = features()
    mask = (True, False, True, False, False, True, True, False)
    with supernet.activate(Subnet(mask)):
        dropped = outputs(supernet, *inputs)[0]
    gates = torch.tensor(mask, dtype=torch.float)
    with supernet.activate(Sampled(Subnet((True,) * 8), gates=gates)):
        gated = outputs(supernet, *inputs)[0]
    torch.testing.assert_close(gated, dropped, atol=1e-6, rtol=0)


def test_dropping_everything_leaves_the_norms():
    supernet = DynSizeConformerEncoder(20, **encoder_conf()).eval()
    inputs = features()
    x = supernet.embed(inputs[0])[0]
    for block in supernet.blocks:
        x = block.norm_final(x)
    with supernet.activate(Subnet((False,) * 8)):
        assert torch.equal(outputs(supernet, *inputs)[0], supernet.after_norm(x))


def test_layers_are_counted_in_the_order_in_which_they_compute():
    supernet = DynSizeConformerEncoder(20, **encoder_conf())
    kinds = ["feed_forward_macaron", "self_attn", "conv_module", "feed_forward"]
    assert [(la.kind, la.units) for la in supernet.layers] == [
        (kinds[i % 4], range(i, i + 1)) for i in range(8)
    ]


def test_stochastic_depth_of_one_layer_in_training_only():
    still = encoder_conf(dropout_rate=0.0, positional_dropout_rate=0.0)
    supernet = DynSizeConformerEncoder(20, **still)
    inputs = features()
    whole, without = (Subnet((first,) + (True,) * 7) for first in (True, False))
    always = Sampled(whole, drop=(1.0 - 1e-9,) + (0.0,) * 7)
    with supernet.train().activate(always):
        dropped = supernet(*inputs)[0]
    with supernet.activate(without):
        torch.testing.assert_close(dropped, supernet(*inputs)[0])
    with supernet.eval().activate(always):
        kept = supernet(*inputs)[0]
    with supernet.activate(whole):
        assert torch.equal(kept, supernet(*inputs)[0])


def test_batch_norm_statistics_are_kept_per_size():
    model = build(model_config(conv_norm="batch_norm"))
    keeps_convolutions = [0, 0, 1, 0, 0, 0, 1, 1]  # of both blocks
    masks = model.schedule.selection.fixed_masks
    masks.copy_(torch.tensor([keeps_convolutions, [0, 1] + [1] * 6, [1] * 8]))
    data = batch()
    inputs = data["speech"], data["speech_lengths"]

    def evaluate():
        model.eval()
        with model.activate(3):
            return outputs(model.encoder, *inputs)[0]

    before = evaluate()
    for size in (5, 8):
        model.train()
        with model.activate(size):
            model.encoder(*inputs)
    assert torch.equal(evaluate(), before)
    model.train()
    with model.activate(3):
        model.encoder(*inputs)
    assert not torch.equal(evaluate(), before)


def test_fixed_subnet_computes_by_default():
    model = build(model_config())
    fix_masks(model.schedule)
    fixed = build(model_config(subnet=3))
    fixed.load_state_dict(model.state_dict())
    supernet, data = fixed.eval().encoder, batch()
    inputs = data["speech"], data["speech_lengths"]
    with fixed.activate(3):
        expected = outputs(supernet, *inputs)[0]
    assert torch.equal(outputs(supernet, *inputs)[0], expected)
    with fixed.activate(8):
        assert not torch.equal(outputs(supernet, *inputs)[0], expected)


def test_front_end_is_run_once():
    supernet = DynSizeConformerEncoder(20, **encoder_conf()).eval()
    calls = []
    supernet.embed[0].register_forward_hook(lambda *_: calls.append(1))
    inputs = features()
    with supernet.switch.remember():
        first = outputs(supernet, *inputs)[0]
        assert torch.equal(outputs(supernet, *inputs)[0], first)
    assert len(calls) == 1
    supernet(*inputs)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "conf, message",
    [
        ({"sizes": [3, 8], "subnet": 3}, "encoder_conf: sizes, subnet must be under"),
        ({"selector_conf": {}}, "encoder_conf: selector_conf must be under model_conf"),
        ({"conv_norm": "group_norm"}, "conv_norm=group_norm must be one of"),
        ({"keep_layers": [0, 8]}, "must be indices from 0 to 7"),
        ({"keep_components": [0]}, "left out with granularity=layer"),
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
        with swapped.activate(Subnet(mine)):
            ours = outputs(swapped, *inputs)[0]
        with plain.activate(Subnet(theirs)):
            stock = outputs(plain, *inputs)[0]
        assert torch.allclose(ours, stock) == same
