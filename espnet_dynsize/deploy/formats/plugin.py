"""The plugin's own format: only what the subnet keeps exists."""

from espnet_dynsize.core.keys import granularity, kept_units


def to_plugin(config: dict, states: dict) -> tuple[dict, dict, str]:
    """A cut model as it is, and a sentence on it.

    Args:
        config: Config of a cut model.
        states: Its state dict.
    """
    units = f"{granularity(config)}s"
    return config, states, f"{len(kept_units(config))} {units} kept, the others deleted"
