"""HTML view of runs and sweeps in a notebook. It needs no server or widget, and is kept in the saved notebook.

The user selects a metric or a run with radio buttons and CSS. A short script remembers the selection across refreshes;
without scripts, only that is lost.
"""

from __future__ import annotations

import base64
import functools
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from labrun.report import aggregation, figures, formatting, mean_curves
from labrun.report.aggregation import Setting
from labrun.runs import context, store
from labrun.runs.record import (
    CANCELED,
    COMPLETED,
    FAILED,
    LOST,
    PREEMPTED,
    QUEUED,
    RUNNING,
    STOPPED,
    UNREACHABLE,
    Record,
    seconds_between,
    timestamp,
)
from labrun.runs.status import Status

LOG_LINES = 30
DETAILED = 60
"""Maximum number of a sweep's runs shown with their config and log."""
COLOURS: Mapping[Status, str] = {
    COMPLETED: "#1a7f37",
    FAILED: "#cf222e",
    LOST: "#cf222e",
    CANCELED: "#9a6700",
    STOPPED: "#8250df",
    RUNNING: "#0969da",
    QUEUED: "#57606a",
    PREEMPTED: "#9a6700",
    UNREACHABLE: "#9a6700",
}


class RunView(Protocol):
    """The part of `labrun.Run` that a page uses."""

    @property
    def folder(self) -> Path: ...
    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> Status: ...
    @property
    def record(self) -> Record: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def metrics(self) -> dict[str, float]: ...
    def log_text(self) -> str: ...


class SweepView(Protocol):
    """The part of `labrun.Sweep` that a page uses."""

    @property
    def folder(self) -> Path: ...
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> Status: ...
    @property
    def metric(self) -> str: ...
    def get_children(self) -> Sequence[RunView]: ...


def run_page(run: RunView, mark: str | None = None) -> str:
    """Render a run as HTML.

    Args:
        run: the run.
        mark: id of the page, unique in its notebook; None: a new one.
    """
    return _page(_run(run), mark or new_mark())


def sweep_page(sweep: SweepView, mark: str | None = None) -> str:
    """Render a sweep as HTML; see `run_page`."""
    mark = mark or new_mark()
    return _page(_sweep(sweep, mark), mark)


def new_mark() -> str:
    """Return a unique id for a page."""
    return f"labrun-{uuid.uuid4().hex[:8]}"


def _page(inner: Markup, mark: str) -> str:
    return f'<div id="{mark}" class="labrun">{STYLE}{inner}</div>{REMEMBER.replace("MARK", mark)}'


STYLE = """<style>
.labrun { font-family: sans-serif; font-size: 13px; line-height: 1.4; }
.labrun table { border-collapse: collapse; margin: 4px 0 10px; }
.labrun th, .labrun td { text-align: left !important; padding: 2px 12px 2px 0; border-bottom: 1px solid #8884; }
.labrun pre { max-height: 22em; overflow: auto; padding: 6px; border: 1px solid #8884; font-size: 12px;
  font-family: monospace;
  white-space: pre-wrap; }
.labrun img { max-width: 100%; background: white; }
.labrun input { position: absolute; opacity: 0; }
.labrun label { display: inline-block; padding: 1px 8px; margin: 1px; border: 1px solid #8886; border-radius: 9px;
  cursor: pointer; }
.labrun .choice { display: none; }
</style>"""
REMEMBER = """<script>(function () {
  var root = document.getElementById("MARK"), kept = window["MARK"] = window["MARK"] || {};
  if (!root) { return; }
  root.querySelectorAll("input[type=radio]").forEach(function (button) {
    if (kept[button.name] === button.id) { button.checked = true; }
    button.addEventListener("change", function () { kept[button.name] = button.id; });
  });
})();</script>"""


