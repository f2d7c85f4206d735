"""`reelmill sample` on a run that was trained with conditions: what it makes of its options, and what it says of wrong ones."""

import json
from hashlib import sha256
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from PIL import Image

from jobs.sample import sample_settings
from schemas.manifest import write_manifest
from tests.command import Done, reelmill
from tests.training.known_motion import filmed, scene
from tests.video import write_video
from training.generate import open_generator
from training.pixels import to_pixels, to_tensor
from training.videos import read_image

WIDTH, HEIGHT, FRAMES, FPS = 32, 16, 9, 8
CONFIG = {
    "threads": 1,
    "data": {"shapes": {"areas": [[WIDTH, HEIGHT]], "max_frames": FRAMES, "fps": FPS}, "condition_tags": ["motion_mean"]},
    "vae": {"latent_channels": 4, "widths": [8, 8, 8]},
    "dit": {"width": 32, "depth": 1, "heads": 2, "text_width": 16},
    "conditions": {
        **{"first_frame": 0.3, "continuation": 0.4, "context_noise": 0.2},
        **dict.fromkeys(("last_frame", "camera", "tracks", "edges"), 0.4),
    },
    "stages": [
        {"name": "vae", "model": "vae", "steps": 3, "max_tokens": 96, "warmup_steps": 1},
        {"name": "dit", "model": "dit", "steps": 12, "max_tokens": 96, "warmup_steps": 1},
    ],
    "sample": {"prompt": "a texture", "num_steps": 2},
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and with pictures and videos to sample from."""
    folder = tmp_path_factory.mktemp("sample")
    rows = []
    for number in range(4):
        moving = filmed(scene(number), 96, 48, FRAMES, FPS, pan=0.2 * (number - 1.5))
        video = write_video(folder / f"{number}.mkv", moving, codec="ffv1", pix_fmt="bgr0", fps=FPS)
        span = {"start_frame": 0, "num_frames": FRAMES, "start_s": 0.0, "end_s": FRAMES / FPS, "fps": float(FPS)}
        picture = {"width": 96, "height": 48, "crop_x": 0, "crop_y": 0, "crop_w": 96, "crop_h": 48}
        facts = {"clip_id": f"clip {number}", "video_id": f"video {number}", "uri": str(video), "motion_mean": float(number)}
        rows.append({**facts, **span, **picture, "caption_short": f"texture {number}"})
    write_manifest(folder / "m.parquet", pa.Table.from_pylist(rows), "true", {}, {})
    (folder / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    done = reelmill("train", folder / "c.yaml", "--manifest", folder / "m.parquet", "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    longer = filmed(scene(7), 96, 48, 33, FPS, pan=0.3)
    write_video(folder / "long.mkv", longer, codec="ffv1", pix_fmt="bgr0", fps=FPS)
    Image.fromarray(longer[0]).save(folder / "first.png")
    Image.fromarray(np.rot90(longer[-1])).save(folder / "upright.png")
    (folder / "no picture.png").write_text("nothing to see")
    return folder


def _sample(given: Path, out: Path, *options: object) -> Done:
    return reelmill("sample", given / "run", "--out", out, *options)


def _made(given: Path, out: Path, *options: object) -> dict:
    """The sidecar of a sample."""
    done = _sample(given, out, *options)
    assert done.returncode == 0, done.stderr
    return json.loads(out.with_suffix(".json").read_text())


def _frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_sample_is_a_video_with_its_settings_beside_it(given: Path, tmp_path: Path) -> None:
    facts = _made(given, tmp_path / "v.mp4", "--seed", 5, "--tag", "motion_mean=0.9", "--guidance", 3, "--steps", 3, "--fps", 12)
    wanted = {"prompt": "a texture", "seed": 5, "width": 32, "height": 16, "num_frames": 9, "fps": 12.0, "num_steps": 3}
    wanted |= {"solver": "euler", "guidance": 3.0, "tags": {"motion_mean": 0.9}, "context_frames": 5, "context_noise": 0.1}
    wanted |= {"image": None, "last_image": None, "continues": None, "files_sha256": {}}
    assert wanted.items() <= facts.items() and len(facts["frames_sha256"]) == 64
    assert facts["steering"] == {"camera": {}, "tracks": [], "videos": {}}
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].average_rate == 12
    assert _frames(tmp_path / "v.mp4").shape == (9, 16, 32, 3)


def test_the_same_settings_give_the_same_frames_and_any_other_gives_others(given: Path, tmp_path: Path) -> None:
    steering = (
        "--camera",
        "pan=0.2,zoom=-0.1",
        "--track",
        "0.2,0.5;0.8,0.5",
        "--track",
        "0.5,0.1",
        "--control",
        f"edges={given / 'long.mkv'}",
    )
    variants: list[tuple[object, ...]] = [
        (),
        ("--seed", 1),
        ("--prompt", "a dog"),
        ("--image", given / "first.png"),
        ("--last-image", given / "first.png"),
        ("--continue", given / "long.mkv", "--frames", 9),
        *[steering[start : start + 2] for start in (0, 2, 6)],
        steering,
        ("--frames", 25),
        ("--fps", 16),
        ("--solver", "heun"),
    ]

    def digests(again: str) -> list[str]:
        return [_made(given, tmp_path / f"{again}{number}.mp4", *options)["frames_sha256"] for number, options in enumerate(variants)]

    first = digests("a")
    assert digests("b") == first and len(set(first)) == len(variants)
    facts = json.loads((tmp_path / "a9.json").read_text())
    assert facts["steering"]["camera"] == {"pan": 0.2, "zoom": -0.1} and facts["steering"]["tracks"] == ["0.2,0.5;0.8,0.5", "0.5,0.1"]
    assert facts["files_sha256"] == {"edges": sha256((given / "long.mkv").read_bytes()).hexdigest()}
    assert _frames(tmp_path / "a10.mp4").shape == (25, 16, 32, 3)


def test_a_sample_begins_with_what_it_is_given(given: Path, tmp_path: Path) -> None:
    """As the VAE of the run sees it, and a picture gives its aspect ratio."""
    generator = open_generator(given / "run")
    settings = sample_settings(generator.config, {"image": str(given / "first.png")})
    image = to_tensor(torch.from_numpy(read_image(given / "first.png", WIDTH, HEIGHT)))[None]
    seen = to_pixels(generator.vae.to_video(generator.vae.to_latents(image))[0].detach())
    assert np.abs(next(generator.frames(settings)).astype(int) - seen[0]).max() <= 1
    facts = _made(given, tmp_path / "u.mp4", "--image", given / "upright.png")
    assert (facts["width"], facts["height"]) == (16, 32)
    facts = _made(given, tmp_path / "s.mp4", "--image", given / "upright.png", "--size", "16x16")
    assert (facts["width"], facts["height"]) == (16, 16)


def test_a_video_is_continued_beyond_the_length_of_training(given: Path, tmp_path: Path) -> None:
    facts = _made(
        given, tmp_path / "v.mp4", "--continue", given / "long.mkv", "--frames", 37, "--context", 1, "--last-image", given / "first.png"
    )
    assert (facts["num_frames"], facts["context_frames"]) == (37, 1) and set(facts["files_sha256"]) == {"continues", "last_image"}
    assert _frames(tmp_path / "v.mp4").shape == (37, 16, 32, 3)


def test_many_samples_come_from_lines_of_json(given: Path, tmp_path: Path) -> None:
    lines = [
        {"name": "dog", "prompt": "a dog\u2028runs", "tag": ["motion_mean=0.1"]},
        {"image": str(given / "first.png"), "seed": 4, "frames": 13, "camera": "pan=0.1"},
        {"name": "traced", "control": [f"edges={given / 'long.mkv'}"], "track": ["0.2,0.5;0.8,0.5"], "size": "16x16"},
    ]
    texts = [json.dumps(line, ensure_ascii=False) for line in lines]
    (tmp_path / "prompts.jsonl").write_text("\n".join([texts[0], "", *texts[1:]]) + "\n")
    done = _sample(given, tmp_path / "out", "--from", tmp_path / "prompts.jsonl", "--seed", 3, "--steps", 1)
    assert done.returncode == 0 and f"3 samples: {tmp_path / 'out'}" in done.stdout, done.stderr
    made = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert made.keys() == {"dog", "0003", "traced"} and {facts["num_steps"] for facts in made.values()} == {1}
    assert [made[name]["seed"] for name in ("dog", "0003", "traced")] == [3, 4, 3]
    assert made["dog"]["prompt"] == "a dog\u2028runs" and made["0003"]["prompt"] == "a texture"
    alone = _made(given, tmp_path / "alone.mp4", "--seed", 3, "--steps", 1, "--prompt", "a dog\u2028runs", "--tag", "motion_mean=0.1")
    assert made["dog"]["frames_sha256"] == alone["frames_sha256"]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('{"prompt": "a"', 'line 1: this is not a JSON object: {"prompt": "a"'),
        ("[1]", "line 1: this is not a JSON object: [1]"),
        ('{"promt": "a"}', "line 1: unknown key 'promt'; did you mean 'prompt'?"),
        ('{"prompt": 5}', "line 1: prompt is text, not 5"),
        ('{"frames": "9"}', "line 1: frames is a whole number, not '9'"),
        ('{"seed": true}', "line 1: seed is a whole number, not True"),
        ('{"fps": "8"}', "line 1: fps is a number, not '8'"),
        ('{"track": "0.2,0.5"}', "line 1: track is a list of texts, not '0.2,0.5'"),
        ('{"name": "../a"}', "line 1: a name is the text of a file name, not '../a'"),
        ('{"name": ""}', "line 1: a name is the text of a file name, not ''"),
        ('{"name": "a"}\n{"name": "a"}', "lines 1 and 2 are both named 'a'"),
        ('{"seed": 1}\n{"steps": 0}', "line 2: a sample takes 1 step or more"),
        ('{"size": "64"}', "line 1: '64' is not a size such as 64x40"),
        ('{"image": "gone.png", "size": "16x16"}', "line 1: there is no file gone.png, which is given as image"),
        ('{"camera": "pan=fast"}', "line 1: pan='fast' is not like pan=0.2,zoom=-0.1"),
        ("\n\n", "asks for no sample"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_nothing_is_made(given: Path, line: str, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(line)
    _refused(_sample(given, tmp_path / "out", "--from", tmp_path / "p.jsonl"), 1, f"p.jsonl, {wrong}" if "line 1:" in wrong else wrong)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_text_is_an_error(given: Path, tmp_path: Path) -> None:
    _refused(_sample(given, tmp_path / "out", "--from", given / "first.png"), 1, "first.png is not text in UTF-8")
    _refused(_sample(given, tmp_path / "out", "--from", tmp_path / "gone"), 1, "gone cannot be read: No such file")


@pytest.mark.parametrize(
    ("options", "code", "wrong"),
    [
        (("--image", "no picture.png"), 1, "no picture.png cannot be read: "),
        (("--image", "gone.png"), 1, "gone.png cannot be read: No such file or directory"),
        (("--last-image", "gone.png"), 1, "there is no file gone.png, which is given as last_image"),
        (("--last-image", "no picture.png"), 1, "no picture.png cannot be read: "),
        (("--continue", "first.png", "--size", "32x16"), 1, "first.png cannot be read: not a video container"),
        (("--image", "first.png", "--continue", "long.mkv"), 1, "begins with an image or continues a video, not both"),
        (("--image", "first.png", "--frames", 1), 1, "nothing is left to make of 1 frames"),
        (("--control", "edges=long.mkv", "--frames", 65), 1, "long.mkv is too short: 65 frames at 8 a second are 8 s"),
        (("--control", "depth=long.mkv"), 1, "the run was not trained with depth (conditions.depth)"),
        (("--control", "edgs=long.mkv"), 1, "did you mean 'edges'?"),
        (("--control", "edges"), 2, "'edges' is not like edges=V.mp4"),
        (("--control", "edges=a", "--control", "edges=b"), 2, "edges is given twice"),
        (("--control", "camera=long.mkv", "--camera", "pan=1"), 1, "camera is given twice: by numbers and by long.mkv"),
        (("--track", "0.2,0.5;1.8,0.5"), 1, "a track goes outside of the picture at '1.8,0.5'"),
        (("--track", "0.2"), 1, "'0.2' is not a track at '0.2'"),
        (("--camera", "pan=0.1,roll"), 2, "'roll' is not like pan=0.2,zoom=-0.1"),
        (("--camera", "dolly=0.1"), 1, "a camera does not 'dolly'"),
        (("--camera", "pan=inf"), 1, "the speed of the camera's pan is a number, not inf"),
        (("--tag", "motion_mean=2"), 1, "the tag motion_mean is a quantile from 0 to 1, not 2"),
        (("--tag", "motion=0.2"), 1, "not trained with the tag 'motion'; did you mean 'motion_mean'?"),
        (("--frames", 10), 1, "frames must be 1 + a multiple of 4, not 10"),
        (("--frames", 25, "--context", 9), 1, "context frames must be fewer than the 9 of a stretch, not 9"),
        (("--size", "33x16"), 1, "multiples of 8, not 33x16"),
        (("--size", "33"), 2, "'33' is not a size such as 64x40"),
        (("--solver", "heum"), 1, "there is no solver 'heum'; did you mean 'heun'?"),
        (("--fps", "nan"), 2, "Invalid value for '--fps'"),
        (("--steps", 0), 2, "Invalid value for '--steps'"),
    ],
)
def test_wrong_options_are_told_in_a_line(
    given: Path, options: tuple, code: int, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(given)
    _refused(_sample(given, tmp_path / "v.mp4", *options), code, wrong)
    assert not list(tmp_path.iterdir())


def test_what_is_no_run_and_where_no_video_can_be(given: Path, tmp_path: Path) -> None:
    _refused(reelmill("sample", tmp_path, "--out", tmp_path / "v.mp4"), 1, "is not a run; `reelmill train` makes one")
    _refused(_sample(given, tmp_path / "v.json"), 1, "v.json is where the settings of a sample go")
    (tmp_path / "folder").mkdir()
    _refused(_sample(given, tmp_path / "folder"), 1, "folder cannot be written: ")


def _refused(done: Done, code: int, wrong: str) -> None:
    assert done.returncode == code, done
    if code == 1:
        assert done.stderr.startswith("reelmill: ") and done.stderr.count("\n") == 1
    assert wrong in " ".join(done.stderr.replace("│", " ").split())
