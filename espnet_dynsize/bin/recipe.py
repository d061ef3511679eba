"""`espnet-dynsize recipe`: the whole family through stock `asr.sh`."""

import logging
from collections.abc import Sequence

USAGE = """\
usage: ./run.sh [--sizes "16 48"] [--OPTION VALUE ...]

A recipe's run.sh; in a run.sh of your own, call espnet-dynsize recipe. Every option but
--sizes is one of ESPnet's asr.sh (./asr.sh --help lists them, once a run has linked
it); docs/asr_sh.md says which do not go with a family. run.sh itself shows the options
that it gives, and yours come after them. Stages 1 to 11 of asr.sh train the
supernet. Then the sizes are cut; each is decoded (12) and scored (13), the report is
written to <asr_exp>/RESULTS.md, and each is packed (14, with --skip_packing false) and
uploaded to <hf_repo>_size<N> (15, with --skip_upload_hf false). From stage 12 on, what
is done and has not changed is skipped. <asr_exp> is exp/asr_<name of the config> (the
language model's exp/lm_<name of its config>) where no folder or tag is given; a model
that other options trained is never continued there. ESPNET_ROOT is ESPnet's
checkout (default: the tree that the recipe lies in)."""


def main(argv: Sequence[str]) -> int:
    # Options come in pairs: `--asr_args --help` is not a question to us.
    if not argv or {"-h", "--help"} & set(argv[::2]):
        print(USAGE)
        return 0
    from espnet_dynsize.recipe.family import run_recipe

    logging.disable(logging.WARNING)
    run_recipe(argv)
    return 0
