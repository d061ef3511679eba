import sys
import threading
import time

import pytest
import torch
from conftest import batch, build, fix_masks, model_config

from espnet_dynsize.train.transducer import PACKAGE, RNNTLoss, rnnt_loss_available


def likelihood(log_probs, labels, t=0, u=0):
    """Sum over all paths from (t, u), blank = 0, by hand."""
    frames = log_probs.size(0)
    total = torch.zeros(())
    if u < len(labels):
        emit = log_probs[t, u, labels[u]].exp()
        total = total + emit * likelihood(log_probs, labels, t, u + 1)
    blank = log_probs[t, u, 0].exp()
    if t + 1 < frames:
        return total + blank * likelihood(log_probs, labels, t + 1, u)
    return total + (blank if u == len(labels) else 0.0)


def test_loss_is_the_sum_over_all_paths():
    acts = torch.randn(2, 4, 3, 5)
    labels = torch.tensor([[1, 3], [2, 0]], dtype=torch.int32)
    lengths = torch.tensor([4, 3], dtype=torch.int32)
    label_lengths = torch.tensor([2, 1], dtype=torch.int32)
    loss = RNNTLoss(blank=0)(acts, labels, lengths, label_lengths)
    log_probs = acts.log_softmax(-1)
    by_hand = [
        -likelihood(log_probs[0], [1, 3]).log(),
        -likelihood(log_probs[1, :3, :2], [2]).log(),
    ]
    torch.testing.assert_close(loss, sum(by_hand) / 2)


def test_frames_that_no_sequence_has_are_ignored():
    acts = torch.randn(2, 4, 2, 3)
    labels = torch.tensor([[1], [2]], dtype=torch.int32)
    ones = torch.tensor([1, 1], dtype=torch.int32)
    lengths = torch.tensor([3, 2], dtype=torch.int32)
    loss = RNNTLoss()
    cut = acts[:, :3].clone()
    assert loss(acts, labels, lengths, ones) == loss(cut, labels, lengths, ones)


def test_fastemit_multiplies_the_gradients_of_labels():
    acts = torch.randn(2, 4, 3, 5)
    labels = torch.tensor([[1, 3], [2, 0]], dtype=torch.int32)
    lengths = torch.tensor([4, 3], dtype=torch.int32)
    label_lengths = torch.tensor([2, 1], dtype=torch.int32)
    given = acts.clone().requires_grad_()
    loss = RNNTLoss(fastemit_lambda=0.3)(given, labels, lengths, label_lengths)
    plain = RNNTLoss()(acts, labels, lengths, label_lengths)
    torch.testing.assert_close(loss, plain)
    loss.backward()
    # By hand: the gradient of log probabilities, that of labels times 1.3
    leaf = acts.log_softmax(-1).requires_grad_()
    by_hand = [
        -likelihood(leaf[0], [1, 3]).log(),
        -likelihood(leaf[1, :3, :2], [2]).log(),
    ]
    (sum(by_hand) / 2).backward()
    gradient = leaf.grad.clone()
    gradient[0, :, 0, 1] *= 1.3
    gradient[0, :, 1, 3] *= 1.3
    gradient[1, :, 0, 2] *= 1.3
    expected = acts.clone().requires_grad_()
    expected.log_softmax(-1).backward(gradient)
    torch.testing.assert_close(given.grad, expected.grad)


def test_the_stand_in_is_there_only_where_it_is_needed(monkeypatch):
    with rnnt_loss_available():
        from warprnnt_pytorch import RNNTLoss as found
    assert found is RNNTLoss
    assert PACKAGE not in sys.modules
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with rnnt_loss_available():
        assert PACKAGE not in sys.modules  # the real one would be imported


def test_threads_and_nested_uses_share_the_stand_in():
    found, errors = [], []

    def use(depth):
        try:
            with rnnt_loss_available():
                if depth:
                    use(depth - 1)
                time.sleep(0.001)
                from warprnnt_pytorch import RNNTLoss as own

                found.append(own is RNNTLoss)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(i % 2,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and found == [True] * 12
    assert PACKAGE not in sys.modules


def transducer(**model_conf):
    config = model_config({"ctc_weight": 0.3, **model_conf})
    config["decoder"] = "transducer"
    config["decoder_conf"] = {"rnn_type": "lstm", "num_layers": 1, "hidden_size": 8}
    config["joint_net_conf"] = {"joint_space_size": 8}
    return build(config), config


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_joint_loss_is_the_weighted_sum_of_every_size_s(ctc_weight):
    model, _ = transducer(ctc_weight=ctc_weight)
    fix_masks(model.schedule)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    data = batch()
    loss, stats, _ = model.train()(**data)
    expected = stats["loss_8"] + 0.3 * stats["loss_3"] + 0.3 * stats["loss_5"]
    torch.testing.assert_close(loss.detach(), expected)
    for size in (8, 3, 5):
        with model.activate(model.subnet(size)):
            out, lengths, _ = model.encoder(data["speech"], data["speech_lengths"])
            own = model._calc_transducer_loss(out, lengths, data["text"])[0]
        found = stats[f"loss_transducer_{size}"]
        torch.testing.assert_close(found.squeeze(), own.detach())
    assert ("loss_ctc_8" in stats) == (ctc_weight > 0)


def test_validation_reports_the_errors_of_every_size():
    model, _ = transducer()
    fix_masks(model.schedule)
    _, stats, _ = model.eval()(**batch())
    assert {f"cer_transducer_{s}" for s in (3, 5, 8)} <= set(stats)
    mean = sum(float(stats[f"loss_transducer_{s}"]) for s in (3, 5, 8)) / 3
    assert float(stats["loss_transducer"]) == pytest.approx(mean)
