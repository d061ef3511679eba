"""Several subnets in one pass compute what they compute one after another."""

import pytest
import torch
from conftest import encoder_conf, fix_masks

from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.core.subnet import Subnet

EVERYTHING = (True,) * 8


def supernet(**changes) -> DynSizeConformerEncoder:
    conf = dict(
        sizes=[3, 5, 8],
        dropout_rate=0.0,
        positional_dropout_rate=0.0,
        conv_norm="layer_norm",  # a batch's statistics are not those of its parts
    )
    encoder = DynSizeConformerEncoder(20, **encoder_conf(**{**conf, **changes}))
    if "selector" not in changes:
        fix_masks(encoder.schedule)
    return encoder.double().train()


def features():
    return torch.randn(4, 30, 20).double(), torch.tensor([30, 28, 25, 20])


def mask(*kept: int) -> tuple[bool, ...]:
    return tuple(i in kept for i in range(8))


def one_by_one(encoder, inputs, subnets):
    found = []
    for subnet in subnets:
        with encoder.activate(subnet):
            found.append(encoder(*inputs)[:2])
    return found


def gradients(encoder, outputs):
    encoder.zero_grad()
    sum((out * (i + 1)).square().sum() for i, (out, _) in enumerate(outputs)).backward()
    return {
        n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None
    }


def assert_same(encoder, subnets):
    inputs = features()
    expected = one_by_one(encoder, inputs, subnets)
    found = encoder.encode_subnets(*inputs, subnets)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    wanted = gradients(encoder, expected)
    given = gradients(encoder, encoder.encode_subnets(*inputs, subnets))
    assert wanted.keys() == given.keys()
    for name in wanted:
        torch.testing.assert_close(given[name], wanted[name])


FAMILIES = {
    "nested": [EVERYTHING, mask(2, 4, 6), mask(2, 4, 6, 1, 5)],
    "apart from the start": [EVERYTHING, mask(1, 2, 3), mask(4, 5, 6)],
    "common prefix": [EVERYTHING, mask(0, 1, 2, 4), mask(0, 1, 3)],
    "forks in the other order": [EVERYTHING, mask(0, 1, 2, 3, 4, 5), mask(0, 1)],
    "the same twice": [EVERYTHING, EVERYTHING, mask(0)],
    "only the first": [EVERYTHING],
}


@pytest.mark.parametrize("masks", FAMILIES.values(), ids=FAMILIES)
def test_one_pass_equals_one_after_another(masks):
    assert_same(supernet(), [Subnet(sum(m), m) for m in masks])


OPTIONS = [
    {"normalize_before": False},
    {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"},
    {"input_layer": "conv2d"},
    {"skip_empty_blocks": True},
    {"norm_per_size": True},
    {"norm_per_size": True, "normalize_before": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_one_pass_with_stock_options(options):
    masks = [EVERYTHING, mask(0, 1, 2), mask(0, 5)]
    assert_same(supernet(**options), [Subnet(sum(m), m) for m in masks])


@pytest.mark.parametrize("kept", [(0, 2, 6), (0, 1, 2, 3), (0, 1, 2, 5)], ids=str)
def test_batch_norm_sees_each_subnet_s_own_rows(kept):
    subnets = [
        Subnet(8, EVERYTHING),
        Subnet(3, mask(*kept)),
        Subnet(5, mask(0, 1, 2, 3, 6)),
    ]
    encoder = supernet(conv_norm="batch_norm")
    before = {n: b.clone() for n, b in encoder.named_buffers()}
    inputs = features()
    expected = one_by_one(encoder, inputs, subnets[1:2])
    after = {n: b.clone() for n, b in encoder.named_buffers() if ".by_size.3." in n}
    encoder.load_state_dict(before, strict=False)
    found = encoder.encode_subnets(*inputs, subnets)
    torch.testing.assert_close(found[1][0], expected[0][0])
    for name, value in after.items():
        torch.testing.assert_close(encoder.get_buffer(name), value)


def scores_gradient(encoder, kept_mask):
    """Gradient of the scores with the closed gates' layers in the graph, or not."""
    scores = torch.full((8,), 0.3, dtype=torch.double, requires_grad=True)
    hard = torch.tensor([1, 0, 1, 0, 1, 0, 0, 1]).double()
    gates = hard + scores - scores.detach()
    subnets = [Subnet(8, EVERYTHING), Subnet(4, kept_mask(hard), gates=gates)]
    encoder.zero_grad()
    torch.manual_seed(1)
    out = encoder.encode_subnets(*features(), subnets)[1][0]
    out.square().sum().backward()
    weights = {
        n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None
    }
    return out, scores.grad, weights


def test_closed_gates_get_exact_gradients_without_a_backward_pass():
    encoder = supernet()
    lean = scores_gradient(encoder, lambda hard: tuple((hard > 0.5).tolist()))
    whole = scores_gradient(encoder, lambda hard: EVERYTHING)
    torch.testing.assert_close(lean[0], whole[0])
    torch.testing.assert_close(lean[1], whole[1])
    assert (lean[1] != 0).all()
    for name, gradient in whole[2].items():
        torch.testing.assert_close(lean[2][name], gradient, msg=name)


def test_closed_gates_have_no_backward_pass(monkeypatch):
    encoder = supernet()
    modes = []
    first = encoder.blocks[0].feed_forward_macaron
    monkeypatch.setattr(
        first,
        "forward",
        lambda x, f=first.forward: modes.append(torch.is_grad_enabled()) or f(x),
    )
    gates = torch.zeros(8, requires_grad=True)
    subnets = [Subnet(8, EVERYTHING), Subnet(4, mask(), gates=gates)]
    encoder.encode_subnets(*features(), subnets)
    assert modes == [True, False]


def test_the_common_prefix_is_computed_once(monkeypatch):
    encoder = supernet()
    calls = []
    first = encoder.blocks[0].feed_forward_macaron
    monkeypatch.setattr(
        first, "forward", lambda x, f=first.forward: calls.append(len(x)) or f(x)
    )
    subnets = [Subnet(8, EVERYTHING), Subnet(4, mask(0, 1, 2, 3))]
    encoder.encode_subnets(*features(), subnets)
    assert calls == [4]


def test_a_block_without_layers_is_skipped_with_its_final_norm():
    encoder = supernet(skip_empty_blocks=True).eval()
    inputs = features()
    lower = Subnet(4, mask(0, 1, 2, 3))
    with encoder.activate(lower):
        before = encoder(*inputs)[0]
        encoder.blocks[1].norm_final.weight.data.mul_(3.0)
        assert torch.equal(encoder(*inputs)[0], before)
