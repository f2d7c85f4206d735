"""The text of a draw: shares by weight, what is missing, and what is refused."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.balance import plan_balance
from training.config import DataConfig
from training.sampler import make_sampler
from training.settings import TrainError
from training.texts import choose_text, has_texts, pick

LENGTHS = DataConfig().caption_lengths
DRAWS = 20_000


def _entry(captioner: str, weight: float, **texts: str | None) -> dict[str, object]:
    none = dict.fromkeys(("caption_short", "caption_medium", "caption_dense"))
    return {"captioner": captioner, "weight": weight, **none, **texts}


def _all(captioner: str, weight: float) -> dict[str, object]:
    return _entry(captioner, weight, **{f"caption_{length}": f"{captioner} {length}" for length in ("short", "medium", "dense")})


def _shares(row: dict[str, object], lengths: dict[str, float] = LENGTHS) -> dict[str, float]:
    """Share of each text over the draws of a real sampler."""
    sampler = make_sampler(plan_balance(pa.table({"x": [0.0]}), None), "m", 5)
    counts = Counter(choose_text(row, lengths, sampler.draw(k).text_choice) for k in range(DRAWS))
    return {text: count / DRAWS for text, count in counts.items()}


def test_lengths_have_their_shares() -> None:
    shares = _shares({"caption_short": "s", "caption_medium": "m", "caption_dense": "d"})
    assert shares == pytest.approx({"s": 0.25, "m": 0.25, "d": 0.5}, abs=0.012)
    assert _shares({"caption_short": "s", "caption_medium": None, "caption_dense": "d"}) == pytest.approx(
        {"s": 1 / 3, "d": 2 / 3}, abs=0.012
    )


def test_captioners_have_their_shares_of_each_length() -> None:
    shares = _shares({"caption_short": "not this", "captions": [_all("qwen", 1.4), _all("template", 0.6)]})
    wanted = {"qwen short": 0.175, "qwen medium": 0.175, "qwen dense": 0.35}
    wanted |= {"template short": 0.075, "template medium": 0.075, "template dense": 0.15}
    assert shares == pytest.approx(wanted, abs=0.012)


def test_a_captioner_without_a_caption_in_these_lengths_takes_no_share() -> None:
    mix = [_entry("a", 9, caption_medium="a medium"), _entry("b", 3, caption_short="b short"), _entry("c", 1, caption_dense="c dense")]
    assert _shares({"captions": mix}, {"caption_short": 1, "caption_dense": 5}) == pytest.approx(
        {"b short": 0.75, "c dense": 0.25}, abs=0.012
    )


def test_a_column_beside_the_mix_is_the_rows_own() -> None:
    row = {
        "content_ocr_text": "EXIT",
        "caption_short": "not this",
        "captions": [_entry("a", 1, caption_short="a"), _entry("b", 1, caption_short="b")],
    }
    shares = _shares(row, {"caption_short": 3, "content_ocr_text": 1})
    assert shares == pytest.approx({"a": 0.375, "b": 0.375, "EXIT": 0.25}, abs=0.012)


def test_nothing_to_say_is_an_empty_text() -> None:
    for row in ({}, {"caption_short": None}, {"caption_short": ""}, {"captions": []}, {"captions": [_entry("a", 1)]}):
        assert choose_text(row, LENGTHS, 0.5) == ""
    assert choose_text({"caption_short": "s"}, {}, 0.5) == ""


def test_the_text_of_draw_k_depends_on_nothing_before_it_nor_on_the_order_of_the_config() -> None:
    row = {"captions": [_all("a", 0.7), _all("b", 0.3)]}
    sampler, again = (make_sampler(plan_balance(pa.table({"x": [0.0] * 7}), None), "m", 5) for _ in range(2))
    texts = [choose_text(row, LENGTHS, sampler.draw(k).text_choice) for k in range(200)]
    backward = dict(reversed(LENGTHS.items()))
    assert [choose_text(row, backward, again.draw(k).text_choice) for k in range(120, 200)] == texts[120:]
    assert len(set(texts)) == 6


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5), st.floats(0, 1, exclude_max=True))
def test_what_is_left_of_a_choice_is_a_choice(weights: list[float], choice: float) -> None:
    picked = pick(list(enumerate(weights)), choice)
    assert 0 <= picked.left < 1 and 0 <= picked.item < len(weights)


def test_columns_are_checked() -> None:
    rows = pa.table({"caption_short": ["a"], "scene": pa.nulls(1), "fps": [1.0]})
    assert has_texts(rows, LENGTHS) and has_texts(rows, {"scene": 1}) and not has_texts(rows.drop_columns(["caption_short"]), LENGTHS)
    with pytest.raises(TrainError, match="caption_lengths: the manifest has no column 'caption_shrt'; did you mean 'caption_short'"):
        has_texts(rows, {"caption_shrt": 1})
    with pytest.raises(TrainError, match="fps is not text but double"):
        has_texts(rows, {"fps": 1})
