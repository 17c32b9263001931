"""The colours of the report's page and its plots, on light and on dark ground."""

from __future__ import annotations

from collections.abc import Iterator

# Name: on light, on dark. The page uses them by name, as CSS variables; a plot is drawn in those on light. Text has a
# contrast of 4.5 or more on both grounds, and the arms and verdicts are distinct in grey and for the colour-blind.
_COLOURS = {
    "ground": ("#f9fafb", "#0b1120"),
    "card": ("#ffffff", "#161e2e"),
    "ink": ("#111827", "#f3f4f6"),
    "soft": ("#4b5563", "#aeb6c2"),
    "line": ("#e5e7eb", "#374151"),
    "stock": ("#6b7280", "#a3acb9"),
    "patched": ("#0f766e", "#2dd4bf"),
    "slower": ("#b45309", "#fbbf24"),
    "trouble": ("#b91c1c", "#f87171"),
    "even": ("#374151", "#d1d5db"),
    "undecided": ("#868e9a", "#748093"),
    "edge": ("#d1d5db", "#4b5563"),
    "band": ("#f3f4f6", "#263041"),
}
LIGHT = {name: light for name, (light, _) in _COLOURS.items()}


def css() -> str:
    """The rules that define the variables. On paper the ground is light."""
    light, dark = (" ".join(_variables(place)) for place in (0, 1))
    rules = f":root {{ color-scheme: light dark; {light} }}\n"
    return rules + f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def variable(name: str) -> str:
    """The CSS value of a colour."""
    return f"var(--{name})"


def _variables(place: int) -> Iterator[str]:
    return (f"--{name}: {pair[place]};" for name, pair in _COLOURS.items())
