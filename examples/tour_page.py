"""What the tour leaves behind: one HTML page with every figure inside it, and one sheet of small figures."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image, ImageDraw

from graftkit.core.files import whole_file

COLUMNS = ("method", "host", "data", "metric", "baseline", "ours", "seconds")
HEADINGS = ("method", "host", "data", "metric", "best baseline", "ours", "seconds")

# No script and nothing from elsewhere: the page opens from a disk without a network.
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>graftkit tour</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; overflow-wrap: break-word; }
body { max-width: 64rem; margin: auto; padding: 0 1rem 3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
.failed td { color: #a00; }
figure { margin: 2rem 0; }
img { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>graftkit tour</h1>
<p>$summary</p>
<div class="wide"><table>
<tr>$headings</tr>
$rows
</table></div>
$figures
</body>
</html>
""")


def write_page(rows: dict[str, dict[str, Any]], data: str, path: Path, left: Sequence[str] = ()) -> Path:
    """Write the table and all figures as one file; `left` names the methods that were not run."""
    ran = sum("error" not in row for row in rows.values())
    summary = f"{ran} of {len(rows) + len(left)} methods ran. Data: {html.escape(data)}."
    if left:
        summary += f" Not run: {html.escape(', '.join(left))}."
    lines, figures = [], []
    for name, row in rows.items():
        if "error" in row:
            cells = f"<td>{html.escape(name)}</td><td colspan='6'>failed: {html.escape(row['error'])}</td>"
            lines.append(f"<tr class='failed'>{cells}</tr>")
            continue
        lines.append("<tr>" + "".join(f"<td>{html.escape(str(row[c]))}</td>" for c in COLUMNS) + "</tr>")
        picture = Path(row["figure"])
        if picture.is_file():
            code = base64.b64encode(picture.read_bytes()).decode()
            title = html.escape(f"{row['method']} on {row['data']}")
            figures.append(
                f"<figure><figcaption><h2>{title}</h2></figcaption>"
                f"<img alt='{title}' src='data:image/png;base64,{code}'></figure>"
            )
    headings = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
    text = PAGE.substitute(
        summary=summary, headings=headings, rows="\n".join(lines), figures="\n".join(figures)
    )
    with whole_file(path) as file:  # a second Ctrl-C leaves no half of a page
        file.write(text.encode())
    return path


def write_sheet(
    rows: dict[str, dict[str, Any]], path: Path, columns: int = 3, width: int = 360
) -> Path | None:
    """Write all figures, small and with a title each, as one PNG; None if there are none."""
    shown = [(row["method"], Path(row["figure"])) for row in rows.values() if "figure" in row]
    shown = [(title, figure) for title, figure in shown if figure.is_file()]
    if not shown:
        return None
    head, gap = 18, 8
    columns = min(columns, len(shown))
    small = []
    for title, figure in shown:
        with Image.open(figure) as picture:
            thumbnail = picture.convert("RGB")
            thumbnail.thumbnail((width, width * 2 // 3), Image.Resampling.LANCZOS)
            small.append((title, thumbnail))
    lines = [small[k : k + columns] for k in range(0, len(small), columns)]
    heights = [head + gap + max(thumbnail.height for _, thumbnail in line) for line in lines]
    sheet = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        for column, (title, thumbnail) in enumerate(line):
            left, top = gap + column * (width + gap), gap + sum(heights[:row])
            draw.text((left, top), title, fill="black", font_size=14)
            sheet.paste(thumbnail, (left + (width - thumbnail.width) // 2, top + head))
    # A palette: figures have few colours, and the sheet is shown on a landing page.
    with whole_file(path) as file:
        sheet.quantize(128).save(file, format="PNG", optimize=True)
    return path
