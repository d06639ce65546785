"""Pages in headless Chromium: as they look, what they measure, and what the browser has to complain about."""

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest
from matplotlib.image import imread

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESKTOP = 360, 1280
FRAMES = [(width, scheme) for width in (PHONE, DESKTOP) for scheme in ("light", "dark")]

# On CI it has to be there: nothing is skipped.
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium (`apt-get install -y chromium`)"
)

# Each page in a frame of each width, measured from outside: the page itself has no script.
_FRAMES = """<!DOCTYPE html><meta charset="utf-8"><style>iframe {{ border: 0; flex: none }}
body {{ margin: 0; display: flex }}</style>{frames}<pre id="measured"></pre><script>
addEventListener("load", () => {{
  const measure = (frame) => {{
    const page = frame.contentDocument, root = page.documentElement;
    const box = (element) => {{ const b = element.getBoundingClientRect(); return [b.left, b.right, b.height] }};
    return {{
      room: root.clientWidth, needed: root.scrollWidth, background: getComputedStyle(page.body).backgroundColor,
      figures: [...page.querySelectorAll("svg")].map(box), texts: [...page.querySelectorAll("p, li, td")].map(box),
      numbers: [...page.querySelectorAll("td:not(:first-child):not(:last-child)")].map(box),
      tables: [...page.querySelectorAll(".scroll")].map((table) => [table.clientWidth, table.scrollWidth]),
      loaded: frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name),
    }};
  }};
  const measured = [...document.querySelectorAll("iframe")].map(measure);
  document.getElementById("measured").textContent = JSON.stringify(measured);
}});
</script>"""


@dataclass
class Seen:
    """What Chromium made of a page.

    Attributes:
        dom: the elements as text.
        picture: height x width x 3, 0 to 1.
        complaints: of the console.
    """

    dom: str
    picture: np.ndarray
    complaints: list[str]

    @property
    def measured(self):
        """Of each frame."""
        text = re.search(r'<pre id="measured">(.*?)</pre>', self.dom, re.DOTALL)[1]
        return json.loads(html.unescape(text))


def look(path, *, width=DESKTOP, height=900):
    """Open a file."""
    picture = path.with_suffix(".png")
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"),
        *("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"),
        f"--user-data-dir={path.parent / 'profile'}",
        *(f"--window-size={width},{height}", f"--screenshot={picture}", "--dump-dom", path.as_uri()),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    complaints = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    return Seen(ran.stdout, imread(picture)[..., :3], complaints)


def look_through_frames(text, folder):
    """Show a page at the width of a phone and of a desktop, in light and in dark, and measure it."""
    frames = "".join(
        f'<iframe width="{width}" height="1400" style="color-scheme: {scheme}" srcdoc="{html.escape(text)}"></iframe>'
        for width, scheme in FRAMES
    )
    path = folder / "frames.html"
    path.write_text(_FRAMES.format(frames=frames), encoding="utf-8")
    return look(path, width=2 * (PHONE + DESKTOP), height=1400)
