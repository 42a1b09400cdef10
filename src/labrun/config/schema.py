"""Schema of the configuration: a class per conf group, and dataclasses of what labrun reads.

Hydra composes the YAML files. `validation.validate` then checks the composed config against the classes below, and
returns it as a `Config`. Both modules import only the standard library, Hydra's `instantiate` and OmegaConf, so a
config is checked in milliseconds, before torch or scikit-learn is imported.

A node whose `_target_` is not labrun's (the user's own model, any torch optimizer) is open: its keys are arguments of
the target, and `instantiate.build` binds them to the target's signature before calling it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from labrun.config import exact, targets
from labrun.config.checking import Range, SecretMark
from labrun.config.instantiate import Node, resolve_references
from labrun.errors import ConfigError
from labrun.plugins import BACKENDS, TASKS, TRACKERS

LOCAL_DATASTORE = "labrun.data.stores.local.LocalDatastore"
FORMER_DATASTORES = {"labrun.data.datastore.LocalDatastore": LOCAL_DATASTORE}
"""Former targets of datastores, mapped to their current names. Records keep them, since seals cover their text."""
DATASETS = "labrun.data.datasets.Datasets"
"""Target of a data set built from `torch.utils.data.Dataset`s."""

Component = dict[str, Any]
"""A node that describes an object to build: its `_target_` and arguments."""

Variables = Mapping[str, str | int | float]
"""Environment variables of runs: by name the value, a reference to it, or `record.HIDDEN` in its place."""

Secret = Annotated[str, SecretMark()]
"""Text that no record, log or command line may contain: a config has to refer to an environment variable."""

Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(at_least=0)]
Count = Annotated[int, Range(at_least=1)]
CountOrZero = Annotated[int, Range(at_least=0)]
Fraction = Annotated[float, Range(above=0, below=1)]
Size = Annotated[float, Range(at_least=0)]
"""Size of a split: a fraction if below 1, otherwise a number of samples; 0 means no such split."""

LEFT_OUT: Any = None
"""Marks a list or dict among a target's arguments as optional; the target has its own default."""

# The settings that follow go without the methods that nothing calls: creating them would delay the start of commands.


@dataclass(frozen=True, init=False, repr=False, eq=False)
class GeneralSettings:
    """What labrun itself does with every data set that is read into arrays."""

    name: str
    asset: str | None = None
    version: str | int | float | None = None
    download: bool = True
    validation_size: Size = 0
    split_seed: CountOrZero = 0
    max_samples: Count | None = None
    scale: Positive = 255.0
    mean: float | list[float] = 0.0
    std: Positive | list[Positive] = 1.0
    augmentation: Component | None = None

    @property
    def place(self) -> str:
        """Name of its asset, or of its folder in the datastore."""
        return self.asset or self.name


@dataclass(frozen=True, init=False, repr=False, eq=False)
class SplitSettings(GeneralSettings):
    """The same for a data set that may come without a test split."""

    test_size: Fraction = 0.2


@dataclass(frozen=True, repr=False, eq=False)
class DatasetSettings(SplitSettings):
    """The same for a data set that may stay on the disk: all keys of `dataset` that are not the reader's arguments."""

    in_memory: bool | Literal["auto"] = "auto"
    num_workers: CountOrZero | None = None

    @classmethod
    def of(cls, node: Node) -> DatasetSettings:
        """Build from a resolved node; a key that is missing or null has its default."""
        return cls(**_given(cls, node))


@dataclass(frozen=True, repr=False, eq=False)
class DatastoreSettings:
    """Keys of `datastore` that labrun handles itself; the others are arguments of the file system."""

    name: str
    root: str
    cache: str | None = None
    cache_gb: Positive | None = None
    workers: Count = 8

    @classmethod
    def of(cls, node: Node) -> DatastoreSettings:
        """Build from a resolved node, as `DatasetSettings.of` does."""
        return cls(**_given(cls, node))


@dataclass(frozen=True, repr=False, eq=False)
class PipelineSettings:
    """How a pipeline is cross-validated. Its `model` node also holds what it consists of."""

    folds: CountOrZero = 5
    cv_samples: Annotated[int, Range(at_least=10)] | None = None
    metric: str | None = None
    refit: bool = True

    @classmethod
    def of(cls, node: Node) -> PipelineSettings:
        """Build from a resolved node, as `DatasetSettings.of` does."""
        return cls(**_given(cls, node))


