import argparse
from pathlib import Path

import pytest
import torch
import yaml
from conftest import (
    batch,
    build,
    fix_masks,
    log_probs,
    model_config,
    randomise,
    stock_config,
)
from espnet2.tasks.asr import encoder_choices
from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump
from experiment import AVERAGED, experiment

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.members import Member
from espnet_dynsize.core.subnet import Subnet
from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.extract import extract, extract_changed

MODEL = "valid.loss.ave.pth"
COMPONENTS = {"granularity": "component", "selector": "ortho_softmax"}


def write_experiment(folder: Path, model, config) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), folder / MODEL)
    return folder


def random_supernet(seed=0, **changes):
    torch.manual_seed(seed)
    config = model_config(**changes)
    model = build(config)
    fix_masks(model.schedule)
    model.train()
    for _ in range(3):  # running statistics of their own for every size
        model(**batch())
    randomise(model, 0.1)
    return model.eval(), config


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"conv_norm": "batch_norm"},
        {"normalize_before": False},
        {"concat_after": True},
        {"convolution_first": True, "input_layer": "vgg"},
        {"interctc_layer_idx": [1]},
        {"rel_pos_type": "legacy"},
        {"skip_empty_blocks": True, "selector": "first", "sizes": [2, 4, 8]},
        {"selector": "iterative_zero_out"},
        {"skip_empty_blocks": True, "num_blocks": 3, "sizes": [2, 4, 12]},
        {"sizes": None, "budgets": {"flops": [0.4, 0.7, 1]}},
        {"sizes": None, "budgets": {"params": [0.5, 1]}, **COMPONENTS},
        {"sizes": None, "budgets": {"flops": [0.6, 0.8, 1]}, **COMPONENTS},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_extracted_equals_masked_supernet(tmp_path, changes, seed):
    model, config = random_supernet(seed, **changes)
    data = batch()
    exp = write_experiment(tmp_path / "asr", model, config)
    for extracted in extract(exp, MODEL, []):
        small, _ = load_model(extracted.directory, MODEL)
        with model.activate(model.subnet(int(extracted.name))):
            expected = log_probs(model, data)
        torch.testing.assert_close(log_probs(small, data), expected, atol=1e-6, rtol=0)


def test_fixed_subnet_of_the_supernet_equals_extracted(tmp_path):
    model, config = random_supernet()
    exp = write_experiment(tmp_path / "asr", model, config)
    (extracted,) = extract(exp, MODEL, [3])
    (exp / "config_size3.yaml").rename(exp / "config.yaml")
    fixed, _ = load_model(exp, MODEL)
    small, _ = load_model(extracted.directory, MODEL)
    data = batch()
    expected = log_probs(small, data)
    torch.testing.assert_close(log_probs(fixed, data), expected, atol=1e-6, rtol=0)
    assert not torch.allclose(log_probs(model, data), expected, atol=1e-3)


def test_a_size_is_one_line_of_yaml(tmp_path):
    exp = write_experiment(tmp_path / "asr", *random_supernet())
    config = yaml.safe_load((exp / "config.yaml").read_text())
    written = yaml_no_alias_safe_dump(config, indent=4, sort_keys=False)  # by ESPnet
    (exp / "config.yaml").write_text(written)
    extract(exp, MODEL, [3])
    lines = (exp / "config_size3.yaml").read_text().splitlines()
    lines.remove("    subnet: 3")
    assert lines == written.splitlines()


def test_only_what_changed_is_extracted_again(tmp_path):
    model, config = random_supernet()
    exp = write_experiment(tmp_path / "asr", model, config)
    folders = extract_changed(exp, MODEL)
    assert list(folders) == ["size3", "size5", "size8"]
    small = folders["size3"]
    record = origin.read(small)
    assert (record["size"], record["family"]) == (3, [3, 5, 8])
    assert Subnet.from_yaml(record["subnet"]) == model.subnet(3)
    assert (record["supernet"], record["model_file"]) == ("asr", MODEL)
    (small / "mine").touch()
    assert extract_changed(exp, MODEL, [Member(3)]) == {"size3": small}
    assert (small / "mine").exists()
    model.ctc.ctc_lo.bias.data.add_(1.0)
    torch.save(model.state_dict(), exp / MODEL)
    extract_changed(exp, MODEL, [Member(3)])
    assert not (small / "mine").exists()
    assert (tmp_path / "old1_asr_size3" / "mine").exists()
    bias = torch.load(small / MODEL)["ctc.ctc_lo.bias"]
    assert torch.equal(bias, model.ctc.ctc_lo.bias)


