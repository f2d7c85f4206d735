"""Flow matching: the path, the noise levels, the solvers on equations with a known solution, and guidance."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.conditions import Conditions
from training.config import FlowConfig, SampleConfig, Solver, TrainConfig
from training.data import Batch
from training.flow import (
    Velocity,
    draw_times,
    guidance_at,
    guided,
    point_on_path,
    shift_of,
    shifted,
    solve,
    step_times,
)
from training.losses import make_noisy

SOLVERS: tuple[Solver, ...] = ("euler", "heun", "adams_bashforth")


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


# ---- the path ----


def test_the_path_leads_from_data_to_noise() -> None:
    data, noise = torch.randn(3, 2, 2), torch.randn(3, 2, 2)
    point = point_on_path(data, noise, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(point.x_t[0], data[0]) and torch.equal(point.x_t[2], noise[2])
    assert torch.allclose(point.x_t[1] - 0.5 * point.velocity[1], data[1], atol=1e-6)


def test_frames_may_stand_at_levels_of_their_own() -> None:
    data, noise = torch.randn(2, 3, 4, 5, 5), torch.randn(2, 3, 4, 5, 5)
    t = torch.rand(2, 1, 4)
    t[1, 0, 0] = 0
    point = point_on_path(data, noise, t)
    assert torch.equal(point.x_t[1, :, 0], data[1, :, 0]) and torch.equal(point.velocity, noise - data)
    alone = point_on_path(data[:, :, 2], noise[:, :, 2], t[:, 0, 2])
    assert torch.equal(point.x_t[:, :, 2], alone.x_t)


# ---- noise levels ----


def test_times_are_logit_normal_and_shift_toward_noise() -> None:
    def draw(**changes: float) -> Tensor:
        return draw_times([64] * 4000, FlowConfig(**changes), torch.Generator().manual_seed(0))

    plain = torch.logit(draw())
    assert abs(plain.mean()) < 0.06 and abs(plain.std() - 1) < 0.06
    assert draw(shift=3.0).mean() > draw().mean() + 0.1
    assert shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist() == pytest.approx([0, 0.75, 1])


def test_the_shift_grows_with_the_tokens_of_a_clip() -> None:
    same, grows = FlowConfig(shift=2.0), FlowConfig(shift=2.0, shift_base_tokens=64)
    assert [shift_of(same, tokens) for tokens in (16, 64, 256)] == [2, 2, 2]
    assert [shift_of(grows, tokens) for tokens in (16, 64, 256)] == [1, 2, 4]
    plain, mixed = (draw_times([16, 64, 256], config, torch.Generator().manual_seed(0)) for config in (FlowConfig(), grows))
    assert torch.allclose(mixed, torch.stack([shifted(t, shift) for t, shift in zip(plain, (1.0, 2.0, 4.0), strict=True)]))


def test_a_shifted_clip_of_more_tokens_is_as_unsure_of_its_mean() -> None:
    """What the square root is for: of a clip that is the same all over, the mean is known as well at the shifted level."""
    config = FlowConfig(shift_base_tokens=100)

    def deviation(tokens: int, t: Tensor) -> float:
        noisy = point_on_path(torch.full((2000, tokens), 0.7), torch.randn(2000, tokens), t.expand(2000))
        return float((noisy.x_t.mean(1) / (1 - t)).std())  # of the estimate of 0.7

    few, t = deviation(100, torch.tensor(0.5)), torch.tensor(0.5)
    assert deviation(400, shifted(t, shift_of(config, 400))) == pytest.approx(few, rel=0.06)
    assert deviation(400, t) == pytest.approx(few / 2, rel=0.06)


def test_training_draws_each_clip_by_its_own_tokens() -> None:
    def times(**changes: float) -> Tensor:
        config = TrainConfig(dit={"patch": 2}, flow=changes, stages=[{"name": "vae", "model": "vae", "steps": 1}])
        x = (torch.randn(4, 1, 4, 4), torch.randn(4, 4, 8, 8))  # 4 and 64 tokens of 2 x 2 cells
        told = Conditions(("", ""), torch.ones(2), torch.zeros(2, 0, dtype=torch.int64))
        batch = Batch(x, told, torch.zeros(2, dtype=torch.int64), torch.zeros(2))
        noisy = make_noisy(batch, config.flow, config.dit.patch, torch.Generator().manual_seed(0))
        return torch.stack([levels[0] for levels in noisy.levels])

    plain, mixed = times(), times(shift_base_tokens=4)
    assert torch.equal(mixed[0], plain[0]) and torch.allclose(mixed[1], shifted(plain[1], 4.0))


# ---- the way back ----


def _gaussian(mean: float, deviation: float) -> tuple[Velocity, Callable[[Tensor], Tensor]]:
    """The velocity E[noise - data | x_t] where data is normal, and where it takes noise: x_t is mean + deviation * noise at each t."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        variance = ((1 - t) * deviation).square() + t.square()
        return (t - (1 - t) * deviation**2) / variance * (x - (1 - t) * mean) - mean

    return velocity, lambda noise: mean + deviation * noise


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("solver", "ratio"), [("euler", 2), ("heun", 4), ("adams_bashforth", 4)])
def test_halving_the_steps_divides_the_error_by_the_order_of_the_solver(solver: Solver, ratio: int, shift: float) -> None:
    (velocity, exact), noise = _gaussian(0.7, 1.5), torch.randn(100, 8, dtype=torch.float64)

    def error(num_steps: int) -> float:
        return float((solve(velocity, noise, step_times(num_steps, shift).double(), solver) - exact(noise)).abs().mean())

    errors = [error(num_steps) for num_steps in (40, 80, 160)]
    assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([ratio, ratio], rel=0.05)
    assert errors[0] < (0.05 if solver == "euler" else 0.003)


