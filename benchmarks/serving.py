"""Latency and throughput of `episodic serve` on loopback, with hostile clients and at its stop.

    python -m benchmarks.serving ADAPTED FILE... [--clients 1 8 32] [--seconds 5]

Each client keeps one connection open and sends one file per request. All answers are compared with
those of the model to the last bit. The clients run on the same cores as the service. Hostile
clients send 1,000 malformed requests, and hold 100 connections with requests that never end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
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


def malform(content: bytes, rng: random.Random) -> bytes:
    """Return the bytes of a request that has no valid answer."""
    noise = rng.randbytes(rng.randint(1, 3000))
    head = "POST /predict HTTP/1.1\r\nHost: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"

    def post(body: bytes, kind: str = "image/png", host: str = "127.0.0.1") -> bytes:
        return head.format(host, kind, len(body)).encode() + body

    return rng.choice(
        [
            noise + b"\r\n\r\n",
            post(noise),
            post(b""),
            post(content[: rng.randint(1, len(content) - 20)]),
            post(content, host="elsewhere.example"),
            post(content, kind="application/x-noise"),
            post(noise, kind="application/json"),
            post(b'{"examples": ' + b"[" * 5000, kind="application/json"),
            post(json.dumps({"examples": ["" for _ in range(500)]}).encode(), "application/json"),
            post(json.dumps({"examples": [noise.hex()]}).encode(), "application/json"),
            post(b'{"examples": [1], "coverage": NaN}', "application/json"),
            head.format("127.0.0.1", "image/png", 10**12).encode(),
            head.format("127.0.0.1", "image/png", "many").encode(),
            b"GET /" + noise.hex().encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"DELETE /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        ]
    )


async def send_malformed(port: int, content: bytes, requests: int) -> Counter[str]:
    """Send malformed requests one after the other, and count the statuses of the answers."""
    rng, statuses = random.Random(0), Counter[str]()  # noqa: S311 - not for secrets
    for _ in range(requests):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(malform(content, rng))
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(1 << 16), 20)
            statuses[answer.split(b" ", 2)[1].decode() if answer else "closed"] += 1
        except ConnectionError:
            statuses["closed"] += 1
        except TimeoutError:
            statuses["no answer"] += 1
        finally:
            writer.close()
    return statuses


async def hold_connections(port: int, connections: int, end: float) -> None:
    """Keep connections open whose requests arrive byte by byte and never end."""
    writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(connections)]
    for i, writer in enumerate(writers):
        length = b"Content-Length: 1000\r\n\r\n" if i % 2 else b""  # half of them in the header
        writer.write(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n" + length)
    while time.perf_counter() < end:
        for writer in writers:
            if not writer.is_closing():
                writer.write(b"x")
        await asyncio.sleep(0.5)
    for writer in writers:
        writer.close()


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
    end = time.perf_counter() + args.seconds
    holding = asyncio.create_task(hold_connections(port, 100, end))
    sending = asyncio.create_task(send_malformed(port, files[0], 1000))
    load = await run_clients(port, files, answers, 8, args.seconds)
    statuses = await sending
    await holding
    p50, p95 = 1e3 * np.percentile(load.seconds, [50, 95])
    print(
        f"8 clients beside 100 slow ones and 1,000 malformed requests: p50 {p50:.1f} ms, p95"
        f" {p95:.1f} ms, {load.wrong} wrong, {load.lost} lost; answers to malformed requests:"
        f" {', '.join(f'{status} {count}' for status, count in sorted(statuses.items()))}"
    )
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
