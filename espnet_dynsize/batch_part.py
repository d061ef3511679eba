"""Parts of a batch: some of its sequences."""

from collections.abc import Sequence

import torch


def draw_parts(
    batch: int, shares: Sequence[float], generator: torch.Generator
) -> list[torch.Tensor]:
    """Positions of the sequences in random parts, disjoint where possible.

    Args:
        batch: Sequences in the batch.
        shares: Share of it in each part; at least one sequence.
        generator: Where the draw comes from.
    """
    counts = [max(round(share * batch), 1) for share in shares]
    drawn = torch.randperm(batch, generator=generator)
    drawn = drawn.repeat(sum(counts) // batch + 1)
    return [rows.sort().values for rows in drawn[: sum(counts)].split(counts)]


def take_batch(batch: dict, rows: torch.Tensor | None) -> dict:
    """ESPnet's batch with the sequences `rows` (None: all), cut to their text."""
    if rows is None:
        return batch
    taken = {
        key: value[rows] if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }
    longest = int(taken["text_lengths"].max())
    return dict(taken, text=taken["text"][:, :longest])


def take_encoded(encoded: tuple, rows: torch.Tensor) -> tuple:
    """The sequences `rows` of an encoder's output and its lengths."""
    out, lengths = encoded
    if isinstance(out, tuple):
        middle = [(i, x[rows]) for i, x in out[1]]
        return (out[0][rows], middle), lengths[rows]
    return out[rows], lengths[rows]