@dataclass(frozen=True, repr=False, eq=False)
class LearningSettings:
    """How labrun trains a plain network: keys of `model`, except those that the network's class takes itself."""

    loss: Component | None = None
    metrics: dict[str, Component | None] | None = None
    class_weight: Literal["balanced"] | list[Positive] | None = None
    target: Literal["data", "input"] | None = None

    @classmethod
    def of(cls, node: Node, own: Container[str]) -> LearningSettings:
        """Build from a resolved `model` node.

        Args:
            node: the node; `validation.learning_mistakes` checks its values.
            own: the arguments of the network's class.
        """
        return cls(**{key: value for key, value in _given(cls, node).items() if key not in own})

    @property
    def given(self) -> list[str]:
        """The keys that are set."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]


# The classes from here to `Cifar10CNN` only describe nodes and have no instances. For the same reason, they are not
# dataclasses.


class Dataset(GeneralSettings):
    """Keys common to all data sets (`conf/dataset/`)."""

    _target_: str
    verify: bool = True


class Digits(Dataset, SplitSettings):
    """The 1,797 images of 8x8 pixels that ship with scikit-learn."""


class ImageFolder(Dataset, DatasetSettings):
    """Images in one folder per class, optionally below `train/` and `test/`."""

    path: str | None = None
    parts: dict[str, str] | Literal[False] | None = None
    image_size: Count | list[Count] | None = None
    channels: Literal[1, 3] | None = None


class Npz(Dataset, DatasetSettings):
    """Arrays in an `.npz` file."""

    path: str = ""
    regression: bool = False


class Csv(Dataset, DatasetSettings):
    """A table (CSV, Parquet, Excel) with one target column: a class label or a quantity."""

    path: str = ""
    target: str | None = None
    separator: str | None = None
    test_path: str | None = None
    ignore: list[str] = LEFT_OUT
    numbers: list[str] = LEFT_OUT
    categories: list[str] = LEFT_OUT
    dates: dict[str, str] | None = None
    decimal: Literal[".", ",", "point", "comma"] | None = None
    encoding: str | None = None
    header: bool | None = None
    sheet: str | int | None = None
    skip_rows: Count | None = None
    regression: bool = False


class GetData(Dataset, SplitSettings):
    """A Python file with a function `get_data()`."""

    script: str = "get_data.py"
    regression: bool = False


class DataModule:
    """A `LightningDataModule`, which has its own loaders. labrun reads these keys; all others are its arguments."""

    _target_: str
    name: str | None = None
    max_samples: Any = None
    validation_size: Any = None


class TorchDatasets(DataModule):
    """One `torch.utils.data.Dataset` per split, and the batching options (`conf/dataset/torch.yaml`)."""

    train: Component | None = None
    validation: Component | None = None
    test: Component | None = None
    predict: Component | None = None
    batch_size: Count = 128
    eval_batch_size: Count = 1000
    num_workers: CountOrZero = 0
    shuffle: bool | None = None
    drop_last: bool = False
    pin_memory: bool = False
    collate_fn: Component | str | None = None
    sampler: Component | None = None
    batch_sampler: Component | None = None
    seed: CountOrZero = 0
    vars: dict[str, Any] = LEFT_OUT


class Datastore:
    """A datastore (`conf/datastore/`) that is a local folder."""

    name: str
    root: str
    _target_: str = LOCAL_DATASTORE


class RemoteDatastore(DatastoreSettings):
    """Keys common to all datastores that are reached through fsspec."""

    _target_: str


class AzureBlob(RemoteDatastore):
    """Azure Blob Storage."""

    account_name: str | None = None
    account_host: str | None = None
    account_key: Secret | None = None
    connection_string: Secret | None = None
    sas_token: Secret | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    tenant_id: str | None = None
    anon: bool | None = None


class S3(RemoteDatastore):
    """Amazon S3, or any server with an S3-compatible API."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    key: Secret | None = None
    secret: Secret | None = None
    token: Secret | None = None
    anon: bool = False


