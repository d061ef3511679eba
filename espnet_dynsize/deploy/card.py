"""The model card of a packed size, in the format of ESPnet's models on Hugging Face."""

from collections.abc import Sequence
from pathlib import Path

import espnet2
import yaml

from espnet_dynsize.core.about import SOURCE, VERSION
from espnet_dynsize.core.keys import needs_plugin, of_transducer_task
from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.experiment import sampling_rate

# In the supernet's folder: the report that compares its sizes
FAMILY_REPORT = Path("family") / "report.md"
_USE = """\
This model needs ESPnet and its plugin `espnet_dynsize`{source}.

```python
import espnet_dynsize
recogniser = espnet_dynsize.load("{name}")
{call}
```

or, as any ESPnet model, after `espnet_dynsize.register()`, with
`espnet2.bin.{module}.Speech2Text.from_pretrained`.
"""
_CALL = """\
import soundfile
audio, rate = soundfile.read("speech.wav")   # {rate} Hz, mono
((text, *_),) = recogniser(audio)"""
# Of a model without a front-end
_CALL_FEATURES = """\
# features: float array [frames, {size}], as the training's data directories had them
((text, *_),) = recogniser(features)"""
_USE_ONNX = """\
## On a device

Without ESPnet and PyTorch: `pip install onnxruntime numpy soundfile`, and

```sh
python runtime.py {name} speech.wav
```

with `espnet_dynsize/runtime.py` of the plugin{source}, one file. In this zip there are

{listed}
"""
_USE_STOCK = "This size opens in plain ESPnet: `Speech2Text.from_pretrained`.\n"


def packed_name(asr_exp: Path, model_file: str) -> str:
    """Name of the zip of a model, as asr.sh calls it."""
    return f"{asr_exp.name}_{Path(model_file).stem}.zip"


def model_card(
    asr_exp: Path, config: dict, model_file: str, exports: Sequence[Path] = ()
) -> str:
    """README.md of the zip: front matter, origin, family, use, scores and config.

    Args:
        asr_exp: Folder of the model.
        config: Its config.
        model_file: Its checkpoint.
        exports: ONNX files in the folder that go with it.
    """
    record = origin.read(asr_exp) or {}
    # No licence: which one fits is for whoever owns the corpus and the model to say.
    front = dict(
        tags=["espnet", "audio", "automatic-speech-recognition", "espnet_dynsize"]
    )
    size = config.get("input_size")
    call = _CALL_FEATURES.format(size=size)
    if size is None:
        call = _CALL.format(rate=sampling_rate(config))
    source = f" ({SOURCE})" if SOURCE else ""
    names = dict(name=packed_name(asr_exp, model_file), call=call, source=source)
    transducer = of_transducer_task(config)
    module = "asr_transducer_inference" if transducer else "asr_inference"
    use = _USE.format(module=module, **names)
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n",
        f"# {asr_exp.name}\n",
        _origin(record),
        *_family(asr_exp, record),
        f"ESPnet {espnet2.__version__}, espnet_dynsize {VERSION}.\n",
        f"## Use\n\n{use if needs_plugin(config) else _USE_STOCK}",
    ]
    if exports:
        folder = Path("exp") / asr_exp.name
        listed = "\n".join(f"- `{folder / name}`" for name in exports)
        parts.append(
            _USE_ONNX.format(source=source, listed=listed, name=exports[0].name)
        )
    scores = asr_exp / "RESULTS.md"
    if scores.exists():
        parts.append(scores.read_text(encoding="utf-8", errors="replace"))
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    parts.append(f"## ASR config\n\n```\n{text}```\n")
    return "\n".join(parts)


def _origin(record: dict) -> str:
    if not record:
        return "An ESPnet ASR model.\n"
    cut_from = f"cut out of `{record['supernet']}/{record['model_file']}`"
    if "context" in record:
        cut_from += f", in the context {record['context']}"
    cut_from += ".\n"
    if origin.name(record) is None:
        kept, number = record["subnet"]["kept"], record["subnet"]["num_units"]
        return f"A subnet that keeps {len(kept)} of {number} units, {cut_from}"
    family = ", ".join(map(str, record["family"]))
    what = f"Size {record['size']}" if "size" in record else record["member"]
    return (
        f"{what} of a family of sizes ({family}) that were trained in one run, "
        f"{cut_from}"
    )


def _family(asr_exp: Path, record: dict) -> list[str]:
    """The table of all sizes, where a report has been made."""
    if not record:
        return []
    report = asr_exp.with_name(record["supernet"]) / FAMILY_REPORT
    if not report.is_file():
        return []
    return [f"## The family\n\n{report.read_text(encoding='utf-8', errors='replace')}"]
