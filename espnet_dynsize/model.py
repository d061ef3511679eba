"""`dynsize`: the joint loss over the subnets sampled in a step."""

from collections.abc import Iterator

import torch
from espnet2.asr.espnet_model import ESPnetASRModel, autocast_type
from espnet2.torch_utils.device_funcs import force_gatherable
from torch.amp import autocast

from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.errors import ConfigError, check_all
from espnet_dynsize.output import SizedLinear, make_decoder_sized
from espnet_dynsize.release import release
from espnet_dynsize.selection.schedule import SANDWICHES, SubnetSchedule
from espnet_dynsize.subnet import PerSize, Subnet

SUBNET_WEIGHT = 0.3
DISTILL_WEIGHT = 0.5
PASSES = ("batched", "sequential")
_REPORTED = (
    "loss",
    "loss_ctc",
    "loss_att",
    "loss_transducer",
    "cer_ctc",
    "acc",
    "cer",
    "wer",
    "cer_transducer",
    "wer_transducer",
)


class DynSizeASRModel(ESPnetASRModel):
    """ESPnet's ASR model, trained at several encoder sizes at once.

    Args:
        output_per_size: One CTC output layer per size; else all sizes share one.
        decoder_per_size: One attention decoder per size; else all sizes share one.
        subnet_weight: Weight of every sampled subnet's loss but the largest one's,
            which has weight 1 (arXiv 2407.18930, section 3.3).
        sandwich: `whole`: the full subnet, the smallest and one between train in every
            step (same section). `alternate`: the full one and, in turn, one of the
            others, with twice the weight. `pairs`: two of the three in turn, the
            smaller with twice the weight; with two sizes, `alternate`. While
            searching, the gated one trains in every step, every second, every third.
        joint_pass: `batched`: in the joint phase, all sampled subnets encode in one
            pass and share what they compute alike; `sequential`: one after another, as
            always while searching, which takes more time and only one's memory.
        distill_weight: Weight, in a subnet's loss, of its CTC output's divergence from
            the largest one's.
        **stock: Arguments of `ESPnetASRModel`.

    Raises:
        ConfigError: the encoder is not a supernet, or a value is not allowed.
    """

    def __init__(
        self,
        *,
        output_per_size: bool = True,
        decoder_per_size: bool = False,
        subnet_weight: float = SUBNET_WEIGHT,
        sandwich: str = "alternate",
        joint_pass: str = "batched",
        distill_weight: float | None = None,
        **stock,
    ):
        super().__init__(**stock)
        if not isinstance(self.encoder, Supernet):
            raise ConfigError(
                f"model=dynsize needs a supernet encoder (encoder: dynsize_conformer), "
                f"not {type(self.encoder).__name__}."
            )
        if distill_weight is None:
            distill_weight = 0.0 if self.ctc is None else DISTILL_WEIGHT
        check_all(
            "model_conf",
            (subnet_weight > 0, "subnet_weight", subnet_weight, "above 0"),
            (distill_weight >= 0, "distill_weight", distill_weight, "at least 0"),
            (
                sandwich in SANDWICHES,
                "sandwich",
                sandwich,
                f"one of {tuple(SANDWICHES)}",
            ),
            (joint_pass in PASSES, "joint_pass", joint_pass, f"one of {PASSES}"),
        )
        if distill_weight and self.ctc is None:
            raise ConfigError(
                f"distill_weight={distill_weight} needs CTC: ctc_weight above 0."
            )
        attends = self.decoder is not None and not self.use_transducer_decoder
        if decoder_per_size and not attends:
            raise ConfigError(
                "decoder_per_size=True needs an attention decoder: decoder other than "
                "transducer and ctc_weight below 1."
            )
        self.subnet_weight = subnet_weight * (1 if sandwich == "whole" else 2)
        self.sandwich = sandwich
        # Intermediate outputs and a post-encoder know one subnet at a time.
        plain = not self.encoder.interctc_layer_idx and self.postencoder is None
        self.batched = joint_pass == "batched" and plain
        self.distill_weight = distill_weight
        self._encoded: tuple | None = None
        schedule = self.encoder.schedule
        if schedule is None:
            return
        smaller, switch = schedule.sizes[:-1], self.encoder.switch
        if output_per_size and self.ctc is not None:
            self.ctc.ctc_lo = SizedLinear(self.ctc.ctc_lo, smaller, switch)
        if decoder_per_size:
            make_decoder_sized(self.decoder, smaller, switch)

    @property
    def decoder(self) -> torch.nn.Module | None:
        """The decoder of the size that computes."""
        decoder = self._modules["decoder"]
        if not isinstance(decoder, PerSize):
            return decoder
        return decoder.own(self.encoder.active_subnet()) or decoder

    @decoder.setter
    def decoder(self, decoder: torch.nn.Module | None) -> None:
        self._modules["decoder"] = decoder

    @property
    def schedule(self) -> SubnetSchedule | None:
        """The subnet schedule; None for an extracted model."""
        return self.encoder.schedule

    def begin_update(self, seed: int) -> None:
        """Advance the schedule by one update; call it before the update's first batch.

        Args:
            seed: The run's seed.
        """
        if not self.schedule.started:
            for module in self._sized_modules():
                module.begin_training()
        if self.schedule.begin_update(seed):
            for module in self._sized_modules():
                module.begin_joint()

    def _sized_modules(self) -> list[PerSize]:
        return [module for module in self.modules() if isinstance(module, PerSize)]

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        **kwargs,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Sum of the weighted losses of the sampled subnets.

        In training, the subnets are the schedule's sandwich; in evaluation, every
        size, and `loss` is their mean. Statistics of a size carry its number
        (`cer_ctc_16`).

        Args:
            speech: [B, samples] or features [B, L, D].
            speech_lengths: [B].
            text: [B, U].
            text_lengths: [B].
        """
        batch = dict(speech=speech, speech_lengths=speech_lengths, text=text)
        batch |= dict(text_lengths=text_lengths, **kwargs)
        if self.schedule is None:
            return super().forward(**batch)
        features = self._input_features(speech, speech_lengths)
        with self.encoder.shared_front_end() as embedded:
            if self.training:
                loss, stats = self._train_loss(features, batch, embedded)
            else:
                loss, stats = self._valid_loss(features, batch)
        return force_gatherable((loss, stats, len(text)), loss.device)

    def encode(self, speech: torch.Tensor, speech_lengths: torch.Tensor):
        """Stock `encode`, unless the batch has been encoded already."""
        if self._encoded is not None:
            return self._encoded
        return super().encode(speech, speech_lengths)

    def _train_loss(self, features, batch, embedded):
        subnets, penalty = self.schedule.sandwich(self.sandwich)
        total, stats, teacher = penalty, {}, None
        batched = self.batched and all(subnet.gates is None for subnet in subnets)
        encodings = self._encodings(features, subnets, batched)
        for subnet, encoded in zip(subnets, encodings):
            loss, own = self._subnet_loss(subnet, encoded, batch)
            if subnet is subnets[0]:
                teacher = encoded
            else:
                if self.distill_weight:
                    distance = self._distance(subnet, encoded, subnets[0], teacher)
                    own["loss_distill"] = distance.detach()
                    loss = loss + self.distill_weight * distance
                loss = self.subnet_weight * loss
            if subnet is not subnets[-1] and not batched and not _scales_gradients():
                loss = release(loss, self._inputs(features, embedded))
            total = total + loss
            name = "gated" if subnet.gates is not None else subnet.size
            stats.update({f"{key}_{name}": value for key, value in own.items()})
            if subnet.gates is not None:
                stats["k"] = float(subnet.size)
        stats.update(loss=total.detach(), phase=float(self.schedule.phase))
        return total, stats

    def _valid_loss(self, features, batch):
        losses, stats, means = [], {}, {}
        for subnet in self.schedule.family():
            (encoded,) = self._encodings(features, [subnet], batched=False)
            loss, own = self._subnet_loss(subnet, encoded, batch)
            losses.append(loss)
            for key, value in own.items():
                stats[f"{key}_{subnet.size}"] = value
                means.setdefault(key, []).append(float(value))
        stats.update({key: sum(v) / len(v) for key, v in means.items()})
        loss = torch.stack(losses).mean(dim=0)
        stats.update(loss=loss.detach(), phase=float(self.schedule.phase))
        return loss, stats

    def _inputs(self, features, embedded) -> Iterator[torch.Tensor]:
        """What gets gradients from a subnet: the front-end's outputs, parameters."""
        yield from _tensors(embedded or features)
        before = [self.frontend, self.normalize, self.preencoder, self.encoder.embed]
        shared = {id(p) for m in before if m is not None for p in m.parameters()}
        yield from (p for p in self.parameters() if id(p) not in shared)

    def _encodings(self, features, subnets, batched) -> Iterator[tuple]:
        """Encoder outputs and lengths of every subnet."""
        if batched:
            yield from self.encoder.encode_subnets(*features, subnets)
            return
        for subnet in subnets:
            with self.encoder.activate(subnet):
                encoded = self._encode_features(*features)
            yield encoded

    def _subnet_loss(self, subnet: Subnet, encoded, batch):
        # ESPnet changes the lengths in place.
        batch = dict(batch, text_lengths=batch["text_lengths"].clone())
        self._encoded = encoded
        try:
            with self.encoder.activate(subnet):
                loss, stats, _ = super().forward(**batch)
        finally:
            self._encoded = None
        own = {k: stats[k] for k in _REPORTED if stats.get(k) is not None}
        return loss.squeeze(0), own

    def _distance(self, subnet, encoded, full, teacher) -> torch.Tensor:
        """KL divergence of the CTC outputs, summed over frames, mean over sequences."""
        (out, lengths), (full_out, _) = encoded, teacher
        out, full_out = (x[0] if isinstance(x, tuple) else x for x in (out, full_out))
        with torch.no_grad(), self.encoder.activate(full):
            wanted = self.ctc.log_softmax(full_out)
        with self.encoder.activate(subnet):
            given = self.ctc.log_softmax(out)
        frames = torch.nn.functional.kl_div(
            given, wanted, reduction="none", log_target=True
        ).sum(dim=-1)
        valid = torch.arange(frames.size(1), device=lengths.device) < lengths[:, None]
        return (frames * valid).sum() / frames.size(0)

    def _input_features(self, speech, speech_lengths):
        """What stock `encode` does before the encoder: [B, L, D] and [B]."""
        with autocast("cuda", enabled=self.autocast_frontend, dtype=autocast_type):
            feats = self._extract_feats(speech, speech_lengths)
            if self.specaug is not None and self.training:
                feats = self.specaug(*feats)
            if self.normalize is not None:
                feats = self.normalize(*feats)
        return feats if self.preencoder is None else self.preencoder(*feats)

    def _encode_features(self, feats, feats_lengths):
        """What stock `encode` does from the encoder on."""
        out, lengths, _ = self.encoder(feats, feats_lengths, ctc=self.ctc)
        if self.postencoder is None:
            return out, lengths
        if isinstance(out, tuple):
            final, lengths = self.postencoder(out[0], lengths)
            return (final, out[1]), lengths
        return self.postencoder(out, lengths)


def _tensors(found) -> Iterator[torch.Tensor]:
    """All tensors in nested tuples and lists."""
    if isinstance(found, torch.Tensor):
        yield found
    elif found is not None:
        for part in found:
            yield from _tensors(part)


def _scales_gradients() -> bool:
    """Whether gradients are too small for their type unless the trainer scales them."""
    half = torch.get_autocast_dtype("cuda") is torch.float16
    return half and torch.is_autocast_enabled("cuda")
