"""Takes a picture of an HTML page with a headless Chromium: `python docs/take_picture.py PAGE PNG [WIDTH HEIGHT]`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def take_picture(page: Path, picture: Path, width: int = 1200, height: int = 1100) -> None:
    """Renders a local page to a PNG file; width and height are in CSS pixels."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("error: no Chromium here\n  hint: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        options += ["--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars"]
        options += [
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--screenshot={picture.resolve()}",
        ]
        subprocess.run([browser, *options, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5]))
