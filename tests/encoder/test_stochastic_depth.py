import pytest
import torch
from conftest import dynsize_encoder, encoder_conf

from espnet_dynsize.core.subnet import Sampled, Subnet
from espnet_dynsize.encoder.stochastic_depth import Rows


def test_survivors_are_rescaled_and_the_others_left_alone():
    x, y = torch.zeros(1000, 2, 3), torch.ones(1000, 2, 3)
    rows = Rows.draw(x, 0.5)
    assert len(rows.take(y)) == len(rows.index)
    added = rows.add(x, rows.take(y))
    per_sequence = added[:, 0, 0]
    assert torch.equal(added, per_sequence[:, None, None].expand_as(added))
    assert set(per_sequence.tolist()) == {0.0, 2.0}
    assert 400 < (per_sequence == 0).sum() < 600


def test_nothing_is_dropped_at_p_0():
    x = torch.randn(4, 2, 3)
    rows = Rows.draw(x, 0.0)
    assert rows.take(x) is x and rows.any
    assert torch.equal(rows.add(x, x), x + x)


def test_all_may_be_dropped():
    torch.manual_seed(0)
    rows = Rows.draw(torch.randn(2, 2, 3), 1.0 - 1e-9)
    assert not rows.any


def test_dropped_sequences_are_not_computed(monkeypatch):
    supernet = dynsize_encoder(**encoder_conf()).train()
    calls = []
    module = supernet.blocks[1].self_attn
    monkeypatch.setattr(
        module,
        "forward",
        lambda *x, f=module.forward: calls.append(len(x[0])) or f(*x),
    )
    drop = tuple(0.5 if unit == 5 else 0.0 for unit in range(8))
    inputs = torch.randn(64, 12, 20), torch.full((64,), 12)
    with supernet.activate(Sampled(Subnet((True,) * 8), drop=drop)):
        supernet(*inputs)
        supernet.eval()(*inputs)
    assert 16 < calls[0] < 48 and calls[1] == 64


@pytest.mark.parametrize("x", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("y", [torch.float32, torch.bfloat16])
def test_types_are_promoted_as_in_a_sum(x, y):
    x, y = torch.zeros(64, 2, 3, dtype=x), torch.ones(64, 2, 3, dtype=y)
    rows = Rows.draw(x, 0.5)
    added = rows.add(x, rows.take(y))
    assert added.dtype is (x + y).dtype
    assert set(added.flatten().tolist()) == {0.0, 2.0}
