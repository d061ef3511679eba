"""`dynsize`: the joint loss over the subnets sampled in a step."""

import dataclasses
from collections.abc import Iterator

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable

from espnet_dynsize.control.sampler import Sandwich, SandwichRule
from espnet_dynsize.control.selection import Phase
from espnet_dynsize.control.sparsity.omni import OmniSparsity
from espnet_dynsize.core.checkpoint import bring_up_to_date
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.schema import Count, Fraction, NotNegative, Positive, Share
from espnet_dynsize.core.signature import merged_signature
from espnet_dynsize.core.subnet import Sampled
from espnet_dynsize.encoder.norm import SizedBatchNorm1d
from espnet_dynsize.encoder.stored import make_stored
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.train.build import (
    BudgetKind,
    build_contexts,
    build_family,
    build_schedule,
    build_sparsity,
)
from espnet_dynsize.train.fits import check_blank, check_distillation
from espnet_dynsize.train.forgetting import checked, error_rates
from espnet_dynsize.train.objectives import (
    Distillation,
    Encoded,
    Objective,
    Stats,
    Teacher,
    stock_loss,
)
from espnet_dynsize.train.release import release, scales_gradients
from espnet_dynsize.train.subnets import SubnetHolder
from espnet_dynsize.train.view import View

SUBNET_WEIGHT = 0.3  # as published
DISTILL_WEIGHT = 0.5
# ESPnet's parts that run once per batch: what they put out serves every subnet
_BEFORE_ENCODER = ("frontend", "specaug", "normalize", "preencoder")