TEMPLATES = {
    "table": """
<table>
{%- if head %}<tr>{% for cell in head %}<th>{{ cell }}</th>{% endfor %}</tr>{% endif %}
{%- for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor -%}
</table>""",
    "details": """
{{ curves }}
{%- if config %}<details><summary>configuration</summary><pre>{{ config }}</pre></details>{% endif -%}
<details open><summary>log</summary><pre>{{ log }}</pre></details>""",
    "chooser": """
<div class="{{ group }}"><style>
{%- for choice in choices %}
#{{ group }}{{ loop.index0 }}:checked ~ .{{ group }}p{{ loop.index0 }} { display: block; }
#{{ group }}{{ loop.index0 }}:checked ~ .{{ group }}l label[for="{{ group }}{{ loop.index0 }}"] {
  font-weight: bold; background: #8884; }
{%- endfor %}
</style>
{%- for choice in choices -%}
<input type="radio" name="{{ group }}" id="{{ group }}{{ loop.index0 }}"{{ " checked" if loop.first else "" }}>
{%- endfor -%}
<div class="{{ group }}l">{{ title }}
{%- for name, _ in choices %}<label for="{{ group }}{{ loop.index0 }}">{{ name }}</label>{% endfor -%}
</div>
{%- for _, content in choices %}<div class="choice {{ group }}p{{ loop.index0 }}">{{ content }}</div>{% endfor -%}
</div>""",
}
"""Parts of a page. Values are escaped, unless they are parts of a page themselves."""


@functools.cache
def _templates() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, loader=DictLoader(TEMPLATES))


def _render(name: str, **values: Any) -> Markup:
    return Markup(_templates().get_template(name).render(**values).strip())


def _status(status: Status) -> Markup:
    return Markup('<b style="color: {}">{}</b>').format(COLOURS.get(status, "inherit"), status)


def _code(text: object) -> Markup:
    return Markup("<code>{}</code>").format(text)


def _table(rows: Sequence[Sequence[object]], head: Sequence[str] = ()) -> Markup:
    return _render("table", rows=rows, head=head)


def _run(run: RunView) -> Markup:
    record, status = run.record, run.status
    took = record.duration_s if record.duration_s is not None else None
    if took is None and record.started:
        took = seconds_between(record.started, timestamp())
    rows: list[tuple[str, object]] = [
        ("run", Markup("{} &nbsp; {}").format(run.name, run.id)),
        ("status", _status(status)),
        ("duration", "" if took is None else formatting.duration(took)),
        *((name, _number(value)) for name, value in run.metrics.items()),
        ("folder", _code(run.folder)),
    ]
    if record.reason:
        rows.insert(2, ("why", record.reason))
    return _table(rows) + _details(run)


def _number(value: Any) -> str:
    return formatting.number(value) if isinstance(value, int | float) else str(value)


def _details(run: RunView, with_config: bool = True) -> Markup:
    config = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if with_config else ""
    lines = run.log_text().splitlines()[-LOG_LINES:]
    return _render("details", curves=_curves(run), config=config, log="\n".join(lines))


def _curves(run: RunView) -> Markup:
    lines = context.read_metrics(run.folder)
    if not figures.curves_of(lines):
        return Markup()
    return _picture(lambda path: figures.learning_curves(lines, path, f"{run.name} ({run.id})"))


def _picture(draw: Any) -> Markup:
    with tempfile.TemporaryDirectory() as folder:
        path = draw(Path(folder, "picture.png"))
        if path is None:
            return Markup()
        encoded = base64.b64encode(Path(path).read_bytes()).decode()
    return Markup('<img alt="curves" src="data:image/png;base64,{}">').format(encoded)


