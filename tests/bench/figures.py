#!/usr/bin/env python3
"""Measure a build: sizes, memory at rest, time to the first answer, many streams at once.

    python3 tests/bench/figures.py [BUILD] [STREAMS]        # `make figures`; defaults: build, 1000

Everything happens on this machine: the server from BUILD answers from its echo plugin, 20 ms a word.
"""

import asyncio
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time

build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build").resolve()
streams = int(sys.argv[2] if len(sys.argv) > 2 else "1000")
WORDS = 100
TICK = os.sysconf("SC_CLK_TCK")


def request(stream):
    text = " ".join(f"word{number}" for number in range(WORDS))
    body = json.dumps({"model": "echo", "stream": stream, "messages": [{"role": "user", "content": text}]})
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    ).encode()


def memory(pid):
    """Resident and peak resident memory in MiB."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return kib["VmRSS"] / 1024, kib["VmHWM"] / 1024


def cpu(pid):
    """Seconds of processor time so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def one(port, stream=True):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(stream))
    start = time.perf_counter()
    first = await reader.read(1)
    waited = time.perf_counter() - start
    rest = await reader.read()
    writer.close()
    assert first and (b"[DONE]" in rest or not stream), rest[:300]
    return waited


async def many(port):
    return sorted(await asyncio.gather(*(one(port) for _ in range(streams))))


def start(data):
    (data / "sigorest.toml").write_text("[provider.echo]\ndelay_ms = 20\n")
    command = [build / "sigoREST", "-http-port", "0", "-https-port", "0", "-q", "-data-dir", data]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def ready(server, data):
    while server.poll() is None:
        try:
            run = json.loads((data / "run.json").read_text())
            if run["pid"] == server.pid:
                return int(run["http"][0].rsplit(":", 1)[1])
        except (OSError, ValueError):
            time.sleep(0.0005)
    sys.exit("the server ended")


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    for file in sorted([build / "sigoREST", build / "sigoE", *(build / "plugins").glob("*.so")]):
        print(f"{file.name:14} {file.stat().st_size / 1e6:6.2f} MB")
    with tempfile.TemporaryDirectory() as directory:
        data = pathlib.Path(directory)
        server = start(data)  # Makes the certificate.
        ready(server, data)
        server.send_signal(signal.SIGTERM)
        server.wait()
        begun = time.perf_counter()
        server = start(data)
        try:
            port = ready(server, data)
            asyncio.run(one(port, stream=False))
            print(f"start to first answer   {(time.perf_counter() - begun) * 1000:.0f} ms")
            print(f"memory at rest          {memory(server.pid)[0]:.1f} MiB")
            before, begun = cpu(server.pid), time.perf_counter()
            waits = asyncio.run(many(port))
            used, took = cpu(server.pid) - before, time.perf_counter() - begun
            print(f"{streams} streams at once    {took:.2f} s for {streams * WORDS} words")
            print(f"  memory at its peak    {memory(server.pid)[1]:.1f} MiB")
            print(f"  processor time        {used:.2f} s, {used / streams / WORDS * 1e6:.1f} µs a word")
            print(f"  to the first byte     {waits[len(waits) // 2] * 1000:.0f} ms median, {waits[-1] * 1000:.0f} ms at most")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


main()
