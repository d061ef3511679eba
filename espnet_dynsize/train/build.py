"""From the keys of `model_conf` to the family, its selection and its sampler."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_dynsize.control.sampler import GATE_EVERY, SandwichRule
from espnet_dynsize.control.schedule import Schedule
from espnet_dynsize.control.selection import Search, Selection
from espnet_dynsize.control.selectors import find_selector
from espnet_dynsize.control.selectors.stored import StoredSelector
from espnet_dynsize.control.sparsity.base import (
    OUTPUTS,
    Sparsity,
    find_patterns,
    other_parts,
)
from espnet_dynsize.control.sparsity.mest import Mest, MestSparsity
from espnet_dynsize.control.sparsity.omni import Omni, OmniSparsity
from espnet_dynsize.core.context import WHOLE, Context, read_contexts
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.family import Family, family_of_budgets, family_of_counts
from espnet_dynsize.core.schema import check_options, check_value
from espnet_dynsize.encoder import costs
from espnet_dynsize.encoder.sparse import is_matrix, make_masked
from espnet_dynsize.encoder.supernet import Supernet

BudgetKind = Literal["flops", "params"]
# What a budget can count → how an encoder's units are measured in it
BUDGETS = {"flops": costs.flops, "params": costs.parameters}


def build_family(
    encoder: Supernet,
    sizes: Sequence[int] | None,
    budgets: dict[str, Sequence[float]] | None,
    sparse: bool = False,
) -> Family:
    """The family of `sizes` or of `budgets`; of the full size only with neither.

    Args:
        encoder: The supernet.
        sizes: See `JointLoss`.
        budgets: The same.
        sparse: There are sparsities, so that neither is needed.

    Raises:
        ConfigError: neither or both are given, or they are out of range.
    """
    if sizes is None and budgets is None and sparse:
        sizes = [encoder.num_units]
    if (sizes is None) == (budgets is None):
        raise ConfigError(
            f"model_conf: sizes={sizes} and budgets={budgets}: model: dynsize needs "
            "one of them; a cut model trains with model: espnet."
        )
    if encoder.is_cut:
        raise ConfigError(
            "model: dynsize is not for an encoder with keep_layers or keep_components: "
            "a cut model trains with model: espnet."
        )
    if sizes is not None:
        # A count of units would mean heads and chunks of very different cost.
        if len(encoder.layers) != encoder.num_units:
            raise ConfigError(
                f"sizes={sizes} counts layers: with granularity=component give budgets."
            )
        return family_of_counts(sizes, encoder.num_units)
    if not isinstance(budgets, dict) or len(budgets) != 1 or set(budgets) - {*BUDGETS}:
        raise ConfigError(
            f"budgets={budgets} must have one key of {list(BUDGETS)}, with a list."
        )
    ((kind, fractions),) = budgets.items()
    return family_of_budgets(kind, fractions, BUDGETS[kind](encoder))


def build_contexts(encoder: Supernet, named: Sequence[str] | None) -> list[Context]:
    """The contexts of `model_conf: contexts`; none where the encoder has its own only.

    Args:
        encoder: The supernet.
        named: The option.

    Raises:
        ConfigError: one is none, or they are not for this encoder.
    """
    if named is None:
        return []
    key = "model_conf: contexts"
    own = getattr(encoder, "context", None)
    allowed = "left out: the encoder does not stream"
    check(own is not None, key, named, allowed)
    contexts = read_contexts(named)
    check(own in contexts, key, named, f"with {own.name}, as the encoder is built")
    streaming = [context.name for context in contexts if not context.whole]
    check(WHOLE not in named[1:], key, named, f"[whole, {', '.join(streaming)}]")
    check(
        not has_batch_norms(encoder),
        key,
        named,
        "left out with conv_norm: batch_norm, whose statistics would be those of all",
    )
    return contexts


def has_batch_norms(encoder: Supernet) -> bool:
    norms = (type(m) for block in encoder.blocks for m in block.modules())
    return torch.nn.BatchNorm1d in norms


def find_matrices(model: ESPnetASRModel, parts: Sequence[str]) -> dict:
    """Name → matrix: of the encoder, by its name there, and of other parts.

    Args:
        model: Its encoder is a supernet.
        parts: Of `PARTS`.
    """
    found = model.encoder.matrices()
    for part in parts:
        module = getattr(model, part, None) or torch.nn.Module()
        found |= {
            f"{part}.{name}": matrix
            for name, matrix in module.named_modules()
            if is_matrix(matrix) and name.split(".")[-1] not in OUTPUTS
        }
    return found


def build_sparsity(
    model: ESPnetASRModel, family: Family, conf: dict | None
) -> Sparsity | None:
    """The controller of `model_conf: sparsity`, and matrices that obey it.

    Args:
        model: Its encoder is a supernet.
        family: Its sizes.
        conf: The options; None for no sparsity.

    Raises:
        ConfigError: an option is not allowed, or does not go with the encoder or with
            sizes.
    """
    if conf is None:
        return None
    encoder: Supernet = model.encoder
    if len(encoder.layers) != encoder.num_units:
        raise ConfigError(
            "model_conf: sparsity is not for granularity: component; train layers."
        )
    check_value("model_conf: sparsity", conf, dict)
    mest = conf.get("method") is not None
    taker, needed = (Mest, "target") if mest else (Omni, "levels")
    check_options("model_conf: sparsity", conf, "sparsity", taker)
    check(needed in conf, "model_conf: sparsity", conf, f"with {needed}")
    options = taker(**conf)
    together = len(options.levels) > 1
    allowed = f"left out, with levels {list(options.levels)} of one network"
    sizes = list(family.sizes)
    check(together or len(sizes) == 1, "model_conf: sizes, budgets", sizes, allowed)
    if together and has_batch_norms(encoder):
        raise ConfigError(
            "model_conf: sparsity needs conv_norm: layer_norm in encoder_conf: batch "
            "norms have statistics of the dense network only."
        )
    matrices = find_matrices(model, other_parts(options.pattern))
    patterns = find_patterns(options, matrices)
    if mest:
        return MestSparsity(options, matrices, patterns)
    for name in patterns:
        make_masked(matrices[name], name, encoder.switch)
    return OmniSparsity(options, matrices, patterns)


def build_schedule(
    family: Family,
    selector: str,
    selector_conf: dict | None,
    sandwich: SandwichRule = "alternate",
    sparsity: Sparsity | None = None,
) -> Schedule:
    """The schedule of a run.

    A family of one size has no layers to choose: whatever selector, there is no search.

    Raises:
        ConfigError: the selector or one of its options is not allowed.
    """
    conf = dict(selector_conf or {})
    if sparsity is not None and len(family.sizes) == 1:
        check(not conf, "selector_conf", conf, "left out: there is one size")
        selector, conf = "first", {"search_updates": 0}
    found = find_selector(selector)
    if found is not StoredSelector:  # of a model that does not search again
        takers = (found, Search)
        check_options("selector_conf", conf, selector, *takers, taken=("family",))
    keys = [field.name for field in dataclasses.fields(Search)]
    timing = {key: conf.pop(key) for key in keys if key in conf}
    # A stock model of the same seed starts from the same weights (but see `blanks`).
    with torch.random.fork_rng(devices=()):
        chosen = found(family, **({} if found is StoredSelector else conf))
    selection = Selection(chosen, Search(**timing), GATE_EVERY[sandwich])
    sparse = {} if sparsity is None else {"sparsity": sparsity}
    return Schedule(selection=selection, **sparse)
