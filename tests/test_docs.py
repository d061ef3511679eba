"""The pages in docs/: made from the code where they can be, and checked against it."""

import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import torch
import yaml
from conftest import batch, build, model_config
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.tasks.asr import encoder_choices

from espnet_dynsize.bin.main import build_parser
from espnet_dynsize.control.selection import Search
from espnet_dynsize.control.selectors import SELECTORS
from espnet_dynsize.core.keys import ENCODER_KEYS, FAMILY_KEYS
from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.encoder.contextual import ContextualSupernet
from espnet_dynsize.encoder.front_end import FRONT_ENDS
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.train.choices import CHUNKED_ENCODERS, ENCODERS, choices_of
from espnet_dynsize.train.model import JointLoss

SEARCH_KEYS = tuple(field.name for field in dataclasses.fields(Search))
ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for place in ("docs/*.md", "*.md", "egs2/*/*/README.md", "benchmarks/README.md")
    for page in ROOT.glob(place)
)
every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda p: str(p.relative_to(ROOT))
)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.M | re.S)
    return [textwrap.dedent(block) for _, block in found]


def rows(text: str, heading: str) -> dict[str, str]:
    """First column → second column of the tables below a heading."""
    level = heading.index(" ")
    _, _, below = text.partition(f"\n{heading}\n")
    section = re.split(rf"^#{{1,{level}}} ", below, maxsplit=1, flags=re.M)[0]
    own = re.split(r"^#", section, maxsplit=1, flags=re.M)[0]
    return dict(re.findall(r"^\| `(.+?)` \| (.*?) \|", own, re.M))


def options(cls: type) -> dict[str, inspect.Parameter]:
    """A class's own options."""
    found = inspect.signature(cls.__init__).parameters
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    own = {n: p for n, p in found.items() if p.kind not in kinds}
    return {n: p for n, p in own.items() if n not in ("self", "input_size", "family")}


# -- options.md --


@pytest.fixture(scope="module")
def options_page():
    return (DOCS / "options.md").read_text(encoding="utf-8")


def test_the_options_page_is_what_the_script_makes(options_page):
    path = DOCS / "make_options.py"
    spec = importlib.util.spec_from_file_location("make_options", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.page() == options_page, "run python docs/make_options.py"


def test_every_key_has_a_row(options_page):
    assert set(rows(options_page, "## model_conf")) == set(FAMILY_KEYS)
    # ESPnet's, which have no defaults here
    sizes = {"block_size", "hop_size", "look_ahead"}
    assert set(rows(options_page, "## encoder_conf")) == {*ENCODER_KEYS, *sizes}
    names = {*ENCODERS, *CHUNKED_ENCODERS}
    assert set(rows(options_page, "## encoder")) == names
    assert set(rows(options_page, "### input_layer")) == set(FRONT_ENDS)
    search = rows(options_page, "#### Options of the search")
    assert tuple(search) == SEARCH_KEYS


@pytest.mark.parametrize(
    "heading, classes",
    [
        ("## model_conf", [JointLoss]),
        (
            "## encoder_conf",
            [Supernet, DynSizeConformerEncoder, ContextualSupernet],
        ),
        ("#### Options of the search", [Search]),
        *((f"#### {name}", [selector]) for name, selector in SELECTORS.items()),
    ],
    ids=str,
)
def test_defaults_are_those_of_the_signatures(options_page, heading, classes):
    expected = {n: p.default for cls in classes for n, p in options(cls).items()}
    shown = rows(options_page, heading)
    assert f"\n{heading}\n" in options_page
    assert {n: yaml.safe_load(d.strip("`")) for n, d in shown.items()} == expected


# -- every page --


@every_page
def test_links_lead_somewhere(page):
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    kept = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in kept}


