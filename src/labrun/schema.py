"""What a configuration may hold: a dataclass per conf group, and the one place where objects are built from it.

Hydra composes the YAML files; `validate` then holds the composed config against the dataclasses below and tells
every mistake at once. Only the standard library, Hydra's `instantiate` and OmegaConf are used here, so that a
config is checked in milliseconds, before torch or scikit-learn are imported.

A node with a `_target_` that is not ours (a person's own model, any optimizer of torch) is open: its keys are the
target's own arguments, and `build` binds them against its signature before it calls it.
"""

from __future__ import annotations

import functools
import inspect
import logging
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from labrun.checking import Range, check_fields, suggest
from labrun.errors import ConfigError, LabrunError

Component = dict[str, Any]
"""A node that names what to build: `_target_` and the arguments for it."""

Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(at_least=0)]
Count = Annotated[int, Range(at_least=1)]
CountOrZero = Annotated[int, Range(at_least=0)]
Fraction = Annotated[float, Range(above=0, below=1)]
Size = Annotated[float, Range(at_least=0)]
"""A part of the data: below 1 a fraction, from 1 on a number of samples; 0 is none."""


@dataclass(frozen=True)
class Dataset:
    """What every data set has (`conf/dataset/`)."""

    _target_: str
    name: str
    download: bool = True
    verify: bool = True
    validation_size: Size = 0
    split_seed: CountOrZero = 0
    max_samples: Count | None = None
    scale: Positive = 255.0
    mean: float | list[float] = 0.0
    std: Positive | list[Positive] = 1.0
    augmentation: Component | None = None


@dataclass(frozen=True)
class Digits(Dataset):
    """The 1,797 digits of 8x8 pixels that ship with scikit-learn."""

    test_size: Fraction = 0.2


@dataclass(frozen=True)
class ImageFolder(Dataset):
    """A folder per class, below `train/` and `test/` or not."""

    path: str | None = None
    test_size: Fraction = 0.2
    image_size: Count | list[Count] | None = None
    channels: Literal[1, 3] | None = None


@dataclass(frozen=True)
class Npz(Dataset):
    """Arrays in an `.npz` file."""

    path: str = ""
    test_size: Fraction = 0.2


@dataclass(frozen=True)
class Csv(Dataset):
    """A table, one column of which is the class."""

    path: str = ""
    target: str | None = None
    separator: str | None = None
    test_path: str | None = None
    ignore: list[str] = field(default_factory=list)
    test_size: Fraction = 0.2


@dataclass(frozen=True)
class GetData(Dataset):
    """A Python file with a function `get_data()`."""

    script: str = "get_data.py"
    test_size: Fraction = 0.2


@dataclass(frozen=True)
class Datastore:
    """Where the data are (`conf/datastore/`)."""

    name: str
    root: str


@dataclass(frozen=True)
class Model:
    """What every model has (`conf/model/`): the target's own arguments, and how it is trained."""

    _target_: str
    name: str | None = None
    lr: Positive | None = None
    optimizer: Component | None = None
    scheduler: Component | None = None
    search_space: dict[str, Any] | None = None


@dataclass(frozen=True)
class LogisticRegression(Model):
    """scikit-learn's logistic regression, by its regularization rate."""

    regularization: Positive = 0.01
    max_iter: Count = 100
    tol: Positive = 1e-4
    solver: Literal["auto", "lbfgs", "newton-cg", "newton-cholesky", "sag", "saga"] = "auto"
    backend: Literal["sklearn", "intelex"] = "sklearn"


@dataclass(frozen=True)
class MnistDNN(Model):
    """Chainer's multi-layer perceptron."""

    units: Count = 100


@dataclass(frozen=True)
class Cifar10CNN(Model):
    """The convolutional network of PyTorch's CIFAR-10 tutorial."""

    conv1_channels: Count = 6
    conv2_channels: Count = 16
    kernel_size: Count = 5
    fc1_units: Count = 120
    fc2_units: Count = 84


Precision = Literal[
    "64-true",
    "32-true",
    "16-true",
    "bf16-true",
    "16-mixed",
    "bf16-mixed",
    "transformer-engine",
    "32",
    "16",
    "64",
    "bf16",
]


