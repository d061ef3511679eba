"""What a family cannot do with asr.sh, and what would have no effect."""

import os
import re
from pathlib import Path

import pytest
from espnet2.bin import (
    asr_inference,
    asr_inference_streaming,
    asr_transducer_inference,
)

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.recipe.asr_sh import read_defaults
from espnet_dynsize.recipe.options import parse
from espnet_dynsize.recipe.refused import (
    OF_TRANSDUCERS,
    ONLY_STREAMING,
    ONLY_WHOLE,
    RULES,
    check_decoding,
    check_family,
)

EGS = Path(__file__).resolve().parents[2] / "egs2"
FAMILY = {"encoder": "dynsize_conformer", "model_conf": {"sizes": [8, 24]}}


def options(*argv):
    return parse(["--python", "espnet-dynsize run", *argv])


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--use_streaming", "true"], "needs an encoder that streams in .*, not dyns"),
        (["--use_k2", "true"], "must be false for a family: nobody has tried"),
        (["--use_lightning", "true"], "must be false for a family: ESPnet2's"),
        (
            ["--asr_task", "asr_transducer"],
            "must be asr: .* has no encoder_conf: body_",
        ),
        (["--num_ref", "2"], "must be 1 for a family: a family recognises one speaker"),
        (["--sot_asr", "true"], "must be false for a family: a family recognises one"),
        (["--token_type", "whisper_en"], "must be bpe or char or word for a family: "),
        (["--download_model", "x/y"], "must be left out for a family: asr.sh would"),
        (["--auxiliary_data_tags", "a"], "must be left out for a family: it trains on"),
        (["--feats_type", "fbank"], "must be raw or raw_copy or extracted or fbank_p"),
        (["--python", "python3"], "'python3' must be 'espnet-dynsize run'"),
        (["--num_splits_asr", "4"], "4 needs selector_conf: search_updates"),
    ],
)
def test_what_a_family_cannot_do(argv, message):
    with pytest.raises(ConfigError, match=f"^{argv[0]} .*{message}"):
        check_family(options(*argv), FAMILY)


CHUNKED = dict(
    encoder="dynsize_chunked",
    encoder_conf=dict(
        body_conf=[{"block_type": "conformer"}],
        main_conf={"dynamic_chunk_training": True},
    ),
    decoder="rnn",
    model_conf={"sizes": [8, 24]},
)
OF_TASK = ("--asr_task", "asr_transducer")


def test_a_family_of_the_other_task():
    check_family(options(*OF_TASK), CHUNKED)
    with pytest.raises(
        ConfigError, match="--asr_task asr must be asr_transducer: .* ha"
    ):
        check_family(options(), CHUNKED)
    with pytest.raises(
        ConfigError, match="write streaming: true into the decoding con"
    ):
        check_family(options(*OF_TASK, "--use_streaming", "true"), CHUNKED)


def test_its_script_has_other_options():
    known = {action.dest for action in asr_transducer_inference.get_parser()._actions}
    assert known == OF_TRANSDUCERS


@pytest.mark.parametrize(
    "argv, args, changes, message",
    [
        ([], "--ctc_weight 0.3", {}, "ctc_weight=0.3 is not for --asr_task asr_tr"),
        (["--use_ngram", "true"], "", {}, "--use_ngram true is not for --asr_task"),
        (["--use_lm", "true"], "--beam_size 1 --lm_weight 0.3", {}, "beam_size"),
        (
            [],
            "--streaming true",
            {"encoder_conf": {"body_conf": []}},
            "dynamic_chunk_training=False must be true in training",
        ),
        (
            ["--feats_normalize", "utterance_mvn"],
            "--streaming true",
            {"normalize": "utterance_mvn"},
            "normalize=utterance_mvn must be global_mvn or null",
        ),
    ],
)
def test_decoding_of_the_other_task(argv, args, changes, message):
    always = ("--stage", "12", "--use_lm", "false", *OF_TASK)
    good = options(*always, "--inference_args", "--streaming true --beam_size 3")
    check_decoding(good, CHUNKED)
    given = options(*always, *argv, "--inference_args", args)
    with pytest.raises(ConfigError, match=message):
        check_decoding(given, CHUNKED | changes)


