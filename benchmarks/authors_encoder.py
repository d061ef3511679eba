"""Our encoder next to the one of the paper's authors: same gates, time of a step.

    git clone -b jing-dynamic-encoder-size https://github.com/rwth-i6/i6_models DIR
    python benchmarks/authors_encoder.py --i6_models DIR [--repeats 5] [--threads 1]

Both have 12 blocks of the same shape with absolute positions and no front-end, and
train sizes 16, 32 and 48 on the same input; our subnets encode one after another, as in
`model: dynsize`. The steps take turns and a ratio is the median over turns. Their code
runs as it is, but for its `.cuda()` on a CPU.
"""

import argparse
import contextlib
import io
import json
import logging
import platform
import statistics
import sys
from pathlib import Path

import torch
from torch.utils.benchmark import timer

from espnet_dynsize.control.sampler import Sandwich
from espnet_dynsize.control.selectors.iterative_zero_out import IterativeZeroOut
from espnet_dynsize.control.selectors.relaxed_top_k import (
    relaxed_top_k,
    straight_through_top_k,
)
from espnet_dynsize.control.selectors.selector import Gates
from espnet_dynsize.control.selectors.simple_top_k import (
    SimpleTopK,
    annealed_k,
    falling_k,
)
from espnet_dynsize.core.family import family_of_counts
from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.train.build import build_schedule
from espnet_dynsize.train.model import SUBNET_WEIGHT
from espnet_dynsize.train.release import release

RESULT = Path(__file__).resolve().parent / "results" / "authors_encoder"
DIM, HEADS, KERNEL, BLOCKS = 144, 4, 31, 12
BATCH, FRAMES, LABELS = 8, 80, 79
SIZES = [16, 32, 48]
DROPOUT = 0.1
LAYER_DROP = 0.4  # stochastic depth in the joint phase, as published for three sizes
SEARCH = 320  # updates; k falls by 4 in 8 parts
PUBLISHED_WEIGHT = 0.3  # of the smaller sizes, where all train in every step


