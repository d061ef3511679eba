"""Checkpoints that cannot be read, or are of something else."""

import io
import pickle
import zipfile

import pytest
import torch
from conftest import build, fix_masks, model_config

from espnet_dynsize.core.bounded import bounded
from espnet_dynsize.core.checkpoint import (
    bring_up_to_date,
    misfit,
    read_checkpoint,
    read_states,
    stored_numbers,
)
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.identity import KEYS, describe, that_matter


class Bomb:
    def __reduce__(self):
        return (print, ("run",))


def saved(value) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def swollen() -> bytes:
    """A small zip of many zeros, as torch would read it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    return file.getvalue()


WHOLE = saved({"a": torch.ones(3)})


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "cut short or no checkpoint"),
        (b"garbage", "cannot be read"),
        (WHOLE[: len(WHOLE) // 2], "cannot be read"),
        (WHOLE[:-10], "cannot be read"),
        (pickle.dumps(Bomb()), "cannot be read"),
        (saved({"a": Bomb()}), "something other than tensors and plain values"),
        (swollen(), "unpacks to more than there is in it"),
    ],
    ids=["empty", "garbage", "half", "cut", "pickle", "bomb", "zip bomb"],
)
def test_what_cannot_be_read(tmp_path, content, message, capsys):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_checkpoint(path)
    assert message in str(error.value) and str(path) in str(error.value)
    assert "unsafe" not in str(error.value).lower()
    assert "weights_only" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_wherever_a_file_is_cut(tmp_path):
    """What torch raises depends on it."""
    path = tmp_path / "model.pth"
    whole = saved({"a": torch.randn(40), "b": {"c": [torch.ones(3)]}})
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="model.pth cannot be read"):
            read_checkpoint(path)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(ConfigError, match="does not exist"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    "value",
    [
        [torch.ones(3)],
        torch.ones(3),
        None,
        "text",
        {"state_dict": 5},
        {3: torch.ones(3)},
        {"a": "text"},
        {"a": torch.ones(3).to_sparse()},
        {"a": torch.ones(3, device="meta")},
        {"a": torch.ones(3).to(torch.float8_e4m3fn)},
    ],
    ids=str,
)
def test_what_is_no_state_dict(tmp_path, value):
    torch.save(value, tmp_path / "model.pth")
    with pytest.raises(ConfigError, match="model.pth must hold"):
        read_states(tmp_path / "model.pth")


def test_tensors_of_which_little_is_stored(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"a": torch.ones(2), "b": torch.ones(1, 9).expand(10**12, 9)}, path)
    with pytest.raises(ConfigError, match=r"b has the shape \[1000000000000, 9\], but"):
        read_states(path)
    # A table that is the same for all, and one that two modules share
    table = torch.ones(9)
    given = {"a": table.expand(4, 9), "b": table, "c": table[3:]}
    torch.save(given, path)
    states = read_states(path)
    assert all(torch.equal(states[name], value) for name, value in given.items())
    assert stored_numbers(states) == 9


def test_lightning_s_states_are_found(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(3)}}, tmp_path / "last.ckpt")
    assert list(read_states(tmp_path / "last.ckpt")) == ["a"]


def trained(**changes):
    model = build(model_config(**changes))
    fix_masks(model.schedule)
    return model


WEIGHT = "encoder.encoders.0.self_attn.linear_q.weight"
MASKS = "schedule.selection.fixed_masks"


@pytest.mark.parametrize(
    "name, change, message",
    [
        (WEIGHT, lambda v: v * torch.nan, f"{WEIGHT} holds numbers that are not fin"),
        (WEIGHT, lambda v: v.to(torch.complex64), "holds numbers of type torch.compl"),
        (WEIGHT, lambda v: v.long(), "holds numbers of type torch.int64"),
        (WEIGHT, lambda v: v[:, 1:], "has shape"),
        (MASKS, lambda v: v * 0.4, "something else than 0 and 1"),
        (MASKS, lambda v: v * 0, "drops units of the full size"),
        (MASKS, lambda v: v * 0 + 1, r"keeps [8, 8, 8] layers in sizes [3, 5, 8]"),
        (MASKS, lambda v: torch.cat([1 - v[:1], v[1:]]), "not nested"),
        ("schedule.update", lambda v: v * torch.nan, "not finite"),
        ("schedule.selection.selector.scores", lambda v: v / 0, "not finite"),
    ],
)
def test_states_that_do_not_fit(name, change, message):
    model = trained()
    states = model.state_dict()
    assert misfit(model, states) is None
    wrong = misfit(model, states | {name: change(states[name])})
    assert wrong is not None and message in wrong


TOKENS_IN_ORDER = ["<blank>", "<unk>", "a", "b", "<sos/eos>"]
FRONTEND = dict(
    input_size=None,
    frontend="default",
    frontend_conf={"n_fft": 64, "hop_length": 32, "n_mels": 5},
)
OTHERS = [
    ("sizes", {"sizes": [4, 5, 8]}),
    ("selector", {"selector": "iterative_zero_out"}),
    ("selector_conf", {"selector_conf": {"search_updates": 9}}),
    ("encoder_conf", {"convolution_first": True}),
    ("encoder_conf", {"skip_empty_blocks": True}),
    ("encoder_conf", {"activation_type": "relu"}),
]
OTHER_CONFIGS = [
    ("token_list", {"token_list": ["<blank>", "<unk>", "b", "a", "<sos/eos>"]}),
    ("frontend_conf", {"frontend_conf": {**FRONTEND["frontend_conf"], "fmin": 20}}),
    ("normalize", {"normalize": "utterance_mvn", "normalize_conf": {}}),
]
SAME = [
    {"dropout_rate": 0.3},
    {"interctc_layer_idx": [1]},
    {"use_flash_attn": False},
    {"max_pos_emb_len": 6000},
    {"activation_type": "swish"},  # its default
]


def config_of(changes: dict, config: dict) -> dict:
    made = model_config(**changes)
    return {**made, "token_list": TOKENS_IN_ORDER, **FRONTEND, **config}


@pytest.mark.parametrize(
    "key, changes, config",
    [(key, changes, {}) for key, changes in OTHERS]
    + [(key, {}, config) for key, config in OTHER_CONFIGS],
)
def test_another_model_does_not_fit(key, changes, config):
    """Also where all names and shapes are the same."""
    model, other = build(config_of({}, {})), build(config_of(changes, config))
    fix_masks(model.schedule)
    identity = "schedule.identity"
    states = model.state_dict() | {identity: other.state_dict()[identity]}
    wrong = misfit(model, states)
    assert wrong is not None
    assert wrong.startswith(f"it is of a model with another {key} ")
    # Before the first release there were fewer rows, of other digests.
    old = model.state_dict() | {identity: states[identity][:4]}
    bring_up_to_date(old)
    assert misfit(model, old) is None


@pytest.mark.parametrize("change", [torch.Tensor.half, torch.Tensor.bfloat16])
def test_copies_of_less_precision_fit(change):
    model = trained()
    states = {name: change(value) for name, value in model.state_dict().items()}
    assert misfit(model, states) is None


def test_other_ways_of_averaging_fit():
    model = trained()
    mean = sum(model.schedule.identity / 7 for _ in range(7))
    assert not torch.equal(mean.nan_to_num(), model.schedule.identity.nan_to_num())
    assert misfit(model, model.state_dict() | {"schedule.identity": mean}) is None


def identity_of(**changes) -> torch.Tensor:
    return rows(build(config_of(changes, {})))


def rows(model) -> torch.Tensor:
    """The identity without the rows to spare."""
    return model.schedule.identity[: len(KEYS)]


@pytest.mark.parametrize("changes", SAME, ids=str)
def test_the_same_model_fits(changes):
    assert torch.equal(identity_of(**changes), identity_of())


def test_the_rate_has_two_forms():
    fs = [{**FRONTEND["frontend_conf"], "fs": rate} for rate in ("8k", 8000)]
    one, other = (build(config_of({}, {"frontend_conf": f})) for f in fs)
    assert torch.equal(rows(one), rows(other))
    assert not torch.equal(rows(one), identity_of())


def test_what_a_pretrained_front_end_is_called_is_not_asked():
    conf = {"path": "/here", "freeze_weights": True}
    known = describe({"frontend": ("huggingface", conf, dict)})
    assert known == {"frontend": "huggingface"}


def test_what_only_training_does_is_not_asked():
    conf = {"sampling_probability": 0.3, "dropout": 0.1, "interctc_layer_idx": [1]}
    assert that_matter(conf, None) == {}
    conf |= {"interctc_use_conditioning": True}
    assert sorted(that_matter(conf, None)) == [
        "interctc_layer_idx",
        "interctc_use_conditioning",
    ]


def test_a_whole_number_is_itself_with_a_point_too():
    one, other = ({"params": [0.6, last]} for last in (1, 1.0))
    one, other = (identity_of(sizes=None, budgets=budgets) for budgets in (one, other))
    assert torch.equal(one, other)


def test_weights_of_another_family_do_not_change_the_identity():
    model, other = trained(), trained(sizes=[4, 5, 8])
    own = model.schedule.identity.clone()
    states = {**model.state_dict(), "schedule.identity": other.schedule.identity}
    model.load_state_dict(states)  # as --init_param does
    assert torch.equal(rows(model), own[: len(KEYS)])


def test_averages_keep_the_identity():
    states = trained().schedule.identity[: len(KEYS)]
    total = states.clone()
    for number in range(2, 257):
        total = total + states
        assert torch.equal(total / number, states)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_blocks": 10**8}, "num_blocks=100000000 must be at most 10000"),
        ({"num_blocks": 900}, "far more weights than the checkpoint's"),
        ({"linear_units": 10_000, "output_size": 8_000}, "far more weights"),
    ],
)
def test_a_model_that_is_larger_than_its_weights_is_not_built(change, message):
    states = trained().state_dict()
    config = model_config()
    config["encoder_conf"] |= change
    with pytest.raises(ConfigError, match=message), bounded(config, states):
        build(config)
    # Neither numbers that are stored once nor shapes without numbers make it larger.
    states |= {f"{n}.": states["ctc.ctc_lo.bias"].expand(9**3, 6) for n in range(99)}
    states["."] = torch.ones(10**8, 0)
    with pytest.raises(ConfigError, match=message), bounded(config, states):
        build(config)
    with bounded(model_config(), states):
        build(model_config())


@pytest.mark.parametrize(
    "front_end, message",
    [
        ({"fs": "9999999999999999k"}, "fs=9999999999999999k must be from 1 to 200000"),
        ({"fs": "16 apples"}, "fs=16 apples must be a rate such as 16k: .*apples"),
        ({"fs": 0}, "fs=0 must be from 1 to 200000"),
        ({"n_fft": "256"}, "n_fft=256 must be a whole number"),
        ({"hop_length": 0}, "hop_length=0 must be from 1"),
        ({"hop_length": 1.5}, "hop_length=1.5 must be a whole number"),
        ({"win_length": 600}, "win_length=600 must be at most n_fft=512"),
        ({"win_length": 300, "n_fft": 256}, "win_length=300 must be at most n_fft=256"),
        ({"fs": "16k", "win_length": 400, "n_fft": 400}, None),
        ({"win_length": None, "n_fft": 256}, None),
    ],
    ids=str,
)
def test_front_ends_of_strangers(front_end, message):
    config = model_config() | {"frontend_conf": front_end}
    states = trained().state_dict()
    if message is None:
        with bounded(config, states):
            return
    with (
        pytest.raises(ConfigError, match=f"frontend_conf: {message}"),
        bounded(config, states),
    ):
        pass