def test_a_family_can_stream():
    streaming = FAMILY | {"encoder": "dynsize_contextual_block_transformer"}
    check_family(options("--use_streaming", "true"), streaming)


@pytest.mark.parametrize(
    "argv, args, message",
    [
        ([], "--sim_chunk_length 640", "sim_chunk_length=640 needs --use_streaming tr"),
        (["--use_streaming", "true"], "--ngram_weight 1", "ngram_weight=1 is not for"),
        (["--use_streaming", "true", "--use_ngram", "true"], "", "--use_ngram true is"),
        (
            ["--use_streaming", "true", "--batch_size", "2"],
            "",
            "--batch_size 2 must",
        ),
        (
            ["--use_streaming", "true"],
            "--batch_size 2",
            "--batch_size 2 must be",
        ),
    ],
)
def test_options_of_the_other_script(argv, args, message):
    given = options("--stage", "12", *argv, "--inference_args", args)
    with pytest.raises(ConfigError, match=message):
        check_decoding(given, FAMILY)


def test_what_options_the_scripts_have():
    whole, streaming = (
        {action.dest for action in script.get_parser()._actions}
        for script in (asr_inference, asr_inference_streaming)
    )
    assert streaming - whole == ONLY_STREAMING
    assert whole - streaming == ONLY_WHOLE


def test_every_rule_is_about_something():
    for option, allowed, _ in RULES:
        with pytest.raises(ConfigError, match=f"--{option} nonsense must be"):
            check_family(options(f"--{option}", "nonsense"), FAMILY)
        for value in allowed:
            check_family(options(f"--{option}", value), FAMILY)


@pytest.mark.parametrize(
    "argv, conf",
    [
        ([], {"selector_conf": {"search_updates": 5}}),
        (["--asr_args", "--model_conf selector_conf.search_updates=5"], {}),
        (["--stage", "12"], {}),
    ],
)
def test_a_split_corpus_needs_a_number_of_updates(argv, conf):
    config = {"model_conf": {"sizes": [8, 24], **conf}}
    check_family(options("--num_splits_asr", "4", *argv), config)


def test_a_checkpoint_that_training_does_not_leave():
    config = FAMILY | {"best_model_criterion": [["valid", "cer_ctc", "min"]]}
    message = r"valid.acc.ave.pth must be of a best_model_criterion .* valid.cer_ctc\."
    with pytest.raises(ConfigError, match=message):
        check_family(options(), config)  # asr.sh's default
    for name in ("valid.cer_ctc.ave.pth", "valid.cer_ctc.ave_3best.pth", "9epoch.pth"):
        check_family(options("--inference_asr_model", name), config)
    check_family(options("--stage", "12"), config)
    check_family(options("--asr_args", "--best_model_criterion valid acc max"), config)
    check_family(options(), FAMILY)  # ESPnet's own criteria


@pytest.mark.parametrize("criteria", ["valid", [["valid"]], [1], [["valid", 1, "min"]]])
def test_what_is_no_list_of_criteria(criteria):
    with pytest.raises(ConfigError, match="best_model_criterion=.* must be a list of"):
        check_family(options(), FAMILY | {"best_model_criterion": criteria})


