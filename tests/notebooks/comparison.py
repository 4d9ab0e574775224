"""Compare the outputs that a notebook stores with those of a new run.

Text is split into numbers and the rest.
Two numbers agree when they differ by at most 1.5 units in the last printed digit of the finer one, or by the
relative tolerance of the cell; whole numbers and everything that is not a number must be equal.
Figures agree when the means over blocks of 8 x 8 pixels do: that hides the jitter of anti-aliasing.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?!\w)")
UNITS = 1.5  # units in the last printed digit
BLOCK = 8  # pixels
RMS = 2.0  # of 255, over the whole figure
WORST = 10.0  # of 255, in the worst block

PLACES = (
    (re.compile(r"0x[0-9a-fA-F]{4,}"), "ADDRESS"),
    (re.compile(r"(?:/[\w.+-]+)*/ipykernel_\d+/\d+\.py"), "CELL"),
    (re.compile(r"(?:/private)?(?:/var/folders|/tmp|/dev/shm)/[^\s'\"<>,;:)\]]+"), "TEMPORARY"),
)
CLAIM = "application/vnd.dnlbook.claim+json"
CLAIM_TOLERANT = ("measured", "statement")
IMAGES = ("image/png", "image/jpeg")
TAG = re.compile(r"<[^<>]*>")


def sanitize(text: str) -> str:
    """Replace what names a place in memory or on a disk, which changes from run to run."""
    for pattern, name in PLACES:
        text = pattern.sub(name, text)
    return text


def numbers_agree(stored: str, new: str, rtol: float = 0.0) -> bool:
    """Whether two printed numbers are the same number, as far as their printing can tell."""
    stored, new = stored.replace("−", "-"), new.replace("−", "-")
    if re.fullmatch(r"[-+]?\d+", stored) and re.fullmatch(r"[-+]?\d+", new):
        return int(stored) == int(new)
    a, b = float(stored), float(new)
    difference = abs(a - b)
    unit = min(_last_unit(stored), _last_unit(new))
    return difference <= UNITS * unit * (1 + 1e-9) or difference <= rtol * max(abs(a), abs(b))


def _last_unit(number: str) -> float:
    mantissa, _, exponent = number.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - decimals)


def texts_agree(stored: str, new: str, rtol: float = 0.0) -> bool:
    """Whether two texts agree token by token; the width of a run of blanks does not count."""
    (words, numbers), (new_words, new_numbers) = _tokens(stored), _tokens(new)
    if words != new_words or len(numbers) != len(new_numbers):
        return False
    return all(numbers_agree(a, b, rtol) for a, b in zip(numbers, new_numbers, strict=True))


def _tokens(text: str) -> tuple[list[str], list[str]]:
    text = sanitize(text)
    return [re.sub(r"[ \t]+", " ", words) for words in NUMBER.split(text)], NUMBER.findall(text)


def html_agrees(stored: str, new: str, rtol: float = 0.0) -> bool:
    """As :func:`texts_agree` between the tags; the tags themselves must be equal."""
    tags, new_tags = TAG.findall(sanitize(stored)), TAG.findall(sanitize(new))
    pieces, new_pieces = TAG.split(sanitize(stored)), TAG.split(sanitize(new))
    return tags == new_tags and all(texts_agree(a, b, rtol) for a, b in zip(pieces, new_pieces, strict=True))


def values_agree(mime: str, stored: Any, new: Any, rtol: float = 0.0) -> bool:
    """Whether two values of one media type agree; figures are the business of :func:`figure_distance`."""
    if isinstance(stored, str) and isinstance(new, str):
        return html_agrees(stored, new, rtol) if mime.endswith("html") else texts_agree(stored, new, rtol)
    if mime == CLAIM and isinstance(stored, Mapping) and isinstance(new, Mapping):
        if stored.keys() != new.keys():
            return False
        tolerant = [key for key in CLAIM_TOLERANT if key in stored]
        exact = [key for key in stored if key not in tolerant]
        return all(texts_agree(str(stored[k]), str(new[k]), rtol) for k in tolerant) and all(
            stored[k] == new[k] for k in exact
        )
    return bool(stored == new)


def pixels(data: str) -> np.ndarray:
    """The colours of an encoded figure on white, shape (height, width, 3), 0 to 255."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
    except (binascii.Error, OSError) as error:
        raise ValueError(f"a stored figure cannot be read: {error}") from error
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"), dtype=float)


