"""The README as an index page shows it: what it links to and its pictures have whole addresses.

A hook of hatchling, named in ``pyproject.toml``. The addresses begin with that of the project there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Readme(MetadataHookInterface):
    """Put the README into the metadata when sdist and wheel are built."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set ``readme`` to the text; its addresses are those of the tag of this version."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = with_addresses(text, metadata["urls"]["Homepage"], f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def with_addresses(text: str, home: str, tag: str) -> str:
    """Return Markdown whose relative links lead to the files of ``home`` at ``tag``; code stays as it is.

    >>> with_addresses('[a](docs/a.md#b) `[c](d)` <img src="e.svg"> [f](#f)', "https://x.org/y", "v1")
    '[a](https://x.org/y/blob/v1/docs/a.md#b) `[c](d)` <img src="https://x.org/y/raw/v1/e.svg"> [f](#f)'
    """
    parts = (
        r"(?P<code>^```.*?^```$|`[^`\n]+`)",
        r"(?P<blob>\]\()(?![a-z]+:|#)",
        r'(?P<raw>\b(?:src|srcset)=")(?![a-z]+:)',
    )
    pattern = re.compile("|".join(parts), re.MULTILINE | re.DOTALL)
    return pattern.sub(lambda found: found[0] + ("" if found["code"] else f"{home}/{found.lastgroup}/{tag}/"), text)
