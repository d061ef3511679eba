"""Parts of a batch: some of its sequences."""

import torch


def draw_parts(
    batch: int, part: float, number: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """Positions of the sequences in `number` random parts, disjoint where possible.

    Args:
        batch: Sequences in the batch.
        part: Share of it in each part; at least one sequence.
        number: How many parts.
        generator: Where the draw comes from.
    """
    size = max(round(part * batch), 1)
    drawn = torch.randperm(batch, generator=generator)
    drawn = drawn.repeat(size * number // batch + 1)
    return [drawn[i * size : (i + 1) * size].sort().values for i in range(number)]


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
