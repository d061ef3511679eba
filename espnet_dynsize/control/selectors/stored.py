"""A user's selector in a model that is only opened: its masks, but none of its code."""

from espnet_dynsize.control.selectors.fixed import FixedSelector


class StoredSelector(FixedSelector):
    """Stands in for a selector named by a dotted path.

    A config says which module that path imports, and configs come from strangers. The
    masks are in the checkpoint; so opening a model needs none of the selector's code,
    and whatever state it has there is left alone.
    """

    is_opaque = True

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        # Torch's own method would report the selector's state as unexpected.
        for name in [name for name in state_dict if name.startswith(prefix)]:
            del state_dict[name]

    def ranking(self) -> list[int]:
        # Not asked for in the joint phase, whose masks are in the checkpoint.
        return list(range(self.num_units))
