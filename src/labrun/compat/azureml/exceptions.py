"""The errors that scripts catch by name."""

from __future__ import annotations


class AzureMLException(Exception):  # noqa: N818 (the SDK's own name)
    """Root of the SDK's errors.

    Args:
        message: the error message.
        inner_exception: the cause.
        **kwargs: other arguments of the SDK's constructor; not kept.
    """

    def __init__(self, message: str = "", inner_exception: BaseException | None = None, **kwargs: object) -> None:
        super().__init__(message)
        self.message = message
        self.inner_exception = inner_exception


class NotInLabrun(AzureMLException):
    """A part of the SDK that labrun does not have; the message says what to do instead."""


class NoSuchMemberError(NotInLabrun, AttributeError):
    """Also an AttributeError, so that `hasattr` returns False."""


class NoSuchInputError(NotInLabrun, KeyError):
    """Also a KeyError, because inputs are looked up by name."""

    def __str__(self) -> str:
        return self.message


class UserErrorException(AzureMLException):
    """A name, an argument or a path of a call is wrong."""


class DatasetTimestampMissingError(UserErrorException):
    """Rows are selected by time, but no column is known to hold timestamps."""


class WebserviceException(AzureMLException):
    """The SDK's error for models and web services.

    Args:
        message: the error message.
        status_code: the service's status code; labrun has no services.
        **kwargs: other arguments of the SDK's constructor; not kept.
    """

    def __init__(self, message: str = "", status_code: int | None = None, **kwargs: object) -> None:
        super().__init__(message)
        self.status_code = status_code


class ModelNotFoundException(WebserviceException):
    """No such model is registered."""


class ModelNameException(WebserviceException, UserErrorException):
    """The model name is invalid."""


class ModelPathNotFoundException(WebserviceException, UserErrorException):
    """There is no file or folder to register as a model."""


class TrainingException(AzureMLException):
    """A run cannot be started or followed."""


class RunEnvironmentException(TrainingException):
    """The script asked for its run but does not belong to one."""


class ExperimentExecutionException(TrainingException):
    """A run failed to execute, or is no longer followed."""


class ExperimentException(AzureMLException):
    """Something is wrong with an experiment."""


class ProjectSystemException(AzureMLException):
    """No workspace's configuration was found."""


class ActivityFailedException(AzureMLException):
    """A run failed while a program waited for it.

    Args:
        message: the reason.
        error_details: the reason, under the SDK's name; default: the message.
    """

    def __init__(self, message: str = "", error_details: str = "", **kwargs: object) -> None:
        super().__init__(message)
        self.error_details = error_details or message


class ComputeTargetException(AzureMLException):
    """There is no such compute target."""
