"""The errors that scripts catch by name."""

from __future__ import annotations


class AzureMLException(Exception):  # noqa: N818 (the SDK's own name)
    """Root of the SDK's errors.

    Args:
        message: what is wrong.
        inner_exception: what it came from.
        **kwargs: whatever else the SDK's constructor takes; not kept.
    """

    def __init__(self, message: str = "", inner_exception: BaseException | None = None, **kwargs: object) -> None:
        super().__init__(message)
        self.message = message
        self.inner_exception = inner_exception


class NotInLabrun(AzureMLException):
    """A part of the SDK that labrun does not have; the message says what to do instead."""


class NoSuchMemberError(NotInLabrun, AttributeError):
    """Also an AttributeError, so that `hasattr` is answered."""


class NoSuchInputError(NotInLabrun, KeyError):
    """Also a KeyError: inputs are looked for by their names."""

    def __str__(self) -> str:
        return self.message


class UserErrorException(AzureMLException):
    """The call is wrong: a name, an argument, a path."""


class DatasetTimestampMissingError(UserErrorException):
    """Rows are asked for by their time, and no column is known to hold it."""


class WebserviceException(AzureMLException):
    """What the SDK raises for models, and for web services.

    Args:
        message: what is wrong.
        status_code: of the service that answered; labrun has none.
        **kwargs: whatever else the SDK's constructor takes; not kept.
    """

    def __init__(self, message: str = "", status_code: int | None = None, **kwargs: object) -> None:
        super().__init__(message)
        self.status_code = status_code


class ModelNotFoundException(WebserviceException):
    """No such model is registered."""


class ModelNameException(WebserviceException, UserErrorException):
    """A model cannot have this name."""


class ModelPathNotFoundException(WebserviceException, UserErrorException):
    """There is no file or folder to register as a model."""


class TrainingException(AzureMLException):
    """A run cannot be started, or not be followed."""


class RunEnvironmentException(TrainingException):
    """The script asked for the run that it belongs to, and there is none."""


class ExperimentExecutionException(TrainingException):
    """A run failed to execute, or is no longer followed."""


class ExperimentException(AzureMLException):
    """Something is wrong with an experiment."""


class ProjectSystemException(AzureMLException):
    """No workspace's configuration was found."""


class ActivityFailedException(AzureMLException):
    """A run that was waited for failed.

    Args:
        message: why.
        error_details: the same, under the SDK's name.
    """

    def __init__(self, message: str = "", error_details: str = "", **kwargs: object) -> None:
        super().__init__(message)
        self.error_details = error_details or message


class ComputeTargetException(AzureMLException):
    """There is no such compute target."""
