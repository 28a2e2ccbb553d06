"""Latency and throughput of `episodic serve` on loopback, and its stop under load.

    python -m benchmarks.serving ADAPTED FILE... [--clients 1 8 32] [--seconds 5]

Each client keeps one connection open and sends one file per request. All answers are compared with
those of the model to the last bit. The clients run on the same cores as the service.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import episodic


@dataclass
class Load:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    refused: int = 0


async def run_client(
    port: int, files: list[bytes], answers: list[list[float]], first: int, end: float, load: Load
) -> None:
    """Send requests until `end`, or until the service closes the connection after a response."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        load.refused += 1
        return
    index = first
    while time.perf_counter() < end:
        content = files[index % len(files)]
        start = time.perf_counter()
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n"
        try:
            writer.write(head.encode() + b"Content-Type: image/png\r\n\r\n" + content)
            header = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(header.split("content-length:")[1].split("\r\n")[0])
            answer = json.loads(await reader.readexactly(length))
        except (ConnectionError, asyncio.IncompleteReadError):
            load.lost += 1
            return
        load.seconds.append(time.perf_counter() - start)
        row = answer.get("predictions", [{"probabilities": {}}])[0]["probabilities"]
        load.wrong += list(row.values()) != answers[index % len(files)]
        if "connection: close" in header:
            break
        index += 1
    writer.close()


async def run_clients(
    port: int, files: list[bytes], answers: list[list[float]], clients: int, seconds: float
) -> Load:
    """Run all clients for a time."""
    load, end = Load(), time.perf_counter() + seconds
    await asyncio.gather(
        *(run_client(port, files, answers, 7 * i, end, load) for i in range(clients))
    )
    return load


def read_memory(process: int) -> int:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


async def measure(port: int, process: int, args: argparse.Namespace) -> None:
    """Print a row per number of clients, and then stop the service under load."""
    files = [path.read_bytes() for path in args.files]
    model = episodic.load_adapted(args.adapted)
    answers = [model.predict_proba([content])[0].tolist() for content in files]
    await run_clients(port, files, answers, 1, 1)
    print(f"memory {read_memory(process)} MB, load {os.getloadavg()[0]:.1f}")
    print("| clients | p50, ms | p95, ms | requests per second | wrong | lost |")
    print("|---|---|---|---|---|---|")
    for clients in args.clients:
        load = await run_clients(port, files, answers, clients, args.seconds)
        p50, p95 = 1e3 * np.percentile(load.seconds, [50, 95])
        rate = len(load.seconds) / args.seconds
        print(f"| {clients} | {p50:.1f} | {p95:.1f} | {rate:.0f} | {load.wrong} | {load.lost} |")
    print(f"memory {read_memory(process)} MB, load {os.getloadavg()[0]:.1f}")
    running = asyncio.create_task(run_clients(port, files, answers, args.clients[-1], 20))
    await asyncio.sleep(1)
    os.kill(process, signal.SIGTERM)
    load = await running
    print(
        f"SIGTERM with {args.clients[-1]} clients: {len(load.seconds)} answers, {load.wrong} wrong,"
        f" {load.lost} lost, {load.refused} refused"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapted", type=Path, help="folder that `episodic adapt` wrote")
    parser.add_argument("files", type=Path, nargs="+", help="images to classify")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per row")
    args = parser.parse_args()
    command = [sys.executable, "-m", "episodic", "serve", str(args.adapted), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline() if server.stdout else ""
        port = int(address.split("(")[0].rsplit(":", 1)[1])
        asyncio.run(measure(port, server.pid, args))
        print(f"exit code {server.wait(40)}")


if __name__ == "__main__":
    main()