def test_fixed_subnet_needs_a_joint_phase_checkpoint(tmp_path):
    config = model_config(subnet=3)
    exp = write_experiment(tmp_path / "asr", build(config), config)
    with pytest.raises(ConfigError, match="size=3 has no layers yet"):
        load_model(exp, MODEL)


def test_only_the_kept_layers_exist(tmp_path):
    model, config = random_supernet()
    exp = write_experiment(tmp_path / "asr", model, config)
    (extracted,) = extract(exp, MODEL, [3])
    assert extracted.directory == tmp_path / "asr_size3"
    states = torch.load(extracted.directory / MODEL)
    kept = {
        tuple(n.split(".")[2:4]) for n in states if n.startswith("encoder.encoders.")
    }
    kept = {(b, kind) for b, kind in kept if not kind.startswith("norm")}
    mask = model.subnet(3).units
    assert kept == {
        (str(number), layer.kind)
        for number, block in enumerate(model.encoder.blocks)
        for layer in block.layers
        if mask[layer.units.start]
    }
    assert not any("schedule" in n or "by_size" in n for n in states)


@pytest.mark.parametrize(
    "changes, sizes",
    [
        ({}, [2, 4, 8]),
        ({"use_cnn_module": False}, [2, 4, 6]),
        ({"macaron_style": False, "normalize_before": False}, [2, 4, 6]),
    ],
    ids=str,
)
def test_stock_format_opens_without_the_plugin(tmp_path, changes, sizes):
    config = model_config(conv_norm="batch_norm", **changes)
    config["model_conf"]["sizes"] = sizes
    torch.manual_seed(0)
    model = build(config).eval()
    fix_masks(model.schedule)
    exp = write_experiment(tmp_path / "asr", model, config)
    data = batch()
    for extracted in extract(exp, MODEL, [], format="stock"):
        stock_config = yaml.safe_load((extracted.directory / "config.yaml").read_text())
        assert (
            stock_config["encoder"] == "conformer" and stock_config["model"] == "espnet"
        )
        stock, _ = load_model(extracted.directory, MODEL)
        assert type(stock.encoder) is encoder_choices.get_class("conformer")
        with model.activate(model.subnet(int(extracted.name))):
            expected = log_probs(model, data)
        torch.testing.assert_close(log_probs(stock, data), expected, atol=1e-6, rtol=0)


def assert_stock_blocks(folder, model, config, size, left_out, zeroed=0, blocks=1):
    """`size` in stock format computes the same with that number of blocks."""
    exp = write_experiment(folder / "asr", model, config)
    (extracted,) = extract(exp, MODEL, [size], format="stock")
    done = f"{left_out} whole blocks left out, {zeroed} dropped layers zeroed"
    stock, stock_config = load_model(extracted.directory, MODEL)
    if left_out:
        whole = build(config | {"model": "espnet", "model_conf": {"ctc_weight": 1.0}})
        numbers = [sum(p.numel() for p in m.parameters()) for m in (stock, whole)]
        assert extracted.note == (
            f"{done}; {numbers[0]:,} of the full model's {numbers[1]:,} parameters are "
            "left"
        )
    else:
        assert extracted.note.startswith(f"{done}; neither smaller nor faster than")
    assert stock_config["encoder_conf"]["num_blocks"] == blocks
    data = batch()
    with model.activate(model.subnet(size)):
        expected = log_probs(model, data)
    torch.testing.assert_close(log_probs(stock, data), expected, atol=1e-6, rtol=0)


