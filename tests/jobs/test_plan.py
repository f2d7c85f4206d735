"""`reelmill plan` says what a run then does."""

import json

import pytest
import yaml

from schemas.manifest import read_manifest
from tests.jobs.test_tag import cli
from tests.labeling.sample import build
from tests.training.test_training_run import CONFIG
from training.config import TrainConfig
from training.packing import PlanState
from training.plan import plan_run, planner_of, prepare, shapes_of


@pytest.fixture
def given(tmp_path):
    """A manifest of 24 clips and a config that balances them."""
    build(tmp_path / "dataset")
    cli("manifest", tmp_path / "dataset", "--where", "true", "--out", tmp_path / "m.parquet")
    balance = {"max_repeats": 4, "targets": [{"tag": "duration_s", "edges": [2.5], "shares": [0.25, 0.75]}]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "balance": balance}))
    return tmp_path / "m.parquet", tmp_path / "c.yaml"


def test_a_plan_counts_what_the_planners_of_a_run_give(given):
    path, config_path = given
    manifest, config = read_manifest(path), TrainConfig(**yaml.safe_load(config_path.read_text()))
    plan, prepared, state = plan_run(manifest, config), prepare(manifest, config), PlanState()
    for stage, planned in zip(config.stages, plan.stages, strict=True):
        shapes = shapes_of(prepared, config, stage)
        planner = planner_of(shapes, stage, prepared.sampler, state)
        rows = [prepared.sampler.draw(k).row for _ in range(stage.steps) for batch in planner.step().batches for k in batch]
        state = planner.state
        tokens = int(sum(shapes.tokens[row] for row in rows))
        assert (planned.samples, planned.tokens, planned.clips_seen) == (len(rows), tokens, len(set(rows)))
        assert planned.carried == len(state.carried) and planned.planned_steps == stage.steps
        assert planned.useful_share == pytest.approx(tokens / (stage.steps * stage.micro_batches * stage.max_tokens))
    assert (plan.clips, plan.left_out) == (24, {})


def test_a_long_stage_is_planned_in_part_and_says_so(given, monkeypatch):
    path, config_path = given
    manifest, config = read_manifest(path), TrainConfig(**yaml.safe_load(config_path.read_text()))
    whole = plan_run(manifest, config).stages[1]
    monkeypatch.setattr("training.plan.MOST_DRAWS", 10)
    part = plan_run(manifest, config).stages[1]
    assert part.planned_steps < part.steps == whole.steps and part.samples == pytest.approx(whole.samples, rel=0.4)


def test_the_command_shows_balance_and_stages(given):
    path, config_path = given
    shown = cli("plan", path, "--config", config_path).stdout
    for expected in ("24; left out: 0; none has a caption", "duration_s [2.5, inf)", "75.0%", "packed, 8 steps", "handed on"):
        assert expected in shown
    plan = json.loads(cli("plan", path, "--config", config_path, "--json").stdout)
    assert plan["balance"]["values"][1]["planned_share"] == pytest.approx(0.75) and len(plan["stages"]) == 2
    wrong = yaml.safe_load(config_path.read_text()) | {
        "balance": {"tag": "duration_s", "edges": [2.5], "shares": [0.01, 0.99], "max_repeats": 1}
    }
    config_path.write_text(yaml.safe_dump(wrong))
    assert "max_repeats would have to be" in cli("plan", path, "--config", config_path, code=1).stderr