@dataclass(frozen=True)
class Trainer:
    """How a network is trained (`conf/trainer/`); scikit-learn models read nothing of it."""

    max_epochs: Count = 10
    batch_size: Count = 128
    eval_batch_size: Count = 1000
    log_every_n_batches: CountOrZero = 0
    monitor: str = "auto"
    evaluate: Literal["last", "best"] = "last"
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    precision: Precision = "32-true"
    gradient_clip_val: NotNegative | None = None
    accumulate_grad_batches: Count = 1
    limit_train_batches: Annotated[float, Range(above=0)] | None = None
    limit_val_batches: Annotated[float, Range(at_least=0)] | None = None
    deterministic: bool = True
    profiler: Literal["simple", "advanced"] | None = None
    threads: Count | None = None
    resume: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Compute:
    """What a run needs, and where it goes (`conf/compute/`)."""

    target: Literal["auto", "inline", "local", "slurm"]
    cpus_per_run: Count = 1
    gpus_per_run: CountOrZero = 0
    mem_gb: Positive | None = None
    timeout_min: Positive | None = None
    max_parallel: Count | None = None
    runs_per_gpu: Count = 1
    retries: CountOrZero = 0
    max_failures: CountOrZero | None = None
    detach: bool = False
    environment: dict[str, str | int | float] = field(default_factory=dict)
    python: str | None = None
    nodes: Count = 1
    tasks_per_node: Count = 1
    runs_per_job: Count = 1
    cpus_per_job: Count | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    setup: list[str] = field(default_factory=list)
    extra: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    srun_args: list[str] = field(default_factory=list)


SLURM_ONLY = (
    "nodes", "tasks_per_node", "runs_per_job", "cpus_per_job", "partition", "account", "qos", "setup", "extra",
    "srun_args",
)  # fmt: skip
"""Keys of `compute` that say something to Slurm alone."""


@dataclass(frozen=True)
class Sweep:
    """How a sweep goes (`conf/sweep/`)."""

    resume: str | None = None
    resume_code: Literal["frozen", "new"] = "frozen"


@dataclass(frozen=True)
class Tracking:
    """Where runs are shown (`conf/tracking/`)."""

    kind: Literal["mlflow", "none"]
    uri: str | None = None
    wait: bool = False


@dataclass(frozen=True)
class Config:
    """The whole configuration (`conf/config.yaml`)."""

    name: str
    dataset: Component
    datastore: Datastore
    model: Component
    trainer: Trainer
    compute: Compute
    tracking: Tracking
    sweep: Sweep = field(default_factory=Sweep)
    task: Literal["fit", "evaluate"] = "fit"
    from_: str | None = None
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 42
    tags: list[str] | dict[str, Any] | None = None
    notes: str = ""
    report: Literal["auto", "all", "none"] = "auto"
    export: list[Literal["pkl"]] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)
    callbacks: dict[str, Component | None] | None = None
    logger: dict[str, Component | None] | None = None


KNOWN_PACKAGES = ("labrun.", "torch.", "torchvision.", "sklearn.", "pytorch_lightning.", "lightning.")

TARGETS: dict[str, type] = {
    "labrun.data.readers.Mnist": Dataset,
    "labrun.data.readers.FashionMnist": Dataset,
    "labrun.data.readers.Cifar10": Dataset,
    "labrun.data.readers.Digits": Digits,
    "labrun.data.readers.ImageFolder": ImageFolder,
    "labrun.data.readers.Npz": Npz,
    "labrun.data.readers.Csv": Csv,
    "labrun.data.readers.GetData": GetData,
    "labrun.models.logistic_regression.logistic_regression": LogisticRegression,
    "labrun.models.mnist_dnn.MnistDNN": MnistDNN,
    "labrun.models.cifar10_cnn.Cifar10CNN": Cifar10CNN,
}
"""Our own targets, and the dataclass that says what each may be given."""


