"""`dynsize` of ESPnet's task `asr_transducer`."""

import torch
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel

from espnet_dynsize.core.errors import check
from espnet_dynsize.train.model import JointLoss
from espnet_dynsize.train.transducer import rnnt_loss_available


class AuxiliaryCTC:
    """What ESPnet's other models have as `ctc`, out of a transducer's output layer.

    Args:
        output: Gives [B, T, V] from the encoder's output.
    """

    def __init__(self, output: torch.nn.Linear):
        self.ctc_lo = output

    def log_softmax(self, encoded: torch.Tensor) -> torch.Tensor:
        """Log probabilities [B, T, V] of tokens."""
        return torch.log_softmax(self.ctc_lo(encoded), dim=-1)


def set_loss(model: ESPnetASRTransducerModel) -> None:
    """Give a model its loss, which ESPnet looks for in the first step."""
    if model.use_k2_pruned_loss:
        return
    with rnnt_loss_available():
        from warprnnt_pytorch import RNNTLoss

        model.criterion_transducer = RNNTLoss(
            reduction="mean", fastemit_lambda=model.fastemit_lambda
        )


class DynSizeASRTransducerModel(JointLoss, ESPnetASRTransducerModel):
    """ESPnet's transducer with the joint loss; its `ctc` is the auxiliary CTC."""

    use_transducer_decoder = True
    blank_id = 0  # as in all of that task
    preencoder = None

    def __init__(self, **options):
        # They need k2, and remember how many steps there were.
        given = options.get("use_k2_pruned_loss", False)
        allowed = "false for a family"
        check(not given, "model_conf: use_k2_pruned_loss", given, allowed)
        super().__init__(**options)

    @staticmethod
    def _pass_on(features: torch.Tensor, lengths: torch.Tensor) -> tuple:
        """See `JointLoss`; encoders of this task have no third output."""
        return features, lengths

    @property
    def ctc(self) -> AuxiliaryCTC | None:
        """None without `auxiliary_ctc_weight`."""
        return AuxiliaryCTC(self.ctc_lin) if self.use_auxiliary_ctc else None
