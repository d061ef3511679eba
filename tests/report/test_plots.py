import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.encoder.kinds import KINDS
from espnet_dynsize.report.decodings import Name
from espnet_dynsize.report.plots import layers_figure, save, wer_figure
from espnet_dynsize.report.scores import Score
from espnet_dynsize.report.table import Row

LONG = "decode_asr_beam20_ctc0.3_lm_lm_train_lm_transformer_en_bpe5000_valid.loss.ave"


def rows(models, name, sets=1, blocks=12, score=1.0):
    return [
        Row(
            name=f"{name}_size{i}",
            layers=i * 4 * blocks,
            parameters=30_000_000 * i,
            flops=1e9,
            file_bytes=10,
            scores={
                Name(f"{LONG}_{n}" if sets > 1 else "decode", "test"): Score(score, 1.0)
                for n in range(sets)
            },
            kept=[list(KINDS)] * blocks,
        )
        for i in range(1, models + 1)
    ]


@pytest.fixture
def drawn(monkeypatch):
    """Draws a figure; gives its texts with the boxes they fill."""
    texts = {}
    draw_text = Text.draw

    def noted(self, renderer, *args, **kwargs):
        if self.get_text():
            texts[self] = self.get_window_extent(renderer)
        return draw_text(self, renderer, *args, **kwargs)

    def draw(figure):
        monkeypatch.setattr(Text, "draw", noted)
        FigureCanvasAgg(figure).draw()
        return texts

    return draw


CASES = [
    rows(1, "a"),
    rows(8, "asr_train_asr_dynsize_conformer_raw_en_bpe5000_sp", sets=3),
    rows(8, "x" * 70, sets=2, score=0.0),
    rows(3, "_under $a$ $b", blocks=1, score=5.0),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("draw", [wer_figure, layers_figure])
def test_no_text_leaves_the_picture(drawn, case, draw):
    figure = draw(case)
    texts, inside = drawn(figure), figure.bbox
    assert len(texts) > 10
    for text, box in texts.items():
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1, text
        assert inside.y0 <= box.y0 and box.y1 <= inside.y1, text


@pytest.mark.parametrize("draw", [wer_figure, layers_figure])
def test_titles_and_legends_keep_apart(drawn, draw):
    figure = draw(CASES[1])
    texts = drawn(figure)
    names = [axes.title for axes in figure.axes]
    names += [text for legend in figure.legends for text in legend.get_texts()]
    boxes = [texts[text] for text in names]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_every_decoding_is_in_the_legend():
    figure = wer_figure(CASES[1])
    (legend,) = figure.legends
    texts = ["".join(text.get_text().split()) for text in legend.get_texts()]
    assert texts == [f"{LONG}_{n}/test" for n in range(3)]
    assert wer_figure(rows(2, "a", sets=0)) is None


@pytest.mark.parametrize("case", CASES)
def test_the_border_of_the_file_is_white(tmp_path, case):
    for name, draw in (("wer.png", wer_figure), ("layers.png", layers_figure)):
        save(draw(case), tmp_path / name)
        picture = matplotlib.image.imread(tmp_path / name)[..., :3]
        for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
            assert np.all(edge == 1)


def test_a_picture_of_the_user_is_kept(tmp_path):
    (tmp_path / "wer.png").write_text("mine")
    with pytest.raises(ConfigError, match="wer.png was not written by espnet-dynsize"):
        save(wer_figure(CASES[0]), tmp_path / "wer.png")
    assert (tmp_path / "wer.png").read_text() == "mine"
