"""The tables and plots of ``ablate``, from what its ablations.json holds."""

from __future__ import annotations

from pathlib import Path

from .card import put_section, seen_from
from .features import NAME

TITLES = {
    "schedule": "Mask schedule",
    "steps": "Number of steps",
    "choice-temperature": "Choice temperature",
    "temperature": "Temperature",
    "guidance": "Guidance",
    "sampler": "Sampler",
    "precision": "Precision",
}
#: Tables whose rows lie on an axis; the others are plotted as bars.
AXES = {
    "steps": "steps",
    "choice-temperature": "choice temperature",
    "temperature": "temperature of the first step",
    "guidance": "guidance scale",
    "sampler": "steps",
}


def tables(report: dict) -> str:
    """The tables in Markdown, each with what it says by itself."""
    return "\n".join(
        f"### {TITLES[name]}\n\n{table(rows)}\n{verdict(rows)}\n" for name, rows in report["tables"].items()
    )


def table(rows: list[dict]) -> str:
    """One table in Markdown; a row that is not measured yet has dashes."""
    lines = ["| | KID | parts | classifier | precision | recall | time an image |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        name = f"**{row['name']}**" if row["recommended"] else row["name"]
        seconds = "–" if row["seconds"] is None else f"{row['seconds'] * 1000:.0f} ms"
        lines.append(
            f"| {name} | {figure(row['kid'], 4)} | {figure(row['parts'], 3)} | {figure(row['accuracy'], 1, 100)} | "
            f"{figure(row['precision'], 3)} | {figure(row['recall'], 3)} | {seconds} |"
        )
    return "\n".join(lines) + "\n"


def figure(value: dict | None, digits: int, scale: float = 1.0) -> str:
    """Mean and standard deviation; per cent where the scale is 100."""
    if value is None:
        return "–"
    unit = "%" if scale == 100 else ""
    spread = "" if value["std"] is None else f" ± {value['std'] * scale:.{digits}f}"
    return f"{value['mean'] * scale:.{digits}f}{spread}{unit}"


def alike(rows: list[dict]) -> tuple[dict | None, list[dict]]:
    """The row with the least kernel distance, and the rows that are not told apart from it.

    Those differ by no more than the root of the sum of both squared standard deviations.
    """
    done = [row for row in rows if row["kid"]]
    if not done:
        return None, []
    best = min(done, key=lambda row: row["kid"]["mean"])

    def spread(row: dict) -> float:
        return row["kid"]["std"] or 0.0

    near = [
        row
        for row in done
        if row is not best and row["kid"]["mean"] - best["kid"]["mean"] <= (spread(row) ** 2 + spread(best) ** 2) ** 0.5
    ]
    return best, near


def verdict(rows: list[dict]) -> str:
    """One sentence on the kernel distances of a table."""
    best, near = alike(rows)
    if best is None:
        return "Not measured yet."
    if any(row["kid"] and row["kid"]["std"] is None for row in rows):
        return f"Least KID: {best['name']}; some rows have one draw, which says nothing of the spread."
    others = (
        "; not told apart from it: " + ", ".join(row["name"] for row in near)
        if near
        else "; every other row is farther off than both standard deviations together"
    )
    return f"Least KID: {best['name']}{others}."


def plots(report: dict, folder: Path) -> None:
    """A plot a table, ablate-TABLE.png, and quality against time, ablate-speed.png."""
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit("the plots need matplotlib: pip install 'maskgit-export[evaluate]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    for name, rows in report["tables"].items():
        done = [row for row in rows if row["kid"]]
        if not done:
            continue
        sheet, sides = pyplot.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
        titles = {"kid": "KID (less is better)", "parts": "parts (1 is best)", "recall": "recall (more is better)"}
        for side, (measure, title) in zip(sides, titles.items()):
            if name in AXES:
                _lines(side, done, measure)
                side.set_xlabel(AXES[name])
            else:
                side.bar(
                    [row["name"] for row in done],
                    [row[measure]["mean"] for row in done],
                    yerr=[row[measure]["std"] or 0 for row in done],
                    capsize=3,
                    color="#5b7fa6",
                )
                side.tick_params(axis="x", rotation=30)
            side.set_title(title, fontsize=10)
        sheet.suptitle(f"{report['bundle']}: {TITLES[name].lower()}", fontsize=11)
        sheet.savefig(folder / f"ablate-{name}.png", dpi=80, metadata={"Software": None})
        pyplot.close(sheet)
    timed = [row for row in report["tables"].get("steps", []) if row["kid"]]
    if timed:
        sheet, side = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
        side.errorbar(
            [row["seconds"] * 1000 for row in timed],
            [row["kid"]["mean"] for row in timed],
            yerr=[row["kid"]["std"] or 0 for row in timed],
            marker="o",
            capsize=3,
            color="#5b7fa6",
        )
        for row in timed:
            side.annotate(
                row["name"],
                (row["seconds"] * 1000, row["kid"]["mean"]),
                textcoords="offset points",
                xytext=(4, 5),
                fontsize=8,
            )
        side.set(xlabel="milliseconds an image", ylabel="KID (less is better)", xscale="log")
        side.set_title(f"{report['bundle']}: time against quality; the numbers are steps", fontsize=10)
        sheet.savefig(folder / "ablate-speed.png", dpi=80, metadata={"Software": None})
        pyplot.close(sheet)


def _lines(side, rows: list[dict], measure: str) -> None:
    for series in dict.fromkeys(row["series"] for row in rows):
        points = sorted((row for row in rows if row["series"] == series), key=lambda row: row["x"])
        side.errorbar(
            [row["x"] for row in points],
            [row[measure]["mean"] for row in points],
            yerr=[row[measure]["std"] or 0 for row in points],
            marker="o",
            capsize=3,
            label=series or None,
        )
    if any(row["series"] for row in rows):
        side.legend(fontsize=8)


def section(report: dict, pictures: str) -> str:
    """The section of the page; ``pictures`` is the folder of the plots as seen from the page."""
    command, yardstick = report["command"], report["yardstick"]
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in report["recommended"].items() if value is not None
    )
    more = command["more_steps"] or report["recommended"]["steps"]
    steps = (
        f" Here the table of temperatures has {more} steps, every other but those that name their steps "
        f"{command['steps']}."
        if command["steps"]
        else ""
    )
    parts = [
        f"""Recommended settings of {report["bundle"]}: {settings}. A table changes one of them and keeps the others;
the row that is the recommended settings is bold.{steps} A row is {command["images"]} images ({command["per_class"]} a
class) drawn {command["seeds"]} times with seeds of its own by `maskgit generate`; ± is the standard deviation of single
draws. KID is the {NAME.replace("KID", "kernel distance")} to {yardstick["heldout"]} held-out images, which is no FID;
the classifier's accuracy on these held-out images is {yardstick["classifier_on_heldout"]:.1%}. Parts is the distance of
a part of a sample (a window of a quarter of the side) to the nearest training image's, over that of reconstructions of
the held-out images: above 1 by as much as eyes, say, are no eyes of the class; below 1 where samples are plainer than
the images, so read it beside recall. Precision and recall (Kynkäänniemi et al. 2019, 3 neighbours) are on the same
features. The time is the least over the calls of a row, without loading the model. `python -m maskgit_export ablate`
measures and writes this section; the numbers are `{pictures}/ablations.json`.
""",
    ]
    for name, rows in report["tables"].items():
        parts.append(
            f"### {TITLES[name]}\n\n{table(rows)}\n{verdict(rows)}\n\n![{TITLES[name]}]({pictures}/ablate-{name}.png)\n"
        )
        if name == "steps":
            parts.append(f"![Time against quality]({pictures}/ablate-speed.png)\n")
    return "\n".join(parts)


def write_page(path: Path, report: dict, folder: Path) -> None:
    """Puts the section between its marks into the page, which keeps the rest; else at the page's end."""
    new = f"# {report['bundle']}: what the sampling settings do\n"
    put_section(path, "ablate", section(report, seen_from(path, folder)), new=new)
