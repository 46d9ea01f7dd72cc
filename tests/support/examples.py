"""The examples of a page of the documentation: files that a reader would write."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def written(page: str, folder: Path) -> list[str]:
    """Write each Python block of a page to the file that its first line names. Returns the names."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == text.count("```python\n"), "a block that names no file"
    for name, block in blocks:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block, encoding="utf-8")
    return [name for name, _ in blocks]
