"""Views of runs in notebooks: the live page of `RunDetails(run).show()` and the small tables of `display(run)`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from labrun.api import functions

EVERY_S = 3.0


class RunDetails:
    """A run's page in a notebook.

    Args:
        run_instance: a run that was submitted.
    """

    def __init__(self, run_instance: Any) -> None:
        self._run = run_instance

    def show(self, render_lib: Any = None, widget_settings: Any = None) -> None:
        """Show the run. In a notebook the page updates in the background; elsewhere, print the current state once."""
        work = getattr(self._run, "_work", None)
        if work is None:  # the run of the script itself
            print(repr(self._run))
            return
        ipython = sys.modules.get("IPython")
        if ipython is None or ipython.get_ipython() is None:
            functions.show(work, wait=False)
            return
        _Live(work).start()

    def get_widget_data(self, widget_settings: Any = None) -> dict[str, Any]:
        """Return the data that the page shows."""
        return {"run_properties": self._run.get_details(), "status": self._run.get_status()}


class _Live:
    """A page that is redrawn until its run has ended. The cell that shows it finishes at once."""

    def __init__(self, work: Any) -> None:
        from IPython.display import HTML, display

        from labrun.api import notebook

        self._work, self._html, self._mark = work, HTML, notebook.new_mark()
        self._view = display(HTML(functions.page(work, self._mark)), display_id=True)

    def start(self) -> None:
        """Follow the run in a background thread."""
        threading.Thread(target=self._follow, daemon=True, name="RunDetails").start()

    def _follow(self) -> None:
        over = False
        while not over:
            time.sleep(EVERY_S)
            over = self._work.is_over
            self._view.update(self._html(functions.page(self._work, self._mark)))


TABLE = """
{%- macro cell(text) -%}
{%- if text.startswith(("http://", "https://", "file://")) -%}
<a href="{{ text }}" target="_blank" rel="noopener">{{ text }}</a>
{%- else -%}{{ text }}{%- endif -%}
{%- endmacro -%}
<table style="width:100%"><tr>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{%- for row in rows %}<tr>{% for text in row %}<td>{{ cell(text) }}</td>{% endfor %}</tr>{% endfor -%}
</table>"""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as an HTML table, with addresses as links."""
    from jinja2 import Environment, StrictUndefined  # here: scripts import this module, and few show a table

    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TABLE)
    return template.render(names=list(rows[0]), rows=[[str(value) for value in row.values()] for row in rows])
