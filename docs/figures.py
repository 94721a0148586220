"""Draws the pictures of these pages: ``python docs/figures.py`` writes the SVG files beside this script.

A picture has a background of its own, so that it reads on light and on dark pages. What differs in colour
differs in its letter, too.
"""

from __future__ import annotations

from pathlib import Path

CELL = 30
INK, FAINT = "#24292f", "#8c959f"
WHITE, GREY = "#ffffff", "#eaeef2"
BLUE, ORANGE, GREEN, PURPLE = "#b6e3ff", "#ffd8a8", "#aceebb", "#e2c5ff"


class Picture:
    """An SVG picture that grows by one shape at a time; all sizes are in pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="Helvetica, Arial, sans-serif" font-size="13">',
            f"  <title>{title}</title>",
            f'  <rect width="{width}" height="{height}" rx="8" fill="{WHITE}"/>',
        ]

    def text(self, x: float, y: float, text: str, size: int = 13, anchor: str = "start", ink: str = INK) -> None:
        """A line of text; `y` is its baseline."""
        place = f'x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{ink}"'
        self.lines.append(f"  <text {place}>{text}</text>")

    def cell(self, x: float, y: float, fill: str = WHITE, text: str = "", width: int = CELL) -> None:
        """One element of a matrix, its text in the middle."""
        self.box(x, y, width, CELL, fill, FAINT)
        if text:
            self.text(x + width / 2, y + CELL / 2 + 5, text, anchor="middle")

    def box(self, x: float, y: float, width: float, height: float, fill: str = "none", ink: str = INK) -> None:
        """A rectangle; without a fill a thick frame around what is there."""
        stroke = f'stroke="{ink}" stroke-width="{2.5 if fill == "none" else 1}"'
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.lines.append(f'  <rect {place} fill="{fill}" {stroke}/>')

    def arrow(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """A straight line with a head, along one of the axes."""
        dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
        line = f'x1="{x0:g}" y1="{y0:g}" x2="{x1 - 7 * dx:g}" y2="{y1 - 7 * dy:g}"'
        self.lines.append(f'  <line {line} stroke="{INK}" stroke-width="1.5"/>')
        corners = ((x1, y1), (x1 - 9 * dx - 5 * dy, y1 - 9 * dy - 5 * dx), (x1 - 9 * dx + 5 * dy, y1 - 9 * dy + 5 * dx))
        points = " ".join(f"{x:g},{y:g}" for x, y in corners)
        self.lines.append(f'  <polygon points="{points}" fill="{INK}"/>')

    def __str__(self) -> str:
        return "\n".join([*self.lines, "</svg>", ""])


def toeplitz() -> Picture:
    """Eight neighbouring outputs as a banded matrix times the input row."""
    taps, outputs = 5, 8
    inputs = outputs + taps - 1
    picture = Picture(640, 480, "One filter row as a banded Toeplitz matrix")
    picture.text(20, 28, "One filter row of S = 5 taps, applied to 8 neighbouring outputs", 15)
    top, left = 84, 110
    middle = top + outputs * CELL / 2 + 5
    for row in range(outputs):
        picture.cell(30, top + row * CELL, BLUE, f"y{row}")
        for column in range(inputs):
            tap = column - row
            inside = 0 <= tap < taps
            place = (left + column * CELL, top + row * CELL)
            picture.cell(*place, ORANGE if inside else WHITE, f"w{tap}" if inside else "0")
    right = left + inputs * CELL
    for row in range(inputs):
        picture.cell(right + 40, 60 + row * CELL, GREEN, f"x{row}")
    picture.box(left, top, inputs * CELL, outputs * CELL)
    picture.text(85, middle, "=", 20, "middle")
    picture.text(right + 20, middle, "·", 24, "middle")
    picture.text(30, top - 12, "outputs")
    picture.text(left, top - 12, "matrix, 8 × (8 + S − 1): the filter, moved by one in each row")
    picture.text(right + 82, middle, "inputs")
    picture.text(30, 440, "A tensor core multiplies the zeros, too: 40 of 96 products are of use here.")
    picture.text(30, 460, "It takes 16 rows of the image at a time.")
    return picture


def halo() -> Picture:
    """The tile of outputs of one block, and the inputs that it reads."""
    rows, columns, filter_size = 4, 8, 3
    reach = filter_size - 1
    picture = Picture(760, 310, "A tile and its halo")
    picture.text(20, 28, "What one block reads and writes: 3×3 filter, stride 1, a tile of 4 × 8 outputs", 15)
    left, top = 20, 76
    for row in range(rows + reach):
        for column in range(columns + reach):
            inside = 0 < row <= rows and 0 < column <= columns
            place = (left + column * CELL, top + row * CELL)
            picture.cell(*place, GREEN if inside else GREY, "x" if inside else "h")
    picture.box(left + CELL, top + CELL, columns * CELL, rows * CELL)
    picture.box(left, top, filter_size * CELL, filter_size * CELL)
    picture.text(left, top - 10, "input, (4 + R − 1) × (8 + S − 1) elements")
    right = left + (columns + reach) * CELL + 80
    picture.arrow(right - 64, top + 3 * CELL, right - 16, top + 3 * CELL)
    for row in range(rows):
        for column in range(columns):
            picture.cell(right + column * CELL, top + (row + 1) * CELL, BLUE, "y")
    picture.box(right, top + CELL, CELL, CELL)
    picture.text(right, top + CELL - 10, "output, 4 × 8 elements")
    picture.text(right, top + 5 * CELL + 24, "x: under the tile. h: the halo, which the")
    picture.text(right, top + 5 * CELL + 42, "neighbouring blocks read, too.")
    bottom = top + (rows + reach) * CELL
    picture.text(left, bottom + 40, "Read here: 60 elements for 32 outputs, 1.9 each. A tile of 16 × 64 reads 1.2.")
    return picture


def window() -> Picture:
    """A thread that walks down a column with the sums of the open rows in registers."""
    picture = Picture(760, 384, "A register window that slides down")
    picture.text(20, 28, "A thread walks down the rows of x; 3×3 filter, padding 1", 15)
    for step in range(3):
        left, row = 20 + step * 250, 2 + step
        picture.text(left, 62, f"step {step + 1}: load row {row} once")
        for h in range(7):
            seen = GREY if h < row else GREEN if h == row else WHITE
            picture.cell(left, 78 + h * CELL, seen, f"x{h}", 44)
        for r in (2, 1, 0):
            y, place = row + 1 - r, 78 + (row + 1 - r) * CELL
            picture.cell(left + 84, place, ORANGE, f"y{y} += w{r} · x{row}", 122)
        picture.arrow(left + 50, 78 + (row + 0.5) * CELL, left + 80, 78 + (row + 0.5) * CELL)
        done = 78 + (row - 1.35) * CELL
        picture.text(left + 84, done + 6, f"then y{row - 1} is complete", 12)
        if step < 2:
            picture.arrow(left + 216, 78 + 4.5 * CELL, left + 240, 78 + 4.5 * CELL)
    picture.text(20, 320, "Here w0, w1, w2 stand for the rows of the filter.")
    picture.text(20, 342, "Three sums stay in registers. The complete one is stored, the next row takes its register.")
    picture.text(20, 364, "So a row of x is loaded once, not once for each row of the filter.")
    return picture


def phases() -> Picture:
    """The taps that each phase of a strided dgrad meets."""
    names = (("A", "B"), ("C", "D"))
    colours = {"A": GREEN, "B": ORANGE, "C": BLUE, "D": PURPLE}
    picture = Picture(760, 336, "Phases of a strided dgrad")
    picture.text(20, 28, "dgrad with stride 2, 3×3 filter, padding 1: which taps meet which element of dx", 15)
    top = 84
    picture.text(20, top - 12, "dx, by row and column")
    for h in range(6):
        for w in range(6):
            name = names[h % 2][w % 2]
            picture.cell(20 + w * CELL, top + h * CELL, colours[name], name)
    for h in range(0, 6, 2):
        for w in range(0, 6, 2):
            picture.box(20 + w * CELL, top + h * CELL, 2 * CELL, 2 * CELL)
    picture.text(260, top - 12, "filter w[r, s]")
    for r in range(3):
        for s in range(3):
            # h + 1 - r has to be even: tap 1 for even rows of dx, taps 0 and 2 for odd ones; columns alike.
            name = names[(r + 1) % 2][(s + 1) % 2]
            picture.cell(260 + s * CELL, top + r * CELL, colours[name], name)
    picture.text(260, top + 3 * CELL + 26, "each tap in one phase")
    for line, (name, taps) in enumerate((("A", "1 tap"), ("B", "2 taps"), ("C", "2 taps"), ("D", "4 taps"))):
        place = top + line * (CELL + 8)
        picture.cell(450, place, colours[name], name)
        picture.text(492, place + 20, f"a stride-1 convolution of dy with {taps}")
    picture.text(450, top + 4 * (CELL + 8) + 20, "9 in all: each tap once for each 2 × 2 block")
    picture.text(
        20,
        top + 6 * CELL + 28,
        "No zeros are inserted between elements of dy. No tap is tested for a remainder.",
    )
    picture.text(20, top + 6 * CELL + 48, "A thread owns whole 2 × 2 blocks (framed): all threads do the same work.")
    return picture


FIGURES = {"toeplitz.svg": toeplitz, "halo.svg": halo, "window.svg": window, "phases.svg": phases}


if __name__ == "__main__":
    for name, draw in FIGURES.items():
        Path(__file__).with_name(name).write_text(str(draw()), encoding="utf-8")
