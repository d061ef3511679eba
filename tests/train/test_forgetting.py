"""Utterances that are never forgotten leave the training."""

import json
import logging
import math

import pytest
import torch
from conftest import build, model_config
from espnet2.iterators.multiple_iter_factory import MultipleIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from training import assert_same, train, train_killed

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.train.forgetting import History, Ledger, Thinned, error_rates
from espnet_dynsize.train.model import DynSizeASRModel

AVERAGE = "valid.loss.ave.pth"
# Ten epochs; from the fifth on, 4 of 12 utterances are left out.
CONF = dict(drop=0.34, drop_at=0.4, threshold=0.9)


def test_an_utterance_is_forgotten_when_it_was_right_and_is_wrong():
    history = History()
    counts = []
    for right in (0, 0, 1, 1, 0, 0, 1, 0):
        history.see(bool(right))
        counts.append(history.forgotten)
    assert counts == [math.inf, math.inf, 0, 0, 1, 1, 1, 2]


def test_error_rates_of_greedy_outputs():
    # Repetitions are merged, but for those with a blank between them.
    best = torch.tensor([[0, 2, 2, 0, 2, 3], [4, 4, 3, 3, 2, 2], [0, 0, 0, 0, 0, 0]])
    text = torch.tensor([[2, 2, 3], [4, 3, -1], [2, -1, -1]])
    lengths = torch.tensor([6, 4, 6])
    rates = error_rates(best, lengths, text, torch.tensor([3, 2, 1]), 0)
    assert rates == [0.0, 0.0, 1.0]
    rates = error_rates(best, torch.tensor([5, 6, 6]), text, torch.tensor([3, 2, 1]), 0)
    assert rates == [pytest.approx(1 / 3), 0.5, 1.0]


def ledger(**options) -> Ledger:
    """Ten utterances: 0 has never been right, n has been forgotten n times."""
    made = Ledger(dict(drop=0.3, drop_at=0.5) | options)
    for number in range(10):
        for turn in range(2 * number + 1 if number else 1):
            right = number > 0 and turn % 2 == 0
            made.observe([f"u{number}"], [0.1 if right else 0.2])
    return made


def test_the_least_forgotten_are_left_out(tmp_path, caplog):
    made = ledger()
    assert [made.histories[f"u{n}"].times for n in range(10)] == [*range(10)]
    made.epoch = 4
    made.begin_epoch(5, 10, tmp_path, 0)
    assert not made.dropped
    made.end_epoch(5, tmp_path)
    with caplog.at_level(logging.INFO):
        made.begin_epoch(6, 10, tmp_path, 0)
    assert made.dropped == {"u1", "u2", "u3"}
    assert "3 of 10 utterances are left out" in caplog.text
    # They stay, whatever happens to the others.
    made.observe(["u0"] * 3, [0.0] * 3)
    made.end_epoch(6, tmp_path)
    made.begin_epoch(7, 10, tmp_path, 0)
    assert made.dropped == {"u1", "u2", "u3"}


def test_they_are_drawn_anew_if_that_is_wanted(tmp_path):
    counts = dict.fromkeys((f"u{n}" for n in range(10)), 0)
    made = ledger(resample=True)
    for epoch in range(6, 406):
        made.epoch = epoch - 1
        made.begin_epoch(epoch, 10, tmp_path, 0)
        assert len(made.dropped) == 3
        for name in made.dropped:
            counts[name] += 1
    assert counts["u0"] == 0 and min(counts[f"u{n}"] for n in range(1, 10)) > 0
    assert counts["u1"] > 2 * counts["u9"]