class Sftp(RemoteDatastore):
    """A folder on a machine reachable over SSH."""

    host: str = ""
    port: Annotated[int, Range(at_least=1, at_most=65535)] = 22
    username: str | None = None
    password: Secret | None = None
    key_filename: str | None = None
    passphrase: Secret | None = None
    host_key_policy: Literal["auto_add", "warning", "reject"] = "auto_add"
    timeout: Positive | None = None


class Http(RemoteDatastore):
    """A folder on a web server, read-only."""

    token: Secret | None = None


class Model:
    """Keys common to all models (`conf/model/`): the training options. Other keys are arguments of the target."""

    _target_: str
    name: str | None = None
    lr: Positive | None = None
    optimizer: Component | None = None
    scheduler: Component | None = None
    loss: Any = None
    metrics: Any = None
    class_weight: Any = None
    target: Any = None
    search_space: dict[str, Any] | None = None


class LogisticRegression(Model):
    """scikit-learn's logistic regression, parameterized by its regularization rate."""

    regularization: Positive = 0.01
    max_iter: Count = 100
    tol: Positive = 1e-4
    solver: Literal["auto", "lbfgs", "newton-cg", "newton-cholesky", "sag", "saga"] = "auto"
    backend: Literal["sklearn", "intelex"] = "sklearn"


class Pipeline(Model, PipelineSettings):
    """A scikit-learn pipeline, scored by cross-validation."""

    preprocessor: Component = LEFT_OUT
    estimator: Component = LEFT_OUT
    preprocess: bool = False
    _recursive_: bool = False


class Ensemble(Model, PipelineSettings):
    """A soft-voting ensemble of pipelines."""

    members: list[dict[str, Any]] = LEFT_OUT
    weights: list[float] = LEFT_OUT
    preprocess: bool = False
    _recursive_: bool = False


class MnistDNN(Model):
    """The multi-layer perceptron of Chainer's MNIST example."""

    units: Count = 100


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
    """Training options of a network (`conf/trainer/`). scikit-learn models ignore them."""

    max_epochs: Count = 10
    batch_size: Count = 128
    eval_batch_size: Count = 1000
    log_every_n_batches: CountOrZero = 0
    monitor: str = "auto"
    monitor_mode: Literal["auto", "min", "max"] = "auto"
    evaluate: Literal["auto", "last", "best"] = "auto"
    on_nan: Literal["warn", "fail"] = "warn"
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    precision: Precision = "32-true"
    gradient_clip_val: NotNegative | None = None
    accumulate_grad_batches: Count = 1
    limit_train_batches: Annotated[float, Range(above=0)] | None = None
    limit_val_batches: Annotated[float, Range(at_least=0)] | None = None
    deterministic: bool = True
    profiler: Literal["simple", "advanced"] | None = None
    threads: Count | Literal["auto"] | None = "auto"
    resume: str | None = None
    resume_code: Literal["same", "new"] = "same"
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, node: Node) -> Trainer:
        """Build from a validated node, as `Compute.of` does. `resume` is dropped: see `Resumed` for a frozen run's."""
        return cls(**{**_resolved_fields(cls, node), "resume": None})


@dataclass(frozen=True)
class Resumed:
    """The run that training resumes from. Freezing replaces `trainer.resume` with this."""

    id: str
    path: Path
    """Its checkpoint."""
    edited: list[str] = field(default_factory=list)
    """Modules of the model whose source has changed since that run started."""

    @classmethod
    def of(cls, trainer: Node) -> Resumed | None:
        """Return the `Resumed` of a frozen `trainer` node; None if training starts from scratch."""
        node = trainer.get("resume")
        if not isinstance(node, Mapping):
            return None
        return cls(str(node["id"]), Path(node["path"]), list(node.get("edited") or ()))

    @property
    def run_dir(self) -> Path:
        """That run's folder."""
        return self.path.parents[1]


@dataclass(frozen=True)
class Source:
    """The run that a run scores; freezing puts it in place of `from`."""

    id: str
    run_dir: Path

    @classmethod
    def of(cls, node: object) -> Source | None:
        """Return the source in a frozen node `from`; None if the run scores no other run."""
        return cls(str(node["id"]), Path(node["path"])) if isinstance(node, Mapping) else None


def _known(cls: type, node: Node) -> dict[str, Any]:
    """Return a node's values for the fields of a dataclass."""
    return {f.name: node[f.name] for f in fields(cls) if f.name in node}