def figure_distance(stored: np.ndarray, new: np.ndarray) -> tuple[float, float]:
    """Root mean square and maximum of the differences of the block means; infinite when the sizes differ."""
    if stored.shape != new.shape:
        return float("inf"), float("inf")
    means = _block_means(stored - new)
    return float(np.sqrt((means**2).mean())), float(np.abs(means).max())


def _block_means(image: np.ndarray) -> np.ndarray:
    height, width, colours = image.shape
    padded = np.pad(image, ((0, -height % BLOCK), (0, -width % BLOCK), (0, 0)))
    rows, columns = padded.shape[0] // BLOCK, padded.shape[1] // BLOCK
    return padded.reshape(rows, BLOCK, columns, BLOCK, colours).mean(axis=(1, 3))


def compare(stored: Sequence[Any], new: Sequence[Any], rtol: float = 0.0) -> list[str]:
    """What differs between two lists of outputs of one cell, as readable lines; empty when they agree."""
    before, after = _by_kind(stored), _by_kind(new)
    problems = [f"missing from the new run: {kind}" for kind in before if kind not in after]
    problems += [f"not in the stored notebook: {kind}" for kind in after if kind not in before]
    for kind in before.keys() & after.keys():
        old_values, new_values = before[kind], after[kind]
        if len(old_values) != len(new_values):
            problems.append(f"{kind}: {len(old_values)} stored, {len(new_values)} in the new run")
            continue
        for old, value in zip(old_values, new_values, strict=True):
            problems += _difference(kind, old, value, rtol)
    return problems


def _by_kind(outputs: Sequence[Any]) -> dict[str, list[Any]]:
    """The values of a cell's outputs by stream name, media type or error field, in order."""
    kinds: dict[str, list[Any]] = {}
    streams: dict[str, str] = {}
    for output in outputs:
        if output.output_type == "stream":
            streams[output.name] = streams.get(output.name, "") + output.text
            continue
        for kind, value in _fields(output):
            kinds.setdefault(kind, []).append(value)
    return kinds | {name: [text] for name, text in streams.items()}


def _fields(output: Any) -> Iterator[tuple[str, Any]]:
    if output.output_type == "error":
        yield "name of the exception", output.ename
        yield "message of the exception", output.evalue
        return
    for mime, value in output.data.items():
        yield mime, "".join(value) if isinstance(value, list) else value
    name = output.get("metadata", {}).get("scrapbook", {}).get("name")
    if name is not None:
        yield "key of a glued value", name


def _difference(kind: str, stored: Any, new: Any, rtol: float) -> list[str]:
    if kind in IMAGES:
        old_pixels, new_pixels = pixels(stored), pixels(new)
        rms, worst = figure_distance(old_pixels, new_pixels)
        if rms <= RMS and worst <= WORST:
            return []
        sizes = " and ".join(f"{image.shape[1]} x {image.shape[0]} px" for image in (old_pixels, new_pixels))
        measured = f"rms {rms:.2f} (at most {RMS}), worst block {worst:.1f} (at most {WORST})"
        return [f"{kind}: the figure changed: {measured}, {sizes}"]
    if values_agree(kind, stored, new, rtol):
        return []
    lines = difflib.unified_diff(
        str(stored).splitlines(), str(new).splitlines(), "stored", "new run", lineterm="", n=1
    )
    return [f"{kind} differs:", *(f"  {line}" for line in lines)]