@pytest.mark.parametrize(
    "argv, config, message",
    [
        (["--use_lm", "true"], {}, r"--use_lm true: lm_weight of d.yaml must not be 0"),
        (
            ["--use_ngram", "true", "--use_lm", "false"]
            + ["--inference_args", "--ngram_weight=0.0"],
            {},
            "--use_ngram true: ngram_weight of d.yaml must not be 0, or no hypothesis",
        ),
        (
            ["--use_lm", "true", "--inference_args", "--lm_weight 0.3"],
            {"decoder": "transducer"},
            "--use_lm true: beam_size of d.yaml must be above 1",
        ),
        (
            ["--use_lm", "false", "--use_ngram", "true", "--ngram_num", "4"],
            {},
            "--ngram_num 4 needs --inference_ngram 4gram.bin",
        ),
        (["--inference_config", "no.yaml"], {}, "no.yaml does not exist"),
        (["--inference_args", "--lm_weight much"], {}, "lm_weight=much must be at lea"),
        (["--inference_args", "--maxlenratio x"], {}, "maxlenratio=x must be at least"),
        (
            ["--inference_args", "--beam_size 2000"],
            {},
            "decoding: beam_size=2000 must be a whole number, at least 1 and at most",
        ),
        (["--inference_args", "--ctc_weight ["], {}, "ctc_weight is not a yaml file"),
        (
            ["--inference_args", "--nbest '1"],
            {},
            "--inference_args --nbest '1: No closing quotation",
        ),
    ],
)
def test_what_would_change_nothing(argv, config, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d.yaml").write_text("beam_size: 1\nlm_weight: 0.0\n")
    with pytest.raises(ConfigError, match=message):
        check_decoding(options("--inference_config", "d.yaml", *argv), config)


@pytest.mark.parametrize(
    "argv",
    [
        ["--use_lm", "false"],
        ["--inference_args", "--beam_size 4 --lm_weight 0.3"],
        ["--stop_stage", "11"],
        ["--skip_eval", "true"],
        ["--inference_config", ""],  # ESPnet's default weight is 1
        ["--inference_args", "--lm_weight 1e-1 --beam_size 4 --maxlenratio -8"],
    ],
)
def test_what_has_an_effect(argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d.yaml").write_text("beam_size: 1\nlm_weight: 0.0\n")
    check_decoding(options("--inference_config", "d.yaml", *argv), {})


def test_no_ctc_is_asked_of_a_model_without(tmp_path, monkeypatch):
    """ESPnet would find out when it decodes, after the training."""
    config = {"decoder": "transformer", "model_conf": {"ctc_weight": 0.0}}
    with pytest.raises(
        ConfigError, match="decoding: ctc_weight=0.5 must be 0: the tra"
    ):
        check_decoding(options("--use_lm", "false"), config)
    off = ("--use_lm", "false", "--inference_args", "--ctc_weight 0.0")
    check_decoding(options(*off), config)
    for other in (config | {"decoder": "transducer"}, {"decoder": "transformer"}):
        check_decoding(options("--use_lm", "false"), other)


@pytest.mark.parametrize("path", sorted(EGS.glob("*/*/conf/decode*_lm.yaml")), ids=str)
def test_shipped_decoding_with_a_language_model_weighs_it(path):
    check_decoding(options("--inference_config", str(path)), {})


@pytest.fixture
def page():
    """Option, perhaps with a value → what the page says it does."""
    text = (EGS.parent / "docs" / "asr_sh.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| (works|refused|as stock) \|", text, re.M)
    return {name: does for names, does in rows for name in re.findall("`(.+?)`", names)}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.option)
def test_the_page_says_what_is_refused(page, rule):
    shown = [name for name in page if name.split()[0] == rule.option]
    assert "refused" in [page[name] for name in shown]
    for name in shown:
        _, _, value = name.partition(" ")
        allowed = rule.allowed if value else ()
        assert (page[name] == "refused") == (value not in allowed)


def test_the_page_has_every_option_of_asr_sh(page):
    root = os.environ.get("ESPNET_ROOT")
    if not root:
        pytest.skip("set ESPNET_ROOT to an ESPnet checkout")
    known = read_defaults(Path(root) / "egs2" / "TEMPLATE" / "asr1" / "asr.sh")
    assert len(known) > 90
    assert set(known) <= {name.split()[0] for name in page}
