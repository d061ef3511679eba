"""Cutting sparse members out of a supernet, and what they are on disk."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import batch, build, log_probs, model_config, randomise
from espnet2.tasks.asr import ASRTask
from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump
from training import step_through

from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.members import Member
from espnet_dynsize.core.subnet import Subnet
from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.extract import extract, extract_changed, extract_subnet
from espnet_dynsize.report import measure
from espnet_dynsize.report.table import collect, markdown
from espnet_dynsize.train.task import DynSizeASRTask

MODEL = "valid.loss.ave.pth"
ENCODERS = {
    "conformer": {},
    "e_branchformer": dict(cgmlp_linear_units=12, use_ffn=True),
    "transformer": {},
}


def sparse_supernet(folder: Path, encoder="conformer", sizes=None, **sparsity):
    """A trained one, in `folder / "asr"`."""
    torch.manual_seed(0)
    options = {"levels": [0, 0.5, 0.8], "refresh_updates": 2, **sparsity}
    config = model_config({"sparsity": options}, sizes=sizes)
    if sizes is not None:
        config["model_conf"]["selector_conf"] = {"search_updates": 1}
    if encoder != "conformer":
        shape = dict(output_size=8, attention_heads=2, num_blocks=2)
        config["encoder"] = f"dynsize_{encoder}"
        config["encoder_conf"] = shape | dict(input_layer="linear", **ENCODERS[encoder])
    model = build(config)
    randomise(model, 0.2)
    model.schedule.plan(20)
    for _ in range(20):
        model.begin_update(0)
    exp = folder / "asr"
    exp.mkdir()
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), exp / MODEL)
    return model.eval(), exp


@pytest.mark.parametrize("pattern", ["4x1", "1x8", "rows", "unstructured"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_extracted_equals_masked_supernet(tmp_path, encoder, pattern):
    model, exp = sparse_supernet(tmp_path, encoder, pattern=pattern)
    data = batch()
    names = []
    for extracted in extract(exp, MODEL, []):
        names.append(extracted.directory.name)
        small, _ = load_model(extracted.directory, MODEL)
        with model.activate(extracted.name):
            expected = log_probs(model, data)
        torch.testing.assert_close(log_probs(small, data), expected, atol=1e-6, rtol=0)
    assert names == ["asr_sparsity0", "asr_sparsity50", "asr_sparsity80"]


def test_sizes_and_sparsities(tmp_path):
    model, exp = sparse_supernet(tmp_path, sizes=[3, 8])
    folders = extract_changed(exp, MODEL)
    assert list(folders) == [
        *("size3", "size3_sparsity50", "size3_sparsity80"),
        *("size8", "size8_sparsity50", "size8_sparsity80"),
    ]
    data = batch()
    for member, folder in zip(model.schedule.members(), folders.values()):
        small, _ = load_model(folder, MODEL)
        with model.activate(member.name):
            expected = log_probs(model, data)
        torch.testing.assert_close(log_probs(small, data), expected, atol=1e-6, rtol=0)
        record = origin.read(folder)
        assert record["member"] == origin.name(record) == member.name
    changed = folders["size3_sparsity80"] / "mine"
    changed.touch()
    extract_changed(exp, MODEL, [Member(3, 80)])
    assert changed.exists()


def test_espnet_itself_opens_what_is_compact(tmp_path):
    model, exp = sparse_supernet(tmp_path)
    (extracted,) = extract(exp, MODEL, ["sparsity80"])
    states = torch.load(extracted.directory / MODEL)
    assert any(name.endswith(".groups") for name in states)
    config = extracted.directory / "config.yaml"
    opened, _ = DynSizeASRTask.build_model_from_file(
        str(config), str(extracted.directory / MODEL), "cpu"
    )
    data = batch()
    with model.activate("sparsity80"):
        expected = log_probs(model, data)
    torch.testing.assert_close(log_probs(opened.eval(), data), expected)


def test_one_line_of_yaml_makes_the_supernet_sparse(tmp_path):
    model, exp = sparse_supernet(tmp_path)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    written = yaml_no_alias_safe_dump(config, indent=4, sort_keys=False)
    (exp / "config.yaml").write_text(written)
    extract(exp, MODEL, ["sparsity50"])
    lines = (exp / "config_sparsity50.yaml").read_text().splitlines()
    lines.remove("    subnet: sparsity50")
    assert lines == written.splitlines()
    (exp / "config_sparsity50.yaml").rename(exp / "config.yaml")
    fixed, _ = load_model(exp, MODEL)
    data = batch()
    with model.activate("sparsity50"):
        expected = log_probs(model, data)
    assert torch.equal(log_probs(fixed, data), expected)


def test_stock_format_has_dense_weights_with_zeros(tmp_path):
    model, exp = sparse_supernet(tmp_path, "transformer")
    (extracted,) = extract(exp, MODEL, ["sparsity80"], "stock")
    assert extracted.directory.name == "asr_sparsity80_stock"
    opened, _ = ASRTask.build_model_from_file(
        str(extracted.directory / "config.yaml"), str(extracted.directory / MODEL)
    )
    data = batch()
    with model.activate("sparsity80"):
        expected = log_probs(model, data)
    torch.testing.assert_close(log_probs(opened.eval(), data), expected)


def test_a_sparsity_for_each_matrix(tmp_path):
    model, exp = sparse_supernet(tmp_path)
    share = {name: 0.25 * (i % 3) for i, name in enumerate(model.encoder.matrices())}
    subnet = Subnet((True,) * 8).sparse(share)
    assert Subnet.from_yaml(subnet.to_yaml()) == subnet
    extracted = extract_subnet(exp, MODEL, subnet, "mine")
    small, _ = load_model(extracted.directory, MODEL)
    data = batch()
    with model.activate(subnet):
        expected = log_probs(model, data)
    torch.testing.assert_close(log_probs(small, data), expected, atol=1e-6, rtol=0)


def test_the_report_tells_what_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "REPEATS", 1)
    model, exp = sparse_supernet(tmp_path, pattern="unstructured")
    folders = [e.directory for e in extract(exp, MODEL, ["sparsity0", "sparsity50"])]
    rows = {row.name: row for row in collect(folders, MODEL)[0]}
    dense, half = rows["asr_sparsity0"], rows["asr_sparsity50"]
    matrices = sum(model.schedule.sparsity.matrices.values())
    assert dense.parameters == half.parameters == dense.kept_weights
    assert half.kept_weights == dense.parameters - matrices // 2
    assert dense.kept_flops == dense.flops == half.flops
    assert 0.3 * half.flops < half.kept_flops < half.flops
    assert "of them not zero" in markdown(list(rows.values()))
    assert "of them not zero" not in markdown([dense])


@pytest.mark.parametrize(
    "options, name",
    [
        (["--sparsity", "0.5"], "asr_size8_sparsity50"),
        (["--size", "3"], "asr_size3"),
        (["--size", "3", "--sparsity", ".80"], "asr_size3_sparsity80"),
    ],
)
def test_the_command(tmp_path, options, name, capsys):
    _, exp = sparse_supernet(tmp_path, sizes=[3, 8])
    assert main(["extract", "--asr_exp", str(exp), *options]) == 0
    folders = {p.name for p in tmp_path.iterdir()} - {"asr"}
    assert folders == {name}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--sparsity", "0.6"], "sparsity=0.6 must be one of [0.0, 0.5, 0.8] or all"),
        (["--sparsity", "x"], "sparsity=x must be one of"),
        (["--size", "3"], "size=3 must be left out: there is one size"),
        ([], "extract needs --size, --sparsity or both, or --subnet"),
    ],
)
def test_what_the_command_refuses(tmp_path, options, message, capsys):
    _, exp = sparse_supernet(tmp_path)
    assert main(["extract", "--asr_exp", str(exp), *options]) == 2
    assert message in capsys.readouterr().err


def test_indices_out_of_range_are_refused(tmp_path):
    _, exp = sparse_supernet(tmp_path)
    (extracted,) = extract(exp, MODEL, ["sparsity80"])
    path = extracted.directory / MODEL
    states = torch.load(path)
    name = next(name for name in states if name.endswith(".groups"))
    states[name] = ~states[name]
    torch.save(states, path)
    with pytest.raises(ConfigError, match="has a compact form that"):
        load_model(extracted.directory, MODEL)


PARTS = {
    "rnn": dict(
        model_conf={"ctc_weight": 0.3},
        decoder="rnn",
        decoder_conf={"hidden_size": 8},
    ),
    "hybrid": dict(
        model_conf={"ctc_weight": 0.3},
        decoder="transformer",
        decoder_conf=dict(attention_heads=2, linear_units=8, num_blocks=1),
    ),
    "transducer": dict(
        model_conf={"ctc_weight": 0.3},
        decoder="transducer",
        decoder_conf={"hidden_size": 8},
        joint_net_conf={"joint_space_size": 8},
    ),
}


@pytest.mark.parametrize("method", ["omni", "mest"])
@pytest.mark.parametrize("kind", PARTS)
def test_decoder_and_joint_network_are_sparse_where_they_are_named(
    tmp_path, kind, method
):
    part = "joint_network" if kind == "transducer" else "decoder"
    pattern = {"feed_forward": "4x1", part: "2x1"}
    sparsity = {"levels": [0, 0.5], "pattern": pattern, "refresh_updates": 2}
    if method == "mest":
        sparsity = dict(method="mest", target=0.5, pattern=pattern)
    config = model_config({"sparsity": sparsity}, sizes=None)
    changes = dict(PARTS[kind])
    config["model_conf"] |= changes.pop("model_conf")
    config |= changes
    torch.manual_seed(0)
    model = build(config).train()
    model.schedule.plan(20)
    data = batch()
    step_through(model, 20, data)
    sparse = set(model.schedule.sparsity.patterns)
    assert {name.split(".")[0] for name in sparse} == {"encoders", part}
    last = {name.split(".")[-1] for name in sparse if name.startswith(part)}
    assert last and not last & {"output", "output_layer", "lin_out"}
    exp = tmp_path / "asr"
    exp.mkdir()
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), exp / MODEL)
    model.eval()
    (cut,) = extract(exp, MODEL, ["sparsity50"])
    states = torch.load(cut.directory / MODEL)
    assert {k.split(".")[0] for k in states if k.endswith(".values")} == {"encoder"}
    zeros = [v for k, v in states.items() if k.startswith(part) and (v == 0).any()]
    assert len([v for v in zeros if v.dim() > 1]) >= 2
    small, _ = load_model(cut.directory, MODEL)
    with model.activate("sparsity50"), torch.no_grad():
        expected = losses(model, data)
    with torch.no_grad():
        torch.testing.assert_close(losses(small.eval(), data), expected)
        dense = losses(model, data)
    assert method == "mest" or not torch.allclose(dense, expected)
    # ESPnet's own way of opening it
    task = DynSizeASRTask if kind == "transducer" else ASRTask  # that has the loss
    opened, _ = task.build_model_from_file(
        cut.directory / "config.yaml", cut.directory / MODEL
    )
    with torch.no_grad():
        torch.testing.assert_close(losses(opened.eval(), data), expected)


def losses(model, data) -> torch.Tensor:
    out, lengths = model.encode(data["speech"], data["speech_lengths"])
    if model.use_transducer_decoder:
        return model._calc_transducer_loss(out, lengths, data["text"])[0]
    return model._calc_att_loss(out, lengths, data["text"], data["text_lengths"])[0]


@pytest.mark.parametrize("pattern", ["rows", "columns"])
def test_rows_and_columns_are_gone_where_a_model_decodes(tmp_path, pattern):
    model, exp = sparse_supernet(tmp_path, pattern=pattern)
    (cut,) = extract(exp, MODEL, ["sparsity80"])
    opened, _ = DynSizeASRTask.build_model_from_file(
        cut.directory / "config.yaml", cut.directory / MODEL
    )
    data = batch()
    with model.activate("sparsity80"):
        expected = log_probs(model, data)
    opened = log_probs(opened.eval(), data), opened
    torch.testing.assert_close(opened[0], expected, atol=1e-6, rtol=0)
    weights = sum(m.weight.numel() for m in opened[1].encoder.matrices().values())
    assert weights < 0.25 * sum(model.schedule.sparsity.matrices.values())
    (row, _), _ = collect([cut.directory, exp], MODEL)
    assert row.parameters < 0.75 * measure.count_parameters(model)
