"""How much of an utterance an encoder sees at a time."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from espnet_dynsize.core.errors import check
from espnet_dynsize.core.schema import check_value

WHOLE = "whole"
# Keys of `encoder_conf`: the three of ESPnet's streaming encoders
SIZES = ("block_size", "hop_size", "look_ahead")
_NAME = re.compile("/".join(3 * [r"(0|[1-9][0-9]{0,5})"]))
_FORM = "whole, or block_size/hop_size/look_ahead in frames, such as 40/16/16"


class Context(NamedTuple):
    """Blocks of `block_size` frames that begin `hop_size` apart; or whole utterances.

    In frames after subsampling. A block puts out `hop_size` frames, and has seen
    `look_ahead` frames after these.

    Args:
        block_size: 0 for whole utterances, as in ESPnet.
        hop_size: From one block to the next one.
        look_ahead: Frames of a block after those that it puts out.
    """

    block_size: int
    hop_size: int = 0
    look_ahead: int = 0

    @property
    def whole(self) -> bool:
        return self.block_size == 0

    @property
    def name(self) -> str:
        """`whole`, or `40/16/16`."""
        return WHOLE if self.whole else "/".join(map(str, self))

    @property
    def suffix(self) -> str:
        """What the folder's name ends in."""
        return self.name.replace("/", "_")

    @classmethod
    def read(cls, text: object, key: str) -> "Context":
        """The context of a name.

        Args:
            text: `whole`, or the three sizes.
            key: Where it stands, for messages.

        Raises:
            ConfigError: it is no name of one.
        """
        if text == WHOLE:
            return cls(0)
        numbers = _NAME.fullmatch(str(text))
        check(numbers is not None, key, text, _FORM)
        context = cls(*map(int, numbers.groups()))
        good = context.hop_size > 0 and context.fits
        least = "a hop_size above 0, and a block_size of at least hop_size + look_ahead"
        check(good, key, text, least)
        return context

    @property
    def fits(self) -> bool:
        """Whether a block holds all that it puts out and looks ahead to."""
        return self.block_size >= self.hop_size + self.look_ahead

    def within(self, config: dict) -> dict:
        """The config of a model that computes so."""
        sizes = dict(zip(SIZES, self))
        if self.whole:  # of which ESPnet reads the first only
            del sizes["hop_size"], sizes["look_ahead"]
        return {**config, "encoder_conf": {**config["encoder_conf"], **sizes}}


def family_contexts(config: Mapping) -> list[Context]:
    """The contexts that a supernet's config names; none where it has one only.

    Raises:
        ConfigError: what it has there are none.
    """
    named = (config.get("model_conf") or {}).get("contexts")
    return [] if named is None else read_contexts(named)


def read_contexts(named: object) -> list[Context]:
    """The contexts of `model_conf: contexts`.

    Raises:
        ConfigError: they are none, or one is there twice.
    """
    key = "model_conf: contexts"
    check_value(key, named, list[str])
    contexts = [Context.read(name, key) for name in named]
    good = len(contexts) > 1 and len(set(contexts)) == len(contexts)
    check(good, key, named, "several, each there once")
    return contexts
