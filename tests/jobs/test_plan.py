"""`reelmill plan` says what a run then does."""

import html
import json
import math

import pyarrow as pa
import pytest
import typer
import yaml

from jobs.plan import plan as plan_command
from schemas.manifest import read_manifest, write_manifest
from tests.jobs.test_report import Page
from tests.jobs.test_tag import cli
from tests.labeling.sample import HOSTILE, build
from tests.training.test_training_run import CONFIG
from training.config import TrainConfig
from training.fullness import FULL
from training.packing import PlanState
from training.plan import plan_run, planner_of, prepare, shapes_of


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A manifest of 24 clips and a config that balances them."""
    folder = tmp_path_factory.mktemp("plan")
    build(folder / "dataset")
    cli("manifest", folder / "dataset", "--where", "true", "--out", folder / "m.parquet")
    balance = {"max_repeats": 4, "targets": [{"tag": "duration_s", "edges": [2.5], "shares": [0.25, 0.75]}]}
    (folder / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "balance": balance}))
    return folder / "m.parquet", folder / "c.yaml"


@pytest.fixture(scope="module")
def hostile(given, tmp_path_factory):
    """The same clips, half of them with a tag whose value is a script, in a plan by that tag; its page, and what is printed."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = read_manifest(given[0]).rows
    places = pa.array([HOSTILE if i % 2 else "a <b>&" for i in range(rows.num_rows)])
    write_manifest(folder / "<i>.parquet", rows.append_column("place", places), "uri != '<u>'", {}, {})
    stages = [{**CONFIG["stages"][0], "name": "<s>"}, CONFIG["stages"][1]]
    config = CONFIG | {"balance": {"tag": "place", "shares": {HOSTILE: 0.75, "*": 0.25}}, "stages": stages}
    (folder / "<em>.yaml").write_text(yaml.safe_dump(config))
    plan_command(folder / "<i>.parquet", str(folder / "<em>.yaml"), html=folder / "page.html", device="h100", as_json=True)
    return (folder / "page.html").read_text("utf-8")


def test_a_plan_counts_what_the_planners_of_a_run_give(given):
    path, config_path = given
    manifest, config = read_manifest(path), TrainConfig(**yaml.safe_load(config_path.read_text()))
    plan, (prepared, *_), state = plan_run({None: manifest}, config).plan, prepare({None: manifest}, config), PlanState()
    for stage, planned in zip(config.stages, plan.stages, strict=True):
        shapes = shapes_of(prepared, config, stage)
        planner = planner_of(shapes, stage, prepared.sampler, state)
        rows = [prepared.sampler.draw(k).row for _ in range(stage.steps) for batch in planner.step().batches for k in batch]
        state = planner.state
        tokens = int(sum(shapes.tokens[row] for row in rows))
        assert (planned.samples, planned.tokens, planned.clips_seen) == (len(rows), tokens, len(set(rows)))
        assert planned.carried == len(state.carried) and planned.planned_steps == stage.steps
        assert planned.useful_share == pytest.approx(tokens / (stage.steps * stage.micro_batches * stage.max_tokens))
    (data,) = plan.data
    assert (data.clips, data.left_out) == (24, {})


def test_a_long_stage_is_planned_in_part_and_says_so(given, monkeypatch):
    path, config_path = given
    manifest, config = read_manifest(path), TrainConfig(**yaml.safe_load(config_path.read_text()))
    whole = plan_run({None: manifest}, config).plan.stages[1]
    monkeypatch.setattr("training.plan.MOST_DRAWS", 10)
    part = plan_run({None: manifest}, config).plan.stages[1]
    assert part.planned_steps < part.steps == whole.steps and part.samples == pytest.approx(whole.samples, rel=0.4)


