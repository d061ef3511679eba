import pytest
import torch

from espnet_dynsize.core.compact import pack_states, unpack_states
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.pattern import Pattern


def sparse() -> torch.Tensor:
    """[3, 2] in groups of two outputs: the third is a group of its own."""
    return torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 3.0]])


def packed() -> dict:
    return pack_states({"w": sparse(), "b": torch.ones(2)}, {"w": Pattern(2, 1)})


def test_what_is_stored():
    states = packed()
    assert states["w.values"].tolist() == [1, 0, 3]
    # Groups: kept, gone; gone, kept
    assert states["w.groups"].tolist() == [0b1001]
    assert states["w.layout"].tolist() == [2, 1, 3, 2]
    assert states["b"].tolist() == [1, 1] and "w" not in states


def test_there_and_back():
    states = packed()
    unpack_states(states, "it")
    assert states.keys() == {"w", "b"} and torch.equal(states["w"], sparse())


@pytest.mark.parametrize("name", ["8x1", "1x8", "4x4", "2:4", "rows", "unstructured"])
@pytest.mark.parametrize("shape", [(7, 5), (16, 24), (9, 3, 1)])
def test_any_pattern_and_shape(name, shape):
    torch.manual_seed(0)
    pattern, weight = Pattern.named(name), torch.randn(shape)
    share = pattern.sparsity or 0.6
    ranks = pattern.ranks(pattern.magnitudes(weight), torch.Generator())
    mask = pattern.spread(pattern.mask(ranks, share), weight.shape)
    states = pack_states({"w": weight * mask}, {"w": pattern})
    kept = states["w.values"].numel()
    assert kept == mask.sum() < weight.numel()
    unpack_states(states, "it")
    assert torch.equal(states["w"], weight * mask)


def test_the_file_shrinks_with_the_sparsity(tmp_path):
    """(1 - s) of the dense file and a hundredth, in groups of four."""
    pattern, weight = Pattern.named("4x1"), torch.randn(256, 1024)
    sizes = {}
    for share in (0.0, 0.5, 0.8, 0.9):
        ranks = pattern.ranks(pattern.magnitudes(weight), torch.Generator())
        mask = pattern.spread(pattern.mask(ranks, share), weight.shape)
        torch.save(pack_states({"w": weight * mask}, {"w": pattern}), tmp_path / "m")
        sizes[share] = (tmp_path / "m").stat().st_size
    for share in (0.5, 0.8, 0.9):
        assert sizes[share] < (1 - share + 0.012) * sizes[0.0]


def test_a_dense_matrix_stays_as_it_is():
    dense = {"w": torch.ones(4, 4)}
    assert pack_states(dense, {"w": Pattern(4, 1)}) == dense


@pytest.mark.parametrize(
    "part, value, message",
    [
        ("values", torch.ones(4), "keeps 3 weights, of which 4 are stored"),
        ("groups", torch.tensor([0b1111], dtype=torch.uint8), "keeps 6 weights"),
        ("groups", torch.tensor([0b11001], dtype=torch.uint8), "beyond its last"),
        ("groups", torch.tensor([9, 0], dtype=torch.uint8), "2 bytes of groups"),
        ("groups", torch.tensor([9.0]), "of another kind"),
        ("layout", torch.tensor([2, 1, 3]), "has no layout"),
        ("layout", torch.tensor([2, 0, 3, 2]), "the layout .2, 0, 3, 2."),
        ("layout", torch.tensor([2, 1, 3, 2, 3]), "the layout"),
        ("layout", torch.tensor([2, 1, 2**31, 2**31]), "would be 4611686018427387904"),
        ("layout", torch.tensor([2**40, 1, 3, 2]), "the layout .1099511627776"),
        ("values", torch.ones(1).expand(3), "stores fewer values than it has"),
    ],
)
def test_parts_that_do_not_fit_are_refused(part, value, message):
    states = packed() | {f"w.{part}": value}
    with pytest.raises(ConfigError, match=f"it: w has a compact form that .*{message}"):
        unpack_states(states, "it")


def test_a_part_that_is_missing():
    states = packed()
    del states["w.values"]
    with pytest.raises(ConfigError, match="w lacks a part"):
        unpack_states(states, "it")


def test_a_dense_matrix_beside_a_compact_one():
    with pytest.raises(ConfigError, match="w.layout stands beside a dense matrix"):
        unpack_states(packed() | {"w": torch.ones(3, 2)}, "it")
