import pytest
import torch

from espnet_dynsize.batch_part import draw_parts, take_batch, take_encoded


def draw(batch, *shares):
    generator = torch.Generator().manual_seed(0)
    return [rows.tolist() for rows in draw_parts(batch, shares, generator)]


@pytest.mark.parametrize(
    "batch, shares, sizes",
    [
        (8, (0.5, 0.5), [4, 4]),
        (8, (0.25, 0.625), [2, 5]),
        (5, (0.5, 0.5), [2, 2]),
        (3, (0.01, 0.5), [1, 2]),
        (1, (0.5,), [1]),
    ],
)
def test_parts_are_disjoint_where_the_batch_is_large_enough(batch, shares, sizes):
    parts = draw(batch, *shares)
    assert [len(p) for p in parts] == sizes
    rows = [row for p in parts for row in p]
    assert len(set(rows)) == len(rows) and set(rows) <= set(range(batch))


def test_parts_overlap_where_they_must():
    parts = draw(4, 1.0, 1.0)
    assert parts == [[0, 1, 2, 3]] * 2
    assert draw(1, 0.5, 0.5) == [[0], [0]]
    assert all(len(set(p)) == 3 for p in draw(4, 0.75, 0.75, 0.75))


def test_a_part_of_a_batch_is_cut_to_its_longest_text():
    batch = dict(
        speech=torch.arange(6).view(3, 2),
        speech_lengths=torch.tensor([2, 2, 1]),
        text=torch.tensor([[1, 2, 3], [4, 5, -1], [6, -1, -1]]),
        text_lengths=torch.tensor([3, 2, 1]),
        utt_id=["a", "b", "c"],
    )
    part = take_batch(batch, torch.tensor([1, 2]))
    assert part["text"].tolist() == [[4, 5], [6, -1]]
    assert part["speech"].tolist() == [[2, 3], [4, 5]]
    assert take_batch(batch, None) is batch


def test_intermediate_outputs_are_taken_too():
    out, lengths = torch.arange(6.0).view(3, 2, 1), torch.tensor([2, 2, 1])
    (final, middle), taken = take_encoded(
        ((out, [(1, 2 * out)]), lengths), torch.tensor([2])
    )
    assert final.flatten().tolist() == [4.0, 5.0] and taken.tolist() == [1]
    assert middle[0][0] == 1 and middle[0][1].flatten().tolist() == [8.0, 10.0]