def test_stock_format_leaves_whole_blocks_out(tmp_path):
    config = model_config(use_cnn_module=False, num_blocks=3)
    config["model_conf"]["sizes"] = [3, 9]
    model = build(config).eval()
    model.schedule.selection.fixed_masks.copy_(
        torch.tensor([[0, 0, 0, 1, 1, 1, 0, 0, 0], [1] * 9])
    )
    assert_stock_blocks(tmp_path, model, config, 3, left_out=2)


def test_stock_format_keeps_a_block_whose_norms_still_compute(tmp_path):
    plain = dict(macaron_style=False, use_cnn_module=False, normalize_before=False)
    model, config = random_supernet(sizes=[2, 4], selector="first", **plain)
    kept = dict(left_out=0, zeroed=2, blocks=2)
    assert_stock_blocks(tmp_path, model, config, 2, **kept)


def test_aux_loss_sizes_are_stock_conformers_of_fewer_blocks(tmp_path):
    conf = {"selector": "first", "skip_empty_blocks": True, "conv_norm": "batch_norm"}
    model, config = random_supernet(sizes=[4, 8], **conf)
    assert_stock_blocks(tmp_path, model, config, 4, left_out=1)


def test_stock_format_refuses_a_skipped_block_that_has_to_stay(tmp_path):
    """ESPnet counts intermediate outputs by blocks: none can go."""
    conf = {"selector": "first", "skip_empty_blocks": True, "conv_norm": "batch_norm"}
    model, config = random_supernet(sizes=[4, 8], interctc_layer_idx=[1], **conf)
    exp = write_experiment(tmp_path / "asr", model, config)
    with pytest.raises(ConfigError, match="is not for skip_empty_blocks where a block"):
        extract(exp, MODEL, [4], format="stock")
    assert not (tmp_path / "asr_size4_stock").exists()


def test_stock_format_refuses_components(tmp_path):
    model, config = random_supernet(
        sizes=None, budgets={"flops": [0.6, 1]}, **COMPONENTS
    )
    exp = write_experiment(tmp_path / "asr", model, config)
    with pytest.raises(ConfigError, match="not for granularity=component"):
        extract(exp, MODEL, [60], format="stock")


@pytest.mark.parametrize(
    "change", [{"convolution_first": True}, {"input_layer": "vgg"}], ids=str
)
def test_stock_format_refuses_what_espnet_lacks(tmp_path, change):
    model, config = random_supernet(conv_norm="batch_norm", **change)
    exp = write_experiment(tmp_path / "asr", model, config)
    with pytest.raises(ConfigError, match=f"not for {next(iter(change))}"):
        extract(exp, MODEL, [3], format="stock")


def test_stock_format_refuses_kaldi_s_features(tmp_path):
    conf = dict(fs=16000, n_mels=20)
    folder, _ = experiment(tmp_path / "asr", frontend="kaldi", frontend_conf=conf)
    with pytest.raises(ConfigError, match="not for frontend=kaldi"):
        extract(folder, AVERAGED, [3], format="stock")
    assert not (tmp_path / "asr_size3_stock").exists()


def test_stock_format_needs_batch_norm(tmp_path):
    model, config = random_supernet()
    model.schedule.selection.fixed_masks[0] = torch.tensor([0, 0, 1, 0, 0, 0, 1, 1])
    model.schedule.selection.fixed_masks[1] = torch.tensor([1, 0, 1, 0, 0, 1, 1, 1])
    exp = write_experiment(tmp_path / "asr", model, config)
    with pytest.raises(ConfigError, match="needs conv_norm: batch_norm"):
        extract(exp, MODEL, [3], format="stock")
    assert not (tmp_path / "asr_size3_stock").exists()


def test_existing_output_folder_is_left_alone(tmp_path):
    model, config = random_supernet()
    exp = write_experiment(tmp_path / "asr", model, config)
    (tmp_path / "asr_size5").mkdir()
    (tmp_path / "asr_size5" / "mine").write_text("precious")
    with pytest.raises(ConfigError, match="asr_size5 exists"):
        extract(exp, MODEL, [])
    assert [p.name for p in (tmp_path / "asr_size5").iterdir()] == ["mine"]
    assert not (tmp_path / "asr_size3").exists()


