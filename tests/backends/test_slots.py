"""Assignment of slots, cores and GPUs to runs according to their requests."""

from __future__ import annotations

from labrun.backends.local.slots import Slot, Slots


def gpus(place: Slot | None) -> str:
    assert place is not None
    return place.environment["CUDA_VISIBLE_DEVICES"]


def test_each_run_has_gpus_of_its_own() -> None:
    places = Slots(10, gpus=["2", "5", "7"])
    first, second = places.take(1, 1), places.take(1, 2)
    assert (gpus(first), gpus(second)) == ("2", "5,7") and places.take(1, 1) is None
    assert first is not None and second is not None
    places.leave(second)
    assert gpus(places.take(1, 1)) == "5" and places.take(1, 2) is None
    places.leave(first)
    assert gpus(places.take(1, 2)) == "2,7"


def test_runs_that_share_a_gpu_are_spread() -> None:
    places = Slots(10, gpus=["0", "1"], share=2)
    assert [gpus(places.take(1, 1)) for _ in range(4)] == ["0", "1", "0", "1"] and places.take(1, 1) is None
    assert places.carries(1, 1) == 4 and places.carries(1, 2) == 1 and places.carries(1, 3) == 0


def test_a_run_of_several_gpus_shares_none_of_them() -> None:
    places = Slots(10, gpus=["0", "1"], share=2)
    assert gpus(places.take(1, 2)) == "0,1" and places.take(1, 1) is None


def test_a_run_that_needs_no_gpu_sees_what_the_caller_sees() -> None:
    place = Slots(2, gpus=["0"]).take(1, 0)
    assert place is not None and place.environment == {}


def test_cores_are_counted_unless_the_number_at_once_is_given() -> None:
    places = Slots(10, cores=4)
    first = places.take(3, 0)
    assert first is not None and places.take(2, 0) is None and places.take(1, 0) is not None
    assert (places.carries(2, 0), places.carries(8, 0)) == (2, 1)
    assert Slots(10).take(99, 0) is not None and Slots(1, cores=4).take(8, 0) is not None, "one alone always may"


def test_no_more_runs_at_once_than_there_are_places() -> None:
    places = Slots(2, cores=8)
    taken = [places.take(1, 0) for _ in range(3)]
    assert taken[2] is None and taken[0] is not None
    places.leave(taken[0])
    assert places.take(1, 0) is not None
