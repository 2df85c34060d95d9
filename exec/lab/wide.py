"""Tables that may be wider than the terminal: cut into several, one below the other, the first columns repeated."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

GAP = 2  # between columns

Cell = str | Text


class Wide:
    """A table of rows [R] of cells, one for each head; no cell is ever cut short or broken.

    keep: columns at the left that label a row; they are left-aligned and repeated, the others right-aligned.
    styles: of each row.  left: other heads that are left-aligned.
    """

    def __init__(
        self,
        heads: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        keep: int = 1,
        title: str = "",
        caption: str = "",
        styles: Sequence[str] = (),
        left: Sequence[str] = (),
    ):
        self._heads, self._rows, self._keep = list(heads), [list(row) for row in rows], keep
        self._title, self._caption, self._left = title, caption, set(left)
        self._styles = list(styles) or [""] * len(self._rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self._title:
            yield Text(f"\n{self._title}", "italic")
        for turn, columns in enumerate(self._parts(options.max_width)):
            if turn:
                yield Text("")
            yield self._table(columns)
        if self._caption:
            yield Text(self._caption, "dim italic")

    def _parts(self, width: int) -> list[list[int]]:
        """Columns of each part; one column at least, however narrow the terminal is."""
        widths = [
            max(cell_len(line) for cell in (head, *cells) for line in str(cell).split("\n"))
            for head, *cells in zip(self._heads, *self._rows, strict=True)
        ]
        labels = list(range(self._keep))
        room = width - sum(widths[column] + GAP for column in labels)
        parts: list[list[int]] = [[]]
        left = room
        for column in range(self._keep, len(widths)):
            if parts[-1] and widths[column] > left:
                parts.append([])
                left = room
            parts[-1].append(column)
            left -= widths[column] + GAP
        return [labels + part for part in parts]

    def _table(self, columns: list[int]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            head = self._heads[column]
            is_left = column < self._keep or head in self._left
            table.add_column(Text(head), justify="left" if is_left else "right", no_wrap=True, vertical="bottom")
        for row, style in zip(self._rows, self._styles, strict=True):
            table.add_row(*[Text(row[column]) if isinstance(row[column], str) else row[column] for column in columns],
                          style=style)  # fmt: skip
        return table