def _given(cls: type, node: Node) -> dict[str, Any]:
    """Return a node's values for the fields of a dataclass, without those that are null."""
    return {key: value for key, value in _known(cls, node).items() if value is not None}


def _resolved_fields(cls: type, node: Node) -> dict[str, Any]:
    """Return the node's values for the fields of a dataclass, with environment references resolved on this machine."""
    return resolve_references({key: value for key, value in _known(cls, node).items() if key != "environment"})


@dataclass(frozen=True)
class Compute:
    """Where a run is executed, and the resources it needs (`conf/compute/`)."""

    target: Annotated[str, BACKENDS]
    host: str | None = None
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
    extra: dict[str, str | int | float | bool | list[str | int] | None] = field(default_factory=dict)
    srun_args: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, node: Node) -> Compute:
        """Build from a `compute` node that this or an earlier version validated; resolve its environment references.

        Raises:
            ConfigError: a referenced environment variable is not set on this machine.
        """
        environment = node.get("environment", {})  # not resolved: records keep only the variables' names
        return cls(**{"target": "auto", **_resolved_fields(cls, node), "environment": environment})

    @classmethod
    def key(cls, name: str) -> str:
        """Return a key as the user types it, for messages; a subclass has its keys elsewhere."""
        return f"compute.{name}"

    @classmethod
    def choice(cls, option: str = "", target: str | None = None) -> str:
        """Return how the user chooses a backend, for messages.

        Args:
            option: the option in `conf/compute/`; none: only the part before it.
            target: the backend that the option selects, if it has another name.
        """
        return f"compute={option}"

    @property
    def ranks(self) -> int:
        """Number of processes of a run, over all its nodes."""
        return self.nodes * self.tasks_per_node

    @property
    def on_a_node(self) -> tuple[int, int]:
        """CPU cores and GPUs that a run uses on each of its nodes."""
        return self.cpus_per_run * self.tasks_per_node, self.gpus_per_run


SPECIAL = (
    "nodes",
    "tasks_per_node",
    "runs_per_job",
    "cpus_per_job",
    "partition",
    "account",
    "qos",
    "setup",
    "extra",
    "srun_args",
)
"""Keys of `compute` that only some backends support."""


Goal = Literal["auto", "maximize", "minimize"]


@dataclass(frozen=True)
class Sweep:
    """Options of a sweep (`conf/sweep/`)."""

    sampler: Component | None = None
    max_trials: Count | None = None
    max_concurrent: Count | None = None
    timeout_min: Positive | None = None
    trial_timeout_min: Positive | None = None
    stop_at: float | None = None
    patience: Count | None = None
    patience_from: CountOrZero = 0
    metric: str | list[str] = "auto"
    goal: Goal | list[Goal] = "auto"
    seed: CountOrZero = 0
    space: dict[str, Any] = field(default_factory=dict)
    zip: list[list[str]] = field(default_factory=list)
    early_termination: Component | None = None
    replace_canceled: bool = False
    portfolio: list[dict[str, Any]] = field(default_factory=list)
    learn_from: list[str] = field(default_factory=list)
    resume: str | None = None
    resume_code: Literal["frozen", "new"] = "frozen"

    @classmethod
    def of(cls, node: Node) -> Sweep:
        """Build from a frozen `sweep` node; its environment references stay references."""
        first = {"metric": "accuracy", "goal": "maximize"}  # the oldest records lack these keys
        return cls(**{**first, **_known(cls, node)})

    @classmethod
    def key(cls, name: str) -> str:
        """Return a key as the user types it, for messages; a subclass has its keys elsewhere."""
        return f"sweep.{name}"

    @classmethod
    def choice(cls, option: str) -> str:
        """Return how the user chooses a sampler, or a grid, for messages."""
        return f"sweep={option}"

    @property
    def goals(self) -> list[tuple[str, Goal]]:
        """The metrics, each with its goal.

        Raises:
            ValueError: their numbers differ.
        """
        metrics = self.metric if isinstance(self.metric, list) else [self.metric]
        goals = self.goal if isinstance(self.goal, list) else [self.goal] * len(metrics)
        return list(zip(metrics, goals, strict=True))


Word = str | int | float | bool | None


