"""What a training script uses of the Azure ML SDK v1, carried out by labrun.

core/run.py         the run that the script belongs to: metrics, files, tags
core/dataset.py     the inputs that the run's config mounted, and local tables
core/model.py       registered models, to read
_absent.py          everything else: it imports, and says what to do here instead when it is used
"""

from __future__ import annotations

from . import _absent

_absent.install()
