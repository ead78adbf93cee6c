"""What NVIDIA's management library (NVML) tells of the GPUs that this process may use.

A thin edge around the library: readings and events, no judgement (that is accelerator.py's). Calls may block for as
long as the driver does, so they belong on a thread of their own. Nothing is imported where there is no such library.
"""

import ctypes
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

LIBRARY: Final = "libnvidia-ml.so.1"
_PERMILLE_OF_SECOND: Final = 1000


class NoNvmlError(Exception):
    """There is no NVML here, or no GPU to watch. Carries words."""


class GpuLostError(Exception):
    """The library says that a GPU cannot be reached any more (NVML_ERROR_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED)."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. index: in NVML's order, that of the PCI bus. handle: the library's; None where it gave none."""

    index: int
    uuid: str = ""
    handle: Any = None

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.uuid})" if self.uuid else f"GPU {self.index}"


@dataclass(frozen=True)
class Reading:
    """One GPU at one moment. None: the device or its driver does not tell."""

    lost: bool = False
    recovery_action: int | None = None  # nvmlDeviceGpuRecoveryAction_t
    row_remap_failed: bool | None = None  # None also where rows cannot be remapped: before Ampere
    row_remap_pending: bool | None = None
    retired_pages_pending: bool | None = None
    uncorrected_errors: int | None = None  # since the driver was loaded


@dataclass(frozen=True)
class Xid:
    """An error that the driver reported of a GPU; None for one that is not known here."""

    gpu: Gpu | None
    number: int


def is_visible(index: int, uuid: str, environ: Mapping[str, str]) -> bool:
    """Whether CUDA may use a GPU, by CUDA_VISIBLE_DEVICES: numbers are taken in the PCI bus' order.

    Of an entry that names a part of a GPU (MIG) the older form tells of which, the newer one does not: then all count.
    """
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return True
    for entry in (part.strip() for part in named.split(",")):
        if entry.startswith("MIG-"):
            whole = entry.removeprefix("MIG-").partition("/")[0]
            if not whole.startswith("GPU-") or whole == uuid:
                return True
        elif entry == str(index) or (entry.startswith("GPU-") and uuid.startswith(entry)):
            return True
        elif not entry.startswith("GPU-") and not entry.isdigit():
            break  # as CUDA has it: nothing behind an entry that is none
    return False


class Nvml:
    """The opened library. One thread at a time. Raises NoNvmlError where there is none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        try:
            ctypes.CDLL(LIBRARY)
        except OSError:
            raise NoNvmlError(f"there is no {LIBRARY}") from None
        try:
            import pynvml
        except ImportError:
            raise NoNvmlError("nvidia-ml-py is not installed") from None
        self._api: Any = pynvml
        self._lost = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NoNvmlError(f"NVML cannot be used: {error}") from None
        try:
            self.gpus = self._find(environ)
            self._events = self._register()
        except pynvml.NVMLError as error:
            self.close()
            raise NoNvmlError(f"NVML tells of no GPU: {error}") from None

    def read(self, gpu: Gpu) -> Reading:
        """How a GPU stands now. What the device cannot tell is left out."""
        if gpu.handle is None:
            return Reading(lost=True)
        api = self._api
        try:
            remapped = self._ask(api.nvmlDeviceGetRemappedRows, gpu.handle)
            pending = None if remapped else self._ask(api.nvmlDeviceGetRetiredPagesPendingStatus, gpu.handle)
            return Reading(
                recovery_action=self._recovery_action(gpu),
                row_remap_failed=bool(remapped[3]) if remapped else None,
                row_remap_pending=bool(remapped[2]) if remapped else None,
                retired_pages_pending=None if pending is None else bool(pending),
                uncorrected_errors=self._ask(
                    api.nvmlDeviceGetTotalEccErrors,
                    gpu.handle,
                    api.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                    api.NVML_VOLATILE_ECC,
                ),
            )
        except GpuLostError:
            return Reading(lost=True)

    def wait(self, seconds: float) -> Xid | None:
        """The next error that the driver reports, None if none came in time; at once where events cannot be had.

        Raises GpuLostError, and OSError where the wait fails for a reason that has nothing to do with a GPU.
        """
        if self._events is None:
            raise OSError("this driver reports no events")
        try:
            event = self._api.nvmlEventSetWait_v2(self._events, int(seconds * _PERMILLE_OF_SECOND))
        except self._api.NVMLError as error:
            if error.value == self._api.NVML_ERROR_TIMEOUT:
                return None
            if error.value in self._lost:
                raise GpuLostError from None
            raise OSError(f"NVML's events: {error}") from None
        if event.eventType != self._api.nvmlEventTypeXidCriticalError:
            return None
        at = _address(event.device)
        gpu = next((one for one in self.gpus if one.handle is not None and _address(one.handle) == at), None)
        return Xid(gpu, int(event.eventData))

    def close(self) -> None:
        """Let go of the library. What cannot be closed is left to the end of the process."""
        try:
            self._api.nvmlShutdown()
        except self._api.NVMLError:
            return

    def _find(self, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
        """The GPUs that are ours. One that is lost already has no handle; one that we may not use is another's."""
        found: list[Gpu] = []
        for index in range(self._api.nvmlDeviceGetCount()):
            try:
                handle = self._api.nvmlDeviceGetHandleByIndex(index)
                uuid = self._ask(self._api.nvmlDeviceGetUUID, handle) or ""
                gpu = Gpu(index, uuid.decode() if isinstance(uuid, bytes) else uuid, handle)
            except GpuLostError:
                gpu = Gpu(index)
            except self._api.NVMLError as error:
                if error.value not in self._lost:
                    continue
                gpu = Gpu(index)
            if is_visible(gpu.index, gpu.uuid, environ):
                found.append(gpu)
        if not found:
            raise NoNvmlError("no GPU is visible to this process")
        return tuple(found)

    def _register(self) -> Any:
        """A set of events of all GPUs that have them; None where none has."""
        api, kind = self._api, self._api.nvmlEventTypeXidCriticalError
        events, any_ = api.nvmlEventSetCreate(), False
        for gpu in self.gpus:
            try:
                if gpu.handle is not None and (self._ask(api.nvmlDeviceGetSupportedEventTypes, gpu.handle) or 0) & kind:
                    api.nvmlDeviceRegisterEvents(gpu.handle, kind, events)
                    any_ = True
            except (GpuLostError, api.NVMLError):
                continue  # seen by reading it
        return events if any_ else None

    def _recovery_action(self, gpu: Gpu) -> int | None:
        field = getattr(self._api, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", None)
        values = None if field is None else self._ask(self._api.nvmlDeviceGetFieldValues, gpu.handle, [field])
        if not values or values[0].nvmlReturn != self._api.NVML_SUCCESS:
            return None
        return int(values[0].value.uiVal)

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What the library answers; None where it does not. Raises GpuLostError."""
        try:
            return call(*arguments)
        except self._api.NVMLError as error:
            if error.value in self._lost:
                raise GpuLostError from None
            return None


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
