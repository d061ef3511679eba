"""Patterns on matrices small enough to count by hand."""

import pytest
import torch

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.pattern import Pattern

#  Its groups of 2x1, rows, … have root mean squares that are easy to see.
WEIGHT = torch.tensor(
    [
        [1.0, 0.0, 5.0, 2.0, 9.0],
        [1.0, 4.0, 5.0, 2.0, 0.0],
        [3.0, 4.0, 0.0, 0.0, 7.0],
    ]
)


def survivors(name: str, sparsity: float, weight: torch.Tensor = WEIGHT, seed: int = 0):
    """The mask of a matrix, as rows of 0 and 1."""
    pattern = Pattern.named(name)
    ranks = pattern.ranks(
        pattern.magnitudes(weight), torch.Generator().manual_seed(seed)
    )
    mask = pattern.spread(pattern.mask(ranks, sparsity), weight.shape)
    assert mask.dtype is torch.bool
    assert pattern.count(weight.shape, sparsity) == pattern.mask(ranks, sparsity).sum()
    return mask.int().tolist()


@pytest.mark.parametrize(
    "name, sparsity, expected",
    [
        # 15 weights; the largest is 9, then 7, 5, 5, 4, 4, 3, …
        ("unstructured", 0.85, [[0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]),
        ("1x1", 0.85, [[0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]),
        # Groups of 2 outputs, then 1 is left: squares' means 1, 8, 25, 4, 40.5 above;
        # 9, 16, 0, 0, 49 below, each of a group of its own.
        ("2x1", 0.5, [[0, 0, 1, 0, 1], [0, 0, 1, 0, 1], [1, 1, 0, 0, 1]]),
        # Of 2 inputs, and 1: 0.5, 14.5, 81 | 8.5, 14.5, 0 | 12.5, 0, 49
        ("1x2", 0.8, [[0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]),
        # 18/4, 58/4, 81/2 | 25/2, 0, 49
        ("2x2", 0.5, [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]),
        # Sums of squares: 111, 46, 74
        ("rows", 0.3, [[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]),
        # 11, 32, 50, 8, 130
        ("columns", 0.6, [[0, 0, 1, 0, 1], [0, 0, 1, 0, 1], [0, 0, 1, 0, 1]]),
        # Larger than the matrix: all of it
        ("8x1", 0.6, [[0, 0, 1, 0, 1], [0, 0, 1, 0, 1], [0, 0, 1, 0, 1]]),
        # One of two inputs; the last one has no rival, and of one a half is one.
        ("1:2", 0.5, [[1, 0, 1, 0, 1], [0, 1, 1, 0, 1], [0, 1, None, None, 1]]),
        # Of three the largest, then of two (2/3, rounded) one
        ("1:3", 2 / 3, [[0, 0, 1, 0, 1], [0, 0, 1, 1, 0], [0, 1, 0, 0, 1]]),
    ],
)
def test_survivors(name, sparsity, expected):
    mask = survivors(name, sparsity)
    for row, wanted in zip(mask, expected):
        if None in wanted:  # a tie
            tied = [i for i, value in enumerate(wanted) if value is None]
            assert sum(row[i] for i in tied) == 1
            row = [v if w is not None else None for v, w in zip(row, wanted)]
        assert row == wanted


@pytest.mark.parametrize(
    "name, sparsity, number",
    [
        ("unstructured", 0.0, 15),
        ("unstructured", 0.5, 8),  # 7.5, rounded upwards
        ("unstructured", 0.9, 2),  # 1.5
        ("4x1", 0.5, 3),  # of 5
        ("4x1", 0.95, 0),  # 0.25
        ("rows", 0.5, 2),  # of 3
        ("2:4", 0.5, 9),  # in each row two of four, and of the last one half: 1
    ],
)
def test_exact_counts(name, sparsity, number):
    assert Pattern.named(name).count(WEIGHT.shape, sparsity) == number


def test_counts_of_all_sparsities_and_sizes_are_rounded_alike():
    pattern = Pattern.named("unstructured")
    for groups in range(1, 60):
        for percent in range(0, 100, 5):
            # Exactly, in whole numbers: floor((100 - p) · n / 100 + 1/2)
            exact = ((100 - percent) * groups * 2 + 100) // 200
            assert pattern.count((groups, 1), percent / 100) == exact


@pytest.mark.parametrize("name", ["unstructured", "4x1", "1x8", "4x4", "rows", "1:7"])
def test_masks_of_levels_are_nested(name):
    weight = torch.randn(21, 13, generator=torch.Generator().manual_seed(1))
    previous = None
    for sparsity in (0, 0.3, 0.5, 0.7, 0.8, 0.9):
        mask = torch.tensor(survivors(name, sparsity, weight)).bool()
        assert sparsity > 0 or mask.all()
        assert previous is None or not (mask & ~previous).any()
        previous = mask


def test_a_convolution_of_one_frame_is_a_matrix():
    kernel = WEIGHT[:, :, None]
    mask = torch.tensor(survivors("2x1", 0.5, kernel))
    assert mask.shape == kernel.shape
    assert mask[..., 0].tolist() == survivors("2x1", 0.5)


@pytest.mark.parametrize("name", ["unstructured", "2:4"])
def test_ties_are_broken_by_the_generator(name):
    equal = torch.ones(4, 8)
    masks = [survivors(name, 0.5, equal, seed) for seed in (0, 0, 1)]
    assert masks[0] == masks[1] != masks[2]
    # Not the first ones, as sorting alone would have it
    assert all(mask != [[1, 1, 1, 1, 0, 0, 0, 0]] * 4 for mask in masks)


@pytest.mark.parametrize(
    "name", ["8y1", "0x4", "x", "2:2", "4:2", "0:4", 8, None, True, ["8x1"], "8x1 "]
)
def test_unknown_patterns(name):
    with pytest.raises(ConfigError, match="sparsity: pattern=.* must be unstructured"):
        Pattern.named(name, "sparsity: pattern")


def test_unquoted_two_of_four():
    """YAML takes it for 124."""
    assert Pattern.named(124) == Pattern.named("2:4")
    assert Pattern.named("2:4").sparsity == 0.5
    assert Pattern.named("4x1").sparsity is None


@pytest.mark.parametrize("block", [(1, 4), (4, 1), (2, 2)])
def test_next_to_torch_s_own_sparsifier(block):
    weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(3))
    linear = torch.nn.Linear(12, 8)
    linear.weight.data.copy_(weight)
    sparsifier = torch.ao.pruning.WeightNormSparsifier(
        sparsity_level=0.5,
        sparse_block_shape=block,
        zeros_per_block=block[0] * block[1],
    )
    sparsifier.prepare(linear, [{"tensor_fqn": "weight"}])
    sparsifier.step()
    theirs = linear.parametrizations.weight[0].mask.bool()
    ours = torch.tensor(survivors(f"{block[0]}x{block[1]}", 0.5, weight)).bool()
    assert torch.equal(ours, theirs)
