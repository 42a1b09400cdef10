"""Names that pickles of earlier versions in `.submitit` hold: the class of results, and the call of queued jobs."""

from labrun.errors import LabrunError
from labrun.submission.plain_app.job import Ended as Ended


def run_in_process(payload: bytes) -> Ended:
    """Refuse a job that was queued before labrun was upgraded: its payload names classes that have changed.

    Raises:
        LabrunError: always.
    """
    raise LabrunError("this job was queued by an earlier version of labrun; submit it again")
