"""The output layer at the first update."""

import pytest
import torch
from conftest import build, model_config, stock_config

from espnet_dynsize.train.blanks import begin_with_blanks


def test_two_thirds_are_blank():
    """By hand: of five tokens, four share the third that blank leaves."""
    output = torch.nn.Linear(3, 5)
    torch.nn.init.zeros_(output.weight)
    torch.nn.init.zeros_(output.bias)
    begin_with_blanks(output)
    expected = torch.tensor([8.0, 1, 1, 1, 1]) / 12
    torch.testing.assert_close(output(torch.ones(3)).softmax(dim=-1), expected)


@pytest.mark.parametrize("init", [None, "xavier_uniform"])
def test_a_family_begins_so(init):
    model = build({**model_config({}), "init": init})
    # Two of three, shared by five others
    assert model.ctc.ctc_lo.bias[0].exp().item() == pytest.approx(2 * 5)
    stock = build({**stock_config(), "init": init})
    assert stock.ctc.ctc_lo.bias[0].abs() < 1
