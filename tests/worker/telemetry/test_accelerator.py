"""A GPU that can no longer be used is told of; one that an application misused, or that mended itself, is not."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import fake_nvml
from fake_nvml import LOST, NOT_SUPPORTED, RESET_REQUIRED, Driver
from processes import wait_until
from ryzanstein_worker.telemetry import accelerator, nvml
from ryzanstein_worker.telemetry.accelerator import XIDS, AcceleratorWatch
from ryzanstein_worker.telemetry.nvml import Gpu, NoNvmlError, Nvml, Reading, is_visible

GIVE_UP_SECONDS = 30.0
"""For what takes milliseconds: how long another machine may stand still."""


@pytest.fixture(scope="module", autouse=True)
def installed() -> str:
    """The library, or where there is no compiler the module, in the place of NVIDIA's."""
    return fake_nvml.install()


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setenv("FAKE_NVML", str(tmp_path / "driver"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(accelerator, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(accelerator, "WAIT_SECONDS", 0.05)
    return Driver(tmp_path / "driver")


@contextmanager
def watching(told: list[str] | None = None) -> Iterator[AcceleratorWatch]:
    """A watch that has looked once, unless it cannot."""
    watch = AcceleratorWatch((told if told is not None else []).append)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
        watch._thread.join(GIVE_UP_SECONDS)  # `stop` itself waits a tenth of a second here, no more
        assert not watch._thread.is_alive()


def until(watch: AcceleratorWatch, healthy: bool | None) -> None:
    wait_until(lambda: watch.healthy is healthy, GIVE_UP_SECONDS, f"the watch says {healthy}")


def look_again(watch: AcceleratorWatch) -> None:
    """Wait until the watch has looked, from the first device on, and listened."""
    for _ in range(2):
        before = watch._looked_at
        wait_until(lambda before=before: watch._looked_at != before, GIVE_UP_SECONDS, "a look")  # type: ignore[misc]  # bound now


FAULTS: list[tuple[dict[str, int], str]] = [
    ({"gpu1_lost": 1}, "GPU 1 (GPU-1): it cannot be reached any more."),
    ({"error": RESET_REQUIRED}, "GPU 0 (GPU-0): it cannot be reached any more."),
    ({"gpu0_recovery": 1}, "GPU 0 (GPU-0): it must be reset (recovery action 1)."),
    ({"gpu1_recovery": 2}, "GPU 1 (GPU-1): its node must be restarted (recovery action 2)."),
    ({"gpu0_recovery": 99}, "GPU 0 (GPU-0): it must be recovered (recovery action 99)."),
    ({"gpu0_remaps": 1, "gpu0_remap_failed": 1}, "GPU 0 (GPU-0): a row of its memory is bad and cannot be remapped."),
    ({"gpu0_pages_pending": 1}, "GPU 0 (GPU-0): pages of its memory are bad and in use until the driver restarts."),
    ({"gpu0_uncorrected": 3}, "GPU 0 (GPU-0): 3 uncorrected memory errors (ECC)."),
    ({"wait_error": LOST, "gpu0_lost": 1}, "GPU 0 (GPU-0): it cannot be reached any more."),
]  # fmt: skip


@pytest.mark.parametrize(("broken", "sentence"), FAULTS)
def test_a_device_that_cannot_be_used_is_told_of(driver: Driver, broken: dict[str, int], sentence: str) -> None:
    driver.set(count=2)
    told: list[str] = []
    with watching(told) as watch:
        until(watch, True)
        assert watch.fault == ""
        driver.set(**broken)
        until(watch, False)
        assert watch.fault == sentence
        driver.set(count=2, gpu0_lost=0, gpu1_lost=0)
        assert watch.fault == sentence, "it stays: a device is not mended while it is held"
    assert told == [sentence]


HARMLESS: list[dict[str, int]] = [
    {"gpu0_recovery": 0},
    {"gpu0_recovery": 4},  # work goes on; a reset is wanted some time
    {"gpu0_remaps": 1, "gpu0_remap_pending": 1, "gpu0_uncorrected": 5},  # contained, and taken out of use
    {"gpu0_uncorrected": 0, "gpu0_pages_pending": 0},
    {"error": NOT_SUPPORTED},
    {"error": 999},  # "unknown": no reason to take a device out of use
    {"wait_error": 999},
    {"no_events": 1},
    {"gpu1_foreign": 1, "gpu1_lost": 1},  # another's
]


@pytest.mark.parametrize("said", HARMLESS)
def test_a_device_that_can_be_used_is_left_in_peace(driver: Driver, said: dict[str, int]) -> None:
    driver.set(count=2, **said)
    with watching() as watch:
        until(watch, True)
        look_again(watch)
        assert (watch.healthy, watch.fault) == (True, "")


def test_errors_of_the_hardware_are_told_of_by_their_event_and_an_applications_are_not(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    def heard(xid: int) -> bool:
        return any(getattr(record, "xid", None) == xid for record in caplog.records)

    driver.set(count=2)
    with watching() as watch:
        until(watch, True)
        for harmless in (13, 31, 43, 45, 63, 68, 94, 109, 154, 999):
            assert harmless not in XIDS
            driver.report(1, harmless)
            wait_until(lambda harmless=harmless: heard(harmless), GIVE_UP_SECONDS, f"{harmless} is heard")  # type: ignore[misc]  # bound now
        assert watch.healthy is True
        driver.report(1, 79)
        until(watch, False)
        assert watch.fault == "GPU 1 (GPU-1): it has fallen off the bus (XID 79)."


def test_a_device_that_is_lost_before_the_start_is_told_of(driver: Driver) -> None:
    driver.set(count=2, gpu1_lost=1)
    with watching() as watch:
        until(watch, False)
        assert watch.fault == "GPU 1: it cannot be reached any more."


def test_a_slow_driver_is_no_fault(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "STALE_SECONDS", 0.3)
    with watching() as watch:
        until(watch, True)
        driver.set(slow_ms=150)  # of each call, so that a look takes most of a second
        until(watch, None)
        assert watch.fault == ""
        driver.set(slow_ms=0)
        until(watch, True)


def test_a_driver_that_does_not_answer_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "WAIT_SECONDS", 0.05)
    asked, answer = threading.Event(), threading.Event()

    class Stuck(Nvml):
        def __init__(self) -> None:
            self.gpus = (Gpu(0),)

        def read(self, gpu: Gpu) -> Reading:
            asked.set()
            answer.wait()
            return Reading()

        def close(self) -> None:
            """There is nothing to close."""

    watch = AcceleratorWatch(nvml=Stuck)
    watch.start()
    try:
        assert asked.wait(GIVE_UP_SECONDS)
        assert (watch.healthy, watch.fault) == (None, "")
        watch.stop()
        assert watch._thread.is_alive(), "it was still being answered"
    finally:
        answer.set()
        watch._thread.join(GIVE_UP_SECONDS)


@pytest.mark.parametrize("said", [{"init_error": 9}, {"count": 0}])
def test_without_a_driver_or_a_gpu_nothing_is_known_and_nothing_happens(driver: Driver, said: dict[str, int]) -> None:
    driver.set(**said)
    with pytest.raises(NoNvmlError):
        Nvml()
    with watching() as watch:
        watch._thread.join(GIVE_UP_SECONDS)
        assert not watch._thread.is_alive()
        assert (watch.healthy, watch.fault) == (None, "")


def test_without_the_library_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", "libno-such-thing.so.1")
    with pytest.raises(NoNvmlError, match=r"there is no libno-such-thing\.so\.1"):
        Nvml()


def test_what_breaks_the_watch_ends_the_watch_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Nvml):
        def __init__(self) -> None:
            self.gpus = ()

        def wait(self, seconds: float) -> None:
            raise RuntimeError("boom")

        def close(self) -> None:
            """There is nothing to close."""

    watch = AcceleratorWatch(nvml=Broken)
    watch.start()
    watch._thread.join(GIVE_UP_SECONDS)
    assert not watch._thread.is_alive()
    assert "accelerators are not watched any more" in caplog.text
    assert watch.fault == ""


@pytest.mark.parametrize(
    ("named", "visible"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("0,2", [0, 2]),
        ("GPU-b", [1]),
        ("0,no,2", [0]),
        ("MIG-GPU-c3/1/0", [2]),
        ("MIG-5f1e", [0, 1, 2]),
    ],
)
def test_only_the_gpus_that_cuda_may_use_count(named: str | None, visible: list[int]) -> None:
    environ = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    uuids = ["GPU-a1", "GPU-b2", "GPU-c3"]
    assert [index for index, uuid in enumerate(uuids) if is_visible(index, uuid, environ)] == visible
