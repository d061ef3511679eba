"""`espnet-dynsize pack`: zips for the model zoo."""

import argparse
import logging
from pathlib import Path


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "pack",
        help="pack a size, or a whole family, for the model zoo",
        description="Write <asr_exp>/<name>_<checkpoint>.zip, which ESPnet's "
        "Speech2Text.from_pretrained and espnet_dynsize.load open.",
    )
    parser.add_argument("--asr_exp", type=Path, required=True, help="trained model")
    parser.add_argument(
        "--model_file",
        default="",
        help="checkpoint in it (default: the average, of the first "
        "best_model_criterion)",
    )
    parser.add_argument(
        "--family",
        action="store_true",
        help="asr_exp is a supernet: pack every size (cut now if it has not been)",
    )
    parser.add_argument("--lm_exp", type=Path, help="language model to go with it")
    parser.add_argument("--lm_file", default="valid.loss.ave.pth", help="%(default)s")
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="the exports in <asr_exp>/onnx go with it (see export)",
    )
    parser.add_argument("--hf_repo", help="also upload to user/name (and _size<N>)")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    from espnet_dynsize.deploy.experiment import find_checkpoint
    from espnet_dynsize.deploy.extract import extract_changed
    from espnet_dynsize.deploy.onnx.packed import find_exports
    from espnet_dynsize.deploy.pack import pack
    from espnet_dynsize.deploy.upload import check_repo, upload

    logging.disable(logging.WARNING)
    if args.hf_repo:
        check_repo(args.hf_repo)
    checkpoint = find_checkpoint(args.asr_exp, args.model_file)
    folders = {"": args.asr_exp}
    if args.family:
        changed = extract_changed(args.asr_exp, checkpoint)
        folders = {f"_size{size}": folder for size, folder in changed.items()}
    if args.onnx:  # before one of them is uploaded
        for folder in folders.values():
            find_exports(folder, checkpoint)
    for suffix, folder in folders.items():
        packed = pack(
            folder, checkpoint, None, args.lm_exp, args.lm_file, onnx=args.onnx
        )
        print(packed)
        if args.hf_repo:
            upload(packed, f"{args.hf_repo}{suffix}")
    return 0
