"""Operations in closed form against those that torch counts in real passes."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from training.conditions import Conditions, TextFeatures
from training.config import DiTConfig
from training.dit import DiT
from training.forecast.cost import count_flops
from training.forecast.flops import dit_flops, dit_flops_of

BUCKETED = [(3, 4, 6)] * 3
PACKED = [(1, 4, 6), (3, 8, 6), (5, 4, 4)]
TEXTS = ("a dog runs", "", "clouds over mountains at night, and a text that is cut")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _batch(shapes: Sequence[tuple[int, ...]], channels: int, feature_width: int | None) -> tuple[tuple[Tensor, ...], Conditions]:
    count, features = len(shapes), None
    if feature_width is not None:
        features = TextFeatures(tuple(torch.randn(5 + 7 * i, feature_width) for i in range(count)), torch.randn(1, feature_width))
    maps = {"edges": (None, *(torch.randn(12, *shape) for shape in shapes[1:])), "camera": (None,) * count}
    conditions = Conditions(TEXTS[:count], torch.full((count,), 2.0), torch.ones(count, 2, dtype=torch.int64), features, maps)
    return tuple(torch.randn(channels, *shape) for shape in shapes), conditions


def _counted(dit: DiT, x: tuple[Tensor, ...], conditions: Conditions, backward: bool) -> int:
    with count_flops() as flops:
        velocities = dit(x, [torch.rand(each.shape[1]) for each in x], conditions)
        if backward:
            sum(velocity.square().sum() for velocity in velocities).backward()
    return flops.get_total_flops()


@pytest.mark.parametrize("feature_width", [None, 48], ids=["bytes", "features"])
@pytest.mark.parametrize("shapes", [BUCKETED, PACKED], ids=["bucketed", "packed"])
@pytest.mark.parametrize(
    "config",
    [
        DiTConfig(width=64, depth=3, heads=2, text_width=32, text_depth=2, max_text_bytes=40),
        DiTConfig(width=96, depth=1, heads=4, text_width=16, patch=2),
    ],
    ids=["deep", "patched"],
)
def test_the_closed_form_is_what_torch_counts(config: DiTConfig, shapes: list[tuple[int, ...]], feature_width: int | None) -> None:
    dit, (x, conditions) = DiT(config, 8, 2, feature_width, {"edges": 12, "camera": 5}), _batch(shapes, 8, feature_width)
    flops = dit_flops_of(config, x, conditions)
    assert flops.forward == _counted(dit, x, conditions, backward=False)
    assert flops.train == pytest.approx(_counted(dit, x, conditions, backward=True), rel=0.01)


def test_a_model_of_full_size_is_counted_by_its_components() -> None:
    """The shape of 1.3 B weights, two of its blocks, on 4,352 tokens: 17 latent frames of 16 x 16 tokens."""
    config = DiTConfig(width=1536, depth=2, heads=12, text_width=512, patch=2)
    with FakeTensorMode():
        dit, (x, conditions) = DiT(config, 16, 2, 4096), _batch([(17, 32, 32)], 16, 4096)
        counted = [_counted(dit, x, conditions, backward=backward) for backward in (False, True)]
    flops = dit_flops(config, 16, [(17, 256)], [5], 4096)
    assert flops == dit_flops_of(config, x, conditions) and flops.forward == counted[0]
    assert flops.train == pytest.approx(counted[1], rel=0.001)
    assert flops.self_attention == 2 * 4 * 4352**2 * 1536 and flops.mlp == 2 * flops.self_projections


def test_attention_grows_with_the_square_of_each_clip_and_the_rest_with_tokens() -> None:
    config = DiTConfig()
    one, two, long = (dit_flops(config, 8, shapes, [9] * len(shapes)) for shapes in ([(3, 20)], [(3, 20)] * 2, [(3, 40)]))
    assert two.self_attention == 2 * one.self_attention and long.self_attention == 4 * one.self_attention
    assert two.forward == 2 * one.forward and (long.mlp, long.ends) == (two.mlp, two.ends)
