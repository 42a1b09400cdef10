"""A plain Hydra application: a logistic regression on the digits, fitted as in labrun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hydra
import joblib
import numpy as np
from hydra.core.hydra_config import HydraConfig
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config: Any) -> None:
    """Run one job."""
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32) / np.float32(16)
    split = np.load(config.data)
    train, test = split["train"], split["test"]
    model = LogisticRegression(C=1 / config.value, max_iter=100, random_state=42)
    model.fit(x[train], y[train])
    folder = Path(HydraConfig.get().runtime.output_dir)
    joblib.dump(model, folder / "model.joblib")
    scores = {"accuracy": float(model.score(x[test], y[test]))}
    scores["loss"] = float(log_loss(y[test], model.predict_proba(x[test])))
    (folder / "result.json").write_text(json.dumps({"value": config.value, **scores}))


if __name__ == "__main__":
    main()
