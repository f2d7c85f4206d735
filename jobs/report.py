"""`reelmill report`: a dataset or manifest on one page."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.output import write_file


def report(
    source: Annotated[str, typer.Argument(metavar="DATASET|M.parquet", help="A dataset, or a manifest.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    where: Annotated[str | None, typer.Option(help="Predicate that makes the funnel. [default: a common first selection]")] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset to take a manifest's pictures from.")] = None,
    captions: Annotated[str | None, typer.Option(metavar="NAME", help="Whose captions to use, where a dataset has several.")] = None,
) -> None:
    """Write a self-contained HTML page: distributions of all tags, a funnel, contact sheets, failures and runs.

    The page needs no network and runs no script; it can be mailed, archived or put on any web server.

    \b
    Examples:
      reelmill report dataset --out report.html
      reelmill report dataset --where "quality_sharpness >= 0.4 AND motion_mean > 0.05" --out funnel.html
      reelmill report stage1.parquet --dataset dataset --out stage1.html
    """
    from labeling.catalog import open_catalog, open_dataset
    from labeling.report import report_of_dataset, report_of_manifest
    from schemas.manifest import read_manifest

    if Path(source).is_file():
        if where:
            raise typer.BadParameter("a manifest is already a selection; --where is for datasets", param_hint="--where")
        page = report_of_manifest(Path(source).name, read_manifest(source), open_dataset(dataset) if dataset else None)
    else:
        page = report_of_dataset(open_catalog(source, captions), where)
    write_file(out, page.encode())
    print(f"{out}: {len(page) / 1e6:.1f} MB")
