"""The configuration file: presets, and errors that help."""

from pathlib import Path

import pytest
import yaml

from training.config import PRESETS, changed_keys, dump_config, load_config
from training.settings import TrainError

STAGES = [{"name": "a", "model": "vae", "steps": 1}, {"name": "b", "model": "dit", "steps": 1}]


def _write(folder: Path, **changes: object) -> Path:
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump({"stages": STAGES, **changes}))
    return path


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_presets_load_by_name_and_path_and_survive_being_written(preset: str, tmp_path: Path) -> None:
    config = load_config(preset)
    assert config == load_config(PRESETS / f"{preset}.yaml")
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": 1}, "unknown key 'sede'; did you mean 'seed'"),
        ({"data": {"shapes": {"max_frame": 9}}}, "data.shapes: unknown key 'max_frame'; did you mean 'max_frames'"),
        ({"stages": [{**STAGES[0], "stesp": 3}]}, r"stages\[0\]: unknown key 'stesp'; did you mean 'steps'"),
        ({"data": {"text_columns": ["caption_short"]}}, "data: unknown key 'text_columns'"),
        ({"data": {"caption_lengths": {"caption_short": 0}}}, "data.caption_lengths.caption_short: .*greater than 0"),
        ({"data": {"shapes": {"max_frames": 10}}}, "1 \\+ a multiple of 4"),
        ({"data": {"shapes": {"max_frames": 13, "frame_step": 2}}}, "1 \\+ a multiple of 8"),
        ({"data": {"shapes": {"areas": [[9, 7]]}}}, "a token of 8x8 pixels"),
        ({"data": {"shapes": {"fps": 0}}}, "data.shapes.fps"),
        ({"stages": [{**STAGES[0], "max_tokens": 419}]}, "the largest shape has 420 tokens"),
        ({"stages": [{**STAGES[0], "shapes": {"areas": [[960, 560]]}}]}, "the largest shape has 42000 tokens"),
        ({"stages": [{**STAGES[0], "batching": "packed"}]}, "batching must be bucketed"),
        ({"stages": STAGES[1:]}, "begin with one that trains the vae"),
        ({"stages": [STAGES[0], STAGES[0]]}, "different names"),
        ({"balance": {"tag": "t", "shares": {"a": 0.4}}}, "must sum to 1, not 0.4"),
        ({"vae": {"widths": [8, 8]}}, "must halve time or space"),
        ({"dit": {"width": 100, "heads": 3}}, "width must be heads times"),
        ({"audit": {"every_step": 5}}, "audit: unknown key 'every_step'; did you mean 'every_steps'"),
        ({"text": {"encode": "t5"}}, "text: unknown key 'encode'; did you mean 'encoder'"),
        ({"text": {"max_tokens": 4}}, "text.max_tokens: .*greater than or equal to 8"),
        ({"seed": "x"}, "seed: .*integer"),
    ],
)
def test_errors_name_the_key_and_the_fix(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=message) as caught:
        load_config(_write(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(TrainError, match="no config file or preset 'tinny'; presets: staged-1.3b, tiny"):
        load_config("tinny")


def test_what_is_no_yaml_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: [1")
    with pytest.raises(TrainError, match="is not YAML"):
        load_config(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("- 1")
    with pytest.raises(TrainError, match="must be a mapping of settings"):
        load_config(tmp_path / "c.yaml")


def test_changed_keys_are_named_with_both_values(tmp_path: Path) -> None:
    old = load_config(_write(tmp_path))
    new = load_config(_write(tmp_path, seed=4, stages=[STAGES[0], {**STAGES[1], "steps": 9}]))
    assert changed_keys(old, new) == ["seed: 0 -> 4", "stages[1].steps: 1 -> 9"]
