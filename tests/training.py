"""A tiny training through ESPnet's own command-line entry."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from conftest import TOKENS, encoder_conf, split

UTTERANCES = 12


def write_data(folder: Path) -> Path:
    """Random features [frames, 5] and token ids, with the files that training wants."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.RandomState(0)
    feats, texts, shapes = [], [], []
    for i in range(UTTERANCES):
        frames = 16 + i
        np.save(folder / f"{i}.npy", dice.randn(frames, 5).astype(np.float32))
        feats.append(f"utt{i:02} {folder / f'{i}.npy'}")
        texts.append(f"utt{i:02} {' '.join(map(str, dice.randint(2, 5, 3)))}")
        shapes.append(f"utt{i:02} {frames},5")
    for name, lines in (("feats.scp", feats), ("text", texts), ("shape", shapes)):
        (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    return folder


def train_arguments(
    data: Path, exp: Path, extra: Sequence[str] = (), **changes
) -> list[str]:
    """Arguments of `asr_train`: 4 batches of 3 utterances an epoch."""
    defaults = dict(
        sizes=[3, 5, 8],
        selector_conf={"search_updates": 6},
        conv_norm="layer_norm",  # batch statistics are each rank's own
    )
    encoder, family = split({**defaults, **changes})
    config = dict(
        encoder="dynsize_conformer",
        encoder_conf=encoder_conf(**encoder),
        model="dynsize",
        model_conf={"ctc_weight": 1.0, **family},
    )
    exp.parent.mkdir(parents=True, exist_ok=True)
    path = exp.parent / f"{exp.name}.yaml"
    path.write_text(yaml.safe_dump(config))
    files = [
        f"--{split}_data_path_and_name_and_type={data / name},{key},{kind}"
        for split in ("train", "valid")
        for name, key, kind in (
            ("feats.scp", "speech", "npy"),
            ("text", "text", "text_int"),
        )
    ]
    shapes = [f"--{split}_shape_file={data / 'shape'}" for split in ("train", "valid")]
    return [
        f"--config={path}",
        f"--output_dir={exp}",
        f"--token_list={data / 'tokens.txt'}",
        *("--input_size=5", "--use_preprocessor=false", "--num_workers=0"),
        *("--batch_type=sorted", "--batch_size=3", "--optim=adam"),
        *("--optim_conf", "lr=0.01", "--best_model_criterion=valid,loss,min"),
        *("--keep_nbest_models=2", "--num_att_plot=0", "--use_matplotlib=false"),
        *("--use_tensorboard=false", "--resume=true", "--seed=3"),
        *files,
        *shapes,
        *extra,
    ]