def test_shapes_of_a_stage_sum_to_the_whole(given):
    plan = plan_run({None: read_manifest(given[0])}, TrainConfig(**yaml.safe_load(given[1].read_text()))).plan
    for stage in plan.stages:
        assert sum(shape.clips for shape in stage.shapes) == 24 and sum(shape.samples for shape in stage.shapes) == stage.samples
        assert sum(shape.token_share for shape in stage.shapes) == pytest.approx(1)
        assert sum(shape.samples * shape.tokens for shape in stage.shapes) == stage.tokens
    bucketed, packed = plan.stages
    assert all(shape.fill is None and shape.clips_per_batch is None for shape in packed.shapes)
    # Batches of one shape: how full they are is the mean of the fill over the batches of each.
    batches = {shape: shape.samples / shape.clips_per_batch for shape in bucketed.shapes}
    mean = sum(shape.fill * count for shape, count in batches.items()) / sum(batches.values())
    assert bucketed.useful_share == pytest.approx(mean)
    (data,) = plan.data
    assert sum(data.repeats.values()) == 24 and sum(times * clips for times, clips in data.repeats.items()) == data.balance.epoch_length


def test_what_is_named_as_fuller_is_so(given):
    """Planned with the budget of the hint a stage is full, and with the next smaller one it is not."""
    manifest, config = read_manifest(given[0]), TrainConfig(**yaml.safe_load(given[1].read_text()))

    def stage(**changes):
        changed = config.stages[1].model_copy(update={"steps": 400, "micro_batches": 1, **changes})
        return plan_run({None: manifest}, config.model_copy(update={"stages": (config.stages[0], changed)})).plan.stages[1]

    loose = stage(max_tokens=19)
    assert loose.useful_share < FULL and loose.fuller.batching == "packed" and loose.fuller.useful_share >= FULL
    times = loose.fuller.max_tokens / 19
    assert stage(max_tokens=loose.fuller.max_tokens).useful_share == pytest.approx(loose.fuller.useful_share, abs=0.01)
    smaller = [math.ceil(19 * less) for less in (1.25, 1.5, 2, 3) if less < times - 0.1]
    assert times > 1.2 and all(stage(max_tokens=budget).useful_share < FULL for budget in smaller)
    bucketed = stage(batching="bucketed", max_tokens=45)
    assert bucketed.fuller.max_tokens == 45
    packed = stage(batching="packed", max_tokens=45)
    assert bucketed.fuller.useful_share == pytest.approx(packed.useful_share, abs=0.01) and packed.useful_share > bucketed.useful_share


def test_the_command_shows_balance_stages_and_cost(given, tmp_path):
    path, config_path = given
    shown = cli("plan", path, "--config", config_path, "--html", tmp_path / "page.html").stdout
    for expected in ("24; left out: 0; none has a caption", "duration_s [2.5, inf)", "75.0%", "packed, 8 steps", "handed on"):
        assert expected in shown
    for expected in ("MFLOP a step", "of memory a rank", "optimizer", "shapes of vae", "no time: give a --device"):
        assert expected in shown
    text = Page((tmp_path / "page.html").read_text("utf-8")).text
    assert "no time: give a --device" in text and "The manifest holds no captions" in text
    wrong = yaml.safe_load(config_path.read_text()) | {
        "balance": {"tag": "duration_s", "edges": [2.5], "shares": [0.01, 0.99], "max_repeats": 1}
    }
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    assert "max_repeats would have to be" in cli("plan", path, "--config", tmp_path / "wrong.yaml", code=1).stderr


def test_the_plan_as_json(given, capsys):
    plan_command(given[0], str(given[1]), device="h100", ranks=1, as_json=True)
    plan = json.loads(capsys.readouterr().out)
    assert plan["data"][0]["balance"]["values"][1]["planned_share"] == pytest.approx(0.75) and len(plan["stages"]) == 2
    assert plan["stages"][1]["shapes"][0]["token_share"] > 0 and sum(plan["data"][0]["repeats"].values()) == 24
    cost, time = plan["cost"], plan["time"]
    assert cost["stages"][1]["memory"]["peak"] > cost["stages"][1]["memory"]["saved"] > 0 and cost["weights"]["dit"] > 0
    assert "h100" in time["basis"] and "40% (MFU)" in time["basis"] and time["stages"][1]["fits"]
    assert time["stages"][1]["encode_seconds"] > 0