@pytest.mark.parametrize("format", ["plugin", "stock"])
def test_a_command_that_was_killed_is_given_again(tmp_path, format):
    model, config = random_supernet(conv_norm="batch_norm")
    exp = write_experiment(tmp_path / "asr", model, config)
    (first,) = extract(exp, MODEL, [5], format)
    checkpoint = first.directory / MODEL
    written = checkpoint.stat().st_mtime_ns
    done = extract(exp, MODEL, [], format)
    assert [size.name for size in done] == ["5", "3", "8"]
    assert [size.note.endswith("(was there before)") for size in done] == [1, 0, 0]
    assert checkpoint.stat().st_mtime_ns == written


@pytest.mark.parametrize("kind", ["config", "weights", "lost", "supernet"])
def test_a_size_that_has_been_changed_is_left_alone(tmp_path, kind):
    model, config = random_supernet()
    exp = write_experiment(tmp_path / "asr", model, config)
    folder = extract(exp, MODEL, [5])[0].directory
    states = torch.load(folder / MODEL)
    if kind == "config":
        with (folder / "config.yaml").open("a") as file:
            file.write("max_epoch: 3\n")
    elif kind == "weights":
        states["ctc.ctc_lo.bias"] += 1
        torch.save(states, folder / MODEL)
    elif kind == "lost":
        (folder / MODEL).unlink()
    else:
        model.ctc.ctc_lo.bias.data.add_(1.0)
        torch.save(model.state_dict(), exp / MODEL)
    (exp / "config_size5.yaml").unlink()
    with pytest.raises(ConfigError, match="asr_size5 exists"):
        extract(exp, MODEL, [])
    assert not (tmp_path / "asr_size3").exists()
    assert [path.name for path in exp.glob("config_*")] == []


def test_search_phase_checkpoint_is_refused(tmp_path):
    config = model_config()
    exp = write_experiment(tmp_path / "asr", build(config), config)
    with pytest.raises(ConfigError, match="size=3 has no layers yet"):
        extract(exp, MODEL, [3])
    with pytest.raises(ConfigError, match="size=3 has no layers yet"):
        extract(exp, MODEL, [])


def test_folder_without_config(tmp_path):
    with pytest.raises(ConfigError, match="has no config.yaml"):
        extract(tmp_path, MODEL, [3])


def test_missing_checkpoint_names_what_there_is(tmp_path):
    model, config = random_supernet()
    exp = write_experiment(tmp_path / "asr", model, config)
    with pytest.raises(ConfigError, match="valid.loss.ave.pth"):
        extract(exp, "valid.acc.ave.pth", [3])


def test_unknown_size(tmp_path):
    model, config = random_supernet()
    exp = write_experiment(tmp_path / "asr", model, config)
    with pytest.raises(ConfigError, match=r"size=4 must be one of \[3, 5, 8\]"):
        extract(exp, MODEL, [4])


def test_checkpoint_of_another_shape(tmp_path):
    model, config = random_supernet()
    exp = write_experiment(tmp_path / "asr", model, config)
    config["encoder_conf"]["linear_units"] = 10
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match="is of a model with another encoder_conf"):
        extract(exp, MODEL, [3])


def test_a_stock_model_is_not_a_supernet(tmp_path):
    config = stock_config()
    exp = write_experiment(tmp_path / "asr", build(config), config)
    with pytest.raises(ConfigError, match="is not a supernet"):
        extract(exp, MODEL, [3])


def test_inference_task_loads_an_extracted_model(tmp_path):
    from espnet_dynsize.train.task import DynSizeASRTask

    model, config = random_supernet()
    exp = write_experiment(tmp_path / "asr", model, config)
    (extracted,) = extract(exp, MODEL, [5])
    loaded, args = DynSizeASRTask.build_model_from_file(
        extracted.directory / "config.yaml", extracted.directory / MODEL
    )
    assert isinstance(args, argparse.Namespace)
    data = batch()
    with model.activate(model.subnet(5)):
        expected = log_probs(model, data)
    torch.testing.assert_close(
        log_probs(loaded.eval(), data), expected, atol=1e-6, rtol=0
    )