@pytest.mark.parametrize("resample", [False, True])
def test_fewer_utterances_train_in_as_many_updates_and_resume(
    data, tmp_path, monkeypatch, resample
):
    changes = dict(forgetting=CONF | {"resample": resample})
    observe = Ledger.observe

    def first_half_right(self, utterances, errors):
        """So small a model has nothing right."""
        assert len(errors) == len(utterances)
        observe(self, utterances, [float(name >= "utt06") for name in utterances])

    monkeypatch.setattr(Ledger, "observe", first_half_right)
    seen: list[set] = []
    forward = DynSizeASRModel.forward

    def noting(model, *args, **kwargs):
        if model.training:
            epoch = (model.schedule.now - 1) // 4
            seen.extend([set() for _ in range(epoch + 1 - len(seen))])
            seen[epoch] |= set(kwargs["utt_id"])
        return forward(model, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(DynSizeASRModel, "forward", noting)
        whole = train(data, tmp_path / "whole", 10, **changes)
    assert whole["model"]["schedule.update"] == 40
    assert [len(names) for names in seen[:4]] == [12] * 4
    # Four, but for one that would leave its batch of three empty
    assert all(8 <= len(names) <= 9 for names in seen[4:])
    assert all({f"utt{n:02}" for n in range(6, 12)} < names for names in seen[4:])
    assert resample or all(names == seen[4] for names in seen[5:])

    kills = (6, 18, 30)
    parts = train_killed(data, tmp_path / "parts", 10, kills, monkeypatch, **changes)
    assert_same(parts["model"], whole["model"])
    files = sorted(p.name for p in (tmp_path / "parts" / "forgetting").iterdir())
    assert files == ["10epoch.json", "9epoch.json"]
    content = json.loads((tmp_path / "parts" / "forgetting" / files[0]).read_text())
    assert len(content["utterances"]) == 12 and 1 <= len(content["dropped"]) <= 4


def test_cut_models_know_nothing_of_it(data, tmp_path):
    train(data, tmp_path / "asr", 4, forgetting=CONF)
    for extracted in extract(tmp_path / "asr", AVERAGE, []):
        assert "forgetting:" not in (extracted.directory / "config.yaml").read_text()


def test_without_its_file_a_run_is_not_resumed(data, tmp_path):
    train(data, tmp_path / "asr", 2, forgetting=CONF)
    (tmp_path / "asr" / "forgetting" / "2epoch.json").write_text("{}")
    with pytest.raises(ConfigError, match="2epoch.json cannot be read"):
        train(data, tmp_path / "asr", 4, forgetting=CONF)


def test_a_run_goes_on_with_its_own_options(data, tmp_path):
    train(data, tmp_path / "asr", 2, forgetting=CONF)
    with pytest.raises(ConfigError, match="resume: .*forgetting=.* as the run began"):
        train(data, tmp_path / "asr", 4, forgetting=CONF | {"drop": 0.1})
    with pytest.raises(ConfigError, match="forgetting must be there, as the run in"):
        train(data, tmp_path / "asr", 4)


def test_only_the_full_network_is_asked(data, tmp_path, monkeypatch):
    """With `pairs`, it sits out a third of the joint updates."""
    seen = []
    monkeypatch.setattr(Ledger, "observe", lambda self, names, _: seen.extend(names))
    conf = dict(sandwich="pairs", forgetting={"drop": 0.1, "drop_at": 0.9})
    train(data, tmp_path / "asr", 4, selector_conf={"search_updates": 1}, **conf)
    # 12 utterances in four batches, 16 updates, of which every third is without it
    assert 0.6 * 48 <= len(seen) <= 0.75 * 48


def test_bad_options_are_refused(tmp_path):
    for conf, message in (
        ({"drop": 1.0}, "drop=1.0 must be"),
        ({"share": 0.1}, "share=0.1 is not an option of forgetting"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(model_config({"forgetting": conf}))
    with pytest.raises(ConfigError, match="iterator=MultipleIterFactory must be that"):
        Thinned(MultipleIterFactory([]), ledger(), 3, tmp_path)
    mixed = SequenceIterFactory([], [("a",)], shuffle_within_batch=True)
    with pytest.raises(ConfigError, match="shuffle_within_batch=True must be false"):
        Thinned(mixed, ledger(), 3, tmp_path)
