"""One call of an ESPnet method with some of the model's attributes replaced."""

import inspect
from types import MethodType

import torch


class View:
    """A model as one of its own methods sees it, with other attributes here and there.

    ESPnet's `encode` runs front-end, augmentation, normalisation and encoder in one go,
    and `forward` calls it before the losses. A view lets these methods run in parts,
    unchanged: with an encoder that passes features on, or with features in place of
    audio and no front-end.

    Args:
        model: The model; what is not replaced is read from it.
        **replaced: The attributes that differ.
    """

    def __init__(self, model: torch.nn.Module, **replaced):
        # Found before `__getattr__` is asked.
        self.__dict__.update(replaced, _model=model)

    def __getattr__(self, name: str):
        value = getattr(self._model, name)
        if inspect.ismethod(value) and value.__self__ is self._model:
            return MethodType(value.__func__, self)  # sees what is replaced, too
        return value
