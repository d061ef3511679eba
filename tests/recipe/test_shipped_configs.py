"""Every training yaml that ships builds a model, and its family can be cut."""

import argparse
import json
import math
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from an4_methods import SUPERNETS, arguments, config_file
from conftest import TOKENS
from espnet2.bin import (
    asr_inference,
    asr_inference_streaming,
    asr_transducer_inference,
)
from espnet2.tasks.abs_task import scheduler_classes
from espnet2.tasks.lm import LMTask

import espnet_dynsize
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.keys import family_sizes
from espnet_dynsize.core.yaml_base import load_config
from espnet_dynsize.deploy.cut import cut
from espnet_dynsize.deploy.experiment import build_model, task_of
from espnet_dynsize.recipe.family import _check_training
from espnet_dynsize.recipe.options import parse
from espnet_dynsize.recipe.refused import check_decoding, check_family
from espnet_dynsize.train.model import JointLoss
from espnet_dynsize.train.task import DynSizeASRTask

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    path
    for places in ("espnet_dynsize/demo/digits", "egs2/*/*/conf/**/train_asr*")
    for path in ROOT.glob(f"{places}.yaml")
)
OTHERS = sorted(
    path
    for name in ("train_lm", "decode*")
    for path in ROOT.glob(f"egs2/*/*/conf/**/{name}.yaml")
)
NARROW = dict(output_size=16, attention_heads=2, linear_units=16, cnn_module_kernel=3)


def full_config(path: Path) -> dict:
    """What ESPnet makes of the yaml: its defaults, then the yaml's values."""
    espnet_dynsize.register()
    given = load_config(path)
    config = task_of(given).get_default_config()
    assert set(given) <= set(config), "a key that ESPnet does not know"
    return {**config, **given, "token_list": TOKENS}