@dataclass(frozen=True)
class Script:
    """The user's own training script (`conf/script/`)."""

    path: str | None = None
    command: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    processes: Annotated[int, Range(at_least=1)] = 1
    positional: list[Word] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    python: str | None = None
    requirements: str | None = None
    azureml: bool = False
    metrics: dict[str, str] = field(default_factory=dict)
    environment: str | None = None

    @classmethod
    def of(cls, node: Node) -> Script | None:
        """Build from a validated node, as `Sweep.of` does; None if the node is empty."""
        return cls(**_known(cls, node)) if node else None

    @property
    def shown_name(self) -> str:
        """Display name: its path, or its command if it has no path."""
        return self.path or exact.shown(str(self.command))


NO_TRACKER = "none"
"""No tracker: runs are kept only in their run directories."""


@dataclass(frozen=True)
class Tracking:
    """The tracker that displays the runs (`conf/tracking/`)."""

    kind: Annotated[str, TRACKERS]
    uri: str | None = None
    wait: bool = False
    system: bool = False
    system_every_s: Annotated[float, Range(at_least=1)] = 10

    @classmethod
    def of(cls, node: Node) -> Tracking:
        """Build from a validated node, as `Compute.of` does."""
        return cls(**{"kind": NO_TRACKER, **_resolved_fields(cls, node)})


@dataclass(init=False, repr=False, eq=False)
class Root:
    """The keys at the top of a configuration (`conf/config.yaml`)."""

    name: str
    datastore: Component
    trainer: Trainer
    compute: Compute
    tracking: Tracking
    dataset: Component | None = None
    model: Component | None = None
    script: Script | None = None
    sweep: Sweep = field(default_factory=Sweep)
    task: Annotated[str, TASKS] = "fit"
    from_: str | None = None
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 42
    tags: list[str] | dict[str, Any] | None = None
    notes: str = ""
    report: Literal["auto", "all", "none"] = "auto"
    export: list[Literal["pkl"]] = field(default_factory=list)
    predictions: Literal["csv", "parquet"] = "csv"
    trusted: list[str] = field(default_factory=list)
    callbacks: dict[str, Component | None] | None = None
    logger: dict[str, Component | None] | None = None


KEYS = frozenset({*(f.name for f in fields(Root) if f.name != "from_"), "from"})
"""Keys allowed at the top level of a configuration."""
OPEN = "vars"
"""The top-level node for the user's own values, to be used in interpolations."""


@dataclass(frozen=True, eq=False)
class Config:
    """A configuration with typed parts.

    It is one that `validation.validate` returned, the config of a record, or the groups of either that the code reads.
    Each part is parsed on first access, so an unset environment variable is an error only for code that needs it, and a
    group may be missing. Keys that the config's version did not have yet get their defaults; keys of later versions are
    ignored.
    """

    raw: Node
    """The mapping that is signed and that records hold."""

    @property
    def task(self) -> str:
        return str(self.raw.get("task", Root.task))

    @property
    def name(self) -> str:
        return str(self.raw.get("name", ""))

    @property
    def seed(self) -> int:
        return int(self.raw.get("seed", Root.seed))

    @property
    def report(self) -> str:
        return str(self.raw.get("report", Root.report))

    @property
    def predictions(self) -> str:
        return str(self.raw.get("predictions", Root.predictions))

    @property
    def export(self) -> list[str]:
        return list(self.raw.get("export") or ())

    @property
    def trusted(self) -> list[str]:
        return list(self.raw.get("trusted") or ())

    @cached_property
    def compute(self) -> Compute:
        return Compute.of(self._node("compute"))

    @property
    def environment(self) -> Variables:
        """The run's environment variables. Unlike `compute`, this resolves no references."""
        return self._node("compute").get("environment") or {}

    @cached_property
    def trainer(self) -> Trainer:
        return Trainer.of(self._node("trainer"))

    @cached_property
    def tracking(self) -> Tracking:
        return Tracking.of(self._node("tracking"))

    @property
    def tracker(self) -> str:
        """The tracker's kind. Unlike `tracking`, this resolves no references."""
        return str(self._node("tracking").get("kind", NO_TRACKER))

    @property
    def measured_every_s(self) -> float | None:
        """How often a run's supervisor measures the resources in use, seconds; None: never. Resolves no references."""
        node = self._node("tracking")
        return float(node.get("system_every_s", Tracking.system_every_s)) if node.get("system") else None

    @cached_property
    def sweep(self) -> Sweep:
        return Sweep.of(self._node("sweep"))

    @cached_property
    def script(self) -> Script | None:
        """The script; None if the task runs none."""
        return Script.of(self._node("script"))

    @property
    def resumed(self) -> Resumed | None:
        """The run that training resumes from, if any."""
        return Resumed.of(self._node("trainer"))

    @property
    def source(self) -> Source | None:
        """The run that this run scores, if any."""
        return Source.of(self.raw.get("from"))

    @property
    def scored(self) -> Source:
        """The run that this run scores.

        Raises:
            ConfigError: it scores none.
        """
        if (source := self.source) is None:
            raise ConfigError(f"task={self.task} needs the run whose model it takes: from=<run id>")
        return source

    @property
    def dataset(self) -> Node:
        """Empty if the task reads no data set."""
        return self._node("dataset")

    @property
    def model(self) -> Node:
        """Empty if the task has no model."""
        return self._node("model")

    @cached_property
    def dataset_settings(self) -> DatasetSettings:
        """What labrun itself does with the data set, which has no loaders of its own."""
        return DatasetSettings.of(self.dataset)

    @cached_property
    def pipeline_settings(self) -> PipelineSettings:
        """How the model, a pipeline, is cross-validated."""
        return PipelineSettings.of(self.model)

    @property
    def datastore(self) -> Node:
        return self._node("datastore")

    @property
    def datastores(self) -> Mapping[str, Node]:
        """The datastores that mounts refer to by name."""
        return self._node("datastores")

    @property
    def callbacks(self) -> Node:
        return self._node("callbacks")

    @property
    def logger(self) -> Node:
        return self._node("logger")

    @property
    def has_loaders(self) -> bool:
        """Whether the data set has its own loaders."""
        return has_loaders(self.dataset)

    def _node(self, key: str) -> Node:
        node = self.raw.get(key)
        return node if isinstance(node, Mapping) else {}


