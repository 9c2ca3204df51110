"""Takes a picture of the first screen of a run's report, such as the one in README.

Reads   <run>/report.html (scripts/report.py)
Writes  a PNG

    python scripts/dev/screenshot.py outputs/smollm2_cpu --output_path docs/report.png
    python scripts/dev/screenshot.py outputs/smollm2_cpu --output_path phone.png --width 390 --height 844 --scheme dark

Needs Debian's chromium, as the tests of the page do.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import write_if_changed


def photograph(page_path: Path, width: int, height: int, scheme: str) -> bytes:
    """The page's first screen as a PNG; sizes in CSS pixels."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise UserError("chromium: not found; install Debian's package chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.goto(page_path.resolve().as_uri())
        picture = page.screenshot()
        browser.close()
    return picture


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder under outputs/")
    parser.add_argument("--output_path", type=Path, required=True, metavar="PNG", help="where the picture is written")
    parser.add_argument("--width", type=int, default=1000, help="in CSS pixels (default 1000)")
    parser.add_argument("--height", type=int, default=640, help="in CSS pixels (default 640)")
    parser.add_argument("--scheme", choices=("light", "dark"), default="light", help="colours (default light)")
    args = parser.parse(argv)
    report = args.run / "report.html"
    if not report.is_file():
        raise UserError(f"{report}: not found; run scripts/report.py {args.run} first")
    write_if_changed(args.output_path, photograph(report, args.width, args.height, args.scheme))
    print(f"{args.output_path}: {args.output_path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