class Theirs(torch.nn.Module):
    """Their encoder with a loss.

    Args:
        selection: `simple_top_k` or `iterative_zero_out`.
    """

    def __init__(self, selection: str):
        super().__init__()
        self.selection = selection
        self.encoder = _their_encoder(selection)
        self.head = torch.nn.Linear(DIM, LABELS)

    def forward(self, update: int, data: dict) -> torch.Tensor:
        joint = update >= SEARCH
        mask = torch.arange(FRAMES) < data["lengths"][:, None].cpu()
        mask = mask.to(data["x"].device)
        penalty = 0.0
        if self.selection == "simple_top_k":
            schedule = dict(k_anneal_num_steps_per_iter=40, k_reduction_per_iter=4)
            outputs, _ = self.encoder(data["x"], mask, update, schedule)[:2]
        else:
            schedule = dict(
                num_steps_per_iter=[SEARCH // 8] * 8,
                num_zeroout_elements_per_iter=list(range(4, 33, 4)),
            )
            outputs, used, _ = self.encoder(data["x"], mask, update, schedule)
            if not joint:
                penalty = 5 * ((48 - used) / 48 - 4 / 48).abs()
        sizes = SIZES if joint else (SIZES[0], SIZES[-1])
        losses = [
            (1.0 if size == SIZES[-1] else PUBLISHED_WEIGHT)
            * _loss(self.head, outputs[SIZES.index(size)], data)
            for size in sizes
        ]
        return sum(losses) + penalty


class Ours(torch.nn.Module):
    """Our encoder with the same loss; a step is that of `model: dynsize`.

    Args:
        selection: As for `Theirs`, or the dotted path of a selector.
        rule: What trains in a step, see `Sandwich`.
        **selector_conf: Options of the selector.
    """

    def __init__(self, selection: str, rule: str = "whole", **selector_conf):
        super().__init__()
        conf = dict(search_updates=SEARCH, **selector_conf)
        if selection != "iterative_zero_out":
            conf["k_step"] = 4
        self.encoder = _our_encoder()
        self.head = torch.nn.Linear(DIM, LABELS)
        family = family_of_counts(SIZES, self.encoder.num_units)
        self.schedule = build_schedule(family, selection, conf, rule)
        self.schedule.selection.plan(10 * SEARCH)
        weight = PUBLISHED_WEIGHT if rule == "whole" else SUBNET_WEIGHT
        self.sampler = Sandwich(self.schedule.selection, rule, weight, LAYER_DROP)

    def forward(self, update: int, data: dict) -> torch.Tensor:
        schedule = self.schedule
        schedule.update.fill_(update)
        schedule.begin_update(0)
        samples = self.sampler.draw(schedule.now, schedule.draws())
        total = schedule.penalty()
        for sampled in samples:
            with self.encoder.activate(sampled):
                encoded = self.encoder(data["x"], data["lengths"])[0]
            loss = sampled.weight * _loss(self.head, encoded, data)
            if sampled is not samples[-1]:
                loss = release(loss, self.parameters())
            total = total + loss
        return total


class SoftTopK(SimpleTopK):
    """The authors' other variant: the gates are the soft ones, which add up to k."""

    def gates(
        self, update: int, search_updates: int, generator: torch.Generator
    ) -> Gates:
        k = falling_k(self, update, search_updates, self.k_step)
        return Gates(k, relaxed_top_k(self.scores, k))


def _our_encoder() -> DynSizeConformerEncoder:
    return DynSizeConformerEncoder(
        DIM,
        conv_norm="layer_norm",
        output_size=DIM,
        attention_heads=HEADS,
        linear_units=4 * DIM,
        num_blocks=BLOCKS,
        dropout_rate=DROPOUT,
        positional_dropout_rate=0.0,
        attention_dropout_rate=DROPOUT,
        input_layer=None,
        macaron_style=True,
        pos_enc_layer_type="abs_pos",
        selfattention_layer_type="selfattn",
        activation_type="swish",
        use_sdpa=True,
        cnn_module_kernel=KERNEL,
    )


def _loss(head, out, data) -> torch.Tensor:
    log_probs = head(out).log_softmax(-1).transpose(0, 1)
    lengths = data["lengths"]
    loss = torch.nn.functional.ctc_loss(
        log_probs,
        data["text"],
        lengths,
        data["text_lengths"],
        reduction="sum",
        zero_infinity=True,
    )
    return loss / lengths.sum()


def _their_encoder(selection: str) -> torch.nn.Module:
    import importlib

    package = "i6_models.assemblies.conformer_with_dynamic_model_size"
    module = importlib.import_module(f"{package}.selection_with_{selection}")
    from i6_models.config import ModelConfiguration, ModuleFactoryV1
    from i6_models.parts import conformer as parts
    from i6_models.parts.conformer.norm import LayerNormNC

    class NoFrontend(torch.nn.Module):
        def __init__(self, cfg):
            super().__init__()

        def forward(self, x, mask):
            return x, mask

    block = module.ConformerBlockConfig(
        ff_cfg=parts.ConformerPositionwiseFeedForwardV1Config(
            DIM, 4 * DIM, DROPOUT, torch.nn.functional.silu
        ),
        mhsa_cfg=parts.ConformerMHSAV1Config(DIM, HEADS, DROPOUT, DROPOUT),
        conv_cfg=parts.ConformerConvolutionV1Config(
            DIM, KERNEL, DROPOUT, torch.nn.functional.silu, LayerNormNC(DIM)
        ),
        layer_dropout=0.0,
        modules=["ff", "mhsa", "conv", "ff"],
    )
    extra = {}
    if selection == "iterative_zero_out":
        extra["layer_gate_activation"] = torch.nn.Sigmoid()
    config = module.ConformerEncoderConfig(
        num_layers=BLOCKS,
        frontend=ModuleFactoryV1(NoFrontend, ModelConfiguration()),
        block_cfg=block,
        num_layers_set=SIZES,
        layer_dropout_kwargs=dict(
            layer_dropout_stage_1=0.0, layer_dropout_stage_2=LAYER_DROP
        ),
        **extra,
    )
    return module.ConformerEncoder(config)


def compare_gates() -> list[dict]:
    """Largest differences between their numbers and ours for the same scores."""
    from i6_models.parts.conformer_with_dynamic_model_size.relaxed_top_k import (
        RelaxedTopK,
    )

    torch.manual_seed(0)
    rows = []
    for hard in (False, True):
        worst = slope = 0.0
        for k in range(1, 49):
            scores = torch.randn(48, requires_grad=True)
            weight = torch.randn(48)
            theirs = RelaxedTopK(k, hard)(scores)
            ours = relaxed_top_k(scores, k)
            ours = straight_through_top_k(ours, k) if hard else ours
            worst = max(worst, float((ours - theirs).abs().max()))
            gradients = [
                torch.autograd.grad((g * weight).sum(), scores, retain_graph=True)[0]
                for g in (ours, theirs)
            ]
            slope = max(slope, float((gradients[0] - gradients[1]).abs().max()))
        name = "Simple-Top-k gates" + (", straight-through" if hard else "")
        rows.append(dict(name=name, gates=worst, gradients=slope))
    rows.append(_compare_zero_out())
    rows.append(dict(name="k of every search update", gates=_compare_k(), gradients=0))
    return rows


def _compare_k() -> float:
    """Theirs as in their forward; they change k one update late."""
    return float(
        max(
            abs(
                max(int(44 - update // 40 * 4), 16)
                - annealed_k(update, SEARCH, 48, 16, 4)
            )
            for update in range(SEARCH)
        )
    )


def _compare_zero_out() -> dict:
    family = family_of_counts(SIZES, 48)
    ours = IterativeZeroOut(family, iterations=8)
    theirs = Theirs("iterative_zero_out").encoder
    torch.nn.init.normal_(ours.scores, 2.0, 3.0)
    theirs.layer_gates.data.copy_(ours.scores)
    gates = theirs.layer_gate_activation(theirs.layer_gates)
    worst = slope = 0.0
    for iteration in range(8):
        values = ours.gates(40 * iteration, SEARCH, None).values
        our_penalty = ours.penalty(40 * iteration, SEARCH, None)
        penalty = 5 * ((48 - gates.sum()) / 48 - (4 * iteration + 4) / 48).abs()
        worst = max(worst, float((values - gates).abs().max()))
        worst = max(worst, float((our_penalty - penalty).abs()))
        gradients = (
            torch.autograd.grad(our_penalty, ours.scores)[0],
            torch.autograd.grad(penalty, theirs.layer_gates, retain_graph=True)[0],
        )
        slope = max(slope, float((gradients[0] - gradients[1]).abs().max()))
    return dict(name="Iterative-Zero-Out gates and loss", gates=worst, gradients=slope)


def batch(device: str) -> dict:
    generator = torch.Generator().manual_seed(0)
    data = dict(
        x=torch.randn(BATCH, FRAMES, DIM, generator=generator),
        lengths=torch.arange(FRAMES - BATCH + 1, FRAMES + 1).flip(0),
        text=torch.randint(1, LABELS, (BATCH, 20), generator=generator),
        text_lengths=torch.full((BATCH,), 20),
    )
    return {key: value.to(device) for key, value in data.items()}


def timed_step(model, optimizer, update: int, data: dict) -> float:
    # Not a `Timer`, which calls twice to warm up before each time: thrice the hours.
    start = timer()  # waits for the device
    model(update, data).backward()
    optimizer.step()
    optimizer.zero_grad()
    return timer() - start


def time_steps(selection: str, repeats: int, device: str) -> list[dict]:
    """Median ratios of our steps to theirs, in both phases."""
    models = {"theirs": Theirs(selection), "ours": Ours(selection)}
    if selection == "simple_top_k":
        models["ours, hard gates"] = models["ours"]
        models["ours"] = Ours(f"{__name__}.SoftTopK")
    models["ours, default step"] = Ours(selection, rule="alternate")
    models["ours, pairs"] = Ours(selection, rule="pairs")
    models = {name: model.to(device).train() for name, model in models.items()}
    optimizers = {n: torch.optim.Adam(m.parameters()) for n, m in models.items()}
    data, rows = batch(device), []
    # Six neighbours: sizes take turns of two or three updates.
    for phase, updates in (
        ("search", [u + turn for u in range(1, SEARCH, 40) for turn in range(6)]),
        ("joint", range(SEARCH + 1, SEARCH + 13)),
    ):
        times: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(repeats + 1):
            for name, model in models.items():
                seconds = sum(
                    timed_step(model, optimizers[name], update, data)
                    for update in updates
                )
                if turn > 0:
                    times[name].append(seconds)
        for name in list(models)[1:]:
            ratio = statistics.median(
                a / b for a, b in zip(times[name], times["theirs"])
            )
            row = dict(selection=selection, phase=phase, name=name)
            rows.append(dict(row, ratio=round(ratio, 3)))
    return rows


def markdown(gates: list[dict], times: list[dict], machine: str) -> str:
    lines = [
        "| same scores | largest difference | of gradients |",
        "|---|---:|---:|",
        *(f"| {r['name']} | {r['gates']:.1e} | {r['gradients']:.1e} |" for r in gates),
        "",
        f"Time of a training step, theirs = 1 ({machine}):",
        "",
        "| selection | phase | encoder | time |",
        "|---|---|---|---:|",
        *(
            f"| {r['selection']} | {r['phase']} | {r['name']} | {r['ratio']:.2f} |"
            for r in times
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--i6_models", type=Path, help="checkout of their branch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    package = "i6_models/assemblies/conformer_with_dynamic_model_size"
    if args.i6_models is None or not (args.i6_models / package).is_dir():
        print(f"Skipped: --i6_models={args.i6_models} does not hold {package}.")
        return
    sys.path.insert(0, str(args.i6_models))
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    if args.device == "cpu":
        torch.Tensor.cuda = lambda self, *args, **kwargs: self
    with contextlib.redirect_stdout(io.StringIO()):  # their encoder prints
        gates = compare_gates()
        times = [
            row
            for selection in ("simple_top_k", "iterative_zero_out")
            for row in time_steps(selection, args.repeats, args.device)
        ]
    machine = f"{platform.machine()} CPU, {args.threads} thread(s)"
    if args.device == "cuda":
        machine = torch.cuda.get_device_name()
    text = markdown(gates, times, machine)
    result = dict(machine=machine, gates=gates, times=times)
    RESULT.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    RESULT.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