TARGETS: dict[str, type] = {
    "labrun.data.readers.Mnist": Dataset,
    "labrun.data.readers.FashionMnist": Dataset,
    "labrun.data.readers.Cifar10": Dataset,
    "labrun.data.readers.Digits": Digits,
    "labrun.data.readers.ImageFolder": ImageFolder,
    "labrun.data.readers.Npz": Npz,
    "labrun.data.readers.Csv": Csv,
    "labrun.data.readers.GetData": GetData,
    DATASETS: TorchDatasets,
    "labrun.models.logistic_regression.logistic_regression": LogisticRegression,
    "labrun.models.pipeline.pipeline": Pipeline,
    "labrun.models.pipeline.ensemble": Ensemble,
    "labrun.models.mnist_dnn.MnistDNN": MnistDNN,
    "labrun.models.cifar10_cnn.Cifar10CNN": Cifar10CNN,
}
"""labrun's own targets, each with the class that describes its keys."""

DATASTORES: dict[str, type] = {
    LOCAL_DATASTORE: Datastore,
    "adlfs.AzureBlobFileSystem": AzureBlob,
    "s3fs.S3FileSystem": S3,
    "fsspec.implementations.sftp.SFTPFileSystem": Sftp,
    "fsspec.implementations.http.HTTPFileSystem": Http,
}
"""Datastore targets that have a schema. Any other fsspec file system is accepted, with its own arguments."""


def has_loaders(dataset: Node | None) -> bool:
    """Whether a data set has its own batch loaders, and so is not read into arrays."""
    target = str((dataset or {}).get("_target_"))
    return target == DATASETS or (not target.startswith("labrun.") and targets.is_data_module(target))


def is_estimator(target: str) -> bool:
    """Whether a model's `_target_` is a scikit-learn estimator, as far as the source code shows."""
    if TARGETS.get(target) in (LogisticRegression, Pipeline, Ensemble):
        return True
    return any(name.partition(".")[0] == "sklearn" for name in targets.ancestors(target))


def datastore_target(node: Node) -> str:
    """Return the `_target_` of a `datastore` node, under its current name."""
    target = str(node.get("_target_", LOCAL_DATASTORE))
    return FORMER_DATASTORES.get(target, target)


def is_local_datastore(node: Node) -> bool:
    """Whether a `datastore` node is a local folder."""
    return datastore_target(node) == LOCAL_DATASTORE
