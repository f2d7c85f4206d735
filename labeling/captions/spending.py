"""What a run has used, and the limits at which it stops."""

from collections.abc import Sequence
from dataclasses import dataclass

from labeling.captions.backends.protocol import CaptionError
from labeling.captions.dialogue import Reply


@dataclass(frozen=True)
class Prices:
    """Prices of a million tokens, in any currency."""

    tokens_in: float
    tokens_out: float

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


@dataclass(frozen=True)
class Limits:
    """What one run may use: tokens in and out together, and cost by the prices."""

    tokens: int | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Usage:
    """Requests and tokens of a dialogue. Tokens are None where the server did not say."""

    requests: int
    tokens_in: int | None
    tokens_out: int | None
    seconds: float

    @classmethod
    def of(cls, replies: Sequence[Reply]) -> "Usage":
        def total(counts: list[int | None]) -> int | None:
            return None if None in counts else sum(count for count in counts if count is not None)

        tokens_in, tokens_out = total([reply.tokens_in for reply in replies]), total([reply.tokens_out for reply in replies])
        return cls(len(replies), tokens_in, tokens_out, sum(reply.seconds for reply in replies))

    def cost(self, prices: Prices | None) -> float | None:
        if prices is None or self.tokens_in is None or self.tokens_out is None:
            return None
        return prices.cost(self.tokens_in, self.tokens_out)


class Spending:
    """Sums up a run, and says whether another clip may begin: for each one under way the most counts that it is likely to need.

    That is as many tokens in as any clip took so far, and out as many as an answer may have.
    """

    def __init__(self, limits: Limits, prices: Prices | None, expected: tuple[int, int]):
        """`expected`: tokens in that a clip is taken to need while none is done, and the longest answer. Raises CaptionError."""
        if limits.cost is not None and prices is None:
            raise CaptionError("a limit on cost needs prices: give --price-in and --price-out, per million tokens")
        self._limits, self._prices = limits, prices
        self.requests = self.tokens_in = self.tokens_out = self.clips = self.under_way = 0
        self._dearest = expected

    @property
    def cost(self) -> float | None:
        return self._prices.cost(self.tokens_in, self.tokens_out) if self._prices else None

    def begin(self) -> bool:
        """Whether there is room for one more clip; if so, it is under way."""
        ahead = self.under_way + 1
        tokens_in, tokens_out = self.tokens_in + ahead * self._dearest[0], self.tokens_out + ahead * self._dearest[1]
        if self._limits.tokens is not None and tokens_in + tokens_out > self._limits.tokens:
            return False
        if self._limits.cost is not None and self._prices and self._prices.cost(tokens_in, tokens_out) > self._limits.cost:
            return False
        self.under_way += 1
        return True

    def end(self, used: Usage) -> None:
        """A clip is done. `used`: all of its requests in this run."""
        self.under_way -= 1
        self.clips += 1
        if used.requests:
            self.requests += used.requests
            if used.tokens_in is None or used.tokens_out is None:
                if self._limits != Limits():
                    raise CaptionError(
                        "the server does not say how many tokens it used, so --max-tokens-total and --max-cost cannot be kept"
                    )
                return
            tokens = used.tokens_in, used.tokens_out
            is_first = not self.tokens_in
            self.tokens_in, self.tokens_out = self.tokens_in + tokens[0], self.tokens_out + tokens[1]
            self._dearest = (tokens[0] if is_first else max(self._dearest[0], tokens[0]), max(self._dearest[1], tokens[1]))

    @property
    def next_clip_tokens(self) -> int:
        """The most that one more clip is likely to take."""
        return sum(self._dearest)
