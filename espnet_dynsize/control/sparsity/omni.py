"""One network under many sparsities: groups are ranked by magnitude, then frozen.

After Omni-sparsity DNN (arXiv 2110.08352).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch

from espnet_dynsize.control.sparsity.base import (
    KEY,
    PATTERN,
    UNSET,
    OfMatrices,
    PatternOption,
    Sparsity,
    plain,
)
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.members import percent
from espnet_dynsize.core.pattern import Pattern
from espnet_dynsize.core.schema import Count, NotEmpty, Share

# Around a global sparsity, the kept share of a matrix varies by this part of itself
SCATTER = 0.3
START = 0.35


@dataclass(frozen=True)
class Omni:
    """Which sparsities train, and when: the options of `model_conf: sparsity`.

    Args:
        levels: Increasing shares of each matrix's groups that are zero; 0 is the dense
            network. Or one alone: `[0.9]` is gradual pruning of the network to it
            (arXiv 1710.01878).
        pattern: Shape of the groups, such as `4x1` (4 outputs of one input), of every
            matrix of the encoder's layers; or of some kinds of layers: `{feed_forward:
            8x1, self_attn: 4x1}`, where the others stay dense. There, `decoder` and
            `joint_network` name those parts, whose output layers stay dense.
        start: Part of the run in which the dense network trains without sparse ones;
            0.35 if it is not given, or until a search of layers ends that takes longer.
        ramp_end: Part of the run after which the levels are reached, in a cubic curve
            (arXiv 1710.01878, equation 1).
        freeze: Part of the run after which the groups that are zero stay the same.
        refresh_updates: So often, until then, groups are ranked anew.

    Raises:
        ConfigError: they are not in order.
    """

    levels: Annotated[list[Share], NotEmpty()]
    pattern: PatternOption = PATTERN
    start: Share | None = None
    ramp_end: Share = 0.65
    freeze: Share = 0.80
    refresh_updates: Count = 50

    last, named = "freeze", "levels"

    def __post_init__(self):
        names = [percent(level) for level in self.levels]
        good = names == sorted(set(names)) and (0 in names) == (len(names) > 1)
        good = good and names[-1] < 100
        allowed = "increasing from 0 to at most 0.99, 0.01 apart, or one above 0"
        check(good, f"{KEY}: levels", list(self.levels), allowed)
        order = list(self.shares) == sorted(self.shares)
        times = ", ".join(map(str, self.shares))
        allowed = "increasing parts of the run"
        check(order, f"{KEY}: start, ramp_end, freeze", times, allowed)

    @property
    def shares(self) -> tuple[float, ...]:
        start = START if self.start is None else self.start
        return start, self.ramp_end, self.freeze


class OmniSparsity(Sparsity):
    """Ranks of the groups, and when they change, as tensors in the checkpoint.

    Magnitude decides: the groups of largest root mean square die last.

    Args:
        options: When, and how sparse.
        weights: See `Sparsity`.
        patterns: The same.
    """

    options: Omni

    def __init__(
        self,
        options: Omni,
        weights: Mapping[str, torch.nn.Module],
        patterns: Mapping[str, Pattern],
    ):
        super().__init__(options, weights, patterns)
        self.ranks = Ranks({n: (p, self._shapes[n]) for n, p in patterns.items()})

    def follow(self, search_updates: int) -> None:
        """See `Sparsity.follow`."""
        given, (start, ramp_end, _) = self.options.start, map(int, self.read("updates"))
        if given is None and ramp_end > search_updates:
            start = max(start, search_updates + 1)
            self.updates[0] = start
        key = f"{KEY}: ramp_end" if given is None else f"{KEY}: start={given}"
        update = ramp_end if given is None else start
        allowed = f"after the search of layers, which takes {search_updates} updates"
        check(update > search_updates, f"{key}: update", update, allowed)

    def reset(self) -> None:
        for buffer in self.buffers():  # those of the ranks, too
            buffer.fill_(UNSET)

    def begin_update(self, update: int, generator: torch.Generator) -> None:
        if not self.planned:
            raise RuntimeError("Sparsity.plan() comes before training.")
        start, _, freeze = self.read("updates")
        if update < start or self.final:
            return
        # Before the update's first batch, from weights that are the same on all ranks.
        if (update - start) % self.options.refresh_updates == 0 or update >= freeze:
            self._rank(generator)
        if update >= freeze:
            self.ready.fill_(1.0)

    @torch.no_grad()
    def _rank(self, generator: torch.Generator) -> None:
        for name, pattern in self.patterns.items():
            magnitudes = pattern.magnitudes(self.modules_of[name].weight)
            self.ranks.of(name).copy_(pattern.ranks(magnitudes, generator))

    def started(self, update: int) -> bool:
        return self.planned and update >= self.read("updates")[0]

    def ramp(self, update: int) -> float:
        if not self.started(update):
            return 0.0
        start, end, _ = self.read("updates")
        if update >= end:  # also where both are the same
            return 1.0
        left = 1 - (update - start) / (end - start)
        return 1 - left**3

    def of_level(self, level: float) -> dict[str, float]:
        return dict.fromkeys(self.patterns, level)

    def drawn(
        self, update: int, turn: int, generator: torch.Generator
    ) -> dict[str, float]:
        """Matrix → sparsity in an update: the sparsest, and a random one, in turn.

        A random one has a global sparsity between the levels, around which the kept
        shares of the matrices are scattered.

        Args:
            update: Counted from 1.
            turn: Of sparse subnets; which one is drawn.
            generator: The same on every rank and in a resumed run.
        """
        least, most = self.options.levels[1], self.options.levels[-1]
        level = least + (most - least) * float(torch.rand((), generator=generator))
        noise = torch.rand(len(self.patterns), generator=generator)
        chosen = self.of_level(most) if turn % 2 else self._scattered(level, noise)
        ramp = self.ramp(update)
        return {name: ramp * sparsity for name, sparsity in chosen.items()}

    def _scattered(self, level: float, noise: torch.Tensor) -> dict[str, float]:
        sizes = torch.tensor([float(n) for n in self.matrices.values()])
        factors = 1 + SCATTER * (2 * noise - 1)
        # As many weights as without them, but for matrices that cannot keep more.
        factors = factors * sizes.sum() / (factors * sizes).sum()
        shares = (1 - (1 - level) * factors).clamp(0, self.options.levels[-1])
        return {
            name: level if pattern.sparsity is not None else float(share)
            for (name, pattern), share in zip(self.patterns.items(), shares)
        }

    def masks(self, sparsity: Mapping[str, float]) -> dict[str, torch.Tensor]:
        self.check_names(sparsity)
        return {n: self._mask(n, share) for n, share in sparsity.items() if share > 0}

    def _mask(self, name: str, share: float) -> torch.Tensor:
        weight, ranks = self.modules_of[name].weight, self.ranks.of(name)
        if bool(ranks.isnan().any()):
            raise ConfigError(f"sparsity: the groups of {name} have no ranks yet.")
        pattern = self.patterns[name]
        groups = pattern.mask(ranks, share).to(weight.dtype)
        return pattern.spread(groups, weight.shape)


class Ranks(OfMatrices):
    """The rank of each group, a buffer [grid] for each matrix.

    Args:
        matrices: Name → pattern and shape of a matrix.
    """

    def __init__(self, matrices: Mapping[str, tuple[Pattern, torch.Size]]):
        super().__init__({n: p.grid(shape) for n, (p, shape) in matrices.items()})
        self._patterns = {plain(name): p for name, (p, _) in matrices.items()}

    def misfit(self, name: str, value: torch.Tensor) -> str | None:
        """See `Counters.misfit`; unset is all NaN."""
        if value.isnan().all() or self._patterns[name].is_ranking(value):
            return None
        return "holds no ranking of groups"
