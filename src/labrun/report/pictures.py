"""A run's pictures. Their content is gathered where the model and the data are, and may be drawn in another process."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun import garbage
from labrun.errors import RecordError
from labrun.report import figures
from labrun.runs import context

if TYPE_CHECKING:
    import numpy.typing as npt

ARRAYS = ("samples", "labels", "confusion", "weights", "true", "predicted")


@dataclass
class Pictures:
    """Content of the pictures of one run; missing parts are not drawn.

    Shapes:
        samples: (N, C, H, W) stored values, 0 to `scale`.
        labels: (N,) class indices.
        confusion: (classes, classes), one row per true class.
        weights: (classes, H * W), or one row for two classes.
        true, predicted: (N,) values of the test split, for regression.

    Args:
        title: the run's title.
        data: the data set's name.
        class_names: one name per class.
        scale: maximum value of a sample.
        accuracy: accuracy on the test split.
        image_shape: (1, H, W), for `weights`.
        quantity: name of the regression target, if it has one.
    """

    title: str
    data: str = ""
    class_names: tuple[str, ...] = ()
    scale: float = 1.0
    accuracy: float = 0.0
    image_shape: tuple[int, ...] = ()
    samples: npt.NDArray[Any] | None = None
    labels: npt.NDArray[Any] | None = None
    confusion: npt.NDArray[Any] | None = None
    weights: npt.NDArray[Any] | None = None
    true: npt.NDArray[Any] | None = None
    predicted: npt.NDArray[Any] | None = None
    quantity: str = ""

    def draw(self, run_dir: Path) -> None:
        """Draw the pictures, and the run's curves, into its `outputs/`."""
        with garbage.gc_disabled():
            self._draw(run_dir)

    def _draw(self, run_dir: Path) -> None:
        outputs = run_dir / "outputs"
        if self.samples is not None and self.labels is not None:
            title = f"{self.data}: training samples"
            figures.sample_grid(
                self.samples,
                self.labels,
                self.class_names,
                self.scale,
                outputs / "samples.png",
                title,
                order=slice(None),
            )
        figures.learning_curves(context.read_metrics(run_dir), outputs / "curves.png", self.title)
        if self.confusion is not None:
            title = f"{self.title}: test accuracy {self.accuracy:.4f}"
            figures.confusion_matrix(self.confusion, self.class_names, outputs / "confusion_matrix.png", title)
        if self.true is not None and self.predicted is not None:
            title = f"{self.title}: {len(self.true):,} test samples"
            figures.predictions(self.true, self.predicted, outputs / "predictions.png", title, self.quantity)
        if self.weights is not None:
            title = f"{self.title}: weights per class (blue: for, red: against)"
            figures.weight_images(self.weights, self.image_shape, self.class_names, outputs / "weights.png", title)

    def save(self, path: Path) -> None:
        """Save the content to a file."""
        import numpy as np

        fields = {key: value for key, value in vars(self).items() if key not in ARRAYS}
        arrays = {key: getattr(self, key) for key in ARRAYS if getattr(self, key) is not None}
        np.savez(path, told=np.array(json.dumps(fields)), **arrays)


def load(path: Path) -> Pictures:
    """Read a file of `Pictures.save`.

    Raises:
        RecordError: the file cannot be read.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            fields = json.loads(str(file["told"]))
            return Pictures(**fields, **{key: file[key] for key in file.files if key in ARRAYS})
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
