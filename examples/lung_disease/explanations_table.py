"""The tables of `explanations.py` in Markdown, made from its JSON alone."""

from __future__ import annotations

from typing import Any


def render(results: dict[str, Any]) -> str:
    """Returns the tables: deletion of pixels and words on the phantom, and heat in the lungs."""
    parts = []
    if "phantom" in results:
        parts += [_deletion(results["phantom"]["rows"], over) for over in ("image", "words")]
    if "shenzhen" in results:
        parts.append(_lungs(results["shenzhen"]))
    return "\n\n".join(parts)


def _deletion(rows: dict[str, Any], over: str) -> str:
    hit = "heat in the masses (their area)" if over == "image" else "top word is the right one"
    lines = [
        f"| strategy | accuracy | samples | {over}, by | area | random order | better by | {hit} |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        for method, one in row[over].items():
            found = (
                f"{one['heat_in_mass']:.0%} ({one['mass_area']:.0%})"
                if over == "image"
                else f"{one['top_word']:.0%}"
            )
            areas = f"{one['area']:.3f} | {one['random_area']:.3f} | {one['gain']:.0%}"
            lines.append(
                f"| `{name}` | {row['accuracy']:.2f} | {row['explained']} | "
                f"{method.replace('_', ' ')} | {areas} | {found} |"
            )
    return "\n".join(lines)


def _lungs(found: dict[str, Any]) -> str:
    lines = [
        "| method | X-rays | heat in the lungs | the lungs' share of the area |",
        "| --- | --- | --- | --- |",
    ]
    for method, one in found["methods"].items():
        lines.append(
            f"| {method.replace('_', ' ')} | {one['count']} | {one['heat_in_lungs']:.1%} | "
            f"{one['lung_area']:.1%} |"
        )
    return "\n".join(lines)
