"""Whether the accelerator can still be used: a thread that listens to NVIDIA's driver, and the rules it judges by.

Only what makes a device unusable counts: what an application did wrong, or what the device has mended itself, does not.
The first fault found stays: nothing that we could do mends a device while we hold it. Where there is no NVML, nothing
is known and nothing happens.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from ryzanstein_worker.telemetry.nvml import Gpu, GpuLostError, NoNvmlError, Nvml, Reading, Xid

LOOK_SECONDS: Final = 5.0
WAIT_SECONDS: Final = 1.0
"""For the next event; a stop takes as long at most."""
STALE_SECONDS: Final = 60.0
"""A driver that has told nothing for so long: then nothing is known."""

XIDS: Final = {
    46: "it stopped processing and timed out",
    48: "an uncorrectable memory error (double bit ECC)",
    54: "its auxiliary power is not connected",
    62: "its micro-controller halted",
    64: "its bad memory could not be remapped or retired",
    74: "an NVLink failed",
    79: "it has fallen off the bus",
    95: "an uncontained memory error",
    110: "a security fault",
    119: "its system processor (GSP) does not answer",
    120: "its system processor (GSP) failed",
    136: "its link training failed",
    140: "an unrecovered memory error (ECC)",
    143: "it cannot be initialized",
    158: "a fatal timeout",
}
"""Errors after which a GPU has to be reset, or more, before it can be used. From NVIDIA's "XID Errors", table "Xid
Catalog": immediate action RESET_GPU, RESTART_BM or CHECK_MECHANICALS, and 48 and 74, of which it says that a reset is
needed to clear them. Left out: what applications cause (13, 31, 43, 45), what was contained or mended (63, 92, 94,
121), and what is as often the application's as the device's or says itself that work may go on (109, 155, 156, 157):
where one of these does need a reset, the recovery action below says so."""

RECOVERY: Final = {
    1: "it must be reset",
    2: "its node must be restarted",
    3: "its links to other GPUs failed",
    5: "its NVLink domain must be recovered",
    6: "its bus must be reset",
    7: "its system must be restarted",
}
"""nvmlDeviceGpuRecoveryAction_t, what the driver itself says must be done. 0: nothing. 4, "drain and reset": running
work is safe and goes on (NVIDIA, "GPU Memory Error Management"), so it is no fault."""
_HARMLESS: Final = (0, 4)

_log = logging.getLogger(__name__)


def judge_xid(xid: Xid) -> str:
    """A sentence if this error makes the GPU unusable, else nothing."""
    if xid.number not in XIDS:
        return ""
    return f"{xid.gpu or 'A GPU'}: {XIDS[xid.number]} (XID {xid.number})."


def judge(gpu: Gpu, reading: Reading) -> str:
    """A sentence if the GPU cannot be used any more, else nothing.

    Uncorrected memory errors and pages to be retired count where memory cannot be remapped (before Ampere): there the
    bad page is used until the driver is loaded anew. Where rows can be remapped, the device takes the bad ones out of
    use while it works, and only a failure to do so counts.
    """
    if reading.lost:
        return f"{gpu}: it cannot be reached any more."
    action = reading.recovery_action
    if action is not None and action not in _HARMLESS:
        return f"{gpu}: {RECOVERY.get(action, 'it must be recovered')} (recovery action {action})."
    if reading.row_remap_failed:
        return f"{gpu}: a row of its memory is bad and cannot be remapped."
    if reading.retired_pages_pending:
        return f"{gpu}: pages of its memory are bad and in use until the driver restarts."
    if reading.row_remap_failed is None and reading.uncorrected_errors:
        return f"{gpu}: {reading.uncorrected_errors} uncorrected memory errors (ECC)."
    return ""


class AcceleratorWatch:
    """Watches from `start` to `stop`; both at most once. `fault` and `healthy` may be read from any thread."""

    def __init__(self, on_fault: Callable[[str], object] = str, nvml: Callable[[], Nvml] = Nvml) -> None:
        self.fault = ""
        self._on_fault = on_fault
        self._open = nvml
        self._looked_at: float | None = None
        self._stopping = threading.Event()
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="accelerator", daemon=True)

    @property
    def healthy(self) -> bool | None:
        """None where it is not known: no NVML, or a driver that does not answer."""
        if self.fault:
            return False
        looked_at = self._looked_at
        return True if looked_at is not None and time.monotonic() - looked_at < STALE_SECONDS else None

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. Does not wait for a driver that does not answer."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(2 * WAIT_SECONDS)

    def _run(self) -> None:
        try:
            nvml = self._open()
        except NoNvmlError as error:
            _log.info("accelerators are not watched: %s", error)
            return
        try:
            self._watch(nvml)
        except Exception:  # what watches must never end what works
            _log.exception("accelerators are not watched any more")
        finally:
            nvml.close()

    def _watch(self, nvml: Nvml) -> None:
        """Until a fault or the end. Each event is followed by a look: it may have changed what must be done."""
        _log.info("watching accelerators", extra={"gpus": [str(gpu) for gpu in nvml.gpus]})
        look_at = 0.0
        while not self._stopping.is_set() and not self.fault:
            if time.monotonic() >= look_at:
                self._look(nvml)
                look_at = time.monotonic() + LOOK_SECONDS
            if not self.fault:
                look_at = 0.0 if self._listen(nvml) else look_at

    def _look(self, nvml: Nvml) -> None:
        readings = [(gpu, nvml.read(gpu)) for gpu in nvml.gpus]
        self._looked_at = time.monotonic()
        self._found(judge(gpu, reading) for gpu, reading in readings)
        for gpu, reading in readings:
            if reading.row_remap_pending:
                self._warn(f"{gpu}: rows of its memory were taken out of use; reset it when it is free.")

    def _listen(self, nvml: Nvml) -> bool:
        """Wait a moment for an error; whether there was one."""
        try:
            xid = nvml.wait(WAIT_SECONDS)
        except GpuLostError:
            self._stopping.wait(0.1)  # a lost GPU lets no wait last
            return True
        except OSError as error:
            self._warn(f"Errors are looked for every {LOOK_SECONDS:g} s only: {error}.")
            self._stopping.wait(WAIT_SECONDS)
            return False
        if xid is None:
            return False
        _log.warning("the driver reports an error", extra={"gpu": str(xid.gpu), "xid": xid.number})
        self._found([judge_xid(xid)])
        return True

    def _found(self, sentences: Iterable[str]) -> None:
        fault = next(filter(None, sentences), "")
        if fault and not self.fault:
            self.fault = fault
            _log.error("the accelerator is at fault: %s", fault)
            self._on_fault(fault)

    def _warn(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            _log.warning(sentence)
