"""A GPU's driver without a GPU: a shared library with NVML's ABI where there is a C compiler, else the same in Python.

Both say what the file in FAKE_NVML holds at the moment (see fake_nvml.c), so that a test can break a device while a
worker, in this process or another, watches it. `install` takes effect for the whole process.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ryzanstein_worker.telemetry import nvml

SOURCE = Path(__file__).with_suffix(".c")
SUCCESS, NOT_SUPPORTED, NO_PERMISSION, TIMEOUT, LOST, RESET_REQUIRED = 0, 3, 4, 10, 15, 16
XID_CRITICAL_ERROR = 0x8


class Driver:
    """What the fake says from now on. Keys are those of fake_nvml.c, with "_" for "."."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, int] = {"count": 1}
        self._events = 0
        self.set()

    def set(self, **values: int) -> None:
        """Say this from now on."""
        self._values |= {name.replace("_", ".", 1) if name.startswith("gpu") else name: n for name, n in values.items()}
        fresh = self._path.with_suffix(".new")
        fresh.write_text("".join(f"{name} {value}\n" for name, value in self._values.items()))
        fresh.replace(self._path)

    def report(self, gpu: int, xid: int) -> None:
        """The driver reports an error once."""
        self._events += 1
        self._values |= {"event": self._events, "event.gpu": gpu, "event.xid": xid}
        self.set()


def install() -> str:
    """Put the fake in NVML's place: what it is, "library" or "module"."""
    compiler = shutil.which("cc")
    if compiler is None:
        sys.modules["pynvml"] = _module()
        nvml.LIBRARY = "libc.so.6"  # type: ignore[misc]  # some library that there is
        return "module"
    folder = Path(tempfile.gettempdir()) / f"ryzanstein-fake-nvml-{os.getuid()}-{int(SOURCE.stat().st_mtime_ns)}"
    library = folder / nvml.LIBRARY
    if not library.exists():
        folder.mkdir(exist_ok=True)
        built = folder / f"{os.getpid()}.so"
        command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", f"-Wl,-soname,{nvml.LIBRARY}", "-o", built]
        subprocess.run([*command, SOURCE], check=True, timeout=60)
        built.replace(library)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)  # found by its name from now on, whoever loads it
    return "library"


def _number(key: str) -> int:
    found = -1
    for line in Path(os.environ["FAKE_NVML"]).read_text().splitlines():
        name, _, value = line.partition(" ")
        found = int(value) if name == key else found
    return found


def _module() -> types.ModuleType:
    """What is used of nvidia-ml-py's module."""

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"error {value}")
            self.value = value

    def check(result: int) -> None:
        if result > 0:
            raise NVMLError(result)

    def begin(gpu: int) -> None:
        time.sleep(max(0, _number("slow_ms")) / 1000)
        check(LOST if _number(f"gpu{gpu}.lost") == 1 else _number("error"))

    def told(handle: Any, what: str) -> int:
        begin(handle.value - 1)
        value = _number(f"gpu{handle.value - 1}.{what}")
        check(NOT_SUPPORTED if value < 0 else 0)
        return value

    def handle_by_index(index: int) -> Any:
        check(NO_PERMISSION if _number(f"gpu{index}.foreign") == 1 else 0)
        check(LOST if _number(f"gpu{index}.lost") == 1 else 0)
        return ctypes.c_void_p(index + 1)

    def field_values(handle: Any, fields: list[int]) -> list[Any]:
        begin(handle.value - 1)
        value = _number(f"gpu{handle.value - 1}.recovery")
        held = types.SimpleNamespace(uiVal=max(0, value))
        return [types.SimpleNamespace(nvmlReturn=0 if value >= 0 else NOT_SUPPORTED, value=held)]

    def remapped_rows(handle: Any) -> tuple[int, ...]:
        told(handle, "remaps")
        gpu = handle.value - 1
        return 0, 0, int(_number(f"gpu{gpu}.remap_pending") == 1), int(_number(f"gpu{gpu}.remap_failed") == 1)

    reported = [0]

    def event_set_create() -> set[int]:
        reported[0] = 0
        return set()

    def wait(events: set[int], milliseconds: int) -> Any:
        for _ in range(0, milliseconds, 10):
            check(_number("wait_error"))
            serial, gpu = _number("event"), _number("event.gpu")
            if serial > reported[0] and gpu in events:
                reported[0] = serial
                device = ctypes.c_void_p(gpu + 1)
                return types.SimpleNamespace(
                    device=device, eventType=XID_CRITICAL_ERROR, eventData=_number("event.xid")
                )
            time.sleep(0.01)
        raise NVMLError(TIMEOUT)

    functions: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: check(_number("init_error")),
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: _number("count"),
        "nvmlDeviceGetHandleByIndex": handle_by_index,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle.value - 1}",
        "nvmlDeviceGetFieldValues": field_values,
        "nvmlDeviceGetRemappedRows": remapped_rows,
        "nvmlDeviceGetRetiredPagesPendingStatus": lambda handle: told(handle, "pages_pending"),
        "nvmlDeviceGetTotalEccErrors": lambda handle, kind, counter: told(handle, "uncorrected"),
        "nvmlDeviceGetSupportedEventTypes": lambda handle: 0 if _number("no_events") == 1 else XID_CRITICAL_ERROR,
        "nvmlDeviceRegisterEvents": lambda handle, kinds, events: events.add(handle.value - 1),
        "nvmlEventSetCreate": event_set_create,
        "nvmlEventSetWait_v2": wait,
    }
    module = types.ModuleType("pynvml")
    module.__dict__.update(functions, NVMLError=NVMLError, NVML_SUCCESS=SUCCESS, NVML_ERROR_TIMEOUT=TIMEOUT)
    module.__dict__.update(NVML_ERROR_GPU_IS_LOST=LOST, NVML_ERROR_RESET_REQUIRED=RESET_REQUIRED)
    module.__dict__.update(NVML_MEMORY_ERROR_TYPE_UNCORRECTED=1, NVML_VOLATILE_ECC=0)
    module.__dict__.update(nvmlEventTypeXidCriticalError=XID_CRITICAL_ERROR, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION=230)
    return module
