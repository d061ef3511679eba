"""`dynsize`: the joint loss over the subnets sampled in a step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from espnet2.asr.espnet_model import ESPnetASRModel, autocast_type
from espnet2.torch_utils.device_funcs import force_gatherable
from torch.amp import autocast

from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.errors import ConfigError
from espnet_dynsize.output import SizedLinear
from espnet_dynsize.selection.schedule import SubnetSchedule
from espnet_dynsize.subnet import Subnet

_REPORTED = ("loss", "loss_ctc", "loss_att", "cer_ctc", "acc", "cer", "wer")


class DynSizeASRModel(ESPnetASRModel):
    """ESPnet's ASR model, trained at several encoder sizes at once.

    Args:
        output_per_size: One CTC output layer per size; else all sizes share one.
        subnet_weight: Weight of every sampled subnet's loss but the full one's, which
            has weight 1 (arXiv 2407.18930, section 3.3).
        **stock: Arguments of `ESPnetASRModel`.

    Raises:
        ConfigError: the encoder is not a supernet.
    """

    def __init__(
        self, *, output_per_size: bool = True, subnet_weight: float = 0.3, **stock
    ):
        super().__init__(**stock)
        if not isinstance(self.encoder, Supernet):
            raise ConfigError(
                f"model=dynsize needs a supernet encoder (encoder: dynsize_conformer), "
                f"not {type(self.encoder).__name__}."
            )
        self.subnet_weight = subnet_weight
        self._encoded: tuple | None = None
        schedule = self.encoder.schedule
        if output_per_size and self.ctc is not None and schedule is not None:
            self.ctc.ctc_lo = SizedLinear(
                self.ctc.ctc_lo, schedule.sizes[:-1], self.encoder.switch
            )

    @property
    def schedule(self) -> SubnetSchedule | None:
        """The subnet schedule; None for an extracted model."""
        return self.encoder.schedule

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
        batch = dict(text=text, text_lengths=text_lengths, **kwargs)
        speech = dict(speech=speech, speech_lengths=speech_lengths)
        if self.schedule is None:
            return super().forward(**speech, **batch)
        features = self._input_features(**speech)
        with self.encoder.shared_front_end():
            if self.training:
                loss, stats = self._train_loss(features, speech, batch)
            else:
                loss, stats = self._valid_loss(features, speech, batch)
        return force_gatherable((loss, stats, len(text)), loss.device)

    def encode(self, speech: torch.Tensor, speech_lengths: torch.Tensor):
        """Stock `encode`, unless the batch has been encoded already."""
        if self._encoded is not None:
            return self._encoded
        return super().encode(speech, speech_lengths)

    def _train_loss(self, features, speech, batch):
        subnets, penalty = self.schedule.sandwich()
        total, stats = penalty, {}
        for i, subnet in enumerate(subnets):
            loss, own = self._subnet_loss(subnet, features, speech, batch)
            total = total + (1.0 if i == 0 else self.subnet_weight) * loss
            name = "gated" if subnet.gates is not None else subnet.size
            stats.update({f"{key}_{name}": value for key, value in own.items()})
            if subnet.gates is not None:
                stats["k"] = float(subnet.size)
        stats.update(loss=total.detach(), phase=float(self.schedule.phase))
        return total, stats

    def _valid_loss(self, features, speech, batch):
        losses, stats, means = [], {}, {}
        for subnet in self.schedule.family():
            loss, own = self._subnet_loss(subnet, features, speech, batch)
            losses.append(loss)
            for key, value in own.items():
                stats[f"{key}_{subnet.size}"] = value
                means.setdefault(key, []).append(float(value))
        stats.update({key: sum(v) / len(v) for key, v in means.items()})
        loss = torch.stack(losses).mean(dim=0)
        stats.update(loss=loss.detach(), phase=float(self.schedule.phase))
        return loss, stats

    def _subnet_loss(self, subnet: Subnet, features, speech, batch):
        batch = dict(batch, text_lengths=batch["text_lengths"].clone())
        with self.encoder.activate(subnet), self._encode_once(features):
            loss, stats, _ = super().forward(**speech, **batch)
        own = {k: stats[k] for k in _REPORTED if stats.get(k) is not None}
        return loss.squeeze(0), own

    @contextmanager
    def _encode_once(self, features) -> Iterator[None]:
        """Let `encode` answer with the active subnet's output for `features`."""
        self._encoded = self._encode_features(*features)
        try:
            yield
        finally:
            self._encoded = None

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