@pytest.mark.parametrize(
    "wrong", [{"measure": True, "device": "h100"}, {"measure": True, "ranks": 2}, {"mfu": 0.3}, {"mfu": 1.5, "device": "h100"}]
)
def test_options_that_mean_nothing_together_are_refused(given, wrong):
    with pytest.raises(typer.BadParameter):
        plan_command(given[0], str(given[1]), **wrong)


def test_the_page_names_no_address_and_runs_nothing(hostile):
    page = Page(hostile)
    links = [value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "action", "srcset", "data")]
    assert links and all(value.startswith("#") for value in links)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "img"} & set(page.tags)
    assert "http://" not in hostile and "https://" not in hostile and "url(" not in hostile and "@import" not in hostile


def test_whatever_data_and_config_say_stays_text(hostile):
    assert "<script" not in hostile.lower() and html.escape(HOSTILE) in hostile
    tags = set(Page(hostile).tags)
    assert not tags & {"s", "em", "u"} and "<i>.parquet" not in hostile
    text = Page(hostile).text
    assert f"{HOSTILE} 12 50.0% 75.0% 75.0%" in text and "<i>.parquet trained as <em>.yaml" in text and "uri != '<u>'" in text
    assert "<s> trains the vae" in text


def test_the_page_shows_before_and_after(hostile):
    page = Page(hostile)
    bars = [value for tag, name, value in page.attributes if (tag, name) == ("i", "style")]
    shares = ("66.67", "33.33", "33.33", "66.67", "100.0", "100.0")  # natural, planned and realized of each value, of the largest of all
    assert bars[:6] == [f"--share: {share}%" for share in shares]
    for expected in ("0 clips.", "samples out", "1 rank of h100", "fits the 80 GB", "wanted", "Effective sample size", "padding 0"):
        assert expected in page.text
    assert page.tags.count("rect") >= 2


def test_a_plan_without_a_balance_shows_the_tags_that_condition_it(given, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "balance": None}))
    plan_command(given[0], str(tmp_path / "c.yaml"), html=tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    assert "No balance is wanted" in page.text and "motion_mean diag/s" in page.text and "24 1 ×" in page.text


def test_stages_that_draw_from_another_manifest_are_told_apart(given, tmp_path):
    rows, dit = read_manifest(given[0]).rows, CONFIG["stages"][1]
    best = tmp_path / "best.parquet"
    write_manifest(best, rows.slice(0, 10), "quality > 0.5", {}, {})
    balance = {"tag": "duration_s", "edges": [2.5], "shares": [0.25, 0.75]}
    stages = [*CONFIG["stages"], {**dit, "name": "good", "manifest": str(best), "balance": balance}]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "balance": None, "stages": stages}))
    shown = cli("plan", given[0], "--config", tmp_path / "c.yaml", "--html", tmp_path / "page.html").stdout
    assert "24 of vae, dit; left out: 0" in shown and f"10 in {best} of good; left out: 0" in shown
    assert "balance of good" in shown and "balance of vae" not in shown
    text = Page((tmp_path / "page.html").read_text("utf-8")).text
    for name, whose, path in ((given[0].name, "vae, dit", given[0]), ("best.parquet", "good", best)):
        manifest = read_manifest(path)
        assert f"manifest {name} of {whose} predicate {manifest.facts.predicate} digest {manifest.digest}" in text
        assert f"Left out of {whose}" in text and f"Repeats of {whose}" in text
    assert "No balance is wanted" in text and "Balance of good Shares of clips by value" in text and "34 0 left out" in text
    plan = json.loads(cli("plan", given[0], "--config", tmp_path / "c.yaml", "--json").stdout)
    first, second = plan["data"]
    assert (first["stages"], first["manifest"], first["clips"]) == (["vae", "dit"], None, 24)
    assert (second["stages"], second["manifest"], second["clips"]) == (["good"], str(best), 10)
    assert [value["target_share"] for value in second["balance"]["values"][:2]] == [0.25, 0.75] and not first["balance"]["values"]