def commands(page: Path) -> list[list[str]]:
    """Arguments of every `espnet-dynsize` in a page's code blocks."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["espnet-dynsize"]:
                found.append(words[1:])
    return found


COMMANDS = [words for page in PAGES for words in commands(page)]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_commands_parse(words):
    if words[0] not in ("run", "recipe"):  # these pass everything on
        build_parser().parse_args(words)


def test_there_are_commands():
    verbs = {words[0] for words in COMMANDS}
    assert verbs == {
        *("run", "recipe", "prepare", "extract", "report"),
        *("pack", "transcribe", "export", "convert", "demo"),
    }


@every_page
def test_configs_have_known_keys(page):
    for block in blocks(page, "yaml"):
        check_config(yaml.safe_load(block))


def check_config(config) -> None:
    if not isinstance(config, dict):
        return
    for value in config.values():
        check_config(value)  # ESPnet3 has the model's keys in a section
    encoders, models = choices_of(config)
    known = inspect.signature(models["dynsize"]).parameters
    model_conf = config.get("model_conf") or {}
    assert set(model_conf) <= set(known)
    stock = {n.removeprefix("dynsize_"): n for n in ENCODERS}
    stock["dynsize_branchformer"] = "dynsize_conformer"  # an example's: shared options
    encoder = config.get("encoder", "dynsize_conformer")
    encoder = encoders[stock.get(encoder, encoder)]
    known = inspect.signature(encoder).parameters
    assert set(config.get("encoder_conf") or {}) <= set(known)
    selector = SELECTORS.get(model_conf.get("selector", "simple_top_k"))
    if selector is not None:
        allowed = {*options(selector), *SEARCH_KEYS}
        assert set(model_conf.get("selector_conf") or {}) <= allowed


@every_page
def test_names_of_the_package_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"\bespnet_dynsize(?:\.\w+)+", text)):
        assert exists(name), name
    for name in set(re.findall(r"`(espnet_dynsize/[\w/]+(?:\.py)?)`?", text)):
        assert (ROOT / name).exists(), name


def exists(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if attribute and hasattr(importlib.import_module(module), attribute):
        return True
    return importlib.util.find_spec(name) is not None


@every_page
def test_python_compiles(page):
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")


@every_page
def test_nobody_installs_a_name_that_is_not_ours(page):
    assert "install espnet-dynsize" not in page.read_text(encoding="utf-8")


# -- the examples of the pages on extending --


def test_the_selector_of_the_page_trains(tmp_path, monkeypatch):
    (example,) = blocks(DOCS / "add_a_selector.md", "python")
    (tmp_path / "my_selectors.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    (config,) = blocks(DOCS / "add_a_selector.md", "yaml")
    family = yaml.safe_load(config)["model_conf"] | {"sizes": [3, 5, 8]}
    model = build(model_config(**family)).train()
    selection = model.schedule.selection
    assert type(selection.selector).__name__ == "Sparse"
    assert selection.selector.penalty_weight == 2.0
    before = selection.selector.scores.detach().clone()
    phases = train(model, updates=4)
    assert phases == [0, 0, 1, 1]
    assert (selection.selector.scores != before).all()
    assert selection.masks().sum(dim=1).tolist() == [3, 5, 8]


def test_the_encoder_of_the_page_trains(monkeypatch):
    (example,) = blocks(DOCS / "add_an_encoder.md", "python")
    for classes in (ENCODERS, encoder_choices.classes):  # undone after the test
        monkeypatch.setitem(classes, "dynsize_branchformer", None)
    namespace = {"__name__": "example"}
    exec(example, namespace)
    shape = dict(
        output_size=8,
        attention_heads=2,
        num_blocks=4,
        cgmlp_linear_units=16,
        cgmlp_conv_kernel=3,
        input_layer="linear",
    )
    config = model_config(sizes=[2, 4], selector_conf={"search_updates": 2})
    config |= dict(encoder="dynsize_branchformer", encoder_conf=shape)
    model = build(config)
    stock = BranchformerEncoder(5, **shape).eval()
    stock.load_state_dict(model.encoder.state_dict())
    data = batch()
    features = data["speech"], data["speech_lengths"]
    with torch.no_grad():
        expected, found = stock(*features)[0], model.encoder.eval()(*features)[0]
    torch.testing.assert_close(found, expected)
    assert train(model.train(), updates=4) == [0, 0, 1, 1]


def train(model, updates: int) -> list[float]:
    """Train on one random batch; returns the phase of every update."""
    model.schedule.selection.plan(updates)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data, phases = batch(), []
    for _ in range(updates):
        model.begin_update(0)
        loss, stats, _ = model(**data)
        assert torch.isfinite(loss).all()
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        phases.append(float(stats["phase"]))
    return phases
