"""Writes options.md: every option of the plugin, from docstrings and signatures.

python docs/make_options.py
"""

import inspect
import json
import re
import typing
from collections.abc import Iterable
from pathlib import Path

from espnet_dynsize.control.sampler import Sandwich
from espnet_dynsize.control.selection import Search
from espnet_dynsize.control.selectors import SELECTORS
from espnet_dynsize.control.sparsity.mest import Mest
from espnet_dynsize.control.sparsity.omni import Omni
from espnet_dynsize.core.schema import words
from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.encoder.contextual import ContextualSupernet
from espnet_dynsize.encoder.front_end import FRONT_ENDS, STREAMING_FRONT_ENDS
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.train.choices import CHUNKED_ENCODERS, ENCODERS
from espnet_dynsize.train.forgetting import Forgetting
from espnet_dynsize.train.model import JointLoss

PAGE = Path(__file__).with_name("options.md")
# What a docstring names → where this page has it
LINKS = {
    "`espnet_dynsize.control.selectors`": "[`selector`](#selector)",
    "`espnet_dynsize.control.sampler`": "[`sandwich`](#sandwich)",
    "`LayerSelector`": "[`LayerSelector`](add_a_selector.md)",
    "`FRONT_ENDS`": "[these](#input_layer)",
    "`Omni`": "[its options](#sparsity)",
    "`Mest`": "[its options](#sparsity)",
    "`Forgetting`": "[its options](#forgetting)",
}
_ENTRY = re.compile(r"^ {4}(\w+): (.*)")
INTRO = """\
# Options

What this plugin adds to an ESPnet training config. A family is a few lines of it:

```yaml
encoder: dynsize_conformer
encoder_conf:
    num_blocks: 6              # 4 layers each
    macaron_style: true
    # ... any other option of ESPnet's Conformer
model: dynsize
model_conf:
    sizes: [8, 16, 24]         # layers kept; the last is the full encoder
    selector: simple_top_k
    selector_conf:
        search_fraction: 0.2   # of all updates
    ctc_weight: 1.0            # an option of ESPnet's model
```

All options of ESPnet's own encoders and models stay as they are, except
[a few that do not go with subnets](limits.md#training). A default of `null` means that
the key is left out. In a cut model, `model` is `espnet` and `model_conf` has none of
the keys below.

This page is made of the docstrings: change those, then run
`python docs/make_options.py`.
"""


def page() -> str:
    """The content of options.md."""
    parts = [INTRO, "## encoder\n", _choices(ENCODERS)]
    parts += ["Of ESPnet's task `asr_transducer`:\n", _choices(CHUNKED_ENCODERS)]
    parts += ["## encoder_conf\n", "Of every encoder:\n", table(Supernet)]
    parts += ["Of `dynsize_conformer` besides:\n", table(DynSizeConformerEncoder)]
    parts += ["`dynsize_chunked` has `conv_norm` for its Conformer blocks, too.\n"]
    parts += ["Of streaming encoders besides (and `conv_norm` of their Conformer):\n"]
    parts += [table(ContextualSupernet)]
    parts += ["### input_layer\n", "Besides ESPnet's:\n", _choices(FRONT_ENDS)]
    names = ", ".join(f"`{name}`" for name in STREAMING_FRONT_ENDS)
    parts += [f"Of these, streaming encoders have {names}.\n"]
    parts += ["## model_conf\n", "With `model: dynsize`:\n", table(JointLoss)]
    parts += ["### sparsity\n", "Of a family of sparsities, or one of them:\n"]
    parts += [table(Omni), "Of sparse training:\n", table(Mest)]
    parts += ["### forgetting\n", table(Forgetting)]
    parts += ["### sandwich\n", _text(entries(Sandwich)["rule"]) + "\n"]
    parts += ["### selector\n", "`selector_conf` has the options of the selector:\n"]
    for name, selector in SELECTORS.items():
        source = inspect.getmodule(selector).__doc__.strip()  # names the paper
        parts += [f"#### {name}\n", f"{source}\n", f"{_text(body(selector))}\n"]
        parts += [table(selector) or "No options.\n"]
    parts += ["#### Options of the search\n"]
    parts += ["In `selector_conf`, too:\n", table(Search)]
    return "\n".join(parts)


def table(cls: type) -> str:
    """Key, default, what is allowed, meaning; empty without options of its own."""
    texts = entries(cls)
    options = inspect.signature(cls.__init__).parameters
    hints = typing.get_type_hints(cls.__init__, include_extras=True)
    rows = [
        f"| `{name}` | {_default(options[name].default)} | {words(hints[name])} "
        f"| {_text(text)} |"
        for name, text in texts.items()
        if name in options and name not in ("input_size", "family")
    ]
    return _table(["key", "default", "allowed", "meaning"], rows) if rows else ""


def entries(cls: type) -> dict[str, str]:
    """Option → its text, from the section `Args` of the class's docstring."""
    found: dict[str, str] = {}
    name = None
    for line in _sections(cls)[1].splitlines():
        entry = _ENTRY.match(line)
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif name and line.startswith(" " * 8):
            found[name] += f" {line.strip()}"
        else:
            name = None
    return found


def body(cls: type) -> str:
    """What a class's docstring says before its sections."""
    return _sections(cls)[0].strip()


def _sections(cls: type) -> tuple[str, str]:
    """The docstring before `Args:`, and that section."""
    before, _, after = inspect.getdoc(cls).partition("\nArgs:\n")
    return before, re.split(r"^\w", after, maxsplit=1, flags=re.MULTILINE)[0]


def _choices(classes: dict[str, type]) -> str:
    rows = [f"| `{n}` | {_text(_first(body(c)))} |" for n, c in classes.items()]
    return _table(["value", "meaning"], rows)


def _first(text: str) -> str:
    """The first paragraph, on one line."""
    return " ".join(text.split("\n\n")[0].split())


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    heads = list(heads)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows]
    return "\n".join(lines) + "\n"


def _default(value) -> str:
    if value is inspect.Parameter.empty:
        return "needed"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _text(text: str) -> str:
    for name, link in LINKS.items():
        text = text.replace(name, link)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