def validate(config: Mapping[str, Any]) -> None:
    """Hold a resolved config (plain dicts and lists) against the schema.

    Raises:
        ConfigError: with every mistake in it: the key, what was given, what is allowed.
    """
    problems = list(check_fields(config, Config, ""))
    for group, general in (("dataset", Dataset), ("model", Model)):
        node = config.get(group)
        if isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
            target = TARGETS.get(node["_target_"])
            problems += check_fields(node, target or general, group, open_ended=target is None)
        elif isinstance(node, Mapping):
            problems.append(f"{group}._target_ is missing: it names the Python class or function to use")
    name = config.get("name")
    if isinstance(name, str) and (not name.strip() or name.startswith(".") or set(name) & set("/\\\0\n")):
        problems.append(f"name={name!r}: it names a folder, so it is not empty, has no slash and begins with no dot")
    trainer, callbacks = config.get("trainer"), config.get("callbacks")
    if isinstance(trainer, Mapping) and trainer.get("evaluate") == "best" and not callbacks:
        problems.append("trainer.evaluate=best needs a checkpoint of the best epoch, and callbacks=none keeps none")
    if config.get("task") == "evaluate" and not config.get("from"):
        problems.append("task=evaluate needs the run whose model is to be scored: from=last, or from=<run id>")
    if problems:
        raise ConfigError(problems)


def locate(target: str, key: str) -> Callable[..., Any]:
    """The object that a `_target_` names.

    Raises:
        ConfigError: it cannot be imported; the message says which part is missing.
    """
    from hydra.utils import get_object

    logging.getLogger("hydra._internal.utils").setLevel(logging.CRITICAL)
    try:
        found = get_object(target)
    except Exception as error:  # importing a person's module can raise anything
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        raise ConfigError(
            f"{key}._target_={target!r} cannot be imported ({reason}). It is looked for in the installed "
            "packages and in the folder where the command was started."
        ) from error
    if not callable(found):
        raise ConfigError(f"{key}._target_={target!r} is not a class or a function, so nothing can be built from it")
    return typing.cast(Callable[..., Any], found)


def parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a target, by name; empty where Python cannot tell (some C code)."""
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {}


def build(node: Mapping[str, Any], key: str, *args: Any, **offered: Any) -> Any:
    """Build what a node names. The only place where a config becomes an object.

    Args:
        node: `_target_` and its arguments (plain, resolved values).
        key: where the node stands in the config, for messages.
        args: positional arguments, before the node's own.
        offered: arguments that are passed only if the target has a parameter of that name and the node does not
            give it (or gives null): `input_shape`, `num_classes`, `seed`.

    Raises:
        ConfigError: the target cannot be imported, or does not take these arguments.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    target = locate(str(node["_target_"]), key)
    known = parameters(target)
    given = {name: value for name, value in node.items() if not str(name).startswith("_")}
    for name, value in offered.items():
        if name in known and given.get(name) is None:
            given[name] = value
    _bind(target, known, args, given, key, partial=bool(node.get("_partial_")))
    reserved = {name: value for name, value in node.items() if str(name).startswith("_")}
    plain = {name: value for name, value in given.items() if _is_plain(value)}
    live = {name: value for name, value in given.items() if not _is_plain(value)}
    nested = "_target_" in repr(list(plain.values()))
    try:
        if nested or set(reserved) - {"_target_", "_partial_"}:
            return instantiate({"_convert_": "all", **reserved, **plain}, *args, **live)
        # What `instantiate` comes to where nothing is nested, without making an OmegaConf of it first.
        return functools.partial(target, *args, **given) if node.get("_partial_") else target(*args, **given)
    except Exception as error:
        cause = error.__cause__ or error if isinstance(error, InstantiationException) else error
        if isinstance(cause, LabrunError) and cause is error:
            raise
        if isinstance(cause, LabrunError):
            raise cause from error
        if not str(node["_target_"]).startswith(KNOWN_PACKAGES):
            raise cause from None  # a person's own code: its traceback says where
        reason = " ".join(str(cause).split())
        raise ConfigError(f"{key}: {node['_target_']} could not be built: {type(cause).__name__}: {reason}") from error


def _bind(
    target: Callable[..., Any],
    known: Mapping[str, inspect.Parameter],
    args: tuple[Any, ...],
    given: Mapping[str, Any],
    key: str,
    partial: bool,
) -> None:
    if not known:
        return
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    names = [name for name, p in known.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    problems = [
        f"{key}.{name}: {getattr(target, '__name__', target)} takes no such argument."
        f"{suggest(str(name), names)} It takes: {', '.join(names)}"
        for name in given
        if name not in known and not takes_any
    ]
    if not partial and not problems:
        try:
            inspect.signature(target).bind(*args, **given)
        except TypeError as error:
            problems.append(f"{key}: {getattr(target, '__name__', target)}: {error}")
    if problems:
        raise ConfigError(problems)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)
