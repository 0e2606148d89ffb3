"""The harness loop against its peers and the floor, interleaved in one run: medians and ratios.

python benches/harness_loop.py [--rounds N] [--count N] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastjob import CAPTURE, DEVNULL, Job

HERE = Path(__file__).parent
IN_FLIGHT = (1, 8, 64)
# (seconds per child, CPU seconds per child of this process)
Measure = tuple[float, float]


def build(cache: Path) -> tuple[str, str]:
    """The floor and the child without a C library."""
    floor, tiny = str(cache / "floor"), str(cache / "tiny")
    subprocess.run(["cc", "-O2", "-o", floor, HERE / "floor.c"], check=True)
    flags = ["-O2", "-static", "-nostdlib", "-fno-stack-protector", "-fcf-protection=none"]
    subprocess.run(["cc", *flags, "-o", tiny, HERE / "tiny.c"], check=True)
    return floor, tiny


def own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(run: Callable[[], int], count: int) -> Measure:
    wall, cpu = time.perf_counter(), own_cpu()
    assert run() == count
    return (time.perf_counter() - wall) / count, (own_cpu() - cpu) / count


def by_map(argv: list[str], in_flight: int, capture: bool, count: int) -> Measure:
    with Job() as job:
        list(job.map([argv] * 8, concurrency=in_flight))
        stream = CAPTURE if capture else DEVNULL
        todo = (argv for _ in range(count))
        with job.map(todo, concurrency=in_flight, stdout=stream, stderr=stream) as results:
            before = supervisor_cpu(job)
            # All, but not the end of the iteration: with that the slots end, and what they have used is lost.
            wall, cpu = timed(lambda: sum(next(results).returncode == 0 for _ in range(count)), count)
            return wall, cpu + (supervisor_cpu(job) - before) / count


def supervisor_cpu(job: Job) -> float:
    """CPU seconds of the job's supervisors that live.

    From each one's CPU clock, not from /proc/PID/stat: that counts whole ticks of 10 ms for each process, and most of
    64 supervisors use less than one.
    """
    total = 0.0
    todo = [job.supervisor_pid]
    while todo:
        pid = todo.pop()
        try:
            name = Path(f"/proc/{pid}/comm").read_text()
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if name.startswith("fastjob-super"):
                # What clock_getcpuclockid(3) makes of a pid.
                total += time.clock_gettime((~pid << 3) | 2)
                todo += map(int, children)
        except OSError:
            continue
    return total


def run_one(argv: list[str], capture: bool) -> int:
    stream = subprocess.PIPE if capture else subprocess.DEVNULL
    return subprocess.run(argv, stdout=stream, stderr=stream).returncode


def by_thread_pool(argv: list[str], in_flight: int, capture: bool, count: int) -> Measure:
    with ThreadPoolExecutor(in_flight) as pool:

        def everything() -> int:
            return sum(code == 0 for code in pool.map(lambda _: run_one(argv, capture), range(count)))

        return timed(everything, count)


def by_subprocess(argv: list[str], in_flight: int, capture: bool, count: int) -> Measure:
    return timed(lambda: sum(run_one(argv, capture) == 0 for _ in range(count)), count)


def by_asyncio(argv: list[str], in_flight: int, capture: bool, count: int) -> Measure:
    stream = subprocess.PIPE if capture else subprocess.DEVNULL

    async def everything() -> int:
        gate = asyncio.Semaphore(in_flight)

        async def one() -> bool:
            async with gate:
                process = await asyncio.create_subprocess_exec(*argv, stdout=stream, stderr=stream)
                await process.communicate()
                return process.returncode == 0

        return sum(await asyncio.gather(*(one() for _ in range(count))))

    return timed(lambda: asyncio.run(everything()), count)


PEERS: dict[str, Callable[[list[str], int, bool, int], Measure]] = {
    "fastjob map": by_map,
    "subprocess + threads": by_thread_pool,
    "subprocess.run": by_subprocess,
    "asyncio": by_asyncio,
}


def measure(options: argparse.Namespace, floor: str, tiny: str) -> list[dict[str, object]]:
    cases = [
        ("tiny", [tiny], False),
        ("true", ["/bin/true"], False),
        ("one line captured", [tiny, "x"], True),
    ]
    found: dict[tuple[str, int, str], list[Measure]] = {}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        for name, argv, capture in cases:
            for in_flight in IN_FLIGHT:
                command = [floor, str(options.count), str(in_flight), str(int(capture)), *argv]
                told = subprocess.run(
                    command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
                ).stdout
                wall, cpu = map(float, told.split()[-2:])
                found.setdefault((name, in_flight, "floor"), []).append((wall / 1e6, cpu / 1e6))
                for peer, run in PEERS.items():
                    if peer == "subprocess.run" and in_flight != 1:
                        continue
                    found.setdefault((name, in_flight, peer), []).append(
                        run(argv, in_flight, capture, options.count)
                    )
    return [
        {
            "case": name,
            "in flight": in_flight,
            "peer": peer,
            "us": statistics.median(wall for wall, _ in measures) * 1e6,
            "cpu us": statistics.median(cpu for _, cpu in measures) * 1e6,
        }
        for (name, in_flight, peer), measures in found.items()
    ]


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| child | in flight | how | us per child | x floor | x threads | own CPU us |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    value = {(row["case"], row["in flight"], row["peer"]): float(str(row["us"])) for row in rows}
    for row in rows:
        case, in_flight = row["case"], row["in flight"]
        us, floor = float(str(row["us"])), value[case, in_flight, "floor"]
        threads = value[case, in_flight, "subprocess + threads"]
        cpu = float(str(row["cpu us"]))
        lines.append(
            f"| {case} | {in_flight} | {row['peer']} | {us:.0f} | {us / floor:.2f} | {us / threads:.2f} | {cpu:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=400, help="children per cell and round (%(default)s)")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        rows = measure(options, *build(Path(cache)))
    print(f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs\n")
    print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
