"""What a balance asks for: shares of the values of tags."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from training.settings import Share, Strict, nearest


class TargetConfig(Strict):
    """Wanted shares over the values of one tag, or over the combinations of several (a joint).

    Exactly one of three says what is wanted. `shares` sum to 1 with `null_share`: a mapping by value for text ("*" is every
    value not named), a list by bin for numbers, and for a joint nested in the order of `tags`; a number where a nested level
    could stand holds for all below it. `label_shares` are for a tag with several labels to a clip, in a list column or in
    text with a `separator`: each is the share that carries the label, whatever else it carries. `temper` takes the natural
    frequencies to the power 1 / temper: 2 or "sqrt" weighs by 1 / sqrt(n), .inf asks for equal shares.
    """

    tag: str | None = None
    tags: tuple[str, ...] = ()
    edges: tuple[float, ...] | dict[str, tuple[float, ...]] | None = None  # ascending: bins (-inf, e0), [e0, e1), ...; of a joint by tag
    shares: dict[str, Any] | tuple[Any, ...] | None = None
    label_shares: dict[str, Share] | None = None
    temper: Literal["sqrt"] | Annotated[float, Field(ge=1)] | None = None
    separator: Annotated[str, Field(min_length=1)] | None = None
    null_share: Share | None = None  # of clips without a value: by default 0 with shares, as it is with temper, free with label_shares

    @property
    def columns(self) -> tuple[str, ...]:
        return self.tags if self.tag is None else (self.tag,)

    @property
    def has_labels(self) -> bool:
        return self.label_shares is not None or self.separator is not None

    def edges_of(self, column: str) -> tuple[float, ...] | None:
        """The edges of a numeric tag; None for text."""
        return self.edges.get(column) if isinstance(self.edges, dict) else self.edges

    @model_validator(mode="after")
    def _adds_up(self) -> "TargetConfig":
        if (self.tag is None) == (not self.tags):
            raise ValueError("a target needs either tag, or tags for a joint")
        if len(set(self.tags)) < len(self.tags):
            raise ValueError("tags must differ")
        if sum(wish is not None for wish in (self.shares, self.label_shares, self.temper)) != 1:
            raise ValueError("a target needs exactly one of shares, label_shares and temper")
        if self.has_labels and (self.tags or self.edges is not None or self.shares is not None):
            raise ValueError("a tag with several labels stands alone, without edges, and has label_shares or temper")
        self._check_edges()
        if self.shares is not None:
            total = math.fsum([*_leaf_shares(self.shares, [self.edges_of(column) for column in self.columns]), self.null_share or 0])
            if not math.isclose(total, 1.0, abs_tol=1e-6):
                raise ValueError(f"shares and null_share must sum to 1, not {total:g}")
        return self

    def _check_edges(self) -> None:
        if isinstance(self.edges, dict):
            for column in self.edges:
                if column not in self.tags:
                    raise ValueError(f"edges of {column!r}, which is not in tags; {nearest(column, self.columns)}")
        elif self.edges is not None and self.tags:
            raise ValueError("edges of a joint are a mapping by tag")
        for column in self.columns:
            edges = self.edges_of(column)
            if edges is not None and (list(edges) != sorted(set(edges)) or not edges or not all(map(math.isfinite, edges))):
                raise ValueError("edges must ascend")


def _leaf_shares(shares: Any, axes: list[tuple[float, ...] | None]) -> list[float]:
    """All shares of a nested mapping, checked against the edges of each axis."""
    if isinstance(shares, (int, float)) and not isinstance(shares, bool):
        if not 0 <= shares <= 1:
            raise ValueError(f"a share is from 0 to 1, not {shares:g}")
        return [float(shares)]
    if not axes or not isinstance(shares, (dict, list, tuple)):
        raise ValueError(f"a share is a number, not {shares!r}")
    if isinstance(shares, dict) == (axes[0] is not None):
        raise ValueError("shares is a mapping for a string tag; a numeric one needs edges and a list")
    if axes[0] is not None and len(shares) != len(axes[0]) + 1:
        raise ValueError(f"{len(axes[0])} edges make {len(axes[0]) + 1} bins; shares has {len(shares)}")
    if not isinstance(shares, dict):
        return [leaf for part in shares for leaf in _leaf_shares(part, axes[1:])]
    if wrong := [key for key in shares if not isinstance(key, str)]:
        raise ValueError(f"a value of a string tag must be text; quote {wrong[0]!r}")
    return [leaf for part in shares.values() for leaf in _leaf_shares(part, axes[1:])]


class BalanceConfig(Strict):
    """Wanted distributions of tags. One target may stand without the list: its keys are then those of the balance itself."""

    targets: tuple[TargetConfig, ...]
    unit: Literal["clips", "seconds", "tokens"] = "clips"  # what shares are shares of
    max_repeats: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0  # of one clip in one epoch
    # Of one source (video_id): its clips together in one epoch, by what they hold together. A mean over the source, so it
    # caps a source whatever its length, and no source is ever denied its natural share.
    max_source_repeats: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_target_is_a_list(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "targets" in given:
            return given
        known = [*cls.model_fields, *TargetConfig.model_fields]
        for key in given:
            if key not in known:
                raise ValueError(f"unknown key {key!r}; {nearest(str(key), known)}")
        target = {key: value for key, value in given.items() if key in TargetConfig.model_fields}
        return {"targets": [target], **{key: value for key, value in given.items() if key not in target}}

    @model_validator(mode="after")
    def _has_targets(self) -> "BalanceConfig":
        if not self.targets:
            raise ValueError("targets must not be empty; leave balance out to see every clip once")
        return self