def _sweep(sweep: SweepView, mark: str) -> Markup:
    children = sweep.get_children()
    states = [run.status for run in children]
    counts = [Markup("{} {}").format(states.count(state), _status(state)) for state in dict.fromkeys(states)]
    head = _table(
        [
            ("sweep", sweep.name),
            ("status", _status(sweep.status)),
            ("runs", Markup(", ").join(counts) or "no runs yet"),
            ("folder", _code(sweep.folder)),
        ]
    )
    usual = sweep.metric
    names = list(dict.fromkeys(name for run in children for name in run.metrics))
    names.sort(key=lambda name: name != usual)
    settings = aggregation.of_seeds([run.record for run in children])
    tables = [(name, _over_seed(settings, name) + _children(children, states, name)) for name in names or ["metric"]]
    chosen = _chooser(f"{mark}-m", tables, "metric: ")
    order = _best_first(children, names[0]) if names else children
    details = [(_count(run), _child(run)) for run in order[:DETAILED]]
    more = Markup("<p>The first {} of {} runs.</p>").format(DETAILED, len(order)) if len(order) > DETAILED else ""
    return head + chosen + _picture_of(children, settings) + _chooser(f"{mark}-c", details, "run: ") + more


def _best_first(children: Sequence[RunView], metric: str) -> Sequence[RunView]:
    """Sort runs by a metric, best first; keep their order if its direction is unknown."""
    _, wanted = store.parse_metric(metric, [run.record for run in children])
    return children if wanted is None else sorted(children, key=lambda run: -store.score(run.record, metric, wanted))


def _picture_of(children: Sequence[RunView], settings: Sequence[Setting]) -> Markup:
    """Draw the curves of up to 12 runs in one picture; the mean curves if settings have several seeds."""
    if settings:
        folders = {run.id: run.folder for run in children}
        means, _ = mean_curves.of(settings[:12], lambda record: context.read_metrics(folders[record.id]))
        return _picture(lambda path: figures.compared_curves(means, path, "mean and standard deviation over seed"))
    shown = children[:12]
    differing, _ = formatting.differing([run.record.overrides for run in shown])
    found = {
        f"run {_count(run)}: {' '.join(own)}".removesuffix(": "): context.read_metrics(run.folder)
        for run, own in zip(shown, differing, strict=True)
    }
    if not any(figures.curves_of(lines) for lines in found.values()):
        return Markup()
    return _picture(lambda path: figures.compared_curves(found, path))


def _count(run: RunView) -> str:
    return str(run.id if run.record.number is None else run.record.number)


def _children(children: Sequence[RunView], states: Sequence[Status], metric: str) -> Markup:
    state_of = dict(zip((run.id for run in children), states, strict=True))
    rows = []
    for run in _best_first(children, metric):
        state = state_of[run.id]
        record = run.record
        value = run.metrics.get(metric)
        took = "" if record.duration_s is None else formatting.duration(record.duration_s)
        shown = "" if value is None else _number(value)
        rows.append((_count(run), run.id, _status(state), took, shown, " ".join(record.overrides)))
    return _table(rows, ("", "id", "status", "duration", metric, "overrides"))


def _over_seed(settings: Sequence[Setting], metric: str) -> Markup:
    """Render a table of means over the seeds; empty if no setting has several seeds."""
    if not settings:
        return Markup()
    rows = []
    for one, label in zip(settings, aggregation.labels(settings), strict=True):
        found = one.summary(metric)
        shown = ["" if value is None else _number(value) for value in (found.mean, found.std)]
        rows.append((label, *shown, found.count))
    notes = Markup().join(Markup("<p>{}</p>").format(note) for note in aggregation.notes(settings, [metric]))
    return _table(rows, ("over seed", f"{metric}_mean", f"{metric}_std", "n")) + notes


def _child(run: RunView) -> Markup:
    why = Markup("<p>{}</p>").format(run.record.reason) if run.record.reason else ""
    head = Markup("<p>run {} &nbsp; {} &nbsp; {}</p>").format(_count(run), run.id, _status(run.status))
    return head + why + _details(run)


def _chooser(group: str, choices: Sequence[tuple[str, Markup]], title: str) -> Markup:
    """Render radio buttons, each of which shows its content."""
    return _render("chooser", group=group, choices=choices, title=title) if choices else Markup()
