"""ESPnet's command line, whose `--config` may build on another config."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2.utils.config_argparse import ArgumentParser

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.yaml_base import load_config


class BasedArgumentParser(ArgumentParser):
    """ESPnet's parser, but a config with `base: other.yaml` says what differs."""

    def parse_known_args(
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ):
        """As ESPnet's; see `load_config`."""
        # ESPnet's own reading of the file is skipped: it would refuse the key `base`.
        plain = super(ArgumentParser, self).parse_known_args
        # Into a namespace of its own: argparse sets defaults only where nothing is yet,
        # and those of this pass do not know the config.
        config, _ = plain(args, argparse.Namespace())
        if config.config is not None:
            try:
                values = load_config(Path(config.config))
            except ConfigError as error:
                self.error(str(error))
            known = {action.dest for action in self._actions}
            for key in values:
                if key not in known:
                    self.error(f"unrecognized arguments: {key} (from {config.config})")
            self.set_defaults(**values)
        return plain(args, namespace)