class JointLoss(SubnetHolder):
    """Mixin for an ESPnet model: trains its encoder at several sizes at once.

    Method: *Dynamic Encoder Size* (arXiv 2407.18930). A training step reads: features
    once; then, one after another and largest first, every subnet that the sampler has
    drawn encodes and gets its loss; the weighted sum is the step's loss.

    Args:
        sizes: Layers kept by each size, increasing, ending with all layers. Either this
            or `budgets` is needed, if there is no `sparsity`.
        budgets: Instead of `sizes`, parts of the encoder's FLOPs or parameters that
            each size may have: `{flops: [0.4, 1]}` or `{params: [0.4, 1]}`, increasing,
            ending with 1. The sizes are then named by their per cent (40, 100). Needed
            with `granularity: component`.
        sparsity: Weight sparsities. `{levels: [0, 0.5, 0.9]}`: they train, too, see
            `Omni`; with sizes or budgets, or without: then of the full size.
            `{method: mest, target: 0.9}`: the network is sparse from the beginning, see
            `Mest`.
        contexts: Of a streaming encoder: blocks (`40/16/16`: block_size, hop_size and
            look_ahead, in frames) and `whole` utterances that train together, the
            encoder's own among them: `[whole, 40/16/16]`; `whole` is the first. With
            the first one, the full network leads every step; the others of the step see
            blocks of one drawn from the rest. So does the full network once more
            (`…_again` in the log), in turn with the smaller ones: where a step has no
            others, and in every third one of a family of three and more sizes; with
            `sandwich: whole`, in every step. Not with `pairs`.
        selector: How layers are chosen: see `espnet_dynsize.control.selectors`, or the
            dotted path of your own `LayerSelector`.
        selector_conf: The selector's options, and those of the search.
        layer_drop_joint: Stochastic depth in the joint phase, for the layers of the
            full network that the smallest subnet lacks.
        subnet_weight: Loss weight of every subnet of a step but the largest, whose
            weight is 1.
        sandwich: What trains in a step, see `espnet_dynsize.control.sampler`: `whole`,
            `alternate` or `pairs`.
        distill_weight: Weight, in a subnet's loss, of its CTC output's divergence from
            the largest one's, over the sequences for which that one emits at least half
            as many tokens as the text has. Left out: 0.5, or 0 for a model without CTC.
        forgetting: Utterances that are never forgotten leave the training, see
            `Forgetting`: `{drop: 0.24}`.
        subnet: The size (`16`), or member of a family with sparsities (`sparsity70`,
            `16_sparsity70`), that computes when nothing else is active: for decoding,
            and refused in training.
        **stock: Arguments of the stock model.

    Raises:
        ConfigError: the encoder is not a supernet, or a value is not allowed.
    """

    def __init__(
        self,
        *,
        sizes: list[Count] | None = None,
        budgets: dict[BudgetKind, list[Fraction]] | None = None,
        sparsity: dict | None = None,
        contexts: list[str] | None = None,
        selector: str = "simple_top_k",
        selector_conf: dict | None = None,
        layer_drop_joint: Share = 0.0,
        subnet_weight: Positive = SUBNET_WEIGHT,
        sandwich: SandwichRule = "alternate",
        distill_weight: NotNegative | None = None,
        forgetting: dict | None = None,
        subnet: int | str | None = None,
        **stock,
    ):
        super().__init__(**stock)
        if not isinstance(self.encoder, Supernet):
            raise ConfigError(
                f"model=dynsize needs a supernet encoder (encoder: dynsize_…), not "
                f"{type(self.encoder).__name__}."
            )
        if distill_weight is None:
            distill_weight = 0.0 if self.ctc is None else DISTILL_WEIGHT
        check_distillation(self, distill_weight)
        check_blank(self, stock.get("sym_blank", "<blank>"))
        self.ledger = checked(forgetting, self.ctc is not None)

        # Measured before the norms are made per size: costs are those of one size.
        self.contexts = build_contexts(self.encoder, contexts)
        allowed = "whole or alternate with contexts: the full network leads every step"
        good = not self.contexts or sandwich != "pairs"
        check(good, "model_conf: sandwich", sandwich, allowed)
        family = build_family(self.encoder, sizes, budgets, bool(sparsity))
        sparse = build_sparsity(self, family, sparsity)
        self.schedule = build_schedule(
            family, selector, selector_conf, sandwich, sparse
        )
        self.schedule.identify(
            sizes=sizes,
            budgets=budgets,
            sparsity=sparsity,
            contexts=contexts,
            selector=selector,
            selector_conf=selector_conf,
        )
        masked = sparse if isinstance(sparse, OmniSparsity) else None
        self.sampler = Sandwich(
            self.schedule.selection,
            sandwich,
            subnet_weight,
            layer_drop_joint,
            masked,
            self.contexts,
        )
        # A plain list: objectives have no weights, so none of them is a submodule.
        self.objectives: list[Objective] = [stock_loss]
        if distill_weight:
            self.objectives.append(Distillation(distill_weight))

        # The full size uses the stock modules themselves, under their stock names.
        smaller = list(family.sizes[:-1])
        if smaller:
            self.encoder.make_sized(smaller)
        # Its units are in the checkpoint; see `_after_loading`.
        self.fixed_size = subnet
        if subnet is not None:
            self.schedule.member(subnet, "model_conf: subnet")
        self.register_load_state_dict_pre_hook(_bring_up_to_date)
        self.register_load_state_dict_post_hook(_after_loading)

    def __init_subclass__(cls, **kwargs):
        """Show all options in the signature: `--print_config` lists them from there."""
        super().__init_subclass__(**kwargs)
        cls.__signature__ = merged_signature(cls, JointLoss)

    # -- training --

    def begin_training(self, seed: int) -> None:
        """Store what trains as it trains; call it before optimizers are built.

        Args:
            seed: The run's seed.
        """
        sparsity = self.schedule.sparsity
        if sparsity is not None:
            for name, places in sparsity.begin_training(seed).items():
                matrix, pattern = sparsity.modules_of[name], sparsity.patterns[name]
                make_stored(matrix, pattern, places)

    def begin_update(self, seed: int) -> None:
        """Advance the schedule by one update; call it before the update's first batch.

        Args:
            seed: The run's seed.
        """
        # Norms are made when the model is built, and weights may be loaded after that:
        # what sizes start from is copied at the first update, and after the search.
        if not self.schedule.started:
            for norm in self._sized_norms():
                norm.begin_training()
            # That of weights which were loaded to start from
            self.encoder.switch.default = None
        selection = self.schedule.selection
        before = selection.phase
        self.schedule.begin_update(seed)
        if before is Phase.SEARCH and selection.phase is Phase.JOINT:
            for norm in self._sized_norms():
                norm.begin_joint()

    def _sized_norms(self) -> list[SizedBatchNorm1d]:
        return [m for m in self.modules() if isinstance(m, SizedBatchNorm1d)]

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        **kwargs,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Sum of the weighted losses of the sampled subnets.

        In training, the subnets are those that the sampler draws; in evaluation, every
        size, and `loss` is their mean. Statistics of a size carry its number
        (`cer_ctc_16`).

        Args:
            speech: [B, samples] or features [B, L, D].
            speech_lengths: [B].
            text: [B, U].
            text_lengths: [B].
            **kwargs: What else ESPnet's model takes.
        """
        # Draws SpecAugment's masks once: all subnets of a step see the same features.
        features = self._features(speech, speech_lengths)
        batch = dict(text=text, text_lengths=text_lengths, **kwargs)
        # Under the names of audio: a view without front-end takes them for its input.
        batch |= dict(speech=features[0], speech_lengths=features[1])
        with self.encoder.switch.remember() as embedded:
            if self.training:
                loss, stats = self._train_loss(batch, embedded)
            else:
                loss, stats = self._valid_loss(batch)
        stats.update(loss=loss.detach(), phase=float(self.schedule.phase))
        # As ESPnet's models do: a vector for every number, to be averaged over ranks.
        return force_gatherable((loss, stats, len(text)), loss.device)

    def _train_loss(self, batch: dict, embedded: list) -> tuple[torch.Tensor, Stats]:
        if self.schedule.phase is Phase.SEARCH and not self.schedule.started:
            raise ConfigError(
                "model: dynsize trains with DynSizeTrainer or, with ESPnet3, with the "
                "callback SubnetScheduleCallback: nothing advances its schedule here."
            )
        samples = self.sampler.draw(self.schedule.now, self.schedule.draws())
        total, stats, teacher = self.schedule.penalty(), {}, None
        for sampled in samples:
            with self.encoder.activate(sampled):
                encoded = self._encode(batch)
                loss, detail = self._sampled_loss(sampled, encoded, batch, teacher)
            # Largest first: the first one teaches the others.
            teacher = teacher or self._teacher(sampled, encoded, batch)
            loss = sampled.weight * loss
            # The last one's graph is freed by the trainer's own backward pass.
            if sampled is not samples[-1] and not scales_gradients():
                loss = release(loss, self._inputs(batch["speech"], embedded))
            total = total + loss
            stats |= {f"{key}_{sampled.name}": value for key, value in detail.items()}
            if sampled.gates is not None:
                stats["k"] = sampled.gates.detach().sum()
        return total, stats

    def _teacher(self, sampled: Sampled, encoded: Encoded, batch: dict) -> Teacher:
        """The step's largest subnet; what it has right is noted, where it matters."""
        teacher = Teacher(self, encoded)
        # With `pairs`, a smaller one may lead, which has other utterances right.
        if self.ledger is not None and all(sampled.subnet.units):
            best = teacher.log_probs.argmax(dim=-1)
            text = batch["text"], batch["text_lengths"]
            rates = error_rates(best, encoded.lengths, *text, self.blank_id)
            self.ledger.observe(batch["utt_id"], rates)
        return teacher

    def _valid_loss(self, batch: dict) -> tuple[torch.Tensor, Stats]:
        losses, stats, means = [], {}, {}
        for name, sampled in self._watched():
            with self.encoder.activate(sampled):
                loss, detail = self.stock_loss(self._encode(batch), batch)
            losses.append(loss)
            for key, value in detail.items():
                stats[f"{key}_{name}"] = value
                means.setdefault(key, []).append(float(value))
        # Under ESPnet's own names, by which recipes choose and average models.
        stats |= {key: sum(values) / len(values) for key, values in means.items()}
        # No penalty, no weights: a validation loss is comparable over phases and runs.
        return torch.stack(losses).mean(dim=0), stats

    def _watched(self) -> Iterator[tuple[str, Sampled]]:
        """What is validated, by name: members, the full network in other contexts."""
        full = Sampled(self.schedule.selection.family.full)
        for name, subnet in self.schedule.watched().items():
            # Made one at a time: masks are as large as the encoder.
            sampled = self.sampled(subnet)
            yield name, sampled
            if self.schedule.only is not None:
                full = sampled  # what the one network is by now
        for context in self.contexts:
            if context != self.encoder.context:
                yield context.suffix, dataclasses.replace(full, context=context)

    def _sampled_loss(
        self, sampled: Sampled, encoded: Encoded, batch: dict, teacher: Teacher | None
    ) -> tuple[torch.Tensor, Stats]:
        """Sum of the objectives of one subnet, which is active."""
        total, stats = 0.0, {}
        for objective in self.objectives:
            loss, detail = objective(self, sampled, encoded, batch, teacher)
            total = total + loss
            stats |= detail
        return total, stats

    def stock_loss(self, encoded: Encoded, batch: dict) -> tuple[torch.Tensor, Stats]:
        """ESPnet's loss, a scalar, and its statistics for an encoded batch."""
        # ESPnet's `forward` begins with `encode`: here it finds that done.
        view = View(self, encode=lambda *audio: encoded)
        # ESPnet changes the lengths in place.
        batch = dict(batch, text_lengths=batch["text_lengths"].clone())
        loss, stats, _ = self._stock().forward(view, **batch)
        stats = {key: value for key, value in stats.items() if value is not None}
        # `force_gatherable` has made a vector of the loss.
        return loss.squeeze(0), stats

    def _features(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple:
        """What ESPnet's `encode` does before the encoder: [B, L, D] and [B]."""
        # ESPnet does this inside of `encode` only.
        view = View(self, encoder=self._pass_on, postencoder=None)
        return self._stock().encode(view, speech, lengths)

    @staticmethod
    def _pass_on(features: torch.Tensor, lengths: torch.Tensor, **kwargs) -> tuple:
        """An encoder that leaves features as they are."""
        return features, lengths, None

    def _encode(self, batch: dict) -> Encoded:
        """What ESPnet's `encode` does from the encoder on."""
        view = View(self, **dict.fromkeys(_BEFORE_ENCODER))
        features = batch["speech"], batch["speech_lengths"]
        return Encoded(*self._stock().encode(view, *features))

    def _stock(self) -> type:
        """The stock model's methods, to be called with a view."""
        # What follows the mixin among the bases; of a class, so methods are unbound.
        return super(JointLoss, type(self))

    def _inputs(self, features: torch.Tensor, embedded: list) -> Iterator[torch.Tensor]:
        """What gets gradients from a subnet: the front-end's outputs, parameters."""
        # The graph before these serves every subnet, and must outlive each one's.
        yield from _tensors(embedded or features)
        before = [getattr(self, name) for name in _BEFORE_ENCODER]
        before = [m for m in (*before, self.encoder.embed) if m is not None]
        # Their parameters get gradients in the trainer's backward pass, once.
        shared = {id(p) for module in before for p in module.parameters()}
        yield from (p for p in self.parameters() if id(p) not in shared)


class DynSizeASRModel(JointLoss, ESPnetASRModel):
    """ESPnet's ASR model with the joint loss."""


def _bring_up_to_date(model: JointLoss, state_dict: dict, prefix: str, *args) -> None:
    bring_up_to_date(state_dict, prefix)
    sparsity = model.schedule.sparsity
    if sparsity is not None:
        sparsity.before_loading(state_dict, f"{prefix}schedule.sparsity.")


def _after_loading(model: JointLoss, incompatible: object) -> None:
    """Let the config's `subnet` compute: its layers are known with the checkpoint."""
    model.schedule.keep_identity()
    chosen = model.fixed_size
    if chosen is None and model.schedule.phase is Phase.JOINT:
        # Where the full network is no member, its weights are not all that it has.
        chosen = model.schedule.only
    if chosen is not None:
        # Refuses a checkpoint of the search, where the size has no layers.
        subnet = model.subnet(chosen)
        model.check_subnet(subnet)
        model.encoder.switch.default = model.sampled(subnet)


def _tensors(nested: object) -> Iterator[torch.Tensor]:
    """All tensors in nested tuples and lists."""
    if isinstance(nested, torch.Tensor):
        yield nested
    elif nested is not None:
        for part in nested:
            yield from _tensors(part)
