"""What ships with the pages: files of others unchanged, nothing inline, colours that can be read."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import forklight_console

PACKAGE = Path(forklight_console.__file__).parent
CSS = (PACKAGE / "static" / "console.css").read_text()
TEXT_ON = [
    *((text, ground) for text in ("text", "muted", "accent") for ground in ("bg", "panel", "raised")),
    *((text, ground) for text in ("good", "warn", "bad") for ground in ("panel", f"{text}-bg")),
    ("accent-text", "accent"),
    ("text", "mark"),
]


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


DARK, BY_PREFERENCE, BY_CHOICE = (colours(block) for block in re.findall(r":root[^{]*\{([^}]*)\}", CSS)[:3])


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_light_theme_is_the_same_by_preference_and_by_choice() -> None:
    assert BY_PREFERENCE == BY_CHOICE
    assert set(DARK) == set(BY_CHOICE)


@pytest.mark.parametrize("theme", [DARK, BY_CHOICE], ids=["dark", "light"])
def test_text_and_lines_reach_aa_contrast(theme: dict[str, str]) -> None:
    poor = {pair: contrast(theme[pair[0]], theme[pair[1]]) for pair in TEXT_ON}
    poor |= {
        (f"series-{n}", "panel"): contrast(theme[f"series-{n}"], theme["panel"]) * 1.5 for n in range(1, 9)
    }
    assert not {pair: f"{found:.2f}" for pair, found in poor.items() if found < 4.5}


def test_files_of_others_are_as_they_were_published() -> None:
    vendor = PACKAGE / "static" / "vendor"
    named = re.findall(
        r"^\| (\S+) \|.*\| ([0-9a-f]{64}) \|$", (vendor / "README.md").read_text(), re.MULTILINE
    )
    assert named
    assert {name for name, _ in named} == {path.name for path in vendor.iterdir()} - {
        "README.md",
        "uplot.LICENSE",
    }
    for name, digest in named:
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest, name


def test_pages_have_no_inline_scripts_styles_or_handlers() -> None:
    for path in sorted((PACKAGE / "templates").rglob("*.html")):
        text = path.read_text()
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", text), path.name
        assert not re.search(r"https?://(?!www\.w3\.org)", text), path.name
