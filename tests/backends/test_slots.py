"""Assignment of slots, cores and GPUs to runs according to their requests."""

from __future__ import annotations

from labrun.backends.local.slots import Slot, Slots


def gpus(place: Slot | None) -> str:
    assert place is not None
    return place.environment["CUDA_VISIBLE_DEVICES"]


def test_each_run_gets_its_own_gpus() -> None:
    slots = Slots(10, gpus=["2", "5", "7"])
    first, second = slots.take(1, 1), slots.take(1, 2)
    assert (gpus(first), gpus(second)) == ("2", "5,7") and slots.take(1, 1) is None
    assert first is not None and second is not None
    slots.leave(second)
    assert gpus(slots.take(1, 1)) == "5" and slots.take(1, 2) is None
    slots.leave(first)
    assert gpus(slots.take(1, 2)) == "2,7"


def test_runs_that_share_a_gpu_are_spread() -> None:
    slots = Slots(10, gpus=["0", "1"], share=2)
    assert [gpus(slots.take(1, 1)) for _ in range(4)] == ["0", "1", "0", "1"] and slots.take(1, 1) is None
    assert slots.carries(1, 1) == 4 and slots.carries(1, 2) == 1 and slots.carries(1, 3) == 0


def test_a_run_with_several_gpus_shares_none_of_them() -> None:
    slots = Slots(10, gpus=["0", "1"], share=2)
    assert gpus(slots.take(1, 2)) == "0,1" and slots.take(1, 1) is None


def test_a_run_without_gpus_sees_the_same_devices_as_its_caller() -> None:
    place = Slots(2, gpus=["0"]).take(1, 0)
    assert place is not None and place.environment == {}


def test_cores_limit_runs_unless_a_number_of_runs_is_given() -> None:
    slots = Slots(10, cores=4)
    first = slots.take(3, 0)
    assert first is not None and slots.take(2, 0) is None and slots.take(1, 0) is not None
    assert (slots.carries(2, 0), slots.carries(8, 0)) == (2, 1)
    assert Slots(10).take(99, 0) is not None and Slots(1, cores=4).take(8, 0) is not None, "a single run always may"


def test_the_number_of_slots_limits_concurrent_runs() -> None:
    slots = Slots(2, cores=8)
    taken = [slots.take(1, 0) for _ in range(3)]
    assert taken[2] is None and taken[0] is not None
    slots.leave(taken[0])
    assert slots.take(1, 0) is not None
