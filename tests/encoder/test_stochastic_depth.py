import torch
from conftest import encoder_conf

from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.encoder.stochastic_depth import Share
from espnet_dynsize.core.subnet import Subnet


def test_survivors_are_rescaled_and_the_others_left_alone():
    x, y = torch.zeros(1000, 2, 3), torch.ones(1000, 2, 3)
    share = Share.draw(x, 0.5)
    assert len(share.take(y)) == len(share.rows)
    added = share.add(x, share.take(y))
    per_sequence = added[:, 0, 0]
    assert torch.equal(added, per_sequence[:, None, None].expand_as(added))
    assert set(per_sequence.tolist()) == {0.0, 2.0}
    assert 400 < (per_sequence == 0).sum() < 600


def test_nothing_is_dropped_at_p_0():
    x = torch.randn(4, 2, 3)
    share = Share.draw(x, 0.0)
    assert share.take(x) is x and share.any
    assert torch.equal(share.add(x, x), x + x)


def test_all_may_be_dropped():
    torch.manual_seed(0)
    share = Share.draw(torch.randn(2, 2, 3), 1.0 - 1e-9)
    assert not share.any


def test_dropped_sequences_are_not_computed(monkeypatch):
    supernet = DynSizeConformerEncoder(20, sizes=[3, 8], **encoder_conf()).train()
    calls = []
    module = supernet.blocks[1].self_attn
    monkeypatch.setattr(
        module,
        "forward",
        lambda *x, f=module.forward: calls.append(len(x[0])) or f(*x),
    )
    drop = tuple(0.5 if unit == 5 else 0.0 for unit in range(8))
    inputs = torch.randn(64, 12, 20), torch.full((64,), 12)
    with supernet.activate(Subnet(8, (True,) * 8, drop=drop)):
        supernet(*inputs)
        supernet.eval()(*inputs)
    assert 16 < calls[0] < 48 and calls[1] == 64
