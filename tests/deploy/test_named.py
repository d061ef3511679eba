"""The files that a config names, packed and opened."""

import io

import numpy as np
import pytest
import sentencepiece
import torch
import yaml
from experiment import MODEL, experiment

import espnet_dynsize
from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.located import BPEMODEL
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.deploy.named import check_named
from espnet_dynsize.deploy.pack import pack


def tokenizer(path):
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["A B C", "AB C"]),
        model_writer=file,
        vocab_size=7,
        minloglevel=2,
    )
    path.write_bytes(file.getvalue())
    return str(path)


def test_another_tokenizer_may_be_a_folder(tmp_path):
    check_named({"token_type": "hugging_face", "bpemodel": str(tmp_path)}, BPEMODEL)
    with pytest.raises(ConfigError, match="bpemodel=.* must be a file"):
        check_named({"token_type": "bpe", "bpemodel": str(tmp_path)}, BPEMODEL)


def test_a_tokenizer(tmp_path):
    path = tmp_path / "bpe.model"
    bpe = dict(token_type="bpe", bpemodel=tokenizer(path))
    folder, _ = experiment(tmp_path / "asr", **bpe)
    packed = pack(folder, MODEL)
    for model in (folder, packed):
        ((text, *_),) = espnet_dynsize.load(model)(torch.randn(8000))
        assert isinstance(text, str)
    whole = path.read_bytes()
    for content, said in (
        (b"", "is not a file of that kind"),
        (b"garbage", "is not a file of that kind"),
        (None, "does not exist, without which token_type: bpe gives no text"),
    ):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        for call in (espnet_dynsize.load, lambda f: pack(f, MODEL, tmp_path / "x.zip")):
            with pytest.raises(ConfigError, match=f"bpemodel={path} {said}"):
                call(folder)
        # Another one, given by whoever opens the model
        (tmp_path / "mine.model").write_bytes(whole)
        espnet_dynsize.load(folder, bpemodel=str(tmp_path / "mine.model"))
        path.touch()
    assert not (tmp_path / "x.zip").exists()
    # It is no part of the network.
    assert extract(folder, MODEL, [3])[0].directory.is_dir()


@pytest.mark.parametrize("kind", ["char", "hugging_face", "whisper_en"])
def test_the_name_of_a_tokenizer(tmp_path, kind):
    options = dict(token_type=kind, bpemodel="some/name")
    folder, _ = experiment(tmp_path / "asr", **options)
    pack(folder, MODEL)


@pytest.fixture
def statistics(tmp_path):
    """A model, and its file of statistics."""
    stats = tmp_path / "feats_stats.npz"
    np.savez(stats, count=10, sum=np.arange(20.0), sum_square=np.full(20, 100.0))
    options = dict(normalize="global_mvn", normalize_conf={"stats_file": str(stats)})
    return experiment(tmp_path / "asr", **options)[0], stats


def test_statistics_that_unpack_to_more_than_any_need(statistics, tmp_path, capsys):
    folder, stats = statistics
    np.savez_compressed(stats, count=10, sum=np.zeros(2_000_000), sum_square=[1.0])
    assert stats.stat().st_size < 100_000
    said = f"normalize_conf.stats_file={stats} must be of at most 10 MB; it unpacks to"
    for command in (
        ["extract", "--asr_exp", folder, "--size", "3"],
        ["pack", "--asr_exp", folder],
        ["report", folder],
        ["transcribe", folder, "a.wav"],
    ):
        assert main([str(word) for word in command]) == 2
        assert f"{said} 16 MB" in capsys.readouterr().err


def test_statistics_of_kaldi_s_form(statistics):
    folder, stats = statistics
    content = io.BytesIO()
    sums = [[*np.arange(20.0), 10], [*np.full(20, 100.0), 0]]
    np.save(content, np.array(sums))
    stats.write_bytes(content.getvalue())
    espnet_dynsize.load(folder)
    # It says that it has 8 TB.
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1))
    with stats.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (10**12,)})
    with pytest.raises(ConfigError, match="feats_stats.npz is not a file of that kind"):
        espnet_dynsize.load(folder)


def test_a_way_to_initialise_that_espnet_no_longer_has(tmp_path, capsys):
    """All weights are loaded: how they began does not matter."""
    stock = dict(encoder="conformer", model="espnet", model_conf={"ctc_weight": 1.0})
    conf = dict(output_size=8, attention_heads=2, linear_units=12, num_blocks=2)
    folder, _ = experiment(tmp_path / "asr", **stock, encoder_conf=conf)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["init"] = "chainer"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["report", str(folder)]) == 0, capsys.readouterr().err
