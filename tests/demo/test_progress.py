from espnet_dynsize.demo.progress import summary


def test_summary_of_a_supernet_s_epoch():
    line = (
        "[train] loss=3.0, phase=0.000e+00, time=1 second, [valid] loss_8=2.1, "
        "cer_ctc_8=0.254, cer_ctc_24=0.2, cer_ctc=inf, phase=0.000e+00"
    )
    assert summary(line) == "search, valid CER 8: 25%, 24: 20%"
    assert summary(line.replace("phase=0.000e+00", "phase=1.000")).startswith("joint")


def test_summary_of_a_stock_epoch():
    assert (
        summary("[train] loss=3.0, [valid] cer_ctc=0.123, cer=nan") == "valid CER 12%"
    )
