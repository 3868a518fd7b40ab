"""What a figure must name: the machine and the versions it was taken on."""

import os
import platform
import subprocess
from pathlib import Path


def describe_machine() -> dict[str, str | int]:
    model = platform.processor()
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    governor = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=False)
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "governor": governor or "unknown",
        "virtual": "yes" if "hypervisor" in _read("/proc/cpuinfo") else "no",
        "compiler": compiler.stdout.splitlines()[0] if compiler.stdout else "unknown",
        "load_before": _read("/proc/loadavg").split(" ")[0],
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