def test_the_multistep_solver_does_more_with_as_many_evaluations() -> None:
    (velocity, exact), noise = _gaussian(0.7, 1.5), torch.randn(100, 8)
    counted: list[int] = []

    def count(x: Tensor, t: Tensor) -> Tensor:
        counted[-1] += 1
        return velocity(x, t)

    def error(solver: Solver, num_steps: int) -> float:
        counted.append(0)
        return float((solve(count, noise, step_times(num_steps), solver) - exact(noise)).abs().mean())

    euler, heun, multistep = error("euler", 20), error("heun", 10), error("adams_bashforth", 20)
    assert counted == [20, 19, 20] and multistep < heun / 3 < euler / 3


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("num_steps", "shift"), [(1, 1.0), (7, 3.0)])
def test_a_straight_path_is_followed_exactly(solver: Solver, num_steps: int, shift: float) -> None:
    data, noise = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.allclose(solve(lambda x, t: noise - data, noise, step_times(num_steps, shift), solver), data, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_times_are_told_as_one_to_each_of_the_batch_and_never_zero(solver: Solver) -> None:
    told: list[list[float]] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        told.append(t.tolist())
        return torch.zeros_like(x)

    solve(velocity, torch.zeros(2, 1), step_times(4), solver)
    assert all(first == second for first, second in told) and sorted({first for first, _ in told}) == [0.25, 0.5, 0.75, 1.0]
    assert len(told) == (7 if solver == "heun" else 4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_known_is_held_by_a_velocity_of_zero(solver: Solver) -> None:
    """The first of four latent frames is given: it stays to the bit, though the velocity of the others depends on it."""
    known = torch.zeros(1, 1, 4, 1, 1, dtype=torch.bool)
    known[:, :, 0] = True
    given, start = torch.randn(2, 3, 4, 5, 5), torch.randn(2, 3, 4, 5, 5)
    start = torch.where(known, given, start)

    def velocity(x: Tensor, t: Tensor) -> Tensor:  # toward the first frame, on straight paths
        toward = (x - x[:, :, :1]) / t.view(-1, 1, 1, 1, 1)
        return torch.where(known, torch.zeros(()), toward)

    found = solve(velocity, start, step_times(6, 2.0), solver)
    assert torch.equal(found[:, :, 0], given[:, :, 0])
    assert torch.allclose(found, given[:, :, :1].expand_as(found), atol=1e-5)
    assert torch.equal(found, solve(velocity, start, step_times(6, 2.0), solver))


# ---- guidance ----


def test_guidance_is_an_extrapolation() -> None:
    with_text, without = torch.tensor([[3.0]]), torch.tensor([[1.0]])
    assert [float(guided(with_text, without, g)) for g in (0.0, 1.0, 2.0)] == [1.0, 3.0, 5.0]


def test_rescaled_guidance_keeps_the_deviation_of_each_clip() -> None:
    with_text, without = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4) * torch.tensor([0.1, 3.0]).view(2, 1, 1, 1)
    plain, half, full = (guided(with_text, without, 5.0, rescale) for rescale in (0.0, 0.5, 1.0))
    deviations = [velocity.flatten(1).std(1) for velocity in (with_text, plain, full)]
    assert torch.allclose(deviations[0], deviations[2]) and (deviations[1] > 2 * deviations[0]).all()
    assert torch.allclose(half, (plain + full) / 2, atol=1e-5)
    assert torch.equal(guided(torch.zeros(1, 4), torch.zeros(1, 4), 5.0, 1.0), torch.zeros(1, 4))  # all of it known: not a number is none


def test_guidance_may_keep_to_an_interval() -> None:
    assert [guidance_at(t, 4.0, (0.2, 0.8)) for t in (0.1, 0.2, 0.5, 0.8, 0.9)] == [1, 1, 4, 4, 1]
    assert [guidance_at(t, 4.0, SampleConfig().guidance_interval) for t in (0.01, 1.0)] == [4, 4]
    with pytest.raises(ValueError, match="guidance_interval must ascend, not 0.8 to 0.2"):
        SampleConfig(guidance_interval=(0.8, 0.2))
