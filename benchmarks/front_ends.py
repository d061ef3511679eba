"""What each front-end costs, and its share of the encoder.

    python benchmarks/front_ends.py

FLOPs (2 per multiply-add, in matrix products and convolutions) per second of audio with
80 features per 10 ms. Conformer of 12 macaron blocks, kernel 31, FFN 4 × d; writes
results/front_ends.md.
"""

from pathlib import Path

from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.encoder.costs import FRAMES, flops

RESULT = Path(__file__).resolve().parent / "results" / "front_ends.md"
FEATURES = 80
SECONDS = FRAMES / 100
SHAPES = {144: 4, 256: 4, 512: 8}  # d → heads
# input_layer → frames that become one
FRONT_ENDS = {"conv2d": 4, "separable_conv2d": 4, "vgg": 4, "conv2d6": 6, "conv2d8": 8}
HEADER = ("d", "`input_layer`", "frames / s", "parameters", "MFLOPs / s audio", "share")


def costs(front_end: str, size: int) -> tuple[float, float, int]:
    """FLOPs per second of the front-end and of the layers; the front-end's weights."""
    encoder = DynSizeConformerEncoder(
        FEATURES,
        input_layer=front_end,
        output_size=size,
        attention_heads=SHAPES[size],
        linear_units=4 * size,
        num_blocks=12,
        macaron_style=True,
        rel_pos_type="latest",
        cnn_module_kernel=31,
    )
    cost = flops(encoder)
    weights = sum(p.numel() for p in encoder.embed.parameters())
    return cost.fixed / SECONDS, sum(cost.units) / SECONDS, weights


def main() -> None:
    lines = ["| " + " | ".join(HEADER) + " |", "|---:|---|---:|---:|---:|---:|"]
    for size in SHAPES:
        for front_end, frames in FRONT_ENDS.items():
            fixed, layers, weights = costs(front_end, size)
            cells = [
                str(size),
                front_end,
                f"{100 / frames:.1f}",
                f"{weights:,}",
                f"{fixed / 1e6:.0f}",
                f"{100 * fixed / (fixed + layers):.0f} %",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