@pytest.fixture(scope="module")
def readme_config(tmp_path_factory) -> Path:
    """The config that the README shows as a whole one."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    path = tmp_path_factory.mktemp("readme") / "train.yaml"
    path.write_text(block)
    return path


def test_the_readme_s_config_trains(readme_config, cuda_dtypes):
    test_config_builds_trains_and_is_cut(readme_config, cuda_dtypes)


def test_there_are_configs():
    assert len(CONFIGS) >= 16
    assert {p.name for p in OTHERS} >= {"train_lm.yaml", "decode_asr.yaml"}
    every = {p for p in ROOT.glob("egs2/*/*/conf/**/*.yaml") if p.name != "base.yaml"}
    assert every <= {*CONFIGS, *OTHERS}


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_decodes_and_language_models(path):
    """With no key that ESPnet does not know."""
    given = load_config(path)
    if path.name.startswith("decode"):
        scripts = {
            "decode_streaming.yaml": asr_inference_streaming,
            "decode_chunked.yaml": asr_transducer_inference,
        }
        script = scripts.get(path.name, asr_inference)
        known = {action.dest for action in script.get_parser()._actions}
        assert set(given) <= known
        return
    defaults = LMTask.get_default_config()
    assert set(given) <= set(defaults)
    config = {**defaults, **given, "token_list": TOKENS}
    model = LMTask.build_model(argparse.Namespace(**config))
    (optimizer,) = LMTask.build_optimizers(argparse.Namespace(**config), model)
    scheduler_classes[config["scheduler"]](optimizer, **config["scheduler_conf"])
    text = torch.randint(2, len(TOKENS) - 1, (2, 5))
    loss, *_ = model(text=text, text_lengths=torch.tensor([5, 3]))
    loss.backward()
    optimizer.step()
    assert math.isfinite(loss.item())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_config_builds_trains_and_is_cut(path, cuda_dtypes):
    config = full_config(path)
    config["frontend_conf"]["n_mels"] = 20
    options = config["encoder_conf"]
    options |= {key: value for key, value in NARROW.items() if key in options}
    config["scheduler_conf"] = config["scheduler_conf"] or {}
    model = build_model(config).train()
    args = argparse.Namespace(**config)
    (optimizer,) = task_of(config).build_optimizers(args, model)
    scheduler = scheduler_classes[config["scheduler"]](
        optimizer, **config["scheduler_conf"]
    )
    if not isinstance(model, JointLoss):
        losses = [update(model, optimizer, scheduler) for _ in range(2)]
        assert all(math.isfinite(loss) for loss in losses)
        return
    if model.schedule.sparsity is not None:
        sparsities_train_and_are_cut(model, config, optimizer, scheduler, cuda_dtypes)
        return
    selection = model.schedule.selection
    selection.plan(10**6)
    first = selection.phase
    # Every subnet of a step trains, with the types that a GPU's mixed precision has.
    if config["decoder"] in (
        "transducer",
        "rnn",
    ):  # an LSTM, for which CPUs have no bfloat16
        cuda_dtypes = nullcontext
    losses = [update(model, optimizer, scheduler, cuda_dtypes)]
    selection.fixed_masks.copy_(selection.selector.masks())
    losses += [update(model, optimizer, scheduler, cuda_dtypes) for _ in range(2)]
    assert (first, selection.phase) == (0, 1)
    assert all(math.isfinite(loss) for loss in losses)
    for size, subnet in zip(family_sizes(config), selection.subnets()):
        small, states = cut(model, config, subnet)
        kept = small["encoder_conf"]["keep_layers"]
        assert len(kept) == sum(subnet.units)
        assert "sizes" not in config["model_conf"] or len(kept) == size
        assert set(build_model(small).state_dict()) == set(states)


def test_run_sh_takes_the_config_of_the_other_task():
    path = ROOT / "egs2/an4_dynsize/asr1/conf/train_asr_chunked.yaml"
    config = load_config(path)
    argv = ["--python", "espnet-dynsize run", "--asr_config", str(path)]
    argv += ["--use_lm", "false", "--inference_asr_model", "valid.loss.ave.pth"]
    argv += ["--inference_config", str(path.with_name("decode_chunked.yaml"))]
    given = parse([*argv, "--asr_task", "asr_transducer"])
    check_family(given, config)
    check_decoding(given, config)
    _check_training(given, config)


@pytest.mark.parametrize("name", ["an4", "librispeech", "tedlium2"])
def test_run_sh_takes_the_streaming_config(name):
    path = ROOT / f"egs2/{name}_dynsize/asr1/conf/train_asr_streaming.yaml"
    config = load_config(path)
    phase, criterion, _ = config["best_model_criterion"][0]
    argv = ["--python", "espnet-dynsize run", "--asr_config", str(path)]
    argv += ["--use_lm", "false"]
    argv += ["--inference_asr_model", f"{phase}.{criterion}.ave.pth", "--use_streaming"]
    argv += ["true", "--inference_config", str(path.with_name("decode_streaming.yaml"))]
    given = parse(argv)
    check_family(given, config)
    check_decoding(given, config)
    _check_training(given, config)
    for wrong in ("--feats_normalize utterance_mvn", "--feats_type extracted"):
        with pytest.raises(ConfigError, match="normalize=utt|input_size=.* be null"):
            _check_training(parse([*argv, *wrong.split()]), config)


def sparsities_train_and_are_cut(model, config, optimizer, scheduler, dtypes):
    model.schedule.plan(8)
    losses = [update(model, optimizer, scheduler, dtypes) for _ in range(7)]
    assert all(math.isfinite(loss) for loss in losses)
    sparsity = config["model_conf"]["sparsity"]
    levels = [sparsity["target"]] if "target" in sparsity else sparsity["levels"]
    members = model.schedule.members()
    assert sorted({m.sparsity for m in members}) == [round(100 * v) for v in levels]
    for member in members:
        small, states = cut(model, config, model.subnet(member))
        assert set(build_model(small).state_dict()) == set(states)
        names = {f"encoder.{name}.weight" for name in model.schedule.sparsity.matrices}
        kept = [states[name] for name in names & set(states)]
        zeros = sum(int((weight == 0).sum()) for weight in kept)
        share = zeros / sum(weight.numel() for weight in kept)
        assert abs(100 * share - member.sparsity) < 1


def update(model, optimizer, scheduler, dtypes=nullcontext) -> float:
    """One training step on noise: a second, or more than a streaming block."""
    longest = 16_000
    if model.encoder.__class__.__name__.startswith("DynSizeContextual"):
        longest *= 2
    if hasattr(model, "begin_update"):
        model.begin_update(0)
    data = dict(
        speech=torch.randn(2, longest),
        speech_lengths=torch.tensor([longest, 12_000]),
        text=torch.tensor([[2, 3, 4], [3, 2, -1]]),
        text_lengths=torch.tensor([3, 2]),
    )
    with dtypes():
        loss = model(**data)[0].sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    return float(loss.detach())


@pytest.mark.parametrize("method", SUPERNETS)
def test_every_method_is_some_options_away_from_the_recipe_s_config(method, tmp_path):
    """The benchmark's methods, through ESPnet's own reading of yaml and options."""
    espnet_dynsize.register()
    options = ["--config", str(config_file(method)), "--output_dir", str(tmp_path)]
    changes = SUPERNETS[method]
    parsed = DynSizeASRTask.get_parser().parse_args([*options, *arguments(changes)])
    model = build_model({**vars(parsed), "token_list": TOKENS})
    counts = [(8, 16, 24), (4, 12, 24), (6, 12, 18)]
    assert model.schedule.selection.sizes in [*counts, (26, 56, 100), (38, 63, 100)]
    assert list(model.schedule.selection.sizes) == family_sizes(vars(parsed))
    for option, conf in changes.items():
        for key, wanted in conf.items():
            given = getattr(parsed, option)[key]
            assert json.loads(json.dumps(wanted)) == given
